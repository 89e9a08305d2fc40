"""Feature matrices keyed by id."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from metacsr_jax.config import DataConfig
from metacsr_jax.data.features import read_features
from metacsr_jax.data.readers import read
from metacsr_jax.errors import DataError


def _write(directory, text, name="features.csv"):
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("separator, name", [(",", "f.csv"), ("\t", "f.tsv")])
def test_rows_follow_the_ids(tmp_path, separator, name):
    lines = ["id,x,y", "30,1,2.5", "10,-3,1e3", "99,7,7"]
    path = _write(tmp_path, "\n".join(lines).replace(",", separator), name)
    features = read_features(path, np.array([10, 20, 30]))
    assert features.matrix_NF.dtype == np.float32
    assert features.matrix_NF.tolist() == [[-3, 1e3], [0, 0], [1, 2.5]]
    assert (features.names, features.missing, features.unused) == (("x", "y"), 1, 1)


def test_text_ids_and_parquet(tmp_path):
    path = tmp_path / "f.parquet"
    pl.DataFrame({"id": ["é", "007"], "x": [1, 2], "y": [True, False]}).write_parquet(path)
    features = read_features(path, np.array(["007", "7", "é"]))
    assert features.matrix_NF.tolist() == [[2, 0], [0, 0], [1, 1]]


def test_integer_ids_match_text_ids_by_how_they_are_written(tmp_path):
    path = _write(tmp_path, "id,x\n7,1\n8,2\n")
    features = read_features(path, np.array(["7", "word"]))
    assert features.matrix_NF.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    "text, message",
    [
        ("id,x\n1,abc\n", r"features.csv:2: column 'x': found 'abc'; expected a finite number"),
        ("id,x\n1,2\n2,\n", r"features.csv:3: column 'x': found ''"),
        ("id,x\n1,nan\n", r"found 'nan'"),
        ("id,x\n1,1e39\n", r"found '1e39'"),
        ("id,x\n1,2\n1,3\n", r"id .*1.* has several rows"),
        ("id\n1\n", r"at least one feature"),
        ("id,x\n8,1\n", r"none of 1 ids, such as .*8"),
        ("id,x\n,1\n", r"features.csv:2: column 'id': found ''|blank id"),
        ("id,x\n1,2,3\n", r"features.csv:2: found '1,2,3'; expected 2 fields"),
        ("id,x\n", r"no events|at least one row"),
        ("", r"empty"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_features(_write(tmp_path, text), np.array([1, 2]))


def test_text_columns_of_parquet_are_refused(tmp_path):
    path = tmp_path / "f.parquet"
    pl.DataFrame({"id": [1], "genres": [["a"]]}).write_parquet(path)
    with pytest.raises(DataError, match="column 'genres' is List"):
        read_features(path, np.array([1]))


def test_reading_a_log_attaches_both_matrices(tmp_path):
    log_path = _write(tmp_path, "user,item,timestamp\nu,5,1\nv,6,2\n", "log.csv")
    items = _write(tmp_path, "id,x\n6,1.5\n", "items.csv")
    users = _write(tmp_path, "id,a,b\nv,3,4\nu,1,2\n", "users.csv")
    config = DataConfig(item_features=str(items), user_features=str(users))
    log = read(log_path, config)
    assert log.item_features.tolist() == [[0], [1.5]]
    assert log.user_features.tolist() == [[1, 2], [3, 4]]
    assert log.counts["items_without_features"] == 1
    assert log.counts["users_without_features"] == 0
    assert read(log_path, dataclasses.replace(config, item_features="")).item_features is None
