"""Verdicts follow from the numbers: planted leads hold, planted deficits do not, noise and absence decide nothing."""

import numpy as np
import pytest

from metacsr_jax.analysis.probe import Probe, write_probe
from metacsr_jax.evaluation.metrics import METRICS
from metacsr_jax.evaluation.rows import RankFile
from metacsr_jax.registry import MODELS
from metacsr_jax.report.comparison import Finished, Scored
from metacsr_jax.report.paper import RIVALS
from metacsr_jax.reproduce import evidence
from metacsr_jax.reproduce.claims import CLAIMS, FAILS, HOLDS, OPEN, judge, judge_all
from metacsr_jax.reproduce.evidence import Part
from metacsr_jax.reproduce.measure import probe_path
from metacsr_jax.reproduce.plan import (
    EXHIBITS,
    WITH_MEAN,
    WITHOUT_DIFFUSION,
    WITHOUT_META,
    Options,
    share_name,
)
from metacsr_jax.reproduce.results import Point, Results

USERS = 200
PLANTED = (
    "first-cold",
    "first-warm",
    "bpr-worst",
    "csan-over-lstm",
    "best-baselines",
    "part-of-data",
    "components",
    "meta-most",
)


@pytest.fixture
def world(tmp_path):
    """Builds results in which each run's metrics have the mean given; all share the noise of the users."""

    def build(means, noise=0.02, dataset="movielens-1m", inside=(), seed=0):
        rng = np.random.default_rng(seed)
        user_N = rng.random(USERS) * 0.2
        found, runs = {}, {}
        cases_N = np.arange(USERS)
        flags_N = np.zeros(USERS, bool)
        ranks = RankFile(cases_N, cases_N, cases_N, cases_N, flags_N, flags_N)
        for name, mean in means.items():
            own_N = user_N + mean + noise * rng.standard_normal(USERS)
            metric_NM = np.repeat(own_N[:, None], len(METRICS), axis=1)
            for scenario in ("cold", "warm"):
                scored = Scored(metric_NM, metric_NM.mean(0, keepdims=True), ranks, (0,), 1)
                found[name, scenario, "sampled-100"] = scored
            runs[name] = [Finished(name, 0, tmp_path / name, dataset, {"none": 0}, "none", 0, 0)]
        options = Options("movielens-1m", shares=(0.25, 0.8))
        return Results(options, runs, {}, 100, found, [], dict(inside))

    return build


def verdicts(results) -> dict[str, str]:
    return {one.key: one.verdict for one in judge_all(results, list(EXHIBITS))}


def test_a_claim_is_judged_by_all_of_its_parts():
    above, below, across = (
        Part("", Point(0, *ends)) for ends in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))
    )
    assert judge((above, above)) == HOLDS
    assert judge((above, across)) == OPEN
    assert judge((across, below, above)) == FAILS
    assert judge(()) == OPEN
    assert judge((above._replace(bound=0.15),)) == OPEN
    assert judge((above._replace(bound=0.3),)) == FAILS
    assert judge((below._replace(bound=-0.3),)) == HOLDS


def test_planted_leads_hold_and_planted_deficits_do_not(world):
    as_printed = {
        "bpr": 0.1,
        "lstm": 0.2,
        "csan": 0.25,
        "sml": 0.4,
        "metacf-ngcf": 0.35,
        "metacsr": 0.6,
    }
    as_printed |= {"melu": 0.2, "metacs-l": 0.2, "metacs-dnn": 0.2, share_name(0.8): 0.5}
    as_printed |= {WITHOUT_DIFFUSION: 0.5, WITH_MEAN: 0.5, WITHOUT_META: 0.3}
    mirrored = {name: 1 - mean for name, mean in as_printed.items()}
    found, opposite = verdicts(world(as_printed)), verdicts(world(mirrored))
    assert {key: found[key] for key in PLANTED} == dict.fromkeys(PLANTED, HOLDS)
    assert {key: opposite[key] for key in PLANTED} == dict.fromkeys(PLANTED, FAILS)


def test_of_equal_models_one_verdict_in_twenty_is_wrong_at_most(world):
    """The control: runs that differ by noise alone, six times. Nothing holds or fails but by chance."""
    names = ("metacsr", *RIVALS, WITHOUT_DIFFUSION, WITH_MEAN, WITHOUT_META, share_name(0.8))
    found = [
        verdict
        for seed in range(6)
        for key, verdict in verdicts(world(dict.fromkeys(names, 0.3), noise=0.3, seed=seed)).items()
        if key in PLANTED
    ]
    wrong = [verdict for verdict in found if verdict != OPEN]
    deviation = (0.05 * 0.95 * len(found)) ** 0.5
    assert len(wrong) <= 0.05 * len(found) + 2 * deviation


def test_one_rival_ahead_is_enough_to_fail_and_one_level_to_leave_it_open(world):
    means = dict.fromkeys(RIVALS, 0.2) | {"metacsr": 0.4}
    assert verdicts(world(means | {"lstm": 0.5}))["first-cold"] == FAILS
    assert verdicts(world(means | {"lstm": 0.4}, noise=0.3))["first-cold"] == OPEN


def test_intervals_of_many_parts_hold_together(world):
    results = world({"metacsr": 0.31, **dict.fromkeys(RIVALS, 0.3)}, noise=0.1)
    alone = evidence.ahead(results, "metacsr", ("bpr",), "cold", ("map",))[0].point
    among = evidence.ahead(results, "metacsr", RIVALS, "cold", ("map",))[0].point
    assert alone.value == pytest.approx(among.value)
    assert among.low < alone.low < alone.high < among.high


def test_what_is_missing_is_not_judged(world):
    found = judge_all(world({"metacsr": 0.4}), list(EXHIBITS))
    assert {one.verdict for one in found} == {OPEN}
    assert all("Not measured" in one.note for one in found)


def test_claims_about_one_log_are_asked_of_it_alone(world):
    means = dict.fromkeys(RIVALS, 0.2) | {"metacsr": 0.4}
    assert "csan-warm" not in verdicts(world(means))
    amazon = verdicts(world(means, dataset="amazon-video"))
    assert amazon["csan-warm"] == FAILS and "first-warm" not in amazon
    assert set(verdicts(world(means))) == {claim.key for claim in CLAIMS} - {"csan-warm"}


def test_fast_convergence_is_about_one_step(world):
    def inside(one, late, other):
        noise = np.random.default_rng(1).standard_normal(USERS) * 0.001
        aucs = {("metacsr", 1): one, ("metacsr", 20): late, (WITHOUT_META, 1): other}
        return {key: {"auc": auc + noise} for key, auc in aucs.items()}

    for aucs, expected in (
        ((0.9, 0.9, 0.8), HOLDS),
        ((0.9, 0.95, 0.8), FAILS),  # not yet converged after one step
        ((0.9, 0.85, 0.8), FAILS),  # does not keep it
        ((0.9, 0.9, 0.95), FAILS),
    ):
        assert verdicts(world({"metacsr": 0.4}, inside=inside(*aucs)))["fast"] == expected


@pytest.fixture
def looked_into(world):
    """Results whose metaCSR and network without Meta Learner have planted preferences, items and similarities."""

    def build(own, other):
        rng = np.random.default_rng(0)
        results = world({"metacsr": 0.4, WITHOUT_META: 0.4})
        for name, planted in (("metacsr", own), (WITHOUT_META, other)):
            (run,) = results.runs[name]
            for scenario in ("cold", "warm"):
                new = scenario == "cold"
                start_ND = rng.standard_normal((USERS, 3)) + planted["apart"] * new
                for steps in (0, 1):
                    similarity_NC1 = rng.standard_normal((USERS, 11))
                    similarity_NC1[:, 0] += planted["lead"] - planted["new_lower"] * new
                    write_probe(
                        probe_path(run, scenario, steps),
                        Probe(
                            similarity_NC1,
                            similarity_NC1,
                            start_ND + steps * planted["move"],
                            np.ones(USERS),
                            np.ones(USERS),
                        ),
                    )
            item_ID = rng.standard_normal((USERS, 3)) + planted["to_items"]
            np.save(run.path / "analysis" / "items.npy", item_ID)
        return verdicts(results)

    return build


def test_planted_clouds_and_similarities_are_judged_in_the_papers_direction(looked_into):
    as_printed = {"apart": 0.0, "lead": 3.0, "new_lower": 1.0, "move": 0.01, "to_items": 1.0}
    without = {"apart": 1.5, "lead": 0.5, "new_lower": 0.0, "move": 1.0, "to_items": 4.0}
    asked = ("new-closer", "regular-closer", "overlap", "new-below-regular", "no-shift", "mixed")
    found = looked_into(as_printed, without)
    assert {key: found[key] for key in asked} == dict.fromkeys(asked, HOLDS)
    opposite = looked_into(without | {"new_lower": -1.0}, as_printed)
    assert {key: opposite[key] for key in asked} == dict.fromkeys(asked, FAILS)


def test_ten_is_best_against_every_length_that_the_paper_tries(world):
    means = {f"metacsr-length-{length}": 0.3 for length in (5, 15, 20, 25)}
    assert verdicts(world(means | {"metacsr": 0.4}))["ten"] == HOLDS
    assert verdicts(world(means | {"metacsr": 0.2}))["ten"] == FAILS
    assert verdicts(world({"metacsr": 0.4, "metacsr-length-5": 0.3}))["ten"] == OPEN


def test_a_claim_about_all_does_not_hold_on_some(world):
    assert verdicts(world({"metacsr": 0.4, "bpr": 0.2}))["first-of-all-cold"] == OPEN
    assert verdicts(world({"metacsr": 0.4, "bpr": 0.2}))["first-cold"] == OPEN
    assert (
        verdicts(world(dict.fromkeys(MODELS, 0.2) | {"metacsr": 0.4}))["first-of-all-cold"] == HOLDS
    )
    without_metacf = dict.fromkeys(RIVALS[:-1], 0.4) | {"sml": 0.1}
    assert verdicts(world(without_metacf))["best-baselines"] == OPEN, "MetaCF might be above"
    small = world(dict.fromkeys(RIVALS, 0.4) | {"metacsr": 0.4, share_name(0.25): 0.1})
    assert verdicts(small)["part-of-data"] == OPEN, "a quarter refutes nothing"


def test_every_claim_names_exhibits_that_exist():
    for claim in CLAIMS:
        assert set(claim.exhibits) <= set(EXHIBITS)
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)
