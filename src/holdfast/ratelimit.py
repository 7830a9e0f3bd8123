"""The rate limiter: at most so many calls in a time, and no more than a burst at once.

    limiter = RateLimiter("sms", rate=50, per=1.0, burst=10)

    @limiter                                # functions and coroutine functions; or limiter.call(...), call_async(...)
    def send(): ...

    if limiter.try_acquire(): ...           # at once or not at all
    limiter.acquire()                       # wait for a turn, within the deadline; or `await limiter.acquire_async()`
    with limiter: ...                       # or `async with`: the same

**The bound.** In any interval of `t` seconds at most `burst + rate / per * t` calls are let through (by the moment each is given;
a thread that the machine wakes late runs late).

GCRA, the generic cell rate algorithm of ATM networks (ITU-T I.371): all the state is one number, the theoretical arrival time
at which the next call would be on schedule. Waiting callers are served in the order they asked, none can starve, and a
call that cannot have its turn before its deadline is rejected at once, at no cost to the others. Counted in whole nanoseconds, so
that no rounding error lets a call too many or too few through.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from .bounds import instance_of, number, whole_number
from .callables import AroundCallables, returned_coroutine
from .clock import SYSTEM_CLOCK, Clock
from .deadline import current_deadline, seconds
from .errors import ConfigurationError, RateLimited
from .forks import after_fork
from .stream import EVENTS, EventStream

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["RateLimiter", "decide"]

P = ParamSpec("P")
R = TypeVar("R")

_NS = 1_000_000_000
_LONGEST_NS = 100 * 366 * 86_400 * _NS


def decide(arrival_ns: int, now_ns: int, interval_ns: int, tolerance_ns: int) -> tuple[int, int]:
    """GCRA, pure.

    Args:
        arrival_ns: the theoretical arrival time so far.
        now_ns: now, on the same clock.
        interval_ns: the time between two calls on schedule.
        tolerance_ns: how far ahead of schedule a call may come: the burst less one, in intervals.

    Returns:
        How long the call must wait (0: let it through now), and the theoretical arrival time once it has been let through.
    """
    if arrival_ns <= now_ns:
        return 0, now_ns + interval_ns
    wait_ns = arrival_ns - tolerance_ns - now_ns
    if wait_ns <= 0:
        return 0, arrival_ns + interval_ns
    return wait_ns, arrival_ns + interval_ns


class RateLimiter(AroundCallables):
    """One limit, shared by all who call through it. Exact and safe in threads and tasks.

    Args:
        name: what events and errors call it.
        rate: calls per `per`; at least one in a hundred years, at most one in a nanosecond.
        per: the unit of `rate`, seconds or `timedelta`, default 1 s; more than 0.
        burst: calls that may come at once after a quiet time, default 1; at least 1.
        max_wait: how long a call waits for its turn at most, seconds or `timedelta`; default None: as long as its deadline
            allows. Without either a call waits as long as it takes.
        clock, events: where time and listeners come from.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    __slots__ = (
        "__weakref__",
        "_arrival_ns",
        "_clock",
        "_events",
        "_interval_ns",
        "_lock",
        "_max_wait_s",
        "_tolerance_ns",
        "name",
    )

    def __init__(
        self,
        name: str,
        *,
        rate: float,
        per: float | timedelta = 1.0,
        burst: int = 1,
        max_wait: float | timedelta | None = None,
        clock: Clock = SYSTEM_CLOCK,
        events: EventStream = EVENTS,
    ) -> None:
        per_s = seconds(per, name="RateLimiter.per")
        number(rate, "RateLimiter.rate", above=0)
        whole_number(burst, "RateLimiter.burst", 1)
        if not 1 <= per_s * _NS / rate <= _LONGEST_NS:
            raise ConfigurationError(
                "RateLimiter.rate and RateLimiter.per must allow at most one call in a nanosecond, and at least one in a hundred "
                f"years, not {rate} in {per_s} s"
            )
        self.name = instance_of(name, str, "RateLimiter.name")
        self._interval_ns = math.ceil(per_s * _NS / rate)  # rounded up: the rate is never exceeded
        self._tolerance_ns = (burst - 1) * self._interval_ns
        self._max_wait_s = math.inf if max_wait is None else seconds(max_wait, name="RateLimiter.max_wait")
        self._clock = clock
        self._events = events
        self._arrival_ns = -(1 << 63)  # long ago: the whole burst is there
        self._lock = threading.Lock()
        after_fork(self, RateLimiter._start_over)

    def _start_over(self) -> None:
        """In a forked child: the burst may be used up, but turns that somebody waits for are waited for in the parent."""
        self._lock = threading.Lock()
        used_up_ns = int(self._clock.monotonic() * _NS) + self._tolerance_ns + self._interval_ns
        self._arrival_ns = min(self._arrival_ns, used_up_ns)

    def try_acquire(self) -> bool:
        """Take a turn if one is free now; whether it was. Never waits, and a refusal costs nothing."""
        return self._reserve(0)[0] == 0

    def acquire(self) -> None:
        """Take a turn, waiting for it.

        Raises:
            RateLimited: it would come after the deadline or `max_wait`; `retry_after_s` says when it would.
        """
        wait_ns, arrival_ns = self._reserve(0)
        if wait_ns > 0:
            wait_ns, arrival_ns = self._reserve_in_time()
            try:
                self._clock.sleep(wait_ns / _NS)
            except BaseException:
                self._give_back(arrival_ns)
                raise

    async def acquire_async(self) -> None:
        """Take a turn, waiting for it; cancelling the task gives the turn up.

        Raises:
            RateLimited: it would come after the deadline or `max_wait`; `retry_after_s` says when it would.
        """
        wait_ns, arrival_ns = self._reserve(0)
        if wait_ns > 0:
            wait_ns, arrival_ns = self._reserve_in_time()
            try:
                await self._clock.sleep_async(wait_ns / _NS)
            except BaseException:
                self._give_back(arrival_ns)
                raise

    def _reserve(self, patience_ns: float) -> tuple[int, int]:
        """Take the next turn if it comes within `patience_ns`: how long until it comes, and the arrival time it sets."""
        now_ns = int(self._clock.monotonic() * _NS)
        self._lock.acquire()  # half the price of `with`, on the path of every call
        try:
            wait_ns, arrival_ns = decide(self._arrival_ns, now_ns, self._interval_ns, self._tolerance_ns)
            if wait_ns <= patience_ns:
                self._arrival_ns = arrival_ns
        finally:
            self._lock.release()
        return wait_ns, arrival_ns

    def _reserve_in_time(self) -> tuple[int, int]:
        deadline = current_deadline()
        left_s = math.inf if deadline is None else deadline.remaining_s()
        patience_ns = min(self._max_wait_s, left_s) * _NS
        wait_ns, arrival_ns = self._reserve(patience_ns)
        if wait_ns <= patience_ns:
            return wait_ns, arrival_ns
        retry_after_s = wait_ns / _NS
        if self._events.subscriptions:
            from .events import CallRejected

            self._events.emit(CallRejected(self.name, "ratelimit", retry_after_s))
        raise RateLimited(
            f"the rate limit {self.name!r} is used up: the next turn comes in {retry_after_s:.3f} s, "
            "later than this call may wait",
            retry_after_s=retry_after_s,
        )

    def _give_back(self, arrival_ns: int) -> None:
        """Undo a reservation, if it was the last: turns after it have their moments and cannot move up."""
        with self._lock:
            if self._arrival_ns == arrival_ns:
                self._arrival_ns -= self._interval_ns

    def _around(self, function: Callable[P, R]) -> Callable[P, R]:
        reserve, acquire = self._reserve, self.acquire

        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            if reserve(0)[0] > 0:
                acquire()
            result = function(*args, **kwargs)
            if type(result) is CoroutineType:
                raise returned_coroutine(function, result)
            return result

        return limited

    def _around_async(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        reserve, acquire_async = self._reserve, self.acquire_async

        async def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            if reserve(0)[0] > 0:
                await acquire_async()
            return await function(*args, **kwargs)

        return limited

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """A turn once taken is used."""

    async def __aenter__(self) -> Self:
        await self.acquire_async()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """A turn once taken is used."""

    def __repr__(self) -> str:
        return f"<RateLimiter {self.name!r}: {_NS / self._interval_ns:g}/s, burst {self._tolerance_ns // self._interval_ns + 1}>"
