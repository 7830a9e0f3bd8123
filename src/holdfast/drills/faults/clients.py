"""Clients of the drill that are ended in the middle of their work."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from ..guard import OwnProcess

__all__ = ["SignalClient"]


class SignalClient:
    """A signal for one client process: SIGKILL, as when the machine's memory ran out, or SIGTERM, as when it is deployed.

    Args:
        pid: the client's process, which this process must have started.
        sent: SIGKILL or SIGTERM.
        revive: starts its successor, when healing; nothing by default.

    Raises:
        ConfigurationError: the process is not one of the drill's own.
    """

    def __init__(
        self, pid: int, sent: signal.Signals = signal.SIGKILL, revive: Callable[[], object] | None = None
    ) -> None:
        self.name = {signal.SIGKILL: "kill-client", signal.SIGTERM: "stop-client"}.get(sent, "signal-client")
        self._process = OwnProcess(pid)
        self._sent = sent
        self._revive = revive
        self._begun = False

    def start(self) -> dict[str, Any]:
        """Send it."""
        self._begun = True
        return {"pid": self._process.pid, "signal": self._sent.name, "met": self._process.send(self._sent)}

    def heal(self) -> None:
        """Start its successor, once."""
        if self._begun:
            self._begun = False
            if self._revive is not None:
                self._revive()
