"""A planted order is found; where nothing is planted, nothing is found: a leak would show as skill."""

import pytest
from rivals import ADAPTING, LOG, kinds, rival_config, trained_rival
from tiny import train

from metacsr_jax import presets, settings
from metacsr_jax.baselines import BASELINES
from metacsr_jax.evaluate import rank_scenario, score_of
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.evaluation.significance import paired_interval
from metacsr_jax.trained import load_trained

# Long enough for the planted order to be learned; the same for both logs.
METACSR = {
    "model.attention_dim": 0,
    "model.compress": 0,
    "model.hidden": 32,
    "tasks.tasks": 16,
    "tasks.support": 4,
    "tasks.query": 4,
    "tasks.pretrain_batch": 128,
    "optimizer.pretrain_rate": 0.01,
    "optimizer.warmup": 10,
    "train.pretrain_steps": 120,
    "train.steps": 20,
    "train.validate_every": 140,
    "train.save_every": 140,
}
SEQUENTIAL = ("lstm", "csan")
AUC = METRICS.index("auc")


def advantage(workdir, scenario: str, steps: int):
    """AUC over most-popular's on the same cases: mean, low and high of the paired 95 % interval."""
    served = load_trained(workdir)
    problem = served.problem
    model = BASELINES["popular"](problem.config)
    counts = model.fit(problem.protocol, None)

    def of_popular(batch, adapt_steps):
        return model.score(counts, batch, adapt_steps)

    own, popular = (
        rank_scenario(problem, score, scenario, steps)["sampled-30"]
        for score in (score_of(served), of_popular)
    )
    interval = paired_interval(per_case(*own), per_case(*popular))
    return tuple(float(part[AUC]) for part in interval)


def run(workdir, model: str, plant: dict):
    """Trains on the log of the rivals, with what is planted."""
    if model != "metacsr":
        return train(workdir, rival_config(model, plant)).result.workdir
    config = settings.replace(presets.preset("synthetic/tuned"), LOG | METACSR | plant)
    return train(workdir, config).result.workdir


@pytest.mark.parametrize("scenario", ["cold", "warm"])
def test_metacsr_does_not_beat_popularity_without_a_plant(unplanted, scenario):
    for steps in (0, 1):
        _, low, _ = advantage(unplanted, scenario, steps)
        assert low <= 0.01, f"{steps} steps: a leak"


@pytest.mark.parametrize("model", kinds(ADAPTING))
def test_no_rival_beats_popularity_without_a_plant(model):
    _, low, _ = advantage(trained_rival(model), "cold", 1)
    assert low <= 0.01, "a leak"


@pytest.mark.parametrize("model", ["metacsr", *kinds(SEQUENTIAL)])
def test_with_a_plant_the_same_training_beats_popularity_clearly(tmp_path, model):
    workdir = run(tmp_path / "run", model, {"synthetic.transitions": True})
    for steps in (0, 1):
        _, low, _ = advantage(workdir, "cold", steps)
        assert low > 0.1, f"{steps} steps"
        if model == "metacsr":
            _, low, _ = advantage(workdir, "warm", steps)
            assert low > 0.1, f"warm, {steps} steps"


@pytest.fixture(scope="module")
def unplanted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("leak") / "run", "metacsr", {})
