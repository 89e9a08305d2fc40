"""Every model there is, by the name that `--model` and reports use."""

from collections.abc import Callable
from functools import partial

from metacsr_jax.baselines import BASELINES
from metacsr_jax.baselines.bpr import bpr
from metacsr_jax.baselines.counting import counting
from metacsr_jax.baselines.csan import csan
from metacsr_jax.baselines.gru4rec import gru4rec
from metacsr_jax.baselines.lstm import lstm
from metacsr_jax.baselines.melu import melu
from metacsr_jax.baselines.metacf import metacf
from metacsr_jax.baselines.metacs import metacs_dnn, metacs_l
from metacsr_jax.baselines.sasrec import sasrec
from metacsr_jax.baselines.sml import sml
from metacsr_jax.config import Config
from metacsr_jax.metacsr import metacsr, pretrain
from metacsr_jax.model import Model
from metacsr_jax.protocol import Protocol

MODELS: dict[str, Callable[[Protocol, Config], Model]] = {
    "metacsr": metacsr,
    "bpr": bpr,
    "lstm": lstm,
    "csan": csan,
    "melu": melu,
    "metacs-l": metacs_l,
    "metacs-dnn": metacs_dnn,
    "sml": sml,
    "metacf-ngcf": metacf,
    "pretrain": pretrain,
    "gru4rec": gru4rec,
    "sasrec": sasrec,
    "sasrec-gbce": partial(sasrec, name="sasrec-gbce"),
    **{name: counting(name, make) for name, make in BASELINES.items()},
}
