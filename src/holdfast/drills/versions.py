"""Which versions a drill ran with, for its report: whoever runs it again wants the same."""

from __future__ import annotations

import platform
import sqlite3
from importlib.metadata import PackageNotFoundError, version

__all__ = ["versions"]

_PACKAGES = {
    "pymysql": "PyMySQL",
    "mysqldb": "mysqlclient",
    "mysqlconnector": "mysql-connector-python",
    "mariadbconnector": "mariadb",
}
"""Where a driver is installed under another name than SQLAlchemy's."""


def versions(driver: str | None) -> dict[str, str]:
    """Of Holdfast, Python, SQLAlchemy and `driver`, which is SQLAlchemy's name for it; what is not installed is left out."""
    packages = {"holdfast": "holdfast", "sqlalchemy": "SQLAlchemy"}
    found = {name: number for name, package in packages.items() if (number := _version(package)) is not None}
    found["python"] = platform.python_version()
    if driver is not None:
        number = sqlite3.sqlite_version if driver == "pysqlite" else _version(_PACKAGES.get(driver, driver))
        found["driver"] = f"{driver} {number}" if number else driver
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
