"""What a drill was given to break, read as those read it who will connect to it: a database by its URL, a service by its address.

No error shows any of either: they may hold a password.
"""

from __future__ import annotations

import httpx2
from sqlalchemy.engine import URL

from ..errors import ConfigurationError
from ..ext.sqlalchemy.address import resolve
from ..faultproxy.address import LEADS_ELSEWHERE, is_port
from .subjects import with_driver

__all__ = ["place_of", "read_database", "read_service"]


def read_database(database: str) -> URL:
    """The URL of a database that can be drilled, with a synchronous driver.

    Raises:
        ConfigurationError: it cannot be read, or is of a database that there are no drills for, or no proxy could stand in front
            of it.
        MissingExtra: its driver is not installed.
    """
    address = resolve(with_driver(database, asynchronous=False), asynchronous=False)
    url = address.url
    if address.backend == "sqlite":
        return url
    if len(address.hosts) != 1 or LEADS_ELSEWHERE.intersection(url.query):
        raise ConfigurationError(
            "a drill puts its proxy in front of one server: give the URL one host, in its usual place"
        )
    if url.port is not None:
        _check_port(url.port)
    return url


def read_service(address: str) -> httpx2.URL:
    """The address of a service.

    Raises:
        ConfigurationError: it cannot be read, or names no host.
    """
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError("the address of a service cannot be read; it looks like http://127.0.0.1:8000")
    if url.port is not None:
        _check_port(url.port)
    return url


def place_of(address: str) -> str:
    """Of the address of a service what may be shown: all but login and query."""
    return str(read_service(address).copy_with(userinfo=b"", query=None, fragment=None))


def _check_port(port: int) -> None:
    if not is_port(port):
        raise ConfigurationError(f"there is no port {port}: a port is 1 to 65535")
