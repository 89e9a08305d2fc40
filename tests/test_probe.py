"""Inside a trained metaCSR: what is seen there is what evaluation ranks by."""

import jax
import numpy as np
import pytest
from tiny import trained

from metacsr_jax.analysis.histories import (
    latest,
    lengths_to_rank,
    rank_histories,
    shuffled,
    usable_length,
)
from metacsr_jax.analysis.probe import item_vectors, probe, read_probe, write_probe
from metacsr_jax.errors import NonFiniteError, WorkdirError
from metacsr_jax.evaluate import rank_scenario, score_of
from metacsr_jax.problem import scenario_batches
from metacsr_jax.protocol import Cases, cases
from metacsr_jax.trained import load_trained


@pytest.fixture(scope="module")
def model():
    return load_trained(trained())


@pytest.fixture(scope="module")
def seen(model):
    """Probes by (scenario, steps)."""
    return {
        (scenario, steps): probe(model, scenario, steps)
        for scenario in ("cold", "warm")
        for steps in (0, 1)
    }


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("scenario", ["cold", "warm"])
def test_a_probe_ranks_as_evaluation_does(model, seen, scenario, steps):
    ranks = rank_scenario(model.problem, score_of(model), scenario, steps)
    sampled = next(of for name, of in ranks.items() if name != "full")
    np.testing.assert_array_equal(seen[scenario, steps].rank_N, sampled.rank_N)


def test_similarities_are_inner_products_of_preferences_and_items(model, seen):
    held_out, _ = scenario_batches(model.problem, "cold")
    found, vector_ID = seen["cold", 1], item_vectors(model)
    item_NC1 = np.concatenate([held_out.target_N[:, None], held_out.negative_NC], axis=1)
    expected = np.einsum("nd,ncd->nc", found.preference_ND, vector_ID[item_NC1])
    np.testing.assert_allclose(found.similarity_NC1, expected, rtol=1e-4, atol=1e-5)
    # Logits are the same and the items' bias, whoever the user is.
    bias_NC1 = found.score_NC1 - found.similarity_NC1
    bias_I = np.full(model.problem.protocol.num_items, np.nan)
    bias_I[item_NC1] = bias_NC1
    np.testing.assert_allclose(bias_NC1, bias_I[item_NC1], atol=1e-4)


def test_nothing_moves_without_steps_and_something_with_one(seen):
    before, after = seen["cold", 0], seen["cold", 1]
    assert np.all(before.shift_N == 0)
    has_support = np.isfinite(after.support_loss_N)
    assert has_support.any() and np.all(after.shift_N[has_support] > 0)
    assert np.all(after.shift_N[~has_support] == 0)
    np.testing.assert_array_equal(
        after.preference_ND[~has_support], before.preference_ND[~has_support]
    )


def test_losses_are_their_formulas(seen):
    found = seen["cold", 0]
    score_NC1 = found.score_NC1.astype(np.float64)
    expected = -np.log(np.exp(score_NC1[:, 0]) / np.exp(score_NC1).sum(1))
    np.testing.assert_allclose(found.target_loss_N, expected, rtol=1e-4)
    assert np.all(found.support_loss_N[np.isfinite(found.support_loss_N)] > 0)


def test_a_probe_comes_back_from_its_file_and_damage_is_named(tmp_path, seen):
    path = tmp_path / "analysis" / "probe.npz"
    write_probe(path, seen["warm", 1])
    for one, other in zip(read_probe(path), seen["warm", 1], strict=True):
        np.testing.assert_array_equal(one, other)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WorkdirError, match="expected arrays"):
        read_probe(path)
    with pytest.raises(WorkdirError, match="missing"):
        read_probe(tmp_path / "none.npz")


def test_another_model_is_refused(model):
    config = model.problem.config
    train = config.train.__class__(model="popular", steps=0)
    other = model._replace(problem=model.problem._replace(config=config.__class__(train=train)))
    with pytest.raises(WorkdirError, match="expected metacsr or pretrain"):
        probe(other, "cold", 0)


def test_a_diverged_adaptation_is_no_perfect_rank(model):
    params = jax.tree.map(lambda leaf: leaf * np.nan, model.params)
    with pytest.raises(NonFiniteError, match="cold, 1 adaptation steps: score_NC1 of case 0"):
        probe(model._replace(params=params), "cold", 1)


def by_hand() -> Cases:
    """Two users: histories 1 2 3 and 4."""
    none = np.zeros(2, np.int64)
    flags = np.zeros(2, bool)
    return Cases(
        none, np.array([0, 3, 4]), np.array([1, 2, 3, 4]), none, none, none[:, None], flags, flags
    )


def test_the_latest_events_are_kept():
    both = np.arange(2)
    cut = latest(by_hand(), 2, both)
    np.testing.assert_array_equal(cut.offset_N1, [0, 2, 3])
    np.testing.assert_array_equal(cut.item_H, [2, 3, 4])
    one = latest(by_hand(), 1, np.array([0]))
    assert one.item_H.tolist() == [3] and len(one.user_N) == 1
    np.testing.assert_array_equal(latest(by_hand(), 9, both).item_H, by_hand().item_H)


def test_shuffling_stays_within_a_user_and_follows_its_seed():
    orders = {tuple(shuffled(by_hand(), seed).item_H) for seed in range(40)}
    assert all(sorted(order[:3]) == [1, 2, 3] and order[3] == 4 for order in orders)
    assert len(orders) == 6, "all orders of three events"
    np.testing.assert_array_equal(shuffled(by_hand(), 3).item_H, shuffled(by_hand(), 3).item_H)


def test_a_length_needs_enough_cases():
    count_N = np.array([1] * 50 + [2] * 25 + [3] * 25)
    held_out = by_hand()._replace(offset_N1=np.concatenate([[0], np.cumsum(count_N)]))
    assert usable_length(held_out, 9) == 3
    assert usable_length(held_out, 9, share=0.4) == 2
    assert usable_length(held_out, 1) == 1
    assert usable_length(by_hand(), 9) == 0, "two cases are not enough"


def test_uncut_and_unshuffled_histories_rank_as_evaluation_does(model):
    held_out = cases(model.problem.protocol, "cold")
    longest = int(np.diff(held_out.offset_N1).max())
    whole = latest(held_out, longest, np.arange(len(held_out.user_N)))
    (found,) = rank_histories(model, "cold", [whole], 1)
    ranks = rank_scenario(model.problem, score_of(model), "cold", 1)
    sampled = next(of for name, of in ranks.items() if name != "full")
    np.testing.assert_array_equal(found.rank_N, sampled.rank_N)


def test_every_length_has_the_same_users(model):
    held_out, lengths = lengths_to_rank(model)
    assert lengths == list(range(1, len(lengths) + 1)) and lengths
    assert np.all(np.diff(held_out.offset_N1) == lengths[-1])
    jax.clear_caches()
