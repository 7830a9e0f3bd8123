"""Time, chance and identity: the only file that touches them.

Everything else takes a `Clock` and a `Random` as arguments, so a test can hand in its own and never sleeps
(`holdfast.testing`). Elapsed time is always read from the monotonic clock; the wall clock only names moments in records.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    import threading

__all__ = [
    "SYSTEM_CLOCK",
    "Clock",
    "Random",
    "SystemClock",
    "WaitingClock",
    "new_token",
    "seeded_random",
    "system_random",
]

Random = Callable[[], float]
"""A draw from the uniform distribution over [0, 1)."""


def system_random() -> float:
    """A draw from Python's process-wide generator (Mersenne Twister, seeded by the operating system). Safe in threads."""
    # Imported late: random is a fifteenth of the time `import holdfast` takes.
    import random

    return random.random()


def seeded_random(seed: int) -> Random:
    """Draws that are the same for the same `seed`: for tests and simulations."""
    import random

    return random.Random(seed).random


class Clock(Protocol):
    """Where policies read the time and wait. Implementations must be safe to share between threads and tasks."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""

    def sleep(self, seconds: float, /) -> None:
        """Block the calling thread for `seconds` (0 returns at once)."""

    async def sleep_async(self, seconds: float, /) -> None:
        """Suspend the calling task for `seconds`; cancelling the task ends the wait."""


class WaitingClock(Clock, Protocol):
    """A clock that can also bound the wait for somebody else: what a queue needs.

    Both calls end when `event` is set or `seconds` have passed, and do not tell which: whoever waits knows what for.
    """

    def wait(self, event: threading.Event, seconds: float, /) -> None:
        """Block the calling thread until `event` is set, at most `seconds`."""

    async def wait_async(self, event: asyncio.Event, seconds: float, /) -> None:
        """Suspend the calling task until `event` is set, at most `seconds`; cancelling the task ends the wait."""


class SystemClock:
    """The machine's own clock."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    async def sleep_async(self, seconds: float, /) -> None:
        """Suspend the calling task for `seconds`."""
        # asyncio is imported late: it would be most of the time `import holdfast` takes.
        import asyncio

        await asyncio.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float, /) -> None:
        """Block the calling thread until `event` is set, at most `seconds`."""
        event.wait(seconds)

    async def wait_async(self, event: asyncio.Event, seconds: float, /) -> None:
        """Suspend the calling task until `event` is set, at most `seconds`."""
        import asyncio

        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass


SYSTEM_CLOCK: WaitingClock = SystemClock()


def new_token() -> str:
    """A fresh identity of 32 hexadecimal digits: 128 bits from the operating system, as in a version 4 UUID."""
    # Not by uuid4(), which says the same and takes a tenth of the time of `import holdfast` to load.
    return os.urandom(16).hex()
