"""Nothing is left behind: connections, transactions, file descriptors, memory.

    sample  v {"checked_out", "server_connections", "oldest_transaction_s", "fds", "rss_bytes"}, each may be left out
    meta    {"pool_max": connections that all pools of the drill may open together, "side_max": and beside them}
    meta    {"deadline_s": seconds each operation has}

In the end no connection is checked out of a pool. While no fault is active the server has at most `pool_max` and `side_max`
connections, and no transaction has been open for longer than anybody can be waiting for it: the deadline and 1 s, after which
Holdfast has the server end it, and 5 s at least. The first 5 s after a heal are left out, for that is when both are put
right. Beside its pool each process of Holdfast's opens two connections at most: one to end sessions whose callers have gone,
and one to ask whether a server is there. They are made outside of the pool, which may have none left just then. After
the last heal, file descriptors and memory stay flat: the growth along a straight line through the samples is within 10 %, or
8 descriptors or 32 MiB, whichever is more. Without a fault that counts from 5 s after the beginning: what warms up grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import StatisticsError, fmean, linear_regression

from ..history import NS, History, Sample
from ..verdict import Verdict
from .judging import counted, judge

__all__ = ["NAME", "applies", "check"]

NAME = "leaks"

_SETTLING = 5 * NS
_TRANSACTION_MAX_S = 5.0
_ENDED_AFTER_S = 1.0
_GROWTH = 0.1
_GROWTH_MIN = {"fds": 8.0, "rss_bytes": 32.0 * 2**20}
_SAMPLES_MIN = 5
_SPAN_MIN = 4 * NS


def applies(history: History) -> bool:
    """Whether anything was counted."""
    return bool(history.samples)


def check(history: History, pool_max: int | None = None) -> Verdict:
    """Nothing is left behind. Unknown without samples after the last heal.

    Args:
        history: what to judge.
        pool_max: connections that all pools may open together; None: as `meta` says, and if it does not, any number.
    """
    allowed = history.meta.get("pool_max") if pool_max is None else pool_max
    if allowed is not None:
        allowed += history.meta.get("side_max", 0)
    began = min((phase.start for phase in history.phases), default=history.start)
    settled = (history.last_heal or began) + _SETTLING
    healed = not history.faults or history.last_heal is not None
    after = [sample for sample in history.samples if sample.t >= settled] if healed else []
    quiet = [sample for sample in history.samples if _quiet(history, sample.t)]
    longest_s = max(_TRANSACTION_MAX_S, history.meta.get("deadline_s", 0.0) + _ENDED_AFTER_S)
    wrong = [*_left_checked_out(history.samples), *_long_transactions(quiet, longest_s)]
    if allowed is not None:
        wrong += [
            f"{sample.value['server_connections']} connections on the server, {allowed} allowed"
            for sample in quiet
            if sample.value.get("server_connections", 0) > allowed
        ]
    growth = {name: _growth(after, name) for name in _GROWTH_MIN}
    wrong += [
        f"{name} grew by {found[0]:.0f}, on {found[1]:.0f}"
        for name, found in growth.items()
        if found and found[0] > max(_GROWTH * found[1], _GROWTH_MIN[name])
    ]
    return judge(
        NAME,
        wrong,
        looked_at=len(after),
        good=f"nothing is left behind, by {len(after)} samples after the last heal",
        bad="thing was left behind" if len(wrong) == 1 else "things were left behind",
        nothing="nothing was counted after the last heal",
        counts={f"{name}_growth": found[0] for name, found in growth.items() if found},
    )


def _quiet(history: History, t: int) -> bool:
    return all(t < fault.start or (fault.end is not None and t >= fault.end + _SETTLING) for fault in history.faults)


def _left_checked_out(samples: Sequence[Sample]) -> Iterable[str]:
    last: dict[str, Sample] = {sample.process: sample for sample in samples if "checked_out" in sample.value}
    return (
        f"{sample.process} ended with {counted(sample.value['checked_out'], 'connection')} checked out"
        for sample in last.values()
        if sample.value["checked_out"] > 0
    )


def _long_transactions(samples: Sequence[Sample], longest_s: float) -> Iterable[str]:
    return (
        f"a transaction was open for {sample.value['oldest_transaction_s']:.1f} s"
        for sample in samples
        if (sample.value.get("oldest_transaction_s") or 0) > longest_s
    )


def _growth(samples: Sequence[Sample], name: str) -> tuple[float, float] | None:
    """How much it grew along the straight line, and on what; the process that grew most. None if there is too little."""
    found: list[tuple[float, float]] = []
    for process in {sample.process for sample in samples}:
        points = [(s.t, s.value[name]) for s in samples if s.process == process and s.value.get(name) is not None]
        if len(points) < _SAMPLES_MIN or points[-1][0] - points[0][0] < _SPAN_MIN:
            continue
        seconds = [(t - points[0][0]) / NS for t, _ in points]
        values = [float(value) for _, value in points]
        try:
            slope = linear_regression(seconds, values).slope
        except StatisticsError:
            continue
        found.append((slope * seconds[-1], fmean(values)))
    return max(found, default=None)
