"""Whether the drill met what it was made for: too few faults, and nothing that was not found means anything.

A run in which every operation fails loses nothing, and a fault that meets nobody breaks nothing. So this answers unknown unless
enough faults overlapped an operation under way, enough COMMITs were ambiguous (`drills.commits`), and more than half of the
operations that met no fault were served. It never answers invalid.

Enough depends on the length of the run: one fault and one more for every 30 s, one ambiguous COMMIT and one more for every 10
s. To see a bug that shows in 10 %, 3 % or 1 % of the faults with 95 % certainty takes 29, 99 or 299 of them.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from ..commits import ambiguous_commits
from ..history import NS, FaultSpan, History
from ..verdict import Validity, Verdict
from .judging import counted, served

__all__ = ["NAME", "applies", "check"]

NAME = "coverage"

_SERVED_MIN = 0.5


def applies(history: History) -> bool:
    """Whether anything was asked, or should have been."""
    return bool(history.operations) or bool(history.faults)


def check(history: History, faults_min: int | None = None, ambiguous_min: int | None = None) -> Verdict:
    """Valid if enough went wrong at the right moments, unknown otherwise.

    Args:
        history: what to judge.
        faults_min: how many faults must have overlapped an operation; None: 1, and 1 for every 30 s.
        ambiguous_min: how many COMMITs must have been ambiguous; None: 1, and 1 for every 10 s; 0 where no write is drilled.
    """
    seconds = (history.end - history.start) / NS
    faults_min = 1 + int(seconds // 30) if faults_min is None else faults_min
    ambiguous_min = 1 + int(seconds // 10) if ambiguous_min is None else ambiguous_min
    met = sum(_met(history, history.faults))
    ambiguous = len(ambiguous_commits(history))
    share = _served_outside(history)
    short = [
        f"{met} of {faults_min} faults met an operation" * (met < faults_min),
        f"{ambiguous} of {ambiguous_min} COMMITs were ambiguous" * (ambiguous < ambiguous_min),
        f"{share:.0%} of the operations that met no fault were served" * (share <= _SERVED_MIN),
    ]
    too_little = [sentence for sentence in short if sentence]
    counts = {"faults_met": met, "ambiguous": ambiguous, "served_outside_faults": share}
    if too_little:
        return Verdict(NAME, Validity.UNKNOWN, f"too little happened: {'; '.join(too_little)}", counts)
    were = "COMMIT was" if ambiguous == 1 else "COMMITs were"
    reason = f"{counted(met, 'fault')} met an operation, {ambiguous} {were} ambiguous"
    return Verdict(NAME, Validity.VALID, reason, counts)


def _met(history: History, faults: tuple[FaultSpan, ...]) -> list[bool]:
    """For each fault whether an operation was under way while it was active."""
    sent = [operation for operation in history.operations if operation.was_sent]
    begun = [operation.invoked for operation in sent]
    # The latest end of all operations up to each: one that reaches into the fault is enough.
    ends = list(accumulate((history.end if op.ended is None else op.ended for op in sent), max))
    met = []
    for fault in faults:
        until = history.end if fault.end is None else fault.end
        index = bisect_right(begun, until) - 1
        met.append(index >= 0 and ends[index] >= fault.start)
    return met


def _served_outside(history: History) -> float:
    """The share of the operations that met no fault that were served; 1 if there is none: then there is nothing to doubt."""
    starts = [fault.start for fault in history.faults]
    ends = list(accumulate((history.end if fault.end is None else fault.end for fault in history.faults), max))
    outside = good = 0
    for operation in history.operations:
        index = bisect_right(starts, history.end if operation.ended is None else operation.ended) - 1
        if index < 0 or ends[index] < operation.invoked:
            outside += 1
            good += served(operation)
    return good / outside if outside else 1.0
