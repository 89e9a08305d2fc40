"""A user served in the span of his own history is served as by the whole matrices: scores, losses, shifts.

Dimension key: B users, H events, K support samples, D = dim, C coordinates.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacsr_jax.adaptation import relative_shift
from metacsr_jax.cases import case_batch
from metacsr_jax.meta import in_coordinates, sample_loss
from metacsr_jax.models.windows import span_of
from metacsr_jax.score import support_samples

LENGTH, SUPPORT = 4, 3  # of the models of conftest.py
SHORT = [[1, 2, 3, 4], [0, 6], [7], [], [5, 3, 5]]  # nobody has more than SUPPORT + 1 events
LONG = [*SHORT, [2, 0, 4, 6, 1, 3, 5, 5, 1, 0]]
MODELS = {
    "paper": {},
    "compressed": {"hidden": 6, "compress": 3, "readout_items": True, "attention_dim": 5},
    "last": {"readout": "last", "normalise_over": "n"},
    "mean": {"readout": "mean", "distance": "learned"},
    "perceptron": {"predictor": "mlp", "hidden": 5},
}


def served(built, histories, steps, exact=True):
    """Each user served twice: in the span of his history, and with the support as plain samples."""
    offset_N1 = np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64)
    items = np.array([item for history in histories for item in history], np.int32)
    batch = case_batch(offset_N1, items, LENGTH, SUPPORT)
    support = support_samples(batch, built.config, built.num_items)
    with jax.enable_x64(exact):
        params, inputs = jax.tree.map(
            lambda a: np.asarray(a, np.float64) if exact and a.dtype == np.float32 else a,
            (built.params, built.inputs),
        )
        table = built.network.represent(params["representer"], inputs)

        def of(samples, context_L, length):
            found = built.learner.serve(
                params, table, samples, context_L[None], length[None], steps
            )
            theta_2, s_1D, own, shift = found
            assert in_coordinates(own) == (samples.history is not None and steps > 0)
            loss = sample_loss(built.network, built.config.loss, theta_2, table, own, "sum")
            logit_I = built.network.score_catalogue(theta_2, table, s_1D)[0]
            return logit_I, loss, shift, theta_2

        return [
            jax.vmap(of)(samples, batch.context_BL, batch.length_B)
            for samples in (support, support._replace(history=None))
        ]


def close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), one, other)


@pytest.mark.parametrize("histories", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_a_user_is_served_as_by_the_whole_matrices(tiny, model, steps, histories):
    built = tiny(seed=2, model=MODELS[model], meta={"inner_rate": 0.2})
    inside, whole = served(built, histories, steps)
    close(inside[:3], whole[:3])
    loss_B = np.asarray(inside[1])
    assert (np.abs(loss_B[[0, 1, 4]]) > 0.01).all()
    assert not loss_B[[2, 3]].any()
    if steps:
        shift_B = np.asarray(inside[2])
        assert (shift_B[[0, 4]] > 1e-3).all()
        assert not shift_B[[2, 3]].any()  # one event, none: nothing to learn from


@pytest.mark.parametrize("model", MODELS)
def test_the_kernels_serve_him_so_too(tiny, model):
    """In float32, where there are any, and to its digits."""
    built = tiny(seed=2, model=MODELS[model], meta={"inner_rate": 0.2})
    inside, whole = served(built, LONG, 3, exact=False)
    for one, other in zip(inside[:3], whole[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "adapted"),
    [("fomaml", "all"), ("anil", "all"), ("maml", "head"), ("metasgd", "head"), ("none", "all")],
)
def test_so_it_is_with_every_method_that_has_one_rate_for_a_matrix(tiny, method, adapted):
    built = tiny(seed=2, meta={"method": method, "adapted": adapted, "inner_rate": 0.2})
    close(*(found[:3] for found in served(built, LONG, 2)))


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_and_with_every_kind_of_loss(tiny, loss):
    built = tiny(seed=2, loss={"name": loss}, meta={"inner_rate": 0.2})
    close(*(found[:3] for found in served(built, SHORT, 2)))


def test_matrices_have_as_many_rows_as_the_history_has_events(tiny):
    inside, whole = served(tiny(seed=2, model={"dim": 8}), SHORT, 1)
    for name, blocks in (("W4", 1), ("W5", 1)):
        kernels = (found[3]["attention"][name]["kernel"].shape[1] for found in (inside, whole))
        assert tuple(kernels) == (blocks * (SUPPORT + 1), blocks * 8)
    kernels = (found[3]["readout"]["W6"]["kernel"].shape[1] for found in (inside, whole))
    assert tuple(kernels) == (2 * LENGTH * (SUPPORT + 1), 2 * LENGTH * 8)


@pytest.mark.parametrize(
    ("model", "meta"),
    [
        ({"encoder": "gru"}, {}),
        ({"attention": "feature"}, {}),  # weights by feature are no combinations of items
        ({}, {"method": "metasgd"}),  # nor is a rate for each entry the same in another basis
    ],
)
def test_others_read_samples(tiny, model, meta):
    built = tiny(model=model, meta=meta)
    table = built.network.represent(built.params["representer"], built.inputs)
    offset_N1, items = np.array([0, 4]), np.array([1, 2, 3, 4], np.int32)
    batch = case_batch(offset_N1, items, LENGTH, SUPPORT)
    support = jax.tree.map(lambda a: a[0], support_samples(batch, built.config, built.num_items))
    found = built.learner.serve(built.params, table, support, batch.context_BL, batch.length_B, 1)
    assert not in_coordinates(found.support)
    theta_2 = built.learner.personalise(built.params, table, support, 1)
    shift = relative_shift(built.params["encoder"], theta_2)
    np.testing.assert_allclose(found.shift, shift, rtol=1e-6)
    s_1D = built.network.encode(theta_2, table, batch.context_BL, batch.length_B)
    np.testing.assert_allclose(found.s_GD, s_1D, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("history", "dim"), [(4, 8), (8, 8), (9, 4)])
def test_a_basis_is_orthonormal_and_gives_every_item_back(history, dim):
    item_HD = jax.random.normal(jax.random.key(0), (history, dim))
    item_HD = item_HD.at[0].set(0.0).at[2].set(item_HD[1])  # padding, and an item seen twice
    basis_CD, coordinate_HC = span_of(item_HD)
    count = min(history, dim)
    np.testing.assert_allclose(basis_CD @ basis_CD.T, np.eye(count), atol=1e-5)
    np.testing.assert_allclose(coordinate_HC @ basis_CD, item_HD, atol=1e-5)
    assert not coordinate_HC[0].any()
    everything_HD = jnp.zeros((history, dim))
    basis_CD, coordinate_HC = span_of(everything_HD)  # a user without events
    assert np.isfinite(basis_CD).all() and not coordinate_HC.any()
