"""A connection pool that somebody else has emptied."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import greenlet_spawn

from ...clock import SYSTEM_CLOCK
from ...errors import ConfigurationError

__all__ = ["StarvePool", "StarveTaskPool"]

_NAME = "pool-starvation"
_PAUSE_S = 0.05
"""How long to wait after a connection that was not to be had."""


class StarvePool:
    """Takes every connection of a pool, as code does that forgets to give them back; waits for those in use.

    Args:
        engine: whose pool; a `QueuePool` with a bound, as every server's engine has by default.

    Raises:
        ConfigurationError: the pool has no bound, so it cannot be emptied.
    """

    name = _NAME

    def __init__(self, engine: Engine) -> None:
        self._bound = _bound_of(engine)
        self._engine = engine
        self._held: list[Connection] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> int:
        """How many it has by now."""
        return len(self._held)

    def start(self) -> dict[str, Any]:
        """Begin to take; returns at once, since others may hold some for a while."""
        self._over.clear()
        self._thread = threading.Thread(target=self._take, name="starve-pool", daemon=True)
        self._thread.start()
        return {"bound": self._bound}

    def heal(self) -> None:
        """Give all of them back; waits for the one that it is being given just now, at most the pool's own time limit."""
        self._over.set()
        # First those that it has: it may be waiting for one itself.
        self._give_back()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._give_back()

    def _give_back(self) -> None:
        while self._held:
            with suppress(SQLAlchemyError):  # its server went away meanwhile
                self._held.pop().close()

    def _take(self) -> None:
        while not self._over.is_set() and len(self._held) < self._bound:
            try:
                self._held.append(self._engine.connect())
            except SQLAlchemyError:  # taken by others, or the server is away: try again
                self._over.wait(_PAUSE_S)


class StarveTaskPool:
    """As `StarvePool`, for the pool of an asynchronous engine. Start and heal it from another thread than its event loop's.

    Args:
        engine: the synchronous engine inside the asynchronous one.
        loop: the running event loop that the engine belongs to.

    Raises:
        ConfigurationError: the pool has no bound, so it cannot be emptied.
    """

    name = _NAME

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._bound = _bound_of(engine)
        self._engine = engine
        self._loop = loop
        self._held: list[Connection] = []
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def held(self) -> int:
        """How many it has by now."""
        return len(self._held)

    def start(self) -> dict[str, Any]:
        """As in `StarvePool`."""
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result()
        return {"bound": self._bound}

    def heal(self) -> None:
        """As in `StarvePool`."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()

    async def _begin(self) -> None:
        self._over.clear()
        self._task = asyncio.create_task(self._take(), name="starve-pool")

    async def _end(self) -> None:
        self._over.set()
        await self._give_back()
        if self._task is not None:
            await self._task
            self._task = None
        await self._give_back()

    async def _give_back(self) -> None:
        while self._held:
            with suppress(SQLAlchemyError):  # its server went away meanwhile
                await greenlet_spawn(self._held.pop().close)

    async def _take(self) -> None:
        while not self._over.is_set() and len(self._held) < self._bound:
            try:
                self._held.append(await greenlet_spawn(self._engine.connect))
            except (SQLAlchemyError, OSError):  # some drivers tell of a server that is away by the system's error
                await SYSTEM_CLOCK.wait_async(self._over, _PAUSE_S)


def _bound_of(engine: Engine) -> int:
    """How many connections its pool opens at most."""
    pool = engine.pool
    if not isinstance(pool, QueuePool) or pool._max_overflow < 0:
        raise ConfigurationError(f"{type(pool).__name__} has no bound and cannot be starved; use a QueuePool with one")
    return pool.size() + pool._max_overflow
