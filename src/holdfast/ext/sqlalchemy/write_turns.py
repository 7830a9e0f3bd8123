"""SQLite's writers of one process, one after the other.

SQLite lets one transaction write at a time. Whoever finds the file locked looks again after 1, 2, 5 and up to 100 ms, and the
lock goes to whoever looks at the right moment: that is nearly always a newcomer, and who has waited long looks least often. With
16 threads the middle save took 1 ms and one in a hundred 330 ms; with 64 tasks some waited until their deadline. So the
operations of one `Database` queue up for the lock, the oldest first, before they take a connection.

This is about order alone. What keeps two writers apart is the file's lock, which other processes hold too: an operation whose
time is up in the queue goes on without its turn, and gets SQLite's own answer.
"""

from __future__ import annotations

from ...bulkhead import Bulkhead
from ...clock import WaitingClock
from ...errors import BulkheadFull
from ...stream import EventStream

__all__ = ["WriteTurns"]

_NO_LIMIT = 1_000_000
"""Callers in the queue, and seconds to wait in it: what bounds them is the operation's own deadline, and the limit before it."""


class WriteTurns:
    """Who may try to write next. Safe in threads and tasks.

    Args:
        clock: measures the wait.
    """

    __slots__ = ("_bulkhead",)

    def __init__(self, clock: WaitingClock) -> None:
        self._bulkhead = Bulkhead(
            "sqlite-writers",
            permits=1,
            queue=_NO_LIMIT,
            max_wait=_NO_LIMIT,
            fair=True,
            clock=clock,
            events=EventStream(),  # nobody is rejected here, so nobody is to hear so
        )

    @property
    def waiting(self) -> int:
        """Operations in the queue now."""
        return self._bulkhead.waiting

    def take(self) -> bool:
        """Wait for one's turn until the current deadline; whether it came. If so, `give_back` it."""
        try:
            self._bulkhead.acquire()
        except BulkheadFull:
            return False
        return True

    async def take_async(self) -> bool:
        """As `take`; cancelling the task ends the wait."""
        try:
            await self._bulkhead.acquire_async()
        except BulkheadFull:
            return False
        return True

    def give_back(self) -> None:
        """Let the next one try."""
        self._bulkhead.release()
