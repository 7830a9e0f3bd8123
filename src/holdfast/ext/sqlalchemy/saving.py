"""What `save` does to an object: validate, prepare its keys, write a copy, and hand the result back.

Every attempt writes a fresh copy (`Session.merge`), because an object that was flushed and rolled back keeps its generated
primary key and would be inserted with it the next time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import String, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstanceState, Mapper
from sqlalchemy.orm.attributes import set_committed_value

from ...errors import ConfigurationError, ForeignTransaction, error_for
from ...operation import JsonCodec, qualified_name
from ...outcome import Failure, FailureClass, Rejection, Stage

__all__ = [
    "Identities",
    "IdentityCodec",
    "checked",
    "give_back",
    "made_keys",
    "operation_name",
    "validate",
    "wanted",
    "with_keys",
]

M = TypeVar("M")


def _state_of(obj: Any) -> InstanceState[Any]:
    try:
        state = inspect(obj)
    except NoInspectionAvailable:
        state = None
    if not isinstance(state, InstanceState):
        raise ConfigurationError(f"save() takes instances of mapped classes, not {type(obj).__name__}")
    return state


def validate(obj: Any) -> None:
    """Refuse what the database would refuse, before it is asked.

    The object's own `validate()` method is called if it has one. Then each column: a value where one is needed, and text no
    longer than its column.

    Raises:
        ConfigurationError: `obj` is not an instance of a mapped class.
        ForeignTransaction: it belongs to a session of the caller's.
        InvalidData: a value is missing or too long; names the table and columns, not the value.
        Exception: whatever the object's `validate()` raises.
    """
    state = _state_of(obj)
    if state.session_id is not None:
        raise ForeignTransaction(
            f"save() was given a {type(obj).__name__} that belongs to a session; it works in a session of its own, new at "
            "every attempt: expunge the object first, or save inside a transaction function with tx.add()"
        )
    own_validate = getattr(obj, "validate", None)
    if callable(own_validate):
        own_validate()
    missing: list[str] = []
    too_long: list[str] = []
    mapper = state.mapper
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        value = state.dict.get(attribute.key)
        if value is None:
            if (attribute.key in state.dict or state.key is None) and _needs_a_value(column, mapper):
                missing.append(column.name)
        elif isinstance(value, str) and _length_of(column) < len(value):
            too_long.append(column.name)
    if missing:
        raise _refused(Rejection.NOT_NULL, mapper, missing)
    if too_long:
        raise _refused(Rejection.TOO_LONG, mapper, too_long)


def _length_of(column: Any) -> float:
    length = column.type.length if isinstance(column.type, String) else None
    return float("inf") if length is None else length


def _needs_a_value(column: Any, mapper: Mapper[Any]) -> bool:
    if column.nullable or column.default is not None or column.server_default is not None or column.foreign_keys:
        return False
    table = column.table
    generated = table is not None and getattr(table, "autoincrement_column", None) is column
    return not generated and column.identity is None and column.computed is None and column is not mapper.version_id_col


def _refused(rejection: Rejection, mapper: Mapper[Any], columns: list[str]) -> Exception:
    failure = Failure(
        FailureClass.PERMANENT,
        Stage.BODY,
        name=rejection.value,
        rejection=rejection,
        table=str(mapper.local_table),
        columns=tuple(columns),
    )
    return error_for(failure, operation=f"save {mapper.class_.__name__}")


def made_keys(obj: Any) -> dict[str, Any]:
    """The keys of `obj` that Python code makes (a UUID default), by attribute: made once, every attempt writes the same ones.

    Not put into `obj` itself before it is saved: asked for again, it must still be what was asked for.
    """
    state = _state_of(obj)
    made: dict[str, Any] = {}
    for column in state.mapper.primary_key:
        attribute = state.mapper.get_property_by_column(column).key
        default = column.default
        if state.dict.get(attribute) is None and default is not None and default.is_callable:
            made[attribute] = default.arg(None)
    return made


def with_keys(copy: M, made: dict[str, Any]) -> M:
    """`copy` with the keys from `made_keys`."""
    for attribute, value in made.items():
        setattr(copy, attribute, value)
    return copy


def checked(objs: Sequence[M], *, keyed: bool) -> tuple[list[tuple[M, dict[str, Any]]], list[Any]]:
    """The objects, validated, with the keys made for them; and for a keyed save what is asked for, for the fingerprint."""
    objects = list(objs)
    for obj in objects:
        validate(obj)
    return [(obj, made_keys(obj)) for obj in objects], _described(objects) if keyed else []


def _described(objects: Sequence[Any]) -> list[Any]:
    """What was asked to be saved, for the fingerprint: classes and loaded column values."""
    return [
        [
            qualified_name(type(obj)),
            {
                attribute.key: state.dict[attribute.key]
                for attribute in state.mapper.column_attrs
                if attribute.key in state.dict
            },
        ]
        for obj in objects
        for state in (_state_of(obj),)
    ]


def give_back(originals: Sequence[Any], saved: Sequence[Any]) -> None:
    """Put what the database generated (keys, defaults) into the caller's objects."""
    for original, copy in zip(originals, saved, strict=True):
        state = _state_of(copy)
        target = _state_of(original)
        for attribute in state.mapper.column_attrs:
            if attribute.key in state.dict and target.dict.get(attribute.key) is None:
                set_committed_value(original, attribute.key, state.dict[attribute.key])


@dataclass(frozen=True, slots=True)
class Identities:
    """The primary keys under which a keyed save was stored, as a replay finds them."""

    keys: list[list[Any]]


class IdentityCodec:
    """Stores saved objects by primary key: a replay loads them, so it sees the row as it is now."""

    __slots__ = ("_json",)

    def __init__(self) -> None:
        self._json = JsonCodec()

    def encode(self, result: Sequence[Any]) -> str:
        """The primary keys of `result`."""
        return json.dumps([[self._json.encode(part) for part in _state_of(obj).identity or ()] for obj in result])

    def decode(self, text: str) -> Identities:
        """The primary keys again."""
        return Identities([[self._json.decode(part) for part in key] for key in json.loads(text)])


def operation_name(objects: Sequence[Any]) -> str:
    """The name of the operation that saves `objects`: `save.User`, or `save` for a mixture."""
    names = {type(obj).__name__ for obj in objects}
    return f"save.{names.pop()}" if len(names) == 1 else "save"


def wanted(objects: Sequence[Any], saved: Identities) -> list[tuple[type[Any], Any]]:
    """What a replay loads: the class and primary key of each object that was saved under the key."""
    return [(type(obj), tuple(key) if len(key) != 1 else key[0]) for obj, key in zip(objects, saved.keys, strict=True)]
