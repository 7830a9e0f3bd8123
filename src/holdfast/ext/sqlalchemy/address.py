"""From a database URL to servers, a dialect and a driver that fit, or to an error that names the ones that do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from ...dialects import Flavour
from ...errors import ConfigurationError, MissingExtra

__all__ = ["Address", "Host", "resolve", "server_of"]

_DEFAULT_DRIVERS = {
    # backend: (synchronous, asynchronous)
    "mysql": ("pymysql", "asyncmy"),
    "mariadb": ("pymysql", "asyncmy"),
    "postgresql": ("psycopg", "psycopg"),
    "sqlite": ("pysqlite", "aiosqlite"),
}

_INSTALL = {
    "pymysql": "'holdfast[mysql]'",
    "asyncmy": "'holdfast[mysql]'",
    "psycopg": "'holdfast[postgresql]'",
    "asyncpg": "'holdfast[postgresql]'",
    "aiosqlite": "'holdfast[sqlite]'",
    "mysqldb": "mysqlclient",
    "mysqlconnector": "mysql-connector-python",
    "mariadbconnector": "mariadb",
    "psycopg2": "psycopg2-binary",
}
"""What pip installs for a driver; any other driver's package carries its name."""

_ALIASES = {"postgres": "postgresql", "sqlite3": "sqlite"}


class Host(NamedTuple):
    """One server of a database: a name or address, and a TCP port (None: the driver's default)."""

    name: str
    port: int | None = None

    def __str__(self) -> str:
        shown = f"[{self.name}]" if ":" in self.name else self.name
        return shown if self.port is None else f"{shown}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """A URL whose driver is known to be installed and to fit the mode.

    Attributes:
        url: the complete URL of the first server, password included; neither its `repr` nor this one's shows it.
        hosts: every server, in the order of preference; empty where the URL names none (SQLite, a Unix socket).
        backend: `mysql`, `mariadb`, `postgresql` or `sqlite`, as the URL says.
        driver: SQLAlchemy's name of the driver.
        flavour: what the URL alone tells about the server; None for `mysql`, which both MySQL and MariaDB answer to.
        in_memory: a SQLite database that lives and dies with its connections.
    """

    url: URL
    backend: str
    driver: str
    flavour: Flavour | None
    in_memory: bool = field(default=False)
    hosts: tuple[Host, ...] = ()


def resolve(url: str | URL | Sequence[str | URL], *, asynchronous: bool) -> Address:
    """Check `url` and fill in the driver where it names none.

    Args:
        url: `backend[+driver]://user:password@host:port/database`; several servers of one database stand side by side in the
            place of the host (`@db1:3306,db2:3306,db3/shop`), the preferred first, or come as a sequence of URLs that differ
            in nothing else. Without a driver: PyMySQL or asyncmy, psycopg, sqlite3 or aiosqlite.
        asynchronous: whether the driver has to be an asynchronous one.

    Raises:
        ConfigurationError: the URL cannot be read, names a database or driver that Holdfast does not know, or a driver of
            the other kind.
        MissingExtra: the driver's package is not installed.
    """
    parsed, hosts = _servers_of(url)
    backend = parsed.get_backend_name()
    if backend not in _DEFAULT_DRIVERS:
        meant = _ALIASES.get(backend)
        cure = f"write {meant}:// instead" if meant else f"known are {', '.join(_DEFAULT_DRIVERS)}"
        raise ConfigurationError(f"unknown database {backend!r} in the URL {_shown(parsed)}; {cure}")
    if "+" not in parsed.drivername:
        parsed = parsed.set(drivername=f"{backend}+{_DEFAULT_DRIVERS[backend][asynchronous]}")
    driver = parsed.drivername.partition("+")[2]
    _check_driver(parsed, backend, driver, asynchronous=asynchronous)
    return Address(
        parsed,
        backend,
        driver,
        flavour=None if backend == "mysql" else Flavour(backend),
        in_memory=backend == "sqlite" and _lives_in_memory(parsed),
        hosts=hosts,
    )


def _lives_in_memory(url: URL) -> bool:
    """Whether a SQLite database has no file (https://www.sqlite.org/uri.html). One that is shared ends with the last of them."""
    name = url.database or ":memory:"
    return (
        name == ":memory:"
        or name.startswith("file::memory:")
        or url.query.get("mode") == "memory"
        or (url.query.get("vfs") == "memdb")
    )


def server_of(url: URL, host: Host | None = None) -> str | None:
    """What an error may name of a server that cannot be reached: `host`, or else the URL's host or file; None without either."""
    if host is None and url.host:
        host = Host(url.host, url.port)
    if host is not None:
        return str(host)
    return url.database if url.get_backend_name() == "sqlite" else None


_SEVERAL_HOSTS = re.compile(
    r"(?P<before>[^/?#]*://(?:[^/?#]*@)?)(?P<hosts>[^/?#@]*,[^/?#@]*)(?P<after>(?:[/?#].*)?)", re.DOTALL
)
"""A URL whose place for the host holds more than one; linear, as each part excludes the character that ends it."""


def _servers_of(url: str | URL | Sequence[str | URL]) -> tuple[URL, tuple[Host, ...]]:
    if not isinstance(url, (str, URL, Sequence)) or isinstance(url, bytes):
        raise ConfigurationError(
            f"a database URL is text, a URL of SQLAlchemy's, or several of them, not {type(url).__name__}"
        )
    several = [url] if isinstance(url, (str, URL)) else list(url)
    if not several:
        raise ConfigurationError("no database URL was given; name at least one")
    parsed = [each for one in several for part in _one_by_one(one) for each in _each_host(part)]
    first = parsed[0]
    for other in parsed[1:]:
        if other._replace(host=first.host, port=first.port) != first:  # set() takes no None for the port
            raise ConfigurationError(
                f"{_shown(first)} and {_shown(other)} are to be servers of one database, but differ in more than host and port"
            )
    hosts = tuple(dict.fromkeys(Host(one.host, one.port) for one in parsed if one.host))
    if len(parsed) > 1 and len(hosts) != len(parsed):
        raise ConfigurationError(f"a server is named twice, or not at all, beside {_shown(first)}")
    return first, hosts


def _one_by_one(url: str | URL) -> list[str | URL]:
    """A URL of several servers as one URL a server."""
    found = _SEVERAL_HOSTS.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        return [url]
    return [f"{found['before']}{host.strip()}{found['after']}" for host in found["hosts"].split(",")]


def _each_host(url: str | URL) -> list[URL]:
    """The same where SQLAlchemy has read several hosts as one name: in its own URLs, and behind a password with `/`, `?` or `#`.

    A port of its own URL is that of them all.
    """
    parsed = _parse(url)
    names = (parsed.host or "").split(",")
    if len(names) == 1:
        return [parsed]
    if parsed.port is not None and isinstance(url, str):
        raise _unreadable()  # it stands behind the last, and there is no telling of the others
    return [parsed.set(host=name.strip()) for name in names]


def _parse(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
        if "@" not in (parsed.host or ""):  # where a password holds one, its end would pass for the host, in every log
            return parsed
    except (exc.ArgumentError, ValueError):
        # The text may hold a password in any place: none of it is repeated, and no exception that does is chained.
        pass
    raise _unreadable()


def _unreadable() -> ConfigurationError:
    return ConfigurationError(
        "the database URL cannot be read; it looks like backend+driver://user:password@host:port/database, "
        "with special characters in user name and password percent-encoded (urllib.parse.quote_plus)"
    )


def _check_driver(url: URL, backend: str, driver: str, *, asynchronous: bool) -> None:
    fitting = _DEFAULT_DRIVERS[backend][asynchronous]
    try:
        dialect = url.get_dialect()
    except exc.NoSuchModuleError:
        raise ConfigurationError(
            f"unknown driver {driver!r} in the URL {_shown(url)}; write {backend}+{fitting}://"
        ) from None
    if asynchronous:
        dialect = dialect.get_async_dialect_cls(url)
    if dialect.is_async is not asynchronous:
        kind, database = ("an asynchronous", "Database") if dialect.is_async else ("a synchronous", "AsyncDatabase")
        other = "AsyncDatabase" if dialect.is_async else "Database"
        raise ConfigurationError(
            f"{driver} is {kind} driver and {database} needs the other kind: write {backend}+{fitting}://, or use {other}"
        )
    try:
        dialect.import_dbapi()
    except ImportError as error:
        package = _INSTALL.get(driver, driver)
        raise MissingExtra(f"the driver {driver} is not installed: pip install {package}") from error


def _shown(url: URL) -> str:
    # The query may hold secrets as well.
    return url.set(query={}).render_as_string(hide_password=True)
