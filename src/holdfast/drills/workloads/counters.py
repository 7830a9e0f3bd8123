"""`counter` and `rmw`: numbers that everybody adds to.

`counter` has the database add, so only a lost or doubled operation makes a difference. `rmw` reads the number into an object,
adds one to it there and writes it back: at the wrong isolation level this loses acknowledged updates with no fault at all.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, MetaData, String, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .workload import PREFIX, Call, Identity, TableWorkload, whole

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ...clock import Random

__all__ = ["Counter", "ReadModifyWrite"]

_COUNTERS = 4
_BY_MAX = 3
_RMW_ROWS = 32
"""Enough that most operations meet nobody, few enough that some always do."""


class _CounterBase(DeclarativeBase):
    metadata = MetaData()


class _Counter(_CounterBase):
    __tablename__ = f"{PREFIX}counter"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    n: Mapped[int] = mapped_column(Integer)


class Counter(TableWorkload):
    """`UPDATE ... SET n = n + by` on 4 rows."""

    name = "counter"
    metadata = _CounterBase.metadata
    final_name = "counter"
    # One statement reads and writes; at PostgreSQL's REPEATABLE READ it would lose to every other one on the row.
    isolation = MappingProxyType({"postgresql": "read committed"})

    def set_up(self, session: Session) -> None:
        """All begin at 0."""
        session.add_all(_Counter(id=number, n=0) for number in range(_COUNTERS))

    def next(self, random: Random, identity: Identity) -> Call:
        """Add 1 to 3 to one of them."""
        row, by = whole(random, 0, _COUNTERS - 1), whole(random, 1, _BY_MAX)
        return Call("increment", {"row": str(row), "by": by, "id": identity.text}, identity.text)

    def perform(self, session: Session, call: Call) -> dict[str, Any]:
        """Have the database add."""
        session.execute(update(_Counter).where(_Counter.id == int(call.v["row"])).values(n=_Counter.n + call.v["by"]))
        return dict(call.v)

    def final(self, session: Session) -> dict[str, Any]:
        """What they are at."""
        rows = session.execute(select(_Counter.id, _Counter.n).order_by(_Counter.id))
        return {"rows": {str(number): n for number, n in rows}}


class _RmwBase(DeclarativeBase):
    metadata = MetaData()


class _Rmw(_RmwBase):
    __tablename__ = f"{PREFIX}rmw"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    n: Mapped[int] = mapped_column(Integer)


class _RmwEntry(_RmwBase):
    __tablename__ = f"{PREFIX}rmw_entry"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    row: Mapped[int] = mapped_column(Integer, index=True)
    operation: Mapped[str] = mapped_column(String(64))


class ReadModifyWrite(TableWorkload):
    """`obj.n += 1` through the ORM, and a row that says who did it."""

    name = "rmw"
    metadata = _RmwBase.metadata
    final_name = "rmw"
    # MySQL's REPEATABLE READ overwrites what changed since it was read; it has no level between it and this one.
    isolation = MappingProxyType({"mysql": "serializable"})

    def set_up(self, session: Session) -> None:
        """All begin at 0."""
        session.add_all(_Rmw(id=number, n=0) for number in range(_RMW_ROWS))

    def next(self, random: Random, identity: Identity) -> Call:
        """Add one to one of them."""
        row = whole(random, 0, _RMW_ROWS - 1)
        return Call("rmw", {"row": str(row), "id": identity.text}, identity.text)

    def perform(self, session: Session, call: Call) -> dict[str, Any]:
        """Read, add one, write."""
        row = session.get_one(_Rmw, int(call.v["row"]))
        row.n += 1
        session.add(_RmwEntry(row=row.id, operation=call.v["id"]))
        session.flush()
        return {**call.v, "n": row.n}

    def final(self, session: Session) -> dict[str, Any]:
        """What they are at, and who says to have added."""
        ids: dict[str, list[str]] = {}
        for row, operation in session.execute(select(_RmwEntry.row, _RmwEntry.operation).order_by(_RmwEntry.id)):
            ids.setdefault(str(row), []).append(operation)
        rows = session.execute(select(_Rmw.id, _Rmw.n).order_by(_Rmw.id))
        return {"rows": {str(number): {"n": n, "ids": ids.get(str(number), [])} for number, n in rows}}
