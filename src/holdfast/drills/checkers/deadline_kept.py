"""Every operation has an answer by its deadline, and none hangs.

Looks at every operation with a `deadline`. It must have ended by then, and a grace on top: 250 ms, within which a statement that
is being cut comes back. An operation without an end hung, unless its process was killed. One that was never sent had no
answer to wait for: of those tells `offered_rate`.

    sample  v {"starved": [[from, to, waited], ...]}    when the process wanted a processor and had none, nanoseconds

A process that gets no processor answers nobody, whatever it runs. So of an operation that is late, the time is counted in which
its process waited for one, between its deadline and its end. Where that alone made it late, nothing was proven and nothing
refuted: the answer is unknown, and says so. It is never valid, and an operation that would have been late anyway is late.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..estimates import percentile
from ..history import NS, History
from ..verdict import Validity, Verdict
from .judging import EXAMPLES, judge

__all__ = ["GRACE_S", "NAME", "applies", "check"]

NAME = "deadline-kept"

GRACE_S = 0.25
"""How much later than its deadline an operation may end."""


def applies(history: History) -> bool:
    """Whether any operation had a deadline."""
    return any(operation.deadline is not None for operation in history.operations)


def check(history: History, grace_s: float = GRACE_S) -> Verdict:
    """Every operation ended by its deadline and `grace_s` seconds. Unknown if none had one, or the machine was too busy."""
    found = _looked_at(history, round(grace_s * NS))
    late = len(found.late) + len(found.starved)
    ended = len(found.overshoots)
    looked_at = ended + len(found.hung)
    worst = max(found.overshoots, default=0) / NS
    counts = {
        "late": late,
        "late_starved": len(found.starved),
        "hung": len(found.hung),
        "killed": found.killed,
        "overshoot_p999_s": percentile(found.overshoots, 99.9) / NS if ended else 0.0,
        "overshoot_max_s": worst,
        "own_p999_s": percentile(found.own, 99.9) / NS if ended else 0.0,
        "own_max_s": max(found.own, default=0) / NS,
    }
    wrong = [*found.hung, *found.late]
    if found.starved and not wrong:
        reason = (
            f"{late} of {looked_at} operations ended late, up to {worst:.3f} s, for want of a processor: the machine was too "
            "busy to tell whether they would have kept their deadline"
        )
        counts |= {"looked_at": looked_at, "wrong": 0}
        return Verdict(NAME, Validity.UNKNOWN, reason, counts, tuple(found.starved[:EXAMPLES]))
    bad = f"of {looked_at} operations missed their deadline ({len(found.late)} late, {len(found.hung)} never ended)"
    return judge(
        NAME,
        wrong,
        looked_at=looked_at,
        good=f"{ended} operations ended by their deadline, the worst {worst:.3f} s after it",
        bad=f"{bad}; {len(found.starved)} more for want of a processor" if found.starved else bad,
        nothing="no operation with a deadline ended",
        counts=counts,
    )


@dataclass(slots=True)
class _Found:
    """What became of the operations with a deadline; moments in nanoseconds, what went wrong as a sentence each."""

    overshoots: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    starved: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    killed: int = 0


def _looked_at(history: History, grace: int) -> _Found:
    waits = _waits(history)
    found = _Found()
    for operation in history.operations:
        deadline, ended = operation.deadline, operation.ended
        if deadline is None or not operation.was_sent:
            continue
        if ended is None:
            found.killed += operation.killed
            # What was begun shortly before the end of the history could still have made it.
            if not operation.killed and history.end > deadline + grace:
                found.hung.append(f"{operation} never ended")
            continue
        overshoot = max(0, ended - deadline)
        waited = _waited(waits.get(operation.process, ()), deadline, ended) if overshoot else 0
        found.overshoots.append(overshoot)
        found.own.append(overshoot - waited)
        if overshoot > grace:
            said = f"{operation} ended {overshoot / NS:.3f} s after its deadline"
            if waited:
                said += f", {waited / NS:.3f} s of them without a processor"
            (found.late if overshoot - waited > grace else found.starved).append(said)
    return found


_Spans = list[tuple[int, int, int]]


def _waits(history: History) -> dict[str, _Spans]:
    """When each process waited for a processor: from when to when, and how long of it."""
    waits: dict[str, _Spans] = {}
    for sample in history.samples:
        found = [(int(since), int(until), int(waited)) for since, until, waited in sample.value.get("starved", ())]
        waits.setdefault(sample.process, []).extend(found)
    return {process: sorted(spans) for process, spans in waits.items()}


def _waited(spans: Sequence[tuple[int, int, int]], since: int, until: int) -> int:
    """How long of the time from `since` to `until`; of a span that reaches beyond it, its share."""
    first = max(0, bisect_left(spans, (since, 0, 0)) - 1)
    waited = 0.0
    for begin, end, ns in spans[first:]:
        if begin >= until:
            break
        within = min(end, until) - max(begin, since)
        if within > 0:
            waited += ns * within / (end - begin)
    return round(waited)
