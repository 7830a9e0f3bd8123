"""A name that leads nowhere, for this process."""

from __future__ import annotations

import socket
import threading
from typing import Any

__all__ = ["DnsFailure", "is_asked_in_python"]

_IN_PYTHON = frozenset({"pymysql", "asyncmy", "aiomysql", "asyncpg"})

_lock = threading.Lock()
_failing: dict[str, list[DnsFailure]] = {}
_real = socket.getaddrinfo


class DnsFailure:
    """Looking one name up fails as when no name server answers (EAI_AGAIN), in this process, until healed.

    What asks through Python's `socket` meets it: PyMySQL, asyncio and the drivers on it, psycopg's async side. libpq and the
    other libraries in C ask the operating system themselves and do not. Connections that are open stay so.

    Args:
        host: the name, as it stands in the URL; case does not matter.
    """

    name = "dns-failure"

    def __init__(self, host: str) -> None:
        self._host = host.lower()

    def start(self) -> dict[str, Any]:
        """Let look-ups fail from now on."""
        with _lock:
            users = _failing.setdefault(self._host, [])
            if self not in users:
                users.append(self)
            socket.getaddrinfo = _getaddrinfo
        return {"host": self._host}

    def heal(self) -> None:
        """Let them succeed again; with the last failing name the function itself is the old one."""
        with _lock:
            users = _failing.get(self._host, [])
            if self in users:
                users.remove(self)
            if not users:
                _failing.pop(self._host, None)
            if not _failing and socket.getaddrinfo is _getaddrinfo:
                socket.getaddrinfo = _real


def _getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if name.lower() in _failing:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _real(host, *arguments, **options)


def is_asked_in_python(driver: str, *, asynchronous: bool) -> bool:
    """Whether a driver, by SQLAlchemy's name for it, looks names up through Python's `socket`, so that `DnsFailure` meets it."""
    return driver in _IN_PYTHON or (driver == "psycopg" and asynchronous)
