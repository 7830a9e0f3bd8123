"""Key rows from inside of a unit's body: of operations that join its transaction, of questions, and of the purge.

These statements go past SQLAlchemy, so what they raise is told to the unit here, as SQLAlchemy's events tell the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import exc

from ...errors import UsageError

if TYPE_CHECKING:
    from ...operation import OperationKey, Record, ResultCodec
    from .unit import Unit

__all__ = ["claim", "purge", "store", "under"]


@contextmanager
def under(unit: Unit[Any], key: OperationKey, name: str) -> Iterator[None]:
    """Be inside of the keyed operation `name`, which is part of `unit`.

    Raises:
        UsageError: the same key is at work around it: its result is not there yet, so there is nothing to replay.
    """
    outer_keys = unit.keys
    if key in outer_keys:
        raise UsageError(f"{name} calls itself under the key that it has already; give the inner call a key of its own")
    unit.keys = (*outer_keys, key)
    try:
        yield
    finally:
        unit.keys = outer_keys


def claim(unit: Unit[Any], key: OperationKey, fingerprint: str, attempt: int = 0) -> Record | None:
    """The committed row of `key`; None: it was inserted into the transaction of `unit`."""
    runtime = unit.runtime
    runtime.count_key()
    with _told(unit):
        return runtime.key_rows.claim(unit.connected(), key, fingerprint, attempt, runtime.key_ttl_s)


def store(unit: Unit[Any], key: OperationKey, codec: ResultCodec | None, result: Any) -> None:
    """Put a result into the row that `claim` has inserted."""
    assert codec is not None
    if result is None:
        return
    encoded = codec.encode(result)
    with _told(unit):
        unit.runtime.key_rows.store(unit.connected(), key, encoded)


def purge(unit: Unit[Any], rows_max: int) -> int:
    """Remove up to `rows_max` expired key rows; how many it were."""
    with _told(unit):
        return unit.runtime.key_rows.purge(unit.connected(), rows_max)


@contextmanager
def _told(unit: Unit[Any]) -> Iterator[None]:
    dialect = unit.runtime.engine.dialect
    database_error = dialect.loaded_dbapi.Error
    try:
        yield
    except database_error as error:
        wrapped = exc.DBAPIError.instance(None, None, error, database_error, hide_parameters=True, dialect=dialect)
        unit.note(wrapped)
        raise wrapped from error
    except BaseException as error:
        unit.note(error)
        if not isinstance(error, Exception):
            unit.connected().invalidate(error)  # the answer is still to come, and nobody will read it
        raise
