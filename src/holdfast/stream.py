"""How events reach whoever wants to know.

    with subscribe(print): ...            # or: stop = subscribe(hook); later stop.close()

A hook is called in the thread or task where the thing happened, never under one of Holdfast's locks; it should return
fast. A hook that raises is logged once per event on the logger `holdfast` and changes nothing else. Nothing is built while
nobody listens; so the events themselves (`events`) are imported by the policies only then, which keeps `import holdfast` fast.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from .forks import ProcessLock

__all__ = ["EVENTS", "Event", "EventStream", "Hook", "Subscription", "subscribe"]


class Event:
    """Something that happened to the operation or policy called `name`. The kinds stand in `events`."""

    __slots__ = ()

    name: str


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
        self._lock = ProcessLock()
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
            except Exception as error:
                # Imported late: logging would be a tenth of the time `import holdfast` takes.
                import logging

                from .traces import trace_of

                name = type(event).__name__
                # Not `exception`: what a hook says may hold anything.
                logging.getLogger("holdfast").error("an event hook failed on %s\n%s", name, trace_of(error))  # noqa: TRY400


EVENTS = EventStream()
"""The process-wide stream that everything uses unless it is given another."""

subscribe = EVENTS.subscribe
"""Subscribe a hook to the process-wide stream."""
