"""Figure 6, and beyond the paper: adaptation steps by meta-learning algorithm, and what adaptation changes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from metacsr_jax.analysis.clouds import relative_move
from metacsr_jax.report.table import title
from metacsr_jax.reproduce.exhibit import Exhibit, Picture, Table
from metacsr_jax.reproduce.measure import STEPS
from metacsr_jax.reproduce.pictures import Lines, draw_lines
from metacsr_jax.reproduce.plan import WITHOUT_META, base_config, method_name
from metacsr_jax.reproduce.results import Point, Results, difference, point, probes

LABELS = {"metacsr": "metaCSR", WITHOUT_META: "without Meta Learner"}
DIVERGED = "A point is left out where somebody's adaptation diverges."
STEPS_LABEL = "adaptation steps (meta-test iterations)"
GAIN = "Differences to 0 steps are paired, on the same users: their intervals say whether adaptation does anything."
# What `meta.adapted` names.
ADAPTED = {
    "all": "all of theta_2",
    "readout": "the readout alone (W6, b3 and what follows)",
    "head": "what follows W6 alone (b3 and later layers)",
}


def convergence(results: Results, directory: Path) -> Exhibit:
    """Figure 6: AUC and losses of new users against adaptation steps, with and without Meta Learner."""
    shown = {
        "auc": ("AUC", "AUC"),
        "target_loss": ("Loss of the held-out item among negatives", "cross-entropy (nats)"),
        "support_loss": ("Loss of the support", "loss (nats)"),
    }
    panels, body = [], []
    for metric, (heading, ylabel) in shown.items():
        lines = {}
        for name, label in LABELS.items():
            line = {
                steps: point(found[np.isfinite(found)])
                for steps in STEPS
                if (of_run := results.inside.get((name, steps))) is not None
                and np.isfinite(found := of_run[metric]).any()
            }
            if line:
                lines[label] = line
            body += [
                [heading, label, steps, value, gain(results, name, steps, metric)]
                for steps, value in line.items()
            ]
        panels.append(Lines(heading, STEPS_LABEL, ylabel, lines))
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        return Exhibit("fig6", text=["Not measured."])
    panels.insert(1, gains(results, {label: name for name, label in LABELS.items()}, "auc"))
    path = draw_lines(panels, directory / "fig6.png")
    header = ["", "model", "steps", "value", "minus at 0 steps"]
    alt = "AUC and losses of new users against the number of adaptation steps"
    text = [what_adapts(results), GAIN, DIVERGED]
    return Exhibit("fig6", [Table("fig6", header, body, "New users.")], [Picture(path, alt)], text)


def algorithms(results: Results, directory: Path) -> Exhibit:
    """Adaptation steps 0 to 20 against metric, one line per meta-learning algorithm."""
    own = base_config(results.options).meta.method
    names = {
        method: method_name(results.options, method)
        for method in dict.fromkeys((*results.options.methods, own))
    }
    body = [
        [method, title(metric), steps, point(found[metric]), gain(results, name, steps, metric)]
        for metric in ("auc", "map")
        for method, name in names.items()
        for steps in STEPS
        if (found := results.inside.get((name, steps))) is not None
    ]
    if not body:
        return Exhibit("steps", text=["Not measured."])
    panels = [gains(results, names, metric) for metric in ("auc", "map")]
    path = draw_lines(panels, directory / "steps.png")
    text = (
        "Every algorithm with the preset's inner rate: Meta-SGD learns its own from there, for the others it was not tuned. "
        f"{DIVERGED}"
    )
    header = ["algorithm", "metric", "steps", "value", "minus at 0 steps"]
    alt = "What adaptation adds to AUC and MAP of new users, by meta-learning algorithm"
    texts = [what_adapts(results), GAIN, text]
    return Exhibit(
        "steps", [Table("steps", header, body, "Cold start.")], [Picture(path, alt)], texts
    )


def shift(results: Results, directory: Path) -> Exhibit:
    """How far adaptation moves theta_2, and with it the preferences."""
    lines, body = {}, []
    for name, label in LABELS.items():
        line = {
            steps: point(found["shift"])
            for steps in STEPS
            if steps and (found := results.inside.get((name, steps))) is not None
        }
        if line:
            lines[label] = line
        body += [[label, "parameters", steps, value] for steps, value in line.items()]
        if results.has(name):
            steps = results.fine_steps
            pair = [probes(results, name, "cold", count) for count in (0, steps)]
            if None not in pair:
                moved = point(relative_move(*(of.preference_ND for of in pair)))
                body.append([label, "preferences", steps, moved])
    if not lines:
        return Exhibit("shift", text=["Not measured."])
    panel = Lines("Change of theta_2", STEPS_LABEL, "relative change (share of the norm)", lines)
    log = all(min(at.low for at in line.values()) > 0 for line in lines.values())
    path = draw_lines([panel._replace(log=log)], directory / "shift.png")
    text = (
        "Parameters: ||theta_2' - theta_2|| / ||theta_2||; preferences: mean distance moved over the root mean "
        "square distance from their mean."
    )
    table = Table("shift", ["model", "what moves", "steps", "relative change"], body, "New users.")
    alt = "Relative change of the encoder's parameters against adaptation steps"
    return Exhibit("shift", [table], [Picture(path, alt)], [what_adapts(results), text])


def gain(results: Results, name: str, steps: int, metric: str) -> Point | None:
    """Paired difference to no adaptation, over the users who have both values; None at 0 steps."""
    pair = [results.inside.get((name, of)) for of in (steps, 0)]
    if not steps or None in pair:
        return None
    one_N, other_N = (of[metric] for of in pair)
    both_N = np.isfinite(one_N) & np.isfinite(other_N)
    return difference(one_N[both_N], other_N[both_N]) if both_N.any() else None


def gains(results: Results, names: Mapping[str, str], metric: str) -> Lines:
    """A panel of what adaptation adds to a metric; label -> run."""
    lines = {
        label: {0: Point(0.0, 0.0, 0.0)}
        | {
            steps: found
            for steps in STEPS
            if (found := gain(results, name, steps, metric)) is not None
        }
        for label, name in names.items()
    }
    heading = f"{title(metric)} minus that at 0 steps"
    lines = {label: line for label, line in lines.items() if len(line) > 1}
    return Lines(heading, STEPS_LABEL, heading, lines)


def what_adapts(results: Results) -> str:
    """Which of theta_2 the inner loop moves in these runs."""
    meta = base_config(results.options).meta
    own = ADAPTED["readout" if meta.method == "anil" else meta.adapted]
    text = f"Adapted: {own}, as the preset has it"
    if meta.adapted != "all":
        text += " (the paper adapts all of theta_2)"
    if "anil" in results.options.methods and meta.method != "anil":
        text += f"; by ANIL {ADAPTED['readout']}"
    return f"{text}."
