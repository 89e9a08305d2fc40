"""From finished runs to the page: exhibits drawn, claims judged, csv files written."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from metacsr_jax import settings
from metacsr_jax import workdir as workdirs
from metacsr_jax.compare import Outcome, finished
from metacsr_jax.files import write_whole
from metacsr_jax.report.comparison import Finished
from metacsr_jax.reproduce import adapting, curves, inside, rankings, tables
from metacsr_jax.reproduce.claims import CLAIMS, NOT_JUDGED
from metacsr_jax.reproduce.exhibit import Exhibit, Table
from metacsr_jax.reproduce.page import page
from metacsr_jax.reproduce.plan import EXHIBITS, Options, base_config, specs
from metacsr_jax.reproduce.results import Results, lengths, read_results
from metacsr_jax.reproduce.verdict import judge_all
from metacsr_jax.tune import searched

MAKERS: dict[str, Callable[[Results, Path], Exhibit]] = {
    "table2": tables.statistics,
    "table3": lambda results, path: tables.comparison(results, "table3", path),
    "fig3": lambda results, path: tables.curves(results, "fig3", path),
    "table4": lambda results, path: tables.comparison(results, "table4", path),
    "fig4": lambda results, path: tables.curves(results, "fig4", path),
    "table5": tables.ablation,
    "fig5": curves.amount,
    "fig6": adapting.convergence,
    "fig7": lambda results, path: inside.preferences_and_items(results, "fig7", path),
    "fig8": lambda results, path: inside.preferences_and_items(results, "fig8", path),
    "fig9": inside.similarities,
    "fig10": lambda results, path: inside.new_and_regular(results, "fig10", path),
    "fig11": lambda results, path: inside.new_and_regular(results, "fig11", path),
    "fig12": curves.context,
    "steps": adapting.algorithms,
    "length": curves.coldness,
    "ranking": rankings.ranking,
    "order": curves.order,
    "time": curves.newcomers,
    "shift": adapting.shift,
}


def finished_runs(outcomes: Sequence[Outcome]) -> tuple[dict[str, list[Finished]], dict[str, str]]:
    """Finished runs by name, and why others are not there."""
    runs: dict[str, list[Finished]] = {}
    missing: dict[str, str] = {}
    for outcome in outcomes:
        run = outcome.run
        if outcome.status == "finished":
            runs.setdefault(run.name, []).extend(finished([outcome]))
        else:
            why = " ".join(filter(None, (outcome.status, outcome.message)))
            missing[f"{run.name}, seed {run.seed}"] = why
    return runs, missing


def write_report(
    options: Options,
    exhibits: Sequence[str],
    outcomes: Sequence[Outcome],
    failed: Mapping[str, str],
    directory: Path,
    say: Callable[[str], None],
) -> tuple[Path, dict[str, str]]:
    """Writes `index.html`, a csv file for each table, PNG and SVG for each picture, and `verdicts.json`.

    Args:
        options: the reproduction's.
        exhibits: of `plan.check_exhibits`.
        outcomes: of all runs; what is missing is said on the page.
        failed: what could not be measured, and why; said there, too.
        directory: created where missing.
        say: receives a line for each table and figure.

    Returns:
        The page, and what could not be drawn or judged, and why.

    Raises:
        WorkdirError: a run's files are damaged.
    """
    runs, missing = finished_runs(outcomes)
    negatives = base_config(options).protocol.num_negatives
    results = read_results(options, exhibits, runs, {**missing, **failed}, negatives)
    pictures = directory / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    made, undone = [], {}
    for key in exhibits:
        if not any(results.has(spec.name) for spec in specs(options, key)):
            made.append(Exhibit(key, text=["Not measured: none of its runs is finished."]))
            continue
        say(f"report: {key}, {EXHIBITS[key]}")
        try:
            made.append(MAKERS[key](results, pictures))
        except Exception as error:  # the rest of the page is none the worse
            undone[key] = f"{type(error).__name__}: {error}"
            say(f"report: {key} failed: {undone[key]}")
            made.append(Exhibit(key, text=["Not measured: see the notes at the top."]))
    csv_files = {f"{table.name}.csv": table for exhibit in made for table in exhibit.tables}
    for path in directory.glob("*.csv"):  # of an earlier page
        if path.name not in csv_files:
            path.unlink()
    for name, table in csv_files.items():
        (directory / name).write_text(table.csv(), encoding="utf-8")
    say("report: claims")
    verdicts, unjudged = judge_all(CLAIMS, results, exhibits)
    undone |= {f"claim {key}": why for key, why in unjudged.items()}
    results.missing.update(undone)
    judged = [
        {
            **verdict._asdict(),
            "parts": [
                {
                    "label": part.label,
                    **part.point._asdict(),
                    "bound": part.bound,
                    "even": part.even,
                    "group": part.group,
                }
                for part in verdict.parts
            ],
        }
        for verdict in verdicts
    ]
    workdirs.write_json(directory / "verdicts.json", judged)
    final = directory / "index.html"
    heading = f"metaCSR, reproduced on {results.dataset}"
    text = page(
        heading,
        _notes(results),
        verdicts,
        made,
        _runs_table(results),
        _provenance(results),
        condition=f"at a budget of {options.budget:g}" if options.budget < 1 else "",
        not_judged=NOT_JUDGED,
    )
    write_whole(final, lambda file: file.write(text.encode()))
    return final, undone


def _notes(results: Results) -> list[str]:
    options, notes = results.options, []
    if len(options.seeds) == 1:
        notes.append(
            f"Made with one training seed ({options.seeds[0]}): intervals and verdicts hold for other users of these trained models, "
            "not for other trainings."
        )
    else:
        notes.append(
            "Values are means over the training seeds. Figures 7 to 11 show the first; their claims are judged of each."
        )
    if options.budget < 1:
        notes.append(
            f"Made with a budget of {options.budget:g}: trainings are cut to about that share of their presets' length, one dispatch at "
            "least; what each was left with stands under “What was run”. Models that learn slowly are worse here than they can be, the "
            "verdicts are about trainings of this length, and the README has the table of whole trainings."
        )
    if options.searched:
        notes.append(options.searched)
    diverged = [
        name
        for name, of_name in results.runs.items()
        if any(workdirs.read_manifest(run.path).get("diverged_steps") for run in of_name)
    ]
    if diverged:
        notes.append(
            f"Somebody's adaptation diverged in {', '.join(diverged)}: there the number of steps is the best on validation users of "
            "those at which no test user's scores are lost."
        )
    if results.missing:
        missing = "; ".join(f"{name}: {why}" for name, why in results.missing.items())
        notes.append(f"Missing: {without_paths(missing)}.")
    return notes


def without_paths(text: str) -> str:
    """Absolute paths cut down to the names of files: what lies where on the machine is nobody's business."""
    return re.sub(r"(?<![\w.])/(?:[^\s/:;,'\"]+/)+", "", text)


def _runs_table(results: Results) -> Table:
    body = []
    for name, of_name in results.runs.items():
        manifests = [workdirs.read_manifest(run.path) for run in of_name]
        seconds = [
            sum(getattr(run, part) for run in of_name)
            for part in ("train_seconds", "evaluate_seconds")
        ]
        chosen = [manifest["chosen_adapt_steps"] for manifest in manifests]
        value = [
            manifest["validation"][str(steps)]["map"]
            for manifest, steps in zip(manifests, chosen, strict=True)
        ]
        body.append(
            [
                name,
                ", ".join(str(run.seed) for run in of_name),
                _length(results, name),
                ", ".join(str(manifest["best_step"]) for manifest in manifests),
                ", ".join(map(str, chosen)),
                ", ".join(f"{one:.3f}" for one in value),
                *(f"{one / 60:.1f}" for one in seconds),
                manifests[0]["protocol"]["sha256_all"][:12],
            ]
        )
    header = [
        "run",
        "seeds",
        "steps",
        "best step",
        "adaptation steps chosen",
        "validation MAP",
        "min training",
        "min evaluating",
        "protocol",
    ]
    text = "Protocol: the first digits of its SHA-256; runs that share them were judged on the same users, targets and negatives."
    return Table("runs", header, body, text)


def _length(results: Results, name: str) -> str:
    """Steps to be taken at most, and what share of the whole training that is."""
    steps, whole = lengths(results, name)
    if steps == whole:
        return f"{steps:,}" if steps else "counts"
    return f"{steps:,} of {whole:,} ({steps / whole:.0%})"


def _provenance(results: Results) -> list[tuple[str, str]]:
    """Versions, hashes and settings, without paths of the machine that made the page."""
    manifest = workdirs.read_manifest(results.main.path)
    options = results.options
    config = settings.to_dict(workdirs.read_config(results.main.path))
    log = Path(config["data"]["path"]).name
    return [
        ("preset", options.preset),
        ("seeds", ", ".join(map(str, options.seeds))),
        ("budget", f"{options.budget:g}"),
        ("log", log or "embedded generator"),
        ("protocol, SHA-256", manifest["protocol"]["sha256_all"]),
        ("versions", ", ".join(f"{name} {of}" for name, of in manifest["versions"].items())),
        ("platform", manifest["platform"]),
        ("options", without_paths(json.dumps(options._asdict(), default=dict))),
        (f"settings of {results.main.model}", without_paths(json.dumps(config))),
    ]


def with_searches(options: Options, found: dict) -> Options:
    """The options with settings that `metacsr_jax.tune` wrote, and what the searches cost."""
    chosen = {model: of_model["settings"] for model, of_model in found.items()}
    return options._replace(tuned=chosen, searched=searched(found, options.models))
