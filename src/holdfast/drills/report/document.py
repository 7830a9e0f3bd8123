"""The report as JSON: for programs. Its shape is versioned, and a field keeps its meaning within a version."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .content import Report, Run
from .wording import headline

__all__ = ["SCHEMA", "json_document"]

SCHEMA = "holdfast.drill.report/1"
"""The name of the shape. Fields may be added to it; one that goes or changes its meaning makes it another."""


def json_document(report: Report) -> dict[str, Any]:
    """The report as what `json.dumps` takes: seconds, shares of 1, None where there is no figure."""
    said = headline(report)
    return {
        "schema": SCHEMA,
        "verdict": report.validity.value,
        "title": said.title,
        "sentence": said.sentence,
        "command": report.command,
        "histories": dict(report.histories),
        "runs": [_run(run) for run in report.runs],
    }


def _run(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(run):
        found[field.name] = _plain(getattr(run, field.name))
    return {"verdict": run.validity.value, **found}


def _plain(value: Any) -> Any:
    """`value` with dataclasses as dictionaries and tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
