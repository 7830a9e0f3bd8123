"""After a heal everything runs as before, by itself and under the same load.

Baseline is the median goodput (operations served) of the seconds of the phase `baseline`, or of those before the first fault.
Recovered is the first moment after a heal from which on one second has 95 % of it, and five seconds have 95 % of it on average;
where fewer operations than that were due just then (arrivals are drawn), 95 % of those. Only what was due after the heal counts:
the answers to those who had waited through the fault come in a burst, and prove nothing of whoever asks next. A heal counts if
no other fault is active then, except one that lasts through all of them (`v: {"lasting": true}`). If that moment never comes
within ten seconds that could be looked at, the drill found a metastable failure: the trigger is gone and the trouble stays
(Bronson et al., "Metastable Failures in Distributed Systems", HotOS 2021; Huang et al., OSDI 2022).
"""

from __future__ import annotations

from bisect import bisect_left
from statistics import median

from ..history import NS, History
from ..verdict import Validity, Verdict
from .judging import judge, served

__all__ = ["HELD_S", "NAME", "SHARE", "applies", "baseline_per_second", "check", "recoveries"]

NAME = "recovery-time"

SHARE = 0.95
"""The share of the baseline that counts as recovered."""
HELD_S = 5
"""For how many seconds it must hold."""
_PATIENCE_S = 10
"""How long after a heal must be seen before "not yet" becomes "never"."""
_STEP = NS // 10


def applies(history: History) -> bool:
    """Whether a fault was healed, and there is goodput to compare with."""
    return any(fault.end is not None for fault in history.faults) and baseline_per_second(history) is not None


def check(history: History, limit_s: float | None = None) -> Verdict:
    """Goodput came back after every heal.

    Args:
        history: what to judge.
        limit_s: how long that may take, seconds; None: as long as it comes.

    Returns:
        Unknown if there is no baseline of three seconds, or after no heal enough time to see. With `recovery_s`, the last heal's.
    """
    baseline = baseline_per_second(history)
    if baseline is None:
        return Verdict(NAME, Validity.UNKNOWN, "there is no baseline of three seconds with goodput")
    found = recoveries(history, baseline)
    times = [seconds for _, seconds in found if seconds is not None]
    wrong = [f"{name}: metastable, the goodput never came back" for name, seconds in found if seconds is None]
    if limit_s is not None:
        wrong += [
            f"{name}: the goodput came back after {seconds:.1f} s"
            for name, seconds in found
            if seconds is not None and seconds > limit_s
        ]
    counts = {"baseline_per_second": baseline, "heals": len(found), "never": len(found) - len(times)}
    if times:
        counts |= {"recovery_median_s": median(times), "recovery_worst_s": max(times)}
        if found[-1][1] is not None:
            counts["recovery_s"] = found[-1][1]
    return judge(
        NAME,
        wrong,
        looked_at=len(found),
        good=f"the goodput came back after all of {len(found)} heals, at the latest after {max(times, default=0):.1f} s",
        bad=f"of {len(found)} heals brought the goodput back too late, or not at all (metastable)",
        nothing="after no heal was there time enough to see the goodput come back",
        counts=counts,
    )


def baseline_per_second(history: History) -> float | None:
    """The median goodput per second before anything went wrong; None if fewer than three whole seconds, or 0. Pure."""
    phase = history.phase("baseline")
    if phase is None:
        if not history.operations or not history.faults:
            return None
        phase = history.operations[0].invoked, history.faults[0].start
    start, end = phase
    oks = _oks(history)
    seconds = [_between(oks, second, second + NS) for second in range(start, end - NS + 1, NS)]
    # The first second connects and warms up.
    return median(seconds[1:]) or None if len(seconds) >= 3 else None


def recoveries(history: History, baseline: float) -> list[tuple[str, float | None]]:
    """For each heal that can be judged: the fault, and the seconds until the goodput was back, or None for never. Pure."""
    if not history.operations:
        return []
    due = sorted(operation.intended for operation in history.operations)
    load_ends = due[-1]
    served_when = [(op.intended, op.ended) for op in history.operations if served(op) and op.ended is not None]
    passing = [fault for fault in history.faults if not fault.value.get("lasting")]
    found: list[tuple[str, float | None]] = []
    for fault in sorted(history.faults, key=lambda fault: fault.end or 0):
        heal = fault.end
        if heal is None or any(other.start < heal and (other.end is None or other.end > heal) for other in passing):
            continue
        until = min([load_ends, *(other.start for other in passing if other.start >= heal)])
        oks = sorted(ended for intended, ended in served_when if intended >= heal)
        seconds = _recovered_after(oks, due, heal, until, baseline)
        if seconds is not None or until - heal >= _PATIENCE_S * NS:
            found.append((fault.name, seconds))
    return found


def _recovered_after(oks: list[int], due: list[int], heal: int, until: int, baseline: float) -> float | None:
    def enough(start: int, seconds: int) -> bool:
        end = start + seconds * NS
        wanted = min(baseline * seconds, max(1, _between(due, start, end)))
        return _between(oks, start, end) >= SHARE * wanted

    for start in range(heal, until - HELD_S * NS + 1, _STEP):
        if enough(start, 1) and enough(start, HELD_S):
            return (start - heal) / NS
    return None


def _oks(history: History) -> list[int]:
    return sorted(op.ended for op in history.operations if served(op) and op.ended is not None)


def _between(moments: list[int], start: int, end: int) -> int:
    return bisect_left(moments, end) - bisect_left(moments, start)
