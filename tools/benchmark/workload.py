"""A training step of given sizes on a random log, without protocol and files.

Dimension key: F events, R users, I items.
"""

from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from metacsr_jax.cases import CaseBatch, case_batch
from metacsr_jax.config import Config
from metacsr_jax.graph import interaction_graph, make_inputs
from metacsr_jax.meta import MetaLearner, make_meta_learner
from metacsr_jax.models.metacsr import Network, make_network
from metacsr_jax.optimizer import make_optimizer
from metacsr_jax.parallel import everywhere, shardings
from metacsr_jax.step import ChunkFunction, TrainData, TrainState, init_state, make_chunk
from metacsr_jax.tasks import Samples, draw_tasks, make_histories, with_negatives

SKEW = 0.8  # popularity is rank ** -SKEW, about that of MovieLens-1M


class Sizes(NamedTuple):
    """Of the log.

    Attributes:
        users: R.
        items: I.
        edges: events drawn; the distinct (user, item) pairs among them are the graph's.
    """

    users: int = 4832
    items: int = 3533
    edges: int = 516_000


class Workload(NamedTuple):
    """Everything a training step needs.

    Attributes:
        config: of the step.
        sizes: of the log.
        network: the model.
        learner: its meta-learning.
        optimizer: of the outer step.
        data: on the device.
        chunk: (state, data, key) -> (state, reports), `train.chunk` outer steps a call; the state is donated.
        init: (key) -> a fresh state.
    """

    config: Config
    sizes: Sizes
    network: Network
    learner: MetaLearner
    optimizer: optax.GradientTransformation
    data: TrainData
    chunk: ChunkFunction
    init: "jax.stages.Wrapped"


def random_events(sizes: Sizes, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """CSR histories of a random log: every user has two events or more, items come by popularity.

    Returns:
        int64 offsets [R + 1] and int32 items [F].
    """
    rng = np.random.default_rng(seed)
    extra = max(sizes.edges - 2 * sizes.users, 0)
    count_R = 2 + np.bincount(rng.integers(0, sizes.users, extra), minlength=sizes.users)
    popularity_I = np.arange(1, sizes.items + 1) ** -SKEW
    cumulated_I = np.cumsum(popularity_I / popularity_I.sum())
    uniform_F = rng.random(int(count_R.sum()))
    item_F = np.minimum(np.searchsorted(cumulated_I, uniform_F), sizes.items - 1)
    return np.concatenate([[0], np.cumsum(count_R)]), item_F.astype(np.int32)


def make_workload(config: Config, sizes: Sizes, mesh: Mesh | None = None) -> Workload:
    """Builds log, graph and step; the arrays lie on every device of the mesh."""
    offset_R1, item_F = random_events(sizes, 0)
    user_F = np.repeat(np.arange(sizes.users), np.diff(offset_R1))
    graph = interaction_graph(user_F, item_F, sizes.users, sizes.items)
    inputs = make_inputs(graph, sizes.users, sizes.items)
    data: TrainData = jax.device_put(TrainData(make_histories(offset_R1, item_F), inputs))
    data = everywhere(data, mesh)
    network = make_network(config.model, sizes.users, sizes.items)
    learner = make_meta_learner(network, config.loss, config.meta)
    optimizer = make_optimizer(config.optimizer, config.train)
    chunk = make_chunk(network, learner, optimizer, config, sizes.items, pretrain=False)

    def init(key: jax.Array) -> TrainState:
        return init_state(network, learner, optimizer, data.inputs, key)

    placed = shardings(jax.eval_shape(init, jax.random.key(0)), mesh, config.model.tables)
    started = jax.jit(init, out_shardings=placed)
    return Workload(config, sizes, network, learner, optimizer, data, chunk, started)


def draw_batch(workload: Workload, key: jax.Array) -> tuple[Samples, Samples]:
    """A meta-batch with negatives, as a step draws it."""
    config, data = workload.config, workload.data
    task_key, support_key, query_key = jax.random.split(key, 3)
    support, query, support_user, query_user = draw_tasks(
        task_key, data.histories, config.tasks, config.model.max_length
    )

    def attach(key, samples, user):
        known, count = data.histories.known, config.loss.negatives
        return with_negatives(key, samples, user, known, workload.sizes.items, count)

    return attach(support_key, support, support_user), attach(query_key, query, query_user)


def new_users(workload: Workload, count: int, support: int, seed: int = 1) -> CaseBatch:
    """Users to be served: `support` + 1 events each, every one but the first a target of the support."""
    rng = np.random.default_rng(seed)
    offset_N1 = np.arange(count + 1, dtype=np.int64) * (support + 1)
    item_H = rng.integers(0, workload.sizes.items, int(offset_N1[-1])).astype(np.int32)
    return case_batch(offset_N1, item_H, workload.config.model.max_length, support)
