"""All pictures of a work directory."""

import os
from pathlib import Path

from metacsr_jax.evaluation.rows import read_rows
from metacsr_jax.report.figures import adaptation_curve, bars, metric_curves, training_curves
from metacsr_jax.workdir import read_records


def draw_workdir(workdir: str | os.PathLike) -> list[Path]:
    """Draws training curves, metrics by cut-off, models by metric and metrics by adaptation steps into `figures/`.

    Args:
        workdir: trained and evaluated.

    Returns:
        The pictures' paths.

    Raises:
        WorkdirError: it has not been evaluated.
        ImportError: matplotlib, the `plots` extra, is missing.
    """
    directory = Path(workdir) / "figures"
    directory.mkdir(exist_ok=True)
    rows = read_rows(workdir)
    kinds = sorted({row["candidates"] for row in rows} - {"full"})
    candidates = kinds[0] if kinds else "full"  # the paper's ranking where there is one
    records = read_records(Path(workdir) / "metrics.jsonl")
    pictures = []
    if any("loss" in record for record in records):  # a model that counts has no training curves
        pictures.append(training_curves(records, directory / "training.png"))
    pictures.append(metric_curves(rows, directory / "metrics.png", candidates))
    pictures.append(bars(rows, directory / "models.png", candidates))
    steps_of: dict[str, set[int]] = {}
    for row in rows:
        steps_of.setdefault(row["model"], set()).add(row["adapt_steps"])
    if any(len(steps) > 1 for steps in steps_of.values()):
        pictures.append(adaptation_curve(rows, directory / "adaptation.png", candidates))
    return pictures
