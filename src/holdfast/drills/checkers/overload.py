"""More was asked than could be served, and whoever was turned away for it was turned away at once, with a time to come again.

Looks at what was due while a fault was active that calls itself an overload (`v: {"overload": true}`). Turned away is what a
limit refused before it held anything (`fail`, `error` `LoadShed`). Each must have been told after how many seconds to come
again (`v: {"retry_after_s": 0.4}`), and nine of ten that were refused at their first attempt must have been refused within
0.35 s of being asked: a tenth of a second in the limit's own queue, and the grace that every answer has. A limit that is on
(`meta` `limit`) and turns nobody away keeps no queue from building.

If nine of ten were served, nothing was overloaded, and the answer is unknown. What a limit is good for is in the figures,
which are there with one and without: goodput (what was done, each second), the latency of what was done from its intended
start, and how many were turned away, or given up for want of time.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..estimates import percentile
from ..history import NS, RETRY_AFTER, SHED, Answer, History, Operation
from ..verdict import Validity, Verdict
from .amplification import overloads
from .judging import judge

__all__ = ["AT_ONCE_S", "NAME", "applies", "check"]

NAME = "overload"

AT_ONCE_S = 0.35
"""How long after it was asked an operation may be turned away: `AdaptiveLimit.max_wait`, and 0.25 s."""
_AT_ONCE_SHARE = 90.0
_SERVED_MAX = 0.9


def applies(history: History) -> bool:
    """Whether there was an overload."""
    return bool(overloads(history))


def check(history: History) -> Verdict:
    """Whoever was turned away was told so at once, and when to come again. Unknown if nearly everybody was served."""
    spans = overloads(history)
    due = [operation for operation in history.operations if _is_within(operation.intended, spans)]
    done = [operation for operation in due if operation.answer is Answer.OK]
    shed = [operation for operation in due if operation.error == SHED]
    at_first = [_took_s(operation) for operation in shed if operation.attempts <= 1]
    counts = _figures(spans, due, done, shed) | {
        "shed_p90_s": percentile(at_first, _AT_ONCE_SHARE) if at_first else 0.0,
        "on": float(history.meta.get("limit") == "on"),
    }
    if len(done) > _SERVED_MAX * len(due):
        reason = f"{len(done)} of {len(due)} operations were done: nothing was overloaded"
        return Verdict(NAME, Validity.UNKNOWN, reason, counts | {"looked_at": len(due), "wrong": 0})
    wrong = [
        f"{operation} was not told when to come again" for operation in shed if RETRY_AFTER not in operation.result
    ]
    if counts["shed_p90_s"] > AT_ONCE_S:
        wrong.append(f"of those turned away one in ten was kept waiting for {counts['shed_p90_s']:.2f} s or longer")
    if counts["on"] and not shed:
        wrong.append("the limit is on, and turned nobody away")
    told = (
        f"{len(done)} of {len(due)} operations were done in {counts['overload_s']:.1f} s of overload, "
        f"{counts['goodput_per_s']:.1f} a second, 99 of 100 within {counts['done_p99_s']:.2f} s"
    )
    away = f"; {len(shed)} were turned away, each with a time to come again" if shed else "; none was turned away"
    return judge(
        NAME,
        wrong,
        looked_at=len(due),
        good=told + away,
        bad=f"were kept waiting, or not told when to come again: {told}",
        nothing="nothing was due",
        counts=counts,
    )


def _figures(
    spans: Sequence[tuple[int, int]], due: Sequence[Operation], done: Sequence[Operation], shed: Sequence[Operation]
) -> dict[str, float]:
    seconds = sum(end - start for start, end in spans) / NS
    latencies = [(operation.ended - operation.intended) / NS for operation in done if operation.ended is not None]
    return {
        "overload_s": seconds,
        "due": len(due),
        "done": len(done),
        "shed": len(shed),
        "unknown": sum(operation.answer is Answer.INFO for operation in due),
        "given_up": sum(operation.answer is Answer.FAIL and operation.error != SHED for operation in due),
        "due_per_s": len(due) / seconds,
        "goodput_per_s": sum(_is_within(operation.ended, spans) for operation in done) / seconds,
        "done_p50_s": percentile(latencies, 50) if latencies else 0.0,
        "done_p99_s": percentile(latencies, 99) if latencies else 0.0,
    }


def _took_s(operation: Operation) -> float:
    return ((operation.ended or operation.invoked) - operation.invoked) / NS


def _is_within(moment: int | None, spans: Sequence[tuple[int, int]]) -> bool:
    return moment is not None and any(start <= moment < end for start, end in spans)
