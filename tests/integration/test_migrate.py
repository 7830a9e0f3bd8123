"""A migration adds what is missing, takes nothing away, and may be started by everybody at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pymysql
import pytest
from sqlalchemy import (
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Enum,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    inspect,
    text,
)
from sqlalchemy.engine import Connection

from holdfast.drills.servers import Server
from holdfast.errors import ConfigurationError, InProgress, Unavailable
from holdfast.ext.sqlalchemy.migrate import migrate
from holdfast.outcome import Outcome
from tests.integration.at_once import PROCESSES, at_once
from tests.integration.endpoints import Case, Opened, on, opening, url_of
from tests.integration.migration_models import first, second

CASES = [
    Case("mariadb", "pymysql", False),
    Case("mariadb", "asyncmy", True),
    Case("mysql", "mysqldb", False),
    Case("postgresql", "psycopg", False),
    Case("postgresql", "asyncpg", True),
    Case("sqlite", "pysqlite", False),
    Case("sqlite", "aiosqlite", True),
]
SERVERS = ("mariadb", "mysql", "postgresql")


@pytest.fixture
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    """The endpoint of a case; its database is empty afterwards."""
    case: Case = request.param
    server: Server | None = None if case.flavour == "sqlite" else request.getfixturevalue(f"{case.flavour}_server")
    async with opening(url_of(request, case, tmp_path), case, server) as found:
        yield found
        await found.run(drop_everything)


def drop_everything(connection: Connection) -> None:
    """Empty the database."""
    if connection.dialect.name == "sqlite":
        return
    left = MetaData()
    left.reflect(connection)
    left.drop_all(connection)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("DROP TYPE IF EXISTS level")


async def migrated(opened: Opened, models: MetaData, **options: Any) -> Any:
    """Call `migrate` as a user of the case's mode would."""
    return await opened.call(lambda: migrate(opened.engine, models, **options))


@on(CASES)
async def test_missing_things_are_added_and_nothing_else_changes(opened: Opened) -> None:
    """Tables, columns, indexes and constraints of new columns come; data, dropped and narrowed things stay and are told."""
    await migrated(opened, first())
    await opened.execute("INSERT INTO users (id, name, old) VALUES (1, 'Ada', 7)")

    report = await migrated(opened, second())

    assert not report.dry_run
    assert await opened.scalar("SELECT COUNT(*) FROM teams") == 0
    row = await opened.run(lambda c: c.exec_driver_sql("SELECT name, old, age, nick, team_id FROM users").one())
    assert tuple(row) == ("Ada", 7, 18, None, None)
    look = {table: await opened.run(lambda c, t=table: described(c, t)) for table in ("users", "teams")}  # type: ignore[misc]
    assert {"name", "nick"} <= look["users"]["indexed"]
    assert "code" in look["teams"]["indexed"]
    assert "nick" in look["users"]["unique"]
    assert "name" not in look["users"]["unique"]
    told = "\n".join(report.skipped)
    assert "users.name: is VARCHAR(100)" in told
    assert "is nullable, in the model NOT NULL" in told
    assert "users.old is in no model" in told
    assert "unique index names_once on users: rows that are there may break it" in told
    on_old_tables = opened.case.flavour != "sqlite"
    assert ("mail" in look["users"]["unique"]) is on_old_tables
    assert (look["users"]["refers"] == {"teams"}) is on_old_tables
    assert ("SQLite cannot add one to a table that exists" in told) is not on_old_tables


def described(connection: Connection, table: str) -> dict[str, set[str | None]]:
    """The columns with indexes and unique constraints, and the tables referred to."""
    found = inspect(connection)
    indexes, constraints = found.get_indexes(table), found.get_unique_constraints(table)
    return {
        "indexed": {column for index in indexes for column in index["column_names"]},
        "unique": {column for index in indexes if index["unique"] for column in index["column_names"]}
        | {column for constraint in constraints for column in constraint["column_names"]},
        "refers": {key["referred_table"] for key in found.get_foreign_keys(table)},
    }


@on(CASES)
async def test_second_run_does_nothing(opened: Opened) -> None:
    """After a migration the next one has nothing to run, and tells the same differences."""
    await migrated(opened, first())
    report = await migrated(opened, second())
    again = await migrated(opened, second())
    assert report.statements
    assert (again.statements, again.skipped) == ((), report.skipped)


@on(CASES)
async def test_dry_run_says_what_a_run_does(opened: Opened) -> None:
    """The dry run changes nothing and gives the statements that the run then uses."""
    created = await migrated(opened, first(), dry_run=True)
    assert created.statements == (await migrated(opened, first())).statements
    dry = await migrated(opened, second(), dry_run=True)
    assert dry.dry_run
    report = await migrated(opened, second())
    assert (dry.statements, dry.skipped) == (report.statements, report.skipped)
    assert str(dry) == str(report)
    assert "ALTER TABLE users ADD COLUMN age INTEGER" in str(dry)
    assert "-- left as it is: column users.old is in no model" in str(dry)


@on(CASES)
async def test_column_that_rows_could_not_fill_is_refused_before_anything_runs(opened: Opened) -> None:
    """NOT NULL without a server default is refused where there are rows, with the cure, and accepted where there are none."""
    await migrated(opened, first())
    await opened.execute("INSERT INTO users (id, name) VALUES (1, 'Ada')")
    models = second()
    models.tables["users"].append_column(Column("must", Integer, nullable=False))
    with pytest.raises(ConfigurationError, match=r"users\.must .* give it a server_default"):
        await migrated(opened, models)
    assert not await opened.run(lambda c: inspect(c).has_table("teams"))
    await opened.execute("DELETE FROM users")
    await migrated(opened, models)
    assert await opened.scalar("SELECT COUNT(must) FROM users") == 0


@on(CASES, "mysql", "postgresql", "sqlite")
@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection:sqlalchemy.exc.SAWarning")
async def test_indexes_with_expressions_are_created_once(opened: Opened) -> None:
    """Also where SQLAlchemy does not reflect them. A unique one could be broken by what is there."""
    await migrated(opened, first())
    models = first()
    users = models.tables["users"]
    Index("lower_names", func.lower(users.c.name))
    dry = await migrated(opened, models, dry_run=True)
    report = await migrated(opened, models)
    assert dry.statements == report.statements
    assert [sql.startswith("CREATE INDEX lower_names ON users") for sql in report.statements] == [True]
    Index("one_name", func.lower(users.c.name), unique=True)
    teams = Table("teams", models, Column("id", Integer, primary_key=True), Column("name", String(20)))
    Index("one_team", func.lower(teams.c.name), unique=True)
    assert len((await migrated(opened, models)).statements) == 2
    for _ in range(2):
        report = await migrated(opened, models)
        assert report.statements == ()
        assert report.skipped == ("unique index one_name on users: rows that are there may break it",)


@on(CASES)
async def test_an_index_that_has_changed_is_told(opened: Opened) -> None:
    """There can be no second one of its name, and none is dropped."""
    await migrated(opened, first(Index("found_by", "name")))
    changed = first(Index("found_by", "old"))
    for dry_run in (True, False):
        report = await migrated(opened, changed, dry_run=dry_run)
        assert (report.statements, report.skipped) == ((), ("index found_by on users is another one in the model",))


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection:sqlalchemy.exc.SAWarning")
def test_an_index_with_an_expression_that_has_changed_is_told(sqlite_url: str) -> None:
    """Where it is not reflected its name tells that it is there."""
    engine = create_engine(sqlite_url)
    models = first()
    Index("found_by", func.lower(models.tables["users"].c.name))
    migrate(engine, models)
    changed = first(Index("found_by", "name"))
    for dry_run in (True, False):
        report = migrate(engine, changed, dry_run=dry_run)
        assert (report.statements, report.skipped) == ((), ("index found_by on users is another one in the model",))
    engine.dispose()


@on(CASES)
async def test_missing_check_constraints_are_told(opened: Opened) -> None:
    """Those of a table, with a name or without, and that of a new column's type where the server has no such type."""

    def models(*more: Any) -> MetaData:
        return first(CheckConstraint("old < 1000", name="limited"), CheckConstraint("old > 0"), *more)

    def level() -> Column[Any]:
        return Column("level", Enum("low", "high", name="level", create_constraint=True))

    await migrated(opened, first())
    report = await migrated(opened, models(level()))
    told = ["CHECK constraint limited on users is missing", "CHECK constraint without a name on users is missing"]
    if opened.case.flavour == "sqlite":
        told.insert(0, "CHECK constraint level on users is missing")
    assert list(report.skipped) == told
    assert (await migrated(opened, models(level()), dry_run=True)).skipped == report.skipped

    await opened.execute("DROP TABLE users")
    for _ in range(2):
        assert (await migrated(opened, models(level()))).skipped == ()


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (
            lambda: Column("must", DateTime, nullable=False, server_default=func.now()),
            "Cannot add a column with non-constant default",
        ),
        (
            lambda: Column("may", String(20), server_default=text("(lower('A'))")),
            "Cannot add a column with non-constant default",
        ),
        (lambda: Column("double", Integer, Computed("id * 2", persisted=True)), "cannot add a STORED column"),
        (lambda: Column("number", Integer, Identity()), "Cannot add a NOT NULL column with default value NULL"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_column_that_sqlite_adds_to_an_empty_table_only_is_refused(
    sqlite_url: str, column: Callable[[], Column[Any]], reason: str
) -> None:
    """With the reason and the cure, before anything runs, and by a dry run as well; without rows it is added."""
    engine = create_engine(sqlite_url)
    migrate(engine, first())
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO users (id) VALUES (1)")
    models, name = first(column()), column().name
    for dry_run in (True, False):
        with pytest.raises(ConfigurationError, match=rf"users\.{name} .*\({reason}\): give it a server_default"):
            migrate(engine, models, dry_run=dry_run)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM users")
    assert len(migrate(engine, models).statements) == 1
    engine.dispose()


@pytest.mark.parametrize(
    "column",
    [
        lambda: Column("order", String(9), nullable=False, server_default="50%:x"),
        lambda: Column("cast", Integer, nullable=False, server_default=text("(CAST('5' AS INTEGER))")),
        lambda: Column("less", Integer, nullable=False, server_default=text("-1")),
        lambda: Column("double", Integer, Computed("id * 2", persisted=False)),
        lambda: Column("half", Integer, Computed("only_here(id)", persisted=False)),
    ],
    ids=lambda made: made().name,
)
def test_a_column_that_sqlite_can_add_is_added(sqlite_url: str, column: Callable[[], Column[Any]]) -> None:
    """Whatever SQLite calls a constant is one; what it is asked about knows none of the program's own functions."""
    engine = create_engine(sqlite_url)
    event.listen(
        engine,
        "connect",
        lambda raw, _: raw.create_function("only_here", 1, lambda value: value // 2, deterministic=True),
    )
    migrate(engine, first())
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO users (id) VALUES (1)")
    assert len(migrate(engine, first(column())).statements) == 1
    engine.dispose()


@on(CASES, "mariadb", "mysql")
async def test_new_tables_have_transactions_and_all_of_unicode(opened: Opened) -> None:
    """Tables are InnoDB and utf8mb4 whatever the database's default is, unless their model says otherwise."""
    await opened.execute("ALTER DATABASE holdfast CHARACTER SET latin1")
    try:
        models = first()
        Table("own", models, Column("id", Integer, primary_key=True), mysql_charset="ascii", mariadb_charset="ascii")
        before = {name: dict(table.kwargs) for name, table in models.tables.items()}
        await migrated(opened, models)
        assert {name: dict(table.kwargs) for name, table in models.tables.items()} == before
        rows = await opened.run(
            lambda c: c.exec_driver_sql(
                "SELECT TABLE_NAME, ENGINE, LEFT(TABLE_COLLATION, 5) FROM information_schema.TABLES "
                "WHERE TABLE_SCHEMA = 'holdfast' ORDER BY TABLE_NAME"
            ).all()
        )
        assert [tuple(row) for row in rows] == [("own", "InnoDB", "ascii"), ("users", "InnoDB", "utf8m")]
    finally:
        await opened.execute("ALTER DATABASE holdfast CHARACTER SET utf8mb4")


@on(CASES)
async def test_listeners_of_the_models_run(opened: Opened) -> None:
    """What an application does after one of its tables is created happens here too."""
    models = first()
    created = []
    event.listen(models.tables["users"], "after_create", lambda table, *_, **__: created.append(table.name))
    await migrated(opened, models)
    await migrated(opened, models)
    assert created == ["users"]


@on(CASES)
async def test_session_has_its_usual_limits_afterwards(opened: Opened) -> None:
    """What a migration sets for itself does not stay on a connection of the pool."""
    asked = {
        "mariadb": "SELECT @@SESSION.max_statement_time",
        "mysql": "SELECT @@SESSION.lock_wait_timeout",
        "postgresql": "SHOW lock_timeout",
        "sqlite": "PRAGMA busy_timeout",
    }[opened.case.flavour]
    before = await opened.scalar(asked)
    await migrated(opened, first())
    assert await opened.scalar(asked) == before


@on([case for case in CASES if not case.asynchronous])
async def test_wait_for_another_migration_is_bounded(opened: Opened) -> None:
    """Whoever finds a migration under way waits as long as it was told to, then says so and has changed nothing."""
    await opened.scalar("SELECT 1")
    with opened.engine.connect() as other:
        if opened.case.flavour == "postgresql":
            other.exec_driver_sql("SELECT pg_advisory_xact_lock(7525352680829580148)")  # "holdfast"
        elif opened.case.flavour == "sqlite":
            other.exec_driver_sql("SELECT 1")
        else:
            other.detach()  # the lock ends with its session
            other.exec_driver_sql("SELECT GET_LOCK(CONCAT('holdfast.migrate.', LEFT(SHA2(DATABASE(), 256), 32)), 0)")
        began = time.monotonic()
        with pytest.raises(InProgress, match=r"another (process|connection) is still (migrating|writing)"):
            migrate(opened.engine, first(), lock_wait=0.5)
        assert time.monotonic() - began < 30  # of the 60 s that are the default
    assert not await opened.run(lambda c: inspect(c).has_table("users"))


_MIGRATE = """
from holdfast.ext.sqlalchemy.engines import open_endpoint
from holdfast.ext.sqlalchemy.migrate import migrate
from tests.integration.migration_models import second

def work(url):
    return len(migrate(open_endpoint(url).engine, second()).statements)
"""


@on([case for case in CASES if not case.asynchronous])
async def test_processes_migrate_at_once(opened: Opened) -> None:
    """One of them does the work and the others find it done."""
    await migrated(opened, first())
    url = opened.endpoint.address.url.render_as_string(hide_password=False)
    counts = sorted(int(count) for count in await asyncio.to_thread(at_once, _MIGRATE, url))
    assert counts[:-1] == [0] * (PROCESSES - 1)
    assert counts[-1] > 5


def test_engine_that_is_not_ours_is_migrated_too(sqlite_url: str) -> None:
    """A plain SQLAlchemy engine is enough, and two threads with one do not meet."""
    engine = create_engine(sqlite_url)
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(migrate(engine, first()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(report.statements) for report in reports) == [0, 1]
    engine.dispose()


def test_lock_wait_of_nothing_is_refused(sqlite_url: str) -> None:
    """0 would mean "for ever" to some servers."""
    with pytest.raises(ConfigurationError, match="lock_wait must be more than 0"):
        migrate(create_engine(sqlite_url), first(), lock_wait=0)


@pytest.mark.parametrize("lost", ["the answer", "what came after"])
@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
def test_a_change_that_may_be_there_is_not_denied(flavour: str, lost: str, request: pytest.FixtureRequest) -> None:
    """MySQL and MariaDB commit each change by itself: after a lost connection the only one may be there, and here it is."""
    server: Server = request.getfixturevalue(f"{flavour}_server")
    engine = create_engine(server.url("pymysql"))
    before, after = MetaData(), MetaData()
    Table("lost_changes", before, Column("id", Integer, primary_key=True))
    Table("lost_changes", after, Column("id", Integer, primary_key=True), Column("extra", Integer))
    migrate(engine, before)
    changed: list[str] = []

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("ALTER"):
            changed.append(statement)
        if changed and (lost == "the answer") is statement.startswith("ALTER"):
            raise pymysql.err.OperationalError(2013, "Lost connection to server during query")

    dialect: Any = engine.dialect
    for name in ("do_execute", "do_execute_no_params"):
        setattr(dialect, name, failing_after(getattr(dialect, name), fail))
    try:
        with pytest.raises(Unavailable) as caught:
            migrate(engine, after)
        assert Outcome.UNKNOWN is caught.value.outcome
        migrate(create_engine(engine.url), after, lock_wait=30.0)  # the lock went with its session
        assert "extra" in {column["name"] for column in inspect(create_engine(engine.url)).get_columns("lost_changes")}
    finally:
        before.drop_all(create_engine(engine.url))
        engine.dispose()


def failing_after(really_do: Any, fail: Any) -> Any:
    """Do it, and then fail as `fail(None, cursor, statement)` does."""

    def do(cursor: Any, statement: str, *rest: Any, **options: Any) -> Any:
        done = really_do(cursor, statement, *rest, **options)
        fail(None, cursor, statement)
        return done

    return do
