"""What is stopped stops: the blocked caller at once, and the work on the server soon after."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import exc
from sqlalchemy.engine import Connection

from holdfast.clock import SYSTEM_CLOCK
from holdfast.dialects import Flavour
from holdfast.drills.servers import Server
from holdfast.drills.servers.process import free_port
from holdfast.ext.sqlalchemy.engines import open_endpoint, session_of
from holdfast.ext.sqlalchemy.interrupt import Identity, connection_id, cut
from holdfast.ext.sqlalchemy.killer import AsyncKiller, Killer
from holdfast.ext.sqlalchemy.settings import SessionSettings
from holdfast.ext.sqlalchemy.watchdog import WATCHDOG
from tests.integration.endpoints import ASYNC, SYNC, Case, Opened, on, opening, url_of

SERVERS = ("mariadb", "mysql", "postgresql")
SLEEP = {"mariadb": "SELECT SLEEP(60)", "mysql": "SELECT SLEEP(60)", "postgresql": "SELECT pg_sleep(60)"}
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT MAX(i) FROM n"
STOPPED_WITHIN_S = 6.0
"""How soon a blocked caller is free again: on a busy machine a thread waits a while for its turn. The server needs 8 s."""

PATIENCE_S = 60.0
"""For what happens soon or never."""


@pytest.fixture
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """The endpoint of a case."""
    case: Case = request.param
    server: Server | None = None if case.flavour == "sqlite" else request.getfixturevalue(f"{case.flavour}_server")
    async with opening(url_of(request, case, tmp_path), case, server) as found:
        yield found


class Told:
    """Remembers what a killer tells, and waits for it."""

    def __init__(self, expected: int = 1) -> None:
        self.answers: list[bool] = []
        self._expected = expected
        self._complete = threading.Event()

    def __call__(self, found: bool) -> None:
        self.answers.append(found)
        if len(self.answers) == self._expected:
            self._complete.set()

    async def wait(self) -> list[bool]:
        """The answers, when all have come."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not self._complete.is_set() and time.monotonic() < give_up_at:  # noqa: ASYNC110 - set by a thread
            await asyncio.sleep(0.05)
        return self.answers


def is_there(server: Server, number: int) -> bool:
    """Whether the server still has this session."""
    if server.flavour == "postgresql":
        found = server.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {number}")
    else:
        found = server.execute(f"SELECT 1 FROM information_schema.PROCESSLIST WHERE ID = {number}")
    return bool(found)


async def wait_until_gone(server: Server, number: int) -> bool:
    """Whether the server lets go of the session: long before a statement that it runs would end by itself."""
    give_up_at = time.monotonic() + PATIENCE_S / 2
    while is_there(server, number):
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(0.05)
    return True


@on(SYNC, *SERVERS)
async def test_blocked_call_is_cut_and_killed(opened: Opened) -> None:
    """A call that would last a minute returns with an error when its time is up, and its session ends on the server."""
    assert opened.server is not None
    assert isinstance(opened.endpoint.killer_of(opened.endpoint.host), Killer)
    told = Told()
    killer = opened.endpoint.killer_of(opened.endpoint.host)
    connection = opened.engine.connect()
    identity = session_of(connection).identity
    assert identity is not None
    raw = connection.connection.driver_connection
    began = time.monotonic()
    with WATCHDOG.guard(raw, began + 0.3, lambda: killer.kill_soon(identity, told)) as guard:
        with pytest.raises(exc.DBAPIError) as raised:
            connection.exec_driver_sql(SLEEP[opened.case.flavour])
        assert raised.value.connection_invalidated
        assert 0.25 < time.monotonic() - began < STOPPED_WITHIN_S
    assert guard.fired
    connection.close()
    assert await told.wait() == [True]
    assert await wait_until_gone(opened.server, identity.number)


@on(SYNC, *SERVERS)
async def test_wait_for_a_lock_is_cut(opened: Opened) -> None:
    """A caller that waits for a row lock gets away at its deadline; the lock's holder is not touched."""
    await opened.execute("CREATE TABLE locked (id INT PRIMARY KEY)", "INSERT INTO locked VALUES (1)")
    try:
        with opened.engine.connect() as holder:
            holder.exec_driver_sql("UPDATE locked SET id = 2")
            waiter = opened.engine.connect()
            began = time.monotonic()
            with WATCHDOG.guard(waiter.connection.driver_connection, began + 0.3), pytest.raises(exc.DBAPIError):
                waiter.exec_driver_sql("UPDATE locked SET id = 3")
            waited_s = time.monotonic() - began
            waiter.close()
            holder.commit()
        assert waited_s < STOPPED_WITHIN_S
        assert await opened.scalar("SELECT id FROM locked") == 2
    finally:
        await opened.execute("DROP TABLE locked")


@on(ASYNC, *SERVERS)
async def test_cancelled_call_is_killed(opened: Opened) -> None:
    """After a task is cancelled in the middle of a query, its connection closes at once and its session ends as well."""
    assert opened.server is not None
    assert isinstance(opened.endpoint.killer_of(opened.endpoint.host), AsyncKiller)
    assert opened.endpoint.async_engine is not None
    told = Told()
    connection = await opened.endpoint.async_engine.connect()
    identity = await connection.run_sync(lambda c: session_of(c).identity)
    assert identity is not None
    raw = (await connection.get_raw_connection()).driver_connection
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await connection.exec_driver_sql(SLEEP[opened.case.flavour])
    began = time.monotonic()
    opened.endpoint.killer_of(opened.endpoint.host).kill_soon(identity, told)
    cut(raw)
    await connection.invalidate()
    await connection.close()
    assert time.monotonic() - began < STOPPED_WITHIN_S
    # PostgreSQL's drivers ask the server to stop as well, and may be first.
    assert await told.wait() == [True] or opened.case.flavour == "postgresql"
    assert await wait_until_gone(opened.server, identity.number)


@on(ASYNC, *SERVERS)
async def test_cut_alone_ends_a_blocked_call(opened: Opened) -> None:
    """A task that waits for an answer gets an error as soon as its connection is cut."""
    assert opened.endpoint.async_engine is not None
    connection = await opened.endpoint.async_engine.connect()
    raw = (await connection.get_raw_connection()).driver_connection
    asyncio.get_running_loop().call_later(0.2, cut, raw)
    began = time.monotonic()
    with pytest.raises(exc.DBAPIError):
        await connection.exec_driver_sql(SLEEP[opened.case.flavour])
    assert time.monotonic() - began < STOPPED_WITHIN_S
    await connection.close()


def test_sqlite_statement_is_interrupted_and_the_next_one_too(sqlite_url: str) -> None:
    """SQLite has no connection to cut: every statement is interrupted until the guard is closed, and then none."""
    endpoint = open_endpoint(sqlite_url)
    with endpoint.engine.connect() as connection:
        began = time.monotonic()
        with WATCHDOG.guard(connection.connection.driver_connection, began + 0.1) as guard:
            for _ in range(2):
                with pytest.raises(exc.OperationalError, match="interrupted"):
                    connection.exec_driver_sql(ENDLESS)
        assert guard.fired
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    endpoint.close()


@pytest.mark.parametrize("begun", [True, False])
async def test_sqlite_statement_of_a_task_is_interrupted(begun: bool, sqlite_url: str) -> None:
    """Who is cancelled leaves no statement behind in aiosqlite's thread, also one that only begins after that."""
    endpoint = open_endpoint(sqlite_url, asynchronous=True)
    assert endpoint.async_engine is not None
    begins = threading.Event()
    async with endpoint.async_engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        raw._tx.put_nowait((None, begins.wait))
        work = asyncio.ensure_future(raw.execute(ENDLESS))
        await asyncio.sleep(0)
        if begun:
            begins.set()
            await asyncio.sleep(0.1)
        else:
            asyncio.get_running_loop().call_later(0.3, begins.set)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await connection.invalidate()
        await asyncio.to_thread(raw._thread.join, PATIENCE_S)
        assert not raw._thread.is_alive()
    await endpoint.aclose()


@on([*SYNC, *ASYNC], *SERVERS)
async def test_session_with_another_port_is_left_alone(opened: Opened) -> None:
    """The number alone is not enough: it may belong to somebody else, on another server behind the same address."""
    killer = opened.endpoint.killer_of(opened.endpoint.host)
    assert killer is not None
    identity = await opened.run(lambda c: session_of(c).identity)
    assert identity is not None
    assert identity.port is not None
    told = Told(3)
    for asked in (replace(identity, port=identity.port + 1), replace(identity, port=None), identity):
        killer.kill_soon(asked, told)
    assert await told.wait() == [False, False, True]


async def test_postgresql_notices_by_itself_that_its_client_has_gone(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Where nothing can be killed, as behind a proxy, a statement ends long before its limit once its client is cut off."""
    case = Case("postgresql", "psycopg", False)
    server: Server = request.getfixturevalue("postgresql_server")
    async with opening(server.url("psycopg"), case, session=SessionSettings(deadline=600.0)) as opened:
        connection = opened.engine.connect()
        identity = session_of(connection).identity
        assert identity is not None
        raw = connection.connection.driver_connection
        with WATCHDOG.guard(raw, time.monotonic() + 0.1), pytest.raises(exc.DBAPIError):
            connection.exec_driver_sql("SELECT pg_sleep(600)")
        connection.close()
        assert await wait_until_gone(server, identity.number)


@pytest.mark.parametrize("case", [case for case in SYNC if case.flavour in ("mariadb", "postgresql")], ids=str)
async def test_session_on_a_unix_socket_is_killed(case: Case, request: pytest.FixtureRequest) -> None:
    """Over a Unix socket there is no port, and the server says so too."""
    server: Server = request.getfixturevalue(f"{case.flavour}_server")
    place = f"unix_socket={server.folder}/socket"
    url = server.url(case.driver).replace(
        f"{server.host}:{server.port}", "" if case.flavour == "postgresql" else "localhost"
    )
    url += f"?host={server.folder}&port={server.port}" if case.flavour == "postgresql" else f"?{place}"
    async with opening(url, case) as opened:
        identity = await opened.run(lambda c: session_of(c).identity)
        assert identity is not None
        assert identity.port is None
        told = Told()
        assert opened.endpoint.killer_of(opened.endpoint.host) is not None
        opened.endpoint.killer_of(opened.endpoint.host).kill_soon(identity, told)
        assert await told.wait() == [True]
        assert await wait_until_gone(server, identity.number)


@on([*SYNC, *ASYNC], *SERVERS)
async def test_number_is_the_servers(opened: Opened) -> None:
    """Every driver tells the number under which its server knows the session."""
    sql = "SELECT pg_backend_pid()" if opened.case.flavour == "postgresql" else "SELECT CONNECTION_ID()"

    def both(connection: Connection) -> tuple[int | None, int | None]:
        return connection.exec_driver_sql(sql).scalar(), connection_id(connection.connection.driver_connection)

    told, known = await opened.run(both)
    assert told == known


async def test_unreachable_server_is_told_as_not_killed() -> None:
    """Nothing is raised when there is nobody to ask."""
    endpoint = open_endpoint(f"mysql+pymysql://app:pw@127.0.0.1:{free_port()}/db")
    assert endpoint.address.backend != "sqlite"
    told = Told(2)
    endpoint.killer_of(endpoint.host).kill_soon(None, told)
    endpoint.killer_of(endpoint.host).kill_soon(Identity(Flavour.MYSQL, 1, 1), told)
    endpoint.killer_of(endpoint.host).kill_soon(Identity(Flavour.MYSQL, 2, 1), told)
    assert await told.wait() == [False, False]


@pytest.mark.parametrize(
    ("driver", "asynchronous"), [("mysql+pymysql", False), ("mysql+asyncmy", True), ("postgresql+asyncpg", True)]
)
async def test_silent_server_holds_no_killer(driver: str, asynchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and says nothing is given up after a while, so that closing does not wait for it."""
    monkeypatch.setattr("holdfast.ext.sqlalchemy.killer.BATCH_WITHIN_S", 0.3)
    monkeypatch.setattr("holdfast.ext.sqlalchemy.engines.SIDE_CONNECT_TIMEOUT_S", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"{driver}://app:pw@127.0.0.1:{listener.getsockname()[1]}/db"
        endpoint = open_endpoint(url, asynchronous=asynchronous)
        assert endpoint.address.backend != "sqlite"
        told = Told()
        endpoint.killer_of(endpoint.host).kill_soon(Identity(Flavour(url.partition("+")[0]), 1, 1), told)
        assert await told.wait() == [False]
        if asynchronous:
            await endpoint.aclose()


def test_guarding_is_cheap() -> None:
    """Putting a connection under guard and taking it out again takes less than 3 microseconds at best."""
    target, far = object(), SYSTEM_CLOCK.monotonic() + 3600

    def once() -> float:
        began = time.perf_counter()
        for _ in range(2_000):
            WATCHDOG.guard(target, far).close()
        return (time.perf_counter() - began) / 2_000

    assert min(once() for _ in range(20)) < 3e-6
