"""Tables 2 to 5, Figures 3 and 4."""

from pathlib import Path

from metacsr_jax.report.comparison import difference_rows
from metacsr_jax.report.figures import metric_curves
from metacsr_jax.report.paper import ABLATION, RIVALS, STATISTICS, printed
from metacsr_jax.report.table import title
from metacsr_jax.reproduce.exhibit import Exhibit, Picture, Table
from metacsr_jax.reproduce.pictures import FORMATS, draw_points
from metacsr_jax.reproduce.plan import WITH_MEAN, WITHOUT_DIFFUSION, WITHOUT_META
from metacsr_jax.reproduce.results import (
    Point,
    Results,
    difference,
    model_names,
    point,
    same_cases,
    values,
)
from metacsr_jax.workdir import read_manifest

TABLES = {"table3": "cold", "table4": "warm"}
CURVES = {"fig3": "cold", "fig4": "warm"}
SHOWN = ("auc", "map", "hit@10", "ndcg@10")


def statistics(results: Results, directory: Path) -> Exhibit:
    """Table 2, and what else a reader of the results must know of the log."""
    del directory
    manifest = read_manifest(results.main.path)["protocol"]
    counts = manifest["counts"]
    users, items, events = counts["users"], counts["items"], counts["events"]
    own = ["this run", users, items, events, f"{events / users / items:.3%}"]
    paper = STATISTICS.get(results.dataset)
    body = [own, *([["the paper's Table 2", *paper]] if paper else [])]
    first = Table("table2", ["", "users", "items", "interactions", "density"], body)
    more = [
        ["regular users (validation taken out)", counts["regular"]],
        ["validation users", counts["validation"]],
        ["new users", counts["new"]],
        ["cold cases", counts["cases"]["cold"]],
        ["warm cases", counts["cases"]["warm"]],
        ["training events", counts["training_events"]],
        ["share of events that repeat one before", float(manifest["repeat_rate"])],
        ["share of negatives that nobody ever liked", float(manifest["never_positive_share"])],
    ]
    for what, key in (
        ("carry the time stamp of the event before", "tie_share"),
        ("were never seen in training", "unseen_target_share"),
        ("are in the history already", "repeated_target_share"),
    ):
        for scenario in ("cold", "warm"):
            share = manifest[key][scenario]
            more.append([f"share of {scenario} targets that {what}", share])
    return Exhibit("table2", [first, Table("table2-protocol", ["", "this run"], more)])


def comparison(results: Results, key: str, directory: Path) -> Exhibit:
    """Tables 3 and 4: every model at its chosen steps, both rankings, metaCSR's lead with its tests."""
    scenario = TABLES[key]
    runs = [
        run for name in model_names(results.options, results.runs) for run in results.runs[name]
    ]
    kinds = (results.sampled, "full")
    rows = [row for row in results.rows if row["scenario"] == scenario]
    lead = difference_rows(runs, (scenario,), kinds) if results.has("metacsr") else []
    tables = []
    for kind in kinds:
        body = []
        for name in ordered(results, scenario, kind):
            metrics = _metrics(rows, name, kind, "all")
            line = [name, ", ".join(str(run.steps[run.chosen]) for run in results.runs[name])]
            line += [metrics[metric] for metric in SHOWN]
            if kind != "full":
                line += [printed(results.dataset, name, scenario, of) for of in ("auc", "map")]
            body.append(line)
        header = ["model", "steps", *map(title, SHOWN)]
        header += [] if kind == "full" else ["the paper's AUC", "the paper's MAP"]
        tables.append(Table(f"{key}-{kind}", header, body, _ranked(kind)))
    body = [
        [
            row["model"],
            _ranked(row["candidates"]),
            title(row["metric"]),
            Point(row["difference"], row["low"], row["high"]),
            row["bootstrap_p_holm"],
            row["wilcoxon_p_holm"] or "below 1e-300",
        ]
        for row in lead
        if row["metric"] in ("auc", "map")
    ]
    if body:
        header = ["metaCSR minus", "ranking", "metric", "difference", "p, bootstrap", "p, Wilcoxon"]
        text = (
            "Paired on the same users; p-values after Holm's correction. The bootstrap tests the mean difference, and its smallest p is "
            "that of so many resamples; Wilcoxon's signed ranks test the typical difference, which may lie the other way."
        )
        tables.append(Table(f"{key}-differences", header, body, text))
    apart = _subsets(results, rows)
    if apart:
        header = ["targets", "model", "AUC", "MAP", "cases"]
        tables.append(Table(f"{key}-subsets", header, apart, "By target, among negatives."))
    panels = {
        title(metric): {
            name: _metrics(rows, name, results.sampled, "all")[metric]
            for name in ordered(results, scenario, results.sampled)
        }
        for metric in ("auc", "map")
    }
    path = draw_points(panels, directory / f"{key}.png", "metric, 95 % interval")
    return Exhibit(key, tables, [Picture(path, f"AUC and MAP of every model, {scenario} start")])


def curves(results: Results, key: str, directory: Path) -> Exhibit:
    """Figures 3 and 4: the paper's models, and those that it lacks."""
    scenario = CURVES[key]
    rows = [
        {**row, "adapt_steps": 0}
        for row in results.rows
        if (row["scenario"], row["way"]) == (scenario, "chosen")
        and row["candidates"] == results.sampled
    ]
    groups = {
        "paper": [name for name in model_names(results.options, results.runs) if name in RIVALS],
        "others": [
            name
            for name in model_names(results.options, results.runs)
            if name not in RIVALS and name != "metacsr"
        ],
    }
    pictures = []
    for group, names in groups.items():
        members = [row for row in rows if row["model"] in ("metacsr", *names)]
        if names and members:
            path = directory / f"{key}-{group}.png"
            metric_curves(members, path, results.sampled, also=FORMATS)
            what = "the paper's models" if group == "paper" else "the models that the paper lacks"
            pictures.append(Picture(path, f"Hit@N and NDCG@N, N = 1 to 20, {what}, {scenario}"))
    body = [
        [row["model"], title(row["metric"]), Point(row["value"], row["low"], row["high"])]
        for row in rows
        if row["subset"] == "all" and row["metric"].partition("@")[0] in ("hit", "ndcg")
    ]
    table = Table(key, ["model", "metric", "value"], body)
    return Exhibit(key, [table], pictures)


def ablation(results: Results, directory: Path) -> Exhibit:
    """Table 5: each component removed, with the paired difference to the whole."""
    names = {
        WITHOUT_DIFFUSION: "without Diffusion Representer",
        WITH_MEAN: "without Sequential Recommender (mean pooling)",
        WITHOUT_META: "without Meta Learner",
        "metacsr": "metaCSR",
    }
    body, panels = [], {"AUC": {}, "MAP": {}}
    for name, label in names.items():
        if not results.has(name):
            continue
        line = [label]
        for metric in ("auc", "map"):
            own = values(results, name, metric)
            line.append(point(own))
            lead = None
            if name != "metacsr" and same_cases(results, name, "metacsr"):
                lead = difference(values(results, "metacsr", metric), own)
                panels[title(metric)][label] = lead
            line.append(lead)
        body.append([*line, ABLATION[name] if results.dataset == "movielens-1m" else None])
    header = ["", "AUC", "metaCSR minus this", "MAP", "metaCSR minus this ", "the paper's AUC"]
    pictures = []
    if any(panels.values()):
        path = draw_points(panels, directory / "table5.png", "metaCSR minus this", zero=True)
        pictures.append(Picture(path, "What each component adds, cold start"))
    return Exhibit("table5", [Table("table5", header, body, "Cold start.")], pictures)


def ordered(results: Results, scenario: str, kind: str) -> list[str]:
    """Models, highest MAP first."""
    means = {
        name: float(found.mean())
        for name in model_names(results.options, results.runs)
        if (found := values(results, name, "map", scenario, kind)) is not None
    }
    return sorted(means, key=means.get, reverse=True)


def _metrics(rows, name: str, kind: str, subset: str) -> dict[str, Point]:
    return {
        row["metric"]: Point(row["value"], row["low"], row["high"])
        for row in rows
        if (row["model"], row["candidates"], row["subset"], row["way"])
        == (name, kind, subset, "chosen")
    }


def _subsets(results: Results, rows) -> list[list]:
    """Seen and unseen, new and repeated targets apart, where both sorts are twenty at least."""
    sizes = {row["subset"]: row["cases"] for row in rows}
    body = []
    for pair in (("seen", "unseen"), ("new", "repeat")):
        if min(sizes.get(name, 0) for name in pair) < 20:
            continue
        for subset in pair:
            for name in model_names(results.options, results.runs):
                found = _metrics(rows, name, results.sampled, subset)
                body.append([subset, name, found["auc"], found["map"], sizes[subset]])
    return body


def _ranked(kind: str) -> str:
    return "in the full catalogue" if kind == "full" else f"among {kind.split('-')[1]} negatives"
