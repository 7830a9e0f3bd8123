"""A server that turns read-only under its clients, as one does that lost its role."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..servers import Server

__all__ = ["ReadOnly"]

_SETTINGS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "mariadb": {"read_only": 1},
        # For administrators as well; sets read_only, too.
        "mysql": {"read_only": 1, "super_read_only": 1},
        # Old sessions follow with their next transaction.
        "postgresql": {"default_transaction_read_only": "on"},
    }
)


class ReadOnly:
    """Writes are refused: 1290 in MariaDB and MySQL, 25006 in PostgreSQL. Connections stay open; reads go on."""

    name = "read-only"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before: list[tuple[str, object]] = []

    def start(self) -> dict[str, Any]:
        """Turn it read-only."""
        settings = _SETTINGS[self._server.flavour]
        # All of them are asked for before the first is changed: one may change another.
        self._before = [(name, self._server.get_global(name)) for name in settings]
        for name, value in settings.items():
            self._server.set_global(name, value)
        return dict(settings)

    def heal(self) -> None:
        """Give every setting its value back; a server that was restarted meanwhile has lost them by itself."""
        while self._before:
            name, value = self._before[-1]
            self._server.set_global(name, value)
            self._before.pop()
