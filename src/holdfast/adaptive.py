"""The adaptive concurrency limit: find out how many calls a server bears at a time, and turn the rest away before they queue.

    limit = AdaptiveLimit("orders", most=100)

    @limit                                  # functions and coroutine functions; or limit.call(...), call_async(...)
    def order(): ...

    with limit.block(): ...                 # or `async with`
    permit = limit.acquire()                # or `await limit.acquire_async()`; then permit.succeeded(), .dropped() or
                                            # .ignored(), once

A server that gets more than it can do answers later and later, until its answers come when nobody waits for them any more: it is
busy, and nothing gets done. So the limit begins at `most` (the size of the pool: more can never run) and follows what calls say:

    dropped        the server was too slow or said that it has too much to do: the limit falls to nine tenths
    succeeded      a round of successes, and half of the limit or more was in use: the limit rises by one
    ignored        everything else; a failure that comes fast must not look like a quick answer

That is TCP's AIMD (additive increase, multiplicative decrease; Chiu and Jain, 1989), as in Netflix's concurrency-limits: 0.9, 1,
half, and three outcomes are theirs. It goes by round trips instead of seconds: what a call says counts only if the call
began after the limit last fell, so fifty calls that time out together are one drop; and a round is as many successes as the
limit, ten at least. Latency alone counts for nothing: calls are of many kinds, and a server that is slow for a reason of its own
would be left with one call at a time. Where calls are of one kind, `tolerance` makes slow rounds count as drops.

What decides how many (`Aimd`, pure) is apart from who gets in (`AdaptiveLimit`). Whoever does not get in may wait in a short
queue, last in, first out, for the reason that `bulkhead` gives, or is refused with `LoadShed`, which says when to come again. In
the mode `dark` everybody gets in, and events tell who would not have; in the mode `off` nothing is counted.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn, ParamSpec, TypeAlias, TypeVar

from .backoff import come_again_s
from .bounds import instance_of, number, one_of, whole_number
from .callables import AroundCallables, returned_coroutine
from .clock import SYSTEM_CLOCK, Random, WaitingClock, system_random
from .deadline import current_deadline, seconds
from .errors import ConfigurationError, LoadShed, Overloaded, UsageError
from .forks import after_fork
from .stream import EVENTS, EventStream

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["AdaptiveLimit", "Admission", "Aimd", "Block", "Drops", "Mode"]

P = ParamSpec("P")
R = TypeVar("R")

Mode: TypeAlias = Literal["off", "dark", "on"]
"""Whether a limit does nothing, only tells what it would do, or does it."""

Drops: TypeAlias = "type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]"
"""Which exceptions mean that a server has too much to do: types, or a callable that looks at each."""

_ROUND_LEAST = 10  # fewer calls have no mean worth the name (concurrency-limits asks for as many)
_BASELINE_SHARE = (
    0.1  # of a round in the baseline, when it rises: it follows a lasting change within some tens of rounds
)

_Outcome: TypeAlias = Literal["succeeded", "dropped", "ignored"]
_SETTLED = -1  # the generation of a permit that was given back


class Aimd:
    """The number, and how it follows what calls say. Pure; its owner holds a lock.

    Args:
        most, least: the bounds; it begins at `most`.
        ratio: what a drop leaves of it.
        tolerance: None, or how many times as long as the baseline a round may take before it counts as a drop.

    Attributes:
        limit: calls at a time.
        generation: how often it has fallen. What a call of an earlier generation says is about another limit.
        latency_s: the mean of the last round of successes, in seconds; before the first it is 0.
        baseline_s: what a round takes when the server has little to do, in seconds; before the first round it is 0. It falls with
            any round, and rises only in rounds that used less than half of the limit or had no more than `least` to use: so
            being slow under load does not become what is normal (it does in Gradient2, concurrency-limits issue 134).
    """

    __slots__ = (
        "_calls",
        "_least",
        "_most",
        "_peak",
        "_ratio",
        "_tolerance",
        "_total_s",
        "baseline_s",
        "generation",
        "latency_s",
        "limit",
    )

    def __init__(self, most: int, least: int = 1, ratio: float = 0.9, tolerance: float | None = None) -> None:
        self.limit = most
        self.generation = 0
        self.latency_s = 0.0
        self.baseline_s = 0.0
        self._most = most
        self._least = least
        self._ratio = ratio
        self._tolerance = tolerance
        self._calls, self._total_s, self._peak = 0, 0.0, 0

    def succeeded(self, latency_s: float, in_flight: int) -> None:
        """A call of this generation was answered after `latency_s`, when `in_flight` were under way, itself included."""
        self._calls += 1
        self._total_s += latency_s
        if in_flight > self._peak:  # noqa: PLR1730 - `max` is a call, on the path of every success
            self._peak = in_flight
        if self._calls >= self.limit and self._calls >= _ROUND_LEAST:
            self._end_round()

    def dropped(self) -> None:
        """A call of this generation met a server with too much to do."""
        self.limit = max(self._least, int(self.limit * self._ratio))
        self.generation += 1
        self._begin_round()

    def _end_round(self) -> None:
        mean_s = self.latency_s = self._total_s / self._calls
        half_used = self._peak * 2 >= self.limit
        slow = self._tolerance is not None and mean_s > self._tolerance * self.baseline_s > 0
        if mean_s < self.baseline_s or self.baseline_s == 0:
            self.baseline_s = mean_s
        elif not half_used or self.limit == self._least:
            self.baseline_s += (mean_s - self.baseline_s) * _BASELINE_SHARE
        if slow:
            self.dropped()
            return
        if half_used and self.limit < self._most:
            self.limit += 1
        self._begin_round()

    def _begin_round(self) -> None:
        self._calls, self._total_s, self._peak = 0, 0.0, 0


class AdaptiveLimit(AroundCallables):
    """A limit on calls at the same time that follows what the server bears. Exact and safe in threads and tasks.

    Args:
        name: what events and errors call it.
        most: the highest limit and the first: the size of the pool behind it; at least 1.
        least: the lowest limit, default 1; at least 1, at most `most`.
        mode: `on` (default); `dark`: everybody gets in, and `CallShed` tells who would not have; `off`: nothing is counted.
        dropped: which exceptions count as drops, where the limit surrounds calls itself: types, or a callable that looks at each;
            default `TimeoutError` (every deadline is one) and `Overloaded`. A cancellation counts if the deadline has passed.
            Everything else is ignored. A callable that raises is logged, and the error that it looked at is ignored.
        ratio: what a drop leaves of the limit, default 0.9; more than 0 and less than 1.
        tolerance: how many times as long as with little to do a round of calls may take before it counts as a drop; more
            than 1. Default None: latency counts for nothing. Only for calls of one kind.
        queue: callers that may wait, default 0: nobody waits.
        max_wait: how long one waits at most, seconds or `timedelta`, default 0.1 s; the deadline shortens it.
        clock, random, events: where time, the jitter of `retry_after_s`, and listeners come from.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    __slots__ = (
        "__weakref__",
        "_aimd",
        "_clock",
        "_counts_from",
        "_dropped",
        "_events",
        "_in_flight",
        "_lock",
        "_max_wait_s",
        "_mode",
        "_monotonic",
        "_queue",
        "_random",
        "_shed",
        "_shed_in",
        "_waiters",
        "name",
    )

    def __init__(
        self,
        name: str,
        *,
        most: int,
        least: int = 1,
        mode: Mode = "on",
        dropped: Drops = (TimeoutError, Overloaded),
        ratio: float = 0.9,
        tolerance: float | None = None,
        queue: int = 0,
        max_wait: float | timedelta = 0.1,
        clock: WaitingClock = SYSTEM_CLOCK,
        random: Random = system_random,
        events: EventStream = EVENTS,
    ) -> None:
        whole_number(most, "AdaptiveLimit.most", 1)
        whole_number(least, "AdaptiveLimit.least", 1)
        whole_number(queue, "AdaptiveLimit.queue", 0)
        if least > most:
            raise ConfigurationError(f"AdaptiveLimit.least ({least}) must be at most AdaptiveLimit.most ({most})")
        one_of(mode, "AdaptiveLimit.mode", ("off", "dark", "on"))
        number(ratio, "AdaptiveLimit.ratio", above=0, below=1)
        if tolerance is not None:
            number(tolerance, "AdaptiveLimit.tolerance", above=1)
        self.name = instance_of(name, str, "AdaptiveLimit.name")
        self._mode = mode
        self._dropped = _looking(dropped)
        self._queue = queue
        self._max_wait_s = seconds(max_wait, name="AdaptiveLimit.max_wait")
        self._clock = clock
        self._monotonic = clock.monotonic
        self._random = random
        self._events = events
        self._aimd = Aimd(most, least, ratio, tolerance)
        self._begin()
        after_fork(self, AdaptiveLimit._start_over)
        self._shed = 0  # callers that were refused in the last seconds, as long as a call takes
        self._shed_in = 0.0  # the moment from which they are counted anew

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._in_flight = 0
        self._counts_from = self._aimd.generation  # permits of an earlier one were another process's
        self._waiters: dict[_Waiter, None] = {}  # in the order of arrival; the last is served first

    def _start_over(self) -> None:
        """In a forked child: what the parent has learned of the server holds here, too; what it has under way is its own."""
        self._aimd.generation += 1
        self._begin()

    @property
    def limit(self) -> int:
        """Calls that may be under way at the same time now."""
        return self._aimd.limit

    @property
    def in_flight(self) -> int:
        """Calls that are under way now; after the limit fell, and in the mode `dark`, possibly more than the limit."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Callers in the queue now."""
        return len(self._waiters)

    def acquire(self, now: float | None = None, *, expires_at: float | None = None) -> Admission:
        """Leave to make one call, waiting in the queue if there is room; say afterwards how it went, once.

        Args:
            now: seconds on the limit's clock; None reads it.
            expires_at: a deadline on the same clock that bounds the wait beside the caller's own; None: that one alone.

        Raises:
            LoadShed: the limit is reached and the queue is full, or there was no time to wait, or not enough.
        """
        now = self._monotonic() if now is None else now
        permit = self._try(now)
        if permit is not None:
            return permit
        event = threading.Event()
        waiter = _Waiter(event.set)
        permit, wait_s = self._join(waiter, now, expires_at)
        if permit is not None:
            return permit
        try:
            self._clock.wait(event, wait_s)
        except BaseException:
            self._give_up(waiter)
            raise
        return self._leave(waiter) or self._refuse(f"none ended in {wait_s:g} s")

    async def acquire_async(self, now: float | None = None, *, expires_at: float | None = None) -> Admission:
        """The same for a task; cancelling it ends the wait and leaks nothing.

        Raises:
            LoadShed: the limit is reached and the queue is full, or there was no time to wait, or not enough.
        """
        now = self._monotonic() if now is None else now
        permit = self._try(now)
        if permit is not None:
            return permit
        import asyncio

        event = asyncio.Event()
        loop = asyncio.get_running_loop()
        waiter = _Waiter(lambda: loop.call_soon_threadsafe(event.set))
        permit, wait_s = self._join(waiter, now, expires_at)
        if permit is not None:
            return permit
        try:
            await self._clock.wait_async(event, wait_s)
        except BaseException:
            self._give_up(waiter)
            raise
        return self._leave(waiter) or self._refuse(f"none ended in {wait_s:g} s")

    def block(self) -> Block:
        """The limit around one `with` or `async with` block."""
        return Block(self)

    def _try(self, now: float) -> Admission | None:
        """A permit, if there is one without waiting."""
        if self._mode == "off":
            return _UNCOUNTED
        over = False
        self._lock.acquire()  # half the price of `with`, on the path of every call
        try:
            if self._in_flight >= self._aimd.limit:
                if self._mode == "on":
                    return None
                over = True
            self._in_flight += 1
            generation = self._aimd.generation
        finally:
            self._lock.release()
        if over:
            self._tell_shed(self._count_shed(now), dark=True)
        return Admission(self, generation, now)

    def _join(self, waiter: _Waiter, now: float, expires_at: float | None) -> tuple[Admission | None, float]:
        """Enter the queue: a permit if one was free after all, and the seconds to wait at most."""
        wait_s = self._max_wait_s
        deadline = current_deadline()
        if deadline is not None:
            wait_s = min(wait_s, deadline.remaining_s())
        if expires_at is not None:
            wait_s = min(wait_s, expires_at - now)
        with self._lock:
            if self._in_flight < self._aimd.limit:
                self._in_flight += 1
                return Admission(self, self._aimd.generation, now), 0.0
            queued = wait_s > 0 and len(self._waiters) < self._queue
            if queued:
                self._waiters[waiter] = None
        if not queued:
            self._refuse("the queue is full" if wait_s > 0 else "there is no time to wait")
        return None, wait_s

    def _leave(self, waiter: _Waiter) -> Admission | None:
        """Leave the queue; the permit that was handed over meanwhile, or None."""
        with self._lock:
            self._waiters.pop(waiter, None)
            permit, waiter.permit = waiter.permit, None
            return permit

    def _give_up(self, waiter: _Waiter) -> None:
        permit = self._leave(waiter)
        if permit is not None:
            permit.ignored()

    def _settle(self, permit: Admission, outcome: _Outcome, now: float) -> None:
        aimd = self._aimd
        woken: list[_Waiter] | None = None
        self._lock.acquire()  # half the price of `with`, on the path of every call
        try:
            generation, permit._generation = permit._generation, _SETTLED
            if generation == _SETTLED:
                raise UsageError(f"a permit of the limit {self.name!r} was given back twice")
            before = aimd.limit
            if generation == aimd.generation and outcome != "ignored":
                if outcome == "succeeded":
                    aimd.succeeded(now - permit._began, self._in_flight)
                else:
                    aimd.dropped()
            if generation >= self._counts_from:
                self._in_flight -= 1
            if self._waiters:
                woken = self._serve(now)
            after = aimd.limit
        finally:
            self._lock.release()
        while woken:
            # Those who are gone pass on what they were given: in a loop, for a closed event loop may have left thousands.
            gone = [waiter for waiter in woken if not self._wake(waiter)]
            woken = self._pass_on(gone) if gone else None
        if before != after and self._events.subscriptions:
            from .events import LimitChanged

            self._events.emit(LimitChanged(self.name, before, after))

    def _serve(self, now: float) -> list[_Waiter]:
        """Hand what is free to the newest waiters, who are to be woken; under the lock."""
        woken = []
        while self._waiters and self._in_flight < self._aimd.limit:
            waiter, _ = self._waiters.popitem()
            waiter.permit = Admission(self, self._aimd.generation, now)
            self._in_flight += 1
            woken.append(waiter)
        return woken

    def _pass_on(self, gone: list[_Waiter]) -> list[_Waiter]:
        """Take back what `gone` were handed, and hand it to others, who are to be woken."""
        now = self._monotonic()
        with self._lock:
            for waiter in gone:
                permit, waiter.permit = waiter.permit, None
                if permit is not None and permit._generation >= self._counts_from:
                    self._in_flight -= 1
            return self._serve(now)

    @staticmethod
    def _wake(waiter: _Waiter) -> bool:
        try:
            waiter.wake()
        except RuntimeError:  # its event loop was closed without ending it: nobody is there to take the permit
            return False
        return True

    def _refuse(self, why: str) -> NoReturn:
        retry_after_s = self._count_shed(self._monotonic())
        self._tell_shed(retry_after_s, dark=False)
        raise LoadShed(
            f"the limit {self.name!r} lets {self._aimd.limit} calls run at a time now, and {why}; "
            f"come again in {retry_after_s:.1f} s",
            retry_after_s=retry_after_s,
        )

    def _count_shed(self, now: float) -> float:
        """Count a caller that was refused; the seconds after which the server could have served it.

        In the time of one call, as many are served as the limit says. Who is refused as the n-th in that time comes
        after n others; and they come spread by half.
        """
        with self._lock:
            latency_s, limit = self._aimd.latency_s, self._aimd.limit
            if now >= self._shed_in:
                self._shed = 0
                self._shed_in = now + latency_s
            self._shed += 1
            turn_s = latency_s * (1 + self._shed / limit)
        return come_again_s(turn_s * (0.5 + self._random()))

    def _tell_shed(self, retry_after_s: float, *, dark: bool) -> None:
        if self._events.subscriptions:
            from .events import CallShed

            self._events.emit(CallShed(self.name, self._aimd.limit, retry_after_s, dark=dark))

    def _outcome_of(self, error: BaseException) -> _Outcome:
        if isinstance(error, Exception):
            try:
                return "dropped" if self._dropped(error) else "ignored"
            except Exception as failure:
                self._tell_broken(failure)
                return "ignored"
        deadline = current_deadline()  # it is what cancels a task, and who is cancelled does not see its error
        return "dropped" if deadline is not None and deadline.has_passed() else "ignored"

    def _tell_broken(self, failure: Exception) -> None:
        # As with an event hook: the caller gets the error of the call, and the permit comes back.
        import logging  # late, as in `stream`

        from .traces import trace_of

        logging.getLogger("holdfast").error(
            "`dropped` of the limit %r failed on an error, which is ignored\n%s", self.name, trace_of(failure)
        )

    def _around(self, function: Callable[P, R]) -> Callable[P, R]:
        acquire = self.acquire

        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            permit = acquire()
            try:
                result = function(*args, **kwargs)
                if type(result) is CoroutineType:
                    raise returned_coroutine(function, result)
            except BaseException as error:
                permit._settle(self._outcome_of(error))
                raise
            permit.succeeded()
            return result

        return limited

    def _around_async(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        try_now, monotonic, acquire_async = self._try, self._monotonic, self.acquire_async

        async def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            permit = try_now(monotonic()) or await acquire_async()
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                permit._settle(self._outcome_of(error))
                raise
            permit.succeeded()
            return result

        return limited

    def __repr__(self) -> str:
        return f"<AdaptiveLimit {self.name!r}: {self._mode}, {self._in_flight} of {self.limit} in flight, {self.waiting} waiting>"


class Admission:
    """Leave to make one call. Exactly one of the three methods is called, once, when it is known how the call went.

    `now` is seconds on the limit's clock; None reads it.

    Raises:
        UsageError: (each) it was called before.
    """

    __slots__ = ("_began", "_generation", "_limit")

    def __init__(self, limit: AdaptiveLimit, generation: int, began: float) -> None:
        self._limit = limit
        self._generation = generation
        self._began = began

    def succeeded(self, now: float | None = None) -> None:
        """The server answered, and did what was asked."""
        limit = self._limit
        limit._settle(self, "succeeded", limit._monotonic() if now is None else now)

    def dropped(self, now: float | None = None) -> None:
        """The server has too much to do: it said so, or did not answer in time, or no connection came free in time."""
        self._settle("dropped", now)

    def ignored(self, now: float | None = None) -> None:
        """The call says nothing of how much the server bears: it failed fast, was cancelled, or lost against another."""
        self._settle("ignored", now)

    def _settle(self, outcome: _Outcome, now: float | None = None) -> None:
        limit = self._limit
        limit._settle(self, outcome, limit._monotonic() if now is None else now)


class _Uncounted(Admission):
    """What a limit that is off gives to everybody."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def succeeded(self, now: float | None = None) -> None:
        pass

    def _settle(self, outcome: _Outcome, now: float | None = None) -> None:
        pass


_UNCOUNTED = _Uncounted()


class Block:
    """One block under a limit: `with limit.block(): ...`, or `async with`. Serves once."""

    __slots__ = ("_limit", "_permit")

    def __init__(self, limit: AdaptiveLimit) -> None:
        self._limit = limit

    def __enter__(self) -> None:
        self._permit = self._limit.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._permit._settle("succeeded" if error is None else self._limit._outcome_of(error))

    async def __aenter__(self) -> None:
        self._permit = await self._limit.acquire_async()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, tb)


class _Waiter:
    """A caller in the queue. `permit` is written and read under the limit's lock."""

    __slots__ = ("permit", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.permit: Admission | None = None


def _looking(dropped: Drops) -> Callable[[Exception], bool]:
    if isinstance(dropped, (type, tuple)):
        kinds = dropped if isinstance(dropped, tuple) else (dropped,)
        for kind in kinds:
            if not isinstance(kind, type) or not issubclass(kind, Exception):
                raise ConfigurationError(f"AdaptiveLimit.dropped names exception types; {kind!r} is none")
        return lambda error: isinstance(error, kinds)
    if not callable(dropped):
        raise ConfigurationError(
            f"AdaptiveLimit.dropped is an exception type, several in a tuple, or a callable, not {dropped!r}"
        )
    return dropped
