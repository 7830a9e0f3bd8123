"""A server whose connections are used up."""

from __future__ import annotations

import threading
from typing import Any

from ...clock import SYSTEM_CLOCK
from ..servers import Server

__all__ = ["UseUpConnections"]

_AGAIN_AFTER_S = 0.05


class UseUpConnections:
    """Takes every connection that the application's account may have, and each that becomes free: 1040, or 53300.

    What a server keeps for administrators stays free, but for moments: MariaDB's and MySQL's single connection is taken
    while it asks who it is that knocks. Who is connected already is left alone.
    """

    name = "no-connections"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._held: list[Any] = []
        self._over = threading.Event()
        self._full = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> dict[str, Any]:
        """Take all that are free, and keep at it; returns when the server refused one."""
        most = int(str(self._server.get_global("max_connections")))  # who asks later may be refused
        self._over.clear()
        self._full.clear()
        self._thread = threading.Thread(target=self._take, name="use-up-connections", daemon=True)
        self._thread.start()
        while not self._full.wait(_AGAIN_AFTER_S) and self._thread.is_alive():
            pass
        return {"taken": len(self._held), "max_connections": most}

    def heal(self) -> None:
        """Give all of them back."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        while self._held:
            self._held.pop().close()

    def _take(self) -> None:
        while not self._over.is_set():
            try:
                self._held.append(self._server.connect())
            except Exception as error:
                if _is_full(error):
                    self._full.set()
                # Whatever else keeps the server from answering, another fault perhaps, passes or does not: go on until healed.
                SYSTEM_CLOCK.wait(self._over, _AGAIN_AFTER_S)


def _is_full(error: Exception) -> bool:
    text = str(error)  # libpq gives no SQLSTATE for a connection that was refused
    return error.args[:1] == (1040,) or "too many clients" in text or "remaining connection slots" in text
