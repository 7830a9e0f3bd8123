"""PostgreSQL, made to fail in each way that matters, and what its errors are then said to mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
from sqlalchemy import make_url

from holdfast.dialects import classify
from holdfast.drills.servers import Server
from holdfast.drills.servers.process import free_port
from holdfast.outcome import Failure, FailureClass, Rejection, Stage
from tests.servers.client import Client, client, failure_to_connect
from tests.servers.relay import Cut, relay_to

DRIVERS = ["psycopg", "psycopg2", "psycopg_async", "asyncpg"]
FLAVOUR = "postgresql"
TABLES = """
    CREATE TABLE users (
        id int PRIMARY KEY, email varchar(40), name varchar(5), age smallint NOT NULL,
        CONSTRAINT users_email UNIQUE (email), CONSTRAINT users_adult CHECK (age >= 18));
    CREATE TABLE orders (
        id int PRIMARY KEY, user_id int,
        CONSTRAINT orders_user FOREIGN KEY (user_id) REFERENCES users (id) DEFERRABLE);
    CREATE TABLE bookings (during int4range, CONSTRAINT bookings_no_overlap EXCLUDE USING gist (during WITH &&));
    INSERT INTO users VALUES (1, 'ada@example.org', 'ada', 36), (2, 'bob@example.org', 'bob', 40);
    INSERT INTO orders VALUES (1, 1);
    INSERT INTO bookings VALUES ('[1,5)');
"""


@pytest.fixture
def server(postgresql_server: Server) -> Iterator[Server]:
    """The server, with two users, an order and a booking."""
    with closing(postgresql_server.connect()) as connection:
        connection.execute(TABLES)
    yield postgresql_server
    with closing(postgresql_server.connect()) as connection:
        connection.execute("DROP TABLE orders, users, bookings")


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Each driver in turn."""
    return str(request.param)


@contextmanager
def two(server: Server, driver: str, **options: str) -> Iterator[tuple[Client, Client]]:
    """Two connections of the application's."""
    with client(server.url(driver), FLAVOUR, **options) as one, client(server.url(driver), FLAVOUR, **options) as other:
        yield one, other


def process_id(of: Client) -> int:
    """The server's process of a connection."""
    return int(of.execute("SELECT pg_backend_pid()")[0][0])


def until_waiting(server: Server, at: str) -> None:
    """Return once a statement that begins with `at` waits for a lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    with closing(server.connect(admin=True)) as connection:
        for _ in range(10_000):
            if connection.execute(waiting, [f"{at}%"]).fetchall():
                return
    pytest.fail(f"{at} never got to wait")


# ---- contention


def test_deadlock_is_contention(server: Server, driver: str) -> None:
    """40P01 for one of two transactions that wait for each other."""
    with server.global_setting("deadlock_timeout", "50ms"), two(server, driver) as (one, other):
        one.execute("UPDATE users SET age = 50 WHERE id = 1")
        other.execute("UPDATE users SET age = 50 WHERE id = 2")
        waiting = one.start("UPDATE users SET age = 51 WHERE id = 2")
        until_waiting(server, "UPDATE users SET age = 51")
        try:
            other.execute("UPDATE users SET age = 51 WHERE id = 1")
        except Exception as error:
            failure = classify(error, stage=Stage.BODY, flavour=FLAVOUR)
            other.rollback()
            waiting.result()
        else:
            other.rollback()
            failure = one.failure(waiting.result)
    assert (failure.failure_class, failure.code, failure.connection_usable) == (FailureClass.CONTENTION, "40P01", True)


@pytest.mark.parametrize(
    "statements",
    [
        ("SET lock_timeout = '50ms'", "UPDATE users SET age = 51 WHERE id = 1"),
        ("SELECT age FROM users WHERE id = 1 FOR UPDATE NOWAIT",),
    ],
    ids=["timeout", "nowait"],
)
def test_lock_wait_is_contention(server: Server, driver: str, statements: tuple[str, ...]) -> None:
    """55P03 after lock_timeout and for NOWAIT."""
    with two(server, driver) as (holder, waiter):
        holder.execute("UPDATE users SET age = 50 WHERE id = 1")
        failure = waiter.fails(*statements)
    assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, "55P03")


def test_snapshot_conflict_is_contention(server: Server, driver: str) -> None:
    """40001 at the statement: under REPEATABLE READ the row changed after the snapshot."""
    with two(server, driver, isolation="REPEATABLE READ") as (one, other):
        one.execute("SELECT age FROM users WHERE id = 1")
        other.execute("UPDATE users SET age = 50 WHERE id = 1")
        other.commit()
        failure = one.fails("UPDATE users SET age = 51 WHERE id = 1")
    assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, "40001")


def test_serialization_conflict_at_commit_is_contention(server: Server, driver: str) -> None:
    """40001 at COMMIT: two SERIALIZABLE transactions that read what the other writes. A certain abort, no doubt."""
    with two(server, driver, isolation="SERIALIZABLE") as (one, other):
        for each in (one, other):
            each.execute("SELECT sum(age) FROM users")
        one.execute("UPDATE users SET age = 50 WHERE id = 1")
        other.execute("UPDATE users SET age = 50 WHERE id = 2")
        one.commit()
        failure = other.fails_to_commit()
    assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, "40001")
    assert server.execute("SELECT age FROM users ORDER BY id", database=server.database) == [(50,), (40,)]


def test_swallowed_error_shows_behind_the_failed_transaction(server: Server, driver: str) -> None:
    """25P02 says only that something failed before; the lock that could not be had stands behind it."""
    with two(server, driver) as (holder, waiter):
        holder.execute("UPDATE users SET age = 50 WHERE id = 1")
        nowait = "SELECT age FROM users WHERE id = 1 FOR UPDATE NOWAIT"
        failure = waiter.failure(lambda: waiter.swallow(nowait, "SELECT 1"))
        again = waiter.fails("SELECT 1")
    assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, "55P03")
    assert (again.failure_class, again.code) == (FailureClass.PERMANENT, "25P02")


# ---- connections


@pytest.mark.parametrize("at_commit", [False, True], ids=["before", "at"])
def test_killed_connection_is_lost_before_commit_and_ambiguous_at_it(
    server: Server, driver: str, at_commit: bool
) -> None:
    """The administrator ends the session between two statements: 57P01, or no code at all."""
    with client(server.url(driver), FLAVOUR) as victim:
        victim.execute("INSERT INTO users VALUES (3, NULL, NULL, 20)")
        server.execute(f"SELECT pg_terminate_backend({process_id(victim)}, 5000)")
        failure = victim.fails_to_commit() if at_commit else victim.fails("SELECT 1")
    assert failure.failure_class is (FailureClass.AMBIGUOUS if at_commit else FailureClass.LOST)
    assert failure.code in (None, "57P01", "08003")
    assert not failure.connection_usable
    assert server.execute("SELECT id FROM users WHERE id = 3", database=server.database) == []


@pytest.mark.parametrize(("cut", "applied"), [(Cut.BEFORE_SERVER, False), (Cut.AFTER_SERVER, True)])
def test_connection_cut_at_commit_is_ambiguous(server: Server, driver: str, cut: Cut, applied: bool) -> None:
    """The error is the same whether the server got the COMMIT or not, so it can mean nothing else."""
    with (
        relay_to(server.host, server.port) as relay,
        client(make_url(server.url(driver)).set(port=relay.port), FLAVOUR) as victim,
    ):
        victim.execute("INSERT INTO users VALUES (3, NULL, NULL, 20)")
        relay.cut_next_request(cut)
        failure = victim.fails_to_commit()
    assert failure.failure_class is FailureClass.AMBIGUOUS
    assert not failure.connection_usable
    assert server.execute("SELECT id FROM users WHERE id = 3", database=server.database) == ([(3,)] if applied else [])


def test_session_idle_in_transaction_is_lost(server: Server, driver: str) -> None:
    """25P03, or no code: the server ended the session and rolled back."""
    with client(server.url(driver), FLAVOUR) as idle:
        pid = process_id(idle)
        idle.execute("SET idle_in_transaction_session_timeout = '20ms'")
        while server.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"):
            pass
        failure = idle.fails("SELECT 1")
    assert failure.failure_class is FailureClass.LOST
    assert failure.code in (None, "25P03", "08003")


def test_nobody_there_is_unsent(server: Server, driver: str) -> None:
    """A port where nobody listens, and a name that does not resolve: nothing was sent."""
    for changed in (
        make_url(server.url(driver)).set(port=free_port()),
        make_url(server.url(driver)).set(host="db.invalid"),
    ):
        failure = failure_to_connect(changed, FLAVOUR)
        assert failure.failure_class is FailureClass.UNSENT
        assert not failure.connection_usable


def test_too_many_connections_is_unsent(server: Server, driver: str) -> None:
    """53300, by its text where the driver keeps no SQLSTATE: of the server, and of the role."""
    with ExitStack() as stack:
        failures: list[Failure] = []
        while not failures:
            try:
                stack.enter_context(closing(server.connect()))
            except Exception:
                failures.append(failure_to_connect(server.url(driver), FLAVOUR))
    server.execute(f"ALTER ROLE {server.user} CONNECTION LIMIT 0")
    try:
        failures.append(failure_to_connect(server.url(driver), FLAVOUR))
    finally:
        server.execute(f"ALTER ROLE {server.user} CONNECTION LIMIT -1")
    for failure in failures:
        assert (failure.failure_class, failure.code) == (FailureClass.UNSENT, "53300")


def test_read_only_server_has_changed_its_role(server: Server, driver: str) -> None:
    """25006 at a statement: what a standby answers, too."""
    with server.global_setting("default_transaction_read_only", "on"), client(server.url(driver), FLAVOUR) as late:
        failure = late.fails("INSERT INTO users VALUES (4, NULL, NULL, 20)")
    assert (failure.failure_class, failure.code) == (FailureClass.ROLE_CHANGED, "25006")


# ---- time


def test_statement_timeout_is_cancelled(server: Server, driver: str) -> None:
    """57014 after statement_timeout."""
    with client(server.url(driver), FLAVOUR) as slow:
        failure = slow.fails("SET statement_timeout = '20ms'", "SELECT pg_sleep(10)")
    assert (failure.failure_class, failure.code, failure.connection_usable) == (FailureClass.CANCELLED, "57014", True)


def test_cancelled_query_is_cancelled(server: Server, driver: str) -> None:
    """57014 after pg_cancel_backend."""
    with two(server, driver) as (holder, waiter):
        holder.execute("UPDATE users SET age = 50 WHERE id = 1")
        pid = process_id(waiter)
        waiting = waiter.start("UPDATE users SET age = 51 WHERE id = 1")
        until_waiting(server, "UPDATE users SET age = 51")
        server.execute(f"SELECT pg_cancel_backend({pid})")
        failure = waiter.failure(waiting.result)
    assert (failure.failure_class, failure.code) == (FailureClass.CANCELLED, "57014")


# ---- refusals

REFUSED = [
    ("INSERT INTO users VALUES (1, NULL, NULL, 20)", Rejection.DUPLICATE, ("users_pkey", "users", ("id",))),
    (
        "INSERT INTO users VALUES (3, 'ada@example.org', NULL, 20)",
        Rejection.DUPLICATE,
        ("users_email", "users", ("email",)),
    ),
    ("INSERT INTO orders VALUES (2, 99)", Rejection.FOREIGN_KEY, ("orders_user", "orders", ("user_id",))),
    ("DELETE FROM users WHERE id = 1", Rejection.FOREIGN_KEY, ("orders_user", "orders", ("id",))),
    ("INSERT INTO users VALUES (3, NULL, NULL, 17)", Rejection.CHECK, ("users_adult", "users", ())),
    ("INSERT INTO bookings VALUES ('[3,7)')", Rejection.CHECK, ("bookings_no_overlap", "bookings", ("during",))),
    ("INSERT INTO users VALUES (3, NULL, NULL, NULL)", Rejection.NOT_NULL, (None, "users", ("age",))),
    ("INSERT INTO users VALUES (3, NULL, 'ada lovelace', 20)", Rejection.TOO_LONG, (None, None, ())),
    ("INSERT INTO users VALUES (3, NULL, NULL, 100000)", Rejection.OUT_OF_RANGE, (None, None, ())),
    ("INSERT INTO users VALUES (3, NULL, NULL, 'old')", Rejection.INVALID_VALUE, (None, None, ())),
    ("INSERT INTO people VALUES (1)", Rejection.MISSING_TABLE, (None, "people", ())),
    ("INSERT INTO users (id, height) VALUES (3, 2)", Rejection.MISSING_COLUMN, (None, "users", ("height",))),
    ("SELECT * FROM pg_authid", Rejection.ACCESS_DENIED, (None, "pg_authid", ())),
    ("INSERT INTO", Rejection.SYNTAX, (None, None, ())),
]


@pytest.mark.parametrize("driver", DRIVERS)
def test_refused_statement_says_why_and_where(server: Server, driver: str) -> None:
    """Permanent, of the right kind, with the names the server gave, through every driver."""
    with client(server.url(driver), FLAVOUR) as caller:
        for sql, rejection, named in REFUSED:
            failure = caller.fails(sql)
            caller.rollback()
            assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, rejection), sql
            assert (failure.constraint, failure.table, failure.columns) == named, sql
            assert failure.connection_usable, sql


def test_deferred_constraint_refuses_the_commit_for_certain(server: Server, driver: str) -> None:
    """A deferred foreign key fails at COMMIT: an abort that is proven, so a refusal and not a doubt."""
    with client(server.url(driver), FLAVOUR) as caller:
        caller.execute("SET CONSTRAINTS ALL DEFERRED")
        caller.execute("INSERT INTO orders VALUES (2, 99)")
        failure = caller.fails_to_commit()
    assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, Rejection.FOREIGN_KEY)
    assert failure.constraint == "orders_user"


def test_wrong_login_and_missing_database_are_permanent(server: Server, driver: str) -> None:
    """No retry makes a wrong password right."""
    failure = failure_to_connect(make_url(server.url(driver)).set(password="wrong"), FLAVOUR)
    assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, Rejection.WRONG_LOGIN)
    missing = failure_to_connect(server.url(driver, database="nowhere"), FLAVOUR)
    assert (missing.failure_class, missing.rejection) == (FailureClass.PERMANENT, Rejection.MISSING_DATABASE)
