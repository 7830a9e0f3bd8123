"""The four kinds of server that Holdfast knows."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Flavour"]


class Flavour(StrEnum):
    """Whose error numbers are meant; the values are SQLAlchemy's dialect names.

    MySQL and MariaDB are two: 102 of their numbers carry different meanings, among them 4025 and 4031.
    """

    MYSQL = "mysql"
    MARIADB = "mariadb"
    POSTGRESQL = "postgresql"
    SQLITE = "sqlite"
