"""The whole page in little, as a user makes it: every table and figure, in a real browser, and interrupted at random moments."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import ROOT, once

from metacsr_jax.reproduce.claims import CLAIMS
from metacsr_jax.reproduce.evidence import Part
from metacsr_jax.reproduce.exhibit import shown
from metacsr_jax.reproduce.plan import EXHIBITS
from metacsr_jax.reproduce.results import Point
from metacsr_jax.reproduce.verdict import HOLDS, OPEN

COMMAND = [sys.executable, "-m", "experiments.reproduce", "--small", "--noprogress"]
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# What the page itself finds wrong with itself, written where --dump-dom shows it.
LOOK = """<script>
const wrong = [];
addEventListener("error", (event) => wrong.push(String(event.message || event.target.outerHTML.slice(0, 60))), true);
addEventListener("load", () => {
  const images = [...document.images];
  document.body.dataset.images = images.length;
  document.body.dataset.missing = images.filter((image) => !image.complete || !image.naturalWidth).length;
  document.body.dataset.wide = document.documentElement.scrollWidth - innerWidth;
  document.body.dataset.wrong = JSON.stringify(wrong);
});
</script>"""


def make(workdir: Path) -> None:
    """The page from a clean work directory."""
    done = subprocess.run(
        [*COMMAND, f"--workdir={workdir}"], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "min left" in done.stderr


@pytest.fixture(scope="module")
def report() -> Path:
    return once("reproduce", make) / "report"


@pytest.fixture(scope="module")
def text(report) -> str:
    return (report / "index.html").read_text(encoding="utf-8")


def test_every_table_and_figure_is_there_with_numbers(report, text):
    for key in EXHIBITS:
        section = text[text.index(f'<h2 id="{key}">') :].split("<h2")[1]
        assert "Not measured" not in section, key
        assert "<table" in section, key
        if key not in ("table2", "time"):
            assert "<img" in section, key
    pictures = sorted(path.stem for path in (report / "pictures").glob("*.png"))
    assert pictures == sorted(path.stem for path in (report / "pictures").glob("*.svg"))
    assert len(pictures) >= 20
    for path in report.glob("*.csv"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) > 1 and all("nan" not in line for line in lines), path.name


def test_the_page_needs_nothing_from_elsewhere_and_tells_nothing_of_the_machine(report, text):
    assert not re.findall(r"<script|<iframe|@import|url\(", text)
    assert not [
        link
        for link in re.findall(r'(?:src|href)="([^"]*)"', text)
        if link[:1] != "#" and link[:5] != "data:"
    ]
    for path in (str(ROOT), str(report.parent), str(Path.home())):
        assert path not in text
    for needed in ("budget of 0.03", "one training seed (0)", "SHA-256", "jaxlib"):
        assert needed in text


def test_verdicts_follow_from_the_numbers_that_stand_beside_them(report, text):
    verdicts = json.loads((report / "verdicts.json").read_text(encoding="utf-8"))
    assert len(verdicts) >= 15
    rules = {claim.key: claim.rule for claim in CLAIMS}
    for claim in verdicts:
        parts = claim["parts"]
        by_rule = rules[claim["key"]](
            [
                Part(
                    part["label"],
                    Point(part["value"], part["low"], part["high"]),
                    part["bound"],
                    group=part["group"],
                    even=part["even"],
                )
                for part in parts
            ]
        )
        if claim["verdict"] != by_rule:
            assert claim["verdict"] == OPEN and "Not measured" in claim["note"]
        line = re.search(rf'<tr data-claim="{claim["key"]}">(.*?)</tr>', text)[1]
        assert claim["verdict"] in line
        for part in parts:
            assert part["low"] <= part["value"] <= part["high"]
            assert shown(Point(part["value"], part["low"], part["high"])) in line
    first = next(claim for claim in verdicts if claim["key"] == "first-cold")
    assert "csan" in first["note"] and first["verdict"] != HOLDS, "six of eight were not run"


def test_another_budget_in_the_same_directory_is_refused_and_loses_nothing(report, text):
    command = [*COMMAND, f"--workdir={report.parent}", "--budget=0.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "belongs to another configuration" in done.stderr
    assert (report / "index.html").read_text(encoding="utf-8") == text


def look(page: Path, width: int) -> tuple[dict[str, str], str]:
    """What a headless browser finds on the page, and its console."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                BROWSER,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--enable-logging=stderr",
                f"--user-data-dir={profile}",
                f"--window-size={width},900",
                "--dump-dom",
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    body = re.search(r"<body([^>]*)>", done.stdout)
    assert body, done.stderr[-2000:]
    return dict(re.findall(r'data-(\w+)="([^"]*)"', body[1])), done.stderr


@pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_every_picture_and_complains_of_nothing(report, text, tmp_path, width):
    page = tmp_path / "page.html"
    page.write_text(text.replace("<head>", f"<head>{LOOK}"), encoding="utf-8")
    found, console = look(page, width)
    assert int(found["images"]) == text.count("<img") >= 20
    assert found["missing"] == "0" and found["wrong"] == "[]"
    assert int(found["wide"]) <= 0, "nothing runs out of the page: tables scroll by themselves"
    assert "CONSOLE" not in console


@pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)
def test_the_browser_would_see_a_broken_picture(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text(
        f'<html><head>{LOOK}</head><body><img src="data:image/png;base64,AAAA"></body></html>'
    )
    found, _ = look(page, 800)
    assert found["missing"] == "1" and found["wrong"] != "[]"


@pytest.mark.slow
def test_interrupted_three_times_it_ends_in_the_same_numbers(report, tmp_path):
    """A part of the same page (its numbers are those of the whole), stopped by a signal at moments drawn at random."""
    command = [*COMMAND, f"--workdir={tmp_path}", "--only=table2,fig6,fig12"]
    rng = np.random.default_rng(int(os.environ.get("METACSR_TESTS_SEED", time.time_ns() % 2**32)))
    signals = [signal.SIGTERM, signal.SIGKILL, signal.SIGTERM]
    for number in signals:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        moment = rng.uniform(3, 20)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        process.communicate(timeout=300)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    again = {path.name: path.read_text() for path in (tmp_path / "report").glob("*.csv")}
    assert {"table2.csv", "fig6.csv", "fig12.csv"} <= set(again)
    for name, content in again.items():
        assert content == (report / name).read_text(), name
