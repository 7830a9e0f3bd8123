"""The circuit breaker: stop calling a server that does not answer, and find out gently when it does again.

    breaker = CircuitBreaker("payments")

    @breaker                                # functions and coroutine functions; or breaker.call(...), call_async(...)
    def pay(): ...

    with breaker: ...                       # or `async with`
    permit = breaker.acquire()              # in two steps; then permit.succeeded(), .failed() or .ignored(), once

Its states and what moves it from one to the other (`*` is any state; what is not listed changes nothing):

    closed        tripped         open
    open          cooled_down     half_open
    half_open     probes_passed   closed
    half_open     probe_failed    open
    *             force_open      forced_open
    *             observe         metrics_only
    *             reset           closed

Closed, it counts calls and failures of the last seconds and trips on their ratio, never on a few calls. Open, it rejects
everything; the time doubles with every opening in a row. Half-open, it lends a few probes: all must succeed to close it, one
failure opens it again. A probe is a lease: whoever does not come back loses it, so a hung probe cannot wedge the circuit. Every
change of state begins a new generation, and results of calls from an older one are ignored: a success that was under way
when the circuit opened says nothing about now. `forced_open` rejects everything; `metrics_only` counts and rejects nothing.

Failures are the server's (`FailureClass.counts_for_breaker`). Contention, refused data, rejections by other policies and
cancellations are neither failure nor success and give their probe back. The shape follows sony/gobreaker (generations, exclusion)
and Resilience4j (time window, ratio, states). Listeners are never called under the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from enum import StrEnum
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from .bounds import instance_of, number, whole_number
from .callables import AroundCallables, returned_coroutine
from .classification import On, classifier
from .clock import SYSTEM_CLOCK, Clock
from .deadline import seconds
from .errors import BreakerOpen, ConfigurationError, Rejected
from .forks import after_fork
from .stream import EVENTS, EventStream
from .window import SlotWindow

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["TRANSITIONS", "BreakerState", "CircuitBreaker", "Permit", "Trigger", "next_state"]

P = ParamSpec("P")
R = TypeVar("R")


class BreakerState(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    METRICS_ONLY = "metrics_only"


class Trigger(StrEnum):
    """What can change a breaker's state: the first four happen, the others are asked for."""

    TRIPPED = "tripped"
    COOLED_DOWN = "cooled_down"
    PROBES_PASSED = "probes_passed"
    PROBE_FAILED = "probe_failed"
    FORCE_OPEN = "force_open"
    OBSERVE = "observe"
    RESET = "reset"


TRANSITIONS: dict[tuple[BreakerState | None, Trigger], BreakerState] = {
    (BreakerState.CLOSED, Trigger.TRIPPED): BreakerState.OPEN,
    (BreakerState.OPEN, Trigger.COOLED_DOWN): BreakerState.HALF_OPEN,
    (BreakerState.HALF_OPEN, Trigger.PROBES_PASSED): BreakerState.CLOSED,
    (BreakerState.HALF_OPEN, Trigger.PROBE_FAILED): BreakerState.OPEN,
    (None, Trigger.FORCE_OPEN): BreakerState.FORCED_OPEN,
    (None, Trigger.OBSERVE): BreakerState.METRICS_ONLY,
    (None, Trigger.RESET): BreakerState.CLOSED,
}
"""The table above; None is any state."""


def next_state(state: BreakerState, trigger: Trigger) -> BreakerState:
    """Where `trigger` leads from `state`; pure."""
    return TRANSITIONS.get((None, trigger)) or TRANSITIONS.get((state, trigger), state)


class CircuitBreaker(AroundCallables):
    """One circuit, around one server or one thing that can fail on its own. Exact and safe in threads and tasks.

    Args:
        name: what events and errors call it.
        on: which exceptions count as failures, where the breaker surrounds calls itself: types, or a callable as in
            `retry(on=...)`. Default every `Exception`. Whatever it says, only classes that are the server's fault count.
        window: how long calls are remembered, seconds or `timedelta`, default 10 s; more than 0.
        ratio: the share of failures that trips it, default 0.5; more than 0, at most 1.
        calls_min: calls in the window before it can trip, default 20; at least 1.
        open_for: the first open time, default 5 s; more than 0. It doubles with every opening until the circuit closes,
        open_for_max: up to this, default 60 s; at least `open_for`.
        probes: calls that must succeed, half-open, to close it, default 3; at least 1. No more run at once.
        probe_lease: how long a probe may take before another gets its place, default 10 s; more than 0.
        clock, events: where time and listeners come from.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    __slots__ = (
        "__weakref__",
        "_calls_min",
        "_classify",
        "_clock",
        "_events",
        "_generation",
        "_leases",
        "_lock",
        "_open_for_max_s",
        "_open_for_s",
        "_openings",
        "_opens_again_at",
        "_passed",
        "_probe_lease_s",
        "_probes",
        "_ratio",
        "_shared",
        "_state",
        "_window_s",
        "name",
    )

    def __init__(
        self,
        name: str,
        *,
        on: On = Exception,
        window: float | timedelta = 10.0,
        ratio: float = 0.5,
        calls_min: int = 20,
        open_for: float | timedelta = 5.0,
        open_for_max: float | timedelta = 60.0,
        probes: int = 3,
        probe_lease: float | timedelta = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        events: EventStream = EVENTS,
    ) -> None:
        self.name = instance_of(name, str, "CircuitBreaker.name")
        self._classify = classifier(on)
        self._window_s = _more_than_0(window, "window")
        self._ratio = ratio
        self._calls_min = calls_min
        self._open_for_s = _more_than_0(open_for, "open_for")
        self._open_for_max_s = seconds(open_for_max, name="CircuitBreaker.open_for_max")
        self._probes = probes
        self._probe_lease_s = _more_than_0(probe_lease, "probe_lease")
        self._clock = clock
        self._events = events
        number(ratio, "CircuitBreaker.ratio", above=0, most=1)
        whole_number(calls_min, "CircuitBreaker.calls_min", 1)
        whole_number(probes, "CircuitBreaker.probes", 1)
        if self._open_for_max_s < self._open_for_s:
            raise ConfigurationError("CircuitBreaker.open_for_max must be at least open_for")
        self._lock = threading.Lock()
        after_fork(self, CircuitBreaker._start_over)
        self._generation = 0
        self._openings = 0
        self._opens_again_at = 0.0
        self._passed = 0
        self._leases: dict[Permit, float] = {}
        # One permit serves every call of a generation that rejects none: it has nothing to give back.
        self._shared: Permit | None = None
        self._enter_state(BreakerState.CLOSED, now=0.0)

    @property
    def state(self) -> BreakerState:
        """The state it is in. An open circuit whose time is over becomes half-open when the next call asks."""
        return self._state

    @property
    def generation(self) -> int:
        """How many states it has been in."""
        return self._generation

    def counts(self) -> tuple[int, int]:
        """Calls and failures in the window; (0, 0) unless closed or metrics-only."""
        with self._lock:
            window = None if self._shared is None else self._shared._window
            if window is None:
                return 0, 0
            window.advance(self._clock.monotonic())
            failures = window.amount()
            return failures + window.ticks(), failures

    def force_open(self) -> None:
        """Reject everything until `reset()`."""
        self._command(Trigger.FORCE_OPEN)

    def observe(self) -> None:
        """Count, but reject nothing until `reset()`."""
        self._command(Trigger.OBSERVE)

    def reset(self) -> None:
        """Close the circuit and forget everything."""
        self._command(Trigger.RESET)

    def acquire(self, now: float | None = None) -> Permit:
        """Leave to make one call; say afterwards how it went, on the permit, once.

        Args:
            now: seconds on the breaker's clock; None reads it.

        Raises:
            BreakerOpen: with `retry_after_s`, the seconds until a call may be let through (None: not until `reset()`).
        """
        return self._shared or self._acquire_unless_closed(self._clock.monotonic() if now is None else now)

    def _acquire_unless_closed(self, now: float) -> Permit:
        permit: Permit | None = None
        retry_after_s: float | None = None
        with self._lock:
            before = self._state
            if before is BreakerState.OPEN and now >= self._opens_again_at:
                self._enter_state(next_state(before, Trigger.COOLED_DOWN), now)
            after = self._state
            if after is BreakerState.OPEN:
                retry_after_s = self._opens_again_at - now
            elif after is BreakerState.HALF_OPEN:
                self._leases = {lease: expires_at for lease, expires_at in self._leases.items() if expires_at > now}
                if self._passed + len(self._leases) < self._probes:
                    permit = Permit(self, self._generation, None)
                    self._leases[permit] = now + self._probe_lease_s
                else:
                    retry_after_s = min(self._leases.values()) - now
            else:
                permit = self._shared
        self._tell(before, after)
        if permit is not None:
            return permit
        if self._events.subscriptions:
            from .events import CallRejected

            self._events.emit(CallRejected(self.name, "breaker", retry_after_s))
        hint = "until it is reset" if retry_after_s is None else f"for {retry_after_s:.1f} s"
        # A fresh exception each time: a shared one would collect the traceback of every call it was raised in.
        raise BreakerOpen(f"the circuit breaker {self.name!r} is {after} {hint}", retry_after_s=retry_after_s)

    def _fail(self, permit: Permit, now: float) -> None:
        with self._lock:
            before = self._state
            if permit._generation == self._generation:
                if permit._window is not None:
                    trigger = self._count_failure(permit._window, now)
                else:
                    trigger = Trigger.PROBE_FAILED if self._leases.get(permit, 0.0) > now else None
                after = before if trigger is None else next_state(before, trigger)
                if after is not before:
                    self._enter_state(after, now)
            after = self._state
        self._tell(before, after)

    def _count_failure(self, window: SlotWindow, now: float) -> Trigger | None:
        window.advance(now)
        window.add(1)
        failures = window.amount()
        calls = failures + window.ticks()
        return Trigger.TRIPPED if calls >= self._calls_min and failures >= self._ratio * calls else None

    def _pass_probe(self, permit: Permit, now: float) -> None:
        with self._lock:
            before = self._state
            if permit._generation == self._generation and self._leases.pop(permit, 0.0) > now:
                self._passed += 1
                if self._passed >= self._probes:
                    self._enter_state(next_state(before, Trigger.PROBES_PASSED), now)
            after = self._state
        self._tell(before, after)

    def _command(self, trigger: Trigger) -> None:
        with self._lock:
            before = self._state
            self._enter_state(next_state(before, trigger), self._clock.monotonic())
            after = self._state
        self._tell(before, after)

    def _enter_state(self, state: BreakerState, now: float) -> None:
        """Begin a generation; under the lock."""
        self._state = state
        self._opens_again_at = 0.0
        self._begin_generation()
        if state is BreakerState.OPEN:
            self._openings += 1
            doubled_s = self._open_for_s * 2.0 ** min(self._openings - 1, 60)
            self._opens_again_at = now + min(doubled_s, self._open_for_max_s)
        elif state is not BreakerState.HALF_OPEN:
            self._openings = 0

    def _begin_generation(self) -> None:
        self._generation += 1
        self._leases = {}
        self._passed = 0
        counts = self._state in (BreakerState.CLOSED, BreakerState.METRICS_ONLY)
        self._shared = Permit(self, self._generation, SlotWindow(self._window_s)) if counts else None

    def _start_over(self) -> None:
        """In a forked child: it stands where its parent's stood, and has counted and lent nothing."""
        self._lock = threading.Lock()
        self._begin_generation()

    def _tell(self, before: BreakerState, after: BreakerState) -> None:
        if before is not after and self._events.subscriptions:
            from .events import BreakerChanged

            self._events.emit(BreakerChanged(self.name, before.value, after.value))

    def _settle(self, permit: Permit, error: BaseException) -> None:
        counts = False
        try:
            counts = (
                isinstance(error, Exception)
                and not isinstance(error, Rejected)
                and self._classify(error).failure_class.counts_for_breaker
            )
        finally:  # the author's own `on` may fail, and must not keep a probe
            if counts:
                permit.failed()
            else:
                permit.ignored()

    def _around(self, function: Callable[P, R]) -> Callable[P, R]:
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            permit = self._shared or self.acquire()
            try:
                result = function(*args, **kwargs)
                if type(result) is CoroutineType:
                    raise returned_coroutine(function, result)
            except BaseException as error:
                self._settle(permit, error)
                raise
            permit.succeeded()
            return result

        return guarded

    def _around_async(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            permit = self._shared or self.acquire()
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                self._settle(permit, error)
                raise
            permit.succeeded()
            return result

        return guarded

    def __enter__(self) -> Self:
        _held.set((*_held.get(), self.acquire()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        held = _held.get()
        index = max((i for i, permit in enumerate(held) if permit._breaker is self), default=None)
        if index is None:
            return  # a generator that is finished in another context: a probe's lease runs out by itself
        permit = held[index]
        _held.set(held[:index] + held[index + 1 :])
        if error is None:
            permit.succeeded()
        else:
            self._settle(permit, error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, tb)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r}: {self._state}>"


class Permit:
    """Leave to make one call. Exactly one of the three methods is called, once, when it is known how the call went.

    `now` is seconds on the breaker's clock; None reads it.
    """

    __slots__ = ("_breaker", "_generation", "_window")

    def __init__(self, breaker: CircuitBreaker, generation: int, window: SlotWindow | None) -> None:
        self._breaker = breaker
        self._generation = generation
        self._window = window  # None: this is a probe

    def succeeded(self, now: float | None = None) -> None:
        """The server answered."""
        breaker, window = self._breaker, self._window
        if now is None:
            now = breaker._clock.monotonic()
        if window is None:
            breaker._pass_probe(self, now)
            return
        # Each generation has a window of its own, so a late success of an older one is counted where nobody looks.
        if now >= window.slot_ends:
            with breaker._lock:
                window.advance(now)
        window.tick()

    def failed(self, now: float | None = None) -> None:
        """The server is in trouble."""
        self._breaker._fail(self, self._breaker._clock.monotonic() if now is None else now)

    def ignored(self) -> None:
        """The call says nothing about the server: cancelled, contention, refused data. A probe is given back."""
        if self._window is None:
            with self._breaker._lock:
                self._breaker._leases.pop(self, None)


# The permits of the `with` blocks that the context is inside of: the breaker itself is shared and can hold none.
_held: ContextVar[tuple[Permit, ...]] = ContextVar("holdfast_breaker_permits", default=())


def _more_than_0(duration: float | timedelta, setting: str) -> float:
    duration_s = seconds(duration, name=f"CircuitBreaker.{setting}")
    if duration_s <= 0:
        raise ConfigurationError(f"CircuitBreaker.{setting} must be more than 0 s")
    return duration_s
