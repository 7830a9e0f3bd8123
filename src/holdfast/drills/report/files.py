"""The report on disk: one folder, three files that say the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError
from .content import Report
from .document import json_document
from .html import html_page
from .markdown import markdown_text

__all__ = ["ReportFiles", "write_report"]


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a report lies: the page, the text, and the document for programs."""

    html: Path
    markdown: Path
    json: Path


def write_report(report: Report, folder: Path | str) -> ReportFiles:
    """Write `report.html`, `report.md` and `report.json` into `folder`, which is made; older ones there are replaced.

    Raises:
        ConfigurationError: the folder cannot be written to.
        MissingExtra: Jinja is not installed.
    """
    place = Path(folder)
    files = ReportFiles(place / "report.html", place / "report.md", place / "report.json")
    rendered = {
        files.html: html_page(report),
        files.markdown: markdown_text(report),
        files.json: json.dumps(json_document(report), indent=2, ensure_ascii=False, default=str) + "\n",
    }
    try:
        place.mkdir(parents=True, exist_ok=True)
        for path, text in rendered.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"the report cannot be written to {place}: {error.strerror}") from error
    return files
