"""SQLite's connections, able to roll back after an interrupt.

`sqlite3_interrupt` stays in force as long as any statement of the connection is under way, and a SELECT whose rows have not all
been fetched is. Then ROLLBACK fails as well ("interrupted"), and closing does not help: SQLite keeps a closed connection with its
transaction and its lock on the file, until the last statement is gone. So a ROLLBACK that is interrupted ends them first.
"""

from __future__ import annotations

import sqlite3
import weakref
from typing import Any

__all__ = ["INTERRUPTIBLE"]

_ROLLBACKS_MAX = 3
"""The watchdog interrupts again and again until somebody says that he has got to the ROLLBACK."""


class _Connection(sqlite3.Connection):
    """Knows its cursors."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cursors: weakref.WeakSet[Any] = weakref.WeakSet()

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        made = super().cursor(factory)
        self._cursors.add(made)
        return made

    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def rollback(self) -> None:
        for _ in range(_ROLLBACKS_MAX - 1):
            try:
                return super().rollback()
            except sqlite3.OperationalError:
                for cursor in list(self._cursors):
                    cursor.close()
        return super().rollback()


INTERRUPTIBLE: Any = type(
    "Connection", (_Connection,), {"__module__": sqlite3.Connection.__module__, "__doc__": _Connection.__doc__}
)
"""For `sqlite3.connect(factory=...)`. A driver is known by the module of its connections' class."""
