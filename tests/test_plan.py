"""What a reproduction trains: each training once, everything else equal, and errors that name the place."""

import dataclasses

import pytest

from metacsr_jax import settings
from metacsr_jax.errors import ConfigError
from metacsr_jax.registry import MODELS
from metacsr_jax.reproduce.plan import (
    EXHIBITS,
    WITH_MEAN,
    WITHOUT_DIFFUSION,
    WITHOUT_META,
    Options,
    check_exhibits,
    make_runs,
    specs,
)
from metacsr_jax.reproduce.report import MAKERS, without_paths
from metacsr_jax.reproduce.small import SMALL

OPTIONS = Options("movielens-1m")


def runs_of(*exhibits, options=OPTIONS):
    return {run.name: run for run in make_runs(options, exhibits, "w")}


def test_every_exhibit_is_planned_and_made():
    assert set(MAKERS) == set(EXHIBITS)
    for exhibit in EXHIBITS:
        assert specs(OPTIONS, exhibit)


def test_what_several_exhibits_need_is_trained_once():
    everything = make_runs(OPTIONS, list(EXHIBITS), "w")
    paths = [run.path for run in everything]
    assert len(set(paths)) == len(paths)
    names = {run.name for run in everything}
    assert names >= {*MODELS, WITHOUT_DIFFUSION, WITH_MEAN, WITHOUT_META, "metacsr-length-25"}
    assert set(runs_of("table5")) < names
    # Figure 5 asks for the cold scenario of what Table 4 wants warm, too.
    assert runs_of("fig5", "table4")["bpr"].config.evaluation.scenarios == ("cold", "warm")


def test_a_variant_differs_from_metacsr_in_what_its_name_says():
    found = runs_of(*EXHIBITS)
    expected = {
        WITHOUT_DIFFUSION: ["model.diffusion"],
        WITH_MEAN: ["model.encoder"],
        "metacsr-share-0.3": ["protocol.training_share"],
        "metacsr-length-25": ["model.max_length"],
        "metacsr-meta-maml": ["meta.method"],
        "metacsr-ties-file": ["protocol.tie_policy"],
        "metacsr-time": ["protocol.user_split"],
        WITHOUT_META: ["meta.method", "train.model"],
    }
    main = found["metacsr"].config
    for name, changed in expected.items():
        lines = settings.differences(main, found[name].config)
        names = [line.split(":")[0] for line in lines]
        assert [of for of in names if of != "evaluation.scenarios"] == changed, name


def test_the_presets_own_length_and_algorithm_are_metacsr_itself():
    names = set(runs_of("fig12", "steps"))
    assert "metacsr-length-10" not in names and "metacsr-meta-metasgd" not in names
    paper = set(runs_of("steps", options=Options("movielens-1m/paper")))
    assert "metacsr-meta-maml" not in paper and "metacsr-meta-metasgd" in paper


def test_a_budget_shortens_all_trainings_alike_and_leaves_one_dispatch():
    whole, part = (
        runs_of(*EXHIBITS, options=OPTIONS._replace(budget=budget)) for budget in (1.0, 0.1)
    )
    for name, run in whole.items():
        long, short = run.config.train, part[name].config.train
        if run.model == "sml":  # as many rounds as there are periods
            assert short.steps == long.steps and short.pretrain_steps < long.pretrain_steps
            continue
        for field in ("steps", "pretrain_steps"):
            before, after = getattr(long, field), getattr(short, field)
            assert after == (max(int(before * 0.1) // long.chunk, 1) * long.chunk if before else 0)
        others = dataclasses.replace(
            short,
            steps=long.steps,
            pretrain_steps=long.pretrain_steps,
            validate_every=long.validate_every,
        )
        assert others == long
    for budget in (0.0, 1.5):
        with pytest.raises(ConfigError, match=r"expected a share of the length, in \(0, 1\]"):
            make_runs(OPTIONS._replace(budget=budget), ["table2"], "w")


def test_searched_settings_reach_the_model_and_its_variants():
    options = OPTIONS._replace(tuned={"metacsr": {"model.dropout": 0.1}, "bpr": {"bpr.rate": 0.01}})
    found = runs_of("table3", "table5", options=options)
    assert found["metacsr"].config.model.dropout == found[WITH_MEAN].config.model.dropout == 0.1
    assert found["bpr"].config.bpr.rate == 0.01
    assert found[WITHOUT_META].config.model.dropout == 0.3, "searched by itself"


def test_names_are_checked_and_come_in_the_papers_order():
    assert check_exhibits(["all"]) == list(EXHIBITS)
    assert check_exhibits(["fig6", "table2"]) == ["table2", "fig6"]
    with pytest.raises(ConfigError, match="'fig1'; expected all or some of table2"):
        check_exhibits(["fig1"])
    with pytest.raises(ConfigError, match="'sgd'; expected some of maml"):
        make_runs(OPTIONS._replace(methods=("sgd",)), ["steps"], "w")


def test_a_seed_given_twice_is_one_and_scenarios_are_the_exhibits_own():
    twice = make_runs(OPTIONS._replace(seeds=(1, 1)), ["table2"], "w")
    assert [run.seed for run in twice] == [1]
    with pytest.raises(ConfigError, match=r"evaluation\.scenarios: each table"):
        make_runs(OPTIONS._replace(assignments=("evaluation.scenarios=cold",)), ["table2"], "w")


def test_paths_of_the_machine_are_cut_down_to_names():
    text = "failed /home/me/data/log.csv: 3/4 of it, see /home/me/run and a/b"
    assert without_paths(text) == "failed log.csv: 3/4 of it, see run and a/b"


def test_the_small_setting_plans_every_exhibit():
    names = set(runs_of(*EXHIBITS, options=SMALL))
    assert {"bpr", "lstm", "metacsr-share-0.5", "metacsr-length-5", "metacsr-meta-maml"} <= names
    assert {"metacsr-time", "metacsr-ties-file"} <= names
