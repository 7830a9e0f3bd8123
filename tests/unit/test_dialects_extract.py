"""The extractor finds code, names and text in every driver's exception, and looks at nothing else."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace
from typing import Any

import asyncpg
import mysql.connector.errors
import psycopg
import psycopg.errors
import psycopg2
import pymysql.err
import pytest
import sqlalchemy.exc
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi

from holdfast.dialects import Flavour, extract
from holdfast.dialects.details import Details
from tests.driver_errors import MYSQL_DRIVERS, POSTGRESQL_DRIVERS, SQLITE_DRIVERS


def wrapped(error: Exception) -> sqlalchemy.exc.DBAPIError:
    """`error` in SQLAlchemy's wrapper."""
    return sqlalchemy.exc.OperationalError("INSERT INTO users VALUES (%s)", {"email": "s3cr3t"}, error)


@pytest.mark.parametrize("driver", MYSQL_DRIVERS)
@pytest.mark.parametrize("wrap", [lambda error: error, wrapped], ids=["bare", "wrapped"])
def test_number_and_text_are_found_in_every_driver_of_mysql(driver: str, wrap: Any) -> None:
    """Whether it stands in `args`, `errno`, `msg` or `errmsg`, wrapped or not."""
    found = extract(wrap(MYSQL_DRIVERS[driver](1205, "Lock wait timeout exceeded")))
    assert found.number == 1205
    assert found.message == "Lock wait timeout exceeded"
    assert found.flavour in (Flavour.MYSQL, Flavour.MARIADB)
    assert found.sqlstate in (None, "HY000")


@pytest.mark.parametrize("driver", POSTGRESQL_DRIVERS)
@pytest.mark.parametrize("wrap", [lambda error: error, wrapped], ids=["bare", "wrapped"])
def test_sqlstate_and_text_are_found_in_every_driver_of_postgresql(driver: str, wrap: Any) -> None:
    """Whether it stands in `sqlstate` or `pgcode`; the text ends where DETAIL, which holds values, begins."""
    found = extract(
        wrap(POSTGRESQL_DRIVERS[driver]("23505", "duplicate key\nDETAIL:  Key (email)=(s3cr3t) already exists."))
    )
    assert (found.sqlstate, found.message, found.flavour) == ("23505", "duplicate key", Flavour.POSTGRESQL)
    assert found.number is None


@pytest.mark.parametrize("wrap", [lambda error: error, wrapped], ids=["bare", "wrapped"])
def test_extended_code_is_found_in_sqlite3(wrap: Any) -> None:
    """The extended code and SQLite's own name for it."""
    found = extract(wrap(SQLITE_DRIVERS["sqlite3"](2067, "UNIQUE constraint failed: users.email")))
    assert (found.sqlite_code, found.name, found.flavour) == (2067, "SQLITE_SOMETHING", Flavour.SQLITE)


def test_names_come_from_psycopgs_diagnostics() -> None:
    """`diag` names constraint, table and column; of "Key (...)=(...)" only the left side is read."""

    class Diagnosed(psycopg.errors.UniqueViolation):
        diag: Any = SimpleNamespace(
            message_primary="duplicate key",
            message_detail="Key (email, region)=(s3cr3t, eu) already exists.",
            constraint_name="users_email",
            table_name="users",
            column_name=None,
        )

    found = extract(Diagnosed("duplicate key\nDETAIL:  Key (email, region)=(s3cr3t, eu) already exists."))
    assert found.details == Details("users_email", "users", ("email", "region"))
    assert found.message == "duplicate key"


def test_names_come_from_asyncpgs_attributes_through_sqlalchemys_adapter() -> None:
    """The adapter carries the SQLSTATE; names and text stand only on asyncpg's own exception behind it."""
    original = asyncpg.PostgresError.new(
        {
            "S": "ERROR",
            "C": "23502",
            "M": "null value",
            "t": "users",
            "c": "age",
            "D": "Failing row contains (s3cr3t, null).",
        }
    )
    adapted: Exception = AsyncAdapt_asyncpg_dbapi.IntegrityError(  # type: ignore[no-untyped-call]
        f"{type(original)}: null value", original
    )
    adapted.__cause__ = original
    found = extract(wrapped(adapted))
    assert (found.driver, found.sqlstate, found.message) == ("asyncpg", "23502", "null value")
    assert found.details == Details(None, "users", ("age",))


@pytest.mark.parametrize(
    ("detail", "columns"),
    [
        ("Key (email)=(a)=(b) already exists.", ("email",)),
        ('Key ("Weird Name", id)=(x, 1) already exists.', ("Weird Name", "id")),
        ("Key (lower(email::text))=(x) already exists.", ()),
        ("Failing row contains (Key (a)=(b)).", ()),
    ],
)
def test_columns_of_a_key_are_read_only_where_they_are_columns(detail: str, columns: tuple[str, ...]) -> None:
    """An expression is no column, and what follows the equals sign is never read, whatever it looks like."""

    class Diagnosed(psycopg.errors.UniqueViolation):
        diag: Any = SimpleNamespace(message_primary="duplicate key", message_detail=detail)

    assert extract(Diagnosed("duplicate key")).details.columns == columns


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (mysql.connector.errors.OperationalError("MySQL Connection not available"), -1),
        (pymysql.err.InterfaceError(0, ""), 0),
        (pymysql.err.OperationalError("(1213) is text here"), None),
        (pymysql.err.OperationalError(True, "a bool is no number"), None),
        (pymysql.err.OperationalError(), None),
    ],
    ids=repr,
)
def test_numbers_are_taken_from_where_they_belong(error: Exception, number: int | None) -> None:
    """Two codes mean "closed"; a number inside a text, or a bool, is none."""
    assert extract(error).number == number


def test_operating_systems_errno_is_no_server_number() -> None:
    """An exception that is a driver's and an OSError as well carries errno 104, which no server has."""

    class Reset(pymysql.err.OperationalError, ConnectionResetError):
        pass

    assert extract(Reset(104, "Connection reset by peer")).number is None
    assert extract(Reset(2013, "Lost connection")).number == 2013


@pytest.mark.parametrize(
    "error",
    [
        ValueError("42P01 users 40001"),
        KeyError("08006"),
        RuntimeError(1213, "Deadlock found"),
        Exception("sqlstate 40P01"),
    ],
    ids=repr,
)
def test_five_letter_words_and_numbers_of_other_exceptions_are_no_codes(error: Exception) -> None:
    """An exception of no database driver has no code, whatever it says."""
    found = extract(error)
    assert (found.driver, found.number, found.sqlstate, found.sqlite_code) == (None, None, None, None)


def test_psycopg_text_is_no_sqlstate() -> None:
    """A driver's exception without an SQLSTATE has none, though its text holds five characters that could be one."""
    assert extract(psycopg.OperationalError("40001")).sqlstate is None
    assert extract(psycopg2.OperationalError("40P01 57P01")).sqlstate is None


def test_driver_that_is_not_known_is_read_as_most_are() -> None:
    """Below SQLAlchemy any driver's exception is one: its number is used, its flavour the caller must know."""
    cymysql_error = type("OperationalError", (Exception,), {"__module__": "cymysql.err"})
    found = extract(wrapped(cymysql_error(1213, "Deadlock found")))
    assert (found.driver, found.number, found.flavour) == ("cymysql", 1213, None)


def test_exception_class_of_a_user_derived_from_a_drivers_is_the_drivers() -> None:
    """The module of any ancestor counts."""

    class Mine(sqlite3.OperationalError):
        pass

    assert extract(Mine("database is locked")).driver == "sqlite3"


def test_package_with_a_similar_name_is_no_driver() -> None:
    """`pymysql_pool` and `mysql` are not `pymysql` and `mysql.connector`."""
    for module in ("pymysql_pool.errors", "mysql", "mysql.connectors", "psycopg3"):
        foreign = type("OperationalError", (Exception,), {"__module__": module})
        assert extract(foreign(1213, "Deadlock found")).driver is None


def test_broken_exception_does_not_break_the_extractor() -> None:
    """Properties that raise are read as missing."""

    class Broken(Exception):
        __module__ = "psycopg"

        @property
        def sqlstate(self) -> str:
            raise RuntimeError("no")

        diag = sqlstate

    found = extract(Broken("x"))
    assert (found.driver, found.sqlstate, found.message) == ("psycopg", None, "x")


def test_chain_that_bites_its_tail_ends() -> None:
    """A wrapper that wraps itself is looked at once."""
    outer = wrapped(Exception("x"))
    outer.orig = outer
    assert extract(outer).driver is None


def test_text_stays_out_of_the_repr() -> None:
    """The text may hold values, so it is not shown."""
    assert "s3cr3t" not in repr(extract(pymysql.err.IntegrityError(1062, "Duplicate entry 's3cr3t' for key 'a'")))
