"""Support read as windows of one history is the support read sample by sample: scores, gradients, second order.

Dimension key: B users, K support samples.
"""

import jax
import numpy as np
import pytest

from metacsr_jax.adaptation import split_adapted
from metacsr_jax.cases import case_batch
from metacsr_jax.meta import sample_loss
from metacsr_jax.models.windows import groups_of
from metacsr_jax.score import support_samples

LENGTH, SUPPORT = 4, 3  # of the models of conftest.py
SHORT = [[1, 2, 3, 4], [0, 6], [7], [], [5, 3, 5]]  # nobody has more than SUPPORT + 1 events
LONG = [*SHORT, [2, 0, 4, 6, 1, 3, 5, 5, 1, 0]]
MODELS = {
    "paper": {},
    "by feature": {"attention": "feature", "distance": "learned"},
    "hidden": {"hidden": 6, "compress": 3, "readout_items": True, "attention_dim": 5},
    "last": {"readout": "last", "normalise_over": "n"},
    "perceptron": {"predictor": "mlp"},
}


def support_of(built, histories):
    offset_N1 = np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64)
    items = np.array([item for history in histories for item in history], np.int32)
    batch = case_batch(offset_N1, items, LENGTH, SUPPORT)
    return support_samples(batch, built.config, built.num_items)


def both(built, histories, result):
    """`result` of each user's support, by windows and by samples."""
    support = support_of(built, histories)
    assert support.history is not None and built.network.encode_windows is not None
    return [jax.vmap(result)(s) for s in (support, support._replace(history=None))]


def close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)


@pytest.mark.parametrize("histories", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("model", MODELS)
def test_losses_and_their_gradients(tiny, model, histories):
    built = tiny(seed=2, model=MODELS[model])
    table = built.network.represent(built.params["representer"], built.inputs)

    def loss(samples):
        def of(theta_2, vector_ID):
            own = table._replace(vector_ID=vector_ID)
            return sample_loss(built.network, built.config.loss, theta_2, own, samples, "sum")

        return jax.value_and_grad(of, (0, 1))(built.params["encoder"], table.vector_ID)

    by_windows, by_samples = both(built, histories, loss)
    close(by_windows, by_samples)
    loss_B = np.asarray(by_windows[0])
    assert (np.abs(loss_B[[0, 1, 4]]) > 0.01).all()
    assert not loss_B[[2, 3]].any()  # one event, none: nothing to learn from


@pytest.mark.parametrize("histories", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("adapted", ["all", "head"])
@pytest.mark.parametrize("steps", [1, 3])
def test_adapted_models_and_derivatives_through_adaptation(tiny, histories, adapted, steps):
    built = tiny(seed=2, meta={"adapted": adapted, "inner_rate": 0.2})
    table = built.network.represent(built.params["representer"], built.inputs)

    def adapt(samples):
        def of(encoder):
            params = {**built.params, "encoder": encoder}
            theta_2 = built.learner.personalise(params, table, samples, steps)
            fast, _ = split_adapted(theta_2, "all")
            return sum((leaf**2).sum() for leaf in fast.values()), theta_2

        return jax.value_and_grad(of, has_aux=True)(built.params["encoder"])

    ((_, theta_2), gradient), ((_, expected), of_samples) = both(built, histories, adapt)
    close(theta_2, expected)
    close(gradient, of_samples)


def test_an_encoder_without_pairs_reads_samples(tiny):
    built = tiny(model={"encoder": "gru"})
    assert built.network.encode_windows is None
    table = built.network.represent(built.params["representer"], built.inputs)
    support = support_of(built, SHORT)
    jax.vmap(lambda s: built.learner.personalise(built.params, table, s, 1))(support)


@pytest.mark.parametrize("history, count, longest", [(9, 8, 10), (18, 8, 10), (4, 3, 4), (2, 1, 1)])
def test_every_window_is_read_once_and_none_past_its_target(history, count, longest):
    groups = groups_of(history, count, longest)
    ends = [start + group.length for group in groups for start in group.starts]
    assert ends == list(range(history - count, history))
    for group in groups:
        for start in group.starts:
            assert start <= 0 or group.length == longest  # nothing of the history is cut off
    lengths = [group.length for group in groups]
    assert lengths == sorted(set(lengths)) and lengths[-1] <= longest
