"""From an exception and the stage it happened at to the `Failure` that every decision is keyed on.

The order of the questions: did a database driver raise it? Then the flavour's table answers by code. Else, is it one of
the exceptions by which Python says that a connection broke or the caller gave up? Else it is the caller's own. And at
COMMIT only an answer that proves the abort counts; all else is ambiguous.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..errors import ConfigurationError
from ..outcome import Failure, FailureClass, Rejection, Stage
from . import mariadb, mysql, postgresql, sqlite
from .details import NOTHING_NAMED, Details, read
from .extract import ServerError, extract, is_database_error
from .flavour import Flavour
from .rows import Row, Table, class_at

__all__ = ["classify", "explain", "table_of"]

_TABLES: dict[Flavour, Table] = {
    Flavour.MYSQL: mysql.TABLE,
    Flavour.MARIADB: mariadb.TABLE,
    Flavour.POSTGRESQL: postgresql.TABLE,
    Flavour.SQLITE: sqlite.TABLE,
}
_MYSQL_FAMILY = (Flavour.MYSQL, Flavour.MARIADB)

# What an exception of the caller's may hide: an error after which the transaction is gone and a rerun makes sense.
# A refusal he turned into an error of his own (`raise NameTaken`) is his to raise.
_WORTH_A_RERUN = frozenset(
    {
        FailureClass.CONTENTION,
        FailureClass.UNSENT,
        FailureClass.LOST,
        FailureClass.AMBIGUOUS,
        FailureClass.ROLE_CHANGED,
        FailureClass.OVERLOAD,
    }
)

_NETWORK_ERRNOS = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
    }
)


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What one exception means on its own, before the stage is looked at.

    `own` marks an exception that neither a server nor a broken connection caused: the caller's.
    """

    failure_class: FailureClass
    name: str
    code: int | str | None = None
    flavour: Flavour | None = None
    connection_usable: bool = True
    aborts_commit: bool = False
    rejection: Rejection | None = None
    details: Details = NOTHING_NAMED
    hides_cause: bool = False
    own: bool = False


def classify(
    error: BaseException,
    *,
    stage: Stage,
    flavour: Flavour | str | None = None,
    handled: BaseException | None = None,
) -> Failure:
    """What `error`, raised at `stage`, means for the transaction it ended.

    An exception of the caller's own, and the few database errors that only report the ruin an earlier one left, are
    looked behind: `__cause__`, then `__context__` unless suppressed (`raise ... from None`), and the members of a
    group. Not behind a ConfigurationError: what cannot work is not tried again. Pure and safe to call from any thread.

    Args:
        error: any exception.
        stage: where it happened. Decides more than the code does: once COMMIT was sent, only an answer that proves
            the abort is anything but `AMBIGUOUS`; before a connection stood, a loss is `UNSENT`.
        flavour: whose numbers are meant. None takes it from the driver; a driver of MySQL's is then read as MySQL,
            though the server may be a MariaDB, so say it where you know it.
        handled: the exception that was already being handled when the attempt began, `sys.exception()` there. Python
            hangs it behind everything raised inside, though it has nothing to do with this transaction.

    Returns:
        The failure; its texts hold names and numbers only. An unknown code is `PERMANENT` before COMMIT.

    Raises:
        ValueError: `flavour` is none of the four.
    """
    server = Flavour(flavour) if flavour is not None else None
    meaning = _meaning_of(error, stage, server)
    if stage is Stage.COMMIT:
        return _after_commit_was_sent(error, meaning, server, handled)
    if isinstance(error, ConfigurationError) or not (meaning.own or meaning.hides_cause):
        return _failure(meaning, stage)
    usable = meaning.connection_usable
    for hidden in _behind(error, handled):
        if not is_database_error(hidden):
            continue
        cause = _meaning_of(hidden, stage, server)
        usable = usable and _survives(cause)
        if cause.hides_cause:
            continue
        if meaning.hides_cause or cause.failure_class in _WORTH_A_RERUN:
            return _failure(cause, stage)._replace(connection_usable=usable)
    return _failure(meaning, stage)._replace(connection_usable=usable)


def explain(flavour: Flavour | str, code: int | str) -> tuple[Row, ...]:
    """The rows that `flavour` has for `code`, in the order they are tried; empty where it is unknown.

    Args:
        flavour: whose code it is.
        code: a number, an SQLSTATE or a SQLite result code.

    Raises:
        ValueError: `flavour` is none of the four.
    """
    server = Flavour(flavour)
    rows = table_of(server).rows_for(code)
    if rows or server in _MYSQL_FAMILY:
        return rows
    if isinstance(code, str):
        return postgresql.TABLE.rows_for(code[:2])
    return sqlite.TABLE.rows_for(code & 0xFF)


def table_of(flavour: Flavour) -> Table:
    """Every row of `flavour`."""
    return _TABLES[flavour]


def _after_commit_was_sent(
    error: BaseException, meaning: _Meaning, server: Flavour | None, handled: BaseException | None
) -> Failure:
    """Not committed only if everything that was raised proves it.

    A ROLLBACK after a failed COMMIT may raise as well, and then its error stands in front: on Galera 1213, which would
    prove an abort, before the COMMIT's own 1180, which does not.
    """
    certain = meaning.aborts_commit and all(
        _meaning_of(hidden, Stage.COMMIT, server).aborts_commit for hidden in _behind(error, handled)
    )
    return _failure(replace(meaning, aborts_commit=certain), Stage.COMMIT)


def _failure(meaning: _Meaning, stage: Stage) -> Failure:
    failure_class = class_at(stage, meaning.failure_class, aborts_commit=meaning.aborts_commit)
    return Failure(
        failure_class=failure_class,
        stage=stage,
        flavour=meaning.flavour,
        code=meaning.code,
        name=meaning.name,
        connection_usable=_survives(meaning),
        rejection=meaning.rejection if failure_class is FailureClass.PERMANENT else None,
        constraint=meaning.details.constraint,
        table=meaning.details.table,
        columns=meaning.details.columns,
    )


def _survives(meaning: _Meaning) -> bool:
    return meaning.connection_usable and meaning.failure_class not in (FailureClass.LOST, FailureClass.UNSENT)


def _meaning_of(error: BaseException, stage: Stage, server: Flavour | None) -> _Meaning:
    found = extract(error)
    if found.driver is None:
        return _without_server(error, stage)
    flavour = _flavour_of(found, server)
    row, code = _row_of(found, flavour, stage)
    if row is not None:
        return _Meaning(
            failure_class=row.failure_class,
            name=row.name,
            code=code,
            flavour=flavour,
            connection_usable=row.connection_usable,
            aborts_commit=row.aborts_commit,
            rejection=row.rejection,
            details=found.details.or_else(read(row.details, found.message)),
            hides_cause=row.hides_cause,
        )
    if code is None and not found.callers_fault:
        if isinstance(error, ConnectionRefusedError):
            return _Meaning(FailureClass.UNSENT, found.name, flavour=flavour)
        return _Meaning(FailureClass.LOST, found.name, flavour=flavour)
    return _Meaning(
        FailureClass.PERMANENT,
        found.name,
        code=code,
        flavour=flavour,
        rejection=Rejection.INVALID_VALUE if code is None and "DataError" in found.name else Rejection.OTHER,
    )


def _flavour_of(found: ServerError, server: Flavour | None) -> Flavour | None:
    """The server's, unless the driver cannot speak to such a server: then the error comes from another database."""
    if found.flavour is None or server is None:
        return server or found.flavour
    if found.flavour in _MYSQL_FAMILY and server in _MYSQL_FAMILY:
        return server
    return found.flavour


def _row_of(found: ServerError, flavour: Flavour | None, stage: Stage) -> tuple[Row | None, int | str | None]:
    """The row that speaks for the error, and the code it was found by."""
    if flavour is Flavour.MYSQL or flavour is Flavour.MARIADB:
        number = found.number
        if number is None or (number <= 0 and found.callers_fault):
            return None, None
        return _TABLES[flavour].find(number, found.message), number
    if flavour is Flavour.SQLITE:
        if found.sqlite_code is None:
            return sqlite.find_without_code(found.message), None
        return sqlite.find(found.sqlite_code, found.message), found.sqlite_code
    if flavour is Flavour.POSTGRESQL:
        if found.sqlstate is not None:
            return postgresql.find(found.sqlstate, found.message), found.sqlstate
        if stage is Stage.CONNECT and not found.callers_fault:
            row = postgresql.find_refusal(found.message)
            return row, row.code
    return None, found.number if found.number is not None else found.sqlstate


def _without_server(error: BaseException, stage: Stage) -> _Meaning:
    """An exception that no driver raised."""
    name = type(error).__name__
    if not isinstance(error, Exception):
        # CancelledError, KeyboardInterrupt, GeneratorExit, SystemExit: a statement may have been half-way.
        return _Meaning(FailureClass.CANCELLED, name, connection_usable=False)
    if _is_from(error, "sqlalchemy.exc", "TimeoutError"):
        return _Meaning(FailureClass.UNSENT, name)
    if _is_from(error, "sqlalchemy.exc", "PendingRollbackError"):
        # "8s2b": the connection broke and the caller went on; otherwise a flush failed and he swallowed it.
        lost = getattr(error, "code", None) == "8s2b"
        return _Meaning(FailureClass.LOST, name) if lost else _Meaning(FailureClass.PERMANENT, name, own=True)
    if _is_from(error, "sqlalchemy.exc", "DisconnectionError"):
        return _Meaning(FailureClass.LOST, name)
    if _is_from(error, "sqlalchemy.orm.exc", "StaleDataError"):
        # A version column did not match: another transaction was faster, and a rerun reads what it wrote.
        return _Meaning(FailureClass.CONTENTION, name)
    if isinstance(error, ConnectionRefusedError) or _is_from(error, "socket", "gaierror"):
        return _Meaning(FailureClass.UNSENT, name)
    if stage is Stage.CONNECT and isinstance(error, OSError):
        return _Meaning(FailureClass.UNSENT, name)
    if _is_broken_connection(error):
        return _Meaning(FailureClass.LOST, name)
    return _Meaning(FailureClass.PERMANENT, name, own=True)


def _is_broken_connection(error: Exception) -> bool:
    if isinstance(error, ConnectionError | EOFError | TimeoutError):
        return True
    if not isinstance(error, OSError):
        return False
    return (isinstance(error.errno, int) and error.errno in _NETWORK_ERRNOS) or _is_from(error, "ssl", "SSLError")


def _is_from(error: BaseException, module: str, name: str) -> bool:
    """Whether `error` is of a class that is not imported here: `module.name` or derived from it."""
    return any(ancestor.__name__ == name and ancestor.__module__ == module for ancestor in type(error).__mro__)


def _behind(error: BaseException, handled: BaseException | None) -> Iterator[BaseException]:
    """What stands behind `error`: causes, contexts and the members of groups, nearest first, each once.

    Ends at `handled`, and does not mind chains that bite their own tail.
    """
    seen = {id(error)}
    if handled is not None:
        seen.add(id(handled))
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if current is not error:
            yield current
        for following in _next_behind(current):
            if id(following) not in seen:
                seen.add(id(following))
                waiting.append(following)


def _next_behind(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        yield from error.exceptions
    if error.__cause__ is not None:
        yield error.__cause__
    # SQLAlchemy raises its wrappers `from` what they wrap, which is no word of the caller's: for asyncpg an earlier
    # error hangs nowhere else.
    hidden_on_purpose = error.__suppress_context__ and not type(error).__module__.startswith("sqlalchemy.")
    if error.__context__ is not None and not hidden_on_purpose:
        yield error.__context__
