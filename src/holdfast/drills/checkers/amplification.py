"""Retries never make an outage worse: what arrives at the wire is at most 1.1 times what was asked.

Counts tries in the proxy's log, where no client can flatter itself: a transaction begun, or a connection that never got so far.
With `begin` and `connect` lines each is counted singly; with `count` lines alone (`v: {"connects", "begins", ...}`, what
happened since the one before) a second counts the greater of the two.

Judged is the time of an outage: while a fault is active that calls itself one (`v: {"outage": true}`), and every second of a
fault in which operations were due and none was answered ok. Elsewhere a retry may well be worth it: contention is rerun for
nothing, and a COMMIT in doubt has to be settled. The figures are given for every phase.

The retry budget has a floor as well: so many retries a second that no success has to earn, saved up for ten seconds. So that much
may come on top of 1.1 times: what was saved up when the first outage began, and what came in since, at the floor's rate and never
for more than ten seconds ahead. It is one account for the whole drill: many short outages do not each find it full.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from ..history import NS, Answer, History
from ..verdict import Verdict
from .judging import judge

__all__ = ["FLOOR_PER_SECOND", "LIMIT", "NAME", "applies", "check", "outages", "wire_tries"]

NAME = "amplification"

LIMIT = 1.1
"""How much more may arrive than was asked: the budget's ratio is 0.1."""

FLOOR_PER_SECOND = 1.0
"""Retries a second that the budget of one process always allows."""
_SAVED_UP_S = 10.0
"""For how many seconds a budget saves its floor up (`RetryBudget.window`)."""

_Span = tuple[int, int]


def applies(history: History) -> bool:
    """Whether a proxy counted, and there was an outage to judge."""
    return bool(wire_tries(history)) and bool(outages(history))


def check(history: History, limit: float = LIMIT, floor_per_second: float = FLOOR_PER_SECOND) -> Verdict:
    """At most `limit` tries for each operation asked in an outage. Unknown without wire lines, or without an outage.

    Args:
        history: what to judge.
        limit: tries at the wire for each operation, at least 1.
        floor_per_second: tries a second beyond that: the floor of the retry budget, times the processes that have one. A budget
            may have saved ten seconds of it up when the first outage began.
    """
    tries = wire_tries(history)
    asked = [operation.invoked for operation in history.operations if operation.was_sent]
    spans = outages(history)
    tried_in = sum(_within(tries, span) for span in spans)
    asked_in = sum(_within(asked, span) for span in spans)
    seconds = sum(end - start for start, end in spans) / NS
    beyond, granted = _beyond(tries, asked, spans, limit, floor_per_second)
    counts = {f"tries_per_operation_{name}": ratio for name, ratio in _per_phase(history, tries, asked).items()}
    ratio = tried_in / asked_in if asked_in else 0.0
    counts |= {"asked": asked_in, "tries": tried_in, "ratio": ratio, "by_the_floor": granted, "outage_s": seconds}
    sentence = f"{tried_in} tries at the wire for {asked_in} operations in {seconds:.1f} s of outage: {ratio:.2f} times"
    if granted:
        sentence += f" ({granted:.0f} tries beyond {limit:g} times by the budget's floor)"
    return judge(
        NAME,
        beyond,
        looked_at=asked_in if tries else 0,
        good=sentence,
        bad=f"limit passed: {sentence}",
        nothing="there was no outage to judge" if tries else "no proxy counted at the wire",
        counts=counts,
    )


def _beyond(
    tries: Sequence[int], asked: Sequence[int], spans: Sequence[_Span], limit: float, floor_per_second: float
) -> tuple[list[str], float]:
    """What is wrong in which outage, and how many tries beyond `limit` the floor of the budget paid for."""
    most = floor_per_second * _SAVED_UP_S
    saved, before, granted = most, 0, 0.0
    wrong = []
    for start, end in spans:
        saved = min(most, saved + floor_per_second * max(0, start - before) / NS)
        seconds = (end - start) / NS
        # A budget spends no more than `most` in any ten seconds, however it came by it.
        available = min(saved + floor_per_second * seconds, most * (1 + seconds // _SAVED_UP_S))
        tried, asked_in = _within(tries, (start, end)), _within(asked, (start, end))
        excess = max(0.0, tried - limit * asked_in)
        if excess > available:
            wrong.append(
                f"{tried} tries for {asked_in} operations in an outage of {seconds:.1f} s: {excess:.0f} more than {limit:g} "
                f"times, and the floor of the budget had {available:.0f}"
            )
        granted += min(excess, available)
        saved, before = max(0.0, saved + floor_per_second * seconds - excess), end
    return wrong, granted


def wire_tries(history: History) -> list[int]:
    """The moments of the tries that arrived at the wire, in order, nanoseconds. Pure."""
    if any(line.name in ("begin", "connect") for line in history.wire):
        begun = {line.connection for line in history.wire if line.name == "begin"}
        return [
            line.t
            for line in history.wire
            if line.name == "begin" or (line.name == "connect" and line.connection not in begun)
        ]
    tries: list[int] = []
    for line in history.wire:
        if line.name == "count":
            tries += [line.t] * int(max(line.value.get("begins", 0), line.value.get("connects", 0)))
    return tries


def outages(history: History) -> list[_Span]:
    """From when to when nobody was served, nanoseconds; in order, none overlapping another. Pure."""
    spans: list[_Span] = []
    oks = sorted(op.ended for op in history.operations if op.answer is Answer.OK and op.ended is not None)
    due = sorted(operation.intended for operation in history.operations)
    for fault in history.faults:
        end = history.end if fault.end is None else fault.end
        if fault.value.get("outage"):
            spans.append((fault.start, end))
            continue
        spans += [
            second
            for second in ((start, start + NS) for start in range(fault.start, end - NS + 1, NS))
            if _within(due, second) and not _within(oks, second)
        ]
    return _merged(spans)


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
