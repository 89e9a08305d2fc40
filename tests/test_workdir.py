"""The work directory: whose it is, and files that survive a kill."""

import json

import pytest
from tiny import config

from metacsr_jax import workdir
from metacsr_jax.errors import WorkdirError


def test_a_new_directory_gets_the_configuration_and_opens_again(tmp_path):
    path = workdir.open_workdir(tmp_path / "runs" / "one", config())
    assert path.is_absolute() and workdir.read_config(path) == config()
    assert workdir.open_workdir(path, config()) == path


def test_another_configuration_is_refused_by_the_names_of_its_settings(tmp_path):
    path = workdir.open_workdir(tmp_path / "one", config())
    (path / "protocol").mkdir()
    (path / "protocol" / "manifest.json").write_text("{}")
    before = (path / "config.json").read_bytes()
    with pytest.raises(WorkdirError) as caught:
        workdir.open_workdir(path, config(model__dim=16, train__seed=7))
    for part in (str(path), "model.dim: 8, 16", "train.seed: 0, 7", "another configuration"):
        assert part in str(caught.value)
    assert (path / "config.json").read_bytes() == before


def test_a_start_that_built_nothing_may_be_corrected(tmp_path):
    path = workdir.open_workdir(tmp_path / "one", config(data__path="nowhere.csv"))
    workdir.open_workdir(path, config())
    assert workdir.read_config(path) == config()


def test_what_is_no_work_directory_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(WorkdirError, match="is a file"):
        workdir.open_workdir(file, config())
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("mine")
    with pytest.raises(WorkdirError, match="not empty"):
        workdir.open_workdir(full, config())
    assert [entry.name for entry in full.iterdir()] == ["thesis.tex"]


def test_an_empty_directory_and_one_killed_while_it_was_made_are_taken(tmp_path):
    workdir.open_workdir(tmp_path, config())
    (tmp_path / "config.json").rename(tmp_path / ".config.json.partial")
    assert workdir.open_workdir(tmp_path, config()) == tmp_path


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", '{"model": 3}', '{"model": {"dimm": 3}}', '{"model": {"dim": "x"}}'],
)
def test_a_damaged_configuration_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WorkdirError, match=r"config\.json"):
        workdir.read_config(tmp_path)


def test_a_missing_configuration_is_named(tmp_path):
    with pytest.raises(WorkdirError, match=r"config\.json: missing"):
        workdir.read_config(tmp_path / "nowhere")


def test_the_manifest_is_updated_entry_by_entry(tmp_path):
    assert workdir.read_manifest(tmp_path) == {}
    workdir.update_manifest(tmp_path, step=1, status="training")
    assert workdir.update_manifest(tmp_path, step=2) == {"step": 2, "status": "training"}
    assert workdir.read_manifest(tmp_path) == {"step": 2, "status": "training"}


def test_provenance_names_versions_and_command():
    origin = workdir.provenance()
    assert {"metacsr_jax", "python", "jax", "flax", "numpy"} <= set(origin["versions"])
    assert origin["command"] and json.dumps(origin)


def test_writing_json_replaces_the_whole_file_or_nothing(tmp_path):
    file = tmp_path / "a.json"
    workdir.write_json(file, {"é": 1})
    with pytest.raises(TypeError):
        workdir.write_json(file, {"bad": object()})
    assert workdir.read_json(file) == {"é": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_records_of_later_steps_and_a_torn_line_are_dropped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert workdir.read_records(file) == []
    workdir.truncate_records(file, 3)
    assert not file.exists()
    lines = [
        {"step": 2, "loss": 1.5},
        {"step": 4, "loss": 1.0},
        {"step": 4, "validation": {}},
        {"step": 6, "loss": 0.5},
    ]
    for line in lines:
        workdir.append_record(file, line)
    with file.open("a") as stream:
        stream.write('{"step": 8, "lo')
    assert workdir.read_records(file) == lines
    workdir.truncate_records(file, 4)
    assert workdir.read_records(file) == lines[:3]
    workdir.append_record(file, lines[3])
    assert workdir.read_records(file) == lines
