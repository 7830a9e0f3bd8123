"""`Database`: saves that hold, for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, overload

from ...bounds import instance_of
from ...clock import SYSTEM_CLOCK, Random, WaitingClock, system_random
from ...errors import ConfigurationError
from ...outcome import Outcome
from ...stream import EVENTS, EventStream
from ...transaction import Shell
from .current import body_of, call_after_commit, open_unit, running_unit
from .database_settings import DatabaseSettings
from .engines import Endpoint, open_endpoint
from .health import database_checks, reading
from .joined_deadline import own_deadline
from .keyrows import with_operations
from .locks import by_id, lock_statement
from .migrate import MigrationReport, migrate
from .operations import Operation, call_hooks, check_joining
from .options import OperationOptions, options_for
from .runtime import Runtime
from .saving import Identities, IdentityCodec, Pair, Saving, give_back
from .unit import Ran

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
    from .sessions import UnitSession

__all__ = ["Database"]

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M")


class Database:
    """A database whose writes survive deadlocks, lost connections, failover and overload, each applied exactly once.

        db = Database("postgresql://app@db1/shop")

        @db.transaction
        def transfer(tx: Session, source: int, target: int, amount: Decimal) -> Receipt: ...

    Create one at start, share it between threads, close it at the end (`with Database(...) as db:` does both).

    Args:
        url: an SQLAlchemy URL, or an `Endpoint` made by `open_endpoint` (which keeps its own pool and session settings). A URL
            without a driver gets PyMySQL, psycopg or sqlite3.
        settings: everything else; see `DatabaseSettings` for names, units, defaults and bounds.
        budget: the share of extra load its retries may add; default: one of its own.
        breaker: opens when the server fails too often; default: one of its own.
        events: where its events go; default: the process-wide stream.
        clock, random: for tests.

    Raises:
        ConfigurationError: URL or settings cannot work; the text names the cure and never shows the password.
        MissingExtra: the driver is not installed.
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
            else open_endpoint(url, pool=self.settings.pool, session=self.settings.session, clock=clock)
        )
        if endpoint.async_engine is not None:
            raise ConfigurationError("Database needs open_endpoint(..., asynchronous=False), or use AsyncDatabase")
        self.engine = endpoint.engine
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
    def transaction(self, fn: Callable[Concatenate[UnitSession, P], R], /) -> Operation[P, R]: ...

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
    ) -> Callable[[Callable[Concatenate[UnitSession, P], R]], Operation[P, R]]: ...

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
        """Make a function one operation: from BEGIN to COMMIT, rerun as a whole, applied exactly once.

        The function gets a fresh session first, at every attempt; its other parameters are the caller's. It must not commit
        and should touch nothing but the database: what follows a save goes into `after_commit`.

        Args:
            fn: the function (when used without parentheses).
            name: its name in events and errors, and the scope of its keys; default: the function's qualified name, for its keys
                with the module in front. Two functions with one `name` are one operation.
            scope: another scope for its keys; 1 to 100 printable ASCII characters without spaces.
            deadline: seconds or `timedelta` for the whole operation; default: the database's. A deadline of the caller's
                (`within`) that ends earlier counts.
            isolation: `snapshot`, `serializable`, `read committed`, `repeatable read`; default: the database's.
            protect: find out an ambiguous commit although there is no key; default: the database's.
            codec: how the result is stored under a key; default: JSON after the return annotation.

        Raises:
            ConfigurationError: the function is a coroutine or generator function, or one of a class (a method that is not
                bound), or an option is out of bounds.
            UsageError: (on calling) it returned an awaitable or a generator; nothing was applied.
        """

        def decorate(function: Callable[..., Any]) -> Any:
            options = options_for(function, name=name, scope=scope, codec=codec)
            return self._operation(function, options.having(deadline=deadline, isolation=isolation, protect=protect))

        return decorate if fn is None else decorate(fn)

    def _operation(self, fn: Callable[Concatenate[UnitSession, P], R], options: OperationOptions) -> Operation[P, R]:
        return Operation(self._runtime, fn, self.settings.checked(options))

    def run(self, fn: Callable[Concatenate[UnitSession, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn(session, *args, **kwargs)` as one operation, as `transaction` describes."""
        return self._operation(fn, options_for(fn))(*args, **kwargs)

    def read(self, fn: Callable[Concatenate[UnitSession, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn(session, *args, **kwargs)` in a transaction that only reads, and again after any failure that passes.

        It ends with ROLLBACK, so nothing it did by hand-written SQL stays either.

        Raises:
            UsageError: the function changed an object, or called an operation that writes.
        """
        return self._operation(fn, options_for(fn, read_only=True))(*args, **kwargs)

    @contextmanager
    def begin(
        self,
        *,
        name: str = "block",
        deadline: float | timedelta | None = None,
        isolation: str | None = None,
        protect: bool | None = None,
    ) -> Iterator[UnitSession]:
        """One transaction as a block: `with db.begin() as tx:`.

        A block cannot run twice, so a failure inside it is raised and never retried. Everything else holds: deadline, the truth
        about an ambiguous commit, typed errors, after-commit hooks.

        Args:
            name, deadline, isolation, protect: as in `transaction`.
        """
        runtime = self._runtime
        options = self.settings.checked(
            OperationOptions(name).having(deadline=deadline, isolation=isolation, protect=protect)
        )
        outer = open_unit(runtime)
        if outer is not None:
            check_joining(outer, options)
            assert outer.session is not None
            with own_deadline(outer, options):
                yield outer.session
            return
        runtime.refuse_foreign_transaction(name)
        with runtime.within(options) as until:
            plan, unit = runtime.prepare(options, _nothing, until, rerunnable=False)
            shell: Shell[Ran[None]] = Shell(
                plan, unit, clock=runtime.clock, random=runtime.random, events=runtime.events
            )
            shell.enter()
            assert unit.session is not None
            failed: BaseException | None = None
            with body_of(unit):
                try:
                    yield unit.session
                except BaseException as error:  # the shell raises it after the rollback
                    failed = error
            ran = shell.leave(failed)
        call_hooks(unit, ran.hooks, shell)
        runtime.purge_when_due()

    def outcome_of(self, unknown: OutcomeUnknown) -> Outcome:
        """What became of an operation that ended in `OutcomeUnknown`; it is not run again.

        Waits for the operation's transaction if that is still open, at most until the deadline.

        Returns:
            `Outcome.COMMITTED`, or `Outcome.NOT_COMMITTED`: then it never will be.

        Raises:
            UsageError: it had no key (`protect=False`, or an unkeyed operation on PostgreSQL).
            NotCommitted, OutcomeUnknown: the question itself failed (the server is away); ask again.
        """
        ask = self._runtime.question_about(unknown)
        return self._operation(ask, OperationOptions("outcome_of", protect=False))()

    # -- saves -------------------------------------------------------------------------------------------------------

    def save(
        self,
        obj: M,
        *,
        key: str | None = None,
        deadline: float | timedelta | None = None,
        after_commit: Callable[[M], object] | None = None,
    ) -> M:
        """Insert or update one object, exactly once.

        Validates, makes its keys, writes it in a transaction of its own (or the one that is open), and calls the after-commit
        hooks. The object gets its generated values; it is not attached to any session.

        Args:
            obj: an instance of a mapped class, not in a session. Without a primary key (or with one that is not stored yet) it
                is inserted, otherwise updated; of one that was read or saved before only what was changed since is written.
                Its `validate()` method is called first, if it has one.
            key: the request's key: the same key again returns the object saved before.
            deadline: seconds or `timedelta`; default: the database's.
            after_commit: called once with the saved object when the save is known to be committed, as the method
                `after_commit` describes; not called for a replay.

        Returns:
            The saved object, with everything that was loaded; detached.

        Raises:
            InvalidData, Conflict, ForeignKeyViolation, ...: the data breaks a rule, or the object's version is stale; nothing was
                applied.
            NotCommitted, OutcomeUnknown: as for any operation.
        """
        return self.save_all([obj], key=key, deadline=deadline, after_commit=after_commit)[0]

    def save_all(
        self,
        objs: Sequence[M],
        *,
        key: str | None = None,
        deadline: float | timedelta | None = None,
        after_commit: Callable[[M], object] | None = None,
    ) -> list[M]:
        """`save` for several objects: all of them, or none; `after_commit` is called with each."""
        saving = Saving(objs)
        saving.check()

        def write(session: UnitSession, _: list[Any]) -> list[Pair]:
            pairs = saving.write(session)
            if after_commit is not None:
                for copy in saving.results(pairs):
                    self.after_commit(after_commit, copy)
            return pairs

        options = OperationOptions(saving.name, codec=IdentityCodec())
        options = options.having(deadline=deadline)
        operation = self._operation(write, options)
        until, outer = self._runtime.deadline(options), open_unit(self._runtime)
        pairs: list[Pair] | Identities = operation([]) if key is None else operation.keyed(key)(saving.described())
        if isinstance(pairs, Identities):
            load = OperationOptions(saving.name, deadline_s=until.remaining_s(), read_only=True)
            with saving.loading(outer):
                pairs = Operation(self._runtime, saving.load, load)(pairs)
            pairs = saving.replayed(pairs)
        give_back(pairs, outer)
        return saving.results(pairs)

    # -- inside a transaction ----------------------------------------------------------------------------------------

    def lock(self, model: type[M], ids: Iterable[Any]) -> dict[Any, M]:
        """Lock rows until the end of the running transaction, in the order of their primary keys.

        Args:
            model: a mapped class.
            ids: primary keys (tuples where the key has several columns).

        Returns:
            The fresh objects by primary key; ids without a row are left out. SQLite has no row locks: its writers exclude each
            other from BEGIN.

        Raises:
            UsageError: no transaction of this database is running here.
        """
        session = running_unit(self._runtime, "lock()").session
        assert session is not None
        return by_id(session.scalars(lock_statement(model, ids)).unique())

    def after_commit(self, hook: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call `hook(*args, **kwargs)` once the running transaction is known to be committed.

        Called once, after COMMIT was acknowledged or found out, in the order given; never after a rollback or a replay. A hook
        that raises is logged and reported (`HookFailed`); the save stands. If the process dies between COMMIT and the hook, the
        hook is lost.

        Raises:
            UsageError: no transaction of this database is running here, or there is nothing to call. A generator function is
                refused, too, and a coroutine function, which only `AsyncDatabase` can await.
        """
        call_after_commit(self._runtime, hook, args, kwargs)

    # -- the database ------------------------------------------------------------------------------------------------

    def migrate(
        self, metadata: MetaData | None = None, *, dry_run: bool = False, lock_wait: float | timedelta = 60.0
    ) -> MigrationReport:
        """Create missing tables, columns and indexes of `metadata`, and Holdfast's own table; never drop or narrow.

        Safe when several processes start at once. The database's default deadline does not hold for it: a change of a large table
        takes its time. Arguments and errors are those of `migrate.migrate`.

        Raises:
            UsageError: a transaction is running here.
        """
        self._runtime.refuse_inside("migrate()")
        return migrate(self.engine, with_operations(metadata), dry_run=dry_run, lock_wait=lock_wait)

    def purge(self, rows_max: int = 1_000) -> int:
        """Remove up to `rows_max` expired key rows; how many it were. Happens by itself now and then as well.

        Raises:
            UsageError: a transaction is running here.
            NotCommitted, OutcomeUnknown: as for any operation; ask again.
        """
        purge = self._operation(self._runtime.purging(rows_max), OperationOptions("purge", protect=False))
        rows = purge()
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
        """What to ask this database for its health: `Health(db.health_checks())`.

        Two checks. One reads: degraded while the failover gate is closed, every connection is in use or the server is overloaded;
        failed when there is no answer. The other, `<name>-pool`, is degraded when the connections in use become many.

        Args:
            name: of the checks; give each database its own.
            timeout: seconds (or `timedelta`) for the read; default 0.5 s, above 0.
            fail_open: once the database was there, its loss only degrades; default True, because every replica loses it at the
                same moment. See `HealthCheck`.
            pool_high: the share of the pool's `open_max` from which on it counts as degraded; default 0.9.

        Raises:
            ConfigurationError: a value outside its bounds.
        """
        return database_checks(
            self._runtime,
            lambda timeout_s: reading(self._runtime, self.read, timeout_s),
            name=name,
            timeout=timeout,
            fail_open=fail_open,
            pool_high=pool_high,
        )

    def close(self) -> None:
        """Close the pool and end the search for servers. Operations that still run keep their connections; call it when none do.

        It is no lock: as after SQLAlchemy's `Engine.dispose()`, whatever is used afterwards connects anew. But nobody looks for
        a server that is lost then, and those connections stay open until the next `close`.
        """
        self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Database {self.engine.url.render_as_string(hide_password=True)}>"


def _nothing(session: UnitSession) -> None:
    """The body of a block stands in the caller's code."""
