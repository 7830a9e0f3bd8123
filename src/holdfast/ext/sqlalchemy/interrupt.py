"""How to stop a connection from outside: cut its socket, and end its session on the server.

Cutting makes a driver call that is blocked return with an error at once; the server does not notice until it writes to the
socket. So its session is ended as well, by a KILL from another connection (`killer`).

A KILL names a number that only means something on one server process: behind a virtual address, or after a restart, the same
number may be another session of ours. So a session is only killed if the server also shows our end's port for it. Where a proxy
stands in between the ports differ and nothing is killed; the server's own limits (`pushdown`) then end the work.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...dialects import Flavour

__all__ = [
    "Identity",
    "connection_id",
    "cut",
    "identify",
    "kill_statement",
    "sessions_statement",
]


@dataclass(frozen=True, slots=True)
class Identity:
    """What names one session on its server.

    Attributes:
        flavour: the server's.
        number: the connection id (MySQL, MariaDB) or the backend's process id (PostgreSQL).
        port: our end's TCP port; None for a Unix socket.
    """

    flavour: Flavour
    number: int
    port: int | None


@dataclass(frozen=True, slots=True)
class _Remembered:
    descriptor: int
    name: object


_remembered: weakref.WeakKeyDictionary[Any, _Remembered] = weakref.WeakKeyDictionary()
"""The descriptors of mysqlclient's connections: it refuses to tell them while another thread uses the connection."""


def _transport_of(connection: Any) -> Any:
    """The asyncio transport of an asynchronous MySQL driver."""
    writer = getattr(connection, "_writer", None)
    return writer.transport if writer is not None else connection._transport


_NUMBERS: dict[str, Callable[[Any], int]] = {
    "pymysql": lambda connection: connection.thread_id(),
    "MySQLdb": lambda connection: connection.thread_id(),
    "asyncmy": lambda connection: connection.thread_id(),
    "aiomysql": lambda connection: connection.thread_id(),
    "mysql": lambda connection: connection.connection_id,
    "mariadb": lambda connection: connection.connection_id,
    "psycopg": lambda connection: connection.info.backend_pid,
    "psycopg2": lambda connection: connection.info.backend_pid,
    "asyncpg": lambda connection: connection.get_server_pid(),
}

_SOCKETS: dict[str, Callable[[Any], Any]] = {
    # A socket, an asyncio transport, or a file descriptor.
    "pymysql": lambda connection: connection._sock,
    "MySQLdb": lambda connection: _remembered[connection].descriptor,
    "asyncmy": _transport_of,
    "aiomysql": _transport_of,
    "mysql": lambda connection: connection._socket.sock,
    "mariadb": lambda connection: connection.socket,
    "psycopg": lambda connection: connection.fileno(),
    "psycopg2": lambda connection: connection.fileno(),
    "asyncpg": lambda connection: connection._transport,
}


def _driver_of(connection: object) -> str:
    return type(connection).__module__.partition(".")[0]


def connection_id(driver_connection: object) -> int | None:
    """The number under which the server knows the session of a driver's own connection.

    Costs no round trip: every driver remembers it from the handshake. None for SQLite, an unknown driver, or a connection
    that is closed already.
    """
    ask = _NUMBERS.get(_driver_of(driver_connection))
    if ask is None:
        return None
    try:
        return int(ask(driver_connection))
    except Exception:
        return None


def identify(driver_connection: Any, flavour: Flavour) -> Identity | None:
    """What is needed to kill the session later; ask while the connection is open. None where there is nothing to kill."""
    number = connection_id(driver_connection)
    if number is None:
        return None
    try:
        driver = _driver_of(driver_connection)
        found = driver_connection.fileno() if driver == "MySQLdb" else _SOCKETS[driver](driver_connection)
        if isinstance(found, int):
            with socket.socket(fileno=os.dup(found)) as duplicate:
                name = duplicate.getsockname()
            if driver == "MySQLdb":
                _remembered[driver_connection] = _Remembered(found, name)
        elif isinstance(found, socket.socket):
            name = found.getsockname()
        else:
            name = found.get_extra_info("sockname")
    except Exception:
        return None
    return Identity(flavour, number, name[1] if isinstance(name, tuple) else None)


def sessions_statement(identity: Identity) -> str:
    """SQL that returns one row if the server still has the session, none otherwise; on PostgreSQL it ends it as well."""
    if identity.flavour is Flavour.POSTGRESQL:
        port = -1 if identity.port is None else identity.port
        return (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE pid = {identity.number} AND client_port = {port} AND usename = current_user"
        )
    place = "HOST = 'localhost'" if identity.port is None else f"SUBSTRING_INDEX(HOST, ':', -1) = '{identity.port}'"
    return f"SELECT ID FROM information_schema.PROCESSLIST WHERE ID = {identity.number} AND {place}"


def kill_statement(identity: Identity) -> str | None:
    """SQL that ends the session that `sessions_statement` found; None where that one did it.

    Every user may end sessions of its own without further privileges (MySQL, MariaDB: same user; PostgreSQL: same role).
    """
    return None if identity.flavour is Flavour.POSTGRESQL else f"KILL {identity.number}"


def cut(driver_connection: Any) -> None:
    """Make a call that is blocked in the connection's driver return with an error, from any thread. Never raises.

    A network connection is dead afterwards; one to SQLite only loses the statement that is running. Harmless on a closed one.
    """
    driver = _driver_of(driver_connection)
    with suppress(Exception):
        if driver == "sqlite3":
            driver_connection.interrupt()
        elif driver == "aiosqlite":
            driver_connection._conn.interrupt()
        elif driver in _SOCKETS:
            known = _remembered.get(driver_connection) if driver == "MySQLdb" else None
            _shut_down(_SOCKETS[driver](driver_connection), known)


def _shut_down(found: Any, remembered: _Remembered | None) -> None:
    if isinstance(found, int):
        # On a duplicate: closing it leaves the driver its own descriptor, which the driver closes itself.
        with socket.socket(fileno=os.dup(found)) as duplicate:
            # The driver may have closed a remembered one, and its number be somebody else's by now.
            if remembered is None or duplicate.getsockname() == remembered.name:
                duplicate.shutdown(socket.SHUT_RDWR)
    elif isinstance(found, socket.socket):
        # Not the TLS socket's own method: that one drops the TLS state under the thread that reads.
        socket.socket.shutdown(found, socket.SHUT_RDWR)
    else:
        found.abort()
