"""What `save` refuses before the database is asked, and the keys that it makes then.

Only what is certain: where something may still fill or shorten a value (a listener, a relationship, a type), the database says
so, or the check of what was written.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column, Enum, String, TypeDecorator
from sqlalchemy.orm import InstanceState, Mapper

from ...errors import error_for
from ...outcome import Failure, FailureClass, Rejection, Stage
from .sessions import UnitSession

__all__ = ["call_validate", "check_columns", "check_lengths", "made_keys", "refused", "written_columns"]


def call_validate(obj: Any) -> object:
    """Call the object's own `validate()`; what it returns, None where there is none.

    Not what only bears the name: a class method makes an object, and what takes arguments checks something else.
    """
    own = getattr(obj, "validate", None)
    if not inspect.ismethod(own) or own.__self__ is not obj:
        return None
    try:
        inspect.signature(own).bind()
    except TypeError:
        return None
    result: object = own()
    return result


def written_columns(mapper: Mapper[Any]) -> Iterator[tuple[str, Column[Any]]]:
    """Each attribute that stands for a column, with that; not those that stand for an expression."""
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if isinstance(column, Column):
            yield attribute.key, column


def check_columns(state: InstanceState[Any]) -> bool:
    """Refuse values that are missing or too long for their columns.

    Returns:
        Whether that is certain; False: listeners come before the INSERT, so `check_lengths` has to look at what they leave.

    Raises:
        InvalidData: there are some, and nobody will change them; names the table and columns, not the value.
    """
    mapper = state.mapper
    missing = [
        column
        for key, column in written_columns(mapper)
        if state.dict.get(key) is None
        and (key in state.dict or state.key is None)
        and _needs_a_value(column, mapper, given=key in state.dict)
    ]
    too_long = _too_long(state)
    if not missing and not too_long:
        return True
    if _is_heard(mapper):
        return False
    filled = _filled_by_relationships(mapper) if missing else set()
    left = [column.name for column in missing if column not in filled]
    if left:
        raise refused(Rejection.NOT_NULL, mapper, left)
    if too_long:
        raise refused(Rejection.TOO_LONG, mapper, too_long)
    return True


def check_lengths(state: InstanceState[Any]) -> None:
    """Refuse texts that are too long for their columns, now that nobody changes them any more. SQLite does not.

    Raises:
        InvalidData: there are some; names the table and columns, not the value.
    """
    too_long = _too_long(state)
    if too_long:
        raise refused(Rejection.TOO_LONG, state.mapper, too_long)


def _too_long(state: InstanceState[Any]) -> list[str]:
    return [
        column.name
        for key, column in written_columns(state.mapper)
        if isinstance(value := state.dict.get(key), str) and _length_of(column) < len(value)
    ]


def _length_of(column: Column[Any]) -> float:
    kind = column.type
    # A member of an enumeration is written by its name, and the column is as long as the longest.
    length = kind.length if isinstance(kind, String) and not isinstance(kind, Enum) else None
    return float("inf") if length is None else length


def _needs_a_value(column: Column[Any], mapper: Mapper[Any], *, given: bool) -> bool:
    if column.nullable or column.default is not None or column.server_default is not None or column.foreign_keys:
        return False
    kind = column.type
    if isinstance(kind, TypeDecorator) or (given and kind.should_evaluate_none):
        return False  # which may write something for None, as JSON does
    generated = getattr(column.table, "autoincrement_column", None) is column
    return not generated and column.identity is None and column.computed is None and column is not mapper.version_id_col


def _is_heard(mapper: Mapper[Any]) -> bool:
    """Whether somebody listens who may change an object on its way to the database."""
    told, of_session = mapper.dispatch, UnitSession().dispatch
    return any(map(bool, (told.before_insert, told.before_update, of_session.before_flush, of_session.before_attach)))


def _filled_by_relationships(mapper: Mapper[Any]) -> set[Any]:
    """The columns that a relationship fills, also one that only another model has."""
    return {
        filled
        for one in mapper.registry.mappers
        for relationship in one.relationships
        if not relationship.viewonly
        for _, filled in relationship.synchronize_pairs
    }


def refused(rejection: Rejection, mapper: Mapper[Any], columns: list[str]) -> Exception:
    """The error for values that the database would refuse, or does not."""
    failure = Failure(
        FailureClass.PERMANENT,
        Stage.BODY,
        name=rejection.value,
        rejection=rejection,
        table=str(mapper.local_table),
        columns=tuple(columns),
    )
    return error_for(failure, operation=f"save {mapper.class_.__name__}")


class _AsksForContext(Exception):
    """A default wants to know the statement that it is for."""


class _NoContext:
    """In the place of a statement's context, where there is no statement yet."""

    def __getattr__(self, name: str) -> Any:
        raise _AsksForContext(name)


def made_keys(state: InstanceState[Any]) -> dict[str, Any]:
    """The keys that Python code makes (a UUID default), by attribute: made once, every attempt writes the same ones.

    Not put into the object itself before it is saved: asked for again, it must still be what was asked for. A default that asks
    for the row's other values is made with the row.
    """
    made: dict[str, Any] = {}
    for column in state.mapper.primary_key:
        attribute = state.mapper.get_property_by_column(column).key
        default = column.default
        if state.dict.get(attribute) is None and default is not None and default.is_callable:
            try:
                made[attribute] = default.arg(_NoContext())
            except _AsksForContext:
                continue
    return made
