"""The figures of a drill: how many, how fast, and how sure one may be.

What was lost or doubled is quoted per ambiguous COMMIT, not per operation: a million easy operations prove little. Latency counts
from the intended start, so that a stall is not hidden by the operations that it kept from beginning (coordinated omission: Gil
Tene, "How NOT to Measure Latency").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .checkers.effects import effects_of
from .commits import ambiguous_commits
from .estimates import percentile, upper_bound
from .history import NS, Answer, History, Operation

__all__ = [
    "PHASES",
    "Bounded",
    "Latency",
    "Summary",
    "attempts_per_operation",
    "goodput_per_second",
    "latency_per_second",
    "longest_gap_s",
    "percentile",
    "summary",
    "upper_bound",
]

PHASES: Mapping[str, str] = {"before": "baseline", "during": "faults", "after": "healed"}
"""What a report calls the phases of a run, and what the history does."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """How often something was seen, in how many trials, and the 95 % upper bound of its share; None without a trial."""

    events: int
    trials: int
    upper: float | None


@dataclass(frozen=True, slots=True)
class Latency:
    """Of operations answered ok, from their intended start, in seconds: how many, and the percentiles."""

    operations: int
    p50_s: float
    p99_s: float
    p999_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What a report says of a run in figures.

    Attributes:
        duration_s: from the first line of the history to the last.
        ok, failed, unknown: operations by their answer.
        unsent: how many of the failed were never sent, because no caller was free in time.
        unknown_applied: of the unknown ones whose effect can be looked up, how many are there.
        ambiguous: COMMITs without an answer to their client.
        ambiguous_applied: how many of them had been applied; None if nobody saw.
        faults: how many there were.
        lost, doubled, misclassified: acknowledged and not there; there more than once; said not to be done and there. Each
            per ambiguous COMMIT; None if the state was not read back.
        latency: by `before`, `during` and `after` the faults; a phase without an ok is left out.
        attempts: per operation, by the same.
        goodput_per_second: operations answered ok in each second of the run.
        longest_gap_s: the longest time without an acknowledgement while operations were under way; None without an ok.
    """

    duration_s: float
    ok: int
    failed: int
    unknown: int
    unsent: int
    unknown_applied: int | None
    ambiguous: int
    ambiguous_applied: int | None
    faults: int
    lost: Bounded | None
    doubled: Bounded | None
    misclassified: Bounded | None
    latency: Mapping[str, Latency]
    attempts: Mapping[str, float]
    goodput_per_second: tuple[float, ...]
    longest_gap_s: float | None


def summary(history: History) -> Summary:
    """Every figure of a run. Pure."""
    answers = [operation.answer for operation in history.operations]
    commits = ambiguous_commits(history)
    seen = [commit.applied for commit in commits if commit.applied is not None]
    effects = [each for each in effects_of(history) if each.found is not None]
    lost = doubled = misclassified = unknown_applied = 0
    for each in effects:
        found = each.found or {}
        doubled += sum(1 for times in found.values() if times > 1)
        for effect, operation in each.asked.items():
            there = effect in found
            lost += operation.answer is Answer.OK and not there
            misclassified += operation.answer is Answer.FAIL and there
            unknown_applied += operation.answer is Answer.INFO and there

    def bounded(events: int) -> Bounded | None:
        trials = len(commits)
        # More events than trials: they came from elsewhere, and say nothing of a share.
        upper = upper_bound(events, trials) if trials and events <= trials else None
        return Bounded(events, trials, upper) if effects else None

    return Summary(
        duration_s=(history.end - history.start) / NS,
        ok=answers.count(Answer.OK),
        failed=answers.count(Answer.FAIL),
        unknown=answers.count(Answer.INFO),
        unsent=sum(not operation.was_sent for operation in history.operations),
        unknown_applied=unknown_applied if effects else None,
        ambiguous=len(commits),
        ambiguous_applied=sum(seen) if seen else None,
        faults=len(history.faults),
        lost=bounded(lost),
        doubled=bounded(doubled),
        misclassified=bounded(misclassified),
        latency=_latency_by_phase(history),
        attempts={
            name: ratio
            for name, phase in PHASES.items()
            if (ratio := attempts_per_operation(_in_phase(history, phase))) is not None
        },
        goodput_per_second=tuple(goodput_per_second(history)),
        longest_gap_s=longest_gap_s(history),
    )


def goodput_per_second(history: History) -> list[float]:
    """Operations answered ok in each second of the run. Pure."""
    return history.per_second(op.ended for op in history.operations if op.answer is Answer.OK and op.ended is not None)


def latency_per_second(history: History, percent: float) -> list[float | None]:
    """That percentile of the latency, in seconds, of what was answered ok in each second; None where nothing was. Pure."""
    by_second: dict[int, list[float]] = {}
    for operation in history.operations:
        if operation.answer is Answer.OK and operation.ended is not None:
            by_second.setdefault(history.second(operation.ended), []).append(_latency_s(operation))
    return [
        percentile(by_second[second], percent) if second in by_second else None
        for second in range(len(history.per_second(())))
    ]


def attempts_per_operation(operations: Sequence[Operation]) -> float | None:
    """How often an operation was tried on average; None if none said. Pure."""
    attempts = [operation.attempts for operation in operations if operation.attempts]
    return sum(attempts) / len(attempts) if attempts else None


def longest_gap_s(history: History) -> float | None:
    """The longest time between two acknowledgements, or from the first invoke to the first one, in seconds. Pure."""
    oks = sorted(op.ended for op in history.operations if op.answer is Answer.OK and op.ended is not None)
    if not oks:
        return None
    moments = [history.operations[0].invoked, *oks]
    return max(later - earlier for earlier, later in pairwise(moments)) / NS


def _latency_s(operation: Operation) -> float:
    ended = operation.invoked if operation.ended is None else operation.ended
    return (ended - operation.intended) / NS


def _in_phase(history: History, name: str) -> list[Operation]:
    span = history.phase(name)
    if span is None:
        return []
    return [operation for operation in history.operations if span[0] <= operation.intended < span[1]]


def _latency_by_phase(history: History) -> dict[str, Latency]:
    latencies: dict[str, Latency] = {}
    for name, phase in PHASES.items():
        values = sorted(_latency_s(op) for op in _in_phase(history, phase) if op.answer is Answer.OK)
        if values:
            latencies[name] = Latency(
                operations=len(values),
                p50_s=percentile(values, 50),
                p99_s=percentile(values, 99),
                p999_s=percentile(values, 99.9),
                max_s=values[-1],
            )
    return latencies
