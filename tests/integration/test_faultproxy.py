"""The fault proxy in front of real servers, with every driver: what it says was committed was, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from holdfast.ext.sqlalchemy import Database
from holdfast.faultproxy import FaultProxy, Handle, Kind, Latency, Phase, Queue, ResetPeer, Statement, Stream, Timeout
from holdfast.testing import DatabaseProxy, fault_proxy

SOON_S = 30.0
TABLE = "faultproxy_rows"
DRIVERS = {
    "mariadb": ["pymysql", "mysqldb", "mysqlconnector", "asyncmy", "aiomysql"],
    "mysql": ["pymysql", "mysqldb", "mysqlconnector", "asyncmy", "aiomysql"],
    "postgresql": ["psycopg", "psycopg2", "asyncpg"],
}
ASYNC = {"asyncmy", "aiomysql", "asyncpg"}
MODULES = {"mysqldb": "MySQLdb", "mysqlconnector": "mysql.connector"}


class Behind(NamedTuple):
    """A server behind a proxy."""

    proxy: DatabaseProxy
    server: Any
    driver: str
    events: list[dict[str, Any]]

    def rows(self) -> set[int]:
        """What is committed, asked past the proxy."""
        return {row[0] for row in self.server.execute(f"SELECT id FROM {TABLE}")}

    def sessions(self) -> int:
        """How many sessions of the application the server has."""
        users = (
            "pg_stat_activity WHERE usename"
            if self.server.flavour == "postgresql"
            else "information_schema.processlist WHERE user"
        )
        return int(self.server.execute(f"SELECT count(*) FROM {users} = '{self.server.user}'")[0][0])

    def told(self, *kinds: str) -> list[str]:
        """The events of these kinds, in order."""
        return [event["f"] for event in self.events if event["f"] in kinds]

    def address(self) -> dict[str, Any]:
        """What a driver connects to."""
        url = make_url(self.proxy.url)
        return {
            "host": url.host,
            "port": url.port,
            "user": url.username,
            "password": url.password,
            "dbname" if self.server.flavour == "postgresql" else "database": url.database,
        }


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < give_up_at, "it never came true"
        time.sleep(0.02)


@contextlib.contextmanager
def standing_before(request: pytest.FixtureRequest, flavour: str, driver: str) -> Iterator[Behind]:
    pytest.importorskip(MODULES.get(driver, driver))
    server = request.getfixturevalue(f"{flavour}_server")
    server.execute(f"DROP TABLE IF EXISTS {TABLE}")
    server.execute(
        f"CREATE TABLE {TABLE} (id int PRIMARY KEY, note {'text' if flavour == 'postgresql' else 'longtext'})"
    )
    if flavour == "postgresql":
        server.execute(f"GRANT ALL ON {TABLE} TO {server.user}")
    events: list[dict[str, Any]] = []
    with fault_proxy(server.url(driver), on_event=events.append) as proxy:
        behind = Behind(proxy, server, driver, events)
        wait_until(lambda: behind.sessions() == 0)
        yield behind
        proxy.heal()
        wait_until(lambda: behind.sessions() == 0)


@pytest.fixture
def behind(request: pytest.FixtureRequest) -> Iterator[Behind]:
    with standing_before(request, *request.param) as found:
        yield found


def before(*cases: tuple[str, str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("behind", cases, indirect=True, ids="-".join)


EVERY = before(*((flavour, driver) for flavour, drivers in DRIVERS.items() for driver in drivers))


def with_engine(behind: Behind, use: Callable[[Engine], None]) -> None:
    """Call `use` with an engine of the driver; in a greenlet, if the driver is asynchronous."""
    if behind.driver not in ASYNC:
        engine = create_engine(behind.proxy.url, poolclass=NullPool)
        use(engine)
        engine.dispose()
        return

    async def run() -> None:
        async_engine = create_async_engine(behind.proxy.url, poolclass=NullPool)
        await greenlet_spawn(use, async_engine.sync_engine)
        await async_engine.dispose()

    asyncio.run(run())


def insert(connection: Connection, number: int) -> None:
    connection.execute(text(f"INSERT INTO {TABLE} VALUES (:number, 'note')"), {"number": number})


def add_row(engine: Engine, number: int) -> None:
    with engine.begin() as connection:
        insert(connection, number)


# -- the matrix ----------------------------------------------------------------------------------------------------------


def is_insert(statement: Statement) -> bool:
    return statement.text.lstrip().startswith("INSERT")


class Cut(NamedTuple):
    """A fault, and what must have become of the transaction it met."""

    arm: Callable[[FaultProxy], Handle]
    committed: bool
    commit_forwarded: bool


CUTS = {
    "after COMMIT": Cut(FaultProxy.cut_after_next_commit, committed=True, commit_forwarded=True),
    "before COMMIT": Cut(FaultProxy.cut_before_next_commit, committed=False, commit_forwarded=False),
    "black hole after COMMIT": Cut(
        lambda proxy: proxy.add(Timeout(timeout=0.2), Phase.ANSWERED, on=Kind.COMMIT, times=1), True, True
    ),
    "black hole before COMMIT": Cut(
        lambda proxy: proxy.add(Timeout(timeout=0.2), Phase.BEFORE, on=Kind.COMMIT, times=1), False, False
    ),
    "before INSERT": Cut(lambda proxy: proxy.add(ResetPeer(), Phase.BEFORE, on=is_insert, times=1), False, False),
    "after INSERT": Cut(lambda proxy: proxy.add(ResetPeer(), Phase.ANSWERED, on=is_insert, times=1), False, False),
    "ghost before COMMIT": Cut(
        lambda proxy: proxy.add(ResetPeer(ghost=True), Phase.BEFORE, on=Kind.COMMIT, times=1), False, False
    ),
}


def play(behind: Behind, cut: Cut) -> set[int]:
    """One transaction in peace, one that meets `cut`, one in peace again; the rows that are there then."""

    def use(engine: Engine) -> None:
        add_row(engine, 1)
        handle = cut.arm(behind.proxy)
        with pytest.raises(Exception) as raised:
            add_row(engine, 2)
        assert type(raised.value).__module__.startswith("sqlalchemy"), raised.value
        assert handle.hits == 1
        behind.proxy.heal()
        add_row(engine, 3)

    with_engine(behind, use)
    return behind.rows()


@EVERY
@pytest.mark.parametrize("name", CUTS)
def test_fault_matrix(behind: Behind, name: str) -> None:
    """Each fault loses the connection, and the transaction was committed exactly if the proxy says so; the rest is untouched."""
    cut = CUTS[name]
    assert play(behind, cut) == ({1, 2, 3} if cut.committed else {1, 3})
    forwarded = ["commit-seen", "commit-forwarded"] if cut.commit_forwarded else ["commit-seen"]
    peace = ["commit-seen", "commit-forwarded", "commit-answered"]
    met = [*(forwarded if "INSERT" not in name else []), "cut"]
    assert behind.told("commit-seen", "commit-forwarded", "commit-answered", "cut")[-len(met) - 6 :] == [
        *peace,
        *met,
        *peace,
    ]
    counters = behind.proxy.counters()
    assert counters.cuts == 1
    assert counters.commits_answered == counters.commits - ("INSERT" not in name)


@before(("mariadb", "pymysql"), ("postgresql", "psycopg"))
def test_planted_mistaken_phases_are_found(behind: Behind) -> None:
    """The matrix goes red for a proxy that cuts before COMMIT where it says after, and the other way round."""
    for name, other in (("after COMMIT", "before COMMIT"), ("before COMMIT", "after COMMIT")):
        behind.server.execute(f"DELETE FROM {TABLE}")
        mistaken = CUTS[name]._replace(arm=CUTS[other].arm)
        assert play(behind, mistaken) != ({1, 2, 3} if mistaken.committed else {1, 3})


@EVERY
def test_forwarded_and_delivered(behind: Behind) -> None:
    """A reset right after COMMIT was forwarded loses its answer; one after the answer was delivered loses nothing of it."""

    def use(engine: Engine) -> None:
        behind.proxy.add(ResetPeer(), Phase.FORWARDED, on=Kind.COMMIT, times=1)
        with pytest.raises(Exception, match=r".") as raised:
            add_row(engine, 1)
        assert type(raised.value).__module__.startswith("sqlalchemy"), raised.value
        handle = behind.proxy.add(ResetPeer(), Phase.DELIVERED, on=Kind.COMMIT, times=1)
        with contextlib.suppress(Exception):  # what the driver says as it closes
            add_row(engine, 2)
        wait_until(lambda: handle.hits == 1)  # the client has its answer before the proxy counts

    with_engine(behind, use)
    # The server was sent it whole, and carries it out although nobody waits.
    wait_until(lambda: behind.rows() == {1, 2})
    assert behind.told("commit-answered", "cut")[-3:] == ["cut", "commit-answered", "cut"]


@EVERY
def test_transactions_are_counted(behind: Behind) -> None:
    """Three transactions, two committed: as many begins and commits, whether the driver sends a BEGIN or not."""

    def use(engine: Engine) -> None:
        with engine.connect() as connection:
            connection.rollback()
            start = behind.proxy.counters()
            for number in range(3):
                insert(connection, number)
                connection.rollback() if number == 1 else connection.commit()
            end = behind.proxy.counters()
        assert (end.begins - start.begins, end.commits - start.commits) == (3, 2)
        assert end.commits_answered - start.commits_answered == 2
        assert end.rollbacks - start.rollbacks == 1
        assert end.statements - start.statements >= 6  # some drivers send a BEGIN of their own, or a setting

    with_engine(behind, use)


# -- prepared statements, several statements, pipelines ------------------------------------------------------------------


@before(("mariadb", "mysqlconnector"), ("mysql", "mysqlconnector"))
@pytest.mark.parametrize("name", ["after COMMIT", "before COMMIT"])
def test_prepared_commit_of_mysql(behind: Behind, name: str) -> None:
    """A COMMIT that was prepared before is met when it is executed, not when it is prepared."""
    import mysql.connector

    connection = mysql.connector.connect(**behind.address(), use_pure=True)
    cursor = connection.cursor(prepared=True)
    cursor.execute(f"INSERT INTO {TABLE} VALUES (%s, %s)", (1, "note"))
    handle = CUTS[name].arm(behind.proxy)
    with pytest.raises(mysql.connector.Error):
        cursor.execute("COMMIT")
    assert handle.hits == 1
    wait_until(lambda: behind.rows() == ({1} if CUTS[name].committed else set()))
    with contextlib.suppress(Exception):
        connection.close()


@before(("postgresql", "psycopg"))
@pytest.mark.parametrize("name", ["after COMMIT", "before COMMIT"])
@pytest.mark.parametrize("pipelined", [False, True])
def test_prepared_commit_of_psycopg(behind: Behind, name: str, pipelined: bool) -> None:
    """The same over the extended protocol, also in a pipeline."""
    import psycopg

    connection = psycopg.connect(**behind.address(), autocommit=True)
    connection.execute("BEGIN", prepare=True)
    handle = CUTS[name].arm(behind.proxy)
    with pytest.raises(psycopg.Error), connection.pipeline() if pipelined else contextlib.nullcontext():
        connection.execute(f"INSERT INTO {TABLE} VALUES (%s)", (1,), prepare=True)
        connection.execute("COMMIT", prepare=True)
    assert handle.hits == 1
    wait_until(lambda: behind.rows() == ({1} if CUTS[name].committed else set()))
    connection.close()


@before(("postgresql", "asyncpg"))
@pytest.mark.parametrize("name", ["after COMMIT", "before COMMIT"])
def test_prepared_commit_of_asyncpg(behind: Behind, name: str) -> None:
    """The same with the driver that prepares everything."""
    import asyncpg

    address = behind.address()
    address["database"] = address.pop("dbname")

    async def run() -> None:
        connection = await asyncpg.connect(**address)
        await connection.fetch("BEGIN")
        await connection.fetch(f"INSERT INTO {TABLE} VALUES ($1)", 1)
        prepared = await connection.prepare("COMMIT")
        handle = CUTS[name].arm(behind.proxy)
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await prepared.fetch()
        assert handle.hits == 1
        connection.terminate()

    asyncio.run(run())
    wait_until(lambda: behind.rows() == ({1} if CUTS[name].committed else set()))


@before(("mariadb", "pymysql"), ("mysql", "pymysql"))
def test_several_statements_in_one_text(behind: Behind) -> None:
    """A COMMIT among them is met, and the answer to all of them awaited."""
    import pymysql
    from pymysql.constants import CLIENT

    connection = pymysql.connect(**behind.address(), client_flag=CLIENT.MULTI_STATEMENTS)
    behind.proxy.cut_after_next_commit()
    with pytest.raises(pymysql.Error):
        connection.cursor().execute(f"INSERT INTO {TABLE} VALUES (1, 'x'); SELECT SLEEP(0.2); COMMIT")
    assert behind.rows() == {1}


@before(("mariadb", "pymysql"), ("postgresql", "psycopg"))
@pytest.mark.parametrize("name", ["after COMMIT", "before COMMIT"])
def test_holdfast_applies_once(behind: Behind, name: str) -> None:
    """A keyed operation that loses its COMMIT, on MariaDB one within a block of statements, is applied exactly once."""
    with Database(behind.proxy.url) as db:
        db.migrate()
        operation = db.transaction(name="insert")(lambda tx: insert(tx.connection(), 1))
        handle = CUTS[name].arm(behind.proxy)
        operation.keyed(f"insert-{time.monotonic_ns()}")()
    assert handle.hits == 1
    assert behind.rows() == {1}


# -- what is long, what is hidden, what is not a statement ---------------------------------------------------------------


@before(("mariadb", "pymysql"), ("mysql", "mysqlconnector"), ("postgresql", "psycopg"), ("postgresql", "asyncpg"))
def test_a_statement_of_more_than_16_mib(behind: Behind) -> None:
    """It passes, is met like any other, and comes back as a row as long."""
    note = "0123456789abcdef" * (17 << 16)

    def use(engine: Engine) -> None:
        def add(number: int) -> None:
            with engine.begin() as connection:
                connection.execute(text(f"INSERT INTO {TABLE} VALUES (:id, :note)"), {"id": number, "note": note})

        add(1)
        behind.proxy.add(ResetPeer(), Phase.ANSWERED, on=is_insert, times=1)
        with pytest.raises(Exception, match=r"."):
            add(2)
        behind.proxy.cut_after_next_commit()
        with pytest.raises(Exception, match=r"."):
            add(3)
        with engine.connect() as connection:
            assert connection.scalar(text(f"SELECT note FROM {TABLE} WHERE id = 1")) == note

    if behind.server.flavour == "postgresql":
        with_engine(behind, use)
    else:
        with behind.server.global_setting("max_allowed_packet", 64 << 20):
            with_engine(behind, use)
    assert behind.rows() == {1, 3}


@before(("mariadb", "pymysql"), ("mysql", "pymysql"))
def test_local_infile_passes(behind: Behind, tmp_path: Path) -> None:
    """A file that the server asks for is no statement, whatever it says; the statements after it are met."""
    import pymysql

    file = tmp_path / "rows.csv"
    file.write_text("".join(f"{number}\tCOMMIT\n" for number in range(50_000)))
    with behind.server.global_setting("local_infile", 1):
        connection = pymysql.connect(**behind.address(), local_infile=True)
        connection.cursor().execute(f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE {TABLE}")
        before_commit = behind.proxy.counters()
        connection.commit()
        connection.close()
    assert len(behind.rows()) == 50_000
    assert before_commit.commits == 0
    assert behind.proxy.counters().commits_answered == 1


@before(("postgresql", "psycopg"))
def test_copy_and_cancel_pass(behind: Behind) -> None:
    """COPY both ways; a cancellation, which is a connection of its own."""
    import psycopg

    with psycopg.connect(**behind.address()) as connection:
        with connection.cursor().copy(f"COPY {TABLE} FROM STDIN") as copy:
            for number in range(10_000):
                copy.write_row((number, "COMMIT"))
        with connection.cursor().copy(f"COPY {TABLE} TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 10_000
        connection.commit()
        # Not cancel(): it waits in C without letting other threads run, and the proxy is one of them.
        timer = threading.Timer(0.2, connection.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(30)")
        timer.join()
    assert len(behind.rows()) == 10_000


@before(("postgresql", "psycopg"), ("postgresql", "psycopg2"))
def test_tls_is_refused_as_by_a_server_without(behind: Behind) -> None:
    """A client that insists on TLS says so itself."""
    driver = pytest.importorskip(behind.driver)
    with pytest.raises(driver.OperationalError, match="server does not support SSL"):
        driver.connect(**behind.address(), sslmode="require")


@before(("mariadb", "pymysql"), ("mysql", "pymysql"))
def test_tls_is_refused_in_words(behind: Behind) -> None:
    """It is not offered; a client that asks all the same is told what to do."""
    with socket.create_connection((behind.proxy.host, behind.proxy.port), timeout=SOON_S) as client:
        greeting = client.recv(4096)
        low = greeting.index(0, 5) + 14
        assert not int.from_bytes(greeting[low : low + 2], "little") & (1 << 11)
        client.sendall(b"\x20\0\0\1" + (0x00AFF7DF | 1 << 11).to_bytes(4, "little") + b"\0" * 28)
        assert b"refuses TLS" in client.recv(4096)
        assert client.recv(1) == b""
    assert behind.told("refuse") == ["refuse"]


# -- by hand, while it runs ----------------------------------------------------------------------------------------------


@before(("mariadb", "pymysql"), ("mysql", "pymysql"), ("postgresql", "psycopg"))
def test_heal_leaves_no_session(behind: Behind) -> None:
    """Ghosts and black holes keep their sessions, and what those have locked, until they are healed."""

    def use(engine: Engine) -> None:
        behind.proxy.add(ResetPeer(ghost=True), Phase.BEFORE, on=Kind.COMMIT, times=3)
        for number in range(3):
            with pytest.raises(Exception, match=r"."):
                add_row(engine, number)

    with_engine(behind, use)
    assert behind.sessions() == 3
    assert behind.rows() == set()
    behind.proxy.heal()
    wait_until(lambda: behind.sessions() == 0)
    with_engine(behind, lambda engine: add_row(engine, 0))
    assert behind.rows() == {0}


@before(("mariadb", "pymysql"), ("postgresql", "psycopg"))
def test_latency_of_commits_alone(behind: Behind) -> None:
    """At a phase latency delays one answer: that of the statement it is for."""

    def use(engine: Engine) -> None:
        for phase, stream in ((Phase.BEFORE, None), (Phase.FORWARDED, None), (Phase.ANSWERED, Stream.DOWNSTREAM)):
            handle = behind.proxy.add(Latency(0.3), phase, on=Kind.COMMIT, stream=stream)
            with engine.connect() as connection:
                insert(connection, len(behind.rows()))
                begun = time.monotonic()
                connection.commit()
                assert time.monotonic() - begun >= 0.29
            assert handle.hits == 1
            handle.remove()

    with_engine(behind, use)
    assert behind.rows() == {0, 1, 2}


@before(("mariadb", "pymysql"), ("postgresql", "psycopg2"))
def test_a_queue_is_one_for_all_connections(behind: Behind) -> None:
    """Statements of several connections wait for each other, and one that finds no room finds its connection reset."""

    def both(queue: Handle, first: Connection, second: Connection) -> None:
        begun = threading.Thread(target=first.execute, args=(text("SELECT 1"),))
        hits = queue.hits
        begun.start()
        wait_until(lambda: queue.hits > hits)
        try:
            second.execute(text("SELECT 2"))
        finally:
            begun.join()

    def use(engine: Engine) -> None:
        with engine.connect() as first, engine.connect() as second:
            for connection in (first, second):
                connection.execute(text("SELECT 0"))
            queue = behind.proxy.add(Queue(rate=5.0, patience=0.3), Phase.BEFORE)
            begun = time.monotonic()
            both(queue, first, second)
            assert time.monotonic() - begun >= 0.39
            queue.remove()
            queue = behind.proxy.add(Queue(rate=5.0, patience=0.0), Phase.BEFORE)
            with pytest.raises(DBAPIError):
                both(queue, first, second)
            queue.remove()

    with_engine(behind, use)
    assert behind.told("cut") == ["cut"]


@before(("mariadb", "pymysql"), ("postgresql", "psycopg"))
def test_many_connections_at_once(behind: Behind) -> None:
    """A fifth of all COMMITs is cut, before or after: what is there is what was acknowledged, and those cut after."""
    behind.proxy.add(ResetPeer(), Phase.ANSWERED, on=Kind.COMMIT, toxicity=0.1)
    behind.proxy.add(ResetPeer(), Phase.BEFORE, on=Kind.COMMIT, toxicity=0.1)
    acknowledged: set[int] = set()
    unknown: set[int] = set()

    def work(engine: Engine, first: int) -> None:
        for number in range(first, first + 40):
            try:
                add_row(engine, number)
            except Exception:
                unknown.add(number)
            else:
                acknowledged.add(number)

    def use(engine: Engine) -> None:
        threads = [threading.Thread(target=work, args=(engine, 100 * number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with_engine(behind, use)
    behind.proxy.heal()
    after = [event for event in behind.events if event["f"] == "cut" and event["v"]["phase"] == "answered"]
    assert acknowledged <= behind.rows() <= acknowledged | unknown
    assert len(behind.rows() - acknowledged) == len(after) > 0
    assert len(unknown) == behind.proxy.counters().cuts > len(after)
