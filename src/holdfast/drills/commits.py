"""Which COMMITs of a history were ambiguous: handed over, and no answer came back to the client.

Whoever sent such a COMMIT cannot know what became of it: that is where writes are lost or doubled. So promises are counted
against these, not against the many operations at which nothing went wrong. The proxy's log is the ground truth; without one,
the operations themselves say at which stage they were cut.
"""

from __future__ import annotations

from dataclasses import dataclass

from .history import History, Operation, Wire

__all__ = ["AmbiguousCommit", "ambiguous_commits"]


@dataclass(frozen=True, slots=True)
class AmbiguousCommit:
    """One COMMIT without an answer.

    Attributes:
        t: when it was last seen, nanoseconds.
        forwarded: whether it reached the server; None where only the client can tell that it sent it.
        applied: whether the proxy saw the server's OK to it; None where it did not look.
        where: the connection or operation, for a person.
    """

    t: int
    forwarded: bool | None
    applied: bool | None
    where: str


def ambiguous_commits(history: History) -> tuple[AmbiguousCommit, ...]:
    """The ambiguous COMMITs in the order of time.

    With wire lines: every `commit-seen` or `commit-forwarded` that no `commit-answered` follows on its connection, before the
    next COMMIT there. A `cut` may say what it hid: `v: {"applied": true}`, or as the fault proxy does `{"ok": true}`. Without:
    every operation that ended with the class `ambiguous` at the stage `commit`, or was killed.
    """
    wire = [line for line in history.wire if line.name in _SEEN or line.name in ("commit-answered", "cut")]
    if any(line.name in _SEEN for line in wire):
        found = _from_wire(wire)
    else:
        found = [
            AmbiguousCommit(operation.ended or operation.invoked, None, None, str(operation))
            for operation in history.operations
            if _cut_at_commit(operation)
        ]
    return tuple(sorted(found, key=lambda commit: commit.t))


_SEEN = ("commit-seen", "commit-forwarded")


def _from_wire(wire: list[Wire]) -> list[AmbiguousCommit]:
    found: list[AmbiguousCommit] = []
    waiting: dict[int | str | None, Wire] = {}
    hidden: dict[int | str | None, bool] = {}

    def settle(connection: int | str | None) -> None:
        last = waiting.pop(connection, None)
        if last is not None:
            forwarded = last.name == "commit-forwarded"
            applied = hidden.pop(connection, None if forwarded else False)
            found.append(AmbiguousCommit(last.t, forwarded, applied, f"connection {connection}"))

    for line in wire:
        if line.name == "commit-answered":
            waiting.pop(line.connection, None)
        elif line.name == "cut":
            applied = line.value.get("applied", line.value.get("ok"))
            if applied is not None and line.connection in waiting:
                hidden[line.connection] = bool(applied)
        else:
            before = waiting.get(line.connection)
            if before is not None and not (before.name == "commit-seen" and line.name == "commit-forwarded"):
                settle(line.connection)
            waiting[line.connection] = line
    for connection in list(waiting):
        settle(connection)
    return found


def _cut_at_commit(operation: Operation) -> bool:
    return operation.killed or (operation.stage == "commit" and (operation.failure_class or "").lower() == "ambiguous")
