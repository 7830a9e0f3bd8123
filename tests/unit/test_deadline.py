"""Deadlines: they nest, they only shrink, and blocks end by them."""

from __future__ import annotations

import asyncio
import pickle
import threading
from datetime import timedelta

import pytest

from holdfast.deadline import Deadline, current_deadline, seconds, within
from holdfast.errors import BlockTimedOut, ConfigurationError, OutcomeUnknown, Report, attach_report, report_of
from holdfast.outcome import Outcome
from holdfast.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def left() -> float | None:
    deadline = current_deadline()
    return None if deadline is None else deadline.remaining_s()


def test_a_deadline_counts_down_and_stays_passed(clock: ManualClock) -> None:
    """Remaining time shrinks to zero and never below."""
    deadline = Deadline.after(timedelta(seconds=2), clock)
    assert (deadline.remaining_s(), deadline.has_passed()) == (2.0, False)
    clock.advance(1.5)
    assert repr(deadline) == "<Deadline in 0.500 s>"
    clock.advance(0.5)
    assert (deadline.remaining_s(), deadline.has_passed()) == (0.0, True)
    clock.advance(100)
    assert (deadline.remaining_s(), deadline.has_passed()) == (0.0, True)


def test_an_inner_deadline_can_shorten_and_never_lengthen(clock: ManualClock) -> None:
    """The earliest of the nested ones is in force, and each ends with its block, also by an error."""
    assert left() is None
    with within(5, clock=clock) as outer:
        with within(2, clock=clock):
            assert left() == 2.0
        with pytest.raises(ValueError), within(60, clock=clock) as inner:
            assert inner is outer
            raise ValueError
        clock.advance(1)
        assert left() == 4.0
    assert left() is None


def test_other_threads_have_their_own(clock: ManualClock) -> None:
    """A deadline stays out of threads that were not given it."""
    seen: list[float | None] = []
    with within(5, clock=clock):
        thread = threading.Thread(target=lambda: seen.append(left()))
        thread.start()
        thread.join()
    assert seen == [None]


async def test_tasks_inherit_it(clock: ManualClock) -> None:
    """A task that is started inside, and a function in a thread of the pool, see the deadline."""

    async def task() -> float | None:
        return left()

    with within(5, clock=clock):
        assert await asyncio.create_task(task()) == 5.0
        assert await asyncio.to_thread(left) == 5.0


async def test_an_async_block_is_cut() -> None:
    """When the time is up the block is cancelled and says so; a shorter outer deadline counts as well."""
    with pytest.raises(BlockTimedOut, match=r"0\.01 s"):
        async with within(0.01):
            await asyncio.Event().wait()
    with within(0.01), pytest.raises(BlockTimedOut):
        async with within(60):
            await asyncio.Event().wait()
    assert left() is None


async def test_a_cancellation_from_outside_stays_one() -> None:
    """Who cancels the task gets a cancelled task, not a timeout."""

    async def work() -> None:
        async with within(60):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)  # noqa: TID251 - lets the task begin
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_errors_inside_come_out_as_they_are() -> None:
    """Also a `TimeoutError` that the body raised itself."""
    for error in (ValueError(), TimeoutError()):
        with pytest.raises(type(error)) as caught:
            async with within(60):
                raise error
        assert caught.value is error


async def test_a_block_cut_during_commit_says_that_it_does_not_know() -> None:
    """Where an operation inside could not learn its outcome, the timeout does not claim that nothing happened."""
    with pytest.raises(OutcomeUnknown, match="transfer may or may not have been applied"):
        async with within(0.01):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                attach_report(error, Report("transfer", 1, 0.01, "deadline", Outcome.UNKNOWN))
                raise


async def test_a_block_cut_after_the_commit_says_that_it_stands() -> None:
    """Where only the hooks of an operation were cut, the timeout says committed; so does a copy in another process."""
    with pytest.raises(BlockTimedOut, match="transfer is committed") as caught:
        async with within(0.01):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                attach_report(error, Report("transfer", 1, 0.01, "succeeded", Outcome.COMMITTED))
                raise
    copy = pickle.loads(pickle.dumps(caught.value))
    for late in (caught.value, copy):
        report = report_of(late)
        assert report is not None
        assert (late.outcome, report.outcome) == (Outcome.COMMITTED, Outcome.COMMITTED)


@pytest.mark.parametrize("duration", [-1, float("nan"), float("inf"), "5", None, True])
def test_durations_must_be_finite_and_not_negative(duration: float) -> None:
    """Anything else is refused by the name it was given."""
    with pytest.raises(ConfigurationError, match="max_wait"):
        seconds(duration, name="max_wait")
    with pytest.raises(ConfigurationError):
        within(duration)


def test_numbers_and_timedeltas_are_durations() -> None:
    """Both become seconds."""
    assert (seconds(2), seconds(0.5), seconds(timedelta(minutes=1))) == (2.0, 0.5, 60.0)
