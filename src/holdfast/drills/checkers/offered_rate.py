"""The load was what the drill says: whatever was due at the stated rate was also sent.

An operation whose time is over before one of the drill's callers is free is never sent (`fail`, `error` `NoCallerFree`). Where
that is more than one in twenty, the system was asked for less than the drill claims, and what the other checkers say holds for
a smaller load: the answer is unknown, and never invalid. While nobody is served all callers are taken by those who wait, which
is the outage's doing: so an operation does not count here that was due, or waited for a caller, in an outage as `amplification`
knows it. Every client goes on until it has sent or given up what was due, so nothing else can be missing.
"""

from __future__ import annotations

from ..history import History, Operation
from ..verdict import Validity, Verdict
from .amplification import outages

__all__ = ["NAME", "applies", "check"]

NAME = "offered-rate"

_UNSENT_MAX = 0.05


def applies(history: History) -> bool:
    """Whether anything was due."""
    return bool(history.operations)


def check(history: History) -> Verdict:
    """At least 95 % of what was due outside of outages was sent; unknown otherwise."""
    away = outages(history)

    def is_judged(operation: Operation) -> bool:
        until = operation.invoked
        return not any(start <= until and operation.intended <= end for start, end in away)

    due = [operation for operation in history.operations if is_judged(operation)]
    unsent = sum(not operation.was_sent for operation in due)
    everywhere = sum(not operation.was_sent for operation in history.operations)
    share = unsent / len(due) if due else 0.0
    counts = {"due": len(due), "unsent": unsent, "unsent_in_outages": everywhere - unsent}
    if not due:
        return Verdict(NAME, Validity.UNKNOWN, "nothing was due outside of outages", counts)
    told = f"{len(due) - unsent} of {len(due)} operations that were due outside of outages were sent"
    if share > _UNSENT_MAX:
        reason = f"the load was not reached: {told}; take more callers, or a lower rate"
        return Verdict(NAME, Validity.UNKNOWN, reason, counts)
    return Verdict(NAME, Validity.VALID, told, counts)
