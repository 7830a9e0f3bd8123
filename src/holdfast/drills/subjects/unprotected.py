"""Subjects that save as people do without Holdfast: SQLAlchemy alone, and the usual recipes of tenacity around it.

They say to their callers what their code believes: an exception means that it was not saved. That this belief can be wrong is
what a drill shows.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ...outcome import Stage
from ..history import Answer
from ..workloads import Call, TableWorkload
from .subject import Reply, Subject, Terms, time_left_s, told

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

__all__ = ["Plain", "Tenacity", "TenacityCommit"]

_ATTEMPTS = 5


class Plain(Subject):
    """SQLAlchemy alone: a session for each operation, and a commit. Cancelled at the deadline, as a web framework would."""

    name = "plain"

    def __init__(self, url: str, workload: TableWorkload, terms: Terms) -> None:
        self._workload = workload
        self._deadline_s = terms.deadline_s
        self._engine = create_async_engine(
            url, pool_size=terms.connections, max_overflow=0, pool_timeout=terms.deadline_s, pool_pre_ping=True
        )
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    @property
    def engine(self) -> Engine:
        """The synchronous engine inside the asynchronous one."""
        return self._engine.sync_engine

    async def perform(self, call: Call) -> Reply:
        """As `Subject.perform`."""
        trail = _Trail()
        try:
            async with asyncio.timeout(time_left_s(self._deadline_s)):
                value = await self._save(call, trail)
        except Exception as error:
            flavour = self.engine.dialect.name
            return told(Answer.FAIL, error, trail.stage, attempts=max(1, trail.attempts), flavour=flavour)
        return Reply(Answer.OK, value, trail.attempts)

    async def _save(self, call: Call, trail: _Trail) -> dict[str, Any]:
        """One operation, by whatever recipe."""
        return await self._attempt(call, trail)

    async def _attempt(self, call: Call, trail: _Trail) -> dict[str, Any]:
        trail.attempts += 1
        trail.stage = Stage.CONNECT
        async with self._sessions() as session:
            await session.connection()
            trail.stage = Stage.BODY
            value: dict[str, Any] = await session.run_sync(self._workload.perform, call)
            trail.stage = Stage.COMMIT
            await self._commit(session)
            return value

    async def _commit(self, session: AsyncSession) -> None:
        await session.commit()

    async def close(self) -> None:
        """Close the pool."""
        await self._engine.dispose()


class _Trail:
    """How far an operation came."""

    def __init__(self) -> None:
        self.attempts = 0
        self.stage = Stage.CONNECT


def _usual_recipe() -> AsyncRetrying:
    """Up to five attempts at whatever looks like a database in trouble, with jittered waits."""
    return AsyncRetrying(
        retry=retry_if_exception_type((OperationalError, InterfaceError)),
        wait=wait_random_exponential(multiplier=0.05, max=5),
        stop=stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )


class Tenacity(Plain):
    """The recipe at its best: the whole unit of work is retried, in a fresh session."""

    name = "tenacity"

    async def _save(self, call: Call, trail: _Trail) -> dict[str, Any]:
        value: dict[str, Any] = await _usual_recipe()(self._attempt, call, trail)
        return value


class TenacityCommit(Plain):
    """The recipe as it is often found: around `session.commit()` alone."""

    name = "tenacity-commit"

    async def _commit(self, session: AsyncSession) -> None:
        await _usual_recipe()(session.commit)
