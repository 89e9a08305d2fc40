"""How far two rankings agree on the models: planted orders, a planted exchange, and twins."""

import numpy as np
import pytest

from metacsr_jax.reproduce.rankings import agreement, without_twins

USERS = 400


def values(means, noise, seed):
    rng = np.random.default_rng(seed)
    return np.array(means) + noise * rng.standard_normal((USERS, len(means)))


def test_one_order_has_tau_one_and_no_pair_turned():
    tau, turned = agreement(values([0.3, 0.2, 0.1], 0.01, 0), values([0.06, 0.04, 0.02], 0.001, 1))
    assert tau == (1.0, 1.0, 1.0) and turned == []


def test_a_planted_exchange_is_found_and_noise_alone_is_not():
    # Models 0 and 1 change places beyond doubt, 2 and 3 are level in both, 4 is apart from them in one ranking only.
    sampled_NK = values([0.4, 0.3, 0.1, 0.1, 0.05], 0.05, 0)
    full_NK = values([0.03, 0.04, 0.01, 0.01, 0.01], 0.005, 1)
    tau, turned = agreement(sampled_NK, full_NK)
    assert turned == [(0, 1)]
    pairs = 10
    expected = [(pairs - 2 * discordant) / pairs for discordant in range(1, 5)]
    assert min(abs(tau.value - one) for one in expected) < 1e-12
    assert tau.low <= tau.value <= tau.high and tau.low < tau.high


@pytest.mark.parametrize("twin_of", [0, 1])
def test_of_models_that_rank_alike_one_counts(twin_of):
    found = {
        name: [values([0.2], 0.1, seed), values([0.1], 0.1, seed)] for seed, name in enumerate("ab")
    }
    original = list(found.values())[twin_of]
    half = [original[0].copy(), original[1] + 0.1]
    kept = without_twins({**found, "twin": [of.copy() for of in original], "half": half})
    assert list(kept) == ["a", "b", "half"]
