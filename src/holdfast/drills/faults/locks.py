"""Somebody else's transactions, which lock the rows that the application wants."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ...clock import SYSTEM_CLOCK, Random, seeded_random
from ..servers import Server

__all__ = ["LockStorm", "lockable_rows"]


def lockable_rows(server: Server, prefix: str, limit: int = 8) -> list[str]:
    """Statements that lock one row each: the first rows of every table whose name begins with `prefix`, by their primary key.

    Args:
        server: where the tables are.
        prefix: of the tables' names; letters, digits and `_`.
        limit: how many rows of a table.
    """
    keys = server.execute(
        "SELECT c.table_name, MAX(k.column_name) FROM information_schema.table_constraints c "
        "JOIN information_schema.key_column_usage k ON k.constraint_name = c.constraint_name "
        "AND k.table_schema = c.table_schema AND k.table_name = c.table_name "
        "WHERE c.constraint_type = 'PRIMARY KEY' AND c.table_schema IN (%s, 'public') "
        "GROUP BY c.table_name HAVING COUNT(*) = 1 ORDER BY 1",
        [server.database],
    )
    statements = []
    for table, key in keys:
        if not table.startswith(prefix):
            continue
        for (value,) in server.execute(f"SELECT {key} FROM {table} ORDER BY {key} LIMIT {int(limit)}"):  # noqa: S608 - names from the catalogue
            text = "'" + str(value).replace("'", "''") + "'"
            statements.append(f"SELECT {key} FROM {table} WHERE {key} = {text} FOR UPDATE")  # noqa: S608
    return statements


class LockStorm:
    """Foreign transactions that lock rows in bursts, half of them in one order and half in the other, and roll back.

    Whoever wants a row meanwhile waits, or is chosen as the victim of a deadlock.

    Args:
        server: where.
        rows: statements that lock one row each, such as `lockable_rows` finds.
        clients: how many at once; 2 or more make deadlocks.
        hold_s: how long each keeps what it locked, in seconds; above 0.
        pause_s: seconds between two bursts, on average; 0 or more.
        seed: of the pauses.
    """

    name = "lock-storm"

    def __init__(
        self,
        server: Server,
        rows: Sequence[str],
        *,
        clients: int = 2,
        hold_s: float = 0.5,
        pause_s: float = 0.5,
        seed: int = 0,
    ) -> None:
        self._server = server
        self._rows = tuple(rows)
        self._clients = clients
        self._hold_s = hold_s
        self._pause_s = pause_s
        self._random = seeded_random(seed)
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> dict[str, Any]:
        """Begin the first burst; returns at once."""
        self._over.clear()
        for number in range(self._clients):
            rows = self._rows if number % 2 == 0 else self._rows[::-1]
            thread = threading.Thread(
                target=self._storm, args=(rows, self._random), name=f"lock-storm-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return {"rows": len(self._rows), "clients": self._clients, "hold_s": self._hold_s}

    def heal(self) -> None:
        """End the foreign transactions, within about a second."""
        self._over.set()
        while self._threads:
            self._threads.pop().join()

    def _storm(self, rows: Sequence[str], random: Random) -> None:
        while not self._over.is_set():
            with suppress(Exception):  # a victim itself, or the server is away: the next burst comes
                self._burst(rows)
            SYSTEM_CLOCK.wait(self._over, 2 * self._pause_s * random())

    def _burst(self, rows: Sequence[str]) -> None:
        connection = self._server.connect(admin=True)
        try:
            with connection.cursor() as cursor:
                # Healing must not wait for a lock longer than this.
                if self._server.flavour == "postgresql":
                    cursor.execute("SET lock_timeout = '1s'")
                else:
                    cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")
                cursor.execute("START TRANSACTION")
                for row in rows:
                    if self._over.is_set():
                        return
                    cursor.execute(row)
                SYSTEM_CLOCK.wait(self._over, self._hold_s)
        finally:
            connection.close()  # rolls back
