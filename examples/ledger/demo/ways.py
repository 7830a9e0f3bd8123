"""Three ways to run the ledger's transactions. The ledger itself is the same in all three, and so is the engine below.

The first two have the part of `AsyncDatabase` that the ledger uses. They are what people write today, at its best: a fresh
session for every attempt, the whole unit of work retried and not just its commit, only errors that can pass, jittered waits as
long as Holdfast's. (Retried around `session.commit()` alone, the recipe would lose writes as well.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any, Self, cast

from sqlalchemy import MetaData, select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from holdfast.ext.sqlalchemy import AsyncDatabase, open_endpoint

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

    def transaction(self, *, name: str) -> Callable[[_Work], _Operation]:
        """As in `AsyncDatabase`, without its promises."""
        return lambda work: _Operation(self.run, work)

    async def save(self, obj: object, *, key: str | None = None) -> object:
        """Save a copy of `obj`, new at every attempt."""

        async def write(session: AsyncSession) -> object:
            return await session.merge(obj)

        return await self.run(write)

    async def lock(self, model: Any, ids: Iterable[Any]) -> dict[Any, Any]:
        """Lock rows in a fixed order."""
        wanted = select(model).where(model.id.in_(list(ids))).order_by(model.id).with_for_update()
        return {row.id: row for row in await _session.get().scalars(wanted)}

    async def migrate(self, metadata: MetaData) -> None:
        """Create the tables."""
        async with self.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
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


class _Operation:
    """A transaction function. There is nothing that could make use of a key."""

    def __init__(self, run: _Work, work: _Work) -> None:
        self._run = run
        self._work = work

    def keyed(self, _key: str) -> Self:
        return self

    async def __call__(self, *args: Any) -> Any:
        return await self._run(self._work, *args)


WAYS: dict[str, Callable[[str], AsyncDatabase]] = {
    "unprotected": lambda url: cast("AsyncDatabase", Unprotected(url)),
    "tenacity": lambda url: cast("AsyncDatabase", WithTenacity(url)),
    "Holdfast": AsyncDatabase,
}
"""What the demo compares, by the name it has in the table."""
