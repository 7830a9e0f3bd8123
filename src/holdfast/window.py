"""A sum over the last seconds, kept in slots: what the retry budget and the circuit breaker remember.

Ten closed slots and the one still filling, as in Finagle's and tower's budgets: cost and memory do not depend on the load,
and what is older than the window drops out a slot at a time. The sum therefore covers between one window and one window
plus a slot, never less than the window.

Not locked: its owner's lock guards it. So that the hot path costs two lines, the owner adds by hand:

    if now >= window.slot_ends:
        window.advance(now)
    window.newest += amount
"""

from __future__ import annotations

from collections import deque

__all__ = ["SLOTS", "SlotWindow"]

SLOTS = 10
"""Closed slots in a window: a tenth of it is the grain of forgetting."""


class SlotWindow:
    """Whole numbers added up over a sliding time window.

    Attributes:
        newest: the sum of the slot that is still filling.
        slot_ends: the moment (seconds, monotonic) from which `advance` must be called before adding or reading.
        older: the sum of the closed slots.
    """

    __slots__ = ("_closed", "_slot_s", "newest", "older", "slot_ends")

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / SLOTS
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._closed: deque[int] = deque([0] * SLOTS, maxlen=SLOTS)
        self.newest = 0
        self.older = 0
        self.slot_ends = float("-inf")

    def advance(self, now: float) -> None:
        """Close the slots that ended by `now`. A `now` before the newest slot's end changes nothing."""
        late_s = now - self.slot_ends
        if late_s < 0:
            return
        if late_s >= SLOTS * self._slot_s:
            self.clear()
            self.slot_ends = now + self._slot_s
            return
        ended = 1 + int(late_s / self._slot_s)
        self._closed.append(self.newest)
        self._closed.extend([0] * (ended - 1))
        self.newest = 0
        self.older = sum(self._closed)
        self.slot_ends += ended * self._slot_s
        if self.slot_ends <= now:  # a rounding error; without this every further call would close a slot
            self.slot_ends = now + self._slot_s

    def total(self, now: float) -> int:
        """The sum over the window that ends at `now`."""
        self.advance(now)
        return self.older + self.newest
