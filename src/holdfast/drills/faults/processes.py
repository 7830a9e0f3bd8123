"""Faults of the server's process: killed, frozen, slowed down, restarted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ...clock import SYSTEM_CLOCK
from ..servers import Server
from .fault import Fault

__all__ = ["SERVER_PROCESS_FAULTS", "FreezeServer", "KillServer", "RestartServer", "SlowServer"]


class KillServer:
    """SIGKILL, as a crash would; healing starts it again, with its recovery."""

    name = "kill-server"

    def __init__(self, server: Server) -> None:
        self._server = server

    def start(self) -> dict[str, Any]:
        """Kill it."""
        pid = self._server.pid
        self._server.kill()
        return {"pid": pid, "signal": "SIGKILL"}

    def heal(self) -> None:
        """Start it and wait until it serves."""
        self._server.heal()


class RestartServer:
    """An orderly stop, as for maintenance; healing starts it again."""

    name = "restart-server"

    def __init__(self, server: Server) -> None:
        self._server = server

    def start(self) -> dict[str, Any]:
        """Stop it in good order."""
        pid = self._server.pid
        self._server.stop()
        return {"pid": pid, "signal": self._server.stop_signal.name}

    def heal(self) -> None:
        """Start it and wait until it serves."""
        self._server.heal()


class FreezeServer:
    """SIGSTOP: connections stay open and nothing answers, as with a hung machine; healing is SIGCONT."""

    name = "freeze-server"

    def __init__(self, server: Server) -> None:
        self._server = server

    def start(self) -> dict[str, Any]:
        """Freeze it."""
        self._server.pause()
        return {"pid": self._server.pid, "signal": "SIGSTOP"}

    def heal(self) -> None:
        """Let it go on."""
        self._server.heal()


class SlowServer:
    """SIGSTOP and SIGCONT in turns: a server that has too little of a processor.

    Args:
        server: whom.
        stopped_share: the share of the time that it stands still; above 0, below 1.
        period_s: seconds of one turn; above 0.
    """

    name = "slow-server"

    def __init__(self, server: Server, stopped_share: float = 0.8, period_s: float = 0.25) -> None:
        self._server = server
        self._stopped_s = stopped_share * period_s
        self._running_s = period_s - self._stopped_s
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> dict[str, Any]:
        """Begin to freeze it in turns."""
        self._over.clear()
        self._thread = threading.Thread(target=self._take_turns, name="slow-server", daemon=True)
        self._thread.start()
        return {"pid": self._server.pid, "stopped_share": self._stopped_s / (self._stopped_s + self._running_s)}

    def heal(self) -> None:
        """Let it go on for good."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._server.heal()

    def _take_turns(self) -> None:
        while not self._over.is_set():
            self._server.pause()
            try:
                SYSTEM_CLOCK.wait(self._over, self._stopped_s)
            finally:
                self._server.resume()
            SYSTEM_CLOCK.wait(self._over, self._running_s)


SERVER_PROCESS_FAULTS: dict[str, Callable[[Server], Fault]] = {
    fault.name: fault for fault in (KillServer, RestartServer, FreezeServer, SlowServer)
}
"""By name."""
