"""A strict session, and tiny random models, graphs and samples for the tests.

Dimension key: E events, R users in the graph, I items, D = dim, L = max_length, T tasks, K samples, N negatives.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import hypothesis
import jax
import numpy as np
import pytest

from metacsr_jax.config import Config, LossConfig, MetaConfig, ModelConfig
from metacsr_jax.graph import DiffusionInputs, dense_adjacency, interaction_graph
from metacsr_jax.meta import MetaLearner, make_meta_learner
from metacsr_jax.models.metacsr import Network, Params, make_network
from metacsr_jax.tasks import Samples

# Compiling takes far longer here than running: little is optimised, and programs are kept, also for subprocesses.
COMPILING = {
    "jax_compilation_cache_dir": str(Path(__file__).parents[1] / ".pytest_cache" / "xla"),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_disable_most_optimizations": True,
}
for name, value in COMPILING.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)
jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

NUM_USERS, NUM_ITEMS, FEATURES = 5, 8, 3


# XLA's older emitters compile these programs in half the time; a jaxlib without the flag would end the process.
OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    """Sets what workers inherit: XLA's flags, and the directory in which they share what takes long to train."""
    if hasattr(config, "workerinput"):
        return
    os.environ["METACSR_TESTS_DIRECTORY"] = tempfile.mkdtemp(prefix="metacsr-tests-")
    flags = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), OLD_EMITTERS]))
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    tried = subprocess.run(start, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True)
    if tried.returncode == 0:
        os.environ["XLA_FLAGS"] = flags


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["METACSR_TESTS_DIRECTORY"], ignore_errors=True)


class Tiny(NamedTuple):
    """A model small enough for loops, finite differences and dense Jacobians; every parameter is random, biases too."""

    config: Config
    num_users: int
    num_items: int
    user_E: np.ndarray
    item_E: np.ndarray
    inputs: DiffusionInputs
    network: Network
    learner: MetaLearner
    params: Params


def random_like(tree, seed: int, scale: float = 0.5):
    """A tree of the same shapes with normal entries, float32."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: np.float32(scale * generator.standard_normal(leaf.shape)), tree
    )


@pytest.fixture(scope="session")
def tiny():
    """Builds a `Tiny`; the last user and the last item of its graph are isolated, and one pair is repeated."""

    def build(seed=0, *, model=(), loss=(), meta=(), dense=False, features=False) -> Tiny:
        config = Config(
            model=dataclasses.replace(ModelConfig(dim=4, max_length=4), **dict(model)),
            loss=dataclasses.replace(LossConfig(negatives=3), **dict(loss)),
            meta=dataclasses.replace(MetaConfig(inner_rate=0.1), **dict(meta)),
        )
        generator = np.random.default_rng(seed)
        touched = np.arange(NUM_ITEMS - 1)
        user_E = np.concatenate(
            [touched % (NUM_USERS - 1), generator.integers(0, NUM_USERS - 1, 6)]
        )
        item_E = np.concatenate([touched, generator.integers(0, NUM_ITEMS - 1, 6)])
        user_E, item_E = np.append(user_E, user_E[0]), np.append(item_E, item_E[0])
        graph = interaction_graph(user_E, item_E, NUM_USERS, NUM_ITEMS)
        inputs = DiffusionInputs(
            graph,
            dense_adjacency(graph, NUM_USERS, NUM_ITEMS) if dense else None,
            np.float32(generator.standard_normal((NUM_ITEMS, FEATURES))) if features else None,
            np.float32(generator.standard_normal((NUM_USERS, FEATURES))) if features else None,
        )
        network = make_network(config.model, NUM_USERS, NUM_ITEMS)
        learner = make_meta_learner(network, config.loss, config.meta)
        shapes = jax.eval_shape(network.init, jax.random.key(0), inputs)
        params = learner.init(random_like(shapes, seed))
        return Tiny(config, NUM_USERS, NUM_ITEMS, user_E, item_E, inputs, network, learner, params)

    return build


@pytest.fixture(scope="session")
def random_samples():
    """Draws samples of any leading shape; lengths run from 0 to L and about a fifth is masked out."""

    def draw(seed, shape, length=4, negatives=3) -> Samples:
        generator = np.random.default_rng(seed)
        return Samples(
            generator.integers(0, NUM_ITEMS, (*shape, length)).astype(np.int32),
            generator.integers(0, length + 1, shape).astype(np.int32),
            generator.integers(0, NUM_ITEMS, shape).astype(np.int32),
            generator.random(shape) < 0.8,
            generator.integers(0, NUM_ITEMS, (*shape, negatives)).astype(np.int32),
        )

    return draw
