"""Endpoints of every driver for the tests of the SQLAlchemy extension, used the same way in both modes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from sqlalchemy.engine import Connection
from sqlalchemy.util import greenlet_spawn

from holdfast.drills.servers import Server
from holdfast.ext.sqlalchemy.engines import Endpoint, open_endpoint
from holdfast.ext.sqlalchemy.settings import SessionSettings

T = TypeVar("T")


class Case(NamedTuple):
    """A flavour, a driver and a mode."""

    flavour: str
    driver: str
    asynchronous: bool

    def __str__(self) -> str:
        return f"{self.flavour}-{self.driver}{'-async' if self.asynchronous else ''}"


SYNC_DRIVERS = {
    "mariadb": ["pymysql", "mysqldb"],
    "mysql": ["pymysql", "mysqldb"],
    "postgresql": ["psycopg", "psycopg2"],
    "sqlite": ["pysqlite"],
}
ASYNC_DRIVERS = {
    "mariadb": ["asyncmy", "aiomysql"],
    "mysql": ["asyncmy", "aiomysql"],
    "postgresql": ["psycopg", "asyncpg"],
    "sqlite": ["aiosqlite"],
}
SYNC = [Case(flavour, driver, False) for flavour, drivers in SYNC_DRIVERS.items() for driver in drivers]
ASYNC = [Case(flavour, driver, True) for flavour, drivers in ASYNC_DRIVERS.items() for driver in drivers]


def on(cases: list[Case], *flavours: str) -> pytest.MarkDecorator:
    """Run a test on the `cases` of these flavours (all, if none is named); it takes them as the fixture `opened`."""
    chosen = [case for case in cases if not flavours or case.flavour in flavours]
    return pytest.mark.parametrize("opened", chosen, indirect=True, ids=str)


def url_of(request: pytest.FixtureRequest, case: Case, tmp_path: Path) -> str:
    """The URL of the case's database; starts its server if it has one."""
    if case.flavour == "sqlite":
        return f"sqlite+{case.driver}:///{tmp_path / 'holdfast.db'}"
    server: Server = request.getfixturevalue(f"{case.flavour}_server")
    return server.url(case.driver)


class Opened:
    """An endpoint under test."""

    def __init__(self, endpoint: Endpoint, case: Case, server: Server | None) -> None:
        self.endpoint = endpoint
        self.engine = endpoint.engine
        self.case = case
        self.server = server

    async def call(self, function: Callable[[], T]) -> T:
        """Call something synchronous that uses the engine: directly, or in a greenlet if the engine is asynchronous."""
        if self.endpoint.async_engine is None:
            return function()
        result: T = await greenlet_spawn(function)
        return result

    async def run(self, body: Callable[[Connection], T], **options: Any) -> T:
        """Call `body` with a connection that has these execution options, then commit."""

        def transaction() -> T:
            with self.engine.connect() as connection:
                result = body(connection.execution_options(**options))
                connection.commit()
                return result

        return await self.call(transaction)

    async def scalar(self, sql: str) -> Any:
        """The first column of the first row."""
        return await self.run(lambda connection: connection.exec_driver_sql(sql).scalar())

    async def execute(self, *statements: str) -> None:
        """Run statements in one transaction each."""
        for sql in statements:
            await self.run(partial(Connection.exec_driver_sql, statement=sql))


@asynccontextmanager
async def opening(url: str, case: Case, server: Server | None = None, **settings: Any) -> AsyncIterator[Opened]:
    """An endpoint, disposed at the end of the block."""
    settings.setdefault("session", SessionSettings(deadline=8.0))
    endpoint = open_endpoint(url, asynchronous=case.asynchronous, **settings)
    try:
        yield Opened(endpoint, case, server)
    finally:
        await endpoint.aclose() if case.asynchronous else endpoint.close()
