"""The copies that `save` writes: those of `Session.merge`, except that columns are set past their events, and only where changed.

`merge` sets every column as the program does: a `@validates` that hashes would hash again at each save, and one that allows only
certain changes would refuse to go back to what was read. What an object holds is what is to be stored.

`merge` also sets what was only read, and so undoes what others have committed since. Of an object that was read or saved before,
what SQLAlchemy has not seen changed stays as the row has it. It does not see a change inside of a value (a list of JSON, say), so
values that can change like this are compared with the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm import InstanceState, Mapper, PassiveFlag, RelationshipProperty, Session
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.base import NO_VALUE
from sqlalchemy.orm.collections import collection_adapter

from ...errors import error_for
from ...outcome import Failure, FailureClass, Rejection, Stage
from .given import Row, database_of, was_saved_as

__all__ = ["Copies", "load_held", "loaded", "put"]


def loaded(state: InstanceState[Any]) -> Iterator[RelationshipProperty[Any]]:
    """The relationships of an object over which a save goes on, as `Session.merge` does."""
    for relationship in state.mapper.relationships:
        if (
            relationship.key in state.dict
            and relationship.cascade.merge
            and relationship.lazy not in ("dynamic", "write_only")
        ):
            yield relationship


def put(state: InstanceState[Any], key: str, value: Any) -> None:
    """Set a column's attribute past its events, as something to be written."""
    there, impl = state.dict, state.get_impl(key)
    passive = PassiveFlag.PASSIVE_RETURN_NO_VALUE
    before = impl.get(state, there, passive) if impl.active_history else there.get(key, NO_VALUE)
    state._modified_event(there, impl, before)
    there[key] = value
    if isinstance(value, MutableBase):
        value._parents[state] = key  # else the copy would not see it change


def load_held(original: InstanceState[Any], copy: InstanceState[Any]) -> None:
    """Load what the database has made itself, and what the original holds: nobody can once the copy has left its session."""
    wanted = [attribute.key for attribute in copy.mapper.column_attrs]
    wanted += [relationship.key for relationship in loaded(original)]
    for key in wanted:
        if key not in copy.dict and (key in original.dict or key in copy.expired_attributes):
            copy.get_impl(key).get(copy, copy.dict, PassiveFlag.PASSIVE_MERGE)


class _Copied(dict[Any, Any]):
    """The memory of `Session.merge`, kept from one object to the next.

    `merge` forgets it, and `merge_all` does: a new object that two lead to would become two rows. Of what it notes besides (which
    relationships it has come along, whose other sides it then leaves out) nothing is kept: the walk may have begun at the side
    that was not changed.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, InstanceState):
            super().__setitem__(key, value)


class _ByKey(dict[Any, Any]):
    """The copies by the identities of their rows. Those of new objects, a part of whose keys is still missing, are none."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if None not in key[1] and NO_VALUE not in key[1]:
            super().__setitem__(key, value)


class Copies:
    """The copies that one attempt makes in its session.

    Args:
        session: the attempt's.
        stand_ins: what stands there for objects that are not copied.
    """

    __slots__ = ("_by_key", "_copied", "_database", "_session")

    def __init__(self, session: Session, stand_ins: Mapping[InstanceState[Any], Any]) -> None:
        self._session = session
        self._database = database_of(session)
        self._copied = _Copied(stand_ins)
        self._by_key = _ByKey()

    def of(self, state: InstanceState[Any]) -> Any:
        """The copy of the object, made together with those of all that it leads to.

        Raises:
            Conflict: the object is of an older version than its row.
        """
        if state in self._copied:
            return self._copied[state]
        copy, is_new = self._counterpart(state)
        self._copied[state] = copy
        to = instance_state(copy)
        if to is state:
            return copy  # the session's own
        _refuse_stale(state, to)
        was_there = to.key is not None and was_saved_as(state, Row(self._database, to.key))
        self._set_columns(state, to, was_there=was_there)
        for prop in state.mapper.iterate_properties:
            if isinstance(prop, RelationshipProperty):
                self._relate(state, to, prop, was_there=was_there)
        self._set_columns(state, to, was_there=was_there)  # again, over what listeners of relationships made of them
        if is_new:
            to.manager.dispatch.load(to, None)
        _hand_over_unmapped(state, to)
        return copy

    def _counterpart(self, state: InstanceState[Any]) -> tuple[Any, bool]:
        """What stands for the object in the session, and whether that is new there."""
        session, mapper = self._session, state.mapper
        key = state.key or mapper._identity_key_from_state(state)
        copy = session.identity_map.get(key)
        if copy is None:
            copy = self._by_key.get(key)
        if copy is None and (state.key is not None or _may_be_stored(mapper, key[1])):
            copy = session.get(mapper.class_, key[1], identity_token=key[2])
        is_new = copy is None
        if is_new:
            copy = mapper.class_manager.new_instance()
            session.add(copy)
        self._by_key[key] = copy
        return copy, is_new

    def _set_columns(self, state: InstanceState[Any], to: InstanceState[Any], *, was_there: bool) -> None:
        held, there = state.dict, to.dict
        for attribute in state.mapper.column_attrs:
            key = attribute.key
            if key not in held:
                attribute.merge(self._session, state, held, to, there, True, self._copied, self._by_key)
            elif not attribute.instrument or (key in there and there[key] is held[key]):
                continue
            elif not was_there or key in state.committed_state or _may_change_unseen(held[key]):
                put(to, key, held[key])

    def _relate(
        self,
        state: InstanceState[Any],
        to: InstanceState[Any],
        relationship: RelationshipProperty[Any],
        *,
        was_there: bool,
    ) -> None:
        key = relationship.key
        if relationship in loaded(state):
            if relationship.uselist and to.key is not None:
                # At once, and not each member by itself.
                to.get_impl(key).get(to, to.dict, PassiveFlag.PASSIVE_MERGE)
            value = state.dict[key]
            for member in collection_adapter(value) if relationship.uselist else [value]:
                if member is not None:
                    self.of(instance_state(member))
            if was_there and key not in state.committed_state:
                return
        relationship.merge(self._session, state, state.dict, to, to.dict, True, self._copied, self._by_key)


def _may_be_stored(mapper: Mapper[Any], identity: tuple[Any, ...]) -> bool:
    missing = [part is None for part in identity]
    return NO_VALUE not in identity and (not any(missing) or (mapper.allow_partial_pks and not all(missing)))


def _may_change_unseen(value: Any) -> bool:
    """Whether a change inside of the value would escape SQLAlchemy: what hashes by what it holds has no such changes."""
    if value is None:
        return False
    try:
        hash(value)
    except TypeError:
        return True
    return getattr(type(value), "__hash__", None) is object.__hash__


def _refuse_stale(state: InstanceState[Any], to: InstanceState[Any]) -> None:
    """No other attempt could mend it: the version is the caller's."""
    mapper = state.mapper
    if mapper.version_id_col is None:
        return
    key = mapper.get_property_by_column(mapper.version_id_col).key
    if key in state.dict and key in to.dict and state.dict[key] != to.dict[key]:
        failure = Failure(
            FailureClass.PERMANENT,
            Stage.BODY,
            name=Rejection.STALE.value,
            rejection=Rejection.STALE,
            table=str(mapper.local_table),
            columns=(mapper.version_id_col.name,),
        )
        raise error_for(failure, operation=f"save {mapper.class_.__name__}")


def _hand_over_unmapped(state: InstanceState[Any], to: InstanceState[Any]) -> None:
    """What the object holds beside its columns: listeners may read it. What it only remembers, it can find out again."""
    known = state.mapper.attrs
    for key, value in state.dict.items():
        is_own = key in known or key.startswith(("_sa_", "_AssociationProxy_"))
        if not is_own and not isinstance(getattr(state.class_, key, None), cached_property):
            to.dict[key] = value
