"""What the manifest says of a protocol: counts, and the shares a reader of results must know.

Axes: U users, I items, N cases of a scenario.
"""

from typing import Any

import numpy as np

from metacsr_jax.protocol.held_out import cases, training_events
from metacsr_jax.protocol.record import NEW, ROLE_NAMES, SCENARIOS, Protocol
from metacsr_jax.protocol.split import Split


def describe(
    protocol: Protocol,
    split: Split,
    counts: dict[str, int],
    positive_I: np.ndarray,
    repeat_rate: float,
) -> dict[str, Any]:
    """The manifest without hashes: counts, then the shares that a reader of results must know."""
    role_count = np.bincount(protocol.role_U, minlength=len(ROLE_NAMES))
    all_cases = {scenario: cases(protocol, scenario) for scenario in SCENARIOS}
    number = {scenario: len(found.user_N) for scenario, found in all_cases.items()}
    drawn = sum(found.negative_NC.size for found in all_cases.values())
    positive = sum(int(positive_I[found.negative_NC].sum()) for found in all_cases.values())
    new = int(role_count[NEW])
    return {
        "seed": protocol.config.seed,
        "tie_policy": protocol.config.tie_policy,
        "time_cut": split.time_cut,
        "counts": {
            **counts,
            "users": protocol.num_users,
            "items": protocol.num_items,
            "regular_before_validation": split.regular_before_validation,
            **{name: int(role_count[code]) for code, name in enumerate(ROLE_NAMES)},
            "excluded_by_reason": split.excluded,
            "cases": number,
            "new_without_case": new - number["cold"],
            "training_events": len(training_events(protocol).item_F),
            "kept_events": len(protocol.item_E),
        },
        "tie_share": {name: tie_share(protocol, found.user_N) for name, found in all_cases.items()},
        "repeat_rate": repeat_rate,
        "never_positive_share": 1 - positive / drawn,
        "unseen_target_share": {name: share(~found.seen_N) for name, found in all_cases.items()},
        "repeated_target_share": {name: share(found.repeat_N) for name, found in all_cases.items()},
    }


def tie_share(protocol: Protocol, user_N: np.ndarray) -> float | None:
    """Share of cases whose target has the timestamp of the event before it; None without cases."""
    last_N = protocol.offset_U1[user_N.astype(np.int64) + 1] - 1
    return share(protocol.time_E[last_N] == protocol.time_E[last_N - 1])


def share(flag_N: np.ndarray) -> float | None:
    """Mean of flags; None where there are none (JSON has no NaN)."""
    return float(flag_N.mean()) if len(flag_N) else None
