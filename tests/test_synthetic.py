"""The embedded log: what is planted is there, and nothing else is.

Dimension key: E events, U users, I items, N cases, C negatives, L context, T events of a user.
"""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metacsr_jax.baselines import BASELINES
from metacsr_jax.cases import case_batch
from metacsr_jax.config import Config, ProtocolConfig, SyntheticConfig
from metacsr_jax.data.synthetic import generate, plant
from metacsr_jax.errors import ConfigError
from metacsr_jax.protocol import build_protocol, cases, training_events

NOISE = SyntheticConfig(users=3000, transitions=False, taste=False)


def users_of(log) -> list[np.ndarray]:
    """Item ids of each user, in the order of time."""
    order_E = np.lexsort((log.time_E, log.user_E))
    item_E = log.item_ids[log.item_E[order_E]]
    return np.split(item_E, np.cumsum(np.bincount(log.user_E))[:-1])


def hidden_items(config: SyntheticConfig, log) -> list[np.ndarray]:
    """Items of each user, in the plant's hidden order."""
    place_of_id = np.zeros(config.items + 1, int)
    place_of_id[plant(config).item_id_I] = np.arange(config.items)
    return [place_of_id[item_T] for item_T in users_of(log)]


def planted_steps(config: SyntheticConfig, log) -> list[np.ndarray]:
    """For each user, which events after the first lie in the cell that the plant expects."""
    hidden = plant(config)
    return [
        hidden.cell_I[item_T[1:]] == hidden.next_cell(user, item_T[:-1])
        for user, item_T in enumerate(hidden_items(config, log))
    ]


def auc(score_NI: np.ndarray, held) -> np.ndarray:
    """Per case: share of negatives below the target, ties half."""
    return 1 - rank(score_NI, held) / held.negative_NC.shape[1]


def rank(score_NI: np.ndarray, held) -> np.ndarray:
    """Per case: negatives above the target, ties half."""
    target_N1 = np.take_along_axis(score_NI, held.target_N[:, None], 1)
    negative_NC = np.take_along_axis(score_NI, held.negative_NC, 1)
    return ((negative_NC > target_N1) + 0.5 * (negative_NC == target_N1)).sum(axis=1)


def interval(better_N: np.ndarray, worse_N: np.ndarray) -> tuple[float, float]:
    """Paired 95 % interval of the mean difference, normal approximation."""
    difference_N = better_N - worse_N
    half = 1.96 * difference_N.std(ddof=1) / np.sqrt(len(difference_N))
    return difference_N.mean() - half, difference_N.mean() + half


def history_scorers(protocol, held) -> dict[str, np.ndarray]:
    """Scores [N, I] of models that use the history in one way or another."""
    items = protocol.num_items
    training = training_events(protocol)
    bag_RI = np.zeros((len(training.user_R), items))
    bag_RI[np.repeat(np.arange(len(bag_RI)), np.diff(training.offset_R1)), training.item_F] = 1
    bag_NI = np.zeros((len(held.target_N), items))
    bag_NI[np.repeat(np.arange(len(bag_NI)), np.diff(held.offset_N1)), held.item_H] = 1
    batch = case_batch(held.offset_N1, held.item_H, max_length=10, max_support=8)
    models = {name: make(Config()) for name, make in BASELINES.items()}
    named = {
        name: np.asarray(model.score(model.fit(protocol, None), batch, 0))
        for name, model in models.items()
    }
    popular_NI = named["popular"]
    count_II = bag_RI.T @ bag_RI
    np.fill_diagonal(count_II, 0)
    size_I = np.maximum(bag_RI.sum(axis=0), 1)
    named["knn"] = bag_NI @ (count_II / np.sqrt(size_I[:, None] * size_I))
    named["counts together"] = bag_NI @ count_II
    # Multiplied, not added: the smallest share of Markov that still breaks popularity's near-ties.
    named["popular x markov"] = popular_NI * (0.1 + named["markov"] / named["markov"].max())
    named["popular, repeats first"] = popular_NI + 1e6 * bag_NI
    named["popular, repeats last"] = popular_NI - 1e6 * bag_NI
    return named


def test_same_seed_same_log_and_other_seed_other_log():
    config = SyntheticConfig(users=50)
    first, again = generate(config), generate(config)
    for name in ("user_E", "item_E", "time_E", "user_ids", "item_ids"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    other = generate(dataclasses.replace(config, seed=1))
    assert not np.array_equal(first.item_E[:100], other.item_E[:100])


@settings(max_examples=40, deadline=None)
@given(
    users=st.integers(2, 40),
    items=st.integers(16, 60),
    series=st.integers(1, 4),
    groups=st.integers(1, 4),
    min_events=st.integers(2, 8),
    extra=st.floats(0, 30),
    predictability=st.floats(0, 1),
    transitions=st.booleans(),
    taste=st.booleans(),
    popularity_skew=st.floats(0, 4),
    seed=st.integers(0, 2**32),
)
def test_every_log_is_well_formed(extra, **kwargs):
    config = SyntheticConfig(mean_events=kwargs["min_events"] + extra, **kwargs)
    log = generate(config)
    assert log.rating_E is None
    np.testing.assert_array_equal(log.user_ids, np.arange(1, config.users + 1))
    assert log.item_ids.dtype == np.int64
    assert set(log.item_ids) <= set(range(1, config.items + 1))
    assert (np.diff(log.time_E) >= 0).all()
    for item_T in users_of(log):
        assert len(np.unique(item_T)) == len(item_T)
        assert config.min_events <= len(item_T) <= config.items // 2
    for user in range(config.users):
        time_T = log.time_E[log.user_E == user]
        assert (np.diff(time_T) > 0).all()
        assert 0 <= time_T[0] - 1_577_836_800 < 365 * 86_400  # users start in 2020


@pytest.mark.parametrize(("transitions", "taste"), [(True, False), (True, True), (False, True)])
def test_fully_predictable_users_follow_the_plant_in_every_step(transitions, taste):
    # Histories too short to use up a cell.
    config = SyntheticConfig(
        users=200,
        predictability=1.0,
        transitions=transitions,
        taste=taste,
        min_events=9,
        mean_events=9,
    )
    assert np.concatenate(planted_steps(config, generate(config))).all()


def test_rules_are_permutations_that_depart_from_the_shared_one_as_told():
    own = SyntheticConfig(transitions=False)
    np.testing.assert_array_equal(np.sort(plant(own).rule_UG, axis=1), [[0, 1, 2, 3]] * own.users)
    rules, count = np.unique(plant(own).rule_UG, axis=0, return_counts=True)
    assert len(rules) == math.factorial(4)
    assert count.min() > own.users / len(rules) / 2
    for personal, departures in ((0.0, 0), (0.5, 2), (1.0, 4)):
        rule_UG = plant(SyntheticConfig(personal=personal)).rule_UG
        np.testing.assert_array_equal((rule_UG != np.arange(4)).sum(axis=1), departures)
        np.testing.assert_array_equal(np.sort(rule_UG, axis=1), [[0, 1, 2, 3]] * len(rule_UG))
    assert not plant(SyntheticConfig(taste=False)).rule_UG.any()


@pytest.mark.parametrize("predictability", [0.0, 0.3, 0.8])
def test_predictability_is_the_share_of_planted_steps(predictability):
    # More users than are walked at once.
    config = SyntheticConfig(
        users=5000, predictability=predictability, min_events=8, mean_events=8, popularity_skew=0
    )
    followed_E = np.concatenate(planted_steps(config, generate(config)))
    # Other steps end in the planted cell by chance: one in 24 without skew.
    expected = predictability + (1 - predictability) / (config.groups * config.series)
    assert abs(followed_E.mean() - expected) < 4 * np.sqrt(0.25 / followed_E.size) + 0.005


def test_attributes_are_series_group_and_cue():
    config = SyntheticConfig(users=5, min_events=3, mean_events=3)
    log, hidden = generate(config), plant(config)
    assert log.num_items < config.items  # so that the order of the rows matters
    place_I = np.argsort(hidden.item_id_I)[log.item_ids - 1]
    series_I, group_I = hidden.cell_I[place_I] // 4, hidden.cell_I[place_I] % 4
    expected = [np.eye(6)[series_I], np.eye(4)[group_I], np.eye(4)[hidden.cue_I[place_I]]]
    np.testing.assert_array_equal(log.item_features, np.concatenate(expected, axis=1))
    assert generate(dataclasses.replace(config, attributes=False)).item_features is None


def test_noise_is_drawn_by_popularity_without_replacement():
    config = dataclasses.replace(
        NOISE,
        users=30_000,
        items=12,
        series=1,
        groups=1,
        min_events=2,
        mean_events=2,
        popularity_skew=1.5,
    )
    hidden = plant(config)
    weight_I = np.zeros(config.items)
    weight_I[hidden.item_id_I - 1] = hidden.weight_I
    assert sorted(hidden.weight_I / hidden.weight_I.max(), reverse=True) == pytest.approx(
        [rank**-1.5 for rank in range(1, 13)]
    )
    found_U2 = np.stack(users_of(generate(config))) - 1
    pair_II = np.zeros((config.items, config.items))
    np.add.at(pair_II, (found_U2[:, 0], found_U2[:, 1]), 1 / config.users)
    expected_II = weight_I[:, None] * weight_I / (1 - weight_I[:, None])
    np.fill_diagonal(expected_II, 0)
    error_II = np.sqrt(expected_II / config.users)
    assert (np.abs(pair_II - expected_II) <= 5 * error_II + 1 / config.users).all()


def test_a_used_up_head_leaves_the_tail_in_proportion():
    # With so steep a popularity rejection often fails, and the exact draw decides.
    config = dataclasses.replace(
        NOISE,
        users=20_000,
        items=6,
        series=1,
        groups=1,
        min_events=3,
        mean_events=3,
        popularity_skew=4,
    )
    hidden = plant(config)
    weight = dict(zip(hidden.item_id_I.tolist(), hidden.weight_I, strict=True))
    found = np.stack(users_of(generate(config)))
    for walk in itertools.permutations(sorted(weight, key=weight.get, reverse=True)[:4], 3):
        first, second, third = (weight[item] for item in walk)
        expected = first * second / (1 - first) * third / (1 - first - second)
        share = (found == walk).all(axis=1).mean()
        assert abs(share - expected) <= 5 * np.sqrt(expected / config.users) + 1 / config.users


@pytest.mark.parametrize("scenario", ["cold", "warm"])
def test_no_history_beats_popularity_on_noise(scenario):
    protocol = build_protocol(generate(NOISE), ProtocolConfig())
    held = cases(protocol, scenario)
    assert not held.repeat_N.any()
    scores = history_scorers(protocol, held)
    popular_N = auc(scores.pop("popular"), held)
    assert popular_N.mean() > 0.6
    for name, score_NI in scores.items():
        low, _ = interval(auc(score_NI, held), popular_N)
        assert low <= 0.01, f"{name}: the interval over popularity begins at {low:.4f}"


def test_planted_order_is_found_by_markov_and_the_rule_is_worth_more():
    config = SyntheticConfig()
    protocol = build_protocol(generate(config), ProtocolConfig())
    held = cases(protocol, "cold")
    scores = history_scorers(protocol, held)
    # The oracle knows each user's rule: the planted cell first, popularity within and outside it.
    hidden = plant(config)
    place_I = np.argsort(hidden.item_id_I)[protocol.item_ids - 1]
    last_N = place_I[held.item_H[held.offset_N1[1:] - 1]]
    expected_N = hidden.next_cell(protocol.user_ids[held.user_N] - 1, last_N)
    planted_NI = expected_N[:, None] == hidden.cell_I[place_I]
    oracle_N = auc(scores["popular"] + 1e6 * planted_NI, held)
    popular_N, markov_N = (auc(scores[name], held) for name in ("popular", "markov"))
    assert interval(markov_N, popular_N)[0] > 0.05
    assert interval(oracle_N, markov_N)[0] > 0.05


def test_the_bag_of_items_tells_nothing():
    config = SyntheticConfig(users=3000, transitions=False)
    protocol = build_protocol(generate(config), ProtocolConfig())
    held = cases(protocol, "cold")
    scores = history_scorers(protocol, held)
    popular_N = auc(scores["popular"], held)
    for name in ("knn", "itemknn", "ease", "counts together"):
        low, high = interval(auc(scores[name], held), popular_N)
        assert low <= 0.01, f"{name}: the interval over popularity is {low:.4f}..{high:.4f}"


def test_a_gradient_step_on_the_own_pairs_pays_and_on_a_strangers_does_not():
    # A bilinear model, (series and cue of the last item) W (series and group of the next) plus log
    # popularity: W begins at what all users share and takes one step on a user's support.
    protocol = build_protocol(generate(SyntheticConfig()), ProtocolConfig())
    training, held = training_events(protocol), cases(protocol, "cold")
    series_IS, group_IG, cue_IG = np.split(protocol.item_features.astype(float), [6, 10], axis=1)
    last_IF = np.concatenate([series_IS, cue_IG], axis=1)
    next_IF = np.concatenate([series_IS, group_IG], axis=1)
    bias_I = np.log(np.bincount(training.item_F, minlength=protocol.num_items) + 1)
    follows_F = np.ones(len(training.item_F), bool)
    follows_F[training.offset_R1[:-1]] = False
    target_P = training.item_F[follows_F]
    context_P = training.item_F[np.flatnonzero(follows_F) - 1]
    together_FF = last_IF[context_P].T @ next_IF[target_P]
    chance_FF = np.outer(last_IF[context_P].sum(axis=0), next_IF[target_P].mean(axis=0))
    shared_FF = np.log(together_FF / chance_FF)

    def logits(weight_NFF, context_NK):
        return last_IF[context_NK] @ weight_NFF @ next_IF.T + bias_I

    batch = case_batch(held.offset_N1, held.item_H, max_length=10, max_support=8)
    context_NK = batch.support_context_BKL[:, :, -1]
    chance_NKI = np.exp(logits(shared_FF, context_NK))
    chance_NKI /= chance_NKI.sum(axis=2, keepdims=True)
    error_NKF = next_IF[batch.support_target_BK] - chance_NKI @ next_IF
    error_NKF *= batch.support_mask_BK[..., None]
    step_NFF = 5 / 8 * np.swapaxes(last_IF[context_NK], 1, 2) @ error_NKF

    last_N1 = batch.context_BL[:, -1:]
    before_N, own_N, stranger_N = (
        1 / (1 + rank(logits(shared_FF + change, last_N1)[:, 0], held))
        for change in (np.zeros_like(step_NFF), step_NFF, np.roll(step_NFF, 1, axis=0))
    )
    assert interval(own_N, before_N)[0] > 0.05
    assert interval(stranger_N, before_N)[1] < 0


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("users", 1, "at least 2"),
        ("min_events", 1, "at least 2"),
        ("mean_events", 7.5, "min_events=8"),
        ("mean_events", float("nan"), "finite"),
        ("mean_events", float("inf"), "finite"),
        ("items", 15, "16"),
        ("groups", 0, "items // series=50"),
        ("groups", 51, "items // series=50"),
        ("series", 0, "items=300"),
        ("series", 301, "items=300"),
        ("predictability", 1.01, "0 to 1"),
        ("predictability", float("nan"), "0 to 1"),
        ("popularity_skew", -1.0, "0 to 4"),
        ("personal", -0.1, "0 to 1"),
        ("seed", -1, "at least 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting, value, expected):
    with pytest.raises(ConfigError, match=f"synthetic.{setting}={value}.*{expected}"):
        generate(dataclasses.replace(SyntheticConfig(), **{setting: value}))
