"""One self-contained page: verdicts, tables and pictures beside the paper's figures, and what was run."""

import base64
import html
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from metacsr_jax.reproduce.exhibit import Exhibit, Table, shown
from metacsr_jax.reproduce.plan import EXHIBITS
from metacsr_jax.reproduce.verdict import FAILS, HOLDS, OPEN, Verdict

CLASSES = {HOLDS: "holds", FAILS: "fails", OPEN: "open"}
SIGNS = {HOLDS: "✓", FAILS: "✗", OPEN: "?"}  # not by colour alone
LONG = 30  # lines of a table that the page shows without being asked


def page(
    heading: str,
    notes: Sequence[str],
    verdicts: Sequence[Verdict],
    exhibits: Sequence[Exhibit],
    runs: Table,
    provenance: Sequence[tuple[str, str]],
    condition: str = "",
    not_judged: Sequence[str] = (),
) -> str:
    """The whole page as HTML that opens from disk.

    Args:
        heading: of the page.
        notes: what a reader must know before any number: seeds, budget, what is missing.
        verdicts: of `claims.judge_all`.
        exhibits: in the paper's order.
        runs: what was trained.
        provenance: names and values of versions, hashes, commands.
        condition: under which the verdicts are given, behind each of them.
        not_judged: what the paper says besides.
    """
    style = resources.files("metacsr_jax.reproduce").joinpath("page.css").read_text("utf-8")
    links = "".join(
        f'<a href="#{exhibit.key}">{html.escape(_heading(exhibit.key))}</a> '
        for exhibit in exhibits
    )
    parts = [
        f"<h1>{html.escape(heading)}</h1>",
        f"<p>{html.escape(INTRODUCTION)}</p>",
        *(f'<p class="note">{html.escape(note)}</p>' for note in notes),
        f"<nav>{links}</nav>",
        '<h2 id="verdicts">Does the paper hold?</h2>',
        _verdicts(verdicts, condition),
        f"<p>Not judged: {html.escape('; '.join(not_judged))}.</p>" if not_judged else "",
        *(_exhibit(exhibit, verdicts, condition) for exhibit in exhibits),
        '<h2 id="runs">What was run</h2>',
        _table(runs),
        "<dl>",
        *(
            f"<dt>{html.escape(name)}</dt><dd><code>{html.escape(value)}</code></dd>"
            for name, value in provenance
        ),
        "</dl>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(heading)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


INTRODUCTION = (
    "Each table and figure of “Learning to Learn a Cold-start Sequential Recommender” (Huang et al., TOIS 2022), made anew by one command. "
    "Intervals are bootstrap 95 % intervals over users. Every choice was made on validation users. The paper's own figures stand beside "
    "ours where it prints any; they are of its own protocol, so that differences between protocols are in them too. "
    "A verdict says whether the paper's claim holds here, and is computed from the numbers on this page."
)


def _verdicts(verdicts: Sequence[Verdict], condition: str) -> str:
    lines = []
    for verdict in verdicts:
        parts = "<br>".join(
            f"{html.escape(part.label)}: {html.escape(shown(part.point))}"
            + (f", bound {part.bound:g}" if part.bound else "")
            + ("" if part.even else ", not counted")
            for part in verdict.parts
        )
        if len(verdict.parts) > 4:
            parts = f"<details><summary>{len(verdict.parts)} differences</summary>{parts}</details>"
        where = ", ".join(
            f'<a href="#{key}">{html.escape(_short(key))}</a>' for key in verdict.exhibits
        )
        lines.append(
            f'<tr data-claim="{verdict.key}"><td>{html.escape(verdict.question)}</td>'
            f'<td class="wide">{html.escape(verdict.claim)} ({where})</td>'
            f'<td class="verdict {CLASSES[verdict.verdict]}">{_said(verdict, condition)}</td>'
            f'<td class="wide">{html.escape(verdict.note)}{"<br>" if parts else ""}{parts}</td></tr>'
        )
    head = "<tr><th></th><th>The paper's claim</th><th>Here</th><th>By what</th></tr>"
    rule = (
        "Unless its line says otherwise a claim holds where the intervals of all its differences lie above 0 (or the bound given), does "
        "not where one lies below, and cannot be told otherwise. The intervals of one claim hold together with 95 %."
    )
    return (
        f'<div class="scroll verdicts"><table><caption>{html.escape(rule)}</caption>'
        f"<thead>{head}</thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _exhibit(exhibit: Exhibit, verdicts: Sequence[Verdict], condition: str) -> str:
    parts = [f'<h2 id="{exhibit.key}">{html.escape(_heading(exhibit.key))}</h2>']
    for verdict in verdicts:
        if exhibit.key in verdict.exhibits:
            parts.append(
                f"<p>{html.escape(verdict.claim)} "
                f'<span class="verdict {CLASSES[verdict.verdict]}">{_said(verdict, condition)}</span></p>'
            )
    parts += [f"<p>{html.escape(text)}</p>" for text in exhibit.text]
    parts += [_picture(picture.path, picture.alt) for picture in exhibit.pictures]
    parts += [_table(table) for table in exhibit.tables]
    return f"<section>{''.join(parts)}</section>"


def _said(verdict: Verdict, condition: str) -> str:
    sure = "" if verdict.verdict == OPEN else condition
    return html.escape(f"{SIGNS[verdict.verdict]} {verdict.verdict} {sure}".strip())


def _picture(path: Path, alt: str) -> str:
    """The SVG beside the PNG, inside the page."""
    content = base64.b64encode(path.with_suffix(".svg").read_bytes()).decode()
    text = html.escape(alt, quote=True)
    source = f"data:image/svg+xml;base64,{content}"
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    body = "".join(_line(line) for line in table.body)
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    text = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    text = f'<div class="scroll">{text}</div>'
    if len(table.body) > LONG:
        return f"<details><summary>Numbers ({len(table.body)} lines)</summary>{text}</details>"
    return text


def _line(line: Sequence[Any]) -> str:
    cells = "".join(
        f"<td>{html.escape(cell)}</td>"
        if isinstance(cell, str)
        else f'<td class="number">{html.escape(shown(cell))}</td>'
        for cell in line
    )
    own = ' class="own"' if "metacsr" in line or "metaCSR" in line else ""
    return f"<tr{own}>{cells}</tr>"


def _short(key: str) -> str:
    """Table 3, Figure 12; those beyond the paper by their title."""
    for start, name in (("table", "Table "), ("fig", "Figure ")):
        if key.startswith(start):
            return name + key.removeprefix(start)
    return EXHIBITS[key]


def _heading(key: str) -> str:
    short = _short(key)
    return short if short == EXHIBITS[key] else f"{short}: {EXHIBITS[key]}"
