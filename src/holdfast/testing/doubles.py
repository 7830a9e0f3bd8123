"""What a test puts in the place of time and of whoever listens to events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConfigurationError
from ..stream import Event, EventStream

if TYPE_CHECKING:
    import asyncio

__all__ = ["ManualClock", "RecordingHook"]

E = TypeVar("E", bound=Event)


class ManualClock:
    """A clock that moves only when told to, or when somebody sleeps on it. Safe in threads and tasks.

    Sleeping advances the clock at once, as if nothing else happened meanwhile. Waiting (for a permit, say) does not: it
    ends when what is waited for happens, or when somebody else moves the clock past the end of the wait.

    Args:
        start: what `monotonic` reads first, in seconds.

    Attributes:
        sleeps: every duration slept, in seconds, in order.
    """

    __slots__ = ("_alarms", "_lock", "_now", "sleeps")

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._lock = threading.Lock()
        self._alarms: dict[object, tuple[float, Callable[[], object]]] = {}
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        """The current moment, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move `seconds` (0 or more) ahead and wake whoever waited for no longer than until then."""
        if not 0 <= seconds < float("inf"):
            raise ConfigurationError(f"a clock advances by a finite number of seconds, 0 or more, not {seconds}")
        with self._lock:
            self._now += seconds
            due = [key for key, (moment, _) in self._alarms.items() if moment <= self._now]
            rings = [self._alarms.pop(key)[1] for key in due]
        for ring in rings:
            ring()

    def sleep(self, seconds: float, /) -> None:
        """Advance by `seconds`, at once."""
        self.sleeps.append(seconds)
        self.advance(seconds)

    async def sleep_async(self, seconds: float, /) -> None:
        """Advance by `seconds` and give the other tasks a turn."""
        import asyncio

        self.sleep(seconds)
        await asyncio.sleep(0)  # noqa: TID251 - a turn for the others, not a wait

    def wait(self, event: threading.Event, seconds: float, /) -> None:
        """Block the calling thread until `event` is set or the clock has been moved by `seconds`."""
        alarm = self._set_alarm(seconds, event.set)
        try:
            event.wait()
        finally:
            self._alarms.pop(alarm, None)

    async def wait_async(self, event: asyncio.Event, seconds: float, /) -> None:
        """Suspend the calling task until `event` is set or the clock has been moved by `seconds`."""
        import asyncio

        loop = asyncio.get_running_loop()
        alarm = self._set_alarm(seconds, lambda: loop.call_soon_threadsafe(event.set))
        try:
            await event.wait()
        finally:
            self._alarms.pop(alarm, None)

    @property
    def waiting(self) -> int:
        """How many threads and tasks wait on this clock now."""
        return len(self._alarms)

    def _set_alarm(self, seconds: float, ring: Callable[[], object]) -> object:
        alarm = object()
        with self._lock:
            moment = self._now + seconds
            if moment > self._now:
                self._alarms[alarm] = (moment, ring)
                return alarm
        ring()
        return alarm


class RecordingHook:
    """Keeps every event it is called with, in order. Safe in threads and tasks.

    Attributes:
        events: what was recorded.
        stream: a private stream to hand to a policy as `events=`; the hook listens to it from the start.
    """

    __slots__ = ("events", "stream")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.stream = EventStream()
        self.stream.subscribe(self)

    def __call__(self, event: Event) -> None:
        """Record `event`."""
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The recorded events of one kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def clear(self) -> None:
        """Forget what was recorded."""
        self.events.clear()
