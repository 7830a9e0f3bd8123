"""Bring a database up to its models by adding what is missing. Nothing is ever dropped, renamed or narrowed.

    print(migrate(engine, Base.metadata, dry_run=True))     # the SQL, and what would be left as it is
    migrate(engine, Base.metadata)

SQLAlchemy creates the missing tables, with their constraints and indexes. Alembic compares the others with the models; of the
differences it finds only those run that take nothing away and refuse no data that is there: missing columns first, then, after
a second look, indexes, and keys (unique, foreign) on columns that are new themselves. Everything else is reported and left to a
person.

Any number of processes may call it at the same moment: one migrates at a time, and the next finds nothing left to do. MySQL and
MariaDB commit every change of the schema by itself; a run that is interrupted there is completed by the next one. PostgreSQL
and SQLite take all of it or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import DefaultClause, MetaData, Table, event, exc, literal, select
from sqlalchemy.dialects.postgresql import CreateEnumType
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.mock import MockConnection
from sqlalchemy.sql.sqltypes import SchemaType

from ...deadline import current_deadline, seconds
from ...dialects import Flavour, classify
from ...errors import ConfigurationError, DeadlineExceeded, HoldfastError, InProgress, MissingExtra, error_for
from ...forks import ProcessLock
from ...outcome import FailureClass, Outcome, Stage
from .address import server_of
from .engines import flavour_of
from .interrupt import cut
from .unseen import IndexesApart, has_index_on_sqlite, missing_checks, refusal_of_sqlite

if TYPE_CHECKING:
    from datetime import timedelta

    from alembic.operations import Operations, ops

__all__ = ["MigrationReport", "migrate"]

ColumnName = tuple[str | None, str, str]
"""Schema, table, column."""

_LOCK_NAME = "holdfast.migrate"
_LOCK_NUMBER = 0x686F6C6466617374  # "holdfast"
_DONE_ELSEWHERE = frozenset({1050, 1060, 1061})
"""Table, column, index exists. `GET_LOCK` holds on one node of a Galera cluster only; another one may be first."""
_RUNS = 3

_marking = ProcessLock()


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a migration did, or would do. Its text is SQL, with the rest as comments.

    Attributes:
        statements: the SQL that ran (or would), in order.
        skipped: the differences that were left as they are, a sentence each.
        dry_run: whether nothing was run.
    """

    statements: tuple[str, ...]
    skipped: tuple[str, ...]
    dry_run: bool

    def __str__(self) -> str:
        return "\n".join(
            [*(f"{sql};" for sql in self.statements), *(f"-- left as it is: {text}" for text in self.skipped)]
        )


def migrate(
    engine: Engine,
    metadata: MetaData | Sequence[MetaData],
    *,
    dry_run: bool = False,
    lock_wait: float | timedelta = 60.0,
) -> MigrationReport:
    """Create missing tables, add missing columns and indexes.

    Args:
        engine: the database; its user needs the rights to create and alter tables. Of an `AsyncEngine` its `sync_engine`, called
            through `run_sync` or `greenlet_spawn`.
        metadata: the models, or several such that share no table. Tables of other schemas than the default one are looked at
            where they name their schema.
        dry_run: only say what would be done.
        lock_wait: seconds (or `timedelta`) to wait for another process that is migrating, and for each lock on a table. Above 0;
            default 60 s. A deadline of the caller's (`within`) that ends earlier counts; the changes themselves have none.

    Returns:
        The statements that ran, and the differences that were left.

    Raises:
        ConfigurationError: a missing column is NOT NULL and has no server default, or SQLite cannot add one like it, and its
            table has rows; nothing was changed. Or `metadata` is none.
        InProgress: another process held the lock for longer than `lock_wait`.
        MissingExtra: alembic is not installed.
        NotCommitted: one of its kinds: the server could not be reached, lost the connection or refused a change. Nothing was
            applied; MySQL and MariaDB keep the changes that ran before, and then `outcome` is `Outcome.UNKNOWN`.
        OutcomeUnknown: the connection was lost at COMMIT; run it again.
    """
    models = _models(metadata)
    _require_alembic()
    lock_wait_s = seconds(lock_wait, name="lock_wait")
    if lock_wait_s <= 0:
        raise ConfigurationError("lock_wait must be more than 0 seconds")
    deadline = current_deadline()
    if deadline is not None:
        lock_wait_s = min(lock_wait_s, deadline.remaining_s())
        if lock_wait_s <= 0:
            raise DeadlineExceeded("migrate: the deadline had passed before it began; nothing was applied")
    trying = _Trying(engine, lock_wait_s)
    try:
        with engine.connect() as connection:
            trying.stage = Stage.BODY
            flavour = flavour_of(connection.dialect)
            if dry_run:
                return _Migration(connection, models, dry_run=True).run()
            with _alone(connection, flavour, trying):
                return _run_until_done(connection, models, trying)
    except (exc.DBAPIError, exc.TimeoutError, OSError) as error:  # asyncpg raises what the socket says as it is
        typed = trying.typed(error)
        if typed is None:
            raise
        raise typed from error


def _models(metadata: MetaData | Sequence[MetaData]) -> list[MetaData]:
    models: list[Any] = list(metadata) if isinstance(metadata, (list, tuple)) else [metadata]
    for one in models or [metadata]:
        if not isinstance(one, MetaData):
            raise ConfigurationError(
                f"migrate() takes the models' MetaData, not {getattr(one, '__name__', type(one).__name__)}; of a declarative "
                "base that is Base.metadata"
            )
    return models


def _run_until_done(connection: Connection, models: list[MetaData], trying: _Trying) -> MigrationReport:
    for run in range(1, _RUNS + 1):
        migration = _Migration(connection, models, dry_run=False)
        try:
            return migration.run()
        except exc.DBAPIError as error:
            trying.has_changed = trying.has_changed or migration.has_changed
            trying.is_changing = migration.is_changing
            if run == _RUNS or error.orig is None or not _DONE_ELSEWHERE.intersection(error.orig.args[:1]):
                raise
    raise AssertionError("unreachable")


class _Trying:
    """How far a migration has come, for whoever has to say what an error left behind."""

    def __init__(self, engine: Engine, lock_wait_s: float) -> None:
        self.stage = Stage.CONNECT
        self.has_changed = self.is_changing = False
        self.lock_wait_s = lock_wait_s
        self._engine = engine

    def typed(self, error: Exception) -> HoldfastError | None:
        """What `error` means for the caller; None for one that has nothing to do with the database (a listener's own)."""
        dialect = self._engine.dialect
        flavour = flavour_of(dialect) if self.stage is not Stage.CONNECT else None
        failure = classify(error, stage=self.stage, flavour=flavour)
        if failure.failure_class is FailureClass.PERMANENT and failure.rejection is None:
            return None
        if failure.failure_class is FailureClass.UNSENT and not isinstance(error, exc.TimeoutError):
            failure = failure._replace(server=server_of(self._engine.url))
        may_be_changed = self.has_changed or (self.is_changing and not failure.connection_usable)
        if self.stage is Stage.BODY and dialect.name in ("mysql", "mariadb") and may_be_changed:
            told = error_for(failure, operation="migrate", advice=_PARTLY)
            told.outcome = Outcome.UNKNOWN
            return told
        return error_for(failure, operation="migrate", advice=self._advice(failure.failure_class))

    def _advice(self, failure_class: FailureClass) -> str:
        if failure_class is FailureClass.CONTENTION:
            return f"another transaction held a lock for longer than {self.lock_wait_s:g} s; nothing was applied"
        if failure_class is FailureClass.AMBIGUOUS:
            return "the connection failed while COMMIT was under way; run it again, which does what is left to do"
        return ""


_PARTLY = (
    "a change failed or its answer was lost, and what ran before it stays, as MySQL and MariaDB commit every change of the "
    "schema by itself; see to the cause and run it again, which does the rest"
)


def _require_alembic() -> None:
    try:
        import alembic  # noqa: F401
    except ImportError as error:
        raise MissingExtra("migrate needs alembic: pip install 'holdfast[sqlalchemy]'") from error


# -- one process at a time -------------------------------------------------------------------------------------------------


@contextmanager
def _alone(connection: Connection, flavour: Flavour, trying: _Trying) -> Iterator[None]:
    """Hold the database's migration lock, with the session's limits made for changes of the schema, and commit at the end."""
    lock_wait_s = trying.lock_wait_s
    driver_connection: Any = connection.connection.driver_connection
    if flavour is Flavour.POSTGRESQL:
        # A snapshot taken before the wait for the lock would not show what its holder has created meanwhile.
        connection.execution_options(isolation_level="READ COMMITTED")
    elif flavour is not Flavour.SQLITE:
        # The limits and the lock belong to this session, which ends here instead of going back to the pool.
        connection.detach()
    with _busy_timeout(connection, lock_wait_s) if flavour is Flavour.SQLITE else _nothing():
        try:
            _take_lock(connection, flavour, lock_wait_s)
        except exc.DBAPIError as error:
            if classify(error, stage=Stage.BODY, flavour=flavour).failure_class is FailureClass.CONTENTION:
                raise _still_migrating(lock_wait_s, flavour) from error
            raise
        try:
            yield
            trying.stage = Stage.COMMIT
            connection.commit()
        except BaseException:
            if connection.invalidated:
                # No pool closes a detached one, and as long as it is open its session has the lock.
                cut(driver_connection)
            raise


def _take_lock(connection: Connection, flavour: Flavour, lock_wait_s: float) -> None:
    if flavour is Flavour.SQLITE:
        connection.begin()
        driver_connection: Any = connection.connection.driver_connection
        # An engine of ours has begun by now; others leave it to the first statement that writes.
        if not driver_connection.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    if flavour is Flavour.POSTGRESQL:
        connection.exec_driver_sql(
            f"SELECT set_config('lock_timeout', '{math.ceil(lock_wait_s * 1000)}ms', true), "
            "set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)"
        )
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_NUMBER})")
        return
    lock_wait = math.ceil(lock_wait_s)
    own = ", SESSION max_statement_time=0, SESSION idle_transaction_timeout=0" if flavour is Flavour.MARIADB else ""
    connection.exec_driver_sql(f"SET SESSION lock_wait_timeout={lock_wait}{own}")
    # A user lock's name holds for the whole server and has 64 characters at most.
    name = f"CONCAT('{_LOCK_NAME}.', LEFT(SHA2(DATABASE(), 256), 32))"
    if connection.exec_driver_sql(f"SELECT GET_LOCK({name}, {lock_wait})").scalar() != 1:
        raise _still_migrating(lock_wait_s, flavour)


def _still_migrating(lock_wait_s: float, flavour: Flavour) -> InProgress:
    if flavour is Flavour.SQLITE:  # has one lock for all writers
        who = "another connection is still writing to this database file, or migrating it,"
    else:
        who = "another process is still migrating this database"
    return InProgress(f"{who} after {lock_wait_s:g} s; nothing was changed here")


@contextmanager
def _busy_timeout(connection: Connection, lock_wait_s: float) -> Iterator[None]:
    # On the driver's cursor: SQLAlchemy would begin the transaction, and wait for the lock, before the statement.
    cursor = connection.connection.cursor()
    cursor.execute("PRAGMA busy_timeout")
    (before,) = cursor.fetchone() or (0,)
    cursor.execute(f"PRAGMA busy_timeout={math.ceil(lock_wait_s * 1000)}")
    try:
        yield
    finally:
        cursor.execute(f"PRAGMA busy_timeout={before}")
        cursor.close()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


# -- what is missing -------------------------------------------------------------------------------------------------------


class _Migration:
    """One look at the database, and the changes that follow from it: run, or for a dry run only written down.

    Attributes:
        has_changed: whether a change was answered.
        is_changing: whether one was sent that was not.
    """

    has_changed = is_changing = False

    def __init__(self, connection: Connection, models: list[MetaData], *, dry_run: bool) -> None:
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        self._connection = connection
        self._models = models
        self._dry_run = dry_run
        self._is_sqlite = connection.dialect.name == "sqlite"
        self._statements: list[str] = []
        # Where changes go: SQLAlchemy's to one of these, alembic's to the other.
        self._target: Any = MockConnection(connection.dialect, self._write_down) if dry_run else connection
        self._operations = (
            self._written_to(self._statements) if dry_run else Operations(MigrationContext.configure(connection))
        )

    def _written_to(self, statements: list[str]) -> Operations:
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        options = {"as_sql": True, "output_buffer": _Lines(statements)}
        return Operations(MigrationContext.configure(dialect=self._connection.dialect, opts=options))

    def run(self) -> MigrationReport:
        """Compare, check that everything can be done, and do it."""
        found = self._differences()
        tables, columns = self._missing_tables(found), self._missing_columns(found)
        refused = [text for text in map(self._why_not, columns) if text]
        if refused:
            raise ConfigurationError("; ".join(refused))
        with self._recording():
            if tables:
                self._create(tables)
            for column in columns:
                self._add(column)
        created = {(table.schema, table.name) for table in tables}
        added = {(column.schema, column.table_name, column.column.name) for column in columns}
        if columns and not self._dry_run:
            found = self._differences()
        with self._recording():
            skipped = self._complete(found, created, added)
        old = [
            table for one in self._models for table in one.sorted_tables if (table.schema, table.name) not in created
        ]
        skipped += missing_checks(self._connection, old)
        return MigrationReport(tuple(self._statements), tuple(skipped), self._dry_run)

    def _differences(self) -> list[ops.MigrateOperation]:
        from alembic.autogenerate import produce_migrations
        from alembic.migration import MigrationContext

        schemas = {table.schema for one in self._models for table in one.tables.values()}

        def of_a_schema_in_the_models(name: str | None, kind: str, _parents: object) -> bool:
            return kind != "schema" or name in schemas

        options = {
            "include_schemas": schemas != {None},
            "include_name": of_a_schema_in_the_models,
            "compare_type": True,
        }
        context = MigrationContext.configure(self._connection, opts=options)
        apart = IndexesApart(context) if self._connection.dialect.name != "postgresql" else None
        upgrade = produce_migrations(context, self._models).upgrade_ops  # type: ignore[arg-type]  # takes several
        assert upgrade is not None
        return [*_flat(upgrade.ops), *(apart.missing(self._connection) if apart is not None else ())]

    def _missing_tables(self, found: list[ops.MigrateOperation]) -> list[Table]:
        from alembic.operations.ops import CreateTableOp

        missing = {(op.schema, op.table_name) for op in found if isinstance(op, CreateTableOp)}
        return [table for one in self._models for table in one.sorted_tables if (table.schema, table.name) in missing]

    def _missing_columns(self, found: list[ops.MigrateOperation]) -> list[ops.AddColumnOp]:
        from alembic.operations.ops import AddColumnOp

        return [op for op in found if isinstance(op, AddColumnOp)]

    def _why_not(self, op: ops.AddColumnOp) -> str | None:
        column, name = op.column, f"{op.table_name}.{op.column.name}"
        if column.primary_key:
            return f"{name} is missing and part of the primary key: that needs a migration written by hand"
        fills_itself = (
            isinstance(column.server_default, DefaultClause)
            or column.computed is not None
            or column.identity is not None
        )
        if (column.nullable and not fills_itself) or not self._has_rows(column.table):
            return None
        if fills_itself:
            return self._why_not_on_sqlite(op) if self._is_sqlite else None
        return (
            f"{name} is missing, is NOT NULL and has no server default, and {op.table_name} has rows: "
            "give it a server_default, make it nullable, or write the migration by hand"
        )

    def _why_not_on_sqlite(self, op: ops.AddColumnOp) -> str | None:
        column, quote = op.column, self._connection.dialect.identifier_preparer.quote
        statements: list[str] = []
        self._written_to(statements).impl.add_column(op.table_name, column)
        others = [quote(one.name) for one in column.table.columns if one.name != column.name]
        refusal = refusal_of_sqlite(statements[0], quote(op.table_name), others)
        if refusal is None:
            return None
        return (
            f"{op.table_name}.{column.name} is missing, and {op.table_name} has rows, to which SQLite cannot add it ({refusal}): "
            "give it a server_default that is a constant, or write the migration by hand"
        )

    def _has_rows(self, table: Table) -> bool:
        return self._connection.execute(select(literal(1)).select_from(table).limit(1)).first() is not None

    # -- the changes -------------------------------------------------------------------------------------------------

    def _create(self, tables: list[Table]) -> None:
        with _utf8mb4_and_innodb(tables, self._connection.dialect.name):
            # Types of its own (PostgreSQL's enumerations) may be there already, which is what it checks first.
            for one in self._models:
                own = [table for table in tables if table.metadata is one]
                if own:
                    one.create_all(self._target, tables=own, checkfirst=not self._dry_run)

    def _add(self, op: ops.AddColumnOp) -> None:
        if isinstance(op.column.type, SchemaType):
            op.column.type.create(self._target, checkfirst=not self._dry_run)
        # The column alone: its index and constraints are found by the second look, and judged there.
        self._operations.impl.add_column(op.table_name, op.column, schema=op.schema)

    def _complete(
        self, found: list[ops.MigrateOperation], created: set[tuple[str | None, str]], added: set[ColumnName]
    ) -> list[str]:
        """Run what may run of the second look; the sentences for what may not."""
        from alembic.operations import ops

        skipped = []
        there = {(*_place_of(op), op.index_name) for op in found if isinstance(op, ops.DropIndexOp)}
        asked_for = {(*_place_of(op), op.index_name) for op in found if isinstance(op, ops.CreateIndexOp)}
        for op in sorted(found, key=lambda op: isinstance(op, ops.CreateForeignKeyOp)):
            place = _place_of(op)
            if isinstance(op, (ops.CreateTableOp, ops.AddColumnOp)) or place in created:
                continue
            if isinstance(op, ops.DropIndexOp) and (*place, op.index_name) in asked_for:
                continue  # told where it is asked for
            if isinstance(op, ops.CreateIndexOp) and (
                (*place, op.index_name) in there or has_index_on_sqlite(self._connection, op.index_name, op.schema)
            ):
                skipped.append(f"index {op.index_name} on {op.table_name} is another one in the model")
                continue
            reason = self._why_left(op, {column for schema, table, column in added if (schema, table) == place})
            if reason is None:
                self._operations.invoke(op)
            else:
                skipped.append(reason)
        return skipped

    def _why_left(self, op: ops.MigrateOperation, new_columns: set[str]) -> str | None:
        """Why a difference is left as it is; None if it is safe to remove by `op`."""
        from alembic.operations import ops

        if isinstance(op, ops.CreateIndexOp):
            names = {getattr(column, "name", None) for column in op.to_index().columns}
            if not op.unique or names & new_columns:
                return None
            return f"unique index {op.index_name} on {op.table_name}: rows that are there may break it"
        if isinstance(op, ops.CreateUniqueConstraintOp):
            text = f"unique constraint on {op.table_name} ({', '.join(op.columns)})"
            may_be_broken = not set(op.columns) & new_columns
        elif isinstance(op, ops.CreateForeignKeyOp):
            text = f"foreign key on {op.source_table} ({', '.join(op.local_cols)})"
            may_be_broken = not set(op.local_cols) <= new_columns
        else:
            return _described(op, self._connection)
        if self._is_sqlite:
            return f"{text}: SQLite cannot add one to a table that exists"
        return f"{text}: rows that are there may break it" if may_be_broken else None

    # -- writing down ------------------------------------------------------------------------------------------------

    def _write_down(self, ddl: Any, *_: object) -> None:
        statement = _tidy(str(ddl.compile(dialect=self._connection.dialect)))
        # A type that several columns share is asked for once for each, and may be there.
        is_there = isinstance(ddl, CreateEnumType) and self._connection.dialect.has_type(  # type: ignore[attr-defined]
            self._connection, ddl.element.name, schema=ddl.element.schema
        )
        if not is_there and statement not in self._statements:
            self._statements.append(statement)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Write down the changes of the schema that run inside the block."""

        def record(_connection: object, _cursor: object, statement: str, _p: object, context: Any, _many: bool) -> None:
            if context is not None and context.isddl:
                self._statements.append(_tidy(statement))
                self.is_changing = True

        def answered(*_: object) -> None:
            self.has_changed = self.has_changed or self.is_changing
            self.is_changing = False

        event.listen(self._connection, "before_cursor_execute", record)
        event.listen(self._connection, "after_cursor_execute", answered)
        try:
            yield
        finally:
            event.remove(self._connection, "before_cursor_execute", record)
            event.remove(self._connection, "after_cursor_execute", answered)


class _Lines:
    """A file that keeps each text written to it as a statement: what alembic writes a dry run to."""

    def __init__(self, statements: list[str]) -> None:
        self._statements = statements

    def write(self, text: str) -> None:
        self._statements.append(_tidy(text))

    def flush(self) -> None:
        pass


def _tidy(statement: str) -> str:
    return statement.strip().rstrip(";")


@contextmanager
def _utf8mb4_and_innodb(tables: list[Table], dialect: str) -> Iterator[None]:
    """Give new tables of MySQL and MariaDB transactions and all of Unicode, unless their model says otherwise.

    Some servers default to latin1 (MariaDB before 11.6). The options are put on the models' own tables while the statements are
    made: a copy of the tables would not carry the listeners that an application has put on them.
    """
    if dialect not in ("mysql", "mariadb"):
        yield
        return
    charsets = {
        f"{dialect}_{name}" for name in ("charset", "character_set", "default_charset", "default_character_set")
    }
    with _marking:
        marked = []
        for table in tables:
            for name, value, said in (
                (f"{dialect}_charset", "utf8mb4", charsets),
                (f"{dialect}_engine", "InnoDB", {f"{dialect}_engine"}),
            ):
                if not said & set(table.kwargs):
                    table.kwargs[name] = value
                    marked.append((table, name))
        try:
            yield
        finally:
            for table, name in marked:
                del table.kwargs[name]


def _flat(operations: Any) -> Iterator[Any]:
    for op in operations:
        if hasattr(op, "ops"):
            yield from _flat(op.ops)
        else:
            yield op


def _place_of(op: Any) -> tuple[str | None, str]:
    if hasattr(op, "source_table"):
        return op.kw.get("source_schema"), op.source_table
    return getattr(op, "schema", None), getattr(op, "table_name", "")


def _described(op: Any, connection: Connection) -> str:
    """A difference that is never removed, in words."""
    from alembic.operations import ops

    if isinstance(op, ops.DropTableOp):
        return f"table {op.table_name} is in no model"
    if isinstance(op, ops.DropColumnOp):
        return f"column {op.table_name}.{op.column_name} is in no model"
    if isinstance(op, ops.DropIndexOp):
        return f"index {op.index_name} on {op.table_name} is in no model"
    if isinstance(op, ops.DropConstraintOp):
        return f"constraint {op.constraint_name} on {op.table_name} is in no model"
    if isinstance(op, ops.AlterColumnOp):
        return f"column {op.table_name}.{op.column_name}: {', '.join(_changes(op, connection))}"
    return f"{type(op).__name__.removesuffix('Op')} on {_place_of(op)[1]}"


def _changes(op: Any, connection: Connection) -> Iterator[str]:
    if op.modify_type is not None:
        is_now, shall_be = (kind.compile(connection.dialect) for kind in (op.existing_type, op.modify_type))
        yield f"is {is_now}, in the model {shall_be}"
    if op.modify_nullable is not None:
        is_now, shall_be = ("NOT NULL", "nullable") if op.modify_nullable else ("nullable", "NOT NULL")
        yield f"is {is_now}, in the model {shall_be}"
    if op.modify_server_default is not False:
        yield "has another server default in the model"
    if op.modify_comment is not False:
        yield "has another comment in the model"
