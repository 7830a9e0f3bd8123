"""A connection pool that somebody else has emptied."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from ...errors import ConfigurationError

__all__ = ["StarvePool"]


class StarvePool:
    """Takes every connection of a pool, as code does that forgets to give them back; waits for those in use.

    Args:
        engine: whose pool; a `QueuePool` with a bound, as every server's engine has by default.

    Raises:
        ConfigurationError: the pool has no bound, so it cannot be emptied.
    """

    name = "pool-starvation"

    def __init__(self, engine: Engine) -> None:
        pool = engine.pool
        if not isinstance(pool, QueuePool) or pool._max_overflow < 0:
            raise ConfigurationError(
                f"{type(pool).__name__} has no bound and cannot be starved; use a QueuePool with one"
            )
        self._engine = engine
        self._bound = pool.size() + pool._max_overflow
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
            self._held.pop().close()

    def _take(self) -> None:
        while not self._over.is_set() and len(self._held) < self._bound:
            with suppress(PoolTimeout, SQLAlchemyError):  # taken by others, or the server is away: try again
                self._held.append(self._engine.connect())
