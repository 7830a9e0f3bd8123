"""`set` and `unique`: every operation adds one row of its own.

`set` has no unique index, which would hide that a row came twice. `unique` has one, and asks whether the caller of a row that is
there is told so: a retry that runs into the row of its own first attempt must not answer "exists already".
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from zlib import crc32

from sqlalchemy import Integer, MetaData, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .workload import PREFIX, Call, Identity, TableWorkload

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ...clock import Random

__all__ = ["SetOfRows", "UniqueRows"]


class _SetBase(DeclarativeBase):
    metadata = MetaData()


class _Row(_SetBase):
    __tablename__ = f"{PREFIX}set"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    operation: Mapped[str] = mapped_column(String(64), index=True)


class _UniqueBase(DeclarativeBase):
    metadata = MetaData()


class _UniqueRow(_UniqueBase):
    __tablename__ = f"{PREFIX}unique"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    operation: Mapped[str] = mapped_column(String(64), unique=True)


class SetOfRows(TableWorkload):
    """Inserts that nothing in the schema keeps from being applied twice."""

    name = "set"
    metadata = _SetBase.metadata
    final_name = "set"
    _f = "insert"
    _row: type[_Row | _UniqueRow] = _Row

    def next(self, random: Random, identity: Identity) -> Call:  # noqa: ARG002 - nothing to draw
        """One insert."""
        return Call(self._f, {"id": identity.text}, identity.text)

    def perform(self, session: Session, call: Call) -> dict[str, Any]:
        """Add the row, in a savepoint every fourth time: applications that deal with a refused row do so."""
        # Not on SQLite: under plain SQLAlchemy its driver begins no transaction for a savepoint, and the release commits.
        nested = crc32(call.v["id"].encode()) % 4 == 0 and session.get_bind().dialect.name != "sqlite"
        with session.begin_nested() if nested else nullcontext():
            session.add(self._row(operation=call.v["id"]))
            session.flush()
        return dict(call.v)

    def final(self, session: Session) -> dict[str, Any]:
        """The ids of all rows, as often as they are there."""
        return {"ids": list(session.scalars(select(self._row.operation).order_by(self._row.id)))}


class UniqueRows(SetOfRows):
    """Inserts of a business key that may exist once."""

    name = "unique"
    metadata = _UniqueBase.metadata
    final_name = "unique"
    _f = "insert-unique"
    _row = _UniqueRow
