"""What the page and the text say alike: the figures that stand in front, the settings, the rows of a comparison. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..verdict import Validity, Verdict
from .content import Report, Run
from .wording import NOTHING, count, duration, percentage, plural, rate

__all__ = ["Tile", "checks", "settings", "subtitle", "telling", "tile_rows", "tiles"]

_ELSEWHERE = {"command", "subject", "started"}
"""Of the meta, what the report says in another place."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure that stands in front: its name, itself, a remark, and whether it is bad."""

    name: str
    figure: str
    note: str
    bad: bool = False


def tiles(run: Run) -> tuple[Tile, ...]:
    """The figures of `run` that a reader looks for first."""
    figures = run.figures
    others = f"{count(figures.failed - figures.unsent)} told not done, {count(figures.unknown)} unknown"
    if figures.unsent:
        others += f", {count(figures.unsent)} not sent"
    applied = figures.ambiguous_applied
    note = (
        ""
        if applied is None or not figures.ambiguous
        else f"{percentage(applied / figures.ambiguous)} had been applied"
    )
    return (
        Tile("Acknowledged", count(figures.ok), others),
        Tile("Commits in doubt", count(figures.ambiguous), note or "answer lost on the way"),
        *(
            Tile(
                bound.name[:1].upper() + bound.name[1:],
                count(bound.events),
                "" if bound.upper is None else f"at most {percentage(bound.upper)} of those in doubt",
                bad=bound.events > 0,
            )
            for bound in run.bounds
        ),
        Tile("Recovery", duration(figures.recovery_s), "at most, from heal to full goodput"),
        *_overload_tiles(run),
    )


def _overload_tiles(run: Run) -> Iterator[Tile]:
    overload = run.figures.overload
    if overload is None:
        return
    yield Tile("Done in overload", rate(overload.goodput_per_s), f"{rate(overload.due_per_s)} were due")
    yield Tile("Latency in overload", duration(overload.p99_s), "of what was done, 99 of 100 within")
    yield Tile("Turned away", count(overload.shed), f"at once, with Retry-After; {count(overload.given_up)} gave up")


def tile_rows(report: Report) -> tuple[tuple[Tile, ...], ...]:
    """The same figures of all runs, a row for each name; a dash where a run has no such figure."""
    columns = [{tile.name: tile for tile in tiles(run)} for run in report.runs]
    names = dict.fromkeys(name for column in columns for name in column)
    return tuple(tuple(column.get(name, Tile(name, NOTHING, "")) for column in columns) for name in names)


def subtitle(report: Report) -> tuple[str, ...]:
    """What was drilled, in a few words: workload, server, seed, moment."""
    meta = report.runs[0].meta
    versions = meta.get("versions")
    server = versions.get("server") if isinstance(versions, Mapping) else None
    flavour = meta.get("flavour")
    parts = [meta.get("workload"), f"{flavour} {server}" if flavour and server else flavour or server]
    if meta.get("seed") is not None:
        parts.append(f"seed {meta['seed']}")
    faults = report.runs[0].figures.faults
    parts += [plural(faults, "fault") if faults else "no fault", _moment(meta.get("started"))]
    return tuple(str(part) for part in parts if part)


_WORST_FIRST = (Validity.INVALID, Validity.UNKNOWN, Validity.VALID)


def checks(report: Report) -> Iterator[tuple[str, tuple[Verdict | None, ...]]]:
    """Each checker with its verdict on each run, the worst first; None where it did not look at one."""
    verdicts = sorted((v for run in report.runs for v in run.verdicts), key=lambda v: _WORST_FIRST.index(v.valid))
    names = dict.fromkeys(verdict.checker for verdict in verdicts)
    for name in names:
        yield name, tuple(next((v for v in run.verdicts if v.checker == name), None) for run in report.runs)


def telling(verdict: Verdict) -> list[tuple[str, float]]:
    """The figures behind a verdict, where a reader needs them: a valid one's reason says enough."""
    if verdict.valid is Validity.VALID:
        return []
    # Every checker's reason says these two in words.
    return [(name, value) for name, value in verdict.counts.items() if name not in ("looked_at", "wrong")]


def settings(report: Report, run: Run) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """What `run` was made with, in groups with a title: the plain values, then one group for each mapping of the meta."""
    plain: dict[str, Any] = {}
    groups: list[tuple[str, tuple[tuple[str, str], ...]]] = []
    for name, value in run.meta.items():
        if isinstance(value, Mapping):
            new = {str(key): inner for key, inner in value.items() if key not in run.meta and inner is not None}
            groups.append((_title(name), tuple((key, _text(inner)) for key, inner in new.items())))
        elif name not in _ELSEWHERE and value is not None:
            plain[name] = value
    if run.name in report.histories:
        plain["history"] = report.histories[run.name]
    rows = tuple((_title(name), _text(value)) for name, value in plain.items())
    return tuple((title, entries) for title, entries in [("Drill", rows), *groups] if entries)


def _title(name: str) -> str:
    """`server_settings` becomes "Server settings"; what has a unit of seconds says so."""
    words = name.removesuffix("_s").replace("_", " ").replace("-", " ")
    return f"{words[:1].upper()}{words[1:]}{', seconds' if name.endswith('_s') else ''}"


def _moment(text: Any) -> str | None:
    """`2031-05-06T07:08:09Z` as a person writes it: to the minute."""
    if not isinstance(text, str):
        return None
    return text.replace("T", " ")[:16] + (" UTC" if text.endswith(("Z", "+00:00")) else "")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and all(isinstance(entry, str) for entry in value):
        return ", ".join(value)
    return json.dumps(value, default=str)
