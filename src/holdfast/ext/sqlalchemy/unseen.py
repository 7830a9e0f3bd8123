"""What alembic does not see when it compares a database with models.

Indexes with expressions where SQLAlchemy does not reflect them, CHECK constraints, and columns that SQLite adds to an empty table
only. The first two are known by their names: what stands in them is not compared.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from sqlalchemy import CheckConstraint, Index, Table, inspect

if TYPE_CHECKING:
    from alembic.operations import ops
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy.engine import Connection

__all__ = ["IndexesApart", "has_index_on_sqlite", "missing_checks", "refusal_of_sqlite"]


class IndexesApart:
    """Keeps indexes with expressions out of a comparison where SQLAlchemy does not reflect what is in them: known by name alone.

    Args:
        context: of the comparison, which is still to come.
    """

    def __init__(self, context: MigrationContext) -> None:
        self._missing: list[Index] = []
        impl: Any = context.impl
        self._correct = impl.correct_for_autogen_constraints
        impl.correct_for_autogen_constraints = self._put_apart

    def _put_apart(self, uniques: Any, there: Any, in_model: Any, indexes: set[Index]) -> None:
        from alembic.util.sqla_compat import is_expression_index

        apart = [index for index in indexes if is_expression_index(index)]
        indexes.difference_update(apart)
        names = {index.name for index in apart}
        known = [
            (found, one) for found in (uniques, there) for one in found if one.name in names
        ]  # MySQL has some in both
        for found, one in known:
            found.remove(one)
        names.difference_update(one.name for _, one in known)
        self._missing += [index for index in apart if index.name in names]
        self._correct(uniques, there, in_model, indexes)

    def missing(self, connection: Connection) -> Iterator[ops.CreateIndexOp]:
        """What creates those that the database lacks."""
        from alembic.operations.ops import CreateIndexOp

        for index in sorted(self._missing, key=lambda index: str(index.name)):
            assert index.table is not None
            if not has_index_on_sqlite(connection, index.name, index.table.schema):
                yield CreateIndexOp.from_index(index)


def has_index_on_sqlite(connection: Connection, name: str | None, schema: str | None) -> bool:
    """Whether there is an index `name`, also one that SQLAlchemy cannot reflect; False where it is not SQLite."""
    if connection.dialect.name != "sqlite":
        return False
    catalogue = "sqlite_master"
    if schema is not None:
        catalogue = f"{connection.dialect.identifier_preparer.quote_identifier(schema)}.{catalogue}"
    found = connection.exec_driver_sql(f"SELECT 1 FROM {catalogue} WHERE type = 'index' AND name = ?", (name,))
    return found.first() is not None


def missing_checks(connection: Connection, tables: Iterable[Table]) -> Iterator[str]:
    """The CHECK constraints that models have and their tables lack, a sentence each or for those without a name of one table."""
    looked_at = inspect(connection)
    preparer = connection.dialect.identifier_preparer
    compiler = connection.dialect.ddl_compiler(connection.dialect, None)  # type: ignore[arg-type]  # nothing to compile yet
    for table in tables:
        # That of a type (an enumeration's) is there only where the server has no such type.
        checks = [one for one in table.constraints if isinstance(one, CheckConstraint)]
        checks = [check for check in checks if check._should_create_for_compiler(compiler)]
        if not checks:
            continue
        names = [None if check.name is None else preparer.format_constraint(check) for check in checks]
        found = [one["name"] for one in looked_at.get_check_constraints(table.name, schema=table.schema)]
        others = [name for name in found if name is None or preparer.quote(name) not in names]
        there = {preparer.quote(name) for name in found if name is not None}
        for name in sorted(name for name in names if name is not None and name not in there):
            yield f"CHECK constraint {name} on {table.name} is missing"
        # Each server gives those without a name one of its own.
        if names.count(None) > len(others):
            yield f"CHECK constraint without a name on {table.name} is missing"


def refusal_of_sqlite(statement: str, table: str, others: Iterable[str]) -> str | None:
    """Why SQLite would refuse `statement`, which adds a column to `table`, because the table has rows; None if it would not.

    SQLite knows best which default is a constant, so it is asked: in memory, with a table of that name and one row.

    Args:
        statement: the ALTER TABLE.
        table: the table's name, quoted where it must be.
        others: the names of its other columns, quoted likewise.
    """
    with closing(sqlite3.connect(":memory:")) as trying:
        trying.execute(f"CREATE TABLE {table} ({', '.join(others) or 'nothing'})")
        trying.execute(f"INSERT INTO {table} DEFAULT VALUES")
        try:
            trying.execute(statement)
        except sqlite3.OperationalError as error:
            # Anything else may be for want of what only the real database has.
            return str(error) if str(error).lower().startswith("cannot add ") else None
    return None
