"""Engines on real servers: every driver's sessions come ready, cost nothing more, and go back to the pool as they should."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import exc, text
from sqlalchemy.engine import Connection

from holdfast.deadline import within
from holdfast.drills.servers import Server
from holdfast.errors import ConfigurationError
from holdfast.ext.sqlalchemy.engines import READ_ONLY, open_endpoint, session_of
from holdfast.ext.sqlalchemy.settings import PoolSettings, SessionSettings, session_statement
from holdfast.faultproxy import Phase, Timeout
from holdfast.testing import fault_proxy
from tests.integration.at_once import PROCESSES, at_once
from tests.integration.endpoints import ASYNC, SYNC, Case, Opened, on, opening, url_of

ALL = [*SYNC, *ASYNC]
GENEROUS_S = 20.0
"""How long a test waits for what must come: only a bug makes it last."""
SERVERS = ("mariadb", "mysql", "postgresql")


@pytest.fixture
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """The endpoint of a case."""
    case: Case = request.param
    server: Server | None = None if case.flavour == "sqlite" else request.getfixturevalue(f"{case.flavour}_server")
    async with opening(url_of(request, case, tmp_path), case, server) as found:
        yield found


SHOWN: dict[str, dict[str, object]] = {
    "mariadb": {
        "@@SESSION.tx_isolation": "REPEATABLE-READ",
        "@@SESSION.innodb_snapshot_isolation": 1,
        "@@SESSION.innodb_lock_wait_timeout": 7,
        "@@SESSION.lock_wait_timeout": 7,
        "@@SESSION.max_statement_time": 8.25,
        "@@SESSION.idle_transaction_timeout": 9,
        "@@SESSION.time_zone": "+00:00",
        "@@SESSION.character_set_client": "utf8mb4",
        "@@SESSION.sql_mode LIKE '%STRICT_ALL_TABLES%'": 1,
    },
    "mysql": {
        "@@SESSION.transaction_isolation": "REPEATABLE-READ",
        "@@SESSION.innodb_lock_wait_timeout": 7,
        "@@SESSION.lock_wait_timeout": 7,
        "@@SESSION.max_execution_time": 7900,
        "@@SESSION.wait_timeout": 368,
        "@@SESSION.time_zone": "+00:00",
        "@@SESSION.character_set_client": "utf8mb4",
        "@@SESSION.sql_mode LIKE '%STRICT_ALL_TABLES%'": 1,
    },
    "postgresql": {
        "current_setting('transaction_isolation')": "repeatable read",
        "current_setting('lock_timeout')": "7900ms",
        "current_setting('statement_timeout')": "8250ms",
        "current_setting('idle_in_transaction_session_timeout')": "9s",
        "current_setting('TimeZone')": "UTC",
        "current_setting('client_connection_check_interval')": "1s",
    },
}
PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 7900}


@on(ALL, *SERVERS)
async def test_sessions_come_ready(opened: Opened) -> None:
    """Isolation, limits, strictness, time zone and character set are in force on the first connection."""
    assert await opened.scalar("SELECT 1") == 1
    assert opened.endpoint.flavour == opened.case.flavour
    expected = SHOWN[opened.case.flavour]
    row = await opened.run(lambda c: c.execute(text(f"SELECT {', '.join(expected)}")).one())
    assert dict(zip(expected, row, strict=True)) == expected


@on(ALL, "sqlite")
async def test_sqlite_comes_ready(opened: Opened) -> None:
    """WAL, full synchronisation, foreign keys and the wait for the lock are in force."""
    assert {name: await opened.scalar(f"PRAGMA {name}") for name in PRAGMAS} == PRAGMAS


@on(ALL, *SERVERS)
async def test_server_tells_its_version_and_whether_it_detects_conflicts(opened: Opened) -> None:
    """After the first connection the endpoint knows both; before it, no more than the URL says."""
    assert opened.endpoint.server_version is None
    await opened.scalar("SELECT 1")
    version = opened.endpoint.server_version
    assert version
    assert str(await opened.scalar("SELECT version()")).removeprefix("PostgreSQL ").startswith(version)
    assert opened.endpoint.detects_conflicts is (opened.case.flavour != "mysql")


@on(ALL, *SERVERS)
async def test_own_isolation_ends_with_its_transaction(opened: Opened) -> None:
    """A transaction with a level of its own has it, and the next one on the connection has the default."""
    variable = next(iter(SHOWN[opened.case.flavour]))

    def level(connection: Connection) -> str:
        return str(connection.scalar(text(f"SELECT {variable}"))).upper().replace("-", " ")

    assert await opened.run(level, isolation_level="READ COMMITTED") == "READ COMMITTED"
    assert await opened.run(level) == "REPEATABLE READ"


@on(ALL)
async def test_lost_update_is_refused(opened: Opened) -> None:
    """A transaction that writes a row that changed since its snapshot loses, except on MySQL, which cannot tell."""
    await opened.execute("CREATE TABLE counters (id INT PRIMARY KEY, n INT)", "INSERT INTO counters VALUES (1, 0)")
    try:

        def lose_an_update() -> None:
            with opened.engine.connect() as slow, opened.engine.connect() as fast:
                read = slow.exec_driver_sql("SELECT n FROM counters").scalar_one()
                if opened.server is not None:  # BEGIN IMMEDIATE lets the other one in only afterwards
                    fast.exec_driver_sql("UPDATE counters SET n = n + 1")
                    fast.commit()
                slow.exec_driver_sql(f"UPDATE counters SET n = {read + 1}")
                slow.commit()
                if opened.server is None:
                    fast.exec_driver_sql("UPDATE counters SET n = n + 1")
                    fast.commit()

        if opened.case.flavour in ("mysql", "sqlite"):
            await opened.call(lose_an_update)
        else:
            with pytest.raises(exc.DBAPIError, match=r"1020|could not serialize"):
                await opened.call(lose_an_update)
        assert await opened.scalar("SELECT n FROM counters") == (2 if opened.server is None else 1)
    finally:
        await opened.execute("DROP TABLE counters")


@on(ALL)
async def test_foreign_use_goes_back_rolled_back(opened: Opened) -> None:
    """What somebody leaves open on a connection is gone when it comes back from the pool."""
    await opened.execute("CREATE TABLE left_open (id INT PRIMARY KEY)")
    try:

        def leave_open() -> None:
            raw = opened.engine.raw_connection()
            cursor = raw.cursor()
            if opened.server is None:
                cursor.execute("BEGIN")
            cursor.execute("INSERT INTO left_open VALUES (1)")
            cursor.close()
            raw.close()

        await opened.call(leave_open)
        assert await opened.scalar("SELECT COUNT(*) FROM left_open") == 0
    finally:
        await opened.execute("DROP TABLE left_open")


@on(ALL, "mariadb", "mysql")
async def test_transaction_costs_its_own_statements_only(opened: Opened) -> None:
    """From checkout to return the server sees the statement and COMMIT; without the mark a ROLLBACK as well."""
    ask = "SHOW SESSION STATUS LIKE 'Questions'"

    def questions(*, clean: bool) -> int:
        with opened.engine.connect() as connection:
            before = int(connection.exec_driver_sql(ask).one()[1])
            connection.commit()
            session_of(connection).is_clean = clean
        with opened.engine.connect() as connection:
            return int(connection.exec_driver_sql(ask).one()[1]) - before

    counted = [await opened.call(partial(questions, clean=clean)) for clean in (True, False, True)]
    assert counted == [2, 3, 2]


@on(ALL)
async def test_retired_connections_are_replaced_once(opened: Opened) -> None:
    """After `retire` the next checkout has a new connection, and the one after that keeps it."""
    first = await opened.run(session_of)
    assert await opened.run(session_of) is first
    opened.endpoint.retire()
    second = await opened.run(session_of)
    assert second is not first
    assert await opened.run(session_of) is second


@pytest.mark.parametrize("case", [case for case in ALL if case.flavour in SERVERS], ids=str)
async def test_connection_that_died_idle_is_replaced(
    case: Case, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A session killed in the pool costs its next user nothing when it was idle long enough to be asked."""
    url = url_of(request, case, tmp_path)
    server: Server = request.getfixturevalue(f"{case.flavour}_server")
    async with opening(url, case, pool=PoolSettings(ping_after=0)) as opened:
        session = await opened.run(session_of)
        assert session.identity is not None
        number = session.identity.number
        server.execute(f"SELECT pg_terminate_backend({number})" if case.flavour == "postgresql" else f"KILL {number}")
        assert await opened.scalar("SELECT 1") == 1


@pytest.mark.parametrize("case", [case for case in ALL if case.flavour in ("mariadb", "postgresql")], ids=str)
async def test_connection_that_fell_silent_leaves_time_to_open_another(
    case: Case, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """No sign of life is waited for longer than half of what its user has left."""
    url = url_of(request, case, tmp_path)
    with fault_proxy(url) as proxy:
        async with opening(proxy.url, case, pool=PoolSettings(ping_after=0)) as opened:
            session = await opened.run(session_of)
            silence = proxy.add(
                Timeout(), Phase.BEFORE, on=lambda _: True, times=1
            )  # pings are met only by who asks for them
            with within(2.0):  # less than a sign of life has otherwise
                async with asyncio.timeout(GENEROUS_S):
                    assert await opened.run(session_of) is not session
            assert silence.hits == 1


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("driver", ["mysql+pymysql", "mysql+mysqldb", "postgresql+psycopg", "postgresql+psycopg2"])
def test_connecting_ends_with_the_deadline(driver: str, silent_port: int) -> None:
    """A server that accepts and then says nothing holds nobody longer than the deadline, rounded as the driver does."""
    patient = PoolSettings(connect_timeout=60)
    engine = open_endpoint(f"{driver}://app:pw@127.0.0.1:{silent_port}/db", pool=patient).engine
    began = time.monotonic()
    with within(0.3), pytest.raises(exc.OperationalError):
        engine.connect()
    assert time.monotonic() - began < 15


def test_waiting_for_the_pool_ends_with_the_deadline(sqlite_url: str) -> None:
    """When all connections are taken the next caller waits no longer than its deadline."""
    endpoint = open_endpoint(sqlite_url, pool=PoolSettings(size=1, open_max=1))
    endpoint.engine.dispose()  # the pool that takes its place keeps to deadlines too
    with endpoint.engine.connect():
        began = time.monotonic()
        with within(0.2), pytest.raises(exc.TimeoutError):
            endpoint.engine.connect()
        assert 0.1 < time.monotonic() - began < 8.0  # there is no other end to it within ten seconds
    endpoint.close()


def test_sqlite_readers_do_not_wait_for_the_writer(sqlite_url: str) -> None:
    """A read-only transaction runs beside a writer; a second writer waits, until its deadline."""
    endpoint = open_endpoint(sqlite_url)
    with endpoint.engine.connect() as writer, endpoint.engine.connect() as other:
        writer.exec_driver_sql("CREATE TABLE written (id INT)")
        reader = other.execution_options(**{READ_ONLY: True})
        assert reader.exec_driver_sql("SELECT COUNT(*) FROM sqlite_schema").scalar() == 0
        reader.rollback()
        began = time.monotonic()
        with within(0.4), pytest.raises(exc.OperationalError, match="locked"):
            other.execution_options(**{READ_ONLY: False}).exec_driver_sql("SELECT 1")
        assert 0.2 < time.monotonic() - began < 6.0  # without a deadline SQLite waits for ten seconds
    endpoint.close()


def test_sqlite_in_memory_is_one_database_for_all(sqlite_url: str) -> None:
    """Every connection sees the same database in memory, one transaction at a time, and `retire` does not lose it."""
    endpoint = open_endpoint("sqlite://")
    with endpoint.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE kept (id INT)")
    endpoint.retire()
    with endpoint.engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM kept").scalar() == 0
    endpoint.close()


_OPEN = """
from holdfast.ext.sqlalchemy.engines import open_endpoint

def work(url):
    endpoint = open_endpoint(url)
    for _ in range(20):
        with endpoint.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO opened VALUES (1)")
        endpoint.retire()
"""


def test_processes_open_one_new_sqlite_file_at_once(sqlite_url: str) -> None:
    """Processes that make the first connections to a file at the same moment all get in."""
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("CREATE TABLE opened (id INT)")
    at_once(_OPEN, sqlite_url)
    endpoint = open_endpoint(sqlite_url)
    with endpoint.engine.begin() as found:
        assert found.exec_driver_sql("SELECT COUNT(*) FROM opened").scalar() == 20 * PROCESSES
    endpoint.close()


@on(SYNC, *SERVERS)
async def test_url_settings_of_the_user_stand(opened: Opened) -> None:
    """The session's settings add to the server's own strictness instead of replacing it."""
    assert opened.server is not None
    if opened.case.flavour == "postgresql":
        url = opened.server.url(opened.case.driver) + "?options=-c%20work_mem%3D7MB&application_name=shop"
        async with opening(url, opened.case) as other:
            assert await other.scalar("SHOW work_mem") == "7MB"
            assert await other.scalar("SHOW lock_timeout") == "7900ms"
    else:
        with opened.server.global_setting("sql_mode", "PAD_CHAR_TO_FULL_LENGTH"):
            mode = str(await opened.scalar("SELECT @@SESSION.sql_mode"))
        assert {"PAD_CHAR_TO_FULL_LENGTH", "STRICT_ALL_TABLES"} <= set(mode.split(","))


@on(SYNC, "mariadb")
async def test_older_mariadb_gets_in_without_conflict_detection(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not know `innodb_snapshot_isolation` is asked once and then left alone about it."""

    def older(*arguments: Any, **options: Any) -> str:
        return session_statement(*arguments, **options).replace("innodb_snapshot_isolation", "no_such_variable")

    monkeypatch.setattr("holdfast.ext.sqlalchemy.engines.session_statement", older)
    assert await opened.scalar("SELECT @@SESSION.tx_isolation") == "REPEATABLE-READ"
    assert opened.endpoint.detects_conflicts is False


def test_engine_option_that_sqlalchemy_refuses_is_a_configuration_error() -> None:
    """A wrong engine option is told where it is given."""
    with pytest.raises(ConfigurationError, match="no_such_option"):
        open_endpoint("sqlite://", engine_options={"no_such_option": 1}, session=SessionSettings())
