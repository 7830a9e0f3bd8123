"""From a database URL to a dialect and a driver that fit, or to an error that names the ones that do."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from ...dialects import Flavour
from ...errors import ConfigurationError, MissingExtra

__all__ = ["Address", "resolve"]

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


@dataclass(frozen=True, slots=True)
class Address:
    """A URL whose driver is known to be installed and to fit the mode.

    Attributes:
        url: the complete URL, password included; neither its `repr` nor this one's shows it.
        backend: `mysql`, `mariadb`, `postgresql` or `sqlite`, as the URL says.
        driver: SQLAlchemy's name of the driver.
        flavour: what the URL alone tells about the server; None for `mysql`, which both MySQL and MariaDB answer to.
        in_memory: a SQLite database that lives and dies with its connection.
    """

    url: URL
    backend: str
    driver: str
    flavour: Flavour | None
    in_memory: bool = field(default=False)


def resolve(url: str | URL, *, asynchronous: bool) -> Address:
    """Check `url` and fill in the driver where it names none.

    Args:
        url: `backend[+driver]://user:password@host:port/database`. Without a driver: PyMySQL or asyncmy, psycopg, sqlite3 or
            aiosqlite.
        asynchronous: whether the driver has to be an asynchronous one.

    Raises:
        ConfigurationError: the URL cannot be read, names a database or driver that Holdfast does not know, or a driver of
            the other kind.
        MissingExtra: the driver's package is not installed.
    """
    parsed = _parse(url)
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
        in_memory=backend == "sqlite" and parsed.database in (None, "", ":memory:"),
    )


def _parse(url: str | URL) -> URL:
    if isinstance(url, URL):
        return url
    try:
        return make_url(url)
    except (exc.ArgumentError, ValueError):
        # The text may hold a password in any place: none of it is repeated, and no exception that does is chained.
        pass
    raise ConfigurationError(
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
