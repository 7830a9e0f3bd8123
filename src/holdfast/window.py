"""What happened in the last seconds, kept in slots: what the retry budget and the circuit breaker remember.

Ten closed slots and the one still filling, as in Finagle's and tower's budgets: cost and memory do not depend on the load,
and what is older than the window drops out a slot at a time. A window therefore covers between one window and one window
plus a slot, never less.

A slot counts two things. Ticks are what happens all the time (successes): a tick takes no lock, because the next step of an
`itertools.count` is one step for every thread. The amount is what happens now and then (retries, failures); for it, and for
reading, the owner holds a lock. The hot path of an owner:

    if now >= window.slot_ends:
        with lock:
            window.advance(now)
    window.tick()

A thread that is interrupted before its tick counts into a slot that has been closed meanwhile: closed slots are read anew
every time, so nothing is lost.
"""

from __future__ import annotations

import itertools
from collections import deque

__all__ = ["SLOTS", "SlotWindow"]

SLOTS = 10
"""Closed slots in a window: a tenth of it is the grain of forgetting."""


class SlotWindow:
    """Ticks and amounts, summed over a sliding time window.

    Attributes:
        slot_ends: the moment (seconds, monotonic) from which `advance` must be called before ticking, adding or reading.
        tick: counts one, without a lock.
    """

    __slots__ = ("_slot_s", "_slots", "slot_ends", "tick")

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / SLOTS
        self._slots: deque[_Slot] = deque(maxlen=SLOTS + 1)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._slots.clear()
        self._open_slot()
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
        for _ in range(ended):
            self._open_slot()
        self.slot_ends += ended * self._slot_s

    def add(self, amount: int) -> None:
        """Add `amount` to the newest slot."""
        self._slots[-1].amount += amount

    def ticks(self) -> int:
        """The ticks in the window."""
        return sum(slot.ticks() for slot in self._slots)

    def amount(self) -> int:
        """The sum of the amounts in the window."""
        return sum(slot.amount for slot in self._slots)

    def _open_slot(self) -> None:
        slot = _Slot()
        self._slots.append(slot)
        self.tick = slot.tick


class _Slot:
    """One slot. Looking at an `itertools.count` moves it on, so the looks are counted as well and taken off."""

    __slots__ = ("_looks", "amount", "tick")

    def __init__(self) -> None:
        self.tick = itertools.count().__next__
        self.amount = 0
        self._looks = 0

    def ticks(self) -> int:
        seen = self.tick() - self._looks
        self._looks += 1
        return seen
