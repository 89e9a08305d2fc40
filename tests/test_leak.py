"""A planted order is found; where nothing is planted, nothing is found: a leak would show as skill."""

import pytest
from tiny import train

from metacsr_jax import presets, settings
from metacsr_jax.baselines import BASELINES
from metacsr_jax.evaluate import rank_scenario, score_of
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.evaluation.significance import paired_interval
from metacsr_jax.trained import load_trained

# Long enough for the planted order to be learned; the same for both logs.
SMALL = {
    "synthetic.users": 600,
    "synthetic.items": 120,
    "synthetic.series": 4,
    "synthetic.groups": 2,
    "synthetic.mean_events": 16.0,
    "synthetic.predictability": 0.9,
    "protocol.num_negatives": 30,
    "protocol.regular_fraction": 0.5,
    "model.dim": 16,
    "model.max_length": 5,
    "model.attention_dim": 0,
    "model.compress": 0,
    "model.hidden": 32,
    "tasks.tasks": 16,
    "tasks.support": 4,
    "tasks.query": 4,
    "tasks.pretrain_batch": 128,
    "optimizer.pretrain_rate": 0.01,
    "optimizer.warmup": 10,
    "evaluation.adapt_steps": "0,1",
    "evaluation.batch": 300,
    "train.pretrain_steps": 120,
    "train.steps": 20,
    "train.validate_every": 20,
    "train.save_every": 20,
}
AUC = METRICS.index("auc")


def advantage(workdir, scenario: str, steps: int):
    """AUC over most-popular's on the same cases: mean, low and high of the paired 95 % interval."""
    served = load_trained(workdir)
    problem = served.problem
    counts = BASELINES["popular"].fit(problem.protocol, None)

    def of_popular(batch, adapt_steps):
        return BASELINES["popular"].score(counts, batch, adapt_steps)

    own, popular = (
        rank_scenario(problem, score, scenario, steps)["sampled-30"]
        for score in (score_of(served), of_popular)
    )
    interval = paired_interval(per_case(*own), per_case(*popular))
    return tuple(float(part[AUC]) for part in interval)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trains on the log with or without a plant."""

    def on(planted: bool):
        plant = {"synthetic.transitions": planted, "synthetic.taste": False}
        config = settings.replace(presets.preset("synthetic/tuned"), SMALL | plant)
        return train(tmp_path_factory.mktemp("leak") / "run", config).result.workdir

    return on


def test_without_a_plant_nothing_beats_popularity(run):
    workdir = run(planted=False)
    for scenario in ("cold", "warm"):
        for steps in (0, 1):
            _, low, _ = advantage(workdir, scenario, steps)
            assert low <= 0.01, f"{scenario}, {steps} steps: a leak"


def test_with_a_plant_the_same_training_beats_popularity_clearly(run):
    workdir = run(planted=True)
    for scenario in ("cold", "warm"):
        for steps in (0, 1):
            _, low, _ = advantage(workdir, scenario, steps)
            assert low > 0.1, f"{scenario}, {steps} steps"
