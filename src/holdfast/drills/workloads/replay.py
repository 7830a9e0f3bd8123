"""`replay`: the same save asked for by several callers at once, under one key, for two tenants.

Every client process makes the same sequence of keys, so they meet; each also asks again for keys of a moment ago. What is saved
gets a number from the database, and the number is the result: whoever ran the save a second time would be told another one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, MetaData, String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .workload import PREFIX, Call, Identity, TableWorkload, pick, whole

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ...clock import Random

__all__ = ["TENANTS", "Replay", "digest"]

TENANTS = ("red", "blue")
"""Each has keys of its own, which read the same as the other's."""
_CALLS_PER_KEY = 2
_LOOK_BACK = 8
_AGAIN = 0.3


class _Base(DeclarativeBase):
    metadata = MetaData()


class _Effect(_Base):
    __tablename__ = f"{PREFIX}effect"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    tenant: Mapped[str] = mapped_column(String(16))
    operation: Mapped[str] = mapped_column(String(64), index=True)


class Replay(TableWorkload):
    """Keyed saves, each asked for several times."""

    name = "replay"
    metadata = _Base.metadata
    final_name = "keyed"
    keyed = True

    def next(self, random: Random, identity: Identity) -> Call:
        """The key that is due, or one of a moment ago."""
        number = identity.index // _CALLS_PER_KEY
        if random() < _AGAIN:
            number = max(0, number - whole(random, 1, _LOOK_BACK))
        tenant = pick(random, TENANTS)
        key = f"key-{number}"
        v = {"id": f"{tenant}-{number}", "tenant": tenant, "key_hash": digest(key)}
        return Call("keyed", v, key, scope=tenant)

    def perform(self, session: Session, call: Call) -> dict[str, Any]:
        """Save a row; the result is the number that the database gave it."""
        row = _Effect(tenant=call.v["tenant"], operation=call.v["id"])
        session.add(row)
        session.flush()
        return {"result": row.id}

    def final(self, session: Session) -> dict[str, Any]:
        """How often each save is there."""
        rows = session.execute(select(_Effect.operation, func.count()).group_by(_Effect.operation))
        return {"effects": {operation: times for operation, times in rows}}  # noqa: C416 - rows are no pairs to a type checker


def digest(text: str) -> str:
    """What stands for a key in the history: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
