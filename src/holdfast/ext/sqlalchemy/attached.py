"""Objects that a session looks after, and to which what is saved leads. They are not saved: that is their session's affair."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy.orm import InstanceState, RelationshipProperty, Session
from sqlalchemy.orm.collections import collection_adapter

from ...errors import ForeignTransaction

__all__ = ["Led", "stand_ins"]


class Led(NamedTuple):
    """An object that is saved leads to one that is not."""

    obj: Any
    relationship: RelationshipProperty[Any]
    to: InstanceState[Any]


def stand_ins(session: Session, leads: Iterable[Led]) -> dict[InstanceState[Any], Any]:
    """What stands in `session` for the objects that other sessions look after: their rows, as the database has them.

    Those that `session` looks after itself stay what they are. They get the copies of what is saved, so the originals, which an
    assignment of the caller's has put there, leave: they are in no session, and would be inserted as well.

    Raises:
        ForeignTransaction: the database does not have one of them, so nothing can refer to it.
    """
    rows: dict[InstanceState[Any], Any] = {}
    for obj, relationship, to in leads:
        if to.session_id == session.hash_key:
            if relationship.back_populates is not None:
                _take_out(obj, to, relationship.back_populates)
        elif to not in rows:
            assert to.key is not None
            kind, identity, token = to.key
            rows[to] = row = session.get(kind, identity, identity_token=token)
            if row is None:
                raise ForeignTransaction(
                    f"save() was led to a {kind.__name__} that belongs to a session, and that the database does not have; commit "
                    "that session first, or save inside a transaction function with tx.add()"
                )
    return rows


def _take_out(obj: Any, state: InstanceState[Any], key: str) -> None:
    """Without events, which would change `obj` in turn, and without history: it was never there for the database."""
    held = state.dict.get(key)
    pending = state._pending_mutations.get(key)
    if pending is not None and obj in pending.added_items:  # the collection is not loaded yet
        pending.added_items.remove(obj)
    if held is obj:
        state.dict[key] = None
    elif held is not None and state.mapper.relationships[key].uselist:
        members = collection_adapter(held)
        if any(member is obj for member in members):
            members.remove_without_event(obj)
