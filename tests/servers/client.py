"""One connection through SQLAlchemy, the same for sync and async drivers, that classifies what goes wrong on it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from holdfast.dialects import classify
from holdfast.outcome import Failure, Stage

__all__ = ["ASYNC_DRIVERS", "Client", "client", "failure_to_connect"]

ASYNC_DRIVERS = frozenset({"asyncmy", "aiomysql", "asyncpg", "psycopg_async", "aiosqlite"})
ANSWER_WITHIN_S = 30.0


class _Loop:
    """An event loop in a thread of its own: a test with two connections then reads the same for every driver."""

    def __init__(self) -> None:
        self._others = set(threading.enumerate())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(ANSWER_WITHIN_S)

    def close(self) -> None:
        # Where aiosqlite cannot connect it ends its thread without waiting, and that has one more thing to tell the loop.
        for thread in set(threading.enumerate()) - self._others:
            if "_connection_worker_thread" in thread.name:
                thread.join(ANSWER_WITHIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_WITHIN_S)
        self._loop.close()


class Client:
    """A connection outside any pool.

    Attributes:
        flavour: whose errors are met.
        driver: the name of the driver in the URL.
    """

    def __init__(self, url: str | URL, flavour: str, *, isolation: str | None = None, **connect_args: Any) -> None:
        self.flavour = flavour
        self.driver = make_url(url).get_driver_name()
        options: dict[str, Any] = {"poolclass": NullPool, "connect_args": connect_args}
        if isolation is not None:
            options["isolation_level"] = isolation
        self._threads = ThreadPoolExecutor(max_workers=1)
        self._loop = _Loop() if self.driver in ASYNC_DRIVERS else None
        try:
            self._connection: Any
            if self._loop is not None:
                self._engine: Any = create_async_engine(url, **options)
                self._connection = self._loop.run(self._engine.connect().start())
            else:
                self._engine = create_engine(url, **options)
                self._connection = self._engine.connect()
        except BaseException:
            self._end()
            raise

    def execute(self, sql: str) -> list[Any]:
        """Run one statement in the open transaction (begun by the first); its rows, if it has any."""
        result = self._do(lambda connection: connection.exec_driver_sql(sql))
        return list(result.fetchall()) if result.returns_rows else []

    def start(self, sql: str) -> Future[list[Any]]:
        """Run one statement in another thread: it is expected to wait for a lock."""
        return self._threads.submit(self.execute, sql)

    def swallow(self, failing: str, following: str) -> None:
        """Run `following` while the error of `failing` is still being handled."""
        if self._loop is not None:
            self._loop.run(self._swallow(failing, following))
            return
        try:
            self.execute(failing)
        except Exception:
            self.execute(following)

    def commit(self) -> None:
        """COMMIT."""
        self._do(lambda connection: connection.commit())

    def rollback(self) -> None:
        """ROLLBACK."""
        self._do(lambda connection: connection.rollback())

    def fails(self, *statements: str) -> Failure:
        """What the error means that the last of `statements` raises in the body of a transaction."""
        *before, last = statements
        for statement in before:
            self.execute(statement)
        return self.failure(lambda: self.execute(last))

    def fails_to_commit(self) -> Failure:
        """What the error means that COMMIT raises."""
        return self.failure(self.commit, stage=Stage.COMMIT)

    def failure(self, action: Callable[[], object], *, stage: Stage = Stage.BODY) -> Failure:
        """What the error means that `action` raises."""
        with pytest.raises(Exception) as raised:
            action()
        return classify(raised.value, stage=stage, flavour=self.flavour)

    def raw(self) -> Any:
        """The driver's own connection."""
        if isinstance(self._connection, AsyncConnection):
            assert self._loop is not None
            return self._loop.run(self._connection.get_raw_connection()).driver_connection
        return self._connection.connection.driver_connection

    def close(self) -> None:
        """Roll back and close, in whatever state it is."""
        with suppress(Exception):
            self.rollback()
        with suppress(Exception):
            self._do(lambda connection: connection.close())
        self._end()

    def _end(self) -> None:
        self._threads.shutdown()
        if self._loop is not None:
            self._loop.run(self._engine.dispose())
            self._loop.close()

    def _do(self, action: Callable[[Any], Any]) -> Any:
        if self._loop is None:
            return action(self._connection)
        return self._loop.run(self._await(action))

    async def _swallow(self, failing: str, following: str) -> None:
        try:
            await self._connection.exec_driver_sql(failing)
        except Exception:
            await self._connection.exec_driver_sql(following)

    async def _await(self, action: Callable[[Any], Any]) -> Any:
        return await action(self._connection)


@contextmanager
def client(url: str | URL, flavour: str, **options: Any) -> Iterator[Client]:
    """A client for the length of a block."""
    connected = Client(url, flavour, **options)
    try:
        yield connected
    finally:
        connected.close()


def failure_to_connect(url: str | URL, flavour: str, **options: Any) -> Failure:
    """What the error means that connecting raises."""
    with pytest.raises(Exception) as raised, client(url, flavour, **options):
        pass
    return classify(raised.value, stage=Stage.CONNECT, flavour=flavour)
