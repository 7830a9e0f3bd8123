"""Sessions that an administrator ends."""

from __future__ import annotations

from typing import Any

from ..servers import Server

__all__ = ["KillSessions"]


class KillSessions:
    """Ends every session of the application's account, in whatever it does; new ones may begin at once. Nothing to heal."""

    name = "kill-sessions"

    def __init__(self, server: Server) -> None:
        self._server = server

    def start(self) -> dict[str, Any]:
        """End them."""
        if self._server.flavour == "postgresql":
            sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
            return {"sessions": sum(ended for (ended,) in self._server.execute(sql, [self._server.user]))}
        connection = self._server.connect(admin=True)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT id FROM information_schema.processlist WHERE user = %s", [self._server.user])
                ended = sum(self._kill(cursor, number) for (number,) in cursor.fetchall())
        finally:
            connection.close()
        return {"sessions": ended}

    def heal(self) -> None:
        """Nothing: whoever lost a session opens another."""

    @staticmethod
    def _kill(cursor: Any, number: int) -> bool:
        try:
            cursor.execute(f"KILL CONNECTION {int(number)}")
        except Exception as error:
            if error.args[:1] == (1094,):  # it left by itself meanwhile
                return False
            raise
        return True
