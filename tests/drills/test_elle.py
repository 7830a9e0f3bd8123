"""What is exported for Elle is what happened, in a form that it reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.drills.elle import edn_lines, export
from holdfast.errors import ConfigurationError

from .histories import Story

_TOKEN = re.compile(r'\s*,?\s*([\[\]{}]|:[\w-]+|-?\d+|nil|"(?:[^"\\]|\\.)*")')


def read_edn(text: str) -> Any:
    """As much of EDN as the export uses: maps, vectors, keywords, whole numbers, strings, nil."""
    tokens = _TOKEN.findall(text)
    assert "".join(tokens) == re.sub(r"[\s,]", "", text)

    def value() -> Any:
        token = tokens.pop(0)
        if token in "[{":
            items = []
            while tokens[0] not in "]}":
                items.append(value())
            tokens.pop(0)
            return items if token == "[" else dict(zip(items[::2], items[1::2], strict=True))
        if token == "nil":
            return None
        if token.startswith('"'):
            return token[1:-1].replace('\\"', '"').replace("\\\\", "\\")
        return token if token.startswith(":") else int(token)

    parsed = value()
    assert tokens == []
    return parsed


def append(told: Story, answer: str, txn: list[list[Any]], **rest: Any) -> Story:
    """A transaction as the workload logs it."""
    asked = [[kind, key, None if kind == "r" else value] for kind, key, value in txn]
    return told.op("append", {"txn": asked}, answer, {"txn": txn} if answer == "ok" else None, **rest)


def events(told: Story) -> list[dict[str, Any]]:
    """The exported lines, read back."""
    return [read_edn(line) for line in edn_lines(told.history())]


def test_an_operation_is_an_invoke_and_its_end() -> None:
    """Reads are nil when they are asked, and what was seen when they are answered."""
    told = append(Story(), "ok", [["append", 3, 7], ["r", 3, [1, 7]], ["r", 'x"y', []]], at=1, took=0.5)
    assert events(told) == [
        {":index": 0, ":type": ":invoke", ":f": ":txn", ":process": 0, ":time": 1_000_000_000,
         ":value": [[":append", 3, 7], [":r", 3, None], [":r", 'x"y', None]]},
        {":index": 1, ":type": ":ok", ":f": ":txn", ":process": 0, ":time": 1_500_000_000,
         ":value": [[":append", 3, 7], [":r", 3, [1, 7]], [":r", 'x"y', []]]},
    ]  # fmt: skip


def test_a_process_never_asks_while_it_may_still_be_running() -> None:
    """After an info, and while an operation of the same worker is under way, another number asks."""
    told = append(Story(), "info", [["append", 1, 1]], at=1)
    append(told, "ok", [["append", 1, 2]], at=2, took=2)
    append(told, "fail", [["append", 1, 3]], at=3, took=2)
    append(told, "ok", [["append", 1, 4]], at=6)
    append(told, "ok", [["append", 1, 5]], at=7, took=None)
    busy: set[int] = set()
    for event in events(told):
        process = event[":process"]
        if event[":type"] == ":invoke":
            assert process not in busy
            busy.add(process)
        elif event[":type"] != ":info":
            busy.remove(process)
    assert [event[":type"] for event in events(told)].count(":invoke") == 5
    assert [event[":time"] for event in events(told)] == sorted(event[":time"] for event in events(told))


def test_export_writes_a_line_for_each_event(tmp_path: Path) -> None:
    """To a file that Elle is given by name; other operations are left out."""
    told = append(Story(), "ok", [["append", 1, 1]]).op("insert", {"id": "1"})
    assert export(told.history(), tmp_path / "history.edn") == 1
    assert len((tmp_path / "history.edn").read_text("utf-8").splitlines()) == 2


def test_export_needs_the_workload(tmp_path: Path) -> None:
    """A history without list appends is refused before a file is made."""
    with pytest.raises(ConfigurationError, match="append"):
        export(Story().op("insert", {"id": "1"}).history(), tmp_path / "history.edn")
    assert not (tmp_path / "history.edn").exists()
