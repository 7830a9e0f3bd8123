"""`AsyncDatabase`: saves that hold, for asyncio. `Database`, awaited; its docstrings hold here as well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, overload

from sqlalchemy.util import greenlet_spawn

from ...bounds import instance_of
from ...clock import SYSTEM_CLOCK, Random, WaitingClock, system_random
from ...errors import ConfigurationError
from ...outcome import Outcome
from ...stream import EVENTS, EventStream
from ...transaction import AsyncShell
from .async_unit import AsyncUnit
from .current import body_of, call_after_commit, open_unit, running_unit
from .database_settings import DatabaseSettings
from .engines import Endpoint, open_endpoint
from .health import database_checks, reading_async
from .joined_deadline import own_deadline_async
from .keyrows import with_operations
from .locks import by_id, lock_statement
from .migrate import MigrationReport, migrate
from .operations import AsyncOperation, call_hooks_async, check_joining
from .options import OperationOptions, options_for
from .runtime import Runtime
from .saving import Identities, IdentityCodec, Pair, Saving, give_back
from .unit import Ran, Unit

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType

    from sqlalchemy import MetaData
    from sqlalchemy.engine import URL

    from ...breaker import CircuitBreaker
    from ...budget import RetryBudget
    from ...errors import OutcomeUnknown
    from ...health import HealthCheck
    from ...operation import ResultCodec
    from .sessions import UnitAsyncSession

__all__ = ["AsyncDatabase"]

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M")


class AsyncDatabase:
    """`Database` for asyncio: create it at start, share it between the tasks of one event loop, close it at the end.

        db = AsyncDatabase("mysql+asyncmy://app@db1/shop")

        @db.transaction
        async def transfer(tx: AsyncSession, source: int, target: int, amount: Decimal) -> Receipt: ...

    A URL without a driver gets asyncmy, psycopg or aiosqlite. Arguments and errors are those of `Database`.
    """

    def __init__(
        self,
        url: str | URL | Sequence[str | URL] | Endpoint,
        settings: DatabaseSettings | None = None,
        *,
        budget: RetryBudget | None = None,
        breaker: CircuitBreaker | None = None,
        events: EventStream = EVENTS,
        clock: WaitingClock = SYSTEM_CLOCK,
        random: Random = system_random,
    ) -> None:
        instance_of(settings, DatabaseSettings, "settings", optional=True)
        self.settings = settings or DatabaseSettings()
        endpoint = (
            url
            if isinstance(url, Endpoint)
            else open_endpoint(
                url, asynchronous=True, pool=self.settings.pool, session=self.settings.session, clock=clock
            )
        )
        if endpoint.async_engine is None:
            raise ConfigurationError("AsyncDatabase needs open_endpoint(..., asynchronous=True), or use Database")
        self.engine = endpoint.async_engine
        self._runtime = Runtime(
            endpoint,
            self.settings,
            budget=budget,
            breaker=breaker,
            events=events,
            clock=clock,
            random=random,
        )

    # -- transactions ------------------------------------------------------------------------------------------------

    @overload
    def transaction(self, fn: Callable[Concatenate[UnitAsyncSession, P], Awaitable[R]], /) -> AsyncOperation[P, R]: ...

    @overload
    def transaction(
        self,
        *,
        name: str | None = None,
        scope: str | None = None,
        deadline: float | timedelta | None = None,
        isolation: str | None = None,
        protect: bool | None = None,
        codec: ResultCodec | None = None,
    ) -> Callable[[Callable[Concatenate[UnitAsyncSession, P], Awaitable[R]]], AsyncOperation[P, R]]: ...

    def transaction(  # type: ignore[misc]  # mypy cannot match a ParamSpec against the implementation
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        scope: str | None = None,
        deadline: float | timedelta | None = None,
        isolation: str | None = None,
        protect: bool | None = None,
        codec: ResultCodec | None = None,
    ) -> Any:
        """As `Database.transaction`, for coroutine functions."""

        def decorate(function: Callable[..., Any]) -> Any:
            options = options_for(function, name=name, scope=scope, codec=codec)
            return self._operation(function, options.having(deadline=deadline, isolation=isolation, protect=protect))

        return decorate if fn is None else decorate(fn)

    def _operation(
        self, fn: Callable[Concatenate[UnitAsyncSession, P], Awaitable[R]], options: OperationOptions
    ) -> AsyncOperation[P, R]:
        return AsyncOperation(self._runtime, fn, self.settings.checked(options))

    async def run(
        self, fn: Callable[Concatenate[UnitAsyncSession, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """As `Database.run`."""
        return await self._operation(fn, options_for(fn))(*args, **kwargs)

    async def read(
        self, fn: Callable[Concatenate[UnitAsyncSession, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """As `Database.read`."""
        return await self._operation(fn, options_for(fn, read_only=True))(*args, **kwargs)

    @asynccontextmanager
    async def begin(
        self,
        *,
        name: str = "block",
        deadline: float | timedelta | None = None,
        isolation: str | None = None,
        protect: bool | None = None,
    ) -> AsyncIterator[UnitAsyncSession]:
        """As `Database.begin`: `async with db.begin() as tx:`.

        The deadline does not cut the block itself; every statement in it is cut. Use `async with within(...)` around it for
        both. A block inside another operation, with an earlier deadline than that, is cut itself.
        """
        runtime = self._runtime
        options = self.settings.checked(
            OperationOptions(name).having(deadline=deadline, isolation=isolation, protect=protect)
        )
        outer = open_unit(runtime)
        if outer is not None:
            check_joining(outer, options)
            assert outer.async_session is not None
            async with own_deadline_async(outer, options):
                yield outer.async_session
            return
        runtime.refuse_foreign_transaction(name)
        with runtime.within(options) as until:
            unit: Unit[None]
            plan, unit = runtime.prepare(options, None, until, rerunnable=False)
            port = AsyncUnit(unit, _nothing)
            shell: AsyncShell[Ran[None]] = AsyncShell(
                plan, port, clock=runtime.clock, random=runtime.random, events=runtime.events
            )
            await shell.enter()
            assert port.session is not None
            failed: BaseException | None = None
            with body_of(unit):
                try:
                    yield port.session
                except BaseException as error:  # the shell raises it after the rollback
                    failed = error
            ran = await shell.leave(failed)
        await call_hooks_async(unit, ran.hooks, shell)
        runtime.purge_when_due()

    async def outcome_of(self, unknown: OutcomeUnknown) -> Outcome:
        """As `Database.outcome_of`."""
        ask = self._runtime.question_about(unknown)

        async def body(session: UnitAsyncSession) -> Outcome:
            return await session.run_sync(ask)  # type: ignore[arg-type]  # a UnitSession, by `sync_session_class`

        return await self._operation(body, OperationOptions("outcome_of", protect=False))()

    # -- saves -------------------------------------------------------------------------------------------------------

    async def save(
        self,
        obj: M,
        *,
        key: str | None = None,
        deadline: float | timedelta | None = None,
        after_commit: Callable[[M], object] | None = None,
    ) -> M:
        """As `Database.save`; the hook may be a coroutine function."""
        return (await self.save_all([obj], key=key, deadline=deadline, after_commit=after_commit))[0]

    async def save_all(
        self,
        objs: Sequence[M],
        *,
        key: str | None = None,
        deadline: float | timedelta | None = None,
        after_commit: Callable[[M], object] | None = None,
    ) -> list[M]:
        """As `Database.save_all`."""
        saving = Saving(objs)
        await saving.check_async()

        async def write(session: UnitAsyncSession, _: list[Any]) -> list[Pair]:
            pairs = await session.run_sync(saving.write)
            if after_commit is not None:
                for copy in saving.results(pairs):
                    self.after_commit(after_commit, copy)
            return pairs

        options = OperationOptions(saving.name, codec=IdentityCodec())
        options = options.having(deadline=deadline)
        operation = self._operation(write, options)
        until, outer = self._runtime.deadline(options), open_unit(self._runtime)
        pairs: list[Pair] | Identities = await (
            operation([]) if key is None else operation.keyed(key)(saving.described())
        )
        if isinstance(pairs, Identities):

            async def loaded(session: UnitAsyncSession, saved: Identities) -> list[Pair]:
                return await session.run_sync(saving.load, saved)

            load = OperationOptions(saving.name, deadline_s=until.remaining_s(), read_only=True)
            with saving.loading(outer):
                pairs = await AsyncOperation(self._runtime, loaded, load)(pairs)
            pairs = saving.replayed(pairs)
        give_back(pairs, outer)
        return saving.results(pairs)

    # -- inside a transaction ----------------------------------------------------------------------------------------

    async def lock(self, model: type[M], ids: Iterable[Any]) -> dict[Any, M]:
        """As `Database.lock`."""
        session = running_unit(self._runtime, "lock()").async_session
        assert session is not None
        return by_id((await session.scalars(lock_statement(model, ids))).unique())

    def after_commit(self, hook: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """As `Database.after_commit`; a hook may be a coroutine function."""
        call_after_commit(self._runtime, hook, args, kwargs)

    # -- the database ------------------------------------------------------------------------------------------------

    async def migrate(
        self, metadata: MetaData | None = None, *, dry_run: bool = False, lock_wait: float | timedelta = 60.0
    ) -> MigrationReport:
        """As `Database.migrate`."""
        self._runtime.refuse_inside("migrate()")
        engine = self.engine.sync_engine
        return await greenlet_spawn(
            lambda: migrate(engine, with_operations(metadata), dry_run=dry_run, lock_wait=lock_wait)
        )

    async def purge(self, rows_max: int = 1_000) -> int:
        """As `Database.purge`."""
        purge = self._runtime.purging(rows_max)

        async def body(session: UnitAsyncSession) -> int:
            return await session.run_sync(purge)  # type: ignore[arg-type]  # a UnitSession, by `sync_session_class`

        rows = await self._operation(body, OperationOptions("purge", protect=False))()
        self._runtime.tell_purged(rows)
        return rows

    def health_checks(
        self,
        *,
        name: str = "database",
        timeout: float | timedelta = 0.5,
        fail_open: bool = True,
        pool_high: float = 0.9,
    ) -> tuple[HealthCheck, ...]:
        """As `Database.health_checks`."""
        return database_checks(
            self._runtime,
            lambda timeout_s: reading_async(self._runtime, self.read, timeout_s),
            name=name,
            timeout=timeout,
            fail_open=fail_open,
            pool_high=pool_high,
        )

    async def close(self) -> None:
        """As `Database.close`; waits for what runs in the background."""
        await self._runtime.close_async()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncDatabase {self.engine.url.render_as_string(hide_password=True)}>"


async def _nothing(session: UnitAsyncSession) -> None:
    """The body of a block stands in the caller's code."""
