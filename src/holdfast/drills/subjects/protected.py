"""Subjects that save through Holdfast: with the operation's key, without, and in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import HoldfastError, LoadShed, NotCommitted, report_of
from ...events import AttemptFailed, OperationEnded
from ...ext.sqlalchemy import AsyncDatabase, Database, DatabaseSettings, PoolSettings
from ...outcome import Failure, Outcome, Stage
from ...stream import Event, EventStream
from ..history import RETRY_AFTER, Answer
from ..workloads import Call, Refused, TableWorkload
from .subject import Reply, Subject, Terms

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlalchemy.orm import Session

    from ...ext.sqlalchemy import UnitAsyncSession

__all__ = ["Protected", "ProtectedThreads", "ProtectedUnkeyed", "reply_to"]


_SIDE_CONNECTIONS = 2
"""One that ends sessions, one that looks for the server."""


@dataclass(slots=True)
class _Trail:
    """What was seen of one operation on its way."""

    attempts: int = 0
    failure: Failure | None = None


_trail: ContextVar[_Trail | None] = ContextVar("holdfast_drill_trail", default=None)


def _note(event: Event) -> None:
    trail = _trail.get()
    if trail is None:
        return
    if isinstance(event, AttemptFailed):
        trail.attempts = max(trail.attempts, event.attempt)
        trail.failure = Failure(event.failure_class, event.stage or Stage.BODY, code=event.code)
    elif isinstance(event, OperationEnded):
        trail.attempts = max(trail.attempts, event.attempts)


def reply_to(error: Exception, trail_attempts: int = 1, seen: Failure | None = None) -> Reply:
    """What a caller of Holdfast knows from `error`: the three answers, never a guess."""
    report = report_of(error)
    if isinstance(error, Refused):
        return Reply(Answer.FAIL, attempts=max(trail_attempts, 1), error=type(error).__name__)
    failure = getattr(error, "failure", None) or seen
    attempts = max(trail_attempts, report.attempts if report is not None else 0, 1)
    outcome = error.outcome if isinstance(error, HoldfastError) else (report.outcome if report is not None else None)
    # What the body itself raises reaches the caller after a rollback.
    certain = isinstance(error, NotCommitted) or outcome is Outcome.NOT_COMMITTED
    answer = Answer.FAIL if certain else Answer.INFO
    retry_after_s = error.retry_after_s if isinstance(error, LoadShed) else None
    value = None if retry_after_s is None else {RETRY_AFTER: round(retry_after_s, 3)}
    return Reply(answer, value, attempts=attempts, failure=failure, error=type(error).__name__)


def _settings(terms: Terms) -> DatabaseSettings:
    pool = PoolSettings(size=terms.connections, open_max=terms.connections)
    return DatabaseSettings(deadline=terms.deadline_s, pool=pool, limit=terms.limit)


class _AsyncOperation(Protocol):
    """What `AsyncDatabase.transaction` makes of a function, as far as a drill uses it."""

    def keyed(self, key: str, *, scope: str | None = None) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]: ...

    def __call__(self, v: dict[str, Any]) -> Awaitable[dict[str, Any]]: ...


class Protected(Subject):
    """`AsyncDatabase`, each operation under its key."""

    name = "holdfast"
    keyed = True
    has_limit = True
    side_connections = _SIDE_CONNECTIONS

    def __init__(self, url: str, workload: TableWorkload, terms: Terms) -> None:
        stream = EventStream()
        stream.subscribe(_note)
        self._workload = workload
        self._isolation = workload.isolation.get(terms.flavour)
        self._db = AsyncDatabase(url, _settings(terms), events=stream)
        self._operations: dict[str, _AsyncOperation] = {}

    @property
    def engine(self) -> Engine:
        """The synchronous engine inside the asynchronous one."""
        return self._db.engine.sync_engine

    async def perform(self, call: Call) -> Reply:
        """As `Subject.perform`."""
        trail = _Trail()
        token = _trail.set(trail)
        try:
            value = await self._run(call)
        except Exception as error:
            return reply_to(error, trail.attempts, trail.failure)
        finally:
            _trail.reset(token)
        return Reply(Answer.OK, value, max(1, trail.attempts), trail.failure)

    async def _run(self, call: Call) -> dict[str, Any]:
        if call.reads:
            return await self._db.read(self._read, call)
        operation = self._operation(call.f)
        if self.keyed:
            return await operation.keyed(call.key, scope=call.scope or None)(dict(call.v))
        return await operation(dict(call.v))

    async def _read(self, session: UnitAsyncSession, call: Call) -> dict[str, Any]:
        return await session.run_sync(self._workload.perform, call)

    def _operation(self, f: str) -> _AsyncOperation:
        if f not in self._operations:

            @self._db.transaction(name=f, isolation=self._isolation)
            async def operation(session: UnitAsyncSession, v: dict[str, Any]) -> dict[str, Any]:
                return await session.run_sync(self._workload.perform, Call(f, v, ""))

            self._operations[f] = operation
        return self._operations[f]

    async def close(self) -> None:
        """Close the database."""
        await self._db.close()


class ProtectedUnkeyed(Protected):
    """`AsyncDatabase` with no key of the caller's: Holdfast settles doubts by one of its own, or by asking the server."""

    name = "holdfast-unkeyed"
    keyed = False


class ProtectedThreads(Subject):
    """`Database` in threads, each operation under its key."""

    name = "holdfast-threads"
    keyed = True
    has_limit = True
    side_connections = _SIDE_CONNECTIONS

    def __init__(self, url: str, workload: TableWorkload, terms: Terms) -> None:
        stream = EventStream()
        stream.subscribe(_note)
        self._workload = workload
        self._isolation = workload.isolation.get(terms.flavour)
        self._db = Database(url, _settings(terms), events=stream)
        # More threads than connections, so that some wait for one, as they would in a service; with a limit more than have room
        # in its queue, or nobody could be turned away.
        threads = (2 if terms.limit == "off" else 4) * terms.connections
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="drill")

    @property
    def engine(self) -> Engine:
        """The engine."""
        return self._db.engine

    async def perform(self, call: Call) -> Reply:
        """As `Subject.perform`. A thread cannot be cancelled: the operation then ends unseen."""
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: context.run(self._perform, call))

    def _perform(self, call: Call) -> Reply:
        trail = _Trail()
        token = _trail.set(trail)
        try:
            value = self._run(call)
        except Exception as error:
            return reply_to(error, trail.attempts, trail.failure)
        finally:
            _trail.reset(token)
        return Reply(Answer.OK, value, max(1, trail.attempts), trail.failure)

    def _run(self, call: Call) -> dict[str, Any]:
        workload = self._workload
        if call.reads:
            return self._db.read(workload.perform, call)

        @self._db.transaction(name=call.f, isolation=self._isolation)
        def operation(session: Session, v: dict[str, Any]) -> dict[str, Any]:
            return workload.perform(session, Call(call.f, v, ""))

        return operation.keyed(call.key, scope=call.scope or None)(dict(call.v))

    async def close(self) -> None:
        """Wait for the threads and close the database."""
        await asyncio.to_thread(self._threads.shutdown)
        self._db.close()
