"""Where a database URL leads, read as SQLAlchemy reads it (`make_url`), without it: who stands in front need not have it."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl

from ..errors import ConfigurationError

__all__ = ["LEADS_ELSEWHERE", "Address", "is_port", "read_address"]

LEADS_ELSEWHERE = frozenset(
    {
        *(
            "host",
            "hostaddr",
            "port",
            "service",
            "servicefile",
        ),  # libpq, psycopg, asyncpg; and any driver's own arguments
        *("unix_socket", "read_default_file", "option_files", "default_file"),  # MySQL's and MariaDB's
    }
)
"""Options in a URL's query that drivers follow instead of its host and port, or beside them: past whoever stands there."""

_URL = re.compile(
    r"(?P<before>(?:(?P<scheme>[\w+]+)://)?(?:[^:/]*(?::[^@]*)?@)?)"
    r"(?P<place>[^/?]*)"
    r"(?P<after>(?:/[^?]*)?(?:\?(?P<query>.*))?)",
    re.DOTALL,
)
_PLACE = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^\[\]:@]+))(?::(?P<port>[0-9]{0,9}))?")


class Address(NamedTuple):
    """A URL, taken apart around its host and port.

    Attributes:
        scheme: `backend+driver`; empty where only a host is named.
        before: all before the host, with the login.
        host: name or address, without brackets.
        port: None: the usual one.
        after: all behind the port.
    """

    scheme: str
    before: str
    host: str
    port: int | None
    after: str


def read_address(url: str) -> Address:
    """`backend+driver://user:password@host:port/database?options`, or `host:port`.

    Raises:
        ConfigurationError: it names no single host that is reached by TCP. The text shows none of it: it may hold a password.
    """
    parts = _URL.fullmatch(url)
    if parts is not None and "," in parts["place"]:
        raise ConfigurationError("the URL names several hosts; make a proxy for each")
    place = None if parts is None else _PLACE.fullmatch(parts["place"])
    port = int(place["port"]) if place is not None and place["port"] else None
    if parts is None or place is None or not (port is None or is_port(port)):
        raise ConfigurationError("the address names no host and port that TCP reaches, for instance 127.0.0.1:3306")
    options = {name for name, _ in parse_qsl(parts["query"] or "", keep_blank_values=True)}
    if elsewhere := sorted(LEADS_ELSEWHERE & options):
        raise ConfigurationError(
            f"the URL's {', '.join(elsewhere)} would lead past the proxy; give host and port in their usual place"
        )
    return Address(parts["scheme"] or "", parts["before"], place["ipv6"] or place["host"], port, parts["after"])


def is_port(number: int) -> bool:
    """Whether there can be a TCP port of that number."""
    return 1 <= number <= 65_535
