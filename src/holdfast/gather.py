"""Several things at once, of which all are needed: the first failure, or the deadline, ends the rest.

    user, orders = await together(fetch_user(7), fetch_orders(7))
    pages = await together(*(partial(fetch, page) for page in range(100)), limit=8)

`asyncio.gather` lets the others run on when one fails, and nobody hears what becomes of them. Here they are cancelled and waited
for: when `together` returns or raises, everything it was given has ended. What it raises is the first failure itself, not a group
around it, so `except` clauses and retries see what they know; what went wrong while the others were ended is not swallowed:
`further_errors(error)` has it, and a note on the error names it.

Built on `asyncio.TaskGroup`. A call handed over as a function is begun when its turn comes; a coroutine, task or future that
never had its turn is closed or cancelled.

There is no version for threads. A thread cannot be cancelled: when one call fails or the time is up, the others go on, and the
helper could only wait for them (and miss the deadline) or leave them behind (and leak them, with the connections they hold). For
the same reason `asyncio.to_thread(...)` given to `together` is only abandoned at the end: the thread itself goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from inspect import iscoroutine
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, overload

from .clock import SYSTEM_CLOCK, Clock
from .deadline import Deadline, current_deadline, within
from .errors import BlockTimedOut, ConfigurationError, DeadlineExceeded, UsageError

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["further_errors", "together"]

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")

_Work: TypeAlias = Awaitable[T] | Callable[[], Awaitable[T]]

_FURTHER = "__holdfast_further__"


@overload
async def together(
    first: _Work[T1], /, *, limit: int | None = None, deadline: float | timedelta | None = None, clock: Clock = ...
) -> tuple[T1]: ...


@overload
async def together(
    first: _Work[T1],
    second: _Work[T2],
    /,
    *,
    limit: int | None = None,
    deadline: float | timedelta | None = None,
    clock: Clock = ...,
) -> tuple[T1, T2]: ...


@overload
async def together(
    first: _Work[T1],
    second: _Work[T2],
    third: _Work[T3],
    /,
    *,
    limit: int | None = None,
    deadline: float | timedelta | None = None,
    clock: Clock = ...,
) -> tuple[T1, T2, T3]: ...


@overload
async def together(
    first: _Work[T1],
    second: _Work[T2],
    third: _Work[T3],
    fourth: _Work[T4],
    /,
    *,
    limit: int | None = None,
    deadline: float | timedelta | None = None,
    clock: Clock = ...,
) -> tuple[T1, T2, T3, T4]: ...


@overload
async def together(
    first: _Work[T1],
    second: _Work[T2],
    third: _Work[T3],
    fourth: _Work[T4],
    fifth: _Work[T5],
    /,
    *,
    limit: int | None = None,
    deadline: float | timedelta | None = None,
    clock: Clock = ...,
) -> tuple[T1, T2, T3, T4, T5]: ...


@overload
async def together(
    *work: _Work[T], limit: int | None = None, deadline: float | timedelta | None = None, clock: Clock = ...
) -> tuple[T, ...]: ...


async def together(
    *work: _Work[Any],
    limit: int | None = None,
    deadline: float | timedelta | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> tuple[Any, ...]:
    """The results of all of `work`, in its order; or the first failure, once everything has ended.

    Each piece runs in a task of its own, with a copy of the caller's context: the deadline, the request and the retry layer are
    seen inside.

    Args:
        work: coroutines, tasks, futures, or functions without arguments that give one. With a limit, give functions: what is a
            task already runs already. None at all is fine: the answer is empty.
        limit: how many may be under way at once, 1 or more; None (default): all.
        deadline: seconds or `timedelta` for all of it, or None (default) for the caller's deadline alone. An earlier one of the
            caller's counts either way.
        clock: where `deadline` reads the time.

    Returns:
        The results in the order of `work`, whatever order they came in.

    Raises:
        ConfigurationError: `limit` or `deadline` is outside its bounds; nothing was begun.
        DeadlineExceeded: the deadline had passed before; nothing was begun.
        BlockTimedOut: the deadline passed on the way; everything has ended.
        UsageError: a piece of work is nothing to await, or somebody else cancelled it.
        BaseException: the first failure, as it was raised. A cancellation of the caller goes before a failure.
    """
    group: _Group[Any] = _Group(work)
    try:
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ConfigurationError(f"limit must be a whole number, 1 or more, or None, not {limit!r}")
        with nullcontext() if deadline is None else within(deadline, clock=clock):
            return await group.run(limit, current_deadline())
    finally:
        group.close()


def further_errors(error: BaseException) -> tuple[BaseException, ...]:
    """What else went wrong while the work beside `error` was being ended, in order; empty if nothing did."""
    found = getattr(error, "__dict__", {}).get(_FURTHER, ())
    return found if isinstance(found, tuple) else ()


class _Group(Generic[T]):
    """One call of `together`: which pieces nobody has begun yet, and what went wrong, in order."""

    __slots__ = ("_errors", "_failed_in_time", "_outside", "_parent", "_timer", "_todo", "_turns")

    _turns: asyncio.Semaphore | None
    _timer: asyncio.Timeout
    _outside: int

    def __init__(self, work: tuple[_Work[T], ...]) -> None:
        self._todo = dict(enumerate(work))
        self._errors: list[BaseException] = []
        self._failed_in_time = False  # the first error came before the deadline or a cancellation did
        task = asyncio.current_task()
        assert task is not None
        self._parent = task

    async def run(self, limit: int | None, bound: Deadline | None) -> tuple[T, ...]:
        self._turns = None if limit is None else asyncio.Semaphore(limit)
        self._outside = self._parent.cancelling()
        self._timer = asyncio.timeout(None if bound is None else bound.remaining_s())
        if bound is not None and bound.has_passed():
            await self._discard()
            raise _with_further(DeadlineExceeded("the deadline had passed; nothing was begun"), self._errors)
        late: TimeoutError | None = None
        results: tuple[T, ...] = ()
        try:
            async with self._timer:
                results = await self._all()
        except TimeoutError as error:
            late = error
        # A cancellation by the timer has been taken back by now; what is left is somebody else's, and must not be lost.
        if self._parent.cancelling() > self._outside:
            raise _with_further(asyncio.CancelledError(), self._errors)
        if self._timer.expired() and not self._failed_in_time and (late is not None or self._errors):
            raise _with_further(BlockTimedOut("the time was up before all was done"), self._errors) from late
        if self._errors:
            raise _with_further(self._errors[0], self._errors[1:])
        return results

    async def _all(self) -> tuple[T, ...]:
        """The results; or nothing, and the errors are kept. Raises a cancellation and what stops the program."""
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._one(index)) for index in range(len(self._todo))]
                # Waited for in here and not on the way out: there, before Python 3.13, the group forgets to take back the
                # cancellation with which it wakes this task, and it could not be told from somebody else's any more.
                if running:
                    await asyncio.wait(running)
        except BaseExceptionGroup:
            return ()  # `_one` has kept each of them
        finally:
            await self._discard()
        return tuple(task.result() for task in running)

    async def _one(self, index: int) -> T:
        try:
            if self._turns is None:
                return await self._begin(index)
            await self._turns.acquire()
            result = await self._begin(index)
            self._turns.release()  # after a success alone: behind a failure nobody gets a turn
            return result
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            error = UsageError(f"piece {index + 1} of the work was cancelled, and not from here; nobody has its result")
            self._note(error)
            raise error from cancelled
        except BaseException as error:
            self._note(error)
            raise

    async def _begin(self, index: int) -> T:
        work = self._todo.pop(index)
        awaitable = work() if not isinstance(work, Awaitable) and callable(work) else work
        if not isinstance(awaitable, Awaitable):
            raise UsageError(
                f"piece {index + 1} of the work is nothing to await; give a coroutine, or a function of one"
            )
        return await awaitable

    def _note(self, error: BaseException) -> None:
        if not self._errors:
            self._failed_in_time = not self._timer.expired() and self._parent.cancelling() == self._outside
        if not any(error is known for known in self._errors):
            self._errors.append(error)

    async def _discard(self) -> None:
        """End what never had its turn: tasks and futures run by themselves and have to be cancelled and waited for."""
        futures = [work for work in self._todo.values() if isinstance(work, asyncio.Future)]
        for future in futures:
            future.cancel()
        if futures:
            await asyncio.wait(futures)
        for future in futures:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                self._note(error)

    def close(self) -> None:
        for work in self._todo.values():
            if iscoroutine(work):
                work.close()
        # An error holds the frames it came through, and those hold this: without the list there is no circle.
        self._todo.clear()
        self._errors = []


def _with_further(error: BaseException, further: list[BaseException]) -> BaseException:
    if further:
        error.__dict__[_FURTHER] = tuple(further)
        names = ", ".join(type(other).__name__ for other in further)
        error.add_note(f"further errors while the rest was being ended (holdfast.gather.further_errors): {names}")
    return error
