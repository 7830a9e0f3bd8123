"""Ends sessions on the server, best effort, from a connection of its own.

Many operations may run out of time at once, just when the server is at its limits. So each database has one side connection at
most: it is opened for the first session to end, takes whatever is asked for meanwhile, and is closed when there is no more.
After one that failed there is a pause, in which more may gather: a server that turns connections away needs no more of them.
Nobody waits for it, nothing it meets is raised, and what it cannot do the server's own limits do later.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from ...clock import SYSTEM_CLOCK, Clock, WaitingClock
from ...deadline import within
from .interrupt import Identity, kill_statement, sessions_statement
from .watchdog import WATCHDOG, Guard, Watchdog

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["AsyncKiller", "Killer"]

BATCH_WITHIN_S = 3.0
"""How long a side connection may take for what has gathered; then it is given up. In threads the login is bounded apart."""

PAUSE_S = 1.0
"""How long after a side connection that failed the next one is opened."""

Told = Callable[[bool], object]
"""Called with whether the session was found and ended."""

_log = logging.getLogger("holdfast")


def _kill(connection: Connection, identity: Identity) -> bool:
    if connection.exec_driver_sql(sessions_statement(identity)).first() is None:
        return False
    statement = kill_statement(identity)
    if statement is not None:
        connection.exec_driver_sql(statement)
    return True


class _Queue:
    """What is still to be ended."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Identity, Told | None]] = []

    def _kill_all(self, connection: Connection) -> None:
        while self._waiting:
            identity, told = self._waiting.pop(0)
            killed = False
            try:
                killed = _kill(connection, identity)
            except DBAPIError as error:
                # The session may just have ended by itself. Only a lost side connection is a reason to stop.
                if error.connection_invalidated:
                    raise
            finally:
                if told is not None:
                    told(killed)

    def _give_up(self, error: BaseException) -> None:
        # Who asks meanwhile, in another thread, puts it into the same list.
        left = list(self._waiting)
        del self._waiting[: len(left)]
        _log.warning("could not end sessions on the server: %s", type(error).__name__)
        for _, told in left:
            if told is not None:
                told(False)


class Killer(_Queue):
    """Ends sessions from a daemon thread. Safe in threads.

    Args:
        engine: makes the side connections: without a pool, with a short connect timeout, as the same user.
        watchdog: cuts a side connection that hangs.
        clock: the watchdog's.
    """

    def __init__(self, engine: Engine, *, watchdog: Watchdog = WATCHDOG, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._engine = engine
        self._watchdog = watchdog
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._guard: Guard | None = None

    def watch(self, record: ConnectionPoolEntry) -> None:
        """Have a side connection cut that hangs; to be called when it has logged in, before anything is asked on it."""
        self._guard = self._watchdog.guard(record.driver_connection, self._clock.monotonic() + BATCH_WITHIN_S)

    def kill_soon(self, identity: Identity | None, told: Told | None = None) -> None:
        """End the session in the background; never blocks, never raises.

        Args:
            identity: whose session; None is ignored.
            told: called in the background with whether it was found and ended; must not block.
        """
        if identity is None:
            return
        with self._lock:
            self._waiting.append((identity, told))
            # After a fork the parent's thread is not there, and not alive.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="holdfast-killer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self._work_off()
            except Exception as error:
                self._give_up(error)
                self._clock.sleep(PAUSE_S)
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return

    def _work_off(self) -> None:
        try:
            with within(BATCH_WITHIN_S, clock=self._clock), self._engine.connect() as connection:
                self._kill_all(connection)
        finally:
            guard, self._guard = self._guard, None
            if guard is not None:
                guard.close()


class AsyncKiller(_Queue):
    """Ends sessions from a background task of the running loop. For one event loop, as its engine is."""

    def __init__(self, engine: AsyncEngine, *, clock: WaitingClock = SYSTEM_CLOCK) -> None:
        super().__init__()
        self._engine = engine
        self._clock = clock
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def kill_soon(self, identity: Identity | None, told: Told | None = None) -> None:
        """As `Killer.kill_soon`; call it in the event loop's thread (also from inside SQLAlchemy's greenlets)."""
        if identity is None:
            return
        self._waiting.append((identity, told))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="holdfast-killer")

    async def _run(self) -> None:
        while self._waiting:
            try:
                # Drivers bound the TCP handshake alone: the wait for a server that says nothing counts here too.
                async with asyncio.timeout(BATCH_WITHIN_S), self._engine.connect() as connection:
                    await connection.run_sync(self._kill_all)
            except Exception as error:
                self._give_up(error)
                await self._clock.wait_async(self._closing, PAUSE_S)

    async def aclose(self) -> None:
        """Wait for what is under way, 3 s at most."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task])
