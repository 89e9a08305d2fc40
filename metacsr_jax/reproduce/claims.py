"""The paper's claims and their verdicts. A verdict is computed from intervals; none is written by hand.

A claim is one or several parts, each a number that it says to be above a bound (`evidence.py`). It holds where all of their intervals lie
above the bounds, does not where one of them lies below, and cannot be told otherwise.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from metacsr_jax.registry import MODELS
from metacsr_jax.report.paper import RIVALS
from metacsr_jax.reproduce import evidence
from metacsr_jax.reproduce.evidence import CLOSE, ENOUGH, SMALL_MOVE, Part
from metacsr_jax.reproduce.plan import WITH_MEAN, WITHOUT_DIFFUSION, WITHOUT_META
from metacsr_jax.reproduce.results import Results

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
AMAZON = "amazon-video"
EACH_BASELINE = "Against each of the paper's eight baselines, by AUC and by MAP."
COMPONENTS = (WITHOUT_DIFFUSION, WITH_MEAN, WITHOUT_META)
LENGTHS = tuple(f"metacsr-length-{length}" for length in (5, 15, 20, 25))
BEYOND = "beyond"
ENERGY = "By the energy distance of the two clouds"


class Verdict(NamedTuple):
    """A judged claim.

    Attributes:
        key: short name.
        question: RQ1 to RQ5, the section, or `BEYOND` the paper.
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


def judge(parts: tuple[Part, ...]) -> str:
    """The verdict that the parts' intervals give."""
    if not parts:
        return OPEN
    if all(part.point.low > part.bound for part in parts):
        return HOLDS
    if any(part.point.high < part.bound for part in parts):
        return FAILS
    return OPEN


class Claim(NamedTuple):
    """A claim before it is judged.

    Attributes:
        key, question, claim, exhibits, note: as in `Verdict`.
        parts: computes what decides.
        needs: runs without which it cannot hold, whatever the others say.
        only: the log that the paper says it of; empty: any.
        but: a log that the paper says something else of.
    """

    key: str
    question: str
    claim: str
    exhibits: tuple[str, ...]
    parts: Callable[[Results], tuple[Part, ...]]
    note: str = ""
    needs: tuple[str, ...] = ()
    only: str = ""
    but: str = ""


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "first-cold",
        "RQ1",
        "metaCSR is first in Table 3.",
        ("table3", "fig3"),
        lambda results: evidence.ahead(results, "metacsr", RIVALS, "cold"),
        EACH_BASELINE,
        RIVALS,
    ),
    Claim(
        "bpr-worst",
        "RQ1",
        "BPR is worse than the other baselines.",
        ("table3",),
        evidence.bpr_is_worst,
        "MAP of each other baseline minus BPR's, cold.",
        RIVALS,
    ),
    Claim(
        "csan-over-lstm",
        "RQ1",
        "CSAN is better than LSTM.",
        ("table3",),
        lambda results: evidence.ahead(results, "csan", ("lstm",), "cold"),
        "By AUC and by MAP, cold.",
    ),
    Claim(
        "best-baselines",
        "RQ1",
        "SML and MetaCF are the best baselines.",
        ("table3",),
        evidence.best_baselines,
        "The better of the two minus each of the other six, by MAP, cold.",
        RIVALS,
    ),
    Claim(
        "first-warm",
        "RQ2",
        "metaCSR is first in Table 4.",
        ("table4", "fig4"),
        lambda results: evidence.ahead(results, "metacsr", RIVALS, "warm"),
        EACH_BASELINE,
        RIVALS,
        but=AMAZON,
    ),
    Claim(
        "csan-warm",
        "RQ2",
        "On Amazon, CSAN is ahead of metaCSR in Table 4.",
        ("table4", "fig4"),
        lambda results: evidence.ahead(results, "csan", ("metacsr",), "warm"),
        "By AUC and by MAP, warm.",
        only=AMAZON,
    ),
    Claim(
        "part-of-data",
        "RQ3",
        "25 to 85 % of the training data suffice to match the best baseline.",
        ("fig5",),
        evidence.part_of_the_data,
        f"The largest share measured of at most {ENOUGH:.0%}: not more than {CLOSE:g} below each of the paper's baselines with all.",
        RIVALS,
    ),
    Claim(
        "components",
        "RQ4",
        "Every component pays.",
        ("table5",),
        evidence.components_pay,
        "metaCSR minus itself without each, by AUC and by MAP, cold.",
        COMPONENTS,
    ),
    Claim(
        "meta-most",
        "RQ4",
        "The Meta Learner pays most.",
        ("table5",),
        evidence.meta_pays_most,
        "Without each of the other two components, minus without the Meta Learner, cold.",
        COMPONENTS,
    ),
    Claim(
        "fast",
        "RQ5",
        "metaCSR converges after a few updates and keeps its performance.",
        ("fig6",),
        evidence.converges_fast,
        f"After one step it is above the network without Meta Learner, and within {CLOSE:g} AUC of itself after 20.",
    ),
    Claim(
        "new-closer",
        "RQ5",
        "New users' preferences and the items lie closer together with the Meta Learner.",
        ("fig7",),
        lambda results: evidence.clouds_closer(results, "cold"),
        f"{ENERGY}, fine-tuned.",
    ),
    Claim(
        "regular-closer",
        "RQ5",
        "Regular users' preferences and the items lie closer together with the Meta Learner.",
        ("fig8",),
        lambda results: evidence.clouds_closer(results, "warm"),
        f"{ENERGY}, fine-tuned.",
    ),
    Claim(
        "overlap",
        "RQ5",
        "Positive and negative pairs overlap less with the Meta Learner.",
        ("fig9",),
        evidence.less_overlap,
        "New users, fine-tuned; area under both histograms.",
    ),
    Claim(
        "new-below-regular",
        "RQ5",
        "Positive pairs of new users are less similar than those of regular users.",
        ("fig9",),
        evidence.new_below_regular,
        "metaCSR, fine-tuned; mean inner product.",
    ),
    Claim(
        "no-shift",
        "RQ5",
        "Fine-tuning hardly moves metaCSR's preferences, and moves those without Meta Learner more.",
        ("fig10", "fig11"),
        evidence.hardly_moves,
        f"Hardly: less than {SMALL_MOVE:g} of the root mean square distance of new users' preferences from their mean.",
    ),
    Claim(
        "mixed",
        "RQ5",
        "New and regular users' preferences merge with the Meta Learner more than without.",
        ("fig10", "fig11"),
        evidence.well_mixed,
        f"{ENERGY}.",
    ),
    Claim(
        "ten",
        "4.3",
        "T = 10 is the best length of the input.",
        ("fig12",),
        evidence.ten_is_best,
        "By MAP, cold and warm. New users have at most nine events of context, so that a longer T changes their training alone.",
        LENGTHS,
    ),
    Claim(
        "first-of-all-cold",
        BEYOND,
        "metaCSR is ahead of every model, those included that the paper lacks, cold.",
        ("table3", "fig3"),
        lambda results: evidence.ahead_of_all(results, "cold"),
        "Not the paper's claim: against each other model of the table, by AUC and by MAP.",
        tuple(MODELS),
    ),
    Claim(
        "first-of-all-warm",
        BEYOND,
        "metaCSR is ahead of every model, those included that the paper lacks, warm.",
        ("table4", "fig4"),
        lambda results: evidence.ahead_of_all(results, "warm"),
        "Not the paper's claim: against each other model of the table, by AUC and by MAP.",
        tuple(MODELS),
    ),
)


def judge_all(results: Results, exhibits: Sequence[str]) -> list[Verdict]:
    """Judges the claims that the exhibits show and the paper makes of this log."""
    found = []
    for claim in CLAIMS:
        if not set(claim.exhibits) & set(exhibits) or claim.but == results.dataset:
            continue
        if claim.only and claim.only != results.dataset:
            continue
        parts = claim.parts(results)
        verdict, note = judge(parts), claim.note
        missing = [name for name in claim.needs if not results.has(name)]
        if not parts:
            note += " Not measured: runs are missing."
        elif missing:
            note += f" Not measured: {', '.join(missing)}."
            verdict = OPEN if verdict == HOLDS else verdict
        start = claim.key, claim.question, claim.claim, claim.exhibits
        found.append(Verdict(*start, verdict, parts, note))
    return found
