"""Row locks in a fixed order: two transactions that lock the same rows cannot wait for each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import inspect, select, tuple_

from ...errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapper

__all__ = ["by_id", "lock_statement"]

M = TypeVar("M")


def lock_statement(model: type[M], ids: Iterable[Any]) -> Any:
    """`SELECT ... WHERE <primary key> IN (...) ORDER BY <primary key> FOR UPDATE OF <the model's own tables>`.

    What is joined to load it (relationships, tables of subclasses) may be missing, and PostgreSQL locks nothing that may be.
    MariaDB has no `OF`, and locks what is there.

    Args:
        model: a mapped class.
        ids: primary keys; tuples where the key has several columns. Doubles are harmless.

    Raises:
        ConfigurationError: `model` is not mapped, or `ids` is no list.
    """
    mapper: Mapper[M] | None = inspect(model, raiseerr=False)
    if mapper is None or not hasattr(mapper, "primary_key"):
        raise ConfigurationError(f"lock() takes a mapped class, not {type(model).__name__}")
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise ConfigurationError(f"lock() takes a list of primary keys, not one of type {type(ids).__name__}: [id]")
    columns = mapper.primary_key
    wanted = list(dict.fromkeys(ids))
    condition = columns[0].in_(wanted) if len(columns) == 1 else tuple_(*columns).in_(wanted)
    statement = select(model).where(condition).order_by(*columns).with_for_update(of=mapper.persist_selectable)
    return statement.execution_options(populate_existing=True)


def by_id(objects: Iterable[M]) -> dict[Any, M]:
    """The objects by primary key: the bare value of a single column, a tuple of several."""
    found: dict[Any, M] = {}
    for obj in objects:
        identity = inspect(obj).identity
        found[identity[0] if len(identity) == 1 else tuple(identity)] = obj
    return found
