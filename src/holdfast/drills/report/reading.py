"""From a history and its verdicts to what a report says of the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from ..history import NS, Answer, FaultSpan, History, PhaseSpan
from ..statistics import Bounded, Summary, goodput_per_second, latency_per_second, summary
from ..verdict import Verdict
from .content import Bound, Figures, Overload, Percentiles, Run, Second, Span
from .redaction import redacted, without_secrets

__all__ = ["TITLES", "from_the_beginning", "run_of", "series"]

TITLES = {
    "holdfast": "Holdfast",
    "holdfast-unkeyed": "Holdfast, no key",
    "holdfast-threads": "Holdfast, threads",
    "plain": "SQLAlchemy alone",
    "tenacity": "tenacity",
    "tenacity-commit": "tenacity around COMMIT",
    "app": "Your functions",
    "http": "Your service",
}
"""What heads the column of a subject."""


def run_of(history: History, verdicts: Sequence[Verdict], *, name: str | None = None) -> Run:
    """Everything a report says of one run. Pure; passwords are removed from every text.

    Args:
        history: what happened.
        verdicts: what the checkers made of it.
        name: what heads its column; default the title of the subject that the history names, with its limit if that is not off.
    """
    meta = without_secrets(history.meta)
    found = summary(history)
    history = from_the_beginning(history)
    subject = str(meta.get("subject", "This run"))
    return Run(
        name=name or _title(subject, meta.get("limit")),
        meta=meta,
        verdicts=tuple(_without_secrets(verdict) for verdict in verdicts),
        figures=_figures(history, found, verdicts),
        seconds=series(history),
        faults=_spans(history, history.faults),
        phases=_spans(history, history.phases),
        bounds=tuple(_bounds(found)),
        latencies=tuple(
            Percentiles(phase, latency.operations, latency.p50_s, latency.p99_s, latency.p999_s, latency.max_s)
            for phase, latency in found.latency.items()
        ),
        offered_per_s=_number(meta.get("rate")),
        deadline_s=_deadline_s(history),
    )


def _title(subject: str, limit: object) -> str:
    title = TITLES.get(subject, subject)
    return f"{title}, limit {limit}" if limit in ("dark", "on") else title


def from_the_beginning(history: History) -> History:
    """`history` with its first phase, or else its first operation, as its start: what came before is setup."""
    moments = [span.start for span in history.phases] or [operation.intended for operation in history.operations]
    return dataclasses.replace(history, start=min(moments, default=history.start))


def series(history: History) -> tuple[Second, ...]:
    """Answers and latencies in each second of the run, up to the last one in which anything was answered.

    An answer counts in the second in which it came; an operation that never ended in the second in which it was begun.
    """
    moments: dict[Answer, list[int]] = {Answer.FAIL: [], Answer.INFO: []}
    for operation in history.operations:
        if operation.answer is not Answer.OK:
            moments[operation.answer].append(operation.invoked if operation.ended is None else operation.ended)
    ok = goodput_per_second(history)
    failed, unknown = (history.per_second(moments[answer]) for answer in (Answer.FAIL, Answer.INFO))
    last = max((at for at, each in enumerate(zip(ok, failed, unknown, strict=True)) if any(each)), default=-1)
    columns = zip_longest(ok, failed, unknown, latency_per_second(history, 50), latency_per_second(history, 99))
    return tuple(Second(float(at), 1.0, *column) for at, column in enumerate(columns) if at <= last)


def _figures(history: History, found: Summary, verdicts: Iterable[Verdict]) -> Figures:
    counts = {verdict.checker: verdict.counts for verdict in verdicts}
    return Figures(
        operations=len(history.operations),
        ok=found.ok,
        failed=found.failed,
        unknown=found.unknown,
        faults=found.faults,
        ambiguous=found.ambiguous,
        ambiguous_applied=found.ambiguous_applied,
        attempts_per_operation=found.attempts,
        recovery_s=counts.get("recovery-time", {}).get("recovery_worst_s"),
        overshoot_s=counts.get("deadline-kept", {}).get("overshoot_max_s"),
        unsent=found.unsent,
        overload=_overload(counts.get("overload")),
    )


def _overload(counts: Mapping[str, float] | None) -> Overload | None:
    if counts is None:
        return None
    return Overload(
        due_per_s=counts["due_per_s"],
        goodput_per_s=counts["goodput_per_s"],
        p99_s=counts["done_p99_s"] if counts["done"] else None,
        shed=int(counts["shed"]),
        given_up=int(counts["given_up"]),
    )


def _bounds(found: Summary) -> Iterable[Bound]:
    kinds: tuple[tuple[str, Bounded | None], ...] = (
        ("lost", found.lost),
        ("doubled", found.doubled),
        ("misreported", found.misclassified),
    )
    for name, bounded in kinds:
        if bounded is not None:
            yield Bound(name, bounded.events, bounded.trials, "commits in doubt", bounded.upper)


def _spans(history: History, spans: Iterable[FaultSpan | PhaseSpan]) -> tuple[Span, ...]:
    return tuple(
        Span(
            span.name,
            (span.start - history.start) / NS,
            ((history.end if span.end is None else span.end) - history.start) / NS,
        )
        for span in spans
    )


def _deadline_s(history: History) -> float | None:
    """What most operations had: the median of their deadlines, from when they were begun."""
    given = sorted(op.deadline - op.invoked for op in history.operations if op.deadline is not None)
    return round(given[len(given) // 2] / NS, 2) if given else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def _without_secrets(verdict: Verdict) -> Verdict:
    examples = tuple(redacted(example) for example in verdict.examples)
    return Verdict(verdict.checker, verdict.valid, redacted(verdict.reason), dict(verdict.counts), examples)
