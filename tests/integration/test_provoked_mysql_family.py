"""MySQL and MariaDB, made to fail in each way that matters, and what their errors are then said to mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
from sqlalchemy import create_engine, make_url

from holdfast.dialects import classify
from holdfast.drills.servers import Server
from holdfast.drills.servers.process import free_port
from holdfast.outcome import Failure, FailureClass, Rejection, Stage
from tests.servers.client import Client, client, failure_to_connect
from tests.servers.relay import Cut, relay_to

FLAVOURS = ["mariadb", "mysql"]
DRIVERS = ["pymysql", "mysqldb", "asyncmy", "aiomysql"]
TABLES = [
    """CREATE TABLE users (
        id INT PRIMARY KEY, email VARCHAR(40), name VARCHAR(5), age TINYINT NOT NULL,
        CONSTRAINT users_email UNIQUE (email), CONSTRAINT users_adult CHECK (age >= 18))""",
    """CREATE TABLE orders (
        id INT PRIMARY KEY, user_id INT,
        CONSTRAINT orders_user FOREIGN KEY (user_id) REFERENCES users (id))""",
]
ROWS = [
    "DELETE FROM orders",
    "DELETE FROM users",
    "INSERT INTO users VALUES (1, 'ada@example.org', 'ada', 36), (2, 'bob@example.org', 'bob', 40)",
    "INSERT INTO orders VALUES (1, 1)",
]


@pytest.fixture(params=FLAVOURS, scope="module")
def tables(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each server in turn, with the tables."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    for statement in TABLES:
        found.execute(statement, database=found.database)
    yield found
    found.execute("DROP TABLE orders, users", database=found.database)


@pytest.fixture
def server(tables: Server) -> Server:
    """Each server in turn, with two users and an order."""
    with closing(tables.connect()) as connection, connection.cursor() as cursor:
        for statement in ROWS:
            cursor.execute(statement)
    return tables


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Each driver in turn, where it is installed."""
    name = str(request.param)
    pytest.importorskip({"mysqldb": "MySQLdb"}.get(name, name))
    return name


@contextmanager
def two(server: Server, driver: str = "pymysql") -> Iterator[tuple[Client, Client]]:
    """Two connections of the application's."""
    with client(server.url(driver), server.flavour) as one, client(server.url(driver), server.flavour) as other:
        yield one, other


def connection_id(of: Client) -> int:
    """The server's number of a connection."""
    return int(of.execute("SELECT CONNECTION_ID()")[0][0])


def until_waiting(server: Server, at: str) -> None:
    """Return once the server has a statement in hand that begins with `at`."""
    with closing(server.connect(admin=True)) as connection, connection.cursor() as cursor:
        for _ in range(10_000):
            if cursor.execute("SELECT 1 FROM information_schema.processlist WHERE info LIKE %s", [f"{at}%"]):
                return
    pytest.fail(f"{at} never got to wait")


def deadlock(server: Server, one: Client, other: Client) -> Failure:
    """What the victim of a deadlock between the two is told."""
    one.execute("UPDATE users SET age = 50 WHERE id = 1")
    other.execute("UPDATE users SET age = 50 WHERE id = 2")
    waiting = one.start("UPDATE users SET age = 51 WHERE id = 2")
    until_waiting(server, "UPDATE users SET age = 51")
    try:
        other.execute("UPDATE users SET age = 51 WHERE id = 1")
    except Exception as error:
        other.rollback()
        waiting.result()
        return classify(error, stage=Stage.BODY, flavour=other.flavour)
    other.rollback()
    return one.failure(waiting.result)


# ---- contention


def test_deadlock_is_contention(server: Server, driver: str) -> None:
    """One of two transactions that wait for each other is chosen to lose: 1213, and its connection stays good."""
    with two(server, driver) as (one, other):
        failure = deadlock(server, one, other)
    assert (failure.failure_class, failure.code, failure.connection_usable) == (FailureClass.CONTENTION, 1213, True)


@pytest.mark.parametrize("driver", ["pymysql", "asyncmy"])
def test_lock_wait_is_contention(server: Server, driver: str) -> None:
    """1205 after innodb_lock_wait_timeout, whose least is a second."""
    with two(server, driver) as (holder, waiter):
        holder.execute("UPDATE users SET age = 50 WHERE id = 1")
        failure = waiter.fails("SET innodb_lock_wait_timeout = 1", "UPDATE users SET age = 51 WHERE id = 1")
    assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, 1205)


def test_nowait_is_contention_under_either_number(server: Server) -> None:
    """MySQL has a number of its own for it, 3572; MariaDB says 1205."""
    with two(server) as (holder, waiter):
        holder.execute("UPDATE users SET age = 50 WHERE id = 1")
        failure = waiter.fails("SELECT age FROM users WHERE id = 1 FOR UPDATE NOWAIT")
    assert failure.failure_class is FailureClass.CONTENTION
    assert failure.code == {"mysql": 3572, "mariadb": 1205}[server.flavour]


def test_snapshot_conflict_is_contention_in_mariadb(server: Server, driver: str) -> None:
    """MariaDB with innodb_snapshot_isolation: 1020 for a row that changed after the snapshot.

    MySQL has no such check: the same update passes there and the other's is lost, which is why it needs SERIALIZABLE
    (next test).
    """
    with two(server, driver) as (one, other):
        if server.flavour == "mariadb":
            one.execute("SET innodb_snapshot_isolation = ON")
            one.rollback()
        one.execute("SELECT age FROM users WHERE id = 1")
        other.execute("UPDATE users SET age = 50 WHERE id = 1")
        other.commit()
        if server.flavour == "mysql":
            one.execute("UPDATE users SET age = 51 WHERE id = 1")
            one.commit()
            assert server.execute("SELECT age FROM holdfast.users WHERE id = 1") == [(51,)]
            return
        failure = one.fails("UPDATE users SET age = 51 WHERE id = 1")
    assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, 1020)


def test_serialization_conflict_is_contention(server: Server) -> None:
    """Under SERIALIZABLE two transactions that read a row before both write it deadlock."""
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(client(server.url("pymysql"), server.flavour, isolation="SERIALIZABLE"))
            for _ in range(2)
        )
        for each in (one, other):
            each.execute("SELECT age FROM users WHERE id = 1")
        waiting = one.start("UPDATE users SET age = 50 WHERE id = 1")
        until_waiting(server, "UPDATE")
        failure = other.fails("UPDATE users SET age = 51 WHERE id = 1")
        other.rollback()
        waiting.result()
    assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, 1213)


def test_savepoint_does_not_hide_the_deadlock(server: Server, driver: str) -> None:
    """After the deadlock took the transaction the savepoint is gone: 1305, behind which the 1213 stands."""
    with two(server, driver) as (one, other):
        # The server chooses the one with fewer changes: this one has more.
        one.execute("INSERT INTO orders VALUES (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1), (9, 1)")
        one.execute("UPDATE users SET age = 50 WHERE id = 1")
        other.execute("UPDATE users SET age = 50 WHERE id = 2")
        other.execute("SAVEPOINT a")
        waiting = one.start("UPDATE users SET age = 51 WHERE id = 2")
        until_waiting(server, "UPDATE users SET age = 51")
        failure = other.failure(
            lambda: other.swallow("UPDATE users SET age = 51 WHERE id = 1", "ROLLBACK TO SAVEPOINT a")
        )
        waiting.result()
    assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, 1213)


# ---- connections


def test_killed_connection_is_lost_before_commit_and_ambiguous_at_it(server: Server, driver: str) -> None:
    """KILL between two statements: the next one finds the connection gone; if that one is COMMIT nobody knows."""
    for at_commit in (False, True):
        with client(server.url(driver), server.flavour) as victim:
            victim.execute("INSERT INTO users VALUES (3, NULL, NULL, 20)")
            server.execute(f"KILL {connection_id(victim)}")
            failure = victim.fails_to_commit() if at_commit else victim.fails("SELECT 1")
        assert failure.failure_class is (FailureClass.AMBIGUOUS if at_commit else FailureClass.LOST)
        assert failure.code in (0, 2006, 2013, 4031)
        assert not failure.connection_usable
        assert server.execute("SELECT id FROM holdfast.users WHERE id = 3") == []


@pytest.mark.parametrize(("cut", "applied"), [(Cut.BEFORE_SERVER, False), (Cut.AFTER_SERVER, True)])
def test_connection_cut_at_commit_is_ambiguous(server: Server, driver: str, cut: Cut, applied: bool) -> None:
    """The error is the same whether the server got the COMMIT or not, so it can mean nothing else."""
    with relay_to(server.host, server.port) as relay:
        url = make_url(server.url(driver)).set(port=relay.port)
        with client(url, server.flavour) as victim:
            victim.execute("INSERT INTO users VALUES (3, NULL, NULL, 20)")
            relay.cut_next_request(cut)
            failure = victim.fails_to_commit()
    assert failure.failure_class is FailureClass.AMBIGUOUS
    assert not failure.connection_usable
    assert server.execute("SELECT id FROM holdfast.users WHERE id = 3") == ([(3,)] if applied else [])


def test_nobody_there_is_unsent(server: Server, driver: str) -> None:
    """A port where nobody listens, and a name that does not resolve: nothing was sent."""
    for changed in (
        make_url(server.url(driver)).set(port=free_port()),
        make_url(server.url(driver)).set(host="db.invalid"),
    ):
        failure = failure_to_connect(changed, server.flavour)
        assert failure.failure_class is FailureClass.UNSENT
        assert not failure.connection_usable


def test_too_many_connections_is_unsent(server: Server, driver: str) -> None:
    """1040 at connect: the server is full."""
    with server.global_setting("max_connections", 10), ExitStack() as stack:
        failures: list[Failure] = []
        while not failures:
            try:
                stack.enter_context(client(server.url("pymysql"), server.flavour))
            except Exception:
                failures.append(failure_to_connect(server.url(driver), server.flavour))
        # PyMySQL and the others close with the answer; the server's reserved connection lets the administrator in.
    assert (failures[0].failure_class, failures[0].code) == (FailureClass.UNSENT, 1040)


def test_too_many_connections_of_one_user_is_overload(server: Server) -> None:
    """1226 or 1203 at connect: the account may have no more."""
    server.execute(f"ALTER USER {server.user} WITH MAX_USER_CONNECTIONS 1")
    try:
        with client(server.url("pymysql"), server.flavour):
            failure = failure_to_connect(server.url("pymysql"), server.flavour)
    finally:
        server.execute(f"ALTER USER {server.user} WITH MAX_USER_CONNECTIONS 0")
    assert failure.failure_class is FailureClass.OVERLOAD
    assert failure.code in (1203, 1226)


def test_empty_pool_is_unsent(server: Server) -> None:
    """SQLAlchemy's own TimeoutError: no connection came free, nothing was sent."""
    engine = create_engine(server.url("pymysql"), pool_size=1, max_overflow=0, pool_timeout=0.01)
    try:
        with engine.connect(), pytest.raises(Exception, match="QueuePool") as raised:
            engine.connect()
    finally:
        engine.dispose()
    failure = classify(raised.value, stage=Stage.CONNECT, flavour=server.flavour)
    assert failure.failure_class is FailureClass.UNSENT


def test_read_only_server_has_changed_its_role(server: Server, driver: str) -> None:
    """1290, at a statement and at the COMMIT of what was written before: not committed, go elsewhere."""
    with two(server, driver) as (early, late):
        early.execute("INSERT INTO users VALUES (3, NULL, NULL, 20)")
        with server.global_setting("read_only", "ON" if server.flavour == "mysql" else 1):
            at_statement = late.fails("INSERT INTO users VALUES (4, NULL, NULL, 20)")
            at_commit = early.fails_to_commit()
    for failure in (at_statement, at_commit):
        assert (failure.failure_class, failure.code) == (FailureClass.ROLE_CHANGED, 1290)
    assert server.execute("SELECT id FROM holdfast.users WHERE id > 2") == []


# ---- time


def test_statement_timeout_is_cancelled(server: Server, driver: str) -> None:
    """MySQL limits a SELECT (3024), MariaDB any statement (1969)."""
    limit = {"mysql": "SET max_execution_time = 50", "mariadb": "SET max_statement_time = 0.05"}[server.flavour]
    endless = "SELECT COUNT(*) FROM " + ", ".join(f"information_schema.collations c{n}" for n in range(6))
    with client(server.url(driver), server.flavour) as slow:
        failure = slow.fails(limit, endless)
    assert failure.failure_class is FailureClass.CANCELLED
    assert failure.code == {"mysql": 3024, "mariadb": 1969}[server.flavour]
    assert failure.connection_usable


def test_killed_query_is_cancelled(server: Server, driver: str) -> None:
    """KILL QUERY: 1317, and the connection lives on."""
    with two(server, driver) as (holder, waiter):
        holder.execute("UPDATE users SET age = 50 WHERE id = 1")
        victim = connection_id(waiter)
        waiting = waiter.start("UPDATE users SET age = 51 WHERE id = 1")
        until_waiting(server, "UPDATE users SET age = 51")
        server.execute(f"KILL QUERY {victim}")
        failure = waiter.failure(waiting.result)
    assert (failure.failure_class, failure.code, failure.connection_usable) == (FailureClass.CANCELLED, 1317, True)


# ---- refusals


@pytest.mark.parametrize(
    ("sql", "rejection", "named"),
    [
        ("INSERT INTO users VALUES (1, NULL, NULL, 20)", Rejection.DUPLICATE, ("PRIMARY", "users", ())),
        (
            "INSERT INTO users VALUES (3, 'ada@example.org', NULL, 20)",
            Rejection.DUPLICATE,
            ("users_email", "users", ()),
        ),
        ("INSERT INTO orders VALUES (2, 99)", Rejection.FOREIGN_KEY, ("orders_user", "orders", ("user_id",))),
        ("DELETE FROM users WHERE id = 1", Rejection.FOREIGN_KEY, ("orders_user", "orders", ("user_id",))),
        ("INSERT INTO users VALUES (3, NULL, NULL, 17)", Rejection.CHECK, ("users_adult", "users", ())),
        ("INSERT INTO users VALUES (3, NULL, NULL, NULL)", Rejection.NOT_NULL, (None, None, ("age",))),
        ("INSERT INTO users (id) VALUES (3)", Rejection.NOT_NULL, (None, None, ("age",))),
        ("INSERT INTO users VALUES (3, NULL, 'ada lovelace', 20)", Rejection.TOO_LONG, (None, None, ("name",))),
        ("INSERT INTO users VALUES (3, NULL, NULL, 1000)", Rejection.OUT_OF_RANGE, (None, None, ("age",))),
        ("INSERT INTO users VALUES (3, NULL, NULL, 'old')", Rejection.INVALID_VALUE, (None, "users", ("age",))),
        ("INSERT INTO people VALUES (1)", Rejection.MISSING_TABLE, (None, "people", ())),
        ("INSERT INTO users (id, height) VALUES (3, 2)", Rejection.MISSING_COLUMN, (None, None, ("height",))),
        ("INSERT INTO mysql.user VALUES (1)", Rejection.ACCESS_DENIED, (None, "user", ())),
        ("INSERT INTO", Rejection.SYNTAX, (None, None, ())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_statement_says_why_and_where(
    server: Server, sql: str, rejection: Rejection, named: tuple[str | None, str | None, tuple[str, ...]]
) -> None:
    """Permanent, of the right kind, with the names the server gave; where only one flavour names a table, None will do."""
    with client(server.url("pymysql"), server.flavour) as caller:
        failure = caller.fails(sql)
    constraint, table, columns = named
    assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, rejection)
    assert (failure.constraint, failure.columns) == (constraint, columns)
    assert failure.table in (table, None)
    assert failure.connection_usable


def test_duplicate_is_told_by_every_driver(server: Server, driver: str) -> None:
    """The name of the constraint comes through all of them; MySQL names the table as well."""
    with client(server.url(driver), server.flavour) as caller:
        failure = caller.fails("INSERT INTO users VALUES (3, 'ada@example.org', NULL, 20)")
    assert (failure.rejection, failure.constraint) == (Rejection.DUPLICATE, "users_email")
    assert failure.table == {"mysql": "users", "mariadb": None}[server.flavour]


def test_wrong_login_and_missing_database_are_permanent(server: Server, driver: str) -> None:
    """No retry makes a wrong password right."""
    failure = failure_to_connect(make_url(server.url(driver)).set(password="wrong"), server.flavour)
    assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, Rejection.WRONG_LOGIN)
    missing = failure_to_connect(server.admin_url(driver, database="nowhere"), server.flavour)
    assert (missing.failure_class, missing.rejection) == (FailureClass.PERMANENT, Rejection.MISSING_DATABASE)


def test_packet_too_large_is_permanent_or_lost(server: Server, driver: str) -> None:
    """The server closes the connection after 1153; a driver still writing sees only that it was closed."""
    with server.global_setting("max_allowed_packet", 16384), client(server.url(driver), server.flavour) as caller:
        failure = caller.fails(f"SELECT LENGTH('{'x' * 300_000}')")
    assert failure.failure_class is (FailureClass.PERMANENT if failure.code == 1153 else FailureClass.LOST)
    assert not failure.connection_usable
