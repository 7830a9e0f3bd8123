"""`Database` and `AsyncDatabase` behind one synchronous face, so that one suite holds for both shells and every driver."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import CheckConstraint, ForeignKey, MetaData, String, inspect, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from holdfast.ext.sqlalchemy import OPERATIONS, AsyncDatabase, Database, DatabaseSettings

__all__ = [
    "FACES",
    "ONE_A_SERVER",
    "ON_SQLITE",
    "Account",
    "Base",
    "Entry",
    "Face",
    "Kind",
    "User",
    "balances",
    "only",
    "usernames",
]

_SEED = 7


class Base(DeclarativeBase):
    """The tables of the contract."""


class User(Base):
    """A row with a unique name."""

    __tablename__ = "contract_users"
    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(100), unique=True)
    age: Mapped[int]


class Account(Base):
    """A balance that must not go below zero."""

    __tablename__ = "contract_accounts"
    __table_args__ = (CheckConstraint("balance >= 0", name="contract_balance_positive"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int]


class Entry(Base):
    """An effect that can be counted: no unique key would hide a double."""

    __tablename__ = "contract_entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[int] = mapped_column(ForeignKey(Account.id))
    amount: Mapped[int]


@dataclass(frozen=True)
class Kind:
    """A server and the driver to reach it by."""

    server: str
    driver: str
    asynchronous: bool

    def __str__(self) -> str:
        return f"{self.server}-{self.driver}{'-async' if self.asynchronous else ''}"


FACES = [
    Kind("sqlite", "pysqlite", asynchronous=False),
    Kind("sqlite", "aiosqlite", asynchronous=True),
    Kind("mariadb", "pymysql", asynchronous=False),
    Kind("mariadb", "mysqldb", asynchronous=False),
    Kind("mariadb", "asyncmy", asynchronous=True),
    Kind("mariadb", "aiomysql", asynchronous=True),
    Kind("mysql", "pymysql", asynchronous=False),
    Kind("mysql", "asyncmy", asynchronous=True),
    Kind("postgresql", "psycopg", asynchronous=False),
    Kind("postgresql", "psycopg", asynchronous=True),
    Kind("postgresql", "asyncpg", asynchronous=True),
]

ON_SQLITE = [kind for kind in FACES if kind.server == "sqlite"]
"""For what depends on the shell alone."""

ONE_A_SERVER = [
    *ON_SQLITE,
    Kind("mariadb", "asyncmy", asynchronous=True),
    Kind("mysql", "pymysql", asynchronous=False),
    Kind("postgresql", "asyncpg", asynchronous=True),
]
"""For what depends on the server, and not on its driver."""

_OPTIONAL = {"mysqldb": "MySQLdb"}


def only(kinds: Sequence[Kind]) -> Any:
    """The faces of one module of tests that needs no others; assign it to `kind` there."""

    @pytest.fixture(name="kind", params=kinds, ids=str)
    def kind(request: pytest.FixtureRequest) -> Any:
        return request.param

    return kind


def missing_driver(kind: Kind) -> str | None:
    """Why the face cannot be had here, or None."""
    module = _OPTIONAL.get(kind.driver)
    if module is not None and importlib.util.find_spec(module) is None:
        return f"{module} is not installed (it is built from source)"
    return None


class Face:
    """One database, called the same way whatever shell is underneath."""

    def __init__(self, kind: Kind, url: str, settings: DatabaseSettings | None = None, **options: Any) -> None:
        self.kind = kind
        self.url = url
        self._runner = asyncio.Runner() if kind.asynchronous else None
        self.db: Any
        # From nowhere else: a count that starts anywhere lets one face in so many purge expired keys by itself, amid a test.
        options.setdefault("random", random.Random(_SEED).random)
        if kind.asynchronous:
            self.db = AsyncDatabase(url, settings, **options)
        else:
            self.db = Database(url, settings, **options)

    @property
    def engine(self) -> Any:
        """The synchronous engine, also where an asynchronous one is around it."""
        return getattr(self.db.engine, "sync_engine", self.db.engine)

    def close(self) -> None:
        """Close the database and the event loop."""
        self.wait(self.db.close())
        if self._runner is not None:
            self._runner.close()

    def fresh(self, metadata: MetaData) -> None:
        """Create the tables of `metadata` where they are missing, and empty them and that of the key rows."""
        tables = (*reversed(metadata.sorted_tables), OPERATIONS)

        def missing(session: Session) -> bool:
            there = inspect(session.connection()).get_table_names()
            return not {table.name for table in tables}.issubset(there)

        def empty(session: Session) -> None:
            for table in tables:
                session.execute(table.delete())

        # To compare what is there already costs more than many a test.
        if self.read(missing):
            self.wait(self.db.migrate(metadata))
        self.run(empty, protect=False)

    def wait(self, result: Any) -> Any:
        """The result itself, or what awaiting it gives."""
        return self._runner.run(_awaited(result)) if self._runner is not None else result

    def function(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn(session, ...)` in the form the database takes."""
        if not self.kind.asynchronous:
            return fn

        @functools.wraps(fn)
        async def asynchronous(tx: Any, *args: Any, **kwargs: Any) -> Any:
            return await tx.run_sync(lambda session: fn(session, *args, **kwargs))

        return asynchronous

    def operation(self, fn: Callable[..., Any], *, key: str | None = None, **options: Any) -> Callable[..., Any]:
        """`fn(session, ...)` as an operation, called synchronously."""
        operation = self.db.transaction(**options)(self.function(fn))
        if key is not None:
            operation = operation.keyed(key)
        return lambda *args, **kwargs: self.wait(operation(*args, **kwargs))

    def run(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """`fn(session, *args)` as one operation, now."""
        return self.operation(fn, **options)(*args)

    def read(self, fn: Callable[..., Any], *args: Any) -> Any:
        """`fn(session, *args)` in a read-only transaction."""
        return self.wait(self.db.read(self.function(fn), *args))

    def save(self, obj: Any, **options: Any) -> Any:
        """`db.save`."""
        return self.wait(self.db.save(obj, **options))

    def save_all(self, objs: Sequence[Any], **options: Any) -> Any:
        """`db.save_all`."""
        return self.wait(self.db.save_all(objs, **options))

    def block(self, body: Callable[[Session], Any], **options: Any) -> Any:
        """`with db.begin() as tx: body(tx)`."""
        if not self.kind.asynchronous:
            with self.db.begin(**options) as tx:
                return body(tx)

        async def asynchronous() -> Any:
            async with self.db.begin(**options) as tx:
                return await tx.run_sync(body)

        return self.wait(asynchronous())

    def at_once(self, fn: Callable[..., Any], calls: Sequence[tuple[Any, ...]], **options: Any) -> list[Any]:
        """`fn` as an operation, for each argument tuple, all at the same time: results, or the exceptions raised."""
        function = self.function(fn)
        keys = options.pop("keys", [None] * len(calls))
        operation = self.db.transaction(**options)(function)
        bound = [operation if key is None else operation.keyed(key) for key in keys]
        if self._runner is not None:

            async def all_of_them() -> list[Any]:
                tasks = [asyncio.ensure_future(one(*args)) for one, args in zip(bound, calls, strict=True)]
                return await asyncio.gather(*tasks, return_exceptions=True)

            return self._runner.run(all_of_them())
        barrier = threading.Barrier(len(calls))

        def call(one: Callable[..., Any], args: tuple[Any, ...]) -> Any:
            barrier.wait()
            try:
                return one(*args)
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(call, bound, calls))


async def _awaited(result: Any) -> Any:
    return await result


def usernames(session: Session) -> list[str]:
    """Every user's name, in order."""
    return sorted(session.scalars(select(User.username)))


def balances(session: Session) -> dict[int, int]:
    """Every account's balance."""
    return {account.id: account.balance for account in session.scalars(select(Account))}
