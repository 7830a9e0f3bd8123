"""Deadlines are kept, goodput comes back after a heal, and everybody gets through again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.drills.checkers import deadline_kept, liveness, recovery_time
from holdfast.drills.history import NS
from holdfast.drills.verdict import Validity

from .histories import Story, ns

# -- deadline_kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("late_by", "valid"), [(-1.0, Validity.VALID), (0.25, Validity.VALID), (0.251, Validity.INVALID)]
)
def test_an_operation_may_end_a_quarter_second_late(late_by: float, valid: Validity) -> None:
    """250 ms after the deadline are allowed, and not one more."""
    verdict = deadline_kept.check(Story().op("insert", {}, at=1, took=1 + late_by, deadline=2).history())
    assert verdict.valid is valid
    assert verdict.counts["overshoot_max_s"] == pytest.approx(max(0.0, late_by))


def test_the_tail_of_the_overshoots_is_told() -> None:
    """p99.9 and the worst are counted over all operations that ended, in time or not."""
    told = Story()
    for _ in range(1999):
        told.op("insert", {}, at=1, took=0.5, deadline=2)
    verdict = deadline_kept.check(told.op("insert", {}, at=1, took=1.2, deadline=2).history())
    assert verdict.counts["overshoot_p999_s"] == 0
    assert verdict.counts["overshoot_max_s"] == pytest.approx(0.2)


def starved(*spans: tuple[float, float, float]) -> list[list[int]]:
    """From when to when a process was looked at, and how long of it it had no processor; seconds."""
    return [[ns(since), ns(until), round(waited * NS)] for since, until, waited in spans]


@pytest.mark.parametrize(
    ("spans", "valid", "own_s"),
    [
        ((), Validity.INVALID, 0.6),
        (((2.0, 2.5, 0.4),), Validity.UNKNOWN, 0.2),
        (((1.8, 2.2, 0.4), (2.2, 2.4, 0.2)), Validity.UNKNOWN, 0.2),  # half of the first span is before the deadline
        (
            ((1.0, 2.0, 1.0), (2.0, 2.4, 0.3), (2.6, 3.0, 0.4)),
            Validity.INVALID,
            0.3,
        ),  # as is what came before and after
    ],
    ids=["none", "enough", "share", "elsewhere"],
)
def test_want_of_a_processor_tells_nothing(
    spans: tuple[tuple[float, float, float], ...], valid: Validity, own_s: float
) -> None:
    """What is late for want of a processor alone is neither kept nor missed; what would have been late anyway is missed."""
    told = Story().op("insert", {}, at=1, took=1.6, deadline=2, process="runner").sample(4, starved=starved(*spans))
    verdict = deadline_kept.check(told.history())
    assert verdict.valid is valid
    assert verdict.counts["overshoot_max_s"] == pytest.approx(0.6)
    assert verdict.counts["own_max_s"] == pytest.approx(own_s)
    assert verdict.counts["late"] == 1


def test_planted_excuse_of_another_process_is_none() -> None:
    """Only the process that was asked counts, and one that is late by itself is not hidden by those that starved."""
    told = Story().sample(4, starved=starved((2.0, 2.6, 0.6)))
    told.op("insert", {}, at=1, took=1.6, deadline=2, process="runner").op("insert", {}, at=1, took=1.6, deadline=2)
    verdict = deadline_kept.check(told.history())
    assert verdict.valid is Validity.INVALID
    assert "1 late" in verdict.reason
    assert "1 more for want of a processor" in verdict.reason


def test_an_operation_that_hangs_is_late() -> None:
    """Its process ended by itself without it; a killed process has nothing to answer for."""
    hung = Story().op("insert", {}, took=None, deadline=2)
    assert deadline_kept.check(hung.closed().history()).valid is Validity.INVALID
    killed = Story().op("insert", {}, took=None, deadline=2).sample(100).op("insert", {}, deadline=2)
    verdict = deadline_kept.check(killed.history())
    assert (verdict.valid, verdict.counts["killed"]) == (Validity.VALID, 1)


def test_an_operation_that_had_time_left_did_not_hang() -> None:
    """The history ends before its deadline does."""
    told = Story().op("insert", {}, took=None, deadline=200).op("insert", {}, deadline=2).closed()
    assert deadline_kept.check(told.history()).valid is Validity.VALID


def test_without_deadlines_nothing_is_known() -> None:
    """Nobody said when."""
    assert deadline_kept.check(Story().op("insert", {}).history()).valid is Validity.UNKNOWN


# -- recovery_time -----------------------------------------------------------------------------------------------------


def outage(works: Callable[[float], bool], *, until: float = 40.0) -> Story:
    """20 operations a second; a fault from 10 to 15 s; `works` says whether one begun at that moment is done."""
    told = Story().phase("baseline", 0, 10).fault("kill-server", 10, 15)
    for number in range(int(until * 20)):
        at = number / 20
        done = works(at)
        told.op("insert", {"id": str(number)}, "ok" if done else "fail", at=at, failure_class=None if done else "lost")
    return told


def test_recovery_is_measured_from_the_heal() -> None:
    """Goodput that is back two seconds after the heal took two seconds, to a tenth."""
    verdict = recovery_time.check(outage(lambda at: at < 10 or at >= 17).history())
    assert verdict.valid is Validity.VALID
    assert verdict.counts["baseline_per_second"] == 20
    assert verdict.counts["recovery_s"] == pytest.approx(2, abs=0.15)


def test_recovery_beyond_the_limit_is_invalid() -> None:
    """Where a limit is given, later is too late."""
    history = outage(lambda at: at < 10 or at >= 17).history()
    assert recovery_time.check(history, limit_s=3).valid is Validity.VALID
    assert recovery_time.check(history, limit_s=1).valid is Validity.INVALID


def test_metastable_failure_is_found() -> None:
    """The trigger is gone and half of the goodput stays away."""
    verdict = recovery_time.check(outage(lambda at: at < 10 or round(at * 20) % 2 == 0).history())
    assert verdict.valid is Validity.INVALID
    assert "metastable" in verdict.examples[0]


def test_a_second_of_goodput_is_no_recovery() -> None:
    """It has to hold: here it is back for a second after the heal, and for good at 25 s."""
    verdict = recovery_time.check(outage(lambda at: at < 10 or 15 <= at < 16.1 or at >= 25).history())
    assert verdict.counts["recovery_s"] == pytest.approx(10, abs=0.15)


def test_too_little_time_after_the_heal_tells_nothing() -> None:
    """Not yet is not never."""
    assert recovery_time.check(outage(lambda at: at < 10, until=22).history()).valid is Validity.UNKNOWN
    assert recovery_time.check(outage(lambda at: at < 10, until=26).history()).valid is Validity.INVALID


def test_without_a_baseline_nothing_is_known() -> None:
    """There is nothing to come back to."""
    assert recovery_time.check(outage(lambda at: at >= 10).history()).valid is Validity.UNKNOWN
    assert not recovery_time.applies(outage(lambda at: at >= 10).history())


def test_heals_under_another_fault_do_not_count() -> None:
    """Only the heal after which nothing is wrong any more."""
    told = outage(lambda at: at < 10 or at >= 15, until=40).fault("latency", 12, 20)
    verdict = recovery_time.check(told.history())
    assert verdict.counts["heals"] == 1
    assert verdict.counts["recovery_s"] == pytest.approx(0, abs=0.15)


def test_a_fault_that_lasts_hides_no_heal() -> None:
    """Lost COMMITs all along: the heal of a killed server in the middle is judged all the same."""
    told = outage(lambda at: at < 10 or at >= 18, until=40).fault("commit", 10, 35, lasting=True)
    verdict = recovery_time.check(told.history(), limit_s=1)
    assert verdict.valid is Validity.INVALID
    assert any(example.startswith("kill-server") for example in verdict.examples)


def test_answers_to_those_who_waited_are_no_goodput() -> None:
    """What was asked in the fault is answered in a burst after it; nobody who asks then is served for four seconds."""
    told = Story().phase("baseline", 0, 10).fault("outage", 10, 15)
    for number in range(20 * 40):
        at = number / 20
        if 10 <= at < 15:
            told.op("insert", {}, "ok", at=at, took=15 + (at - 10) * 0.8 - at)
        else:
            served = at < 10 or at >= 19
            told.op("insert", {}, "ok" if served else "fail", at=at, failure_class=None if served else "lost")
    verdict = recovery_time.check(told.history())
    assert verdict.counts["recovery_s"] == pytest.approx(4, abs=0.15)


# -- liveness ----------------------------------------------------------------------------------------------------------


def after_heal(*answers: str, error: str | None = None, code: str | None = None) -> Story:
    """A fault until 10 s, and operations with these answers after it."""
    told = Story().fault("cut", 5, 10)
    told.op("insert", {}, "fail", at=6)
    for number, answer in enumerate(answers):
        told.op("insert", {}, answer, at=11 + number, error=error, code=code)
    return told


def test_the_last_five_must_be_served() -> None:
    """What failed before them is forgiven; one of them that fails on the server's side is not."""
    assert liveness.check(after_heal("fail", *["ok"] * 5).history()).valid is Validity.VALID
    assert liveness.check(after_heal("ok", "ok", "ok", "ok", "info").history()).valid is Validity.INVALID
    assert liveness.check(after_heal(*["ok"] * 4, "fail", code="2013").history()).valid is Validity.INVALID


def test_what_the_workload_declined_was_served() -> None:
    """No funds, and a caller who cancels, say nothing against the system."""
    assert liveness.check(after_heal(*["fail"] * 5, error="Refused").history()).valid is Validity.VALID
    told = after_heal(*["info"] * 5, error="CancelledError")
    assert liveness.check(told.history()).valid is Validity.VALID


def test_a_stuck_worker_is_found_beside_a_good_one() -> None:
    """Each worker counts for itself, also one that began nothing after the heal because it hangs."""
    told = after_heal(*["ok"] * 5).op("insert", {}, took=None, at=7, process="w2").closed()
    assert liveness.check(told.history()).valid is Validity.INVALID


def test_a_killed_worker_has_nothing_to_show() -> None:
    """Its file has no last line."""
    told = after_heal(*["ok"] * 5).op("insert", {}, took=None, at=7, process="w2")
    verdict = liveness.check(told.history())
    assert (verdict.valid, verdict.counts["killed"]) == (Validity.VALID, 1)


def test_too_few_operations_or_an_open_fault_tell_nothing() -> None:
    """Four good ones are not five, and before the heal nobody is asked."""
    assert liveness.check(after_heal(*["ok"] * 4).history()).valid is Validity.UNKNOWN
    assert liveness.check(after_heal(*["ok"] * 5).fault("stop", 30, None).history()).valid is Validity.UNKNOWN
