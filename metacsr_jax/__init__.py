"""metaCSR in JAX: learning to learn a cold-start sequential recommender.

`fit` trains on a log into a work directory; `evaluate` ranks held-out cases; `recommend.load` serves users never seen.
"""

from metacsr_jax import recommend
from metacsr_jax.config import Config
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.data.readers import read
from metacsr_jax.evaluate import evaluate
from metacsr_jax.log import load_log
from metacsr_jax.presets import preset
from metacsr_jax.settings import override
from metacsr_jax.train import FitResult, fit
from metacsr_jax.version import __version__

__all__ = [
    "Config",
    "FitResult",
    "Interactions",
    "__version__",
    "evaluate",
    "fit",
    "load_log",
    "override",
    "preset",
    "read",
    "recommend",
]
