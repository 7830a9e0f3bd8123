"""Exceptions as each driver raises them, for a given code and text: the drivers' own classes, filled as they fill them.

mysqlclient and mariadb have no wheels; where one is not installed, a class of the same module and shape stands in.
"""

from __future__ import annotations

import importlib
import sqlite3
import warnings
from collections.abc import Callable
from typing import Any, cast

import asyncmy.errors
import asyncpg
import mysql.connector.errors
import psycopg
import psycopg.errors
import psycopg2
import pymysql.err

__all__ = ["MYSQL_DRIVERS", "POSTGRESQL_DRIVERS", "SQLITE_DRIVERS"]


def _pymysql(code: int, message: str) -> Exception:
    """PyMySQL, and aiomysql, which raises PyMySQL's exceptions."""
    error_class = (
        pymysql.err.InterfaceError if code == 0 else pymysql.err.error_map.get(code, pymysql.err.OperationalError)
    )
    return error_class(code, message)


def _asyncmy(code: int, message: str) -> Exception:
    error_class = asyncmy.errors.InterfaceError if code == 0 else asyncmy.errors.OperationalError
    error: Exception = error_class(code, message)
    return error


def _mysqlclient(code: int, message: str) -> Exception:
    error: Exception = _operational_error("MySQLdb")(code, message)
    return error


def _mysql_connector(code: int, message: str) -> Exception:
    return mysql.connector.errors.OperationalError(msg=message, errno=code, sqlstate="HY000")


def _mariadb(code: int, message: str) -> Exception:
    error: Any = _operational_error("mariadb")(message)
    error.errno, error.sqlstate, error.errmsg = code, "HY000", message
    return cast("Exception", error)


def _operational_error(module: str) -> Any:
    """The driver's class, or where it is not installed one that calls itself the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mariadb's sources do not compile without one
        try:
            return importlib.import_module(module).OperationalError
        except ImportError:
            return type("OperationalError", (Exception,), {"__module__": module})


def _psycopg(sqlstate: str, message: str) -> Exception:
    try:
        return psycopg.errors.lookup(sqlstate)(message)
    except KeyError:
        error = psycopg.DatabaseError(message)
        error.sqlstate = sqlstate
        return error


def _psycopg2(sqlstate: str, message: str) -> Exception:
    """psycopg2 takes `pgcode` from a server's answer only, and lets nobody else set it; a subclass can have its own."""
    error_class = type("OperationalError", (psycopg2.OperationalError,), {"pgcode": sqlstate, "__module__": "psycopg2"})
    error: Exception = error_class(message)
    return error


def _asyncpg(sqlstate: str, message: str) -> Exception:
    primary, _, detail = message.partition("\nDETAIL:  ")
    fields = {"S": "ERROR", "C": sqlstate, "M": primary} | ({"D": detail} if detail else {})
    error: Exception = asyncpg.PostgresError.new(fields)
    return error


def _sqlite3(code: int, message: str) -> Exception:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    error.sqlite_errorname = "SQLITE_SOMETHING"
    return error


MYSQL_DRIVERS: dict[str, Callable[[int, str], Exception]] = {
    "pymysql": _pymysql,
    "asyncmy": _asyncmy,
    "mysqlclient": _mysqlclient,
    "mysql-connector-python": _mysql_connector,
    "mariadb": _mariadb,
}
POSTGRESQL_DRIVERS: dict[str, Callable[[str, str], Exception]] = {
    "psycopg": _psycopg,
    "psycopg2": _psycopg2,
    "asyncpg": _asyncpg,
}
SQLITE_DRIVERS: dict[str, Callable[[int, str], Exception]] = {"sqlite3": _sqlite3}
