"""One direction of a connection: where bytes go, later if a toxic says so."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from ..clock import Random
from .pacing import paced
from .toxics import Bandwidth, Latency, LimitData, Slicer, SlowClose, Toxic

__all__ = ["Lane"]

_PACED = (Latency, Bandwidth, Slicer)
_QUEUED_MAX = 1 << 20  # bytes that wait for their time before the sender has to wait


class Lane:
    """The way to one end. Used in the proxy's thread alone.

    Args:
        draw: for jitter.
        limit_reached: called once when a `LimitData` has let through what it may.
        crowded: called with True when more waits here than should, with False when it has gone.
    """

    __slots__ = (
        "_crowded",
        "_draw",
        "_earliest_s",
        "_finish",
        "_is_crowded",
        "_left",
        "_limit_reached",
        "_loop",
        "_queue",
        "_queued",
        "_shut",
        "_timer",
        "_toxics",
        "_transport",
    )

    def __init__(self, draw: Random, limit_reached: Callable[[], None], crowded: Callable[[bool], None]) -> None:
        self._transport: asyncio.Transport | None = None
        self._shut = False
        self._loop = asyncio.get_running_loop()
        self._draw = draw
        self._limit_reached = limit_reached
        self._crowded = crowded
        self._is_crowded = False
        self._toxics: tuple[Toxic, ...] = ()
        self._left: int | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._earliest_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._finish: Callable[[], None] | None = None

    def open(self, transport: asyncio.Transport) -> None:
        """The end is there; what was sent before leaves now."""
        self._transport = transport
        self._drain()

    def shut(self) -> None:
        """The end is gone: whatever is sent is lost."""
        self.drop()
        self._shut = True

    def use(self, toxics: Sequence[Toxic]) -> None:
        """Let these, and no others, shape what is sent from now on; what waits for one that is gone leaves now."""
        gone = [toxic for toxic in self._toxics if toxic not in toxics and isinstance(toxic, _PACED)]
        before = [toxic for toxic in self._toxics if isinstance(toxic, LimitData)]
        self._toxics = tuple(toxics)
        limits = [toxic for toxic in toxics if isinstance(toxic, LimitData)]
        if limits != before:
            self._left = min((toxic.bytes for toxic in limits), default=None)
        if gone:
            self.hurry()

    def hurry(self) -> None:
        """What waits leaves now."""
        self._earliest_s = 0.0
        self._queue = deque((0.0, data) for _, data in self._queue)
        self._drain()

    def hold_off(self, seconds: float) -> None:
        """Let nothing that is sent from now on leave before `seconds` have passed."""
        self._earliest_s = max(self._earliest_s, self._loop.time() + seconds)

    def send(self, data: bytes) -> None:
        """Pass `data` on, in its time."""
        if self._shut:
            return
        if self._transport is not None and not (self._toxics or self._queue or self._earliest_s):
            self._transport.write(data)
            return
        if self._left is not None:
            data, over = data[: self._left], len(data) >= self._left
            self._left -= len(data)
            self._enqueue(data)
            if over:
                self._left = None
                self._limit_reached()
            return
        self._enqueue(data)

    def finish(self, action: Callable[[], None]) -> None:
        """Call `action` when everything has left, later still if a `SlowClose` says so."""
        slow_s = max((toxic.delay for toxic in self._toxics if isinstance(toxic, SlowClose)), default=0.0)
        if slow_s:
            due_s = max(self._earliest_s, self._loop.time()) + slow_s
            self._earliest_s = due_s
            self._queue.append((due_s, b""))
        self._finish = action
        self._drain()

    def drop(self) -> None:
        """Forget what waits."""
        self._queue.clear()
        self._queued = 0
        self._finish = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _enqueue(self, data: bytes) -> None:
        now_s = self._loop.time()
        for parcel in paced(data, now_s, self._earliest_s, self._toxics, self._draw):
            self._earliest_s = parcel.due_s
            self._queue.append(parcel)
            self._queued += len(parcel.data)
        self._drain()

    def _drain(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is None:
            return
        now_s = self._loop.time()
        while self._queue and self._queue[0][0] <= now_s:
            _, data = self._queue.popleft()
            self._queued -= len(data)
            if data:
                self._transport.write(data)
        if self._is_crowded != (self._queued > _QUEUED_MAX):
            self._is_crowded = not self._is_crowded
            self._crowded(self._is_crowded)
        if self._queue:
            self._timer = self._loop.call_at(self._queue[0][0], self._drain)
            return
        if self._earliest_s <= now_s:
            self._earliest_s = 0.0
        if self._finish is not None:
            action, self._finish = self._finish, None
            self._shut = True  # a toxic may still have something to say, where nobody may say anything any more
            action()
