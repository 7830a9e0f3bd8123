"""Servers that change their role: one turns read-only under its clients, or a standby takes the primary's place."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..servers import Server
from ..servers.postgresql_pair import PostgreSQLPair

__all__ = ["PromoteStandby", "ReadOnly", "SwitchRoles"]

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


class PromoteStandby:
    """The primary is killed and its standby takes over; healing brings the old one back as the new one's standby."""

    name = "promote-standby"

    def __init__(self, pair: PostgreSQLPair) -> None:
        self._pair = pair

    def start(self) -> dict[str, Any]:
        """Kill the one and promote the other."""
        before = self._pair.primary.name
        self._pair.promote()
        return {"from": before, "to": self._pair.primary.name}

    def heal(self) -> None:
        """Make them a pair again, in their new places."""
        self._pair.heal()


class SwitchRoles:
    """Primary and standby change places in good order, as for maintenance."""

    name = "switch-roles"

    def __init__(self, pair: PostgreSQLPair) -> None:
        self._pair = pair

    def start(self) -> dict[str, Any]:
        """Change their places."""
        before = self._pair.primary.name
        self._pair.switch()
        return {"from": before, "to": self._pair.primary.name}

    def heal(self) -> None:
        """Make sure that they are a pair; they are, unless the change was cut short."""
        self._pair.heal()
