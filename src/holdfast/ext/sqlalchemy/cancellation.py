"""How a cancelled call leaves its connection: at once, and closed.

Psycopg's asynchronous side does not let go when its task is cancelled. It first opens another connection to have the server
cancel the statement, up to 5 s, then waits for the statement's end, up to 5 s more. Where the network says nothing, that is
how late the caller's deadline becomes. Holdfast cuts such a connection anyway, never uses it again, and has its session ended
from a side connection, for which nobody waits (`killer`).

And a connection that was cancelled while it was being made stays open until the last reference to its exception is gone, which
may be when the garbage collector comes by: a session on the server that no pool knows of.

SQLite has no session to end, only a statement in a thread, and an interrupt reaches the one that is running at that moment.
It may not have begun yet: so the watchdog interrupts until the thread has got to the ROLLBACK. And aiosqlite closes in two
requests, the second of which nobody answers where the connection's thread was told to stop between them: so it is one here.

asyncmy and aiomysql connect with `asyncio.wait_for`, which up to Python 3.11 drops a cancellation that comes just when the
connection stands: the caller then waits for the server's greeting, and nobody cancels twice. So they connect in a task of
their own, and whoever is cancelled leaves it behind.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from ...clock import SYSTEM_CLOCK
from .interrupt import cut
from .watchdog import WATCHDOG

if TYPE_CHECKING:
    from types import ModuleType

    from sqlalchemy.engine import Engine
    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["leave_at_once", "opener", "patient_opener", "roll_back_unseen"]

_INTERVAL_S = 0.1
"""Psycopg's own."""

_AGAIN_S = 0.05

_Attempts = list[Generator[Any, Any, Any]]

_attempts: ContextVar[_Attempts] = ContextVar("holdfast_connecting")


_DROPS_CANCELLATIONS = ("asyncmy", "aiomysql") if sys.version_info < (3, 12) else ()


def leave_at_once(engine: Engine) -> None:
    """Have the connections of an asynchronous engine be made so that a cancelled call leaves at once, where the driver does not.

    Unless `async_creator_fn` says who makes them.
    """
    dialect = engine.dialect
    dbapi: Any = dialect.loaded_dbapi
    if not dialect.is_async:
        return
    if dialect.driver == "aiosqlite":
        _close_at_once(engine, dbapi.aiosqlite)
        return
    if dialect.driver == "psycopg":
        creator = opener(dbapi.psycopg)
    elif dialect.driver in _DROPS_CANCELLATIONS:
        creator = patient_opener(getattr(dbapi, dialect.driver))
    else:
        return

    def connecting(_dialect: Dialect, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        parameters.setdefault("async_creator_fn", creator)

    event.listen(engine, "do_connect", connecting)


def _close_at_once(engine: Engine, aiosqlite: ModuleType) -> None:
    """Have closing be one request to a connection's thread."""
    base: Any = aiosqlite.Connection
    if not hasattr(base, "stop"):
        return  # before 0.22 nobody tells the thread to stop but `close` itself

    async def close(self: Any) -> None:
        if self._running:
            stopped = self.stop()
            if stopped is not None:
                await stopped

    kind: Any = type("Connection", (base,), {"__module__": base.__module__, "__doc__": base.__doc__, "close": close})

    def connected(_connection: object, record: ConnectionPoolEntry) -> None:
        driver_connection: Any = record.driver_connection
        if type(driver_connection) is base:
            driver_connection.__class__ = kind

    event.listen(engine, "connect", connected, insert=True)  # before SQLAlchemy's own, which may be cancelled, too


@cache
def opener(psycopg: ModuleType) -> Callable[..., Awaitable[Any]]:
    """What to call instead of `psycopg.AsyncConnection.connect`."""
    base: Any = psycopg.AsyncConnection

    async def wait(self: Any, gen: Any, interval: float = _INTERVAL_S) -> Any:
        try:
            return await psycopg.waiting.wait_async(gen, self.pgconn.socket, interval)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            self.pgconn.finish()
            raise

    def connect_gen(cls: Any, *arguments: Any, **options: Any) -> Any:
        attempt = base._connect_gen.__func__(cls, *arguments, **options)
        _attempts.get().append(attempt)
        return attempt

    # A driver is known by the module of its connections' class.
    body = {
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "wait": wait,
        "_connect_gen": classmethod(connect_gen),
    }
    kind: Any = type("AsyncConnection", (base,), body)

    async def connect(*arguments: Any, **options: Any) -> Any:
        attempts: _Attempts = []
        token = _attempts.set(attempts)
        try:
            return await kind.connect(*arguments, **options)
        except BaseException:
            for attempt in attempts:
                attempt.close()  # and with it what it had opened
            raise
        finally:
            _attempts.reset(token)

    return connect


@cache
def patient_opener(driver: ModuleType) -> Callable[..., Awaitable[Any]]:
    """What to call instead of the `connect` of asyncmy or aiomysql."""

    async def connecting(arguments: Any, options: Any) -> Any:
        return await driver.connect(*arguments, **options)

    async def connect(*arguments: Any, **options: Any) -> Any:
        task = asyncio.create_task(connecting(arguments, options), name="holdfast-connect")
        try:
            await asyncio.wait([task])
        except BaseException:
            _leave_behind(task)
            raise
        return task.result()

    return connect


def _leave_behind(task: asyncio.Task[Any]) -> None:
    """Cancel it until it has noticed, and close what came of it."""
    if not task.done():
        task.cancel()
        task.get_loop().call_later(_AGAIN_S, _leave_behind, task)
    elif not task.cancelled() and task.exception() is None:
        connection = task.result()
        cut(connection)
        with suppress(Exception):
            connection.close()  # cut alone, aiomysql takes it for one that was forgotten, and warns


def roll_back_unseen(connection: Any) -> None:
    """End what an aiosqlite connection does and have its thread roll back, without waiting. Call it before it is closed.

    Closing is not enough: SQLite keeps a closed connection, its transaction and its lock on the file until the last cursor on
    it is gone, and the one of a cancelled statement hangs in the traceback until the garbage collector comes by.
    """
    if not connection._running:
        return
    with suppress(ValueError):  # it is closed
        database = connection._conn
        guard = WATCHDOG.guard(database, SYSTEM_CLOCK.monotonic())

        def roll_back() -> None:
            guard.close()  # first: it would interrupt this, too
            database.rollback()

        connection._tx.put_nowait((None, roll_back))
