"""Tables and figures: what is drawn is what the rows say."""

import subprocess
import sys

import numpy as np
import pytest

from metacsr_jax.errors import DataError
from metacsr_jax.evaluation.metrics import METRICS, per_case
from metacsr_jax.evaluation.rows import KEYS
from metacsr_jax.report import figures, style
from metacsr_jax.report.table import layout, metric_table, title

PNG = b"\x89PNG"


def rows_of(model="metacsr", steps=0, rank=3.0, scenario="cold", seed=0, dataset="toy"):
    rows = []
    for metric, value in zip(METRICS, per_case(np.array([rank]), np.array([100]))[0], strict=True):
        run = (model, dataset, seed, scenario, "all", "sampled-100", steps, metric)
        rows.append(dict(zip(KEYS, (*run, value, value - 0.01, value + 0.02, 7), strict=True)))
    return rows


ROWS = [
    *rows_of(steps=5, rank=1),
    *rows_of(steps=0, rank=3),
    *rows_of("popular", rank=9),
    *rows_of("random", rank=50),
    *rows_of(scenario="warm", rank=4),
]
RECORDS = [
    {"step": 10, "loss": 3.0, "phase": "pretrain", "norm": 1.0},
    {"step": 20, "loss": 2.0, "phase": "meta"},
    {"step": 20, "validation": {"0": {"auc": 0.8, "map": 0.3}, "1": {"auc": 0.9, "map": 0.4}}},
]


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the figures that the functions open."""
    opened = []
    original = style.open_figure

    def open_figure(*args, **settings):
        context = original(*args, **settings)
        enter = context.__enter__

        class Kept:
            def __enter__(self):
                figure, axes = enter()
                opened.extend(axes.flat)
                return figure, axes

            def __exit__(self, *error):
                return context.__exit__(*error)

        return Kept()

    monkeypatch.setattr(figures, "open_figure", open_figure)
    return opened


def curve(axis, label):
    (line,) = (line for line in axis.lines if line.get_label() == label)
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def test_metric_curves_draw_the_rows(drawn, tmp_path):
    path = figures.metric_curves(ROWS, tmp_path / "made" / "curves.png")
    assert path.read_bytes().startswith(PNG)
    assert [axis.get_title(loc="left") for axis in drawn] == [
        "Hit@N, cold",
        "NDCG@N, cold",
        "Hit@N, warm",
        "NDCG@N, warm",
    ]
    n, value = curve(drawn[0], "metacsr, 5 steps")
    np.testing.assert_array_equal(n, np.arange(1, 21))
    np.testing.assert_array_equal(value, np.arange(1, 21) > 1)
    n, value = curve(drawn[1], "popular")
    np.testing.assert_allclose(value, (n > 9) / np.log2(9 + 2))
    band = drawn[1].collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(1 / np.log2(3 + 2) + 0.02)
    assert [line.get_label() for line in drawn[2].lines] == ["metacsr, not adapted"]


def test_bars_are_ordered_and_as_long_as_the_values(drawn, tmp_path):
    figures.bars(ROWS, tmp_path / "bars.png")
    auc = drawn[0]
    names = [text.get_text() for text in auc.get_yticklabels()]
    assert names == ["random", "popular", "metacsr, not adapted", "metacsr, 5 steps"]
    widths = [bar.get_width() for bar in auc.patches]
    np.testing.assert_allclose(widths, [1 - rank / 100 for rank in (50, 9, 3, 1)])
    assert len(drawn[2].patches) == 1  # warm: one model only


def test_bars_of_a_model_without_any_hit(tmp_path):
    rows = [row | {"value": 0.0, "low": 0.0, "high": 0.0} for row in rows_of()]
    assert figures.bars(rows, tmp_path / "bars.png", metrics=("hit@1",)).exists()


def test_adaptation_curve_names_what_is_off_the_scale(drawn, tmp_path):
    figures.adaptation_curve(ROWS, tmp_path / "steps.png")
    steps, value = curve(drawn[0], "metacsr")
    np.testing.assert_array_equal(steps, [0, 5])
    np.testing.assert_allclose(value, [1 - 3 / 100, 1 - 1 / 100])
    assert [text.get_text() for text in drawn[0].texts] == ["off the scale: random 0.500"]
    assert [line.get_label() for line in drawn[0].lines] == ["metacsr", "popular"]
    with pytest.raises(DataError, match="popular has one number"):
        figures.adaptation_curve(rows_of("popular"), tmp_path / "none.png")


def test_seeds_are_averaged(drawn, tmp_path):
    rows = rows_of(rank=0) + rows_of(rank=4, seed=1)
    figures.metric_curves(rows, tmp_path / "curves.svg")
    _, value = curve(drawn[0], "metacsr")
    np.testing.assert_allclose(value[:5], [0.5, 0.5, 0.5, 0.5, 1])


def test_training_curves(drawn, tmp_path):
    again = {"step": 20, "loss": 1.5, "phase": "meta"}  # written twice, as after a kill
    figures.training_curves([*RECORDS, again], tmp_path / "train.png")
    loss, validation_map, _ = drawn
    assert curve(loss, "meta")[1].tolist() == [1.5]
    assert curve(loss, "pretrain")[0].tolist() == [10]
    assert curve(validation_map, "1 step")[1].tolist() == [0.4]
    figures.training_curves(RECORDS[:1], tmp_path / "loss.pdf")
    with pytest.raises(DataError, match="no record has a loss"):
        figures.training_curves(RECORDS[2:], tmp_path / "none.png")


def test_smoothing_keeps_lines_and_constants():
    line = np.linspace(3.0, -1.0, 101)
    np.testing.assert_allclose(figures._smooth(line), line)
    noise = np.random.default_rng(0).normal(size=400)
    assert figures._smooth(noise).std() < 0.5 * noise.std()


def test_equal_rows_give_equal_files(tmp_path):
    one = figures.bars(ROWS, tmp_path / "one.png").read_bytes()
    assert one == figures.bars(ROWS, tmp_path / "two.png").read_bytes()


def test_every_series_looks_different():
    series = [(f"m{i}", s) for i in range(12) for s in ((0, 1, 5) if i == 0 else (0,))]
    looks = style.looks_of(series).values()
    assert len({(look["color"], look["linestyle"]) for look in looks}) == len(series)


def test_rows_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(DataError, match="'full'"):
        figures.bars(ROWS, tmp_path / "a.png", "full")
    with pytest.raises(DataError, match="data sets toy, other"):
        figures.bars(ROWS + rows_of(dataset="other"), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"metacsr_jax\[plots\]"):
        figures.bars(ROWS, tmp_path / "a.png")


def test_importing_the_report_does_not_import_matplotlib():
    check = "import sys, metacsr_jax.report.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_titles():
    assert [title(name) for name in ("auc", "map", "hit@10", "ndcg@5")] == [
        "AUC",
        "MAP",
        "Hit@10",
        "NDCG@5",
    ]


def test_text_table():
    lines = metric_table(ROWS, metrics=("map", "hit@10")).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["cold"] * 4 + ["warm"]
    header, rule, first, second, *_ = lines
    assert header.split() == ["scenario", "candidates", "model", "steps", "MAP", "Hit@10", "cases"]
    assert set(rule) == {"-", " "}
    assert first.split()[:4] == ["cold", "sampled-100", "metacsr", "0"]
    assert f"{1 / 4:.3f}"[1:] + " [.240, .270]" in first
    assert "1.000 [.990, 1.020]" in second and second.endswith("7")
    ends = [line.index("]") for line in lines[2:]]
    assert len(set(ends)) == 1


def test_layout_puts_numbers_right_and_words_left():
    body = [["1", "a", "b"], ["-.10", "bcd", ""]]
    assert layout(["n", "name", "x"], body).splitlines() == [
        "   n  name  x",
        "----  ----  -",
        "   1  a     b",
        "-.10  bcd",
    ]
    assert layout(["n", "name", "x"], body, "markdown").splitlines() == [
        "|    n | name | x   |",
        "| ---: | ---- | --- |",
        "|    1 | a    | b   |",
        "| -.10 | bcd  |     |",
    ]


def test_columns_appear_where_they_differ():
    table = metric_table(ROWS + rows_of(seed=1), intervals=False)
    assert "seed" in table.splitlines()[0] and "dataset" not in table
    assert "[" not in table


def test_markdown_table():
    lines = metric_table(ROWS + rows_of("a|b"), metrics=("auc",), style="markdown").splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert set(lines[1]) == set("| -:") and "a\\|b" in "".join(lines)


def test_tables_refuse_what_they_cannot_show():
    with pytest.raises(DataError, match="'hit@99'"):
        metric_table(ROWS, metrics=("hit@99",))
    with pytest.raises(DataError, match="line 1 has 1 cells; expected 2"):
        layout(["a", "b"], [["1", "2"], ["3"]])


def test_a_metric_that_a_line_lacks_is_blank():
    rows = [row for row in rows_of() if row["metric"] == "auc"] + rows_of("popular")
    first = metric_table(rows, metrics=("auc", "map"), intervals=False).splitlines()[2]
    assert first.split() == ["cold", "sampled-100", "metacsr", "0", ".970", "7"]
