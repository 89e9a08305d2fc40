"""The audit: refuses leaks, and reports the shares without which no result can be read.

Axes: I items, N cases. Leaks are by event (user, item, time): the same item at another time is
legitimate.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from metacsr_jax.audit.events import check_protocol, check_training
from metacsr_jax.audit.held_out import check_histories, check_negatives, touched_pairs
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.protocol import (
    ROLE_NAMES,
    SCENARIOS,
    Cases,
    Protocol,
    Training,
    cases,
    training_events,
)
from metacsr_jax.protocol.manifest import share, tie_share


@dataclasses.dataclass(frozen=True)
class AuditReport:
    """What a reader of results must know; shares are in [0, 1], None where there are no cases."""

    name: str  # of the data set
    users: Mapping[str, int]  # role -> users
    cases: Mapping[str, int]  # scenario -> N
    training_events: int
    negatives_against: str  # which events the negatives were checked against
    tie_share: Mapping[
        str, float | None
    ]  # cases whose target shares its time with the event before
    repeat_rate: float  # positive events whose user had the item before
    never_positive_share: float  # negatives that nobody has a positive event with
    unseen_target_share: Mapping[str, float | None]  # targets that are in no training event
    repeated_target_share: Mapping[str, float | None]  # targets that are in their own history

    def lines(self) -> list[str]:
        """The report as text, one fact a line."""

        def per_scenario(shares: Mapping[str, float | None]) -> str:
            known = {name: value for name, value in shares.items() if value is not None}
            return ", ".join(f"{name} {value:.2%}" for name, value in known.items())

        def counted(counts: Mapping[str, int]) -> str:
            return ", ".join(f"{name} {count:,}" for name, count in counts.items())

        return [
            f"audit of {self.name}: no leak found",
            f"  users: {counted(self.users)}",
            f"  cases: {counted(self.cases)}",
            f"  training events: {self.training_events:,}",
            f"  negatives checked against: {self.negatives_against}",
            f"  targets tied with the event before: {per_scenario(self.tie_share)}",
            f"  targets never seen in training: {per_scenario(self.unseen_target_share)}",
            f"  targets already in the history: {per_scenario(self.repeated_target_share)}",
            f"  events that repeat an item of their user: {self.repeat_rate:.2%}",
            f"  negatives that are nobody's positive: {self.never_positive_share:.2%}",
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def audit(
    protocol: Protocol,
    training: Training | None = None,
    log: Interactions | None = None,
    held_out: Mapping[str, Cases] | None = None,
) -> AuditReport:
    """Checks the arrays that a model will really read.

    Args:
        protocol: the artefact.
        training: what samples and graph are made of; `training_events(protocol)` unless given.
        log: the full log, where at hand: negatives are checked against all that users did in it.
        held_out: scenario -> cases as evaluated; `cases(protocol, scenario)` unless given.

    Returns:
        The shares to report next to any result.

    Raises:
        LeakError: naming the first user, item and time found, by original ids.
    """
    check_protocol(protocol)
    training = training_events(protocol) if training is None else training
    check_training(protocol, training)
    if held_out is None:
        held_out = {scenario: cases(protocol, scenario) for scenario in SCENARIOS}
    pair_S = touched_pairs(protocol, log)
    for scenario, found in held_out.items():
        check_histories(protocol, scenario, found)
        check_negatives(protocol, scenario, found, pair_S)

    seen_I = np.zeros(protocol.num_items, bool)
    seen_I[training.item_F] = True
    role_count = np.bincount(protocol.role_U, minlength=len(ROLE_NAMES))
    return AuditReport(
        name=protocol.name,
        users={name: int(role_count[code]) for code, name in enumerate(ROLE_NAMES)},
        cases={name: len(found.user_N) for name, found in held_out.items()},
        training_events=len(training.item_F),
        negatives_against="the protocol's events" if log is None else "the full log",
        tie_share={name: tie_share(protocol, found.user_N) for name, found in held_out.items()},
        repeat_rate=protocol.manifest["repeat_rate"],
        never_positive_share=protocol.manifest["never_positive_share"],
        unseen_target_share={
            name: share(~seen_I[found.target_N]) for name, found in held_out.items()
        },
        repeated_target_share={name: share(found.repeat_N) for name, found in held_out.items()},
    )
