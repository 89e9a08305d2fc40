"""A planted order is found; where nothing is planted, nothing is found: a leak would show as skill."""

import pytest
from tiny import train

from metacsr_jax import presets, settings
from metacsr_jax.baselines import BASELINES
from metacsr_jax.evaluate import rank_scenario, score_of
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.evaluation.significance import paired_interval
from metacsr_jax.trained import load_trained

LOG = {
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
    "evaluation.adapt_steps": "1",
    "evaluation.batch": 300,
}
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
    "train.validate_every": 20,
    "train.save_every": 20,
}
RIVALS = {
    "bpr": {"train.steps": 20, "bpr.rate": 0.01, "bpr.batch": 512, "bpr.adapt_rate": 1.0},
    "lstm": {"train.steps": 6, "lstm.rate": 0.01, "lstm.batch": 128},
    "csan": {"train.steps": 6, "csan.rate": 0.01, "csan.batch": 128},
    "melu": {"train.steps": 10, "melu.inner_rate": 0.1, "melu.outer_rate": 0.01},
    "metacs-l": {"train.steps": 10, "metacs.inner_rate": 0.1, "metacs.outer_rate": 0.01},
    "metacs-dnn": {"train.steps": 10, "metacs.inner_rate": 0.1, "metacs.outer_rate": 0.01},
    "sml": {
        "train.pretrain_steps": 5,
        "train.steps": 4,
        "sml.periods": 4,
        "sml.repeats": 2,
        "sml.hidden": 32,
    },
    "metacf-ngcf": {
        "train.steps": 4,
        "metacf.width": 8,
        "metacf.layers": 2,
        "metacf.inner_steps": 1,
    },
}
SEQUENTIAL = ("lstm", "csan")
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


def run(workdir, model: str, planted: bool):
    """Trains on the log with or without a plant."""
    own = METACSR if model == "metacsr" else {"train.validate_every": 4} | RIVALS[model]
    plant = {"synthetic.transitions": planted, "synthetic.taste": False}
    config = settings.replace(presets.preset("synthetic/tuned", model), LOG | own | plant)
    return train(workdir, config).result.workdir


@pytest.mark.parametrize("model", ["metacsr", *RIVALS])
def test_without_a_plant_nothing_beats_popularity(tmp_path, model):
    workdir = run(tmp_path / "run", model, planted=False)
    for scenario in ("cold", "warm") if model == "metacsr" else ("cold",):
        for steps in (0, 1) if model == "metacsr" else (1,):
            _, low, _ = advantage(workdir, scenario, steps)
            assert low <= 0.01, f"{scenario}, {steps} steps: a leak"


@pytest.mark.parametrize("model", ["metacsr", *SEQUENTIAL])
def test_with_a_plant_the_same_training_beats_popularity_clearly(tmp_path, model):
    workdir = run(tmp_path / "run", model, planted=True)
    for scenario in ("cold", "warm"):
        for steps in (0, 1):
            _, low, _ = advantage(workdir, scenario, steps)
            assert low > 0.1, f"{scenario}, {steps} steps"
