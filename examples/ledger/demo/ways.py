"""Three ways to run the ledger's transactions. The ledger and its edge are the same in all three, and so is the engine below.

The first two have the part of `AsyncDatabase` that the ledger uses. They are what people write today, at its best: a fresh
session for every attempt, the whole unit of work retried and not just its commit, only errors that can pass, jittered waits as
long as Holdfast's. (Retried around `session.commit()` alone, the recipe would lose writes as well.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

from sqlalchemy import MetaData, select, tuple_
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from holdfast.asgi.answers import Answer
from holdfast.asgi.idempotency import IdempotencyStore, KeyedRun
from holdfast.asgi.keyed_request import KeyIdentity
from holdfast.ext.sqlalchemy import AsyncDatabase, open_endpoint
from holdfast.ext.sqlalchemy.idempotency import SqlIdempotency

__all__ = ["WAYS", "Unprotected", "WithTenacity"]

_Work = Callable[..., Awaitable[Any]]

_session: ContextVar[AsyncSession] = ContextVar("demo_session")


class Unprotected:
    """Plain SQLAlchemy: a session per request, and a commit."""

    def __init__(self, url: str) -> None:
        engine = open_endpoint(url, asynchronous=True).async_engine
        assert engine is not None
        self.engine: AsyncEngine = engine
        self._sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def run(self, work: _Work, *args: Any) -> Any:
        """Do `work` in a transaction."""
        async with self._sessions() as session:
            _session.set(session)
            result = await work(session, *args)
            await session.commit()
            return result

    # -- what the ledger asks of its database ------------------------------------------------------------------------

    read = run

    def transaction(self, *, name: str) -> Callable[[_Work], _Work]:
        """As in `AsyncDatabase`, without its promises."""
        return lambda work: partial(self.run, work)

    async def save(self, obj: object) -> object:
        """Save a copy of `obj`, new at every attempt."""

        async def write(session: AsyncSession) -> object:
            return await session.merge(obj)

        return await self.run(write)

    async def lock(self, model: Any, ids: Iterable[Any]) -> dict[Any, Any]:
        """Lock rows in a fixed order."""
        chosen = tuple_(model.tenant, model.id).in_(list(ids))
        rows = await _session.get().scalars(select(model).where(chosen).order_by(model.id).with_for_update())
        return {(row.tenant, row.id): row for row in rows}

    async def migrate(self, metadata: MetaData) -> None:
        """Create the tables."""
        async with self.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)

    def health_checks(self) -> tuple[()]:
        """None."""
        return ()

    async def close(self) -> None:
        """Close the connections."""
        await self.engine.dispose()


class WithTenacity(Unprotected):
    """The usual recipe: up to five attempts at whatever looks like a database in trouble."""

    run = retry(
        retry=retry_if_exception_type((OperationalError, InterfaceError)),
        wait=wait_random_exponential(multiplier=0.05, max=5),
        stop=stop_after_attempt(5),
        reraise=True,
    )(Unprotected.run)

    read = run


class _NoKeys:
    """An `IdempotencyStore` that keeps nothing: a plain session has no place for a key in its transaction."""

    async def answer(self, identity: KeyIdentity, run: KeyedRun) -> Answer:
        return await run()

    async def live_keys(self, scope: str, most: int) -> int:
        return 0


def _unprotected(url: str) -> tuple[AsyncDatabase, IdempotencyStore]:
    return cast("AsyncDatabase", Unprotected(url)), _NoKeys()


def _with_tenacity(url: str) -> tuple[AsyncDatabase, IdempotencyStore]:
    return cast("AsyncDatabase", WithTenacity(url)), _NoKeys()


def _with_holdfast(url: str) -> tuple[AsyncDatabase, IdempotencyStore]:
    db = AsyncDatabase(url)
    return db, SqlIdempotency(db)


WAYS: dict[str, Callable[[str], tuple[AsyncDatabase, IdempotencyStore]]] = {
    "unprotected": _unprotected,
    "tenacity": _with_tenacity,
    "Holdfast": _with_holdfast,
}
"""What the demo compares, by the name it has in the table: a database, and where Idempotency-Keys are kept."""
