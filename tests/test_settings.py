"""Settings as text: what parses, what is refused and how, and the way through config.json."""

import dataclasses
import json
import re
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacsr_jax import presets, sections, settings
from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError

NAMES = [
    f"{section}.{field.name}"
    for section, kind in sections.SECTIONS.items()
    for field in dataclasses.fields(kind)
]


def value_of(config: Config, name: str):
    section, field = name.split(".")
    return getattr(getattr(config, section), field)


def as_text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_one_override_changes_one_setting_and_leaves_the_rest():
    changed = settings.override(Config(), ["meta.inner_steps=2"])
    assert changed.meta.inner_steps == 2
    assert settings.differences(Config(), changed) == ["meta.inner_steps: 1, 2"]


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("evaluation.adapt_steps=0, 1,5", (0, 1, 5)),
        ("evaluation.scenarios=warm", ("warm",)),
        ("optimizer.rate=1e-3", 0.001),
        ("optimizer.rate=1", 1.0),
        ("train.steps=1e2", 100),
        ("model.diffusion=no", False),
        ("model.diffusion=TRUE", True),
        ("meta.method=anil", "anil"),
        ("data.path=a=b.csv", "a=b.csv"),
        (" data.name = two words ", "two words"),
        ("data.name=", ""),
    ],
)
def test_texts_are_parsed_by_the_type_of_the_setting(assignment, value):
    parsed = value_of(settings.override(Config(), [assignment]), assignment.split("=")[0].strip())
    assert parsed == value and type(parsed) is type(value)


def test_the_last_of_two_assignments_counts_and_checks_see_them_together():
    assert settings.override(Config(), ["train.seed=1", "train.seed=2"]).train.seed == 2
    steps = ["train.chunk=3", "train.steps=9", "train.validate_every=3", "train.save_every=3"]
    assert settings.override(Config(), steps).train.steps == 9


@pytest.mark.parametrize("name", NAMES)
def test_every_default_survives_as_text(name):
    text = f"{name}={as_text(value_of(Config(), name))}"
    assert settings.override(Config(), [text]) == Config()


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("meta.inner_step=2", "meta.inner_steps"),
        ("inner_steps=2", "meta.inner_steps"),
        ("train.inner_rate=2", "meta.inner_rate"),
        ("optimiser.rate=1", "optimizer.rate"),
        ("nothing.like.it=1", "sections: data, synthetic"),
        ("preset=synthetic/paper", "unknown setting 'preset'"),
        ("meta.inner_steps", "expected section.name=value"),
        ("meta.inner_steps=two", "meta.inner_steps='two': expected a whole number"),
        ("meta.inner_steps=1.5", "expected a whole number"),
        ("meta.inner_steps=", "expected a whole number"),
        ("optimizer.rate=fast", "expected a number"),
        ("optimizer.rate=nan", "expected a number"),
        ("optimizer.rate=inf", "expected a number"),
        ("model.diffusion=maybe", "expected true or false"),
        ("meta.method=mamll", "nearest: maml"),
        ("model.encoder=lstm", "expected one of attention, gru, transformer, mean"),
        ("evaluation.adapt_steps=0,one", "evaluation.adapt_steps='one': expected a whole number"),
        ("evaluation.adapt_steps=-1", "expected 0 or more"),
        ("evaluation.scenarios=cold,hot", "expected some of cold, warm"),
        ("evaluation.scenarios=", "expected some of cold, warm"),
        ("evaluation.adapt_per=crowd", "expected some of user, group"),
        ("model.hops=0", "model.hops=0: expected 1 or more"),
        ("model.dim=0", "model.dim=0: expected 1 or more"),
        ("synthetic.predictability=1.1", "expected 0 to 1"),
        ("train.seed=-1", "train.seed=-1"),
        ("train.seed=4294967296", "train.seed"),
        ("train.steps=301", "train.steps=301: expected a multiple of train.chunk=10"),
        ("train.pretrain_steps=5", "multiple of train.chunk=10"),
        ("train.validate_every=55", "multiple of train.chunk=10"),
        ("train.save_every=55", "multiple of train.chunk=10"),
        ("train.steps=0", "nothing to train"),
        ("tasks.min_length=11", "at most model.max_length=10"),
        ("protocol.new_min=6", "protocol.new_min"),
        ("meta.inner_rate=0", "meta.inner_rate=0"),
    ],
)
def test_refusals_name_the_setting_the_value_and_what_was_expected(assignment, expected):
    with pytest.raises(ConfigError) as caught:
        settings.override(Config(), [assignment])
    assert expected in str(caught.value)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match=r"model\.dim=10: expected a multiple of model\.heads=4"):
        settings.override(Config(), ["model.encoder=transformer", "model.dim=10", "model.heads=4"])
    with pytest.raises(ConfigError, match=r"meta\.inner_steps"):
        settings.override(Config(), ["meta.method=none", "meta.inner_steps=2"])


def test_values_of_the_wrong_type_are_refused_without_text_too():
    for name, value in [
        ("train.steps", None),
        ("train.steps", True),
        ("train.steps", [10]),
        ("data.path", 3),
        ("model.diffusion", None),
        ("evaluation.adapt_steps", 1),
        ("meta.method", ["maml"]),
    ]:
        with pytest.raises(ConfigError, match=name):
            settings.replace(Config(), {name: value})


def valid(name: str) -> st.SearchStrategy:
    """Values of a setting's type; many are out of range, and then refusing is right."""
    section, field = name.split(".")
    kind = typing.get_type_hints(sections.SECTIONS[section])[field]
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        element = (
            st.integers(0, 9)
            if typing.get_args(kind)[0] is int
            else st.sampled_from(["cold", "warm", "user", "group"])
        )
        return st.lists(element, max_size=3).map(tuple)
    of = {
        bool: st.booleans(),
        int: st.integers(-5, 1000),
        float: st.floats(-1, 10, width=32),
        str: st.text(max_size=8),
    }
    return of[kind]


@given(st.data())
def test_config_json_gives_back_what_was_written(data):
    names = data.draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True))
    chosen = {name: data.draw(valid(name), name) for name in names}
    try:
        config = settings.replace(Config(preset="custom/paper"), chosen)
    except ConfigError:
        return
    assert all(value_of(config, name) == value for name, value in chosen.items())
    content = json.loads(json.dumps(settings.to_dict(config)))
    assert settings.from_dict(content) == config


def test_a_shorter_config_takes_defaults_and_an_unknown_entry_is_refused():
    assert settings.from_dict({"preset": "x", "meta": {"inner_steps": 3}}).meta.inner_steps == 3
    for content in ({"meta": {"inner_stepz": 3}}, {"metta": {"inner_steps": 3}}, {"meta": 3}, [1]):
        with pytest.raises(ConfigError):
            settings.from_dict(content)


def test_the_name_of_the_preset_is_no_difference():
    one = Config()
    assert settings.differences(one, settings.renamed(one, "other")) == []
    assert (
        len(settings.differences(one, settings.override(one, ["model.dim=8", "train.seed=3"]))) == 2
    )


@pytest.mark.parametrize(
    ("model", "assignment", "message"),
    [
        ("popular", "train.steps=7", "train.model=popular counts, expected 0 of both"),
        ("bpr", "train.pretrain_steps=4", "train.model=bpr has no pre-training"),
        ("bpr", "train.steps=0", "train.steps=0: nothing to train"),
        ("sml", "train.patience=3", "goes through all of its periods"),
        ("bpr", "bpr.init_scale=0", "bpr.init_scale=0.0: expected"),
        ("lstm", "lstm.min_length=50", "lstm.min_length=50: expected at most model.max_length=10"),
        ("sasrec", "sasrec.heads=3", "expected a multiple of sasrec.heads=3"),
        ("pretrain", "meta.method=maml", "the network without an inner loop, expected none"),
    ],
)
def test_what_a_rival_has_no_use_for_is_refused(model, assignment, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        settings.override(presets.preset("movielens-1m/tuned", model), [assignment])


def test_a_rival_may_read_a_single_event():
    config = presets.preset("movielens-1m/tuned", "bpr")
    assert settings.override(config, ["model.max_length=1"]).model.max_length == 1


def test_rates_by_model():
    assert sections.own_rates("bpr") == ["bpr.rate", "bpr.adapt_rate"]
    assert "meta.inner_rate" in sections.own_rates("metacsr") and not sections.own_rates("popular")
