"""What stage, flavour and the exceptions behind an exception do to its class."""

from __future__ import annotations

import asyncio
import errno
import socket
import sqlite3
import ssl
from typing import Any

import asyncpg
import mysql.connector.errors
import psycopg
import psycopg.errors
import psycopg2
import pymysql.err
import pytest
import sqlalchemy.exc
import sqlalchemy.orm.exc

from holdfast.dialects import Flavour, classify, explain
from holdfast.errors import OutcomeUnknown, StatementRejected, Unavailable, error_for
from holdfast.outcome import Failure, FailureClass, Rejection, Stage

DEADLOCK = pymysql.err.OperationalError(1213, "Deadlock found when trying to get lock; try restarting transaction")
BEFORE_COMMIT = [Stage.CONNECT, Stage.BEGIN, Stage.BODY]


class Lost(pymysql.err.OperationalError, ConnectionError):
    """A driver's exception that is a broken connection as Python knows it, and has no code."""


def raised(
    error: BaseException, *, during: BaseException | None = None, cause: BaseException | None = None
) -> BaseException:
    """`error` as Python leaves it when it is raised while `during` is handled, or from `cause`."""
    try:
        try:
            if during is not None:
                raise during
        except BaseException:
            if cause is not None:
                raise error from cause
            raise error  # noqa: B904 - the point: an implicit context
        if cause is not None:
            raise error from cause
        raise error
    except BaseException as caught:
        return caught


def body(error: BaseException, flavour: str | None = None, **more: Any) -> Failure:
    """`error` in the body of a transaction."""
    return classify(error, stage=Stage.BODY, flavour=flavour, **more)


# ---- exceptions that no driver raised


@pytest.mark.parametrize(
    ("error", "at_connect", "in_body"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), FailureClass.UNSENT, FailureClass.UNSENT),
        (socket.gaierror(-2, "Name or service not known"), FailureClass.UNSENT, FailureClass.UNSENT),
        (ConnectionResetError("reset"), FailureClass.UNSENT, FailureClass.LOST),
        (BrokenPipeError("pipe"), FailureClass.UNSENT, FailureClass.LOST),
        (asyncio.IncompleteReadError(b"", 4), FailureClass.UNSENT, FailureClass.LOST),
        (TimeoutError(), FailureClass.UNSENT, FailureClass.LOST),
        (ssl.SSLEOFError(8, "unexpected eof"), FailureClass.UNSENT, FailureClass.LOST),
        (OSError(errno.EHOSTUNREACH, "no route"), FailureClass.UNSENT, FailureClass.LOST),
        (FileNotFoundError(errno.ENOENT, "no such socket"), FailureClass.UNSENT, FailureClass.PERMANENT),
        (sqlalchemy.exc.TimeoutError("QueuePool limit"), FailureClass.UNSENT, FailureClass.UNSENT),
        (sqlalchemy.orm.exc.StaleDataError("0 were matched"), FailureClass.CONTENTION, FailureClass.CONTENTION),
        (asyncio.CancelledError(), FailureClass.CANCELLED, FailureClass.CANCELLED),
        (KeyboardInterrupt(), FailureClass.CANCELLED, FailureClass.CANCELLED),
        (GeneratorExit(), FailureClass.CANCELLED, FailureClass.CANCELLED),
        (ValueError("the caller's own"), FailureClass.PERMANENT, FailureClass.PERMANENT),
        (RuntimeError("'cryptography' package is required"), FailureClass.PERMANENT, FailureClass.PERMANENT),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_exception_of_no_driver(error: BaseException, at_connect: FailureClass, in_body: FailureClass) -> None:
    """What Python itself raises says where it happened, and after COMMIT was sent it says nothing."""
    assert classify(error, stage=Stage.CONNECT).failure_class is at_connect
    assert classify(error, stage=Stage.BODY).failure_class is in_body
    after = classify(error, stage=Stage.COMMIT, flavour="postgresql")
    assert after.failure_class is FailureClass.AMBIGUOUS
    assert after.name == type(error).__name__
    assert (after.flavour, after.code, after.rejection) == (None, None, None)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), TimeoutError(), EOFError()], ids=repr)
@pytest.mark.parametrize("stage", list(Stage))
def test_interrupted_connection_is_never_pooled(error: BaseException, stage: Stage) -> None:
    """After a cancel, a timeout or a loss nobody knows the protocol state."""
    assert not classify(error, stage=stage).connection_usable


def test_callers_own_exception_leaves_the_connection_alone() -> None:
    """It is the caller's to raise, marked by having no flavour, and the connection can be rolled back and pooled."""
    failure = body(LookupError("no such account"), "mariadb")
    assert failure == Failure(FailureClass.PERMANENT, Stage.BODY, name="LookupError")


def test_pool_is_asked_again_after_a_lost_connection_was_used_on() -> None:
    """SQLAlchemy's "Can't reconnect until invalid transaction is rolled back" is a lost connection; its other text is not."""
    lost = sqlalchemy.exc.PendingRollbackError("Can't reconnect until invalid transaction is rolled back.", code="8s2b")
    assert body(lost).failure_class is FailureClass.LOST
    swallowed = sqlalchemy.exc.PendingRollbackError("rolled back due to a previous exception during flush", code="7s2a")
    assert body(swallowed).failure_class is FailureClass.PERMANENT
    assert body(raised(swallowed, during=DEADLOCK), "mysql").failure_class is FailureClass.CONTENTION


# ---- driver exceptions without a code


@pytest.mark.parametrize(
    "error",
    [
        pymysql.err.InternalError("Packet sequence number wrong - got 1 expected 2"),
        pymysql.err.InterfaceError(0, ""),
        pymysql.err.Error("Already closed"),
        Lost("connection broke"),
        mysql.connector.errors.OperationalError("MySQL Connection not available"),
        psycopg.OperationalError("consuming input failed: server closed the connection unexpectedly"),
        psycopg.InterfaceError("the connection is closed"),
        psycopg2.InterfaceError("connection already closed"),
        psycopg2.DatabaseError("error with status PGRES_TUPLES_OK and no message from the libpq"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("got result for unknown protocol state 3"),
        sqlite3.ProgrammingError("Cannot operate on a closed database."),
        sqlite3.OperationalError("no active connection"),
    ],
    ids=lambda error: f"{type(error).__module__}.{type(error).__name__}",
)
def test_drivers_exception_without_a_code_is_a_lost_connection(error: Exception) -> None:
    """No code means that no server answered: lost before COMMIT, unknown after."""
    before = body(error)
    assert before.failure_class is FailureClass.LOST
    assert not before.connection_usable
    assert before.flavour is not None
    assert classify(error, stage=Stage.COMMIT).failure_class is FailureClass.AMBIGUOUS
    assert isinstance(error_for(before), Unavailable)
    assert isinstance(error_for(classify(error, stage=Stage.COMMIT)), OutcomeUnknown)


@pytest.mark.parametrize(
    ("error", "rejection"),
    [
        (mysql.connector.errors.ProgrammingError("Not all parameters were used in the SQL statement"), Rejection.OTHER),
        (pymysql.err.ProgrammingError("execute() first"), Rejection.OTHER),
        (psycopg.ProgrammingError("cannot adapt type 'object'"), Rejection.OTHER),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), Rejection.INVALID_VALUE),
        (asyncpg.exceptions.DataError("invalid input for query argument $1: 's3cr3t'"), Rejection.INVALID_VALUE),
        (sqlite3.ProgrammingError("Error binding parameter 1: type 'object' is not supported"), Rejection.OTHER),
    ],
    ids=lambda value: type(value).__module__,
)
def test_drivers_exception_about_the_call_is_permanent(error: Exception, rejection: Rejection) -> None:
    """The driver refused the call before anything was sent: the same call will be refused again, on a good connection."""
    failure = body(error)
    assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, rejection)
    assert failure.connection_usable


@pytest.mark.parametrize("named", ["name", "lower('s3cr3t')"])
def test_stored_text_that_the_driver_cannot_read_is_permanent(named: str) -> None:
    """It will read the same again, on a good connection; the column is named, and neither the text nor what is no name."""
    failure = body(sqlite3.OperationalError(f"Could not decode to UTF-8 column '{named}' with text 's3cr3t\ufffd'"))
    assert (failure.failure_class, failure.rejection) == (FailureClass.PERMANENT, Rejection.OTHER)
    assert failure.connection_usable
    assert failure.columns == (("name",) if named == "name" else ())
    assert type(error_for(failure)) is StatementRejected
    assert "s3cr3t" not in f"{failure!r} {error_for(failure)!r}"


@pytest.mark.parametrize("driver", [psycopg.OperationalError, psycopg2.OperationalError], ids=["psycopg", "psycopg2"])
@pytest.mark.parametrize(
    ("text", "expected", "code"),
    [
        ("FATAL:  sorry, too many clients already", FailureClass.UNSENT, "53300"),
        (
            "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
            FailureClass.UNSENT,
            "53300",
        ),
        ('FATAL:  too many connections for role "app"', FailureClass.UNSENT, "53300"),
        ("FATAL:  the database system is starting up", FailureClass.UNSENT, "57P03"),
        ("FATAL:  the database system is not yet accepting connections", FailureClass.UNSENT, "57P03"),
        ("session is read-only", FailureClass.ROLE_CHANGED, "25006"),
        ('FATAL:  password authentication failed for user "app"', FailureClass.PERMANENT, "28P01"),
        ('FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "app"', FailureClass.PERMANENT, "28000"),
        ('FATAL:  database "shop" does not exist', FailureClass.PERMANENT, "3D000"),
        ('FATAL:  permission denied for database "shop"', FailureClass.PERMANENT, "42501"),
        ("Connection refused\n\tIs the server running on that host?", FailureClass.UNSENT, "08001"),
        ("FATAL:  le mot de passe est faux", FailureClass.UNSENT, "08001"),
    ],
)
def test_refusal_at_connect_is_told_by_its_text(driver: Any, text: str, expected: FailureClass, code: str) -> None:
    """A connection that never stood has no SQLSTATE in libpq, so at connect, and only there, the text must do."""
    error = driver(f'connection to server at "127.0.0.1", port 5432 failed: {text}')
    failure = classify(error, stage=Stage.CONNECT)
    assert (failure.failure_class, failure.code) == (expected, code)
    assert body(error).failure_class is FailureClass.LOST


# ---- flavour


@pytest.mark.parametrize(
    ("error", "flavour", "expected"),
    [
        (DEADLOCK, None, Flavour.MYSQL),
        (DEADLOCK, "mariadb", Flavour.MARIADB),
        (psycopg.errors.DeadlockDetected("x"), None, Flavour.POSTGRESQL),
        (psycopg.errors.DeadlockDetected("x"), "mysql", Flavour.POSTGRESQL),
        (sqlite3.OperationalError("x"), None, Flavour.SQLITE),
    ],
)
def test_flavour_is_the_servers_unless_the_driver_cannot_mean_it(
    error: Exception, flavour: str | None, expected: Flavour
) -> None:
    """A driver of MySQL's speaks to both, so the caller says which; another database's error keeps its own flavour."""
    assert body(error, flavour).flavour is expected


def test_flavour_that_does_not_exist_is_refused() -> None:
    """A wrong flavour is a mistake in the code, not something to guess about."""
    with pytest.raises(ValueError, match="oracle"):
        body(DEADLOCK, "oracle")


def test_code_is_explained_by_its_rows() -> None:
    """A number with two meanings has two rows, a code without a row that of its class, an unknown one none."""
    assert [row.failure_class for row in explain("mariadb", 1047)] == [
        FailureClass.ROLE_CHANGED,
        FailureClass.PERMANENT,
    ]
    assert [row.code for row in explain("postgresql", "22P02")] == ["22"]
    assert [row.code for row in explain("sqlite", 266)] == [10]
    assert explain("mysql", 99_999) == ()


# ---- what stands behind an exception


def test_savepoint_that_is_gone_shows_the_deadlock_behind_it() -> None:
    """MySQL answers 1305 to ROLLBACK TO SAVEPOINT after a deadlock took the whole transaction."""
    gone = pymysql.err.OperationalError(1305, "SAVEPOINT sa_savepoint_1 does not exist")
    conflict = pymysql.err.OperationalError(1020, "Record has changed since last read in table 'users'")
    for hidden in (DEADLOCK, conflict):
        failure = body(raised(gone, during=sqlalchemy.exc.OperationalError("UPDATE", {}, hidden)), "mariadb")
        assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, hidden.args[0])
    assert body(pymysql.err.OperationalError(*gone.args)).failure_class is FailureClass.PERMANENT


def test_failed_transaction_of_postgresql_shows_the_error_that_failed_it() -> None:
    """25P02 means that an earlier error was swallowed; if it is still in sight it is the one that counts."""
    ignored = psycopg.errors.InFailedSqlTransaction("current transaction is aborted")
    failure = body(raised(ignored, during=psycopg.errors.SerializationFailure("could not serialize access")))
    assert (failure.failure_class, failure.code) == (FailureClass.CONTENTION, "40001")
    failure = body(raised(ignored, during=psycopg.errors.UniqueViolation("duplicate key")))
    assert failure.rejection is Rejection.DUPLICATE


def test_deadlock_behind_the_callers_own_exception_is_seen() -> None:
    """`except Exception: raise SaveFailed` must not turn a deadlock into a final answer."""
    assert body(raised(RuntimeError("save failed"), during=DEADLOCK), "mysql").failure_class is FailureClass.CONTENTION
    assert body(raised(RuntimeError("save failed"), cause=DEADLOCK), "mysql").failure_class is FailureClass.CONTENTION


def test_refusal_behind_the_callers_own_exception_is_the_callers() -> None:
    """`except IntegrityError: raise NameTaken` is his answer; `from None` makes it his whatever stood behind it."""
    taken = body(raised(LookupError("name taken"), during=pymysql.err.IntegrityError(1062, "Duplicate entry")), "mysql")
    assert (taken.failure_class, taken.flavour, taken.name) == (FailureClass.PERMANENT, None, "LookupError")
    seat_taken = raised(LookupError("seat taken"), during=DEADLOCK)
    seat_taken.__suppress_context__ = True
    assert body(seat_taken, "mysql").flavour is None


def test_error_behind_sqlalchemys_wrapper_is_seen() -> None:
    """It raises its wrappers `from` what they wrap; with asyncpg the earlier error hangs behind the wrapper alone."""
    ignored = psycopg.errors.InFailedSqlTransaction("current transaction is aborted")
    wrapper = sqlalchemy.exc.InternalError("SELECT 1", {}, ignored)
    wrapper.__cause__, wrapper.__context__ = ignored, psycopg.errors.DeadlockDetected("deadlock detected")
    assert body(wrapper).code == "40P01"


def test_connection_that_did_not_survive_a_hidden_error_is_not_pooled() -> None:
    """The server closes the connection after 1153, whatever the caller makes of the error."""
    too_large = pymysql.err.OperationalError(1153, "Got a packet bigger than 'max_allowed_packet' bytes")
    failure = body(raised(ValueError("too much"), during=too_large), "mysql")
    assert failure.flavour is None
    assert not failure.connection_usable


def test_error_of_another_system_behind_the_callers_own_is_not_the_databases() -> None:
    """A refused HTTP call that the caller turned into his own exception does not rerun the transaction."""
    failure = body(raised(RuntimeError("payment failed"), cause=ConnectionRefusedError("refused")))
    assert failure.failure_class is FailureClass.PERMANENT


def test_error_in_a_group_is_found() -> None:
    """A TaskGroup in the body raises a group; the deadlock inside it counts."""
    group = ExceptionGroup("unhandled errors in a TaskGroup", [ValueError("x"), DEADLOCK])
    assert body(group, "mysql").failure_class is FailureClass.CONTENTION


def test_error_the_caller_was_handling_before_is_not_this_transactions() -> None:
    """Python hangs it behind everything raised inside; `handled` cuts the chain there."""
    outside = pymysql.err.OperationalError(1213, "an earlier operation's deadlock")
    inside = raised(ValueError("bad input"), during=outside)
    assert body(inside).failure_class is FailureClass.CONTENTION
    assert body(inside, handled=outside).failure_class is FailureClass.PERMANENT


def test_chains_that_bite_their_tail_end() -> None:
    """Cycles through cause and context are walked once."""
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    first.__context__, second.__context__ = second, first
    assert body(first).failure_class is FailureClass.PERMANENT


# ---- COMMIT


@pytest.mark.parametrize("code", [1180, 2013, 2006, 1053, 1317, 1969, 3024, 1598, 1026, 1114, 1064, 1406])
def test_answer_to_commit_that_proves_nothing_is_ambiguous(code: int) -> None:
    """Whatever it would mean before, it is unknown now: only the resolver may speak."""
    failure = classify(pymysql.err.OperationalError(code, ""), stage=Stage.COMMIT, flavour="mariadb")
    assert (failure.failure_class, failure.rejection) == (FailureClass.AMBIGUOUS, None)


def test_rollback_that_fails_after_commit_does_not_speak_for_it() -> None:
    """Galera: COMMIT got 1180, the ROLLBACK after it 1213; the 1213 proves nothing about the COMMIT."""
    commit = pymysql.err.OperationalError(1180, 'Got error 6 "No such device or address" during COMMIT')
    rollback = pymysql.err.OperationalError(1213, "Deadlock found when trying to get lock")
    failure = classify(raised(rollback, during=commit), stage=Stage.COMMIT, flavour="mariadb")
    assert failure.failure_class is FailureClass.AMBIGUOUS
    both = classify(raised(rollback, during=DEADLOCK), stage=Stage.COMMIT, flavour="mariadb")
    assert both.failure_class is FailureClass.CONTENTION


def test_sqlalchemys_wrapper_does_not_blur_a_proof() -> None:
    """The wrapper has the driver's exception as its cause: that is the same error, not another one."""
    wrapper = raised(sqlalchemy.exc.OperationalError("COMMIT", {}, DEADLOCK), cause=DEADLOCK)
    assert classify(wrapper, stage=Stage.COMMIT, flavour="mysql").failure_class is FailureClass.CONTENTION


def test_lost_connection_keeps_nothing_of_its_text() -> None:
    """A driver's text may quote the statement; failure and error show the code."""
    failure = classify(pymysql.err.OperationalError(2013, "Lost connection: INSERT s3cr3t"), stage=Stage.COMMIT)
    assert "s3cr3t" not in f"{failure!r} {error_for(failure)!r}"
    assert failure.code == 2013


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("sending query and params failed: number of parameters must be between 0 and 65535"),
        asyncpg.InterfaceError("the number of query arguments cannot exceed 32767"),
    ],
    ids=["psycopg", "asyncpg"],
)
def test_too_many_parameters_are_the_statements_fault(error: Exception) -> None:
    """The driver counts before it sends, and says so as if the connection were lost."""
    failure = classify(error, stage=Stage.BODY, flavour=Flavour.POSTGRESQL)
    assert (failure.failure_class, failure.connection_usable) == (FailureClass.PERMANENT, True)
