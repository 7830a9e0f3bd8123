"""Together: all results in order, or the first failure; and nothing that was begun goes on."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import assert_type

import pytest

from holdfast.deadline import current_deadline, within
from holdfast.errors import BlockTimedOut, ConfigurationError, DeadlineExceeded, UsageError
from holdfast.gather import further_errors, together
from holdfast.testing import ManualClock

FOREVER = asyncio.Event  # one that nobody sets


class Diary:
    """What pieces of work did, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def hang(self, name: str, at_the_end: Exception | None = None) -> None:
        """Wait for ever; say when it was ended, and how long that took."""
        self.lines.append(f"{name} begun")
        try:
            await FOREVER().wait()
        finally:
            await turns()  # an end that takes a while is waited for
            self.lines.append(f"{name} ended")
            if at_the_end is not None:
                raise at_the_end


async def turns(number: int = 3) -> None:
    """Let other tasks run."""
    for _ in range(number):
        await asyncio.sleep(0)  # noqa: TID251 - a turn for the others, not a wait


async def after(number: int, result: int) -> int:
    await turns(number)
    return result


async def fail(error: BaseException, number: int = 1) -> int:
    await turns(number)
    raise error


def nothing_goes_on() -> bool:
    """No task but the test's own is left."""
    return asyncio.all_tasks() == {asyncio.current_task()}


async def test_results_come_in_the_order_of_the_work() -> None:
    """Whoever is done first, the answer has the order in which the work was given, and the types of each."""

    async def text() -> str:
        return "b"

    pair = await together(after(5, 1), text)
    assert_type(pair, tuple[int, str])
    assert pair == (1, "b")
    many = await together(*(partial(after, 9 - number, number) for number in range(9)))
    assert_type(many, tuple[int, ...])
    assert many == tuple(range(9))
    assert await together() == ()
    future = asyncio.get_running_loop().create_future()
    future.set_result(3)
    assert await together(asyncio.create_task(after(1, 2)), future) == (2, 3)


async def test_the_first_failure_ends_the_rest_and_is_raised_itself() -> None:
    """The others are cancelled and waited for; what is raised is the failure, not a group."""
    diary, failure = Diary(), ValueError("first")
    with pytest.raises(ValueError, match="first") as caught:
        await together(diary.hang("a"), fail(failure), diary.hang("b"))
    assert caught.value is failure
    assert sorted(diary.lines) == ["a begun", "a ended", "b begun", "b ended"]
    assert further_errors(failure) == ()
    assert nothing_goes_on()


async def test_further_errors_are_not_swallowed() -> None:
    """What goes wrong while the rest is ended hangs on the first failure, with a note that names it and says no text of it."""
    diary, second, third = Diary(), KeyError("secret"), OSError("secret")
    with pytest.raises(ValueError, match="first") as caught:
        await together(diary.hang("a", second), diary.hang("b", third), fail(ValueError("first")))
    assert set(further_errors(caught.value)) == {
        second,
        third,
    }  # the order is that in which they came, which is nobody's
    (note,) = caught.value.__notes__
    assert "KeyError" in note
    assert "OSError" in note
    assert "secret" not in note


@pytest.mark.parametrize("as_functions", [True, False])
async def test_no_more_than_the_limit_are_under_way(as_functions: bool) -> None:
    """With a limit of 2 there are never 3 at once, and all get their turn."""
    under_way = most = 0

    async def work(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await turns()
        under_way -= 1
        return number

    given: list[Awaitable[int] | Callable[[], Awaitable[int]]] = [
        partial(work, number) if as_functions else work(number) for number in range(7)
    ]
    assert await together(*given, limit=2) == tuple(range(7))
    assert most == 2


async def test_what_never_had_its_turn_is_ended_too() -> None:
    """Behind a failure, coroutines are closed, tasks cancelled and waited for, functions never called."""
    diary = Diary()
    waiting, task = diary.hang("coroutine"), asyncio.create_task(diary.hang("task", OSError("late")))
    called: list[int] = []

    async def never() -> None:
        called.append(1)

    await turns(1)
    with pytest.raises(ValueError, match="first") as caught:
        await together(partial(fail, ValueError("first")), waiting, task, never, limit=1)
    assert inspect.getcoroutinestate(waiting) == inspect.CORO_CLOSED
    assert task.done()
    assert [type(error) for error in further_errors(caught.value)] == [OSError]
    assert (diary.lines, called) == (["task begun", "task ended"], [])
    assert nothing_goes_on()


async def test_the_deadline_ends_all() -> None:
    """When the time is up all is cancelled and waited for, whoever set the deadline; the work sees it."""
    diary = Diary()
    seen = []

    async def look() -> None:
        seen.append(current_deadline())

    with pytest.raises(BlockTimedOut) as caught:
        await together(diary.hang("a", OSError("late")), look, deadline=0.2)
    assert [type(error) for error in further_errors(caught.value)] == [OSError]
    with within(0.2) as outer, pytest.raises(BlockTimedOut):
        await together(diary.hang("b"), look, deadline=60)
    assert seen[0] is not None
    assert seen[1] is outer
    assert diary.lines == ["a begun", "a ended", "b begun", "b ended"]
    with pytest.raises(BlockTimedOut):
        async with within(0.2):
            await together(diary.hang("c"))
    assert nothing_goes_on()


async def test_a_deadline_that_has_passed_begins_nothing() -> None:
    """No function is called, no coroutine begun, and a task that ran already is ended."""
    diary, clock = Diary(), ManualClock()
    coroutine, task = diary.hang("a"), asyncio.create_task(diary.hang("b"))
    await turns(1)
    with within(1, clock=clock):
        clock.advance(2)
        with pytest.raises(DeadlineExceeded):
            await together(coroutine, task, partial(diary.hang, "c"))
    assert diary.lines == ["b begun", "b ended"]
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    assert nothing_goes_on()


async def test_a_failure_before_the_deadline_stays_the_answer() -> None:
    """Ending the rest takes longer than there is time: the failure that began it is raised, and the task is not cancelled."""
    slow_end = asyncio.Event()

    async def stubborn() -> None:
        try:
            await FOREVER().wait()
        finally:
            asyncio.get_running_loop().call_later(0.7, slow_end.set)
            while not slow_end.is_set():
                try:
                    await slow_end.wait()
                except asyncio.CancelledError:
                    continue

    with pytest.raises(ValueError, match="first"):
        await together(stubborn(), fail(ValueError("first")), deadline=0.5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("at_the_end", [None, OSError("late")])
async def test_a_cancellation_from_outside_is_passed_on(at_the_end: OSError | None) -> None:
    """Cancelling the caller cancels all, waits for it, and stays a cancellation even if the ending fails."""
    diary = Diary()
    task = asyncio.create_task(together(diary.hang("a", at_the_end), diary.hang("b"), deadline=60))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert sorted(diary.lines) == ["a begun", "a ended", "b begun", "b ended"]
    assert further_errors(caught.value) == (() if at_the_end is None else (at_the_end,))
    assert nothing_goes_on()


async def test_a_piece_that_somebody_else_cancelled_is_a_failure() -> None:
    """A task that was cancelled elsewhere has no result: the others are ended, and the caller is not taken for cancelled."""
    diary = Diary()
    task = asyncio.create_task(diary.hang("a"))
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(UsageError, match="piece 2 of the work was cancelled"):
        await together(diary.hang("b"), task)
    assert nothing_goes_on()


async def test_what_is_no_work_is_refused() -> None:
    """A limit below 1 is refused before anything begins, and what cannot be awaited ends the rest like any failure."""
    coroutine = after(0, 1)
    with pytest.raises(ConfigurationError, match="limit must be a whole number"):
        await together(coroutine, limit=0)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    diary = Diary()
    wrong: Callable[[], Awaitable[int]] = lambda: 7  # type: ignore[assignment,return-value]  # noqa: E731
    with pytest.raises(UsageError, match="piece 2 of the work is nothing to await"):
        await together(diary.hang("a"), wrong)
    assert nothing_goes_on()


async def test_what_stops_the_program_comes_through() -> None:
    """An exit is raised as it is, once the rest has ended."""
    diary = Diary()

    class Stop(BaseException):
        """As an exit, for a test that goes on."""

    with pytest.raises(Stop):
        await together(diary.hang("a"), fail(Stop()))
    assert diary.lines == ["a begun", "a ended"]
