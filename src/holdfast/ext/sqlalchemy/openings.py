"""How many connections may be opened at a time at a server that had none left.

A server that has just refused a connection (1040, 53300) is left alone for a while. Then one caller asks, and each that gets one
doubles how many may ask at a time, as TCP begins after a loss (slow start, RFC 5681). If all who wait asked at once whenever the
while is over, a full server would be asked more than it is without trouble, and no retry budget would count it.

The clock's time is given; nothing here waits.
"""

from __future__ import annotations

import math
import threading

__all__ = ["Openings"]

_LEFT_ALONE_S = 0.5
"""How long a server that refused one is not asked for a connection."""

_UNBOUNDED_FROM = 32
"""So many at a time need no bound any more."""


class Openings:
    """Says who may open a connection now. Safe to share among threads.

    Whoever was let through by `may_open` says how it went: `opened`, `refused`, or else only `ended`; in each case `ended`.
    """

    __slots__ = ("_at_once", "_closed_until", "_lock", "_under_way")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_once = math.inf
        self._under_way = 0
        self._closed_until = -math.inf

    @property
    def are_bounded(self) -> bool:
        """Whether the server has refused a connection, and not shown yet that it has room again."""
        return self._at_once < math.inf

    def may_open(self, now: float) -> bool:
        """Whether one more may be opened at `now`, monotonic seconds; if so, it counts until `ended`."""
        with self._lock:
            if now < self._closed_until or self._under_way >= self._at_once:
                return False
            self._under_way += 1
            return True

    def opened(self) -> None:
        """The server had one."""
        with self._lock:
            self._at_once = self._at_once * 2 if self._at_once < _UNBOUNDED_FROM / 2 else math.inf

    def refused(self, now: float) -> None:
        """The server had none left at `now`, monotonic seconds."""
        with self._lock:
            self._at_once = 1
            self._closed_until = now + _LEFT_ALONE_S

    def ended(self) -> None:
        """One that `may_open` let through is over, however it went."""
        with self._lock:
            self._under_way -= 1
