"""The report as one HTML page that needs nothing beside itself: no script, no font, no picture, no network."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import MissingExtra
from .content import Report, Run, Second
from .digest import checks, settings, subtitle, telling, tile_rows, tiles
from .scales import clock_label
from .timeline import axes, stretched, timeline
from .wording import GLYPHS, checker_title, count, duration, headline, measure, percentage, plural, ratio

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["html_page"]


def html_page(report: Report) -> str:
    """The page.

    Everything that comes from the run is escaped. The page says of itself that a browser may load nothing from elsewhere.

    Raises:
        MissingExtra: Jinja is not installed.
    """
    shared = axes(report.runs)
    lines = [timeline(run, shared) for run in report.runs]
    tables = [_table(run) for run in report.runs]
    longest = max((second.length_s for rows in tables for second, _ in rows), default=1.0)
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            several=len(report.runs) > 1,
            headline=headline(report),
            subtitle=subtitle(report),
            tiles=tiles(report.runs[0]),
            tile_rows=tile_rows(report),
            timelines=lines,
            tables=tables,
            resolution="" if longest <= 1 else f"One step is {count(longest)} seconds: mean goodput, highest p99.",
            checks=list(checks(report)),
            bounds=[(run, bound) for run in report.runs for bound in run.bounds],
            settings=[settings(report, run) for run in report.runs],
            glyphs=GLYPHS,
            measure=measure,
        )
    )


def _table(run: Run) -> list[tuple[Second, str]]:
    """The time line as rows: each second, and what was wrong in it."""
    rows = []
    for second in stretched(run.seconds):
        end = second.start_s + second.length_s
        active = dict.fromkeys(span.name for span in run.faults if span.start_s < end and span.end_s > second.start_s)
        rows.append((second, ", ".join(active)))
    return rows


@cache
def _environment() -> Environment:
    if find_spec("jinja2") is None:
        raise MissingExtra("the HTML report needs Jinja: pip install 'holdfast[drills]'")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clock": clock_label,
        "count": count,
        "duration": duration,
        "percentage": percentage,
        "plural": plural,
        "ratio": ratio,
        "telling": telling,
        "title_of": checker_title,
    }
    return environment
