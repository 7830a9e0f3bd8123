"""The bulkhead: at most so many calls at a time, a short queue, and a bounded wait.

    bulkhead = Bulkhead("reports", permits=10, queue=20, max_wait=0.5)

    @bulkhead                               # functions and coroutine functions; or bulkhead.call(...), call_async(...)
    def report(): ...

    with bulkhead: ...                      # or `async with`
    bulkhead.acquire()                      # or `await bulkhead.acquire_async()`; then bulkhead.release(), once

The queue is last in, first out. When calls come faster than they are served, a fair queue makes every one of them wait until
it is nearly too late; serving the newest first answers most of them at once and lets the few oldest, whose callers have given
up or soon will, run into `max_wait` (Netflix's concurrency-limits and Facebook's adaptive LIFO do the same). Nobody starves for
longer than `max_wait`, and while the queue is short the order makes little difference.

A permit goes from the caller who releases it straight to the waiter it wakes: nobody can take it on the way. A waiter that is
cancelled or out of time gives back what it was handed in the same moment. Threads and tasks of any event loop may share one
bulkhead.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, NoReturn, ParamSpec, Self, TypeVar

from .bounds import instance_of, whole_number
from .callables import AroundCallables, returned_coroutine
from .clock import SYSTEM_CLOCK, WaitingClock
from .deadline import current_deadline, seconds
from .errors import BulkheadFull, UsageError
from .forks import after_fork
from .stream import EVENTS, EventStream

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Bulkhead"]

P = ParamSpec("P")
R = TypeVar("R")


class Bulkhead(AroundCallables):
    """Permits for calls that run at the same time. Exact and safe in threads and tasks.

    Args:
        name: what events and errors call it.
        permits: calls at a time; at least 1.
        queue: callers that may wait for one, default 0: nobody waits.
        max_wait: how long one waits at most, seconds or `timedelta`, default 1 s; the deadline shortens it.
        clock, events: where time and listeners come from.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_events",
        "_free",
        "_inherited",
        "_lock",
        "_max_wait_s",
        "_permits",
        "_queue",
        "_waiters",
        "name",
    )

    def __init__(
        self,
        name: str,
        *,
        permits: int,
        queue: int = 0,
        max_wait: float | timedelta = 1.0,
        clock: WaitingClock = SYSTEM_CLOCK,
        events: EventStream = EVENTS,
    ) -> None:
        whole_number(permits, "Bulkhead.permits", 1)
        whole_number(queue, "Bulkhead.queue", 0)
        self.name = instance_of(name, str, "Bulkhead.name")
        self._permits = permits
        self._queue = queue
        self._max_wait_s = seconds(max_wait, name="Bulkhead.max_wait")
        self._clock = clock
        self._events = events
        self._inherited = 0  # permits that a parent process had given, and that may still be given back here
        self._begin()
        after_fork(self, Bulkhead._start_over)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._free = self._permits
        self._waiters: dict[_Waiter, None] = {}  # in the order of arrival; the last is served first

    def _start_over(self) -> None:
        """In a forked child: what the parent has under way is its own."""
        self._inherited += self.in_use
        self._begin()

    @property
    def in_use(self) -> int:
        """Permits that are taken now."""
        return self._permits - self._free

    @property
    def waiting(self) -> int:
        """Callers in the queue now."""
        return len(self._waiters)

    def try_acquire(self) -> bool:
        """Take a permit if one is free now; whether it was. Never waits."""
        self._lock.acquire()  # half the price of `with`, on the path of every call
        try:
            if self._free == 0:
                return False
            self._free -= 1
            return True
        finally:
            self._lock.release()

    def acquire(self) -> None:
        """Take a permit, waiting in the queue if there is room.

        Raises:
            BulkheadFull: the queue is full, or none came free in time.
        """
        if self.try_acquire():
            return
        event = threading.Event()
        waiter = _Waiter(event.set)
        wait_s = self._join(waiter)
        if wait_s is None:
            return
        try:
            self._clock.wait(event, wait_s)
        except BaseException:
            self._give_up(waiter)
            raise
        if not self._leave(waiter):
            self._reject(f"and none came free in {wait_s:g} s")

    async def acquire_async(self) -> None:
        """Take a permit, waiting in the queue if there is room; cancelling the task ends the wait and leaks nothing.

        Raises:
            BulkheadFull: the queue is full, or none came free in time.
        """
        if self.try_acquire():
            return
        import asyncio

        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        waiter = _Waiter(lambda: loop.call_soon_threadsafe(event.set))
        wait_s = self._join(waiter)
        if wait_s is None:
            return
        try:
            await self._clock.wait_async(event, wait_s)
        except BaseException:
            self._give_up(waiter)
            raise
        if not self._leave(waiter):
            self._reject(f"and none came free in {wait_s:g} s")

    def release(self) -> None:
        """Give a permit back; the newest waiter gets it.

        Raises:
            UsageError: none was taken.
        """
        woken = self._hand_back()
        while woken is not None:
            try:
                woken.wake()
                return
            except RuntimeError:
                # Its event loop was closed without ending it: nobody is there to take the permit. It may have left thousands.
                woken = self._hand_back() if self._leave(woken) else None

    def _hand_back(self) -> _Waiter | None:
        """Give a permit to the newest waiter, who is to be woken; None: nobody waits."""
        woken = None
        self._lock.acquire()  # half the price of `with`, on the path of every call
        try:
            if self._waiters:
                woken, _ = self._waiters.popitem()
                woken.has_permit = True
            elif self._free < self._permits:
                self._free += 1
            elif self._inherited > 0:  # by the thread that forked inside of its block
                self._inherited -= 1
            else:
                raise UsageError(f"the bulkhead {self.name!r} got a permit back that it had not given")
            return woken
        finally:
            self._lock.release()

    def _join(self, waiter: _Waiter) -> float | None:
        """Enter the queue: the seconds to wait at most, or None when a permit was free after all."""
        deadline = current_deadline()
        wait_s = self._max_wait_s if deadline is None else min(self._max_wait_s, deadline.remaining_s())
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return None
            queued = wait_s > 0 and len(self._waiters) < self._queue
            if queued:
                self._waiters[waiter] = None
        if not queued:
            self._reject("and its queue is full" if wait_s > 0 else "and there is no time to wait")
        return wait_s

    def _leave(self, waiter: _Waiter) -> bool:
        """Leave the queue; whether with a permit that was handed over meanwhile."""
        with self._lock:
            self._waiters.pop(waiter, None)
            taken, waiter.has_permit = waiter.has_permit, False
            return taken

    def _give_up(self, waiter: _Waiter) -> None:
        if self._leave(waiter):
            self.release()

    def _reject(self, why: str) -> NoReturn:
        if self._events.subscriptions:
            from .events import CallRejected

            self._events.emit(CallRejected(self.name, "bulkhead"))
        raise BulkheadFull(f"all {self._permits} permits of the bulkhead {self.name!r} are taken, {why}")

    def _around(self, function: Callable[P, R]) -> Callable[P, R]:
        try_acquire, acquire, release = self.try_acquire, self.acquire, self.release

        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            if not try_acquire():
                acquire()
            try:
                result = function(*args, **kwargs)
                if type(result) is CoroutineType:
                    raise returned_coroutine(function, result)
                return result
            finally:
                release()

        return limited

    def _around_async(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        try_acquire, acquire_async, release = self.try_acquire, self.acquire_async, self.release

        async def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            if not try_acquire():
                await acquire_async()
            try:
                return await function(*args, **kwargs)
            finally:
                release()

        return limited

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    async def __aenter__(self) -> Self:
        await self.acquire_async()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Bulkhead {self.name!r}: {self.in_use} of {self._permits} in use, {self.waiting} waiting>"


class _Waiter:
    """A caller in the queue. `has_permit` is written and read under the bulkhead's lock."""

    __slots__ = ("has_permit", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.has_permit = False
