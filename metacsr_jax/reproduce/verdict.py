"""How a claim is judged. A verdict is computed from intervals; none is written by hand."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

from metacsr_jax.reproduce.evidence import Part
from metacsr_jax.reproduce.results import Results, length_share

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
EVEN = 2.0  # trainings cut to shares of their lengths that are further apart are not compared


class Verdict(NamedTuple):
    """A judged claim.

    Attributes:
        key: short name.
        question: RQ1 to RQ5, the section, or "beyond" the paper.
        claim: what the paper says.
        exhibits: where the numbers are.
        verdict: `HOLDS`, `FAILS` or `OPEN`.
        parts: what decides.
        note: how the claim was made measurable, or why there is nothing to judge.
    """

    key: str
    question: str
    claim: str
    exhibits: tuple[str, ...]
    verdict: str
    parts: tuple[Part, ...]
    note: str = ""


Rule = Callable[[Sequence[Part]], str]


def of_part(part: Part) -> str:
    """Where a part's interval lies; of unequally shortened trainings nothing can be told."""
    if not part.even:
        return OPEN
    if part.point.low > part.bound:
        return HOLDS
    return FAILS if part.point.high < part.bound else OPEN


def every(parts: Sequence[Part]) -> str:
    """Holds where all parts lie above their bounds, does not where one lies below."""
    found = [of_part(part) for part in parts]
    if not found:
        return OPEN
    if set(found) == {HOLDS}:
        return HOLDS
    return FAILS if FAILS in found else OPEN


def mostly(parts: Sequence[Part]) -> str:
    """ "In most cases": more than half of the parts lie above their bounds, or below."""
    found = [of_part(part) for part in parts]
    for verdict in (HOLDS, FAILS):
        if 2 * found.count(verdict) > len(found):
            return verdict
    return OPEN


def somewhere(parts: Sequence[Part]) -> str:
    """ "Some suffices": holds where every part of one group does, does not where each group fails."""
    groups = [every(list(group)) for _, group in groupby(parts, key=lambda part: part.group)]
    if HOLDS in groups:
        return HOLDS
    return FAILS if groups and set(groups) == {FAILS} else OPEN


class Claim(NamedTuple):
    """A claim before it is judged.

    Attributes:
        key, question, claim, exhibits, note: as in `Verdict`.
        parts: computes what decides.
        rule: from parts to verdict.
        needs: runs without which it cannot hold, whatever the others say.
        only: the logs that the paper says it of; empty: any.
        but: logs that the paper says something else of.
    """

    key: str
    question: str
    claim: str
    exhibits: tuple[str, ...]
    parts: Callable[[Results], tuple[Part, ...]]
    note: str = ""
    rule: Rule = every
    needs: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()


def judge_all(
    claims: Sequence[Claim], results: Results, exhibits: Sequence[str]
) -> tuple[list[Verdict], dict[str, str]]:
    """Judges the claims that the exhibits show and the paper makes of this log.

    Args:
        claims: of `claims.CLAIMS`.
        results: all of them.
        exhibits: on the page.

    Returns:
        The verdicts, and why claims could not be judged by key.
    """
    found, failed = [], {}
    for claim in claims:
        if not set(claim.exhibits) & set(exhibits) or results.dataset in claim.but:
            continue
        if claim.only and results.dataset not in claim.only:
            continue
        note = claim.note
        try:
            parts = tuple(part._replace(even=_even(results, part)) for part in claim.parts(results))
        except Exception as error:  # damaged files of one run: the other claims are none the worse
            failed[claim.key] = f"{type(error).__name__}: {error}"
            parts = ()
        verdict = claim.rule(parts)
        missing = [name for name in claim.needs if not results.has(name)]
        if claim.key in failed:
            note += " Not measured: see the notes at the top."
        elif not parts:
            note += " Not measured: runs are missing."
        elif missing:
            note += f" Not measured: {', '.join(missing)}."
            if verdict == HOLDS or claim.rule is mostly:
                verdict = OPEN
        uneven = sorted({name for part in parts if not part.even for name in part.runs})
        if uneven:
            shares = ", ".join(f"{name} {length_share(results, name):.0%}" for name in uneven)
            note += (
                f" Differences between trainings cut to unequal shares decide nothing: {shares}."
            )
        start = claim.key, claim.question, claim.claim, claim.exhibits
        found.append(Verdict(*start, verdict, parts, note))
    return found, failed


def _even(results: Results, part: Part) -> bool:
    """Whether the trainings that a part compares were cut to like shares of their lengths."""
    if results.options.budget == 1 or not part.runs:
        return True
    shares = [length_share(results, name) for name in part.runs]
    return max(shares) <= EVEN * min(shares)
