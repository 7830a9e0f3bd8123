"""The report of a drill: what a person, a reviewer or a program should know of it, from its history and its verdicts alone.

    report = Report((run_of(history, check(history)),), command="holdfast drill --seed 7")
    files = write_report(report, folder)        # report.html, report.md, report.json

`content.py` says what a report holds; `reading.py` reads it from a history; `wording.py` and `digest.py` say it in words and
figures, `scales.py` and `timeline.py` find its place in the drawing; `html.py`, `markdown.py` and `document.py` render.
"""

from __future__ import annotations

from .content import Report, Run
from .document import SCHEMA, json_document
from .files import ReportFiles, write_report
from .html import html_page
from .markdown import markdown_text
from .reading import run_of
from .wording import headline

__all__ = [
    "SCHEMA",
    "Report",
    "ReportFiles",
    "Run",
    "headline",
    "html_page",
    "json_document",
    "markdown_text",
    "run_of",
    "write_report",
]
