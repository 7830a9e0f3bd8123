"""Isolation levels by the name of what they promise, and what each flavour calls them."""

from __future__ import annotations

from typing import Literal

from ...dialects import Flavour
from ...errors import ConfigurationError

__all__ = ["ISOLATIONS", "check_isolation", "level_of"]

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
    level = isolation.lower()
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
