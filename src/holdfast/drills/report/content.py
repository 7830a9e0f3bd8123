"""What a report says, as values: read from a history and its verdicts in `reading.py`, rendered by the other modules.

Durations and moments are seconds; moments count from the first event of the run. Nothing here knows a database, a clock or a
file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checkers import overall
from ..verdict import Validity, Verdict

__all__ = ["Bound", "Figures", "Overload", "Percentiles", "Report", "Run", "Second", "Span"]


@dataclass(frozen=True, slots=True)
class Second:
    """What was answered in one second of the run, or in a longer stretch where several were put together.

    Attributes:
        start_s: when it begins, seconds from the start of the run.
        length_s: how long it is; 1 unless stretched.
        ok, failed, unknown: answers per second, by kind.
        p50_s, p99_s: latency of the acknowledged operations from their intended start; None where nothing was acknowledged.
    """

    start_s: float
    length_s: float
    ok: float
    failed: float
    unknown: float
    p50_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class Span:
    """A named stretch of the run: a fault or a phase. `end_s` is the end of the run where it did not end before."""

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Bound:
    """How often something bad was seen, and how often it may happen at most, with 95 % confidence.

    Attributes:
        name: what was counted, such as "lost".
        events: how often it was seen.
        trials: among how many ambiguous commits (or whatever `of` says) it could have been seen.
        of: what the trials are.
        upper: the upper end of the one-sided 95 % interval of the rate; None without trials.
    """

    name: str
    events: int
    trials: int
    of: str
    upper: float | None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Latencies of acknowledged operations in one phase, seconds from the intended start; None where there were none."""

    phase: str
    operations: int
    p50_s: float | None
    p99_s: float | None
    p99_9_s: float | None
    max_s: float | None


@dataclass(frozen=True, slots=True)
class Overload:
    """How a time went in which more was asked than could be served.

    Attributes:
        due_per_s, goodput_per_s: what was due, and what was done, each second.
        p99_s: latency of what was done, from the intended start; None where nothing was.
        shed: how many were turned away, with a time to come again.
        given_up: how many ended otherwise without being done: mostly for want of time.
    """

    due_per_s: float
    goodput_per_s: float
    p99_s: float | None
    shed: int
    given_up: int


@dataclass(frozen=True, slots=True)
class Figures:
    """The totals of a run.

    Attributes:
        operations: due.
        ok, failed, unknown: how they ended.
        unsent: how many of the failed were never sent: no caller of the drill's was free before their time was over.
        faults: how many faults were started.
        ambiguous: commits whose answer was lost on the way, by the proxy's own log where there is one.
        ambiguous_applied: how many of these the server had applied; None where it cannot be told.
        attempts_per_operation: attempts divided by operations, by the names that `latencies` have.
        recovery_s: the longest time from a heal until the goodput was back; None where it cannot be told or never was.
        overshoot_s: by how much the latest answer missed its deadline; 0 where none did, None where nothing was measured.
        overload: the time in which more was asked than could be served; None where there was none.
    """

    operations: int
    ok: int
    failed: int
    unknown: int
    faults: int
    ambiguous: int
    ambiguous_applied: int | None
    attempts_per_operation: Mapping[str, float]
    recovery_s: float | None
    overshoot_s: float | None
    unsent: int = 0
    overload: Overload | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One subject under one workload: a column of the report.

    Attributes:
        name: what heads the column: the subject, with the workload where there are several.
        meta: the run's own account of itself: seed, versions, settings of the server. Free of secrets.
        verdicts: the checkers' answers.
        figures: the totals.
        seconds: the time line.
        faults, phases: what is drawn into the time line.
        bounds: what must not happen, and how often it may.
        latencies: by phase, in the order of the phases.
        offered_per_s: the rate at which operations were begun, or None where it was as fast as possible.
        deadline_s: seconds each operation had, or None.
    """

    name: str
    meta: Mapping[str, Any]
    verdicts: tuple[Verdict, ...]
    figures: Figures
    seconds: tuple[Second, ...]
    faults: tuple[Span, ...] = ()
    phases: tuple[Span, ...] = ()
    bounds: tuple[Bound, ...] = ()
    latencies: tuple[Percentiles, ...] = ()
    offered_per_s: float | None = None
    deadline_s: float | None = None

    @property
    def validity(self) -> Validity:
        """The verdict on the run as a whole."""
        return overall(self.verdicts)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is rendered.

    Attributes:
        runs: one or more, the one that the headline speaks of first.
        command: what replays the drill, as typed into a shell.
        histories: where the histories lie, by the name of the run.
    """

    runs: tuple[Run, ...]
    command: str
    histories: Mapping[str, str] = field(default_factory=dict)

    @property
    def validity(self) -> Validity:
        """The verdict on the first run: what stands beside it is there to compare."""
        return self.runs[0].validity
