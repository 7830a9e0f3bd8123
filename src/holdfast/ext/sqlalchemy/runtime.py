"""What all operations of one `Database` share: engine, key rows, budget, breaker, watch, and the engine's events."""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sqlalchemy import event
from sqlalchemy.util import greenlet_spawn

from ...adaptive import AdaptiveLimit
from ...breaker import BreakerState, CircuitBreaker
from ...budget import RetryBudget, budget_on
from ...clock import Random, WaitingClock, new_token
from ...deadline import Deadline, seconds, within
from ...dialects import Flavour
from ...errors import ForeignTransaction, OutcomeUnknown, UsageError
from ...events import KeysPurged, PoolRetired
from ...forks import after_fork
from ...layer import retry_is_active
from ...operation import TOMBSTONE, OperationKey
from ...outcome import FailureClass, Outcome
from ...stream import EventStream
from ...traces import trace_of
from ...transaction import Plan, Protection
from . import inside
from .current import open_unit, opening_or_ending_unit, running_unit, unit_at_work_on
from .failover import failover_of
from .given import givings_of
from .holder import who_runs_here
from .keyrows import KeyRows
from .sessions import ReadAsyncSession, ReadSession, UnitAsyncSession, UnitSession
from .unit import Unit
from .watchdog import WATCHDOG

if TYPE_CHECKING:
    from asyncio import Future

    from sqlalchemy.engine import Connection, Dialect, Engine, ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

    from .address import Host
    from .database_settings import DatabaseSettings
    from .engines import Endpoint, PooledSession
    from .options import OperationOptions
    from .watchdog import Guard

__all__ = ["Runtime"]

R = TypeVar("R")

_log = logging.getLogger("holdfast")

_PURGE_EVERY_KEYS = 512
_PURGE_ROWS_MAX = 1_000


class _Foreign(NamedTuple):
    """A connection that somebody other than Holdfast took: the pool's record of it, its engine, and who."""

    record: weakref.ref[ConnectionPoolEntry]
    engine: weakref.ref[Engine]
    holder: weakref.ref[Any]

    @property
    def in_use(self) -> bool:
        """Whether it was not given back yet."""
        record = self.record()
        return record is not None and record.in_use


_foreign: ContextVar[tuple[_Foreign, ...]] = ContextVar("holdfast_foreign", default=())
"""The connections that were taken in this context and not given back in it."""


class Runtime:
    """The shared part of a database. Safe in threads and tasks.

    Attributes:
        units: whose each connection is, while an operation holds it.
        serials: a number for each call with a key row, that no other call of any process has under the same key.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        settings: DatabaseSettings,
        *,
        budget: RetryBudget | None,
        breaker: CircuitBreaker | None,
        events: EventStream,
        clock: WaitingClock,
        random: Random,
    ) -> None:
        self.endpoint = endpoint
        self.engine = engine = endpoint.engine
        self.settings = settings
        self.events = events
        self.clock = clock
        self.random = random
        self.budget = budget_on(clock, budget or RetryBudget(clock=clock))
        self.limit = _limit_of(settings, clock=clock, random=random, events=events)
        self._own_breaker = breaker
        self._breakers: dict[Host | None, CircuitBreaker] = {}
        self._deadline_s = settings.deadline_s
        self.key_ttl_s = int(seconds(settings.key_ttl))
        self._automatic_key_ttl_s = int(seconds(settings.automatic_key_ttl))
        self._name = engine.url.host or engine.url.drivername
        self.failover = failover_of(
            endpoint,
            settings.failover,
            name=self._name,
            found=self._on_found,
            clock=clock,
            random=random,
            events=events,
        )
        self._key_rows: KeyRows | None = None
        self._keys_used = self._first_count()
        self.serials = _serials()
        self._purging = threading.Lock()
        self._background: set[Future[None]] = set()
        self.units: dict[Connection, Unit[Any]] = {}
        _listen(engine, self.units)
        after_fork(self, Runtime._start_over)

    # -- the server --------------------------------------------------------------------------------------------------

    @property
    def flavour_or_none(self) -> Flavour | None:
        """The server's flavour, or None before the first connection."""
        return self.endpoint.flavour

    @property
    def flavour(self) -> Flavour:
        """The server's flavour; known once a connection was made."""
        flavour = self.flavour_or_none
        assert flavour is not None, "asked before the first connection"
        return flavour

    @property
    def key_rows(self) -> KeyRows:
        """The statements on the key table."""
        if self._key_rows is None:
            self._key_rows = KeyRows(self.engine.dialect, self.flavour)
        return self._key_rows

    def new_session(self, read_only: bool) -> UnitSession:
        """A session for one attempt; what it loaded stays readable after COMMIT."""
        return (ReadSession if read_only else UnitSession)(self.engine, expire_on_commit=False)

    def new_async_session(self, read_only: bool) -> UnitAsyncSession:
        """As `new_session`."""
        kind = ReadAsyncSession if read_only else UnitAsyncSession
        return kind(self.endpoint.async_engine, expire_on_commit=False)

    def watch(self, driver_connection: object, expires_at: float) -> Guard | None:
        """Cut what the connection does when `expires_at` comes; None where a task's cancellation does that."""
        if self.endpoint.async_engine is not None:
            return None
        return WATCHDOG.guard(driver_connection, expires_at)

    @property
    def breaker(self) -> CircuitBreaker:
        """The breaker of the server in use."""
        host = self.endpoint.host
        breaker = self._breakers.get(host)
        if breaker is None:
            several = len(self.endpoint.address.hosts) > 1
            made = self._own_breaker or CircuitBreaker(
                f"database {host}" if several else "database", clock=self.clock, events=self.events
            )
            breaker = self._breakers.setdefault(host, made)
        return breaker

    def retire_pool(self, session: PooledSession) -> None:
        """Replace every pooled connection before its next use, as the server of `session` has changed its role."""
        if self.endpoint.retire_after(session) and self.events.subscriptions:
            self.events.emit(PoolRetired(self._name, FailureClass.ROLE_CHANGED))

    def _on_found(self, _host: Host | None) -> None:
        # The search has the proof that the breaker would probe for.
        if self.breaker.state in {BreakerState.OPEN, BreakerState.HALF_OPEN}:
            self.breaker.reset()

    # -- operations --------------------------------------------------------------------------------------------------

    def within(self, options: OperationOptions) -> within:
        """The operation's deadline as a context: pool, server and everything the body calls see it."""
        return within(self._given_s(options), clock=self.clock)

    def deadline(self, options: OperationOptions) -> Deadline:
        """The operation's own deadline, from now on."""
        return Deadline.after(self._given_s(options), self.clock)

    def _given_s(self, options: OperationOptions) -> float:
        return self._deadline_s if options.deadline_s is None else options.deadline_s

    def prepare(
        self,
        options: OperationOptions,
        body: Callable[[UnitSession], R] | None,
        deadline: Deadline,
        *,
        key: OperationKey | None = None,
        fingerprint: str = "",
        rerunnable: bool = True,
    ) -> tuple[Plan, Unit[R]]:
        """The plan and the port of one operation."""
        settings = self.settings
        expires_at = self.clock.monotonic() + deadline.remaining_s()
        keyed = key is not None
        protection = self._protection(options, keyed=keyed)
        if protection is Protection.KEY:
            key = key or OperationKey("holdfast", new_token())
            self.count_key()
        plan = Plan(
            operation=options.name,
            expires_at=expires_at,
            protection=protection,
            keyed=keyed,
            claims_late=protection is Protection.KEY and not keyed and self._can_claim_late,
            fingerprint=fingerprint,
            policy=settings.policy,
            budget=self.budget,
            rerunnable=rerunnable,
            nested=retry_is_active(),
            scope=key.scope if key is not None else None,
            key=key.key if key is not None else None,
        )
        unit: Unit[R] = Unit(
            self,
            options.name,
            body,
            expires_at=expires_at,
            protection=protection,
            given_s=self._given_s(options),
            key=key,
            fingerprint=fingerprint,
            ttl_s=self.key_ttl_s if keyed else self._automatic_key_ttl_s,
            codec=options.codec,
            isolation=options.isolation,
            read_only=options.read_only,
        )
        return plan, unit

    @property
    def _can_claim_late(self) -> bool:
        # Before the first connection nobody knows what the server can do.
        return self.flavour_or_none is not None and self.key_rows.writes_with_commit

    def _protection(self, options: OperationOptions, *, keyed: bool) -> Protection:
        if keyed:
            return Protection.KEY
        protect = self.settings.protect if options.protect is None else options.protect
        if options.read_only or not protect:
            return Protection.NONE
        # PostgreSQL keeps the fate of every transaction: asking costs a round trip, a key row would cost a write.
        return Protection.STATUS if self.engine.dialect.name == "postgresql" else Protection.KEY

    def refuse_foreign_transaction(self, name: str) -> None:
        """An operation cannot start while its caller has a transaction of its own open on the same database.

        Raises:
            ForeignTransaction: the calling task or thread holds a connection that Holdfast did not take.
        """
        taken = _foreign.get()
        if not taken:
            return
        _foreign.set(left := tuple(one for one in taken if one.in_use))
        if any(one.engine() is self.engine and one.holder() is who_runs_here() for one in left):
            raise ForeignTransaction(
                f"{name} was called while the caller holds a connection of the same database that Holdfast did not open. "
                "Holdfast must own the whole unit from BEGIN to COMMIT to run it again: move the outer statements into the "
                "transaction function, or end the outer transaction first"
            )

    def refuse_inside(self, what: str) -> None:
        """What works in a transaction of its own would wait for the one that is open here.

        Raises:
            UsageError: a transaction of this database is running here.
        """
        if open_unit(self) is not None:
            raise UsageError(f"{what} works in a transaction of its own; call it outside of transaction functions")

    def question_about(self, unknown: OutcomeUnknown) -> Callable[[UnitSession], Outcome]:
        """A transaction body whose result, once that is committed, is what became of the operation.

        Raises:
            UsageError: it is another error, the operation had no key to ask by, or a transaction is open here.
        """
        self.refuse_inside("outcome_of()")
        if not isinstance(unknown, OutcomeUnknown):
            raise UsageError(
                f"outcome_of() takes an OutcomeUnknown, not {type(unknown).__name__}, whose `outcome` is known already"
            )
        if unknown.operation_scope is None or unknown.operation_key is None:
            raise UsageError(
                "this operation had no key, so what became of it cannot be found out any more; "
                "give operations that must be settled later a key: transfer.keyed(key)(...)"
            )
        key = OperationKey(unknown.operation_scope, unknown.operation_key)

        def ask(_session: UnitSession) -> Outcome:
            # The insert waits for the operation's transaction if that is still open, and whatever of it is still on its way
            # from another node of a cluster collides with the row that this leaves.
            found = inside.claim(running_unit(self, "outcome_of()"), key, "", TOMBSTONE)
            buried = found is None or found.attempt == TOMBSTONE
            return Outcome.NOT_COMMITTED if buried else Outcome.COMMITTED

        return ask

    # -- housekeeping ------------------------------------------------------------------------------------------------

    def _first_count(self) -> int:
        # Workers that live for fewer keys than it takes must purge as well, one in so many.
        return int(self.random() * _PURGE_EVERY_KEYS)

    def _start_over(self) -> None:
        """In a forked child: its parent's sockets are not touched, so what is in the pool is forgotten without being closed."""
        self.engine.dispose(close=False)
        self.endpoint.forget()
        self.serials = _serials()
        self._keys_used = self._first_count()
        self._purging = threading.Lock()
        self._background = set()
        if self.failover is not None:
            self.failover.forget()

    def count_key(self) -> None:
        """A key row is written, by an operation of its own or inside of one: it brings the next purge nearer."""
        self._keys_used += 1

    def purge_when_due(self) -> None:
        """Now and then, remove a batch of expired key rows in the background. To be called outside of transactions."""
        if self._keys_used >= _PURGE_EVERY_KEYS and self._purging.acquire(blocking=False):
            self._keys_used = 0
            self._purge_in_background()

    def purging(self, rows_max: int) -> Callable[[UnitSession], int]:
        """A transaction body that removes up to `rows_max` expired key rows; how many it were.

        Raises:
            UsageError: a transaction is open here.
        """
        self.refuse_inside("purge()")

        def purge(_session: UnitSession) -> int:
            return inside.purge(running_unit(self, "purge()"), rows_max)

        return purge

    def tell_purged(self, rows: int) -> None:
        """Say how many key rows were removed, if there were any."""
        if rows and self.events.subscriptions:
            self.events.emit(KeysPurged(self._name, rows))

    def _purge_in_background(self) -> None:
        if self.endpoint.async_engine is None:
            threading.Thread(target=self._purge_quietly, name="holdfast-purge", daemon=True).start()
            return
        import asyncio

        task = asyncio.ensure_future(greenlet_spawn(self._purge_quietly))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _purge_quietly(self) -> None:
        try:
            with self.engine.begin() as connection:
                rows = self.key_rows.purge(connection, _PURGE_ROWS_MAX)
            self.tell_purged(rows)
        except Exception as error:
            _log.warning("expired key rows could not be removed; the next batch tries again\n%s", trace_of(error))
        finally:
            self._purging.release()

    def log_hook_failure(self, operation: str, hook: str, error: BaseException) -> None:
        """An after-commit hook raised or was cut: say so where operators look."""
        _log.error("%s is committed, but its after-commit hook %s failed\n%s", operation, hook, trace_of(error))

    def close(self) -> None:
        """End the search for servers, and close the pool."""
        if self.failover is not None:
            self.failover.close()
        self.endpoint.close()

    async def close_async(self) -> None:
        """Let what runs in the background end, then close the pool."""
        import asyncio

        if self._background:
            await asyncio.wait(self._background)
        if self.failover is not None:
            await self.failover.aclose()
        await self.endpoint.aclose()


def _limit_of(
    settings: DatabaseSettings, *, clock: WaitingClock, random: Random, events: EventStream
) -> AdaptiveLimit | None:
    if settings.limit == "off":
        return None
    pool = settings.pool
    return AdaptiveLimit(
        "database",
        most=pool.open_max,
        mode=settings.limit,
        queue=pool.size,
        clock=clock,
        random=random,
        events=events,
    )


def _listen(engine: Engine, units: Mapping[Connection, Unit[Any]]) -> None:
    """Tell each unit what happens on its connection, and remember connections that somebody else took.

    SQLAlchemy's own `commit` and `rollback_savepoint` events would have every statement of the engine go through its event
    machinery, which costs more than all of Holdfast; so this engine's dialect is told to say it itself.
    """
    dialect = engine.dialect
    do_commit, do_rollback = dialect.do_commit, dialect.do_rollback

    def commit_if_open(dbapi_connection: PoolProxiedConnection) -> None:
        driver_connection: Any = dbapi_connection.driver_connection
        if driver_connection._connection is None:
            # SQLAlchemy would skip COMMIT on a closed connection of aiosqlite without a word: acknowledged, and not saved.
            raise dialect.loaded_dbapi.OperationalError("no active connection")
        do_commit(dbapi_connection)

    send = commit_if_open if dialect.driver == "aiosqlite" else do_commit

    def commit(dbapi_connection: PoolProxiedConnection) -> None:
        unit = opening_or_ending_unit()
        if unit is not None:
            unit.send_commit(dbapi_connection, send)
            return
        body = unit_at_work_on(dbapi_connection.driver_connection)
        if body is not None:
            body.refuse_commit()
        send(dbapi_connection)

    def rollback(dbapi_connection: PoolProxiedConnection) -> None:
        do_rollback(dbapi_connection)
        unit = opening_or_ending_unit()
        if unit is not None:
            unit.has_rolled_back()

    dialect.do_commit = commit  # type: ignore[method-assign]
    dialect.do_rollback = rollback  # type: ignore[method-assign]
    _listen_to_savepoints(dialect, units)
    _notice_strangers(engine)

    @event.listens_for(engine, "handle_error")
    def on_error(context: ExceptionContext) -> None:
        unit = units.get(context.connection) if context.connection is not None else None
        if unit is not None:
            unit.on_error(context)


def _listen_to_savepoints(dialect: Dialect, units: Mapping[Connection, Unit[Any]]) -> None:
    do_savepoint = dialect.do_savepoint
    do_rollback_to_savepoint = dialect.do_rollback_to_savepoint

    def savepoint(connection: Connection, name: str) -> None:
        do_savepoint(connection, name)
        unit = units.get(connection)
        if unit is not None:
            givings_of(unit).mark(name, len(unit.hooks))

    def rollback_to_savepoint(connection: Connection, name: str) -> None:
        do_rollback_to_savepoint(connection, name)
        unit = units.get(connection)
        if unit is not None:
            givings_of(unit).take_back_to(name, unit.hooks)
            unit.on_savepoint_rollback(name)

    dialect.do_savepoint = savepoint  # type: ignore[method-assign]
    dialect.do_rollback_to_savepoint = rollback_to_savepoint  # type: ignore[method-assign]


def _notice_strangers(engine: Engine) -> None:
    of = weakref.ref(engine)

    @event.listens_for(engine, "checkout")
    def on_checkout(_connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        if opening_or_ending_unit() is None:
            still = (one for one in _foreign.get() if one.in_use and one.record() is not record)
            _foreign.set((*still, _Foreign(weakref.ref(record), of, weakref.ref(who_runs_here()))))

    @event.listens_for(engine, "checkin")
    def on_checkin(_connection: object, record: ConnectionPoolEntry) -> None:
        taken = _foreign.get()
        if taken:
            _foreign.set(tuple(one for one in taken if one.record() is not record))


def _serials() -> Iterator[int]:
    # Only callers of one key at one time must differ, so neighbours of a random start do as well as draws, and cost none.
    return itertools.count(int(new_token()[:12], 16))
