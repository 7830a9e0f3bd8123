"""SQLite, made to fail in each way that matters. It has no server, so for some of them the nearest true thing is tested."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from holdfast.dialects import classify
from holdfast.outcome import FailureClass, Rejection, Stage
from tests.servers.client import Client, client, failure_to_connect

DRIVERS = ["pysqlite", "aiosqlite"]
FLAVOUR = "sqlite"
TABLES = """
    CREATE TABLE users (
        id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT, age INTEGER NOT NULL,
        CONSTRAINT users_adult CHECK (age >= 18), CONSTRAINT short_name CHECK (length(name) <= 5));
    CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users (id) DEFERRABLE INITIALLY IMMEDIATE);
    CREATE TABLE strict (n INTEGER) STRICT;
    CREATE UNIQUE INDEX strict_abs ON strict (abs(n));
    INSERT INTO strict VALUES (5);
    INSERT INTO users VALUES (1, 'ada@example.org', 'ada', 36), (2, 'bob@example.org', 'bob', 40);
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database file with two users."""
    path = tmp_path / "holdfast.db"
    connection = sqlite3.connect(path)
    connection.executescript(TABLES)
    connection.close()
    return path


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Each driver in turn."""
    return str(request.param)


def url(driver: str, file: Path, query: str = "") -> str:
    """The URL of the file."""
    return f"sqlite+{driver}:///{query and 'file:'}{file}{query}"


@contextmanager
def two(driver: str, file: Path) -> Iterator[tuple[Client, Client]]:
    """Two connections that do not wait for locks, nor begin transactions unasked."""
    with opened(driver, file) as one, opened(driver, file) as other:
        yield one, other


@contextmanager
def opened(driver: str, file: Path) -> Iterator[Client]:
    """A connection that does not wait for locks. Every statement says itself when a transaction begins."""
    with client(url(driver, file), FLAVOUR, timeout=0, isolation_level=None) as connected:
        yield connected


# ---- contention


def test_lock_wait_is_contention(file: Path, driver: str) -> None:
    """SQLITE_BUSY: another connection writes."""
    with two(driver, file) as (holder, waiter):
        holder.execute("BEGIN IMMEDIATE")
        failure = waiter.fails("BEGIN IMMEDIATE")
    assert (failure.failure_class, failure.code, failure.connection_usable) == (FailureClass.CONTENTION, 5, True)


def test_deadlock_is_contention(file: Path, driver: str) -> None:
    """Two readers that both want to write: SQLite refuses one at once with SQLITE_BUSY instead of waiting for ever."""
    with two(driver, file) as (one, other):
        for each in (one, other):
            each.execute("BEGIN")
            each.execute("SELECT * FROM users")
        one.execute("UPDATE users SET age = 50 WHERE id = 1")
        failure = other.fails("UPDATE users SET age = 50 WHERE id = 2")
    assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, 5)


def test_snapshot_conflict_is_contention(file: Path, driver: str) -> None:
    """SQLITE_BUSY_SNAPSHOT: in WAL mode the snapshot is older than the last write."""
    with two(driver, file) as (one, other):
        one.execute("PRAGMA journal_mode = WAL")
        one.execute("BEGIN")
        one.execute("SELECT * FROM users")
        other.execute("UPDATE users SET age = 50 WHERE id = 1")
        failure = one.fails("UPDATE users SET age = 51 WHERE id = 1")
    assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, 517)


def test_busy_at_commit_is_contention_and_leaves_the_transaction_open(file: Path, driver: str) -> None:
    """A reader holds up the COMMIT: not committed for certain, and the same COMMIT works once the reader is gone."""
    with two(driver, file) as (reader, writer):
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM users")
        writer.execute("BEGIN")
        writer.execute("UPDATE users SET age = 50 WHERE id = 1")
        failure = writer.failure(lambda: writer.execute("COMMIT"), stage=Stage.COMMIT)
        reader.execute("COMMIT")
        writer.execute("COMMIT")
        assert reader.execute("SELECT age FROM users WHERE id = 1") == [(50,)]
    assert (failure.failure_class, failure.code, failure.connection_usable) == (FailureClass.CONTENTION, 5, True)


# ---- connections


@pytest.mark.parametrize("at_commit", [False, True], ids=["before", "at"])
def test_closed_connection_is_lost_before_commit_and_ambiguous_at_it(file: Path, at_commit: bool) -> None:
    """SQLite has no sessions to kill; the nearest is a connection closed under the transaction."""
    with client(url("pysqlite", file), FLAVOUR) as victim:
        victim.execute("INSERT INTO users VALUES (3, NULL, NULL, 20)")
        victim.raw().close()
        failure = victim.fails_to_commit() if at_commit else victim.fails("SELECT 1")
    assert failure.failure_class is (FailureClass.AMBIGUOUS if at_commit else FailureClass.LOST)
    assert not failure.connection_usable


def test_file_that_cannot_be_opened_is_unsent(tmp_path: Path, driver: str) -> None:
    """SQLITE_CANTOPEN: the nearest to a server that cannot be reached."""
    failure = failure_to_connect(url(driver, tmp_path / "missing" / "holdfast.db"), FLAVOUR)
    assert (failure.failure_class, failure.code) == (FailureClass.UNSENT, 14)


def test_empty_pool_is_unsent(file: Path) -> None:
    """SQLite has no limit of connections; the nearest is a pool that is empty."""
    engine = create_engine(url("pysqlite", file), poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01)
    try:
        with engine.connect(), pytest.raises(Exception, match="QueuePool") as raised:
            engine.connect()
    finally:
        engine.dispose()
    assert classify(raised.value, stage=Stage.CONNECT, flavour=FLAVOUR).failure_class is FailureClass.UNSENT


def test_read_only_file_is_refused(file: Path, driver: str) -> None:
    """SQLITE_READONLY is permanent: there is no other writer to go to."""
    with client(url(driver, file, "?mode=ro&uri=true"), FLAVOUR) as reader:
        failure = reader.fails("UPDATE users SET age = 50 WHERE id = 1")
    assert (failure.failure_class, failure.code) == (FailureClass.PERMANENT, 8)
    assert failure.rejection is Rejection.ACCESS_DENIED


def test_full_database_is_exhausted(file: Path, driver: str) -> None:
    """SQLITE_FULL, here by max_page_count as on a full disk."""
    with opened(driver, file) as writer:
        failure = writer.fails(
            "PRAGMA max_page_count = 1", "INSERT INTO users VALUES (3, printf('%.*c', 100000, 'x'), NULL, 20)"
        )
    assert (failure.failure_class, failure.code) == (FailureClass.EXHAUSTED, 13)


def test_interrupted_statement_is_cancelled(file: Path) -> None:
    """SQLite has no statement timeout; the nearest is an interrupt, by which one is built."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with client(url("pysqlite", file), FLAVOUR) as slow:
        slow.raw().set_progress_handler(lambda: 1, 1000)  # asks every thousand steps; 1 says: interrupt
        failure = slow.fails(endless)
        slow.raw().set_progress_handler(None, 0)
    assert (failure.failure_class, failure.code) == (FailureClass.CANCELLED, 9)


# ---- refusals


@pytest.mark.parametrize(
    ("sql", "rejection", "named"),
    [
        ("INSERT INTO users VALUES (1, NULL, NULL, 20)", Rejection.DUPLICATE, (None, "users", ("id",))),
        ("INSERT INTO users VALUES (3, 'ada@example.org', NULL, 20)", Rejection.DUPLICATE, (None, "users", ("email",))),
        ("INSERT INTO strict VALUES (-5)", Rejection.DUPLICATE, ("strict_abs", None, ())),
        ("INSERT INTO orders VALUES (2, 99)", Rejection.FOREIGN_KEY, (None, None, ())),
        ("INSERT INTO users VALUES (3, NULL, NULL, 17)", Rejection.CHECK, ("users_adult", None, ())),
        ("INSERT INTO users VALUES (3, NULL, 'ada lovelace', 20)", Rejection.CHECK, ("short_name", None, ())),
        ("INSERT INTO users VALUES (3, NULL, NULL, NULL)", Rejection.NOT_NULL, (None, "users", ("age",))),
        ("INSERT INTO users VALUES ('three', NULL, NULL, 20)", Rejection.INVALID_VALUE, (None, None, ())),
        ("INSERT INTO strict VALUES ('three')", Rejection.INVALID_VALUE, (None, "strict", ("n",))),
        ("INSERT INTO people VALUES (1)", Rejection.MISSING_TABLE, (None, "people", ())),
        ("INSERT INTO users (id, height) VALUES (3, 2)", Rejection.MISSING_COLUMN, (None, "users", ("height",))),
        ("SELECT users.height FROM users", Rejection.MISSING_COLUMN, (None, "users", ("height",))),
        ("INSERT INTO", Rejection.SYNTAX, (None, None, ())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_statement_says_why_and_where(
    file: Path, driver: str, sql: str, rejection: Rejection, named: tuple[str | None, str | None, tuple[str, ...]]
) -> None:
    """Permanent, of the right kind, with the names SQLite gives. A text's length it never checks: a CHECK must."""
    with client(url(driver, file), FLAVOUR) as caller:
        failure = caller.fails("PRAGMA foreign_keys = ON", sql)
    assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, rejection)
    assert (failure.constraint, failure.table, failure.columns) == named
    assert failure.connection_usable


def test_stored_text_that_is_not_utf_8_is_refused(file: Path, driver: str) -> None:
    """Python's module raises it without a code, as it does for a connection that is gone; this one still works."""
    with client(url(driver, file), FLAVOUR) as caller:
        failure = caller.fails("UPDATE users SET name = CAST(x'ff' AS TEXT) WHERE id = 1", "SELECT id, name FROM users")
        assert caller.execute("SELECT id FROM users WHERE id = 1") == [(1,)]
    assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, Rejection.OTHER)
    assert (failure.columns, failure.connection_usable) == (("name",), True)


def test_value_larger_than_sqlite_takes_is_refused(file: Path) -> None:
    """SQLITE_TOOBIG."""
    with client(url("pysqlite", file), FLAVOUR) as caller:
        caller.raw().setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
        failure = caller.fails("SELECT zeroblob(2000)")
    assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, Rejection.TOO_LARGE)


def test_deferred_constraint_refuses_the_commit_for_certain(file: Path, driver: str) -> None:
    """A deferred foreign key fails at COMMIT and leaves the transaction open: a refusal, not a doubt."""
    with opened(driver, file) as caller:
        for sql in (
            "PRAGMA foreign_keys = ON",
            "BEGIN",
            "PRAGMA defer_foreign_keys = ON",
            "INSERT INTO orders VALUES (2, 99)",
        ):
            caller.execute(sql)
        failure = caller.failure(lambda: caller.execute("COMMIT"), stage=Stage.COMMIT)
    assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, Rejection.FOREIGN_KEY)


def test_file_that_is_no_database_is_refused(tmp_path: Path, driver: str) -> None:
    """SQLITE_NOTADB."""
    (tmp_path / "text.db").write_text("not a database, but long enough to look at" * 10)
    with client(url(driver, tmp_path / "text.db"), FLAVOUR) as caller:
        failure = caller.fails("SELECT * FROM users")
    assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, Rejection.MISSING_DATABASE)
