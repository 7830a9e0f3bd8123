"""Isolation levels by the name of what they promise, and what each flavour calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ...bounds import instance_of
from ...dialects import Flavour
from ...errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["ISOLATIONS", "check_isolation", "level_of", "set_level"]

ISOLATIONS = ("snapshot", "serializable", "read committed")
"""`snapshot`: everything is read as of one moment, and whoever writes a row that changed since then loses and is rerun
(MariaDB with `innodb_snapshot_isolation`, PostgreSQL, SQLite). MySQL has no such level: its REPEATABLE READ reads as of one
moment and overwrites what changed since; use `serializable`, row locks or a version column there.
`serializable`: as if transactions ran one after the other. `read committed`: every statement sees what is committed by then."""

Level = Literal["REPEATABLE READ", "SERIALIZABLE", "READ COMMITTED"]

_LEVELS: dict[str, Level] = {
    "snapshot": "REPEATABLE READ",
    "serializable": "SERIALIZABLE",
    "read committed": "READ COMMITTED",
}


def check_isolation(isolation: str) -> str:
    """`isolation` itself, in lower case.

    Raises:
        ConfigurationError: there is no such level.
    """
    level = instance_of(isolation, str, "isolation").lower()
    if level not in ISOLATIONS:
        raise ConfigurationError(f"unknown isolation {isolation!r}; choose {', '.join(map(repr, ISOLATIONS))}")
    return level


def level_of(flavour: Flavour, isolation: str) -> Level:
    """SQLAlchemy's `isolation_level` for `isolation` on a server of `flavour`.

    SQLite knows one level, which promises all three.
    """
    if flavour is Flavour.SQLITE:
        return "SERIALIZABLE"
    return _LEVELS[check_isolation(isolation)]


def set_level(connection: Connection, isolation: str) -> None:
    """Give the transaction that begins on `connection`, and only that one, the level of `isolation`. Its first statement.

    SQLAlchemy's option of the same name sets the session's level instead, at the checkout and back again at the return, each time
    with a COMMIT: four round trips, and a connection that is lost on its return is never missed.
    """
    flavour = Flavour(connection.dialect.name)
    if flavour is not Flavour.SQLITE:
        connection.exec_driver_sql(f"SET TRANSACTION ISOLATION LEVEL {level_of(flavour, isolation)}")
