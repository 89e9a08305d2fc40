"""The interaction graph and aggregation over it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacsr_jax import graph as graph_module
from metacsr_jax.errors import DataError
from metacsr_jax.graph import (
    DiffusionInputs,
    aggregate_items,
    aggregate_users,
    dense_adjacency,
    interaction_graph,
)

# Users 0..3 (3 is isolated), items 0..4 (2 is isolated); the pair (1, 4) is there twice.
USER_E, ITEM_E = np.array([1, 0, 2, 1, 1, 0]), np.array([4, 0, 1, 0, 4, 3])
USERS_OF = [[0, 1], [2], [], [0], [1]]
ITEMS_OF = [[0, 3], [0, 4], [1], []]
AGGREGATE = {"mean": np.mean, "max": np.max, "sum": np.sum}


def both_paths():
    graph = interaction_graph(USER_E, ITEM_E, 4, 5)
    return [DiffusionInputs(graph, None), DiffusionInputs(graph, dense_adjacency(graph, 4, 5))]


def by_hand(vectors, neighbours, aggregator):
    rows = [
        AGGREGATE[aggregator](vectors[near], axis=0) if near else np.zeros(vectors.shape[1])
        for near in neighbours
    ]
    return np.array(rows)


def test_edges_by_hand():
    graph = interaction_graph(USER_E, ITEM_E, 4, 5)
    pairs = [(0, 0), (0, 3), (1, 0), (1, 4), (2, 1)]
    to_users = list(
        zip(graph.receivers[:5].tolist(), (graph.senders[:5] - 4).tolist(), strict=True)
    )
    to_items = list(
        zip(graph.senders[5:].tolist(), (graph.receivers[5:] - 4).tolist(), strict=True)
    )
    assert to_users == pairs
    assert sorted(to_items) == pairs
    assert (np.diff(graph.receivers[:5]) >= 0).all() and (np.diff(graph.receivers[5:]) >= 0).all()
    assert graph.nodes["degree"].tolist() == [2, 2, 1, 0, 2, 1, 0, 1, 1]
    assert graph.n_node.tolist() == [9] and graph.n_edge.tolist() == [10]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=30),
    st.randoms(use_true_random=False),
)
def test_order_and_repeats_of_events_do_not_matter(pairs, random):
    shuffled = pairs + pairs[: len(pairs) // 2]
    random.shuffle(shuffled)
    graphs = [
        interaction_graph(*np.array(events, np.int64).reshape(-1, 2).T, 6, 8)
        for events in (pairs, shuffled)
    ]
    jax.tree.map(np.testing.assert_array_equal, *graphs)
    assert graphs[0].senders.size == 2 * len(set(pairs))


@pytest.mark.parametrize(
    ("user", "item", "message"),
    [
        (-1, 0, "user code -1 at edge 1, expected 0 to 3"),
        (4, 0, "user code 4 at edge 1, expected 0 to 3"),
        (0, -1, "item code -1 at edge 1, expected 0 to 4"),
        (0, 5, "item code 5 at edge 1, expected 0 to 4"),
    ],
)
def test_codes_out_of_range_are_refused(user, item, message):
    with pytest.raises(DataError, match=message):
        interaction_graph(np.array([0, user, 1]), np.array([0, item, 1]), 4, 5)


def test_more_nodes_than_32_bits_are_refused():
    none = np.zeros(0, np.int64)
    with pytest.raises(DataError, match=f"{2**31} nodes"):
        interaction_graph(none, none, 2**31 - 1, 1)


def test_dense_matrix_and_its_limits(monkeypatch):
    graph = interaction_graph(USER_E, ITEM_E, 4, 5)
    expected = [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert dense_adjacency(graph, 4, 5).tolist() == expected
    monkeypatch.setattr(graph_module, "DENSE_SHARE", 0.251)  # 5 pairs in 20 cells are .25
    assert dense_adjacency(graph, 4, 5) is None
    monkeypatch.setattr(graph_module, "DENSE_SHARE", 0.25)
    monkeypatch.setattr(graph_module, "DENSE_CELLS", 20)
    assert dense_adjacency(graph, 4, 5) is not None
    monkeypatch.setattr(graph_module, "DENSE_CELLS", 19)
    assert dense_adjacency(graph, 4, 5) is None


@pytest.mark.parametrize("dense", [False, True], ids=["edges", "dense"])
@pytest.mark.parametrize("aggregator", ["mean", "max", "sum"])
def test_aggregates_by_hand(aggregator, dense):
    generator = np.random.default_rng(0)
    inputs = both_paths()[dense]
    user_RD = np.float32(
        generator.standard_normal((4, 3)) - 2
    )  # a maximum below 0: zeros stand out
    item_ID = np.float32(generator.standard_normal((5, 3)) - 2)
    to_item = aggregate_items(inputs, user_RD, 5, aggregator)
    to_user = aggregate_users(inputs, item_ID, 4, aggregator)
    np.testing.assert_allclose(to_item, by_hand(user_RD, USERS_OF, aggregator), rtol=1e-6)
    np.testing.assert_allclose(to_user, by_hand(item_ID, ITEMS_OF, aggregator), rtol=1e-6)
    assert not np.asarray(to_item)[2].any() and not np.asarray(to_user)[3].any()


@pytest.mark.parametrize("aggregator", ["mean", "sum"])
def test_dense_and_segment_paths_agree_in_value_and_gradient(aggregator):
    generator = np.random.default_rng(1)
    user_RD = np.float32(generator.standard_normal((4, 3)))
    item_ID = np.float32(generator.standard_normal((5, 3)))
    weight_ID = np.float32(generator.standard_normal((5, 3)))

    def value(inputs, user_RD, item_ID):
        to_item = aggregate_items(inputs, user_RD, 5, aggregator)
        to_user = aggregate_users(inputs, item_ID, 4, aggregator)
        return jnp.sum(jnp.tanh(to_item) * weight_ID) + jnp.sum(jnp.tanh(to_user) * weight_ID[:4])

    (by_edges, edge_gradient), (by_matrix, matrix_gradient) = (
        jax.value_and_grad(value, argnums=(1, 2))(inputs, user_RD, item_ID)
        for inputs in both_paths()
    )
    np.testing.assert_allclose(by_edges, by_matrix, rtol=1e-5)
    for a, b in zip(edge_gradient, matrix_gradient, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert np.abs(a).max() > 0.1


def test_gradient_of_max_goes_to_the_winner_and_is_finite_at_isolated_nodes():
    user_RD = np.array([[1.0], [2.0], [-3.0], [5.0]], np.float32)
    gradient_RD = jax.grad(lambda u: jnp.sum(aggregate_items(both_paths()[0], u, 5, "max")))(
        user_RD
    )
    # Items 0, 1, 3, 4 are won by users 1, 2, 0, 1; item 2 has nobody.
    assert gradient_RD[:, 0].tolist() == [1, 2, 1, 0]


@pytest.mark.parametrize("aggregator", ["mean", "max", "sum"])
def test_a_graph_without_edges_gives_zeros(aggregator):
    none = np.zeros(0, np.int64)
    inputs = DiffusionInputs(interaction_graph(none, none, 4, 5), None)
    assert not np.asarray(aggregate_items(inputs, np.ones((4, 3), np.float32), 5, aggregator)).any()
