"""A counter holds at least what was acknowledged and at most what may have been done: ok <= final <= ok + info.

    increment       v {"row", "by"}         final counter   v {"rows": {row: n}, "initial": {row: n}}
    rmw             v {"row", "id"}         final rmw       v {"rows": {row: {"n": n, "ids": [id, ...]}}, "initial": {row: n}}

`initial` may be left out and is 0 then; `rmw` counts by 1. Less than the lower bound is a lost update or a lost write, more
than the upper one a double apply, or a failure that was none. For `rmw`, `n` must also be the number of ids: a lost update
overwrites `n`, and leaves both rows of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..history import Answer, Final, History, Operation
from ..verdict import Verdict
from .judging import judge

__all__ = ["NAME", "applies", "check"]

NAME = "counter-bounds"

_FINALS = {"increment": "counter", "rmw": "rmw"}


def applies(history: History) -> bool:
    """Whether anything was counted."""
    return bool(history.names & _FINALS.keys())


def check(history: History) -> Verdict:
    """Every counter is within its bounds. Unknown if a counter was not read back, or nothing was counted."""
    wrong: list[str] = []
    missing: list[str] = []
    rows = 0
    for name, final_name in _FINALS.items():
        operations = history.named(name)
        final = history.final(final_name)
        if operations and final is None:
            missing.append(final_name)
        elif operations and final is not None:
            found, faults = _judge_rows(operations, final)
            rows += found
            wrong += faults
    return judge(
        NAME,
        wrong,
        looked_at=0 if missing else rows,
        good=f"{rows} counters are within their bounds",
        bad="counters are out of their bounds",
        nothing=f"the history has no final {', '.join(missing)}" if missing else "nothing was counted",
        counts={"rows": rows},
    )


def _judge_rows(operations: Iterable[Operation], final: Final) -> tuple[int, list[str]]:
    initial = {str(row): n for row, n in final.value.get("initial", {}).items()}
    lowest = dict(initial)
    highest = dict(initial)
    for operation in operations:
        row = str(operation.value["row"])
        by = operation.value.get("by", 1)
        certain = operation.answer is Answer.OK
        possible = operation.answer is Answer.INFO
        lowest[row] = lowest.get(row, 0) + (by if certain or (possible and by < 0) else 0)
        highest[row] = highest.get(row, 0) + (by if certain or (possible and by > 0) else 0)
    found: Mapping[str, Any] = {str(row): value for row, value in final.value["rows"].items()}
    faults: list[str] = []
    for row in sorted(lowest.keys() | found.keys()):
        value = found.get(row, 0)
        n = value["n"] if isinstance(value, Mapping) else value
        low, high = lowest.get(row, 0), highest.get(row, 0)
        if n < low:
            faults.append(f"row {row} is {n}, {low - n} less than was acknowledged")
        elif n > high:
            faults.append(f"row {row} is {n}, {n - high} more than may have been done")
        elif isinstance(value, Mapping) and n != initial.get(row, 0) + len(value["ids"]):
            faults.append(f"row {row} is {n}, but {len(value['ids'])} updates were applied")
    return len(lowest), faults
