"""The report as Markdown: for a pull request, a ticket or a terminal."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from .content import Report
from .digest import checks, settings, subtitle, tile_rows
from .wording import GLYPHS, checker_title, count, duration, headline, percentage, ratio

__all__ = ["markdown_text"]

_TABLE = str.maketrans({"|": "\\|", "\n": " ", "\r": " ", "`": "\\`", "[": "\\[", "]": "\\]"})


def markdown_text(report: Report) -> str:
    """The text. What comes from the run is escaped: it makes no table cell, link or HTML element of its own."""
    said = headline(report)
    several = len(report.runs) > 1
    parts = [
        f"# {GLYPHS[report.validity]} {_cell(said.title)}",
        _cell(" · ".join(("Holdfast drill", *subtitle(report)))),
        _cell(said.sentence),
        *_section("Side by side" if several else "Figures", _figures(report)),
        *_section("What was checked", _checks(report)),
        *_section("How sure that is", _bounds(report)),
        *_section("Before, during and after", _latencies(report)),
        *_section("To run it again", f"```sh\n{report.command.replace('```', '')}\n```" if report.command else ""),
    ]
    for run in report.runs:
        for title, facts in settings(report, run):
            parts.append(f"### {_cell(f'{run.name}: {title}' if several else title)}")
            parts.append("\n".join(f"- {_cell(name)}: {_cell(value)}" for name, value in facts))
    return "\n\n".join(parts) + "\n"


def _section(title: str, text: str) -> Sequence[str]:
    return (f"## {title}", text) if text else ()


def _figures(report: Report) -> str:
    rows = (
        (row[0].name, *(f"{tile.figure} ({tile.note})" if tile.note else tile.figure for tile in row))
        for row in tile_rows(report)
    )
    return _table(("", *(run.name for run in report.runs)), rows)


def _checks(report: Report) -> str:
    def answers() -> Iterable[Sequence[str]]:
        for checker, verdicts in checks(report):
            told = (f"{GLYPHS[v.valid]} {v.valid.value}: {v.reason}" if v else "" for v in verdicts)
            yield (checker_title(checker), *told)

    return _table(("Check", *(run.name for run in report.runs)), answers())


def _bounds(report: Report) -> str:
    rows = (
        (
            run.name,
            checker_title(bound.name),
            count(bound.events),
            f"{count(bound.trials)} {bound.of}",
            percentage(bound.upper),
        )
        for run in report.runs
        for bound in run.bounds
    )
    return _table(("Run", "What", "Seen", "Among", "At most, with 95 %"), rows)


def _latencies(report: Report) -> str:
    rows = (
        (
            run.name,
            checker_title(latency.phase),
            count(latency.operations),
            *(duration(value) for value in (latency.p50_s, latency.p99_s, latency.p99_9_s, latency.max_s)),
            ratio(run.figures.attempts_per_operation.get(latency.phase)),
        )
        for run in report.runs
        for latency in run.latencies
    )
    return _table(("Run", "Phase", "Acknowledged", "p50", "p99", "p99.9", "Longest", "Attempts each"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; empty without rows."""
    body = [_row(row) for row in rows]
    return "\n".join([_row(head), f"|{'---|' * len(head)}", *body]) if body else ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    return html.escape(text, quote=False).translate(_TABLE)
