"""Named configurations: all valid, the paper's as printed, unknown ones refused with the nearest."""

import pytest

from metacsr_jax import checks, presets, settings
from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError, DataError
from metacsr_jax.log import load_log

LOGS = ("synthetic", "custom", "movielens-1m", "lastfm-1week", "amazon-video")


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_is_valid_and_named(name):
    config = presets.preset(name)
    checks.check(config)
    assert config.preset == name


def test_every_log_has_both_variants_and_its_bare_name_is_the_tuned_one():
    assert set(presets.PRESETS) == {
        f"{log}/{variant}" for log in LOGS for variant in ("paper", "tuned")
    }
    for log in LOGS:
        assert presets.preset(log) == presets.preset(f"{log}/tuned")


def test_paper_is_section_4_1_2():
    config = presets.preset("movielens-1m/paper")
    assert (config.model.dim, config.model.hops, config.model.aggregator) == (128, 1, "mean")
    assert (config.tasks.tasks, config.tasks.way, config.tasks.support, config.tasks.query) == (
        16,
        15,
        5,
        15,
    )
    assert (config.loss.name, config.loss.negatives) == ("bpr", 100)
    assert (config.meta.method, config.meta.inner_steps, config.meta.inner_rate) == (
        "maml",
        1,
        1e-4,
    )
    assert (config.optimizer.rate, config.optimizer.weight_decay, config.optimizer.decay) == (
        1e-2,
        5e-4,
        "coupled",
    )
    assert config.model.node_relu and config.model.node_norm and config.model.output_relu
    assert set(config.evaluation.adapt_per) == {"user", "group"}


@pytest.mark.parametrize("log", LOGS)
def test_variants_share_the_log_and_the_protocol(log):
    paper, tuned = presets.preset(f"{log}/paper"), presets.preset(f"{log}/tuned")
    assert (paper.data, paper.protocol) == (tuned.data, tuned.protocol)
    assert settings.differences(paper, tuned)


def test_the_tuned_presets_keep_an_inner_loop():
    assert all(presets.preset(log).meta.method != "none" for log in LOGS)
    assert all(presets.preset(log).meta.inner_steps > 0 for log in LOGS)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("movilens-1m/tuned", "movielens-1m/tuned"),
        ("synthetic/papers", "synthetic/paper"),
        ("lastfm", "lastfm-1week/tuned"),
        ("", ""),
    ],
)
def test_unknown_presets_are_refused_with_the_nearest(name, near):
    with pytest.raises(ConfigError) as caught:
        presets.preset(name)
    assert repr(name) in str(caught.value) and near in str(caught.value)


def test_only_the_synthetic_presets_bring_a_log():
    with pytest.raises(ConfigError, match="--data"):
        load_log(presets.preset("movielens-1m/paper"))
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        load_log(settings.override(presets.preset("custom/paper"), ["data.path=nowhere.csv"]))
    small = settings.override(
        presets.preset("synthetic/paper"), ["synthetic.users=30", "data.name=mine"]
    )
    log = load_log(small)
    assert (log.num_users, log.name) == (30, "mine")


def test_the_log_is_a_function_of_the_settings():
    small = settings.override(Config(preset="synthetic/paper"), ["synthetic.users=30"])
    other = settings.override(small, ["synthetic.seed=1"])
    assert (load_log(small).item_E == load_log(small).item_E).all()
    assert load_log(small).item_E.tolist() != load_log(other).item_E.tolist()


# From each method's paper or published code, as far as those say.
ORIGINAL = {
    "bpr": {"bpr.rate": 1e-3, "bpr.batch": 2048, "bpr.regularisation": 1e-5},
    "lstm": {"lstm.rate": 1e-3, "lstm.loss": "bpr", "lstm.dropout": 0.2, "lstm.clip": 5.0},
    "csan": {"csan.rate": 1e-3, "csan.loss": "bpr", "model.dim": 128},
    "melu": {
        "melu.inner_rate": 5e-6,
        "melu.outer_rate": 5e-5,
        "melu.inner_steps": 1,
        "melu.tasks": 32,
        "melu.query": 10,
        "melu.hidden": 64,
        "melu.first_order": False,
    },
    "metacs-l": {"metacs.inner_rate": 1e-2, "metacs.outer_rate": 1e-3, "metacs.tasks": 32},
    "metacs-dnn": {"metacs.support": 5, "metacs.query": 15, "metacs.first_order": False},
    "sml": {
        "sml.periods": 10,
        "sml.repeats": 10,
        "sml.channels": 10,
        "sml.channels_out": 5,
        "sml.hidden": 512,
        "sml.table_rate": 1e-2,
        "sml.table_batch": 1024,
        "sml.table_decay": 1e-6,
        "sml.transfer_rate": 1e-3,
        "sml.transfer_batch": 256,
        "sml.transfer_decay": 1e-4,
    },
    "metacf-ngcf": {
        "metacf.width": 64,
        "metacf.layers": 3,
        "metacf.dropout": 0.1,
        "metacf.inner_steps": 5,
        "metacf.inner_rate": 1e-2,
        "metacf.outer_rate": 1e-3,
        "metacf.clip": 10.0,
        "metacf.tasks": 32,
    },
}


@pytest.mark.parametrize("model", ORIGINAL)
def test_paper_presets_of_rivals_have_the_values_of_their_papers(model):
    chosen = presets.preset("movielens-1m/paper", model)
    assert settings.replace(chosen, ORIGINAL[model]) == chosen
    tuned = presets.preset("movielens-1m/tuned", model)
    assert settings.renamed(tuned, chosen.preset) != chosen
