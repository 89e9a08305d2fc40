"""The protocol: who is new, what is held out, what it is ranked against."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metacsr_jax.config import ProtocolConfig
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.errors import ConfigError, ProtocolError, WorkdirError
from metacsr_jax.protocol import (
    EXCLUDED,
    NEW,
    REGULAR,
    SCENARIOS,
    VALIDATION,
    build_protocol,
    cases,
    load_protocol,
    save_protocol,
    training_events,
)
from metacsr_jax.protocol.hashing import below, hash_ids, hash_key, mix

SMALL = ProtocolConfig(num_negatives=5)
ARRAYS = ("item_ids", "user_ids", "role_U", "offset_U1", "item_E", "time_E")


def random_log(
    seed: int, users: int = 30, items: int = 60, times: int = 8, pace: int = 0
) -> Interactions:
    """Users of 3 to 20 rated events at few times, in shuffled rows; user u joins at pace * u."""
    generator = np.random.default_rng(seed)
    count_U = generator.integers(3, 21, users)
    user = np.repeat(np.arange(users) * 7 + 5, count_U)
    order = generator.permutation(len(user))
    return Interactions.from_ids(
        user[order],
        generator.integers(0, items, len(user)) + 100,
        time=generator.integers(0, times, len(user)) * 60 + pace * user[order],
        rating=generator.choice([2.0, 4.0, 5.0], len(user), p=[0.2, 0.4, 0.4]),
        name="random",
    )


def staircase(users: int = 10) -> Interactions:
    """User u (from 1) does u + 2 events: items u, u + 1, ... at times u, u + 10, ..."""
    rows = [(u, u + k, u + 10 * k) for u in range(1, users + 1) for k in range(u + 2)]
    user, item, time = np.array(rows).T
    return Interactions.from_ids(user, item, time=time, name="staircase")


def events_of(protocol, user_id) -> list[tuple]:
    """(item id, time) of a user's kept events."""
    code = list(protocol.user_ids).index(user_id)
    part = slice(protocol.offset_U1[code], protocol.offset_U1[code + 1])
    return list(zip(protocol.item_ids[protocol.item_E[part]], protocol.time_E[part], strict=True))


def positives(log: Interactions, min_rating: float = 4.0) -> dict:
    """user id -> set of (item id, time), one event at a time."""
    found = {}
    for row in range(log.num_events):
        if log.rating_E is None or log.rating_E[row] >= min_rating:
            event = (log.item_ids[log.item_E[row]], log.time_E[row])
            found.setdefault(log.user_ids[log.user_E[row]], set()).add(event)
    return found


def touched(log: Interactions) -> dict:
    """user id -> item ids of the full log, one event at a time."""
    found = {}
    for user, item in zip(log.user_E, log.item_E, strict=True):
        found.setdefault(log.user_ids[user], set()).add(log.item_ids[item])
    return found


def roles(protocol) -> dict:
    return dict(zip(protocol.user_ids.tolist(), protocol.role_U.tolist(), strict=True))


def test_quantile_split_keeps_the_most_active_regular_and_the_earliest_of_the_new():
    config = dataclasses.replace(SMALL, validation_fraction=0.0, keep_new=3)
    protocol = build_protocol(staircase(), config)
    assert roles(protocol) == {u: NEW if u <= 2 else REGULAR for u in range(1, 11)}
    assert events_of(protocol, 2) == [(2, 2), (3, 12), (4, 22)]  # of 4, the earliest 3
    cold = cases(protocol, "cold")
    assert protocol.item_ids[cold.target_N].tolist() == [3, 4]  # user u: third item, u + 2
    assert protocol.item_ids[cold.item_H].tolist() == [1, 2, 2, 3]
    assert cold.offset_N1.tolist() == [0, 2, 4]
    assert cold.time_N.tolist() == [21, 22]


def test_warm_target_is_the_last_event_and_training_is_what_precedes_it():
    protocol = build_protocol(staircase(), dataclasses.replace(SMALL, validation_fraction=0.0))
    warm, training = cases(protocol, "warm"), training_events(protocol)
    assert protocol.user_ids[training.user_R].tolist() == list(range(3, 11))
    first = slice(training.offset_R1[0], training.offset_R1[1])
    assert protocol.item_ids[training.item_F[first]].tolist() == [3, 4, 5, 6]  # of 3 .. 7
    assert training.time_F[first].tolist() == [3, 13, 23, 33]
    assert protocol.item_ids[warm.target_N[0]] == 7
    np.testing.assert_array_equal(warm.item_H, training.item_F)


@pytest.mark.parametrize(
    ("users", "fraction", "regular"), [(100, 0.29, 29), (10, 0.8, 8), (13, 0.8, 10)]
)
def test_number_of_regular_users_is_the_floor(users, fraction, regular):
    config = dataclasses.replace(SMALL, regular_fraction=fraction)
    log = random_log(0, users=users)
    log = dataclasses.replace(log, rating_E=None)
    counts = build_protocol(log, config).manifest["counts"]
    assert counts["regular_before_validation"] == regular
    assert counts["new"] == users - regular


def test_equal_counts_at_the_cut_are_ordered_by_the_seed_alone():
    user = np.repeat(np.arange(50), 4)
    item = np.tile(np.arange(4), 50) + np.repeat(np.arange(50) % 20, 4)
    log = Interactions.from_ids(user, item, time=np.tile(np.arange(4), 50), name="equal")
    new = [
        np.flatnonzero(build_protocol(log, dataclasses.replace(SMALL, seed=s)).role_U == NEW)
        for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(new[0], new[1])
    assert set(new[0]) != set(new[2])
    assert set(new[0]) != set(range(40, 50)) and set(new[0]) != set(range(10))


def test_range_split():
    config = dataclasses.replace(
        SMALL, user_split="range", new_min=4, new_max=6, validation_fraction=0
    )
    protocol = build_protocol(staircase(), config)  # user u has u + 2 events
    expected = {u: EXCLUDED if u + 2 < 4 else NEW if u + 2 <= 6 else REGULAR for u in range(1, 11)}
    assert roles(protocol) == expected
    assert protocol.manifest["counts"]["excluded_by_reason"]["fewer_events_than_new_min"] == 1
    assert events_of(protocol, 1) == []


def test_time_split_drops_what_regular_users_do_after_the_cut():
    # First events at 0, 10, 20, 30, 40; their .6 quantile, the lower of two: 20.
    rows = [(u, 10 * u + k, 10 * u + 7 * k) for u in range(5) for k in range(4)]
    rows += [(0, 99, 20), (2, 98, 10**6)]
    user, item, time = np.array(rows).T
    log = Interactions.from_ids(user, item, time=time, name="time")
    config = dataclasses.replace(
        SMALL, user_split="time", time_quantile=0.6, validation_fraction=0.0
    )
    protocol = build_protocol(log, config)
    assert protocol.manifest["time_cut"] == 20
    # User 2 has one event up to the cut, which leaves nothing to learn from.
    assert roles(protocol) == {0: REGULAR, 1: REGULAR, 2: EXCLUDED, 3: NEW, 4: NEW}
    assert events_of(protocol, 0) == [(0, 0), (1, 7), (2, 14), (99, 20)]  # not 3 at 21
    assert events_of(protocol, 1) == [(10, 10), (11, 17)]
    assert protocol.manifest["counts"]["excluded_by_reason"]["regular_with_one_event"] == 1
    assert 98 in protocol.item_ids  # the catalogue counts events that are dropped later


def test_validation_users_look_like_new_ones_and_leave_training():
    log = random_log(3, users=60)
    config = dataclasses.replace(SMALL, keep_new=6)
    protocol = build_protocol(log, config)
    without = build_protocol(log, dataclasses.replace(config, validation_fraction=0.0))
    was_regular = int((without.role_U == REGULAR).sum())
    chosen = np.flatnonzero(protocol.role_U == VALIDATION)
    assert len(chosen) == was_regular // 10
    assert (without.role_U[chosen] == REGULAR).all()
    length_U = np.diff(protocol.offset_U1)
    new_lengths = set(length_U[protocol.role_U == NEW].tolist()) - {1}
    assert set(length_U[chosen].tolist()) <= new_lengths
    for code in chosen:
        start, stop = protocol.offset_U1[code : code + 2]
        whole = without.offset_U1[code]
        np.testing.assert_array_equal(
            protocol.item_E[start:stop], without.item_E[whole : whole + stop - start]
        )
    assert not np.isin(chosen, training_events(protocol).user_R).any()
    assert not np.isin(chosen, cases(protocol, "warm").user_N).any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), split=st.sampled_from(["quantile", "range", "time"]))
def test_every_split_keeps_the_earliest_positive_events_once_and_holds_out_the_last(seed, split):
    log = random_log(seed, pace=90 if split == "time" else 0)  # some must join late
    protocol = build_protocol(log, dataclasses.replace(SMALL, user_split=split, keep_new=7))
    expected = positives(log)
    assert set(protocol.user_ids.tolist()) == set(expected)
    training = training_events(protocol)
    learnt = {
        (protocol.user_ids[user], protocol.item_ids[item], time)
        for user, start, stop in zip(
            training.user_R, training.offset_R1, training.offset_R1[1:], strict=False
        )
        for item, time in zip(training.item_F[start:stop], training.time_F[start:stop], strict=True)
    }
    assert len(learnt) == len(training.item_F)
    for code, user in enumerate(protocol.user_ids):
        kept = events_of(protocol, user)
        assert len(set(kept)) == len(kept) and set(kept) <= expected[user]
        times = [time for _, time in kept]
        assert times == sorted(times)
        if kept:  # nothing earlier was left out
            assert {e for e in expected[user] if e[1] < times[-1]} <= set(kept)
            assert (user, *kept[-1]) not in learnt
        role = protocol.role_U[code]
        assert (role == EXCLUDED) == (not kept)
        assert role not in (NEW, VALIDATION) or len(kept) <= 7
        if role == REGULAR and split != "time":
            assert set(kept) == expected[user]
    counts = protocol.manifest["counts"]
    by_role = [counts[name] for name in ("regular", "validation", "new", "excluded")]
    assert sum(by_role) == counts["users"] == len(expected)
    assert sum(counts["excluded_by_reason"].values()) == counts["excluded"]
    assert counts["events"] == sum(map(len, expected.values()))
    assert counts["kept_events"] == counts["training_events"] + counts["regular"] + int(
        np.diff(protocol.offset_U1)[np.isin(protocol.role_U, (NEW, VALIDATION))].sum()
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter_under_the_hash(seed):
    log = random_log(seed)
    row = np.random.default_rng(seed).permutation(log.num_events)
    shuffled = dataclasses.replace(
        log,
        user_E=log.user_E[row],
        item_E=log.item_E[row],
        time_E=log.time_E[row],
        rating_E=log.rating_E[row],
    )
    first, second = build_protocol(log, SMALL), build_protocol(shuffled, SMALL)
    assert first.manifest == second.manifest  # SHA-256 of every array included


def tied_log(events: int = 40) -> Interactions:
    """Three users whose events all share a timestamp, rows by item."""
    user, item = np.repeat(np.arange(3), events), np.tile(np.arange(events), 3)
    return Interactions.from_ids(user, item, time=np.zeros(3 * events, int), name="tied")


def test_ties_under_the_hash_follow_neither_items_nor_rows_nor_another_user():
    config = ProtocolConfig(num_negatives=1, validation_fraction=0.0, catalogue="declared")
    log = dataclasses.replace(tied_log(), declared_items=np.arange(50))
    protocol = build_protocol(log, config)
    regular = np.flatnonzero(protocol.role_U == REGULAR)
    orders = [protocol.item_E[protocol.offset_U1[c] : protocol.offset_U1[c + 1]] for c in regular]
    assert sorted(orders[0].tolist()) == list(range(40))
    for order in orders:
        assert abs(np.corrcoef(order, np.arange(40))[0, 1]) < 0.5
    assert orders[0].tolist() != orders[1].tolist()
    other = build_protocol(log, dataclasses.replace(config, seed=1))
    assert other.item_E.tolist() != protocol.item_E.tolist()
    assert protocol.manifest["tie_share"] == {"cold": 1.0, "warm": 1.0, "validation": None}


def test_ties_under_the_file_policy_keep_the_rows_and_the_first_of_duplicates():
    # User 1 at time 5: items 3, 1, 3 (again), 2, and item 9 earlier though later in the file.
    rows = [(1, 3, 5), (2, 4, 0), (1, 1, 5), (1, 3, 5), (1, 2, 5), (1, 9, 1), (2, 5, 1), (2, 6, 2)]
    user, item, time = np.array(rows).T
    log = Interactions.from_ids(user, item, time=time, name="file")
    config = ProtocolConfig(
        num_negatives=1, regular_fraction=0.5, validation_fraction=0.0, tie_policy="file"
    )
    protocol = build_protocol(log, config)
    assert events_of(protocol, 1) == [(9, 1), (3, 5), (1, 5), (2, 5)]
    assert protocol.manifest["counts"]["simultaneous_duplicates"] == 1
    hashed = build_protocol(log, dataclasses.replace(config, tie_policy="hash"))
    assert sorted(events_of(hashed, 1)) == sorted(events_of(protocol, 1))
    assert hashed.manifest["counts"]["simultaneous_duplicates"] == 1


def test_times_too_far_apart_to_pack_sort_all_the_same():
    log = staircase()
    stretched = np.where(log.time_E == log.time_E.max(), 2**62, log.time_E)
    stretched = np.where(log.time_E == log.time_E.min(), -(2**62), stretched)
    protocol = build_protocol(dataclasses.replace(log, time_E=stretched), SMALL)
    np.testing.assert_array_equal(protocol.item_E, build_protocol(log, SMALL).item_E)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), wanted=st.sampled_from([1, 10, 30]))
def test_negatives_are_distinct_and_untouched_in_the_full_log(seed, wanted):
    log = random_log(seed)
    protocol = build_protocol(log, dataclasses.replace(SMALL, num_negatives=wanted))
    seen = touched(log)
    for scenario in SCENARIOS:
        found = cases(protocol, scenario)
        assert found.negative_NC.shape == (len(found.user_N), wanted)
        for user, negatives in zip(found.user_N, found.negative_NC, strict=True):
            ids = set(protocol.item_ids[negatives].tolist())
            assert len(ids) == wanted
            assert not ids & seen[protocol.user_ids[user]]


def test_negatives_take_all_untouched_items_when_exactly_enough_are_left():
    log = dataclasses.replace(staircase(), declared_items=np.arange(1, 43))
    config = ProtocolConfig(num_negatives=30, catalogue="declared", validation_fraction=0.0)
    warm = cases(protocol := build_protocol(log, config), "warm")
    assert protocol.user_ids[warm.user_N[-1]] == 10  # of 42 items it touches 10 .. 21
    expected = [*range(1, 10), *range(22, 43)]
    assert protocol.item_ids[warm.negative_NC[-1]].tolist() == expected
    with pytest.raises(ProtocolError, match=r"num_negatives=31 .*user 10 left 30 of 42 items"):
        build_protocol(log, dataclasses.replace(config, num_negatives=31))


def test_negatives_of_a_user_do_not_depend_on_the_others():
    log = dataclasses.replace(random_log(11), declared_items=np.arange(100, 160))
    config = dataclasses.replace(SMALL, catalogue="declared")
    protocol = build_protocol(log, config)
    gone = protocol.user_ids[np.flatnonzero(protocol.role_U == NEW)[0]]  # shifts all rows
    rest = log.user_ids[log.user_E] != gone
    smaller = Interactions.from_ids(
        log.user_ids[log.user_E][rest],
        log.item_ids[log.item_E][rest],
        time=log.time_E[rest],
        rating=log.rating_E[rest],
        name="smaller",
    )
    smaller = dataclasses.replace(smaller, declared_items=log.declared_items)
    reduced = build_protocol(smaller, config)

    def by_user(built):
        found = cases(built, "cold")
        return dict(zip(built.user_ids[found.user_N], found.negative_NC.tolist(), strict=True))

    before, after = by_user(protocol), by_user(reduced)
    common = set(before) & set(after)
    assert len(common) >= 4
    assert all(before[user] == after[user] for user in common)


def test_negatives_are_uniform_over_untouched_items():
    # 2000 users touch items 0 and 1 only, so each of the other 50 is drawn with probability 10/50.
    users, items, wanted = 2000, 52, 10
    user = np.repeat(np.arange(users), 2)
    item = np.tile([0, 1], users)
    log = Interactions.from_ids(user, item, time=np.tile([0, 1], users), name="uniform")
    log = dataclasses.replace(log, declared_items=np.arange(items))
    config = ProtocolConfig(num_negatives=wanted, catalogue="declared", validation_fraction=0.0)
    protocol = build_protocol(log, config)
    drawn = np.concatenate([protocol.negative_NC["warm"], protocol.negative_NC["cold"]])
    count_I = np.bincount(drawn.ravel(), minlength=items)[2:]
    share = wanted / (items - 2)
    deviation = (users * share * (1 - share)) ** 0.5
    assert np.abs(count_I - users * share).max() < 4.5 * deviation
    assert not np.array_equal(protocol.negative_NC["warm"][0], protocol.negative_NC["warm"][1])
    # Pairs too: without replacement, both of two given items are drawn with 10/50 * 9/49.
    both = (drawn == 2).any(1) & (drawn == 3).any(1)
    assert abs(both.mean() - share * 9 / 49) < 4.5 * (share * 9 / 49 / users) ** 0.5
    assert protocol.manifest["never_positive_share"] == 1.0


def test_another_seed_draws_other_negatives_and_scenarios_differ():
    log = random_log(5)
    first = build_protocol(log, SMALL)
    second = build_protocol(log, dataclasses.replace(SMALL, seed=1))
    assert first.manifest["sha256"] != second.manifest["sha256"]
    again = build_protocol(log, SMALL)
    assert first.manifest == again.manifest


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_seen_and_repeated_targets(seed):
    protocol = build_protocol(
        random_log(seed, items=25), dataclasses.replace(SMALL, num_negatives=1)
    )
    learnt = set(training_events(protocol).item_F.tolist())
    for scenario in SCENARIOS:
        found = cases(protocol, scenario)
        for case in range(len(found.user_N)):
            history = found.item_H[found.offset_N1[case] : found.offset_N1[case + 1]]
            assert found.seen_N[case] == (found.target_N[case] in learnt)
            assert found.repeat_N[case] == (found.target_N[case] in history)
        shares = protocol.manifest
        assert shares["unseen_target_share"][scenario] == pytest.approx((~found.seen_N).mean())
        assert shares["repeated_target_share"][scenario] == pytest.approx(found.repeat_N.mean())


def test_seen_items_are_masked_unless_the_log_repeats():
    once = staircase()
    again = dataclasses.replace(once, item_E=once.item_E.copy())
    again.item_E[-1] = again.item_E[-2]  # user 10 does its last but one item twice
    protocol = build_protocol(once, SMALL)
    assert protocol.mask_seen and protocol.manifest["repeat_rate"] == 0.0
    assert not build_protocol(once, dataclasses.replace(SMALL, mask_seen="no")).mask_seen
    protocol = build_protocol(again, SMALL)
    assert not protocol.mask_seen
    assert protocol.manifest["repeat_rate"] == pytest.approx(1 / once.num_events)
    assert build_protocol(again, dataclasses.replace(SMALL, mask_seen="yes")).mask_seen


def test_catalogue_of_positive_items_or_as_declared():
    user = [1, 1, 1, 2, 2, 2, 3, 3]
    item = [10, 20, 30, 20, 40, 10, 30, 20]
    rating = [5, 5, 5, 5, 1, 5, 5, 5]  # item 40 is nobody's positive
    log = Interactions.from_ids(user, item, time=list(range(8)), rating=rating, name="few")
    log = dataclasses.replace(log, declared_items=np.arange(10, 70, 10))
    config = ProtocolConfig(num_negatives=1, validation_fraction=0.0, catalogue="declared")
    protocol = build_protocol(log, config)
    assert protocol.item_ids.tolist() == [10, 20, 30, 40, 50, 60]
    assert not (protocol.item_ids[cases(protocol, "warm").negative_NC[1]] == 40).any()
    # User 1 touched 10, 20, 30; without user 2's low rating nothing but 40, 50, 60 is left.
    assert set(protocol.item_ids[cases(protocol, "warm").negative_NC[0]]) <= {40, 50, 60}
    with pytest.raises(ProtocolError, match="user 1 left 0 of 3 items"):
        build_protocol(log, dataclasses.replace(config, catalogue="positive"))
    with pytest.raises(ConfigError, match="declares no id range"):
        build_protocol(dataclasses.replace(log, declared_items=None), config)


def test_features_follow_the_protocol_codes():
    log = random_log(2)
    log = dataclasses.replace(
        log,
        item_features=np.stack([log.item_ids, log.item_ids * 2], 1).astype(np.float32),
        user_features=log.user_ids[:, None].astype(np.float32),
        declared_items=np.arange(90, 170),
    )
    for catalogue in ("positive", "declared"):
        protocol = build_protocol(log, dataclasses.replace(SMALL, catalogue=catalogue))
        known = np.isin(protocol.item_ids, log.item_ids)
        np.testing.assert_array_equal(protocol.item_features[known, 0], protocol.item_ids[known])
        assert not protocol.item_features[~known].any()
        np.testing.assert_array_equal(protocol.user_features[:, 0], protocol.user_ids)


def text_ids(log: Interactions) -> Interactions:
    """The same log with ids that are text, some of them not ASCII."""
    return Interactions.from_ids(
        np.char.add("ü", log.user_ids.astype(str))[log.user_E],
        np.char.add("item ", log.item_ids.astype(str))[log.item_E],
        time=log.time_E,
        rating=log.rating_E,
        name="text",
    )


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_saved_protocol_loads_equal(tmp_path, kind):
    log = random_log(4)
    log = text_ids(log) if kind == "text" else log
    log = dataclasses.replace(log, item_features=np.ones((log.num_items, 2), np.float32))
    protocol = build_protocol(log, SMALL)
    save_protocol(protocol, tmp_path / "protocol")
    loaded = load_protocol(tmp_path / "protocol")
    for name in (*ARRAYS, "item_features"):
        stored, original = getattr(loaded, name), getattr(protocol, name)
        assert stored.dtype == original.dtype
        np.testing.assert_array_equal(stored, original)
    for scenario in SCENARIOS:
        np.testing.assert_array_equal(loaded.negative_NC[scenario], protocol.negative_NC[scenario])
    assert loaded.user_features is None
    assert loaded.config == protocol.config and loaded.name == protocol.name
    assert loaded.mask_seen == protocol.mask_seen
    assert loaded.manifest == protocol.manifest
    json.dumps(protocol.manifest, allow_nan=False)


@pytest.mark.parametrize("name", [*ARRAYS, "negative_cold", "negative_warm"])
def test_a_changed_array_is_refused_by_name(tmp_path, name):
    save_protocol(build_protocol(random_log(4), SMALL), tmp_path)
    path = tmp_path / f"{name}.npy"
    array = np.load(path)
    array.flat[0] += 1
    np.save(path, array)
    with pytest.raises(WorkdirError, match=f"array {name} has SHA-256"):
        load_protocol(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(WorkdirError, match=f"array {name} cannot be read"):
        load_protocol(tmp_path)
    path.unlink()
    with pytest.raises(WorkdirError, match=f"array {name} is missing"):
        load_protocol(tmp_path)


def test_a_changed_or_unfinished_manifest_is_refused(tmp_path):
    with pytest.raises(WorkdirError, match=r"no manifest\.json"):
        load_protocol(tmp_path / "nowhere")
    save_protocol(build_protocol(random_log(4), SMALL), tmp_path)
    path = tmp_path / "manifest.json"
    stored = json.loads(path.read_text())
    for change, message in (
        ({"format": 99}, "format 99; expected 1"),
        ({"config": {**stored["config"], "keep_new": 9}}, "sha256_all"),
        ({"config": {"surprise": 1}}, "surprise"),
        ({"sha256": {**stored["sha256"], "role_U": "0" * 64}}, "array role_U has SHA-256"),
        ({"sha256": {k: v for k, v in stored["sha256"].items() if k != "item_E"}}, "item_E"),
    ):
        path.write_text(json.dumps({**stored, **change}))
        with pytest.raises(WorkdirError, match=message):
            load_protocol(tmp_path)
    path.write_text("{")
    with pytest.raises(WorkdirError, match="not JSON"):
        load_protocol(tmp_path)


def test_logs_without_enough_users_or_events_are_refused():
    one = Interactions.from_ids([7, 7, 7], [1, 2, 3], time=[1, 2, 3], name="one")
    with pytest.raises(ProtocolError, match="one single user, 7"):
        build_protocol(one, SMALL)
    low = dataclasses.replace(random_log(0), rating_E=np.ones(random_log(0).num_events, "f4"))
    with pytest.raises(ProtocolError, match=rf"min_rating=4.0: .*{low.num_events} events before"):
        build_protocol(low, SMALL)
    each = Interactions.from_ids([1, 2, 3], [1, 2, 3], time=[1, 2, 3], name="each")
    with pytest.raises(ProtocolError, match="no regular user is left of 3"):
        build_protocol(each, SMALL)
    lonely = Interactions.from_ids([1, 1, 1, 2], [1, 2, 3, 1], time=[1, 2, 3, 4], name="lonely")
    half = dataclasses.replace(SMALL, regular_fraction=0.5, num_negatives=1)
    with pytest.raises(ProtocolError, match="no new user with a case"):
        build_protocol(lonely, half)
    pair = Interactions.from_ids([1, 1, 2, 2], [1, 2, 2, 3], time=[1, 2, 3, 4], name="pair")
    with pytest.raises(ProtocolError, match="1 of 1 regular"):
        build_protocol(pair, half)
    assert (
        len(
            cases(
                build_protocol(pair, dataclasses.replace(half, validation_fraction=0.0)),
                "validation",
            ).user_N
        )
        == 0
    )


def test_new_users_with_one_event_have_no_case_and_are_counted():
    log = staircase()
    one = Interactions.from_ids(
        np.append(log.user_ids[log.user_E], 0),
        np.append(log.item_ids[log.item_E], 3),
        time=np.append(log.time_E, 0),
        name="with one",
    )
    protocol = build_protocol(one, SMALL)
    assert roles(protocol)[0] == NEW
    assert 0 not in protocol.user_ids[cases(protocol, "cold").user_N]
    assert protocol.manifest["counts"]["new_without_case"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"regular_fraction": 1.0},
        {"validation_fraction": 1.0},
        {"keep_new": 1},
        {"num_negatives": 0},
        {"new_min": 6},
        {"time_quantile": 0.0},
        {"tie_policy": "random"},
    ],
)
def test_settings_out_of_range_are_refused(change):
    name, value = next(iter(change.items()))
    name = "new_max" if name == "new_min" else name  # 6..5 is empty
    shown = "5" if name == "new_max" else repr(value)
    with pytest.raises(ConfigError, match=rf"protocol\.{name}={shown}: expected"):
        build_protocol(staircase(), dataclasses.replace(SMALL, **change))


def test_scenarios_and_times_that_do_not_exist_are_refused():
    protocol = build_protocol(staircase(), SMALL)
    with pytest.raises(ConfigError, match=r"'colt'.*did you mean 'cold'"):
        cases(protocol, "colt")
    ordered = dataclasses.replace(staircase(), has_time=False)
    with pytest.raises(ConfigError, match=r"user_split='time'.*no timestamps"):
        build_protocol(ordered, dataclasses.replace(SMALL, user_split="time"))


@given(text=st.lists(st.text("abcü0", max_size=5), min_size=1, max_size=8))
def test_hashes_of_text_do_not_depend_on_the_width_of_the_array(text):
    alone = [int(hash_ids(np.array([word]))[0]) for word in text]
    assert hash_ids(np.array(text, "<U12")).tolist() == alone
    assert len(set(alone)) == len(set(text))


def test_hashes_are_splitmix64_and_bounded():
    # First outputs of splitmix64 seeded with 0 (Vigna's reference): state 0, then state + golden.
    golden = 0x9E3779B97F4A7C15
    np.testing.assert_array_equal(
        mix(np.array([0, golden], np.uint64)),
        np.array([0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4], np.uint64),
    )
    draws = below(mix(np.arange(3000, dtype=np.uint64)), 7)
    assert np.bincount(draws, minlength=7).min() > 3000 / 7 * 0.8 and draws.max() == 6
    assert hash_key(0, "ties") != hash_key(0, "negatives/cold") != hash_key(1, "negatives/cold")
    assert hash_key(-1, "ties").dtype == np.uint64


def test_movielens_1m_counts():
    folder = os.environ.get("METACSR_DATA")
    path = pathlib.Path(folder or "") / "ml-1m.parquet"
    if not folder or not path.exists():
        pytest.skip("set METACSR_DATA to a folder with ml-1m.parquet to check the real log")
    import polars

    frame = polars.read_parquet(path)
    log = Interactions.from_ids(
        frame["user"].to_numpy(),
        frame["item"].to_numpy(),
        time=frame["timestamp"].to_numpy(),
        rating=frame["rating"].to_numpy(),
        name="movielens-1m",
    )
    counts = build_protocol(log, ProtocolConfig()).manifest["counts"]
    assert (counts["events"], counts["users"], counts["items"]) == (575_281, 6_038, 3_533)
    assert (counts["regular_before_validation"], counts["new"]) == (4_830, 1_208)
    assert (counts["validation"], counts["cases"]["cold"]) == (483, 1_207)


def test_a_share_of_the_regular_users_leaves_all_other_cases_as_they_are():
    log = random_log(5, users=60)
    whole = build_protocol(log, SMALL)
    parts = {
        share: build_protocol(log, dataclasses.replace(SMALL, training_share=share))
        for share in (0.25, 0.5)
    }
    regular = int((whole.role_U == REGULAR).sum())
    for share, part in parts.items():
        left = np.flatnonzero(part.role_U == REGULAR)
        assert len(left) == round(share * regular)
        assert np.all(whole.role_U[left] == REGULAR)
        assert np.all(
            part.role_U[np.setdiff1d(np.flatnonzero(whole.role_U == REGULAR), left)] == EXCLUDED
        )
        assert part.manifest["counts"]["excluded_by_reason"][
            "beyond_training_share"
        ] == regular - len(left)
        for scenario in ("cold", "validation"):
            one, other = cases(whole, scenario), cases(part, scenario)
            for name in ("user_N", "item_H", "target_N", "negative_NC"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(part.item_ids, whole.item_ids)
    smaller, larger = (np.flatnonzero(parts[share].role_U == REGULAR) for share in (0.25, 0.5))
    assert set(smaller) < set(larger)


def test_a_protocol_from_before_a_later_setting_still_loads(tmp_path):
    protocol = build_protocol(random_log(5), SMALL)
    save_protocol(protocol, tmp_path)
    file = tmp_path / "manifest.json"
    stored = json.loads(file.read_text())
    del stored["config"]["training_share"]
    file.write_text(json.dumps(stored))
    assert load_protocol(tmp_path).manifest["sha256_all"] == protocol.manifest["sha256_all"]
    stored["config"]["training_share"] = 0.5
    file.write_text(json.dumps(stored))
    with pytest.raises(WorkdirError, match="sha256_all"):
        load_protocol(tmp_path)
