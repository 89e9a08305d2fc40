"""Readers: every published form, every wrapper, every way to be malformed."""

import csv
import datetime as dt
import gzip
import io
import tarfile
import tracemalloc
import zipfile

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metacsr_jax.config import DataConfig
from metacsr_jax.data import lastfm
from metacsr_jax.data import text as text_files
from metacsr_jax.data.readers import FORMATS, read
from metacsr_jax.errors import DataError

_ROWS = [(1, 30, 5.0, 100), (1, 10, 3.0, 90), (2, 30, 4.0, 95), (7, 20, 1.0, 80)]
_AMAZON = [
    ("A1ABCDEFGH", "B000000001", 5.0, 1400000000),
    ("A2ABCDEFGH", "0123456789", 4.0, 1400086400),
    ("A1ABCDEFGH", "012345678X", 3.0, 1400086400),
]
_PLAYS = [
    ("user_2", "2009-05-04T12:00:00Z", "", "Émile", "", 'The "A" side'),
    ("user_1", "2009-05-01T12:00:00Z", "x1", "Émile", "y1", "B"),
    ("user_1", "2009-05-01T12:00:00Z", "x1", "Émile", "y1", "B"),
    ("user_1", "2009-04-27T12:00:01Z", "x1", "Time", "", "Time"),
    ("user_1", "2009-04-27T12:00:00Z", "x1", "Émile", "y1", "B"),
]


def _json(user, item, rating, time):
    return (
        f'{{"reviewerID": "{user}", "asin": "{item}", "helpful": [0, 1], '
        f'"reviewText": "a, \\"b\\"", "overall": {rating}, "unixReviewTime": {time}}}'
    )


def _lines(rows, separator, header=""):
    body = [separator.join(map(str, row)) for row in rows]
    return "\n".join(([header] if header else []) + body) + "\n"


_INTEGER_STARS = [(u, i, int(r), t) for u, i, r, t in _ROWS]
_TYPED = "user_id:token\titem_id:token\trating:float\tts"

# form -> (name of the file, its text, the events in it)
_FILES = {
    "movielens-1m": ("ratings.dat", _lines(_INTEGER_STARS, "::"), _ROWS),
    "movielens-10m": ("ratings.dat", _lines(_ROWS, "::"), _ROWS),
    "movielens-100k": ("u.data", _lines(_INTEGER_STARS, "\t"), _ROWS),
    "movielens-csv": ("ratings.csv", _lines(_ROWS, ",", "userId,movieId,rating,timestamp"), _ROWS),
    "amazon-ratings-2014": ("ratings_Video.csv", _lines(_AMAZON, ","), _AMAZON),
    "amazon-ratings-2018": (
        "Video.csv",
        _lines([(i, u, r, t) for u, i, r, t in _AMAZON], ","),
        _AMAZON,
    ),
    "amazon-json": ("Video_5.json", "\n".join(_json(*row) for row in _AMAZON), _AMAZON),
    "csv": ("log.csv", _lines(_ROWS, ",", "user_id,item_id,rating,timestamp"), _ROWS),
    "tsv": ("log.inter", _lines(_ROWS, "\t", _TYPED), _ROWS),
}  # fmt: skip


def _write(directory, name, text):
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _pack(directory, wrapper, name, text):
    """The file as publishers wrap it, besides files that are not the log."""
    data = text.encode()
    if wrapper == "file":
        return _write(directory, name, data)
    if wrapper == "directory":
        inner = directory / "set" / "inner"
        inner.mkdir(parents=True)
        _write(directory / "set", "README", b"hello")
        _write(inner, name, data)
        return directory / "set"
    if wrapper == "gz":
        return _write(directory, name + ".gz", gzip.compress(data))
    if wrapper == "zip":
        with zipfile.ZipFile(directory / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("set/", "")
            archive.writestr("set/README", "hello")
            archive.writestr(f"set/{name}", data)
            archive.writestr(f"__MACOSX/set/._{name}", "junk")
        return directory / "set.zip"
    with tarfile.open(directory / "set.tar.gz", "w:gz") as archive:
        for inner, content in (("set/README", b"hello"), (f"set/{name}", data)):
            member = tarfile.TarInfo(inner)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return directory / "set.tar.gz"


def _events(log):
    columns = [log.user_ids[log.user_E], log.item_ids[log.item_E]]
    columns += [] if log.rating_E is None else [log.rating_E]
    columns += [log.time_E]
    return list(zip(*(c.tolist() for c in columns), strict=True))


@pytest.mark.parametrize("wrapper", ["file", "directory", "gz", "zip", "tar.gz"])
@pytest.mark.parametrize("form", _FILES)
def test_every_form_in_every_wrapper_is_recognised(tmp_path, form, wrapper):
    name, text, events = _FILES[form]
    log = read(_pack(tmp_path, wrapper, name, text))
    assert _events(log) == events
    assert log.counts == {"rows": len(events), "malformed": 0, "duplicates": 0}
    assert log.name == ("set" if wrapper in ("directory", "zip", "tar.gz") else name.split(".")[0])


@pytest.mark.parametrize("form", _FILES)
@pytest.mark.parametrize("change", ["crlf", "bom", "no last line end", "blank lines"])
def test_line_ends_and_blank_lines_do_not_matter(tmp_path, form, change):
    name, text, events = _FILES[form]
    data = text.encode()
    if change == "crlf":
        data = data.replace(b"\n", b"\r\n")
    elif change == "bom":
        data = b"\xef\xbb\xbf" + data
    elif change == "no last line end":
        data = data.rstrip(b"\n")
    else:
        data = data.replace(b"\n", b"\n\n") + b"\r\n\n"
    assert _events(read(_write(tmp_path, name, data), DataConfig(format=form))) == events


def test_formats_can_be_named_and_misnaming_is_helped(tmp_path):
    path = _write(tmp_path, "x", _FILES["movielens-1m"][1])
    assert _events(read(path, DataConfig(format="movielens-1m", name="mine"))) == _ROWS
    assert read(path, DataConfig(format="movielens-1m", name="mine")).name == "mine"
    with pytest.raises(DataError, match=r"movielens-m1.*movielens-1m"):
        read(path, DataConfig(format="movielens-m1"))
    assert set(FORMATS) - set(_FILES) == {"lastfm-1k", "parquet"}


def test_movielens_1m_declares_its_id_range_and_10m_does_not(tmp_path):
    small = read(_write(tmp_path, "ratings.dat", "1::3952::5::1\n6040::1::4::2\n"))
    assert small.declared_items.tolist() == list(range(1, 3953))
    large = read(_write(tmp_path, "ratings.dat", "1::65133::4.5::1\n71567::1::0.5::2\n"))
    assert large.declared_items is None and large.rating_E.tolist() == [4.5, 0.5]


def test_duplicates_are_dropped_only_where_there_are_ratings(tmp_path):
    text = "1::1::5::1\n1::1::5::1\n1::1::5::2\n1::1::4::1\n"
    log = read(_write(tmp_path, "ratings.dat", text))
    assert log.num_events == 3 and log.counts["duplicates"] == 1
    rows = [(1, 1, 1), (1, 1, 1)]
    log = read(_write(tmp_path, "plays.csv", _lines(rows, ",", "user,item,time")))
    assert _events(log) == rows and "duplicates" not in log.counts


# Last.fm


@pytest.fixture
def plays(tmp_path):
    name = "userid-timestamp-artid-artname-traid-traname.tsv"
    return _pack(tmp_path, "tar.gz", name, _lines(_PLAYS, "\t"))


@pytest.mark.parametrize("days, count", [(7.0, 4), (1.0, 1), (3.0, 1), (3.01, 3), (0.0, 5)])
def test_lastfm_keeps_the_latest_days(plays, days, count):
    log = read(plays, DataConfig(window_days=days))
    assert log.num_events == count
    assert log.counts["rows"] == 5 and log.counts["outside_window"] == 5 - count


def test_lastfm_items_are_artist_and_track(plays):
    log = read(plays)
    seconds = [dt.datetime.fromisoformat(row[1]).timestamp() for row in _PLAYS]
    expected = [(row[0], f"{row[3]} — {row[5]}") for row in _PLAYS]
    assert _events(log) == [(*e, t) for e, t in zip(expected, seconds, strict=True)][:4]
    assert log.rating_E is None


def test_clocks_that_run_ahead_do_not_move_the_window():
    day = 86400
    time_E = np.arange(20_000) * 600
    end = int(time_E[-1])
    assert lastfm.window(time_E, 7) == (end - 7 * day, end)
    ahead = np.append(time_E, end + 1000 * day)
    assert lastfm.window(ahead, 7) == (end - 7 * day, end)
    assert lastfm.window(np.append(time_E, end + day), 7) == (end - 6 * day, end + day)
    assert lastfm.window(np.array([5]), 0) == (4, 5)
    with pytest.raises(DataError, match="window_days is -1"):
        lastfm.window(time_E, -1)


def test_a_malformed_line_outside_the_window_still_stops(plays, tmp_path):
    rows = [*_PLAYS, ("user_1", "2005-01-01", "", "A", "", "B")]
    path = _write(tmp_path, "plays.tsv", _lines(rows, "\t"))
    with pytest.raises(DataError, match=r"plays.tsv:6: column 'timestamp': found '2005-01-01'"):
        read(path)
    assert read(path, DataConfig(skip_malformed=True)).counts["malformed"] == 1


# Tables


@pytest.mark.parametrize(
    "header, columns",
    [
        ("user,item,timestamp", {}),
        ("userId,movieId,Timestamp", {}),
        ("User ID,item-id,unixReviewTime", {}),
        ("who,what,when", {"user_column": "who", "item_column": "what", "time_column": "when"}),
        ('"user","item","timestamp"', {}),
    ],
)
def test_columns_are_found_or_named(tmp_path, header, columns):
    path = _write(tmp_path, "log.csv", f"{header}\n1,2,3\n4,5,6\n")
    assert _events(read(path, DataConfig(**columns))) == [(1, 2, 3), (4, 5, 6)]


def test_other_columns_are_ignored_in_any_order(tmp_path):
    path = _write(
        tmp_path, "log.csv", 'time,title,user,row,item\n3,"a, ""b""\nc",1,9,2\n6,,4,9,5\n'
    )
    assert _events(read(path)) == [(1, 2, 3), (4, 5, 6)]


def test_a_log_may_have_an_order_only(tmp_path):
    path = _write(tmp_path, "log.csv", "user,item,rating\nu,b,4\nu,a,5\n")
    log = read(path, DataConfig(time_column="order"))
    assert not log.has_time and _events(log) == [("u", "b", 4.0, 0), ("u", "a", 5.0, 1)]
    ignored = read(path, DataConfig(time_column="order", rating_column="none"))
    assert ignored.rating_E is None
    with pytest.raises(DataError, match=r'no time column among .*"order"'):
        read(path)


def test_quoted_and_unicode_ids(tmp_path):
    ids = ["a,b", 'say "hi"', "日本", " pad", "007", "7", "two\nlines", "Ω;x\ty"]
    rows = [('"' + i.replace('"', '""') + '"', f"i{n}", n) for n, i in enumerate(ids)]
    path = _write(tmp_path, "log.csv", _lines(rows, ",", "user,item,time"))
    assert [e[0] for e in _events(read(path))] == ids


_IDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


_PIECES = st.sampled_from(
    ["a", "b", '"', '""', ",", "\n", '"a",b,1\n', "a,b,1\n", '"a\nb","""c",2\n']
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_PIECES, max_size=12).map("".join))
def test_quotes_are_read_as_python_reads_them(tmp_path_factory, body):
    path = tmp_path_factory.mktemp("log") / "log.csv"
    path.write_text(f"user,item,time\n{body}")
    try:
        records = [r for r in csv.reader(io.StringIO(body), strict=True) if r]
        good = all(len(r) == 3 and r[0] and r[1] and r[2].isdigit() for r in records) and records
    except csv.Error:
        good = False
    if good:
        assert _events(read(path)) == [(u, i, int(t)) for u, i, t in records]
    else:
        with pytest.raises(DataError):
            read(path)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(_IDS, _IDS, st.integers(0, 10**10)), min_size=1), st.sampled_from(",\t"))
def test_what_polars_writes_is_read_back(tmp_path_factory, rows, separator):
    path = tmp_path_factory.mktemp("log") / ("log.csv" if separator == "," else "log.tsv")
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    frame.write_csv(path, separator=separator)
    events = _events(read(path))
    assert [(str(u), str(i), t) for u, i, t in events] == rows


_START = 1_500_000_000  # 2017-07-14T02:40:00Z
_DAY = _START - _START % 86400


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1000, 2000, 1500], [1000, 2000, 1500]),
        ([-5, 0, 7], [-5, 0, 7]),
        (["1000.0", "2000.9", "1.5e3"], [1000, 2000, 1500]),
        ([_START * 10**3 + 123, _START * 10**3 + 1999], [_START, _START + 1]),
        ([_START * 10**6 + 123, _START * 10**6 + 1999999], [_START, _START + 1]),
        ([_START * 10**9 + 123, _START * 10**9 + 1999999999], [_START, _START + 1]),
        (["2017-07-14T02:40:00Z", "2017-07-14T02:40:01Z"], [_START, _START + 1]),
        (["2017-07-14 02:40:00", "2017-07-14 02:40:01"], [_START, _START + 1]),
        (["2017-07-14T02:40:00.25", "2017-07-14T02:40:01"], [_START, _START + 1]),
        (["2017-07-14T04:40:00.5+02:00", "2017-07-14T02:40:01Z"], [_START, _START + 1]),
        (["2017-07-14T04:40:00+0200", "2017-07-14 02:40:01"], [_START, _START + 1]),
        (["2017-07-14", "2017-07-15"], [_DAY, _DAY + 86400]),
    ],
)
def test_times_are_seconds_whatever_their_form(tmp_path, values, expected):
    rows = [(1, 2, value) for value in values]
    log = read(_write(tmp_path, "log.csv", _lines(rows, ",", "user,item,time")))
    assert log.time_E.tolist() == expected


@pytest.mark.parametrize(
    "time",
    [
        pl.Series([100, 200], dtype=pl.Int32),
        pl.Series([100.5, 200.0]),
        pl.Series([dt.datetime(1970, 1, 1, 0, 1, 40), dt.datetime(1970, 1, 1, 0, 3, 20)]),
        pl.Series(["1970-01-01 00:01:40", "1970-01-01 00:03:20"]),
        pl.Series([100_000, 200_000]).cast(pl.Datetime("ms", "UTC")),
    ],
)
def test_parquet_times_and_ids_of_any_type(tmp_path, time):
    path = tmp_path / "log.parquet"
    user = pl.Series(["a", "b"], dtype=pl.Categorical)
    frame = pl.DataFrame({"user": user, "x": [[1], [2]], "item": [3, 4], "timestamp": time})
    frame.write_parquet(path)
    assert _events(read(path)) == [("a", 3, 100), ("b", 4, 200)]


# Bad input: text, what the message must say


_BAD = [
    # wrong number of fields, wrong separator
    ("ratings.dat", "1::2::3::4\n1::2::3\n", r"ratings.dat:2: found '1::2::3'; expected 4 fields"),
    ("ratings.dat", "1::2::3::4\n1::2::3::4::5\n", r"ratings.dat:2: found .*expected 4 fields"),
    ("ratings.dat", "1,2,3,4\n5,6,3,8\n", r"ratings.dat:1: found '1,2,3,4'.*expected '::'"),
    ("log.csv", "user;item;time\n1;2;3\n", r"log.csv:1: .*separated by ','; ';' seems"),
    ("log.tsv", "user,item,time\n1,2,3\n", r"log.tsv:1: .*separated by '\\t'; ',' seems"),
    ("log.csv", "user\titem\ttime\n1\t2\t3\n", r"log.csv:1: .*separated by ','; '\\t' seems"),
    ("log.csv", "user,item,time\n1,2,3\n1,2\n", r"log.csv:3: found '1,2'; expected 3 fields"),
    # missing columns
    ("log.csv", "user,thing,time\n1,2,3\n", r"log.csv:1: no item column among 'user', 'thing'"),
    ("log.csv", "user,item,when\n1,2,3\n", r"log.csv:1: no time column among .*time_column"),
    ("log.csv", "user,user,item,time\n1,1,2,3\n", r"2 columns 'user'"),
    # values
    ("ratings.dat", "1::2::3::x\n", r"ratings.dat:1: column 'time': found 'x'; expected unix"),
    ("u.data", "1\t2\t3\t4\n1\t2\t3\tx\n", r"u.data:2: column 'time': found 'x'"),
    ("log.csv", "user,item,time\n1,2,3\n1,2,\n", r"log.csv:3: column 'time': found ''"),
    ("log.csv", "user,item,time\n1,2,3\n,2,4\n", r"log.csv:3: column 'user': found ''.*a user id"),
    ("log.csv", "user,item,time\n1,  ,3\n", r"log.csv:2: column 'item': found '  '.*an item id"),
    ("log.csv", 'user,item,time\n"a\nb",2,3\n1,"",4\n', r"log.csv:4: column 'item': found ''"),
    ("log.csv", "user,item,rating,ts\n1,2,nan,3\n", r"log.csv:2: column 'rating': found 'nan'"),
    ("log.csv", "user,item,rating,ts\n1,2,inf,3\n", r"log.csv:2: column 'rating': found 'inf'"),
    ("log.csv", "user,item,rating,ts\n1,2,,3\n", r"log.csv:2: column 'rating': found ''"),
    ("ratings.dat", "1::2::6::1\n", r"ratings.dat:1: column 'rating': found '6'.*0.5 to 5"),
    ("r.csv", "A1ABCDEFGH,B000000001,5.0,x\n", r"r.csv:1: column 'timestamp': found 'x'"),
    ("r.json", _json("A", "B", 5, 1) + '\n{"asin": \n', r"r.json:2: found '{\"asin\": '; expected"),
    ("r.json", '{"reviewerID": "A", "overall": 5}\n', r"r.json:1: column 'asin': found ''"),
    ("p.tsv", "u\t2009-01-01T00:00:00Z\t\tA\t\t\n", r"p.tsv:1: column 'track name': found ''"),
    # quotes, encoding
    ("log.csv", 'user,item,time\n"a,b",2,3\n"c",2,x\n', r"log.csv:3: column 'time': found 'x'"),
    ("log.csv", 'user,item,time\n"1"x,2,3\n4,5,6\n', r"log.csv:2: found '\"1\"x,2,3'; expected 3"),
    ("log.csv", 'user,item,time\n"a\nb",2,3\n1,2,x\n', r"log.csv:4: column 'time': found 'x'"),
    ("log.csv", 'user,item,time\n1,"2,3\n1,2,3\n', r"log.csv:2: found '1,\"2,3'; expected 3"),
    ("log.csv", b"user,item,time\n1,2,3\n\xff,2,3\n", r"log.csv:3: found the byte 0xff;"),
    # nothing there
    ("log.csv", "", r"log.csv: the file is empty"),
    ("log.csv", "\n\n", r"log.csv: only blank lines"),
    ("log.csv", "user,item,time\n", r"log.csv: no events"),
    ("notes.txt", "hello\n", r"notes.txt:1: found 'hello', which no known form begins with"),
    ("log.parquet", b"PAR1 cut", r"log.parquet: not a whole parquet file"),
    ("x.zip", b"<html>", r"x.zip: starts with b'<htm'; expected a .zip archive"),
]  # fmt: skip


@pytest.mark.parametrize("name, text, message", _BAD)
def test_bad_input_is_named(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read(_write(tmp_path, name, text))


@pytest.mark.parametrize(
    "name, lines, bad",
    [
        ("ratings.dat", ["1::2::3::4", "1::2::3", "1::2::x::4", "::2::3::4", "3::4::5::6"], 3),
        ("log.csv", ["user,item,time", "1,2,3", "1,2", "3,4,5,6", "", "7,8,x", "7,8,9"], 3),
        ("log.csv", ["user,item,time", '"1",2,3', '1,"2,3', '1,2"x,3', "", "7,8,9"], 1),
        ("log.csv", ["user,item,time", '"1",2,3', b"1,\xff,3", "7,8,9"], 1),
        ("log.csv", ["user,item,time", "1,2,3", b"1,\xff,3", "7,8,9"], 1),
        ("r.json", [_json("A", "B", 5, 1), b'{"asin": "\xff"}'], 1),
        ("r.json", [_json("A", "B", 5, 1), "{", "[]", _json("A", "C", 5, "null")], 3),
    ],
)
def test_malformed_lines_are_skipped_and_counted_on_request(tmp_path, name, lines, bad):
    data = b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines)
    path = _write(tmp_path, name, data)
    log = read(path, DataConfig(skip_malformed=True))
    assert log.counts["malformed"] == bad
    assert log.num_events == log.counts["rows"] - bad
    with pytest.raises(DataError, match="skip_malformed"):
        read(path)


def test_a_log_of_malformed_lines_only_is_refused(tmp_path):
    path = _write(tmp_path, "log.csv", "user,item,time\n1,2,x\n")
    with pytest.raises(DataError, match=r"none of 1 rows is well formed; first, log.csv:2"):
        read(path, DataConfig(skip_malformed=True))


def test_parquet_nulls_are_named_by_row(tmp_path):
    path = tmp_path / "log.parquet"
    columns = {"user": [1, None], "item": ["a", "b"], "time": [1, 2]}
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(DataError, match=r"log.parquet: row 2: column 'user'"):
        read(path)
    pl.DataFrame(columns | {"user": [1.5, 2.5]}).write_parquet(path)
    with pytest.raises(DataError, match="column 'user' is Float64"):
        read(path)


@pytest.mark.parametrize("wrapper", ["zip", "gz", "tar.gz"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_cut_archives_are_named(tmp_path, wrapper, share):
    rng = np.random.default_rng(0)
    rows = [(u, i, 3, t) for u, i, t in rng.integers(1, 10**6, (2000, 3)).tolist()]
    path = _pack(tmp_path, wrapper, "ratings.dat", _lines(rows, "::"))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=f"{path.name}: broken .* archive"):
        read(path)


def test_a_damaged_member_fails_its_checksum(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ratings.dat", "1::2::3::4\n")
    path.write_bytes(path.read_bytes().replace(b"1::2::3::4", b"1::2::5::4"))
    with pytest.raises(DataError, match=r"broken zip archive .*CRC"):
        read(path)


def test_ambiguous_and_missing_paths_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none")
    _write(tmp_path, "a.csv", "user,item,time\n1,2,3\n")
    _write(tmp_path, "b.csv", "user,item,time\n1,2,3\n")
    with pytest.raises(DataError, match=r"2 candidate files \(a.csv, b.csv\)"):
        read(tmp_path)


def test_ambiguous_amazon_columns_can_be_named(tmp_path):
    path = _write(tmp_path, "r.csv", "x1,y1,5.0,100\nx2,y1,4.0,200\n")
    with pytest.raises(DataError, match="do not tell user from item"):
        read(path)
    log = read(path, DataConfig(format="amazon-ratings-2018"))
    assert log.user_ids.tolist() == ["y1"] and log.item_ids.tolist() == ["x1", "x2"]


def test_named_columns_that_are_missing_get_the_nearest(tmp_path):
    path = _write(tmp_path, "log.csv", "user_id,item,time\n1,2,3\n")
    with pytest.raises(DataError, match=r"0 columns 'userid'.*nearest: user_id"):
        read(path, DataConfig(user_column="userid"))
    with pytest.raises(DataError, match="user and item are both 'item'"):
        read(path, DataConfig(user_column="item"))


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_encoding_is_checked_across_chunks(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(text_files, "_CHUNK", chunk)
    good = _write(tmp_path, "good.csv", "user,item,time\né日,ü,1\nΩ,ü,2\n")
    assert read(good).num_events == 2
    bad = _write(tmp_path, "bad.csv", "user,item,time\né日,ü,1\n".encode() + b"a\xe6\x97,b,2\n")
    with pytest.raises(DataError, match=r"bad.csv:3: found the byte 0xe6"):
        read(bad)


def test_python_holds_no_row_of_a_long_log(tmp_path):
    events = 200_000
    frame = pl.DataFrame({"user": pl.arange(events, eager=True) % 999, "item": 7, "time": 1})
    path = tmp_path / "log.csv"
    frame.write_csv(path)
    tracemalloc.start()
    log = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert log.num_events == events
    # The arrays of the log and a few temporary ones: 16 bytes kept per event; Python objects for
    # the fields of every row would be ten times as much.
    assert peak < 100 * events
