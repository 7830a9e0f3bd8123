"""How long a process wanted a processor and did not get one: what tells a busy machine from a caller who was kept too long.

    starvation = Starvation()
    ...                                  # a tenth of a second later
    starvation.look()                    # (from, to, waited) in nanoseconds, where it waited at all

Linux counts for each thread how long it was ready to run and had to wait (the second number of `schedstat`). That is no fault of
the code's: whoever sleeps, computes, or waits for a lock or an answer is not counted. Where nobody counts there is nothing to
tell, and what is late is late.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..clock import SYSTEM_CLOCK, Clock
from .history import nanoseconds

__all__ = ["LOOK_EVERY_S", "Starvation", "waits_of_threads"]

LOOK_EVERY_S = 0.05
"""How finely it is told when the process waited."""

_TASKS = Path("/proc/self/task")
_WORTH_TELLING_NS = 5_000_000

Span = tuple[int, int, int]
"""From when to when, and how long of it the process waited: nanoseconds."""


def waits_of_threads(tasks: Path = _TASKS) -> dict[str, int]:
    """How long each thread of this process has waited for a processor so far, nanoseconds; empty where nobody counts."""
    waits: dict[str, int] = {}
    with suppress(OSError):
        for task in tasks.iterdir():
            with suppress(OSError, ValueError, IndexError):  # it ended just now
                waits[task.name] = int((task / "schedstat").read_text().split()[1])
    return waits


class Starvation:
    """Looks how long this process waited, again and again in a thread of its own. Safe in threads.

    Args:
        waits: tells how long each thread has waited.
        clock: tells the time.
    """

    def __init__(self, waits: Callable[[], dict[str, int]] = waits_of_threads, clock: Clock = SYSTEM_CLOCK) -> None:
        self._waits = waits
        self._clock = clock
        self._last = waits()
        self._looked_at = clock.monotonic()
        self._spans: list[Span] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def watch(self) -> None:
        """Begin to look, in a thread that ends with `stop` or with the process."""
        threading.Thread(target=self._watch, name="drill-starvation", daemon=True).start()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Count what was waited since the last look: by the thread that waited longest.

        Of threads that wait side by side only one could have run: adding them up would excuse whatever happened meanwhile.
        """
        waits, now = self._waits(), self._clock.monotonic()
        with self._lock:
            waited = max((ns - self._last.get(name, 0) for name, ns in waits.items()), default=0)
            since, until = nanoseconds(self._looked_at), nanoseconds(now)
            self._last, self._looked_at = waits, now
            if waited >= _WORTH_TELLING_NS:
                self._spans.append((since, until, min(waited, until - since)))

    def take(self) -> list[Span]:
        """When the process waited, since the last time it was asked."""
        self.look()
        with self._lock:
            spans, self._spans = self._spans, []
        return spans

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
