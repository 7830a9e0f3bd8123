"""What a history proves: each checker reads it, and nothing else, and answers valid, invalid or unknown.

A file each. `NAME` is what reports call it, `applies(history)` says whether the history holds anything it could judge, and
`check(history)` judges; all are pure. What operations and finals look like stands at the top of each, and for those that count
effects in `effects.py`. That every one of them can turn red is shown in `tests/drills`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..history import History
from ..verdict import Validity, Verdict
from . import (
    amplification,
    append,
    bank_total,
    counter_bounds,
    coverage,
    crosstalk,
    deadline_kept,
    fail_means_absent,
    leaks,
    liveness,
    no_double_apply,
    no_lost_ack,
    no_phantom,
    offered_rate,
    overload,
    recovery_time,
    replay_equality,
)

__all__ = ["NAMES", "Limits", "check", "overall"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a drill must keep; None is the checker's own default, which its file explains.

    Attributes:
        deadline_grace_s: how much later than its deadline an operation may end.
        amplification_max: tries at the wire for each operation in an outage or overload.
        retry_floor_per_second: tries a second beyond that: the floor of the retry budget, times the processes that have one.
        recovery_s: how long after a heal the goodput may take to come back.
        pool_max: connections that all pools may open together.
        faults_min, ambiguous_min: how many faults must have met an operation, and how many COMMITs must have been ambiguous.
    """

    deadline_grace_s: float = deadline_kept.GRACE_S
    amplification_max: float = amplification.LIMIT
    retry_floor_per_second: float = amplification.FLOOR_PER_SECOND
    recovery_s: float | None = None
    pool_max: int | None = None
    faults_min: int | None = None
    ambiguous_min: int | None = None


@dataclass(frozen=True, slots=True)
class _Checker:
    name: str
    applies: Callable[[History], bool]
    check: Callable[[History, Limits], Verdict]


def _plain(name: str, applies: Callable[[History], bool], judge: Callable[[History], Verdict]) -> _Checker:
    return _Checker(name, applies, lambda history, _: judge(history))


_CHECKERS = (
    _plain(no_lost_ack.NAME, no_lost_ack.applies, no_lost_ack.check),
    _plain(no_double_apply.NAME, no_double_apply.applies, no_double_apply.check),
    _plain(fail_means_absent.NAME, fail_means_absent.applies, fail_means_absent.check),
    _plain(no_phantom.NAME, no_phantom.applies, no_phantom.check),
    _plain(bank_total.NAME, bank_total.applies, bank_total.check),
    _plain(counter_bounds.NAME, counter_bounds.applies, counter_bounds.check),
    _plain(append.NAME, append.applies, append.check),
    _plain(replay_equality.NAME, replay_equality.applies, replay_equality.check),
    _plain(crosstalk.NAME, crosstalk.applies, crosstalk.check),
    _Checker(
        deadline_kept.NAME,
        deadline_kept.applies,
        lambda history, limits: deadline_kept.check(history, limits.deadline_grace_s),
    ),
    _Checker(
        amplification.NAME,
        amplification.applies,
        lambda history, limits: amplification.check(history, limits.amplification_max, limits.retry_floor_per_second),
    ),
    _Checker(
        recovery_time.NAME,
        recovery_time.applies,
        lambda history, limits: recovery_time.check(history, limits.recovery_s),
    ),
    _plain(overload.NAME, overload.applies, overload.check),
    _plain(liveness.NAME, liveness.applies, liveness.check),
    _Checker(leaks.NAME, leaks.applies, lambda history, limits: leaks.check(history, limits.pool_max)),
    _plain(offered_rate.NAME, offered_rate.applies, offered_rate.check),
    _Checker(
        coverage.NAME,
        coverage.applies,
        lambda history, limits: coverage.check(history, limits.faults_min, limits.ambiguous_min),
    ),
)

NAMES = tuple(checker.name for checker in _CHECKERS)
"""Every checker's name, in the order in which `check` answers."""


def check(history: History, limits: Limits | None = None) -> list[Verdict]:
    """The verdict of every checker that finds something to judge in `history`.

    A checker that the history does not say enough for, because an operation lacks a field it needs, answers unknown.

    Args:
        history: what happened.
        limits: what had to be kept; None: the defaults.
    """
    limits = limits or Limits()
    return [_judge(checker, history, limits) for checker in _CHECKERS if checker.applies(history)]


def overall(verdicts: Iterable[Verdict]) -> Validity:
    """One answer for a run: invalid if any verdict is, valid if all are, and unknown else; also if there is none."""
    answers = {verdict.valid for verdict in verdicts}
    if Validity.INVALID in answers:
        return Validity.INVALID
    return Validity.VALID if answers == {Validity.VALID} else Validity.UNKNOWN


def _judge(checker: _Checker, history: History, limits: Limits) -> Verdict:
    try:
        return checker.check(history, limits)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Verdict(checker.name, Validity.UNKNOWN, f"the history does not say what it needs ({error!r})")
