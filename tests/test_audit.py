"""The audit: sound protocols pass, and each leak that is planted is refused with an example."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metacsr_jax.audit import audit, check_graph
from metacsr_jax.config import ProtocolConfig
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.errors import LeakError
from metacsr_jax.protocol import (
    EXCLUDED,
    NEW,
    REGULAR,
    SCENARIOS,
    VALIDATION,
    Training,
    build_protocol,
    cases,
    training_events,
)

CONFIG = ProtocolConfig(num_negatives=5, keep_new=6)


def random_log(
    seed: int = 0, users: int = 40, items: int = 70, times: int = 12, pace: int = 0
) -> Interactions:
    """Users of 4 to 20 rated events, tied and repeated; user u joins at pace * u."""
    generator = np.random.default_rng(seed)
    user = np.repeat(np.arange(users) * 3 + 1000, generator.integers(4, 21, users))
    return Interactions.from_ids(
        user,
        generator.integers(0, items, len(user)) + 500,
        time=generator.integers(0, times, len(user)) * 60 + pace * user,
        rating=generator.choice([2.0, 5.0], len(user), p=[0.2, 0.8]),
        name="random",
    )


@pytest.fixture
def log() -> Interactions:
    return random_log()


@pytest.fixture
def protocol(log):
    return build_protocol(log, CONFIG)


def with_event(training: Training, row: int, item: int, time: int) -> Training:
    """The training events with one more at the end of a user's row."""
    stop = training.offset_R1[row + 1]
    offset_R1 = training.offset_R1.copy()
    offset_R1[row + 1 :] += 1
    return Training(
        training.user_R,
        offset_R1,
        np.insert(training.item_F, stop, item),
        np.insert(training.time_F, stop, time),
    )


def with_negative(protocol, scenario, place, item):
    """The protocol with one negative of a scenario, at (case, column), replaced."""
    negative_NC = protocol.negative_NC[scenario].copy()
    negative_NC[place] = item
    return dataclasses.replace(
        protocol, negative_NC={**protocol.negative_NC, scenario: negative_NC}
    )


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    split=st.sampled_from(["quantile", "range", "time"]),
    tie_policy=st.sampled_from(["hash", "file"]),
)
def test_built_protocols_pass(seed, split, tie_policy):
    log = random_log(seed, pace=90 if split == "time" else 0)  # some must join late
    config = dataclasses.replace(CONFIG, user_split=split, tie_policy=tie_policy, new_max=9)
    protocol = build_protocol(log, config)
    report = audit(protocol, log=log)
    assert report.tie_share == protocol.manifest["tie_share"]
    assert report.unseen_target_share == protocol.manifest["unseen_target_share"]
    assert report.repeated_target_share == protocol.manifest["repeated_target_share"]
    training = training_events(protocol)
    check_graph(protocol, np.repeat(training.user_R, np.diff(training.offset_R1)), training.item_F)


def test_report_names_every_share(protocol, log):
    report = audit(protocol, log=log)
    assert report.users == {name: protocol.manifest["counts"][name] for name in report.users}
    assert report.cases == protocol.manifest["counts"]["cases"]
    assert report.training_events == len(training_events(protocol).item_F)
    cold = cases(protocol, "cold")
    assert report.unseen_target_share["cold"] == pytest.approx(1 - cold.seen_N.mean())
    text = str(report)
    assert text == "\n".join(report.lines())
    for part in ("tied", "never seen", "repeat", "nobody's positive", "the full log"):
        assert part in text
    assert f"cold {report.tie_share['cold']:.2%}" in text
    assert "the protocol's events" in str(audit(protocol))


def test_shares_without_cases_are_left_out(log):
    protocol = build_protocol(log, dataclasses.replace(CONFIG, validation_fraction=0.0))
    report = audit(protocol)
    assert report.tie_share["validation"] is None
    assert "validation 0" in str(report) and "nan" not in str(report)


def test_tie_share_counts_targets_at_the_time_of_the_event_before():
    # Three of four users end on a tie; both kinds of target are counted per scenario.
    times = {1: [1, 2, 2], 2: [1, 2, 3, 3], 3: [1, 2, 3, 4, 5], 4: [1, 2, 3, 4, 4]}
    rows = [(u, 10 * u + k, t) for u, all_t in times.items() for k, t in enumerate(all_t)]
    user, item, time = np.array(rows).T
    log = Interactions.from_ids(user, item, time=time, name="ties")
    config = ProtocolConfig(num_negatives=2, regular_fraction=0.5, validation_fraction=0.0)
    report = audit(build_protocol(log, config), log=log)
    assert report.tie_share == {"cold": 2 / 2, "warm": 1 / 2, "validation": None}


@pytest.mark.parametrize("role", [NEW, VALIDATION])
def test_a_user_with_two_roles_is_refused(protocol, role):
    training = training_events(protocol)
    intruder = np.flatnonzero(protocol.role_U == role)[0]
    user_R = training.user_R.copy()
    user_R[3] = intruder
    name = {NEW: "new", VALIDATION: "validation"}[role]
    with pytest.raises(
        LeakError, match=f"user {protocol.user_ids[intruder]} is {name} and also among the training"
    ):
        audit(protocol, training._replace(user_R=user_R))


def test_a_user_id_given_twice_is_refused(protocol):
    new = np.flatnonzero(protocol.role_U == NEW)[0]
    regular = np.flatnonzero(protocol.role_U == REGULAR)[0]
    user_ids = protocol.user_ids.copy()
    user_ids[new] = user_ids[regular]
    with pytest.raises(LeakError, match=f"user {user_ids[regular]} is twice .* (new|regular) and"):
        audit(dataclasses.replace(protocol, user_ids=user_ids))


def test_excluded_users_with_events_and_unknown_roles_are_refused(protocol):
    role_U = protocol.role_U.copy()
    role_U[2] = EXCLUDED
    with pytest.raises(LeakError, match=f"user {protocol.user_ids[2]} is excluded but has"):
        audit(dataclasses.replace(protocol, role_U=role_U))
    role_U[2] = 7
    with pytest.raises(LeakError, match=f"user {protocol.user_ids[2]} has role 7"):
        audit(dataclasses.replace(protocol, role_U=role_U))


def test_a_held_out_event_in_training_is_refused(protocol):
    training, warm = training_events(protocol), cases(protocol, "warm")
    leaky = with_event(training, 2, warm.target_N[2], warm.time_N[2])
    user = protocol.user_ids[warm.user_N[2]]
    item = protocol.item_ids[warm.target_N[2]]
    with pytest.raises(
        LeakError, match=rf"user {user}, item {item} at {warm.time_N[2]} is the held-out"
    ):
        audit(protocol, leaky)
    # The same item earlier is another event, and a later event of any item is one too late.
    audit(protocol, with_event(training, 2, warm.target_N[2], warm.time_N[2] - 1))
    late = with_event(training, 2, warm.target_N[2] - 1, warm.time_N[2] + 1)
    with pytest.raises(LeakError, match=rf"user {user}, .* is later than the held-out event"):
        audit(protocol, late)


def test_held_out_events_in_the_graph_are_refused(protocol):
    training, warm = training_events(protocol), cases(protocol, "warm")
    user_G = np.repeat(training.user_R, np.diff(training.offset_R1))
    case = int(np.flatnonzero(~warm.repeat_N)[0])
    user, item = warm.user_N[case], warm.target_N[case]
    named = f"user {protocol.user_ids[user]}, item {protocol.item_ids[item]}"
    with pytest.raises(LeakError, match=f"{named} is the held-out event"):
        check_graph(protocol, np.append(user_G, user), np.append(training.item_F, item))
    new = cases(protocol, "cold")
    with pytest.raises(LeakError, match="but the user is new"):
        check_graph(
            protocol, np.append(user_G, new.user_N[0]), np.append(training.item_F, new.item_H[0])
        )
    with pytest.raises(LeakError, match="is in no training event"):
        check_graph(protocol, np.array([user]), warm.negative_NC[case, :1])
    with pytest.raises(LeakError, match=f"item code {protocol.num_items} at place 0"):
        check_graph(protocol, np.array([user]), np.array([protocol.num_items]))


def test_an_item_repeated_as_target_may_stay_in_the_graph(protocol):
    warm = cases(protocol, "warm")
    case = np.flatnonzero(warm.repeat_N)
    assert len(case)  # the log has repeats
    check_graph(protocol, warm.user_N[case], warm.target_N[case])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_target_event_among_the_support_is_refused(protocol, scenario):
    found = cases(protocol, scenario)
    target = protocol.offset_U1[found.user_N[1] + 1] - 1
    item_E, time_E = protocol.item_E.copy(), protocol.time_E.copy()
    item_E[target - 1], time_E[target - 1] = item_E[target], time_E[target]
    user = protocol.user_ids[found.user_N[1]]
    with pytest.raises(LeakError, match=f"user {user}, .* is the target event and also among"):
        audit(dataclasses.replace(protocol, item_E=item_E, time_E=time_E))
    time_E[target - 1] += 1
    with pytest.raises(LeakError, match=f"user {user}, .* but later than its time"):
        audit(dataclasses.replace(protocol, item_E=item_E, time_E=time_E))


def test_histories_that_reach_the_target_are_refused(protocol):
    found = cases(protocol, "cold")
    stop = found.offset_N1[1]
    offset_N1 = found.offset_N1.copy()
    offset_N1[1:] += 1
    longer = found._replace(
        offset_N1=offset_N1, item_H=np.insert(found.item_H, stop, found.target_N[0])
    )
    with pytest.raises(LeakError, match=f"cold: the history of user .* has {stop + 1} events"):
        audit(protocol, held_out={"cold": longer})
    shifted = found.item_H.copy()
    shifted[stop - 1] = (shifted[stop - 1] + 1) % protocol.num_items
    with pytest.raises(LeakError, match="holds item"):
        audit(protocol, held_out={"cold": found._replace(item_H=shifted)})
    # The latest events alone are a fair history.
    offset_N1 = np.maximum(found.offset_N1 - 1, 0)
    audit(protocol, held_out={"cold": found._replace(offset_N1=offset_N1, item_H=found.item_H[1:])})


def test_cases_of_other_users_or_events_are_refused(protocol):
    with pytest.raises(LeakError, match=r"cold: cases of .* another role"):
        audit(protocol, held_out={"cold": cases(protocol, "warm")})
    found = cases(protocol, "warm")
    with pytest.raises(LeakError, match=r"warm: the target of user .* not the last kept event"):
        audit(protocol, held_out={"warm": found._replace(target_N=np.roll(found.target_N, 1))})


def test_a_seen_item_among_the_negatives_is_refused(protocol, log):
    found = cases(protocol, "cold")

    def plant(item):
        return with_negative(protocol, "cold", (1, 2), item)

    seen = found.item_H[found.offset_N1[1]]
    user, item = protocol.user_ids[found.user_N[1]], protocol.item_ids[seen]
    message = f"cold: user {user}, item {item} is a seen item among the negatives"
    for full in (None, log):
        with pytest.raises(LeakError, match=message):
            audit(plant(seen), log=full)
    # Rated low or dropped: only the full log knows.
    touched = log.item_ids[log.item_E[log.user_ids[log.user_E] == user]]
    start, stop = protocol.offset_U1[found.user_N[1] : found.user_N[1] + 2]
    hidden = np.setdiff1d(touched, protocol.item_ids[protocol.item_E[start:stop]])
    hidden = np.flatnonzero(np.isin(protocol.item_ids, hidden))
    assert len(hidden)
    audit(plant(hidden[0]))
    with pytest.raises(LeakError, match=f"item {protocol.item_ids[hidden[0]]} is a seen item"):
        audit(plant(hidden[0]), log=log)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_spoilt_negatives_are_refused(protocol, scenario):
    target = cases(protocol, scenario).target_N[0]
    second, items = protocol.negative_NC[scenario][0, 1], protocol.num_items
    for column, planted, message in (
        (3, target, "the target and a negative"),
        (4, second, "twice among the negatives"),
        (0, items, f"negative code {items} at place 0"),
        (0, -1, "negative code -1 at place 0"),
    ):
        with pytest.raises(LeakError, match=f"{scenario}: .*{message}"):
            audit(with_negative(protocol, scenario, (0, column), planted))
    short = {**protocol.negative_NC, scenario: protocol.negative_NC[scenario][1:]}
    with pytest.raises(LeakError, match=f"{scenario}: negatives of shape"):
        audit(dataclasses.replace(protocol, negative_NC=short))


def test_codes_and_offsets_out_of_range_are_refused(protocol):
    training = training_events(protocol)
    for field, code in (("item_F", protocol.num_items), ("user_R", -1)):
        spoilt = getattr(training, field).copy()
        spoilt[0] = code
        with pytest.raises(LeakError, match=f"training: .* code {code} at place 0"):
            audit(protocol, training._replace(**{field: spoilt}))
    item_E = protocol.item_E.copy()
    item_E[5] = protocol.num_items
    with pytest.raises(LeakError, match=f"code {protocol.num_items} at place 5"):
        audit(dataclasses.replace(protocol, item_E=item_E))
    with pytest.raises(LeakError, match="training: offsets do not cut"):
        audit(protocol, training._replace(offset_R1=training.offset_R1[:-1]))
    with pytest.raises(LeakError, match=r"training: \d+ times for"):
        audit(protocol, training._replace(time_F=training.time_F[1:]))
    with pytest.raises(LeakError, match="protocol: offsets do not cut"):
        audit(dataclasses.replace(protocol, offset_U1=protocol.offset_U1 + 1))
