"""The paper's claims, one by one, and what decides each of them (`evidence.py`, `evidence_inside.py`)."""

from metacsr_jax.registry import MODELS
from metacsr_jax.report.paper import RIVALS
from metacsr_jax.reproduce import evidence, evidence_inside
from metacsr_jax.reproduce.evidence import CLOSE, DATA, FEATURE_WISE_LOGS
from metacsr_jax.reproduce.evidence_inside import SMALL_MOVE, WORTH
from metacsr_jax.reproduce.plan import WITH_MEAN, WITHOUT_DIFFUSION, WITHOUT_META
from metacsr_jax.reproduce.verdict import Claim, mostly, somewhere

AMAZON = "amazon-video"
EACH_BASELINE = "Against each of the paper's eight baselines, by AUC and by MAP."
COMPONENTS = (WITHOUT_DIFFUSION, WITH_MEAN, WITHOUT_META)
LENGTHS = tuple(f"metacsr-length-{length}" for length in (5, 15, 20, 25))
BEYOND = "beyond"
CLOSER = (
    "By the energy distance of the two clouds, not fine-tuned and fine-tuned; "
    f"closer: by {WORTH:.0%} of the distance without Meta Learner."
)
CURVES = "Against each of the paper's eight baselines, Hit@N and NDCG@N at N = 5, 10, 20."
ALL_OF_TABLE = "Not the paper's claim: against each other model of the table, by AUC and by MAP."

# Said by the paper, and not judged.
NOT_JUDGED = (
    "that users' preferences are “more evenly and regularly distributed” with the Meta Learner (it names no measure)",
    "that the meta-learning baselines are better than BPR (in its own Table 3 half of the cases lie the other way; "
    "they are among those of the claim on BPR)",
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "first-cold",
        "RQ1",
        "metaCSR is first in Table 3.",
        ("table3",),
        lambda results: evidence.ahead(
            # On Amazon the paper's own AUC is second.
            results,
            "metacsr",
            RIVALS,
            "cold",
            ("map",) if results.dataset == AMAZON else ("auc", "map"),
        ),
        f"{EACH_BASELINE} On Amazon by MAP alone, where the paper's own AUC is second.",
        needs=RIVALS,
    ),
    Claim(
        "first-curves-cold",
        "RQ1",
        "metaCSR is first in Figure 3.",
        ("fig3",),
        lambda results: evidence.ahead(results, "metacsr", RIVALS, "cold", evidence.CUTOFFS),
        CURVES,
        needs=RIVALS,
    ),
    Claim(
        "bpr-worst",
        "RQ1",
        "BPR is worse than the other baselines in most cases.",
        ("table3",),
        evidence.bpr_is_worst,
        "Cases: each other baseline minus BPR, by AUC and by MAP, cold; more than half must lie above 0.",
        mostly,
        RIVALS,
    ),
    Claim(
        "csan-over-lstm",
        "RQ1",
        "CSAN is better than LSTM in most cases.",
        ("table3", "table4"),
        evidence.csan_over_lstm,
        "Cases: by AUC and by MAP, cold and warm; more than half must lie above 0.",
        mostly,
        ("csan", "lstm"),
    ),
    Claim(
        "csan-over-meta",
        "RQ1",
        "CSAN is better than MeLU, MetaCS-L and MetaCS-DNN.",
        ("table3",),
        lambda results: evidence.ahead(results, "csan", evidence.SIMPLE_META, "cold"),
        "Cases: by AUC and by MAP, cold; more than half must lie above 0 (on Last.fm one of the paper's six does not).",
        mostly,
        ("csan", *evidence.SIMPLE_META),
        only=FEATURE_WISE_LOGS,
    ),
    Claim(
        "best-baselines",
        "RQ1",
        "SML and MetaCF are better than the other baselines in most cases.",
        ("table3",),
        evidence.best_baselines,
        "Cases: each of the two minus each of the other six, by AUC and by MAP, cold; more than half must lie above 0.",
        mostly,
        RIVALS,
    ),
    Claim(
        "first-warm",
        "RQ2",
        "metaCSR is first in Table 4.",
        ("table4",),
        lambda results: evidence.ahead(results, "metacsr", RIVALS, "warm"),
        EACH_BASELINE,
        needs=RIVALS,
        but=(AMAZON,),
    ),
    Claim(
        "first-curves-warm",
        "RQ2",
        "metaCSR is first in Figure 4.",
        ("fig4",),
        lambda results: evidence.ahead(results, "metacsr", RIVALS, "warm", evidence.CUTOFFS),
        CURVES,
        needs=RIVALS,
        but=(AMAZON,),
    ),
    Claim(
        "csan-warm",
        "RQ2",
        "On Amazon, CSAN is ahead of metaCSR in Table 4.",
        ("table4",),
        lambda results: evidence.ahead(results, "csan", ("metacsr",), "warm", ("map",)),
        "By MAP: the paper's own AUC has metaCSR ahead.",
        only=(AMAZON,),
    ),
    Claim(
        "part-of-data",
        "RQ3",
        "25 to 85 % of the training data suffice to match the best baseline.",
        ("fig5",),
        evidence.part_of_the_data,
        f"A share measured between {DATA[0]:.0%} and {DATA[1]:.0%} with which metaCSR is not more than {CLOSE:g} below any of the "
        "paper's baselines with all, by AUC and by MAP; it does not hold where every such share fails. As many updates with each share.",
        somewhere,
        RIVALS,
    ),
    Claim(
        "components",
        "RQ4",
        "Every component pays.",
        ("table5",),
        evidence.components_pay,
        "metaCSR minus itself without each, by AUC, cold.",
        needs=COMPONENTS,
    ),
    Claim(
        "meta-most",
        "RQ4",
        "The Meta Learner pays most.",
        ("table5",),
        evidence.meta_pays_most,
        "Without each of the other two components, minus without the Meta Learner, by AUC, cold.",
        needs=COMPONENTS,
    ),
    Claim(
        "fast",
        "RQ5",
        "metaCSR converges after a few updates and keeps its performance.",
        ("fig6",),
        evidence_inside.converges_fast,
        f"One step improves it, brings it above the network without Meta Learner, and within {CLOSE:g} AUC of itself after 20.",
    ),
    Claim(
        "new-closer",
        "RQ5",
        "New users' preferences and the items lie closer together with the Meta Learner.",
        ("fig7",),
        lambda results: evidence_inside.clouds_closer(results, "cold"),
        CLOSER,
    ),
    Claim(
        "regular-closer",
        "RQ5",
        "Regular users' preferences and the items lie closer together with the Meta Learner.",
        ("fig8",),
        lambda results: evidence_inside.clouds_closer(results, "warm"),
        CLOSER,
    ),
    Claim(
        "overlap",
        "RQ5",
        "Positive and negative pairs overlap less with the Meta Learner.",
        ("fig9",),
        evidence_inside.less_overlap,
        "New users, fine-tuned; area under both histograms, over bins that are quantiles of both.",
    ),
    Claim(
        "higher",
        "RQ5",
        "New users' pairs are more similar with the Meta Learner.",
        ("fig9",),
        evidence_inside.more_similar,
        "Fine-tuned; mean inner product of positive and of negative pairs.",
    ),
    Claim(
        "new-below-regular",
        "RQ5",
        "Pairs of new users are less similar than those of regular users.",
        ("fig9",),
        evidence_inside.new_below_regular,
        "metaCSR, fine-tuned; mean inner product of positive and of negative pairs.",
    ),
    Claim(
        "no-shift",
        "RQ5",
        "Fine-tuning hardly moves metaCSR's preferences, and moves those without Meta Learner more.",
        ("fig10", "fig11"),
        evidence_inside.hardly_moves,
        f"Hardly: less than {SMALL_MOVE:g} of the root mean square distance of new users' preferences from their mean.",
    ),
    Claim(
        "no-need",
        "RQ5",
        "metaCSR does not need to fine-tune to achieve good performance.",
        ("fig10", "fig11"),
        evidence_inside.needs_no_tuning,
        f"New users' AUC not fine-tuned is not more than {CLOSE:g} below that fine-tuned.",
    ),
    Claim(
        "mixed",
        "RQ5",
        "New and regular users' preferences merge with the Meta Learner more than without.",
        ("fig10", "fig11"),
        evidence_inside.well_mixed,
        CLOSER,
    ),
    Claim(
        "ten",
        "4.3",
        "T = 10 is the best length of the input.",
        ("fig12",),
        evidence.ten_is_best,
        "By AUC and by MAP, cold and warm. New users have at most nine events of context, so that a longer T changes their training alone.",
        needs=LENGTHS,
    ),
    Claim(
        "first-of-all-cold",
        BEYOND,
        "metaCSR is ahead of every model, those included that the paper lacks, cold.",
        ("table3",),
        lambda results: evidence.ahead_of_all(results, "cold"),
        ALL_OF_TABLE,
        needs=tuple(MODELS),
    ),
    Claim(
        "first-of-all-warm",
        BEYOND,
        "metaCSR is ahead of every model, those included that the paper lacks, warm.",
        ("table4",),
        lambda results: evidence.ahead_of_all(results, "warm"),
        ALL_OF_TABLE,
        needs=tuple(MODELS),
    ),
)
