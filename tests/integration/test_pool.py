"""The pool at a server that has fewer connections than the pool may open."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text

from holdfast.drills.servers import Server
from holdfast.ext.sqlalchemy import AsyncDatabase, Database, DatabaseSettings, PoolSettings

SETTINGS = DatabaseSettings(deadline=60.0, pool=PoolSettings(size=24, open_max=24))
CALLERS = 24


@contextmanager
def few_connections(server: Server) -> Iterator[None]:
    """Let the application have some connections only."""
    if server.flavour == "postgresql":
        server.execute(f"ALTER ROLE {server.user} CONNECTION LIMIT 5")
        try:
            yield
        finally:
            server.execute(f"ALTER ROLE {server.user} CONNECTION LIMIT -1")
    else:
        with server.global_setting("max_connections", 10):
            yield


SLOW = {"postgresql": "SELECT 1 FROM pg_sleep(0.1)", "mariadb": "SELECT SLEEP(0.1)", "mysql": "SELECT SLEEP(0.1)"}


@pytest.mark.parametrize(("flavour", "driver"), [("mariadb", "pymysql"), ("postgresql", "psycopg")])
def test_threads_share_what_the_server_has(flavour: str, driver: str, request: pytest.FixtureRequest) -> None:
    """More callers than the server has connections: they wait for each other's, and every one is served."""
    server: Server = request.getfixturevalue(f"{flavour}_server")
    with Database(server.url(driver), SETTINGS) as db:
        db.migrate()

        def work(session: Any) -> None:
            session.execute(text(SLOW[flavour]))

        with few_connections(server), ThreadPoolExecutor(CALLERS) as pool:
            futures = [pool.submit(db.run, work) for _ in range(2 * CALLERS)]
            assert [future.exception() for future in futures] == [None] * len(futures)


@pytest.mark.parametrize(("flavour", "driver"), [("mariadb", "asyncmy"), ("postgresql", "asyncpg")])
async def test_tasks_share_what_the_server_has(flavour: str, driver: str, request: pytest.FixtureRequest) -> None:
    """The same in an event loop."""
    server: Server = request.getfixturevalue(f"{flavour}_server")
    async with AsyncDatabase(server.url(driver), SETTINGS) as db:
        await db.migrate()

        async def work(session: Any) -> None:
            await session.execute(text(SLOW[flavour]))

        with few_connections(server):
            done = await asyncio.gather(*(db.run(work) for _ in range(2 * CALLERS)), return_exceptions=True)
        assert [error for error in done if error is not None] == []
