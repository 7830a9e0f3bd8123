"""Retries never make it worse: while nobody can be served, or not everybody, what arrives at the wire is at most 1.1 times what
was asked.

Counts tries in the proxy's log, where no client can flatter itself: a transaction begun, one that never came so far (its
first statement was held up or cut off before the server saw it), or a connection that never got to either. With lines of
single connections each is counted singly; with `count` lines alone (`v: {"connects", "begins", ...}`, what happened since the
one before) a second counts the greater of the two.

Judged is the time of an *outage*: while a fault is active that calls itself one (`v: {"outage": true}`), and every second of a
fault in which operations were due and none was answered ok. And that of an *overload*: while a fault is active that calls
itself one (`v: {"overload": true}`). Elsewhere a retry may well be worth it: contention is rerun for nothing, and a COMMIT in
doubt has to be settled. The figures are given for every phase.

What was asked is, in an outage, every operation that was sent in it, and those that were under way when it began and report one
attempt: they had been waiting, for a connection or at a gate, and what they try comes now. In an overload most operations may be
turned away or give up before they come to the wire (by a limit, or waiting for a connection), and would hide the tries of those
that come there twice and three times. So there the tries are divided by the operations that came to the wire: all but those whose
only attempt ended before a connection was given to them, or opened for them. A client that says so of more than it should makes
its own figure worse.

The retry budget has a floor as well: so many retries a second that no success has to earn, saved up for ten seconds. So that
much may come on top of 1.1 times: what was saved up when the first of these times began, and what came in since, at the
floor's rate and never for more than ten seconds ahead. It is one account for the whole drill: many short outages do not each
find it full.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..history import CONNECTING, NS, Answer, History, Operation, Wire
from ..verdict import Verdict
from .judging import judge

__all__ = [
    "FLOOR_PER_SECOND",
    "LIMIT",
    "NAME",
    "applies",
    "check",
    "outages",
    "overloads",
    "reached_the_wire",
    "wire_tries",
]

NAME = "amplification"

LIMIT = 1.1
"""How much more may arrive than was asked: the budget's ratio is 0.1."""

FLOOR_PER_SECOND = 1.0
"""Retries a second that the budget of one process always allows."""
_SAVED_UP_S = 10.0
"""For how many seconds a budget saves its floor up (`RetryBudget.window`)."""

_Span = tuple[int, int]


class _Judged(NamedTuple):
    """A time that is judged: of which kind, from when to when in nanoseconds, how much was asked, and how often it was tried."""

    kind: str
    start: int
    end: int
    asked: int
    tried: int

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / NS


def applies(history: History) -> bool:
    """Whether a proxy counted, and there was an outage or an overload to judge."""
    return bool(wire_tries(history)) and bool(outages(history) or overloads(history))


def check(history: History, limit: float = LIMIT, floor_per_second: float = FLOOR_PER_SECOND) -> Verdict:
    """At most `limit` tries for each operation asked in an outage or overload. Unknown without wire lines, or without either.

    Args:
        history: what to judge.
        limit: tries at the wire for each operation, at least 1.
        floor_per_second: tries a second beyond that: the floor of the retry budget, times the processes that have one. A budget
            may have saved ten seconds of it up when the first outage began.
    """
    tries = wire_tries(history)
    judged = _judged(history, tries)
    tried, asked = sum(each.tried for each in judged), sum(each.asked for each in judged)
    beyond, granted = _beyond(judged, limit, floor_per_second)
    sent = sorted(operation.invoked for operation in history.operations if operation.was_sent)
    counts = {f"tries_per_operation_{name}": ratio for name, ratio in _per_phase(history, tries, sent).items()}
    counts |= {"asked": asked, "tries": tried, "ratio": tried / asked if asked else 0.0, "by_the_floor": granted}
    for kind in ("outage", "overload"):
        counts[f"{kind}_s"] = sum(each.seconds for each in judged if each.kind == kind)
    kinds = sorted({each.kind for each in judged})
    sentence = "; ".join(_sentence(kind, [each for each in judged if each.kind == kind]) for kind in kinds)
    if granted:
        sentence += f" ({granted:.0f} tries beyond {limit:g} times by the budget's floor)"
    return judge(
        NAME,
        beyond,
        looked_at=asked if tries else 0,
        good=sentence,
        bad=f"limit passed: {sentence}",
        nothing="there was no outage to judge" if tries else "no proxy counted at the wire",
        counts=counts,
    )


def _judged(history: History, tries: Sequence[int]) -> list[_Judged]:
    """The times that are judged, in order."""
    sent = [operation for operation in history.operations if operation.was_sent]
    invoked = sorted(operation.invoked for operation in sent)
    reached = sorted(operation.invoked for operation in sent if reached_the_wire(operation))
    judged = [
        _Judged("outage", *span, _within(invoked, span) + _waiting(sent, span[0]), _within(tries, span))
        for span in outages(history)
    ]
    judged += [_Judged("overload", *span, _within(reached, span), _within(tries, span)) for span in overloads(history)]
    return sorted(judged, key=lambda each: each.start)


def _waiting(sent: Sequence[Operation], start: int) -> int:
    """How many were under way at `start` and report one attempt at most."""
    return sum(
        operation.attempts <= 1 and operation.invoked < start and (operation.ended is None or operation.ended > start)
        for operation in sent
    )


def _sentence(kind: str, judged: Sequence[_Judged]) -> str:
    tried, asked = sum(each.tried for each in judged), sum(each.asked for each in judged)
    operations = "operations" if kind == "outage" else "operations that came so far"
    seconds = sum(each.seconds for each in judged)
    ratio = tried / asked if asked else 0.0
    return f"{tried} tries at the wire for {asked} {operations} in {seconds:.1f} s of {kind}: {ratio:.2f} times"


def _beyond(judged: Sequence[_Judged], limit: float, floor_per_second: float) -> tuple[list[str], float]:
    """What is wrong in which time, and how many tries beyond `limit` the floor of the budget paid for."""
    most = floor_per_second * _SAVED_UP_S
    saved, before, granted = most, 0, 0.0
    wrong = []
    for each in judged:
        saved = min(most, saved + floor_per_second * max(0, each.start - before) / NS)
        # A budget spends no more than `most` in any ten seconds, however it came by it.
        available = min(saved + floor_per_second * each.seconds, most * (1 + each.seconds // _SAVED_UP_S))
        excess = max(0.0, each.tried - limit * each.asked)
        if excess > available:
            wrong.append(
                f"{each.tried} tries for {each.asked} operations in an {each.kind} of {each.seconds:.1f} s: {excess:.0f} more "
                f"than {limit:g} times, and the floor of the budget had {available:.0f}"
            )
        granted += min(excess, available)
        saved, before = max(0.0, saved + floor_per_second * each.seconds - excess), each.end
    return wrong, granted


# -- what was tried, and by whom -----------------------------------------------------------------------------------------


def reached_the_wire(operation: Operation) -> bool:
    """Whether it came to the wire, as far as its client knows: not if its only attempt ended as it waited to connect. Pure."""
    has_waited_in_vain = operation.answer is Answer.FAIL and operation.attempts <= 1 and operation.stage == "connect"
    return operation.was_sent and (not has_waited_in_vain or bool(operation.result.get(CONNECTING)))


def wire_tries(history: History) -> list[int]:
    """The moments of the tries that arrived at the wire, in order, nanoseconds. Pure."""
    connections: dict[int | str | None, list[Wire]] = {}
    for line in history.wire:
        if line.name != "count":
            connections.setdefault(line.connection, []).append(line)
    if any(line.name in ("begin", "connect") for line in history.wire):
        return sorted(t for lines in connections.values() for t in _tries_of(lines))
    tries: list[int] = []
    for line in history.wire:
        if line.name == "count":
            tries += [line.t] * int(max(line.value.get("begins", 0), line.value.get("connects", 0)))
    return tries


def _tries_of(lines: Sequence[Wire]) -> list[int]:
    """The tries on one connection."""
    tries: list[int] = []
    came, begun = False, False  # a transaction whose first statement has come; and one that the server has begun
    for line in lines:
        if line.name == "begin":
            if begun or not came:
                tries.append(line.t)
            came = begun = True
        elif line.name == "commit-answered":
            came = begun = False
        elif not came and line.name in ("hit", "cut") and _is_held_up(line):
            tries.append(line.t)
            came = True
    return tries or [line.t for line in lines if line.name == "connect"]


def _is_held_up(line: Wire) -> bool:
    """Whether a fault met a statement that the server has not seen, and that may begin a transaction."""
    return line.value.get("phase") == "before" and line.value.get("kind") in ("begin", "other")


def overloads(history: History) -> list[_Span]:
    """From when to when more was asked than could be served, nanoseconds; in order, none overlapping another. Pure."""
    return _merged(
        [
            (fault.start, history.end if fault.end is None else fault.end)
            for fault in history.faults
            if fault.value.get("overload")
        ]
    )


def outages(history: History) -> list[_Span]:
    """From when to when nobody was served, nanoseconds; in order, none overlapping another, nor an overload. Pure."""
    spans: list[_Span] = []
    oks = sorted(op.ended for op in history.operations if op.answer is Answer.OK and op.ended is not None)
    due = sorted(operation.intended for operation in history.operations)
    overloaded = overloads(history)
    for fault in history.faults:
        end = history.end if fault.end is None else fault.end
        if fault.value.get("overload"):
            continue
        if fault.value.get("outage"):
            spans.append((fault.start, end))
            continue
        spans += [
            second
            for second in ((start, start + NS) for start in range(fault.start, end - NS + 1, NS))
            if _within(due, second) and not _within(oks, second) and not _overlaps(second, overloaded)
        ]
    return _merged(spans)


def _overlaps(span: _Span, others: Iterable[_Span]) -> bool:
    return any(start < span[1] and span[0] < end for start, end in others)


def _merged(spans: list[_Span]) -> list[_Span]:
    merged: list[_Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _within(moments: Sequence[int], span: _Span) -> int:
    return bisect_left(moments, span[1]) - bisect_left(moments, span[0])


def _per_phase(history: History, tries: Sequence[int], asked: Sequence[int]) -> dict[str, float]:
    ratios = {}
    for phase in history.phases:
        span = (phase.start, history.end if phase.end is None else phase.end)
        if operations := _within(asked, span):
            ratios[phase.name] = _within(tries, span) / operations
    return ratios
