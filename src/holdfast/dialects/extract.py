"""The one place that knows how each driver dresses an error: where its number, SQLSTATE, text and names stand.

No driver is imported: an exception is known by the module its class comes from.

| driver | number | SQLSTATE | text |
|---|---|---|---|
| PyMySQL, mysqlclient, asyncmy, aiomysql | `args[0]` | `sqlstate`, mysqlclient none | `args[1]` |
| mysql-connector-python | `errno` | `sqlstate` | `msg` |
| mariadb | `errno` | `sqlstate` | `errmsg` |
| psycopg | - | `sqlstate` | `diag` |
| psycopg2 | - | `pgcode` | `diag` |
| asyncpg | - | `sqlstate` | `args[0]`, `detail`, `constraint_name`, ... |
| sqlite3, aiosqlite | `sqlite_errorcode` | - | `args[0]` |

SQLAlchemy wraps all of them (`orig`), and asyncpg's twice (`orig.__cause__`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from .details import NOTHING_NAMED, Details, columns_of_key
from .flavour import Flavour

__all__ = ["ServerError", "extract", "is_database_error"]

_DRIVERS: dict[str, Flavour] = {
    "pymysql": Flavour.MYSQL,
    "MySQLdb": Flavour.MYSQL,
    "asyncmy": Flavour.MYSQL,
    "aiomysql": Flavour.MYSQL,
    "mysql.connector": Flavour.MYSQL,
    "_mysql_connector": Flavour.MYSQL,
    "mariadb": Flavour.MARIADB,
    "psycopg": Flavour.POSTGRESQL,
    "psycopg_pool": Flavour.POSTGRESQL,
    "psycopg2": Flavour.POSTGRESQL,
    "asyncpg": Flavour.POSTGRESQL,
    "sqlalchemy.dialects.postgresql": Flavour.POSTGRESQL,
    "sqlite3": Flavour.SQLITE,
    "aiosqlite": Flavour.SQLITE,
}

# Below 1000 stand errno values of the operating system, which a driver's exception that is also an OSError carries.
_LOWEST_SERVER_NUMBER = 1000
_CLIENT_CLOSED = (0, -1)

# Drivers of PostgreSQL count them before they send anything, and speak in the classes and without the codes of a lost connection.
_TOO_MANY_PARAMETERS = re.compile(r"number of parameters must be between|number of query arguments cannot exceed")

# The PEP 249 classes that mean "the caller did it wrong" rather than "the connection broke".
_CALLERS_FAULT = frozenset(
    {"DataError", "IntegrityError", "NotSupportedError", "ProgrammingError", "TypeError", "ValueError", "Warning"}
)


@dataclass(frozen=True, slots=True)
class ServerError:
    """What a driver's exception says, in one shape for all drivers.

    Attributes:
        driver: the package the exception comes from, or None for an exception of no database driver.
        flavour: the flavour the driver speaks, or None where the driver is unknown. MySQL's drivers speak to MariaDB
            as well, so `mysql` here means either; the one who knows the server must say which.
        number: the server's or client's number; 0 and -1 stand for "already closed".
        sqlstate: five characters, or None.
        sqlite_code: SQLite's extended result code, or None.
        name: the exception's class name, or SQLite's name for the code.
        callers_fault: whether the exception's class, or text, says that the statement, not the connection, is wrong. Only
            asked where there is no code.
        details: what the driver itself names as constraint, table and columns.
        message: the server's text without its detail. It may hold values, so it stays out of `repr`.
    """

    driver: str | None
    flavour: Flavour | None = None
    number: int | None = None
    sqlstate: str | None = None
    sqlite_code: int | None = None
    name: str = ""
    callers_fault: bool = False
    details: Details = NOTHING_NAMED
    message: str = field(default="", repr=False)


def extract(error: BaseException) -> ServerError:
    """What `error` says, whichever driver raised it and however SQLAlchemy wrapped it.

    Args:
        error: any exception. Its `__context__` is not followed: that is another error, not this one in other dress.

    Returns:
        The code and the names found; `driver` is None where no database driver raised it. Never raises.
    """
    layers = list(_same_error(error))
    known = [(layer, driver) for layer in layers if (driver := _driver_of(layer)) is not None]
    if not known and _is_sqlalchemy_dbapi_error(error) and len(layers) > 1:
        # A driver this file does not know: SQLAlchemy says that it is one, and most follow the same habits.
        known = [(layers[-1], type(layers[-1]).__module__.partition(".")[0])]
    if not known:
        return ServerError(driver=None, name=type(error).__name__)
    # SQLAlchemy's adapter for asyncpg copies the code from what it wraps, but names and text stand only inside.
    source, driver = known[-1]
    flavour = _DRIVERS.get(driver)
    number = next((n for layer, _ in known if (n := _number(layer)) is not None), None)
    return ServerError(
        driver="asyncpg" if driver == "sqlalchemy.dialects.postgresql" else driver,
        flavour=flavour,
        number=number if flavour not in (Flavour.POSTGRESQL, Flavour.SQLITE) else None,
        sqlstate=next((state for layer, _ in known if (state := _sqlstate(layer)) is not None), None),
        sqlite_code=_integer(source, "sqlite_errorcode"),
        name=_text(source, "sqlite_errorname") or type(source).__name__,
        callers_fault=_is_callers_fault(source) or _TOO_MANY_PARAMETERS.search(_message(source)) is not None,
        details=_details(source),
        message=_message(source),
    )


def is_database_error(error: BaseException) -> bool:
    """Whether a database driver raised `error`, wrapped or not."""
    return extract(error).driver is not None


def _same_error(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it wraps, from the outside in: SQLAlchemy's wrapper, an adapter, the driver's own."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = _wrapped_in(current)


def _wrapped_in(error: BaseException) -> BaseException | None:
    if not type(error).__module__.startswith("sqlalchemy."):
        return None
    original = _attribute(error, "orig")
    if isinstance(original, BaseException):
        return original
    if type(error).__module__.startswith("sqlalchemy.dialects."):
        if error.args and isinstance(error.args[0], BaseException):
            return error.args[0]
        return error.__cause__
    return None


def _driver_of(error: BaseException) -> str | None:
    """The key in `_DRIVERS` that the class of `error`, or one it derives from, belongs to."""
    for ancestor in type(error).__mro__:
        module = ancestor.__module__
        for package in _DRIVERS:
            if module == package or module.startswith(f"{package}."):
                return package
    return None


def _is_sqlalchemy_dbapi_error(error: BaseException) -> bool:
    return any(
        ancestor.__name__ == "DBAPIError" and ancestor.__module__ == "sqlalchemy.exc"
        for ancestor in type(error).__mro__
    )


def _is_callers_fault(error: BaseException) -> bool:
    """The first class with a standard name decides: asyncpg's DataError is an InterfaceError as well."""
    for ancestor in type(error).__mro__:
        if ancestor.__name__ in _CALLERS_FAULT:
            return True
        if ancestor.__name__ in ("OperationalError", "InternalError"):
            return False
    return False


def _number(error: BaseException) -> int | None:
    candidates = [_attribute(error, "errno"), error.args[0] if error.args else None]
    for candidate in candidates:
        if not isinstance(candidate, int) or isinstance(candidate, bool):
            continue
        if candidate >= _LOWEST_SERVER_NUMBER or candidate in _CLIENT_CLOSED:
            return candidate
    return None


def _sqlstate(error: BaseException) -> str | None:
    for attribute in ("sqlstate", "pgcode"):
        state = _text(error, attribute)
        if state is not None and len(state) == 5:
            return state
    return None


def _message(error: BaseException) -> str:
    diagnostics = _attribute(error, "diag")
    primary = _text(diagnostics, "message_primary") if diagnostics is not None else None
    text = primary or _text(error, "errmsg") or _text(error, "msg")
    if text is None:
        strings = [argument for argument in error.args if isinstance(argument, str)]
        text = strings[0] if strings else ""
    return text.partition("\nDETAIL:")[0]


def _details(error: BaseException) -> Details:
    """What psycopg (`diag`) and asyncpg (attributes) name, and the columns of PostgreSQL's "Key (...)=(...)"."""
    source = _attribute(error, "diag")
    if source is None:
        source = error
    column = _text(source, "column_name")
    detail = _text(source, "message_detail") or _text(source, "detail") or ""
    return Details(
        constraint=_text(source, "constraint_name"),
        table=_text(source, "table_name"),
        columns=(column,) if column else columns_of_key(detail),
    )


def _attribute(source: object, name: str) -> object:
    """`source.name`, or None; a property of a broken exception must not break the classification."""
    try:
        return getattr(source, name, None)
    except Exception:
        return None


def _text(source: object, name: str) -> str | None:
    value = _attribute(source, name)
    return value if isinstance(value, str) and value else None


def _integer(source: object, name: str) -> int | None:
    value = _attribute(source, name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
