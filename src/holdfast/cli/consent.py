"""Whom a drill would harm, found out before it does anything: each host of a URL goes past `drills.guard`."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import parse_qsl, urlsplit

from ..errors import ConfigurationError

__all__ = ["check_consent", "hosts_of"]

_IN_QUERY = {"host", "hostaddr"}
"""Where psycopg and libpq take a host from, beside the usual place; PyMySQL and the others know no such thing."""


def hosts_of(url: str) -> tuple[str, ...]:
    """The hosts that `url` leads to, without ports, in lower case; none where it names a file or a socket of this machine.

    Raises:
        ConfigurationError: it cannot be read. The text does not show it: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query)
    except ValueError as error:
        raise ConfigurationError("the URL cannot be read; write backend://user@host:port/database") from error
    named = parts.netloc.rpartition("@")[2].split(",") if parts.netloc else []
    named += [host for name, value in query if name.lower() in _IN_QUERY for host in value.split(",")]
    hosts = (_without_port(host.strip().lower()) for host in named)
    return tuple(dict.fromkeys(host for host in hosts if host and not host.startswith(("/", "%2f"))))


def check_consent(url: str, may_break: Collection[str]) -> None:
    """Whether `url` leads to this machine only, or to hosts that the user named as theirs to break.

    Args:
        url: of a database or a service.
        may_break: the hosts named by `--may-break`.

    Raises:
        ConfigurationError: a host is neither; the text says what to add.
    """
    from ..drills.guard import check_target

    for host in hosts_of(url):
        check_target(host, may_break)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, separator, port = host.rpartition(":")
    return name if separator and ":" not in name and port.isdigit() else host
