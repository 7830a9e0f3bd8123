"""`append`: short transactions that append to lists and read them, in the form that Elle infers isolation anomalies from.

The idea and the limits (10 keys at a time, up to 4 micro-operations, a key retired after a while) are those of Jepsen's
list-append workload.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, MetaData, Text, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .workload import PREFIX, Call, Identity, TableWorkload, whole

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ...clock import Random

__all__ = ["Append"]

_KEYS = 10
_MICRO_OPERATIONS_MAX = 4
_CALLS_PER_KEY = 16
"""After how many operations of a client the oldest key is retired; so a list stays short enough to be read again and again."""
_SPACE = 4096
"""How many lists there are rows for; a longer drill begins again with the first."""


class _Base(DeclarativeBase):
    metadata = MetaData()


class _List(_Base):
    __tablename__ = f"{PREFIX}append"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    items: Mapped[str] = mapped_column(Text)


class Append(TableWorkload):
    """Transactions of up to 4 appends and reads on 10 lists."""

    name = "append"
    metadata = _Base.metadata
    final_name = "append"
    # As for `rmw`: MySQL's default level loses appends that were acknowledged.
    isolation = MappingProxyType({"mysql": "serializable"})

    def set_up(self, session: Session) -> None:
        """Every list is there, and empty: two first appends then meet on a row, not in a gap."""
        session.add_all(_List(id=number, items="") for number in range(_SPACE))

    def next(self, random: Random, identity: Identity) -> Call:
        """One transaction; no two appends of a drill append the same number."""
        first = identity.index // _CALLS_PER_KEY
        txn: list[list[Any]] = []
        for position in range(whole(random, 1, _MICRO_OPERATIONS_MAX)):
            key = (first + whole(random, 0, _KEYS - 1)) % _SPACE
            number = identity.number * _MICRO_OPERATIONS_MAX + position
            txn.append(["append", key, number] if random() < 0.5 else ["r", key, None])
        reads = all(micro[0] == "r" for micro in txn)
        return Call("append", {"txn": txn}, identity.text, reads=reads)

    def perform(self, session: Session, call: Call) -> dict[str, Any]:
        """Do the micro-operations in their order."""
        done: list[list[Any]] = []
        for kind, key, number in call.v["txn"]:
            row = session.get_one(_List, key)
            if kind == "r":
                done.append([kind, key, _numbers(row.items)])
            else:
                row.items = f"{row.items},{number}" if row.items else str(number)
                session.flush()
                done.append([kind, key, number])
        return {"txn": done}

    def final(self, session: Session) -> dict[str, Any]:
        """Every list that is not empty."""
        rows = session.execute(select(_List.id, _List.items).where(_List.items != "").order_by(_List.id))
        return {"lists": {str(key): _numbers(items) for key, items in rows}}


def _numbers(items: str) -> list[int]:
    return [int(item) for item in items.split(",")] if items else []
