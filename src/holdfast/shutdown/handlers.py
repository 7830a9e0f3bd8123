"""The drain of the calling context: what handlers and workers ask."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextvars import ContextVar
from queue import SimpleQueue
from typing import TypeVar

from .drain import Drain

__all__ = ["DRAIN", "current_drain", "draining", "end_on_signals", "is_draining", "until_draining", "use_drain"]

T = TypeVar("T")

DRAIN = Drain()
"""The process's own, which everything uses unless it is given another."""

_current: ContextVar[Drain] = ContextVar("holdfast_drain", default=DRAIN)


def use_drain(drain: Drain) -> None:
    """Have `draining()` in the calling context speak of `drain`; the middleware does so for requests."""
    _current.set(drain)


def current_drain() -> Drain:
    """The drain of the calling context: inside of an application its part, whose `whole` is the process's; else the process's."""
    return _current.get()


def is_draining() -> bool:
    """Whether the end has begun."""
    return _current.get().is_draining


async def draining() -> None:
    """Suspend the task until the end begins: what answers that would never end by themselves wait for, beside their source."""
    await _current.get().wait_async()


async def until_draining(source: AsyncIterable[T]) -> AsyncIterator[T]:
    """What `source` yields, until the end begins: then the iteration ends, as if the source had. An item is never cut.

    The source is closed (`aclose`) at the end if it can be. Each item costs a task, some 20 microseconds.
    """
    iterator = aiter(source)
    told = asyncio.ensure_future(draining())
    upcoming: asyncio.Future[T] | None = None
    try:
        while not told.done():
            upcoming = asyncio.ensure_future(_next_of(iterator))
            await asyncio.wait({told, upcoming}, return_when=asyncio.FIRST_COMPLETED)
            if not upcoming.done():
                return
            try:
                item = upcoming.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        unfinished = [task for task in (told, upcoming) if task is not None and task.cancel()]
        if unfinished:
            await asyncio.wait(unfinished)
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def _next_of(iterator: AsyncIterator[T]) -> T:
    return await anext(iterator)


# -- for workers -------------------------------------------------------------------------------------------------------


def end_on_signals(
    drain: Drain = DRAIN, signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
) -> Callable[[], None]:
    """Have the first of `signals` begin the drain, and the second end the process at once. From the main thread.

    For workers; servers have handlers of their own. The handler only puts a number into a queue, and a thread begins the drain:
    a handler may have interrupted whoever holds a lock.

    Returns:
        A function that puts the former handlers back.

    Raises:
        ValueError: called outside of the main thread.
    """
    told: SimpleQueue[int | None] = SimpleQueue()
    seen: list[int] = []

    def handle(number: int, _frame: object) -> None:
        if seen:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        seen.append(number)
        told.put(number)

    def begin_when_told() -> None:
        if told.get() is not None:
            drain.begin()

    former = {number: signal.signal(number, handle) for number in signals}
    threading.Thread(target=begin_when_told, name="holdfast-signals", daemon=True).start()

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)
        told.put(None)

    return restore
