"""Tables for people, and their place in RESULTS.md."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

__all__ = ["RESULTS", "machine", "median_ratio", "table", "write_section"]

RESULTS = Path(__file__).parent / "RESULTS.md"


def median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """How many times the others the ones are, each compared with what was measured in its own round."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def machine() -> str:
    """What was measured on, as far as it explains a number."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, SQLAlchemy {version('sqlalchemy')}, "
        f"{os.cpu_count()} cores"
    )


def write_section(heading: str, command: str, body: str) -> None:
    """Replace the section `heading` of RESULTS.md, or add it; every other section stays."""
    text = (
        RESULTS.read_text()
        if RESULTS.exists()
        else "# Results\n\nMedians; compare within a table, not between machines.\n"
    )
    section = f"## {heading}\n\n`{command}` ({machine()})\n\n{body}\n"
    pattern = re.compile(rf"^## {re.escape(heading)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    known = pattern.search(text) is not None
    text = pattern.sub(lambda _: section + "\n", text) if known else f"{text.rstrip()}\n\n{section}"
    RESULTS.write_text(text.rstrip() + "\n")
