"""What happened, as frozen dataclasses; who wants to know subscribes.

    with subscribe(print): ...            # or: stop = subscribe(hook); later stop.close()

A hook is called in the thread or task where the thing happened, never under one of Holdfast's locks; it should return fast.
A hook that raises is logged once per event on the logger `holdfast` and changes nothing else. Events carry names, numbers
and classes, never a parameter, a key or an exception's text. Nothing is built while nobody listens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .outcome import FailureClass, Outcome, Stage

__all__ = [
    "EVENTS",
    "AttemptFailed",
    "BreakerChanged",
    "CallEnded",
    "CallRejected",
    "CommitResolved",
    "ConnectionDiscarded",
    "Event",
    "EventStream",
    "Hook",
    "HookFailed",
    "KeysPurged",
    "OperationEnded",
    "PoolRetired",
    "RetryDenied",
    "RetryScheduled",
    "Subscription",
    "subscribe",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the operation or policy called `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """An attempt failed; what follows is told by the next event."""

    attempt: int
    failure_class: FailureClass
    stage: Stage | None = None
    code: int | str | None = None


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """Another attempt will begin in `delay_s` seconds."""

    attempt: int
    failure_class: FailureClass
    delay_s: float


@dataclass(frozen=True, slots=True)
class RetryDenied(Event):
    """There will be no further attempt, although the failure could have been retried."""

    attempt: int
    failure_class: FailureClass
    reason: str


@dataclass(frozen=True, slots=True)
class CallEnded(Event):
    """A retried function returned (`succeeded`) or raised."""

    attempts: int
    elapsed_s: float
    succeeded: bool


@dataclass(frozen=True, slots=True)
class CallRejected(Event):
    """A breaker, bulkhead or rate limiter (`policy`) refused a call."""

    policy: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class BreakerChanged(Event):
    """A circuit breaker went from one state to another."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class OperationEnded(Event):
    """An operation has its answer. `replayed`: the stored result was returned and the body did not run."""

    outcome: Outcome
    attempts: int
    elapsed_s: float
    replayed: bool = False
    failure_class: FailureClass | None = None


@dataclass(frozen=True, slots=True)
class CommitResolved(Event):
    """An ambiguous commit was found out (or, with `UNKNOWN`, the deadline came first)."""

    outcome: Outcome
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class ConnectionDiscarded(Event):
    """A connection was closed instead of pooled; `killed`: its work on the server was ended as well."""

    reason: str
    killed: bool


@dataclass(frozen=True, slots=True)
class PoolRetired(Event):
    """Every pooled connection of an endpoint was retired."""

    failure_class: FailureClass


@dataclass(frozen=True, slots=True)
class HookFailed(Event):
    """An after-commit hook raised; the save stands."""

    hook: str
    error: str


@dataclass(frozen=True, slots=True)
class KeysPurged(Event):
    """Expired key rows were removed."""

    rows: int


Hook = Callable[[Event], object]


class Subscription:
    """A hook's place in a stream; `close()` (or leaving a `with` block) ends it. Closing twice is harmless."""

    __slots__ = ("_hook", "_stream")

    def __init__(self, stream: EventStream, hook: Hook) -> None:
        self._stream = stream
        self._hook = hook

    def close(self) -> None:
        """Stop calling the hook."""
        self._stream._remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class EventStream:
    """Hands events to hooks. Safe in threads and tasks: subscribing swaps a tuple, emitting reads it once.

    Attributes:
        subscriptions: the current ones, in order. Truthy exactly when somebody listens, so a caller can skip building an
            event: `if stream.subscriptions: stream.emit(...)`.
    """

    __slots__ = ("_lock", "subscriptions")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.subscriptions: tuple[Subscription, ...] = ()

    def subscribe(self, hook: Hook) -> Subscription:
        """Call `hook` with every event from now on."""
        subscription = Subscription(self, hook)
        with self._lock:
            self.subscriptions = (*self.subscriptions, subscription)
        return subscription

    def _remove(self, subscription: Subscription) -> None:
        with self._lock:
            self.subscriptions = tuple(other for other in self.subscriptions if other is not subscription)

    def emit(self, event: Event) -> None:
        """Call every hook with `event`; a hook's exception is logged and swallowed."""
        for subscription in self.subscriptions:
            try:
                subscription._hook(event)
            except Exception:
                # Imported late: logging would be a tenth of the time `import holdfast` takes.
                import logging

                logging.getLogger("holdfast").exception("an event hook failed on %s", type(event).__name__)


EVENTS = EventStream()
"""The process-wide stream that everything uses unless it is given another."""

subscribe = EVENTS.subscribe
"""Subscribe a hook to the process-wide stream."""
