"""What all rivals have in common: the harness, the work directory, resuming, serving; and no skill where there is nothing to know."""

import os
import signal
import sys
import typing

import jax
import numpy as np
import pytest
from rivals import ADAPTING, COUNTING, SMALL, kinds, rival_config, trained_rival
from tiny import copy, saved_state, train

from metacsr_jax import presets, recommend, sections, settings
from metacsr_jax import train as training
from metacsr_jax.cases import CaseBatch
from metacsr_jax.config import TrainConfig
from metacsr_jax.errors import ConfigError, NonFiniteError, ProtocolError
from metacsr_jax.evaluate import evaluate, rank_scenario, score_of
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.monitor import Monitor
from metacsr_jax.problem import scenario_batches
from metacsr_jax.protocol import training_events
from metacsr_jax.registry import MODELS
from metacsr_jax.trained import load_trained
from metacsr_jax.workdir import read_config, read_manifest, update_manifest

BATCH = 100  # users at once, as evaluation and recommendation have them here: fewer programs


def first(batch: CaseBatch) -> CaseBatch:
    """As many users as are served at once."""
    return CaseBatch(*(array[:BATCH] for array in batch))


def test_every_name_is_known_everywhere():
    names = typing.get_args(typing.get_type_hints(TrainConfig)["model"])
    assert list(names) == list(MODELS) == list(sections.OWN_SECTIONS)
    assert {"metacsr", *SMALL} == set(names)
    rivals = {name.partition("/")[0] for name in presets.RIVALS}
    assert rivals | {"pretrain"} == set(SMALL)
    for name in presets.PRESETS:
        for model in MODELS:
            config = presets.preset(name, model)
            assert (config.train.model, config.preset) == (model, name)
            assert config.protocol == presets.preset(name).protocol, "identical cases"
            assert config.data == presets.preset(name).data


@pytest.mark.parametrize("model", kinds(SMALL))
def test_trains_evaluates_and_recommends(model, tmp_path):
    workdir = copy(trained_rival(model), tmp_path / "run")
    manifest = read_manifest(workdir)
    assert (manifest["model"], manifest["status"]) == (model, "finished")
    rows = evaluate(workdir, scenarios=("cold",))
    assert {row["model"] for row in rows} == {model}
    steps = {0} if model in COUNTING else {0, 1, manifest["chosen_adapt_steps"]}
    assert {row["adapt_steps"] for row in rows} == steps
    served = recommend.load(workdir)
    problem = served._trained.problem
    cases, batch = scenario_batches(problem, "cold")
    score_BI = np.asarray(score_of(served._trained)(first(batch), 1))
    assert score_BI.shape == (BATCH, problem.protocol.num_items)
    assert np.isfinite(score_BI).all()
    parts = np.split(problem.protocol.item_ids[cases.item_H], cases.offset_N1[1:-1])
    histories = [part.tolist() for part in parts[:BATCH]]
    items, scores = served.recommend(histories, k=5, adapt_steps=1)
    for row, (item_K, score_K) in enumerate(zip(items, scores, strict=True)):
        place_K = np.searchsorted(problem.protocol.item_ids, item_K)
        np.testing.assert_allclose(score_K, score_BI[row, place_K], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", kinds(SMALL))
def test_scores_do_not_depend_on_who_else_is_served(model):
    served = load_trained(trained_rival(model))
    score = score_of(served)
    _, batch = scenario_batches(served.problem, "cold")
    whole_BI = np.asarray(score(first(batch), 1))
    part = CaseBatch(*(array[5:12] for array in batch))
    np.testing.assert_allclose(np.asarray(score(part, 1)), whole_BI[5:12], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", kinds(ADAPTING))
def test_adaptation_is_personal_and_needs_a_support(model):
    """A step changes the scores of users with a support, not the same way for all, and nobody's without."""
    served = load_trained(trained_rival(model))
    batch = first(scenario_batches(served.problem, "cold")[1])
    users = np.flatnonzero(batch.support_mask_BK.any(axis=1))
    nothing = batch._replace(
        length_B=np.zeros_like(batch.length_B),
        support_mask_BK=np.zeros_like(batch.support_mask_BK),
    )
    score = score_of(served)
    before_BI, after_BI = (np.asarray(score(batch, steps)) for steps in (0, 1))
    change_BI = (after_BI - before_BI)[users]
    assert (np.abs(change_BI).max(axis=1) > 1e-6).all()
    assert np.abs(change_BI - change_BI[:1]).max() > 1e-6
    if model == "sml":
        return  # Adam's momentum aside, its period still applies the decay
    before_BI, after_BI = (np.asarray(score(nothing, steps)) for steps in (0, 1))
    if model == "bpr":  # regularisation shrinks the factors
        assert np.abs(after_BI - before_BI).max() < 1e-2
    else:
        np.testing.assert_allclose(after_BI, before_BI, atol=1e-6)


@pytest.mark.parametrize("model", kinds(["bpr", "sml"]))
def test_an_interrupted_run_ends_in_the_same_bits(model, tmp_path, monkeypatch):
    """Also between phases: SML is cut after its factorisation."""

    class Interrupting(Monitor):
        def steps(self, step, phase, reports, seconds):
            super().steps(step, phase, reports, seconds)
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    config = rival_config(model)
    with monkeypatch.context() as patch:
        patch.setattr(training, "Monitor", Interrupting)
        assert train(tmp_path / "run", config).result.status == "interrupted"
    assert "resumed from step 2" in train(tmp_path / "run", config).said
    whole, resumed = saved_state(trained_rival(model)), saved_state(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_settings_of_another_model_are_refused():
    with pytest.raises(
        ConfigError, match=r"meta\.inner_steps=2.*train\.model=bpr does not read it"
    ):
        rival_config("bpr", {"meta.inner_steps": 2})
    with pytest.raises(ConfigError, match=r"bpr\.rate.*train\.model=metacsr does not read it"):
        settings.override(presets.preset("synthetic/tuned"), ["bpr.rate=0.5"])
    with pytest.raises(ConfigError, match="only metacsr and pretrain adapt by group"):
        rival_config("bpr", {"evaluation.adapt_per": "user,group"})
    with pytest.raises(ConfigError, match=r"train\.steps=6: expected 4, sml\.repeats=2"):
        rival_config("sml", {"train.steps": 6})
    with pytest.raises(ConfigError, match=r"unknown model 'bprr'; nearest: bpr"):
        presets.preset("synthetic/tuned", "bprr")
    content = settings.to_dict(rival_config("bpr"))
    assert "meta" not in content and set(content["model"]) == {"dim", "max_length"}
    assert settings.from_dict(content) == rival_config("bpr") == read_config(trained_rival("bpr"))


def test_sml_wants_events_for_its_periods():
    protocol = load_trained(trained_rival("popular")).problem.protocol
    config = rival_config("sml", {"sml.periods": 100_000, "train.steps": 100_000})
    with pytest.raises(ProtocolError, match=r"sml\.periods=100000: expected at most"):
        MODELS["sml"](protocol, config)


def test_only_models_that_know_groups_adapt_by_group(tmp_path):
    workdir = copy(trained_rival("popular"), tmp_path / "run")
    with pytest.raises(ConfigError, match="adapt_per=group: popular adapts by user only"):
        evaluate(workdir, adapt_per=("group",))
    assert not (workdir / "evaluation").exists()


def test_steps_that_diverge_are_left_out_unless_they_are_the_chosen_ones(tmp_path, monkeypatch):
    workdir, said = copy(trained_rival("bpr"), tmp_path / "run"), []

    def diverging(problem, score, scenario, steps, size=None):
        if steps == 1:
            raise NonFiniteError("case 0 has scores that are NaN")
        return rank_scenario(problem, score, scenario, steps, size)

    monkeypatch.setattr(sys.modules["metacsr_jax.evaluate"], "rank_scenario", diverging)
    update_manifest(workdir, chosen_adapt_steps=0)
    rows = evaluate(workdir, scenarios=("cold",), adapt_steps=(0, 1), say=said.append)
    assert {row["adapt_steps"] for row in rows} == {0}
    assert said == ["cold, 1 adaptation steps: left out, case 0 has scores that are NaN"]
    update_manifest(workdir, chosen_adapt_steps=1)
    with pytest.raises(NonFiniteError):
        evaluate(workdir, scenarios=("cold",), adapt_steps=(0, 1))


def test_a_constant_scorer_has_half_the_auc():
    problem = load_trained(trained_rival("popular")).problem
    for scenario in ("cold", "warm"):
        ranks = rank_scenario(
            problem,
            lambda batch, steps: np.ones((len(batch.length_B), problem.protocol.num_items)),
            scenario,
            0,
        )
        for kind in ranks:
            assert per_case(*ranks[kind])[:, METRICS.index("auc")].tolist() == pytest.approx(
                [0.5] * len(ranks[kind].rank_N)
            )


def test_regular_users_are_known_by_their_row_and_new_ones_are_not():
    problem = load_trained(trained_rival("popular")).problem
    user_R = training_events(problem.protocol).user_R
    cases, batch = scenario_batches(problem, "warm")
    np.testing.assert_array_equal(user_R[batch.user_B], cases.user_N)
    for scenario in ("cold", "validation"):
        assert (scenario_batches(problem, scenario)[1].user_B == -1).all()
