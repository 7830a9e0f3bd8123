"""From a history and its verdicts to what the report says."""

from __future__ import annotations

from holdfast.drills.report.content import Second

from ..history import NS, Answer, History

__all__ = ["series"]


def series(history: History) -> tuple[Second, ...]:
    """Answers and latencies in each whole second in which something was under way.

    An answer counts in the second in which it came; an operation that never ended in the second in which it was begun. Latency
    is from the intended start, so that a stall is not hidden by the operations that it kept from beginning.
    """
    answered: dict[int, list[float]] = {}
    counts: dict[tuple[int, Answer], int] = {}
    for operation in history.operations:
        ended = operation.invoked if operation.ended is None else operation.ended
        second = history.second(ended)
        counts[second, operation.answer] = counts.get((second, operation.answer), 0) + 1
        if operation.answer is Answer.OK:
            answered.setdefault(second, []).append((ended - operation.intended) / NS)
    if not counts:
        return ()
    return tuple(
        Second(
            start_s=float(second),
            length_s=1.0,
            ok=counts.get((second, Answer.OK), 0),
            failed=counts.get((second, Answer.FAIL), 0),
            unknown=counts.get((second, Answer.INFO), 0),
            p50_s=_percentile(answered.get(second), 0.5),
            p99_s=_percentile(answered.get(second), 0.99),
        )
        for second in range(max(second for second, _ in counts) + 1)
    )


def _percentile(values: list[float] | None, share: float) -> float | None:
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
