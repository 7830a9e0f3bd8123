"""The page of the fault proxy has what the proxy has."""

from __future__ import annotations

import dataclasses
import inspect
from typing import get_args

from holdfast.faultproxy import Counters, FaultProxy, Kind, Phase, Toxic
from holdfast.faultproxy.toxics import name_of
from tests.docs.documents import code_spans, read, rows, section

PAGE = read("docs/fault-proxy.md")


def test_every_toxic_is_described() -> None:
    """With its arguments, their defaults and its name in events, in the order of the code."""
    kinds = get_args(Toxic)
    stated = [(cells[0].strip("`"), cells[1].strip("`")) for cells in rows(section(PAGE, "Faults"))]
    expected = []
    for kind in kinds:
        fields = [
            field.name
            if field.default is dataclasses.MISSING
            else f"{field.name}={field.default:g}"
            if isinstance(field.default, float)
            else f"{field.name}={field.default}"
            for field in dataclasses.fields(kind)
        ]
        required = [1 for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
        expected.append((f"{kind.__name__}({', '.join(fields)})", name_of(kind(*required))))
    assert stated == expected


def test_every_phase_kind_and_counter_is_described() -> None:
    """Phases in their order."""
    assert [cells[0].strip("`") for cells in rows(section(PAGE, "Phases"))] == [phase.name for phase in Phase]
    spans = set(code_spans(PAGE))
    assert {kind.name for kind in Kind} <= spans
    assert {field.name for field in dataclasses.fields(Counters)} <= spans
    assert {name for name in inspect.signature(FaultProxy.add).parameters if name != "self"} - {"toxic", "at"} <= spans
