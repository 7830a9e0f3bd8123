"""The load is an open loop: what was due is sent or told of as not sent, and its deadline counts from when it was due."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from holdfast.clock import SYSTEM_CLOCK
from holdfast.deadline import current_deadline
from holdfast.drills.checkers import amplification, coverage, deadline_kept, liveness, no_lost_ack, offered_rate
from holdfast.drills.checkers.fail_means_absent import check as fail_means_absent
from holdfast.drills.history import NOT_SENT, NS, Answer, History, HistoryWriter
from holdfast.drills.inside import InsideFaults
from holdfast.drills.report import Report, headline, run_of
from holdfast.drills.subjects import Reply, Subject
from holdfast.drills.verdict import Validity
from holdfast.drills.worker import Assignment, _Client
from holdfast.drills.workloads import Call

from .histories import Story

DEADLINE_S = 0.4


class Slow(Subject):
    """Keeps its caller for 0.3 s."""

    name = "slow"

    def __init__(self) -> None:
        self.left_s: list[float] = []

    async def perform(self, call: Call) -> Reply:
        deadline = current_deadline()
        assert deadline is not None
        self.left_s.append(deadline.remaining_s())
        await SYSTEM_CLOCK.sleep_async(0.3)
        return Reply(Answer.OK, {})

    async def close(self) -> None:
        pass


def driven(folder: Path, **given: Any) -> tuple[History, Slow]:
    """What one client with one caller writes while it sends 40 operations a second, for a second."""
    told: dict[str, Any] = {"rate": 40.0, "callers": 1, "deadline_s": DEADLINE_S, **given}
    assignment = Assignment(
        process=1, folder=str(folder), url="", workload="set", subject="holdfast", app=None, known={}, seed=7,
        connections=1, flavour="sqlite", drill="d", **told,
    )  # fmt: skip
    subject = Slow()

    async def run() -> None:
        writer = HistoryWriter(folder / "w1.jsonl", "w1")
        client = _Client(assignment, subject, writer, InsideFaults(7, subject, writer, asyncio.get_running_loop()))
        client.start(SYSTEM_CLOCK.monotonic())
        asyncio.get_running_loop().call_later(1.0, client.stop)
        await client.run()
        writer.close()

    asyncio.run(run())
    return History.load(folder), subject


def test_what_no_caller_is_free_for_stands_in_the_history(tmp_path: Path) -> None:
    """One caller who is always busy: the others' time runs out, and every one of them is told of as not sent."""
    history, subject = driven(tmp_path)
    due = len(history.operations)
    unsent = [operation for operation in history.operations if not operation.was_sent]
    assert due > 20
    assert 0 < len(unsent) < due
    assert len(unsent) + len(subject.left_s) == due
    for operation in unsent:
        assert (operation.answer, operation.error, operation.attempts) == (Answer.FAIL, NOT_SENT, 0)
    # What was due when the client was told to stop is there as well.
    assert max(operation.intended for operation in history.operations) > history.operations[0].intended + 0.8 * NS
    assert offered_rate.check(history).valid is Validity.UNKNOWN


def test_the_deadline_counts_from_when_an_operation_was_due(tmp_path: Path) -> None:
    """The wait for a caller is part of it: in the history, and for the subject."""
    history, subject = driven(tmp_path)
    for operation in history.operations:
        assert operation.deadline is not None
        assert abs(operation.deadline - operation.intended - DEADLINE_S * NS) < 1000
    assert max(subject.left_s) <= DEADLINE_S
    assert min(subject.left_s) < DEADLINE_S / 2


def test_with_callers_enough_everything_is_sent(tmp_path: Path) -> None:
    """Nothing waits for a caller, and the load is what was asked for."""
    history, _ = driven(tmp_path, callers=100)
    assert all(operation.was_sent for operation in history.operations)
    assert offered_rate.check(history).valid is Validity.VALID


def unsent(story: Story, name: str, at: float, **value: Any) -> None:
    story.op(name, value, "fail", at=at, took=0.0, intended=at - 1, deadline=at, error=NOT_SENT, attempts=0)


def test_what_was_not_sent_is_absent_to_every_checker() -> None:
    """It is neither late nor unserved, counts as no load at the wire, and must not be in the database."""
    story = Story(rate=10).fault("outage", 5, 8, outage=True)
    for number in range(5):
        story.op("insert", {"id": f"a{number}"}, at=10 + number, deadline=20)
    for number in range(3):
        unsent(story, "insert", at=6 + number / 10, id=f"b{number}")
    story.wire("connect", 1, 6.0).wire("connect", 2, 6.5)
    unsent(story, "insert", at=16, id="late")
    story.final("set", {"ids": [f"a{number}" for number in range(5)]})
    history = story.history()
    assert amplification.check(history).counts["asked"] == 0
    assert deadline_kept.check(history).counts["looked_at"] == 5
    assert liveness.check(history).valid is Validity.VALID
    assert coverage.check(history, 1, 0).counts["faults_met"] == 0
    assert no_lost_ack.check(history).valid is Validity.VALID
    assert fail_means_absent(history).valid is Validity.VALID
    assert fail_means_absent(story.final("set", {"ids": ["late"]}, at=101).history()).valid is Validity.INVALID


def test_a_missed_rate_tells_nothing_of_the_load() -> None:
    """More than 5 % not sent outside of outages is unknown; what could not be sent because of one does not count."""
    for missed, valid in ((5, Validity.VALID), (6, Validity.UNKNOWN)):
        story = Story().fault("outage", 50, 60, outage=True)
        for number in range(100 - missed):
            story.op("insert", {"id": str(number)}, at=1 + number / 10)
        for number in range(missed):
            unsent(story, "insert", at=20, id=f"n{number}")
        for number in range(30):
            unsent(story, "insert", at=55, id=f"o{number}")
        verdict = offered_rate.check(story.history())
        assert verdict.valid is valid
        assert ("take more callers" in verdict.reason) is (valid is Validity.UNKNOWN)
        assert (verdict.counts["unsent"], verdict.counts["unsent_in_outages"]) == (missed, 30)


def test_the_report_says_what_was_not_sent() -> None:
    """In the sentence that everybody reads."""
    story = Story(rate=10).op("insert", {"id": "a"}, at=1)
    unsent(story, "insert", at=3, id="b")
    run = run_of(story.history(), ())
    assert run.figures.unsent == 1
    assert "1 could not be sent, as no caller was free in time." in headline(Report((run,), "")).sentence
