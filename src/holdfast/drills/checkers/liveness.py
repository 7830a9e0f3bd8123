"""After the last heal everybody gets through again: the last operations of every worker were served.

Looks at the last five operations that each worker began after the last fault was healed (of the whole run, if there was none).
Served is what is done, and what the workload itself declined (`fail` without class and code). A worker whose process was killed
has nothing to show, and what was never sent was nobody's to serve. The shape is that of Restate's check for Jepsen (`tail_ok`).
"""

from __future__ import annotations

from ..history import History, Operation
from ..verdict import Validity, Verdict
from .judging import judge, served

__all__ = ["LAST", "NAME", "applies", "check"]

NAME = "liveness"

LAST = 5
"""How many operations of each worker must have been served."""


def applies(history: History) -> bool:
    """Whether anything was asked."""
    return bool(history.operations)


def check(history: History, last: int = LAST) -> Verdict:
    """The `last` operations of every worker were served. Unknown if a fault was not healed, or no worker did so many after it."""
    if history.faults and history.last_heal is None:
        return Verdict(NAME, Validity.UNKNOWN, "a fault was never healed")
    since = history.last_heal or 0
    workers: dict[str, list[Operation]] = {}
    killed: set[str] = set()
    for operation in history.operations:
        if not operation.was_sent:
            continue
        if operation.killed:
            killed.add(operation.process)
        operations = workers.setdefault(operation.process, [])
        if operation.invoked >= since or (operation.ended is None and not operation.killed):
            operations.append(operation)
    alive = {worker: operations for worker, operations in workers.items() if worker not in killed}
    judged = {worker: operations[-last:] for worker, operations in alive.items() if len(operations) >= last}
    hung = [f"{operation} never ended" for found in alive.values() for operation in found if operation.ended is None]
    wrong = hung + [
        f"{operation} of the last {last} of its worker was not served"
        for operations in judged.values()
        for operation in operations
        if operation.ended is not None and not served(operation)
    ]
    return judge(
        NAME,
        wrong,
        looked_at=len(judged),
        good=f"the last {last} operations of all {len(judged)} workers were served",
        bad="operations were not served although every fault was healed",
        nothing=f"no worker began {last} operations after the last heal",
        counts={"workers": len(judged), "too_few": len(alive) - len(judged), "killed": len(killed)},
    )
