"""The watchdog: cuts synchronous driver calls that are still blocked when their time is up.

A thread that waits inside a driver cannot be told anything, so another one closes the socket under it. There is one such thread
a process, asleep until the earliest deadline it knows of. Putting a connection under guard and taking it out again is a store
into a dictionary and a removal; the thread is woken only for a deadline that is earlier than all it knows, and looks at the
guards (as many as there are busy connections, some hundred at most) when it wakes. So there is no queue to keep in order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self

from ...clock import SYSTEM_CLOCK, Clock
from ...forks import after_fork
from .interrupt import cut

__all__ = ["WATCHDOG", "Guard", "Watchdog"]

_NEVER = float("inf")
_SQLITE_AGAIN_S = 0.05


class Guard:
    """One connection under guard; made by `Watchdog.guard`. Use it as a block, or call `close()` when the work is done.

    Attributes:
        expires_at: when to cut, in the watchdog's monotonic seconds.
        fired: whether the connection was cut. Unless it is SQLite's, it is dead: discard it.
    """

    __slots__ = ("_closed", "_connection", "_on_cut", "_watchdog", "expires_at", "fired")

    def __init__(
        self, watchdog: Watchdog, connection: Any, expires_at: float, on_cut: Callable[[], object] | None
    ) -> None:
        self._watchdog = watchdog
        self._connection = connection
        self._on_cut = on_cut
        self._closed = False
        self.expires_at = expires_at
        self.fired = False

    def close(self) -> bool:
        """End the guard; whether it had fired. After this the connection is not touched any more. Harmless twice."""
        if self._watchdog._guards.pop(self, None) is None:
            # Not there: it fired, is firing at this moment, or was closed before. Wait until the thread has let go of it.
            with self._watchdog._firing:
                self._closed = True
                self._watchdog._guards.pop(self, None)
        return self.fired

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Watchdog:
    """Cuts guarded connections when their time is up. Safe in threads; survives a fork, without the parent's guards.

    Args:
        clock: what `expires_at` is measured by.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._start_over()
        after_fork(self, Watchdog._start_over)

    def _start_over(self) -> None:
        # A forked child has no watchdog thread, and the connections are its parent's.
        self._guards: dict[Guard, Guard] = {}
        self._firing = threading.Lock()
        self._starting = threading.Lock()
        self._alarm = threading.Event()
        self._wakes_at = _NEVER
        self._thread: threading.Thread | None = None

    def guard(self, driver_connection: object, expires_at: float, on_cut: Callable[[], object] | None = None) -> Guard:
        """Put a connection under guard.

        Args:
            driver_connection: the driver's own connection object.
            expires_at: when to cut it, monotonic seconds.
            on_cut: called once in the watchdog's thread, after the cut; must neither block nor raise.

        Returns:
            The guard; close it before the connection is used for anything else.
        """
        guard = Guard(self, driver_connection, expires_at, on_cut)
        self._guards[guard] = guard
        if expires_at < self._wakes_at:
            self._alarm.set()
            if self._thread is None:
                self._start()
        return guard

    def fire_due(self, now: float) -> float:
        """Cut what is due at `now`, and say when to come again (infinity: when there is a new guard)."""
        next_at = _NEVER
        for guard in list(self._guards):
            if guard.expires_at <= now:
                self._fire(guard, now)
            next_at = min(next_at, guard.expires_at if guard in self._guards else _NEVER)
        return next_at

    def fire(self, guard: Guard) -> None:
        """Cut a guarded connection now, from any thread; nothing happens when its user was faster and closed the guard."""
        self._fire(guard, self._clock.monotonic())

    def _fire(self, guard: Guard, now: float) -> None:
        with self._firing:
            # Whoever removes a guard owns it: either its user closes it first, or it fires and its user waits for the lock.
            if self._guards.pop(guard, None) is None:
                return
            first, guard.fired = not guard.fired, True
            cut(guard._connection)
            if type(guard._connection).__module__ == "sqlite3" and not guard._closed:
                # An interrupt reaches only the statement that is running: the next one must not run free.
                guard.expires_at = now + _SQLITE_AGAIN_S
                self._guards[guard] = guard
        if first and guard._on_cut is not None:
            guard._on_cut()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._watch, name="holdfast-watchdog", daemon=True)
                thread.start()  # where there is no room for one now, the next guard tries again
                self._thread = thread

    def _watch(self) -> None:
        while True:
            self._alarm.clear()
            # A guard that comes while the others are looked at must set the alarm, whatever its deadline.
            self._wakes_at = _NEVER
            now = self._clock.monotonic()
            self._wakes_at = next_at = self.fire_due(now)
            self._alarm.wait(None if next_at == _NEVER else max(0.0, next_at - now))


WATCHDOG = Watchdog()
"""The process's watchdog."""
