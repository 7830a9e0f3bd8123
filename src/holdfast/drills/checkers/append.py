"""Lists show what their transactions did: nothing twice, nothing undone, nothing overwritten, one order for all.

    append          v {"txn": [["append", k, x], ["r", k, null], ...]}, ok v {"txn": [["append", k, x], ["r", k, [1, 2]], ...]}
    final append    v {"lists": {k: [x, ...]}}

Every `x` is appended once, so a list tells the order of its writers, and a read what it saw of it. Found are: an element twice;
an element whose append failed (G1a, aborted read); an element that a committed transaction read and that is gone in the end
(whoever was shown it, it had been committed); reads that are not beginnings of one list; two transactions that stand in one order
in one list and in the other order in another (G0, dirty write); and a transaction that appended to what it had read although
another came between (P4, lost update). The idea is Elle's (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from
Experimental Observations", VLDB 2020, https://arxiv.org/abs/2003.10554), which finds far more: `drills.elle` exports for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

from ..history import Answer, History, Operation
from ..verdict import Verdict
from .judging import judge

__all__ = ["NAME", "applies", "check"]

NAME = "append"

_List = list[int]
_Element = tuple[str, int]


def applies(history: History) -> bool:
    """Whether anything was appended."""
    return "append" in history.names


def check(history: History) -> Verdict:
    """No anomaly of the six. Unknown if nothing was read, or the lists were not read back."""
    final = history.final("append")
    operations = history.named("append")
    committed = [operation for operation in operations if operation.answer is Answer.OK]
    reads = [(operation, key, seen) for operation in committed for key, seen in _reads(operation)]
    last = {str(key): list(elements) for key, elements in (final.value["lists"] if final else {}).items()}
    longest = dict(last)
    for _, key, seen in reads:
        if len(seen) > len(longest.get(key, ())):
            longest[key] = seen
    writers = {element: operation for operation in operations for element in _appends(operation)}
    findings = {
        "duplicates": _duplicates(longest, reads),
        "aborted_reads": _aborted(reads, writers),
        "vanished_reads": _vanished(last, reads) if final else [],
        "incompatible_orders": _incompatible(longest, reads),
        "dirty_writes": _dirty_writes(longest, writers),
        "lost_updates": _lost_updates(longest, committed),
    }
    wrong = [finding for found in findings.values() for finding in found]
    return judge(
        NAME,
        wrong,
        looked_at=len(reads) if final else 0,
        good=f"{len(committed)} transactions and {len(reads)} reads show one order",
        bad="anomalies in the lists",
        nothing="no list was read" if final else "the history has no final append",
        counts={"transactions": len(committed), "reads": len(reads), **{k: len(v) for k, v in findings.items()}},
    )


def _reads(operation: Operation) -> Iterable[tuple[str, _List]]:
    return ((str(key), value or []) for kind, key, value in operation.result["txn"] if kind == "r")


def _read_before_appending(operation: Operation) -> dict[str, int]:
    """How much of each list a committed transaction saw before it appended there itself."""
    seen: dict[str, int] = {}
    own: set[str] = set()
    for kind, key, value in operation.result["txn"]:
        if kind == "append":
            own.add(str(key))
        elif str(key) not in own:
            seen[str(key)] = len(value or ())
    return seen


def _appends(operation: Operation) -> Iterable[_Element]:
    return ((str(key), element) for kind, key, element in operation.value["txn"] if kind == "append")


_Reads = list[tuple[Operation, str, _List]]


def _duplicates(longest: Mapping[str, _List], reads: _Reads) -> list[str]:
    seen = [(f"list {key}", elements) for key, elements in longest.items()]
    seen += [(f"{operation} read list {key}", elements) for operation, key, elements in reads]
    return [
        f"{where}: {element} is in it {times} times"
        for where, elements in seen
        if len(elements) != len(set(elements))
        for element, times in Counter(elements).items()
        if times > 1
    ]


def _aborted(reads: _Reads, writers: Mapping[_Element, Operation]) -> list[str]:
    found = []
    for operation, key, elements in reads:
        for element in elements:
            writer = writers.get((key, element))
            if writer is not None and writer.answer is Answer.FAIL:
                found.append(f"{operation} read {element} in list {key}, of {writer} (G1a)")
    return found


def _vanished(last: Mapping[str, _List], reads: _Reads) -> list[str]:
    there = {key: frozenset(elements) for key, elements in last.items()}
    return [
        f"{operation} read {element} in list {key}, and it is not there in the end"
        for operation, key, elements in reads
        for element in elements
        if element not in there.get(key, ())
    ]


def _incompatible(longest: Mapping[str, _List], reads: _Reads) -> list[str]:
    return [
        f"{operation} read list {key} in another order than it has"
        for operation, key, elements in reads
        if longest.get(key, [])[: len(elements)] != elements
    ]


def _dirty_writes(longest: Mapping[str, _List], writers: Mapping[_Element, Operation]) -> list[str]:
    before: dict[str, set[str]] = {}
    for key, elements in longest.items():
        names = [str(writers[key, element]) for element in elements if (key, element) in writers]
        for earlier, later in pairwise(names):
            if earlier != later:
                before.setdefault(later, set()).add(earlier)
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        return [f"these stand before each other: {', '.join(error.args[1])} (G0)"]
    return []


def _lost_updates(longest: Mapping[str, _List], committed: list[Operation]) -> list[str]:
    position = {(key, element): n for key, elements in longest.items() for n, element in enumerate(elements)}
    found = []
    for operation in committed:
        seen = _read_before_appending(operation)
        appended: set[str] = set()
        for key, element in _appends(operation):
            if key in appended or key not in seen:
                continue
            appended.add(key)
            at = position.get((key, element))
            if at is not None and at > seen[key]:
                found.append(f"{operation} read {seen[key]} elements of list {key} and appended after {at} (P4)")
    return found
