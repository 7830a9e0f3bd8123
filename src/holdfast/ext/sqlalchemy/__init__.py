"""Holdfast for SQLAlchemy 2: `Database` for threads, `AsyncDatabase` for asyncio.

from holdfast.ext.sqlalchemy import Database

db = Database("mariadb://app@db1/shop")
db.migrate(Base.metadata)

@db.transaction
def transfer(tx: Session, source: int, target: int, amount: Decimal) -> Receipt: ...
"""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import MissingExtra

if find_spec("sqlalchemy") is None:
    raise MissingExtra("holdfast.ext.sqlalchemy needs SQLAlchemy: pip install 'holdfast[sqlalchemy]'")

from .async_database import AsyncDatabase
from .database import Database
from .database_settings import DatabaseSettings
from .engines import Endpoint, open_endpoint
from .keyrows import OPERATIONS
from .sessions import UnitAsyncSession, UnitSession
from .settings import PoolSettings, SessionSettings

__all__ = [
    "OPERATIONS",
    "AsyncDatabase",
    "Database",
    "DatabaseSettings",
    "Endpoint",
    "PoolSettings",
    "SessionSettings",
    "UnitAsyncSession",
    "UnitSession",
    "open_endpoint",
]
