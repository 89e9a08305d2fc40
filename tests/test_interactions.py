"""The log record: ids, codes, duplicates, counts."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metacsr_jax.data.ids import encode_ids
from metacsr_jax.data.interactions import Interactions, drop_duplicates, statistics
from metacsr_jax.errors import DataError

_INTEGERS = st.integers(-(10**17), 10**17)
_WORDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
).filter(str.strip)


@given(st.lists(_INTEGERS, min_size=1) | st.lists(_WORDS, min_size=1))
def test_codes_lead_back_to_the_ids(ids):
    code_E, unique = encode_ids(ids, "ids")
    assert [str(i) for i in unique[code_E].tolist()] == [str(i) for i in ids]
    assert (unique[1:] > unique[:-1]).all()
    assert code_E.dtype == np.int32


@given(st.lists(_WORDS, min_size=1), st.randoms())
def test_codes_do_not_depend_on_the_order_of_rows(ids, random):
    shuffled = random.sample(ids, len(ids))
    code_of = dict(zip(ids, encode_ids(ids, "ids")[0], strict=True))
    assert encode_ids(shuffled, "ids")[0].tolist() == [code_of[i] for i in shuffled]


@pytest.mark.parametrize(
    "ids, expected",
    [
        (["10", "9", "-3"], np.array([-3, 9, 10])),
        (["10", "9", "007"], np.array(["007", "10", "9"])),
        (["1", "+2"], np.array(["+2", "1"])),
        (["-0", "1"], np.array(["-0", "1"])),
        (["1.0", "2"], np.array(["1.0", "2"])),
        (["1", " 1"], np.array([" 1", "1"])),
        (["9" * 30, "1"], np.array(["1", "9" * 30])),
        (np.array([5, 2, 5], np.int16), np.array([2, 5])),
        (pl.Series(["b", "a"]), np.array(["a", "b"])),
    ],
)
def test_ids_are_integers_only_if_all_are_canonical(ids, expected):
    unique = encode_ids(ids, "ids")[1]
    assert unique.dtype == expected.dtype and (unique == expected).all()


@pytest.mark.parametrize(
    "ids, message",
    [
        ([], "none found"),
        (["a", ""], "blank"),
        (["a", "  "], "blank"),
        (["a", "x" * 1001], "1001 characters"),
        (["a", "b\0"], "NUL"),
        ([1.5], "float64|Float64"),
        (["a", None], "found None|object"),
        (pl.Series(["a", None]), "row 2 is empty"),
        (np.array([2**63], np.uint64), "2\\*\\*63"),
    ],
)
def test_ids_that_are_none_are_refused(ids, message):
    with pytest.raises(DataError, match=message):
        encode_ids(ids, "column 'user'")


def _log(**fields) -> Interactions:
    return Interactions.from_ids(
        ["b", "a", "b", "b"], [1, 1, 2, 1], [30, 10, 20, 30], [5, 4, 3, 5], name="log", **fields
    )


def test_from_ids_keeps_file_order():
    log = _log()
    assert log.user_E.tolist() == [1, 0, 1, 1]
    assert log.item_E.tolist() == [0, 0, 1, 0]
    assert log.time_E.tolist() == [30, 10, 20, 30]
    assert (log.num_events, log.num_users, log.num_items) == (4, 2, 2)


def test_without_times_the_row_number_stands_in():
    log = Interactions.from_ids([1, 1, 2], [7, 8, 7])
    assert not log.has_time and log.time_E.tolist() == [0, 1, 2] and log.rating_E is None


def test_duplicates_of_rated_logs_are_dropped_and_counted():
    log = drop_duplicates(_log(counts={"rows": 4}))
    assert log.time_E.tolist() == [30, 10, 20]
    assert dict(log.counts) == {"rows": 4, "duplicates": 1}


def test_equal_rows_at_other_times_or_ratings_are_no_duplicates():
    users, items = [1, 1, 1, 1], [1, 1, 1, 1]
    log = Interactions.from_ids(users, items, [1, 1, 2, 1], [3.0, 4.0, 3.0, 3.0])
    assert drop_duplicates(log).counts["duplicates"] == 1


def test_repeats_of_unrated_logs_stay():
    log = Interactions.from_ids([1, 1], [1, 1], [5, 5])
    assert drop_duplicates(log).num_events == 2


_ROW = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.integers(1, 2))


@given(st.lists(_ROW, min_size=1))
def test_dropping_keeps_the_first_of_each_row(rows):
    columns = list(zip(*rows, strict=True))
    log = drop_duplicates(Interactions.from_ids(*columns))
    kept = zip(
        log.user_ids[log.user_E],
        log.item_ids[log.item_E],
        log.time_E,
        log.rating_E,
        strict=True,
    )
    assert list(kept) == list(dict.fromkeys(rows))
    assert log.counts["duplicates"] == len(rows) - log.num_events


def test_statistics_count_what_is_rated_well_enough():
    log = _log()
    assert statistics(log) == (2, 2, 4, 4 / (2 * 2))
    assert statistics(log, 4.0) == (2, 1, 3, 3 / (2 * 1))
    assert statistics(log, 6.0) == (0, 0, 0, 0.0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"item_E": np.zeros(3, np.int32)}, "item_E is int32 \\(3,\\)"),
        ({"user_E": np.zeros(4, np.int64)}, "user_E is int64"),
        ({"user_E": np.full(4, 2, np.int32)}, "user codes span 2..2; expected 0..1"),
        ({"user_E": np.full(4, -1, np.int32)}, "user codes span -1"),
        ({"rating_E": np.array([1, np.nan, 1, 1], np.float32)}, "rating_E\\[1\\] is nan"),
        ({"user_ids": np.array(["b", "a"])}, "not sorted"),
        ({"user_ids": np.array([0.5, 1.5])}, "user_ids is float64"),
        ({"declared_items": np.array([1, 3])}, "item .*2.* is not among the 2 declared"),
        ({"item_features": np.zeros((3, 1), np.float32)}, "expected float32 \\(2, F\\)"),
        ({"user_E": np.zeros(0, np.int32)}, "0 events"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        dataclasses.replace(_log(), **change)


@pytest.mark.parametrize(
    "time, rating, message",
    [
        ([1.5, 2.5], None, "times are float64"),
        (["x", "y"], None, "times are"),
        ([1, 2], ["x", "y"], "ratings are"),
        ([1, 2], [1.0, np.inf], "rating_E\\[1\\] is inf"),
        ([1, 2, 3], None, "time_E is int64 \\(3,\\)"),
    ],
)
def test_columns_that_are_no_numbers_are_refused(time, rating, message):
    with pytest.raises(DataError, match=message):
        Interactions.from_ids([1, 2], [1, 2], time, rating)


@pytest.mark.parametrize("scale", [1, 10**12])
@pytest.mark.parametrize("low", [0, -7, -(2**63), 2**63 - 10**14])
def test_integer_ids_close_together_or_far_apart_get_the_same_codes(low, scale):
    """Near ones are looked up, far ones sorted."""
    place_E = np.array([5, 0, 3, 5, 9, 3])
    code_E, ids = encode_ids(low + place_E * scale, "ids")
    assert code_E.dtype == np.int32 and ids.dtype == np.int64
    np.testing.assert_array_equal(ids, low + np.array([0, 3, 5, 9]) * scale)
    np.testing.assert_array_equal(code_E, [2, 0, 1, 2, 3, 1])
