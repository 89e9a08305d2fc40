"""Figures 7 to 11: preferences, items and similarities, with a figure of merit beside each picture."""

from pathlib import Path

from metacsr_jax.analysis.clouds import (
    Statistic,
    energy_distance,
    mean_statistic,
    overlap,
    relative_move,
)
from metacsr_jax.report.style import COLOURS
from metacsr_jax.reproduce.adapting import LABELS, what_adapts
from metacsr_jax.reproduce.evidence_inside import TUNED, some_vectors
from metacsr_jax.reproduce.exhibit import Exhibit, Picture, Table
from metacsr_jax.reproduce.pictures import SAMPLE, draw_clouds, draw_similarities
from metacsr_jax.reproduce.results import Point, Results, items, probes

USERS = {"cold": "new users", "warm": "regular users"}
LOOKS = {
    "new users": {"color": COLOURS[1], "marker": "x", "s": 12},
    "regular users": {"color": COLOURS[0], "marker": ".", "s": 10},
    "items": {"color": COLOURS[2], "marker": ".", "s": 10},
}
MISSING = "Not measured."
ENERGY = (
    "Energy distance: 0 where both clouds are one distribution, 1 where they are two points; "
    "it is taken in all dimensions, not in the picture, of at most a thousand vectors of a cloud; "
    f"at most {SAMPLE} are drawn."
)


def preferences_and_items(results: Results, key: str, directory: Path) -> Exhibit:
    """Figures 7 and 8: preferences and items, with and without Meta Learner, fine-tuned."""
    scenario = {"fig7": "cold", "fig8": "warm"}[key]
    panels, body = {}, []
    for name, label in LABELS.items():
        for tuned in (True, False):
            found = _probe(results, name, scenario, tuned)
            if found is None:
                continue
            item_ID = items(results, name)
            if item_ID is None:
                continue
            distance = energy_distance(some_vectors(found.preference_ND), some_vectors(item_ID))
            body.append([label, TUNED[tuned], _point(distance)])
            if tuned:
                panels[label] = {USERS[scenario]: found.preference_ND, "items": item_ID}
    if not panels:
        return Exhibit(key, text=[MISSING])
    path = draw_clouds(panels, directory / f"{key}.png", LOOKS)
    header = ["model", "", f"energy distance of {USERS[scenario]} and items"]
    alt = f"t-SNE of preferences of {USERS[scenario]} and of items"
    return Exhibit(key, [Table(key, header, body)], [Picture(path, alt)], [ENERGY, _steps(results)])


def similarities(results: Results, directory: Path) -> Exhibit:
    """Figure 9: inner products of positive and negative pairs, and the area that both share."""
    panels, notes, body = {}, [], []
    for scenario, users in USERS.items():
        for name, label in reversed(LABELS.items()):
            found = _probe(results, name, scenario, True)
            if found is None:
                continue
            positive_N, negative_NC = found.similarity_NC1[:, 0], found.similarity_NC1[:, 1:]
            shared = overlap(positive_N, negative_NC)
            panels[f"{users}, {label}"] = (positive_N, negative_NC)
            notes.append(f"overlap by quantile bins {shared.value:.3f}")
            means = [mean_statistic(of) for of in (positive_N, negative_NC.mean(1))]
            body.append([users, label, _point(shared), *map(_point, means)])
    if not panels:
        return Exhibit("fig9", text=[MISSING])
    path = draw_similarities(panels, notes, directory / "fig9.png")
    header = ["users", "model", "overlap", "mean of positive pairs", "mean of negative pairs"]
    alt = "Histograms of the inner products of positive and negative pairs"
    text = (
        "The item bias, where the model has one, is left out. Overlap: area under both histograms, 1 where they are alike, "
        "over bins that are quantiles of both."
    )
    return Exhibit(
        "fig9", [Table("fig9", header, body)], [Picture(path, alt)], [text, _steps(results)]
    )


def new_and_regular(results: Results, key: str, directory: Path) -> Exhibit:
    """Figures 10 and 11: new and regular users' preferences, not fine-tuned and fine-tuned."""
    tuned = key == "fig11"
    panels, body = {}, []
    for name, label in LABELS.items():
        pair = [_probe(results, name, scenario, tuned) for scenario in USERS]
        if None in pair:
            continue
        new, regular = (of.preference_ND for of in pair)
        # The many first, so that crosses lie on top.
        panels[label] = {USERS["warm"]: regular, USERS["cold"]: new}
        line = [label, _point(energy_distance(some_vectors(new), some_vectors(regular)))]
        if tuned:
            for scenario in USERS:
                before, after = (_probe(results, name, scenario, of) for of in (False, True))
                moved_N = relative_move(before.preference_ND, after.preference_ND)
                line.append(_point(mean_statistic(moved_N)))
        body.append(line)
    if not panels:
        return Exhibit(key, text=[MISSING])
    path = draw_clouds(panels, directory / f"{key}.png", LOOKS)
    header = ["model", "energy distance of new and regular users"]
    if tuned:
        header += ["mean move of new users", "mean move of regular users"]
    text = [ENERGY]
    if tuned:
        text.append(_steps(results))
        text.append(
            "Moves are in units of the root mean square distance of the preferences from their mean."
        )
    alt = f"t-SNE of new and regular users' preferences, {TUNED[tuned]}"
    return Exhibit(key, [Table(key, header, body)], [Picture(path, alt)], text)


def _probe(results: Results, name: str, scenario: str, tuned: bool):
    return probes(results, name, scenario, results.fine_steps if tuned else 0)


def _steps(results: Results) -> str:
    """What "fine-tuned" means here."""
    return (
        f"Fine-tuned: {results.fine_steps} adaptation steps, metaCSR's best of one or more on validation users, "
        f"with and without Meta Learner. {what_adapts(results)}"
    )


def _point(statistic: Statistic) -> Point:
    return Point(*statistic.interval())
