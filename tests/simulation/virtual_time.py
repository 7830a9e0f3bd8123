"""A clock that nobody waits for, and an event loop that runs on it."""

from __future__ import annotations

import asyncio
import selectors

__all__ = ["Stuck", "VirtualClock", "VirtualTimeLoop"]


class Stuck(RuntimeError):
    """Every task waits for something that nothing will ever bring about."""


class VirtualClock:
    """Seconds that pass only when somebody says so."""

    __slots__ = ("now",)

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds

    def advance_to(self, moment: float) -> None:
        """Let time pass until `moment`, unless that is over."""
        self.now = max(self.now, moment)


class _NothingToRead(selectors.DefaultSelector):
    """A selector whose files are never ready: the time it is asked to wait for passes at once."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("nothing is scheduled, and nothing is ready")
        if timeout > 0:
            self._clock.advance(timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on a virtual clock: timers fire in their order, idle time passes at once. No I/O, no threads."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_NothingToRead(clock))
        self._virtual_clock = clock

    def time(self) -> float:
        return self._virtual_clock.now
