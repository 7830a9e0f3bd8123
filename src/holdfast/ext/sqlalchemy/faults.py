"""Faults on purpose: see what your service does when its database does not do its part.

    with inject(engine, SeededFaults(seed=7, share=0.18)) as faults:
        ...                                     # the work, as always
    assert faults.hits[Fault.LOST_AFTER_COMMIT] > 0

Works below whatever handles errors: Holdfast, another retry library, nothing. A lost connection is really lost: it is cut, and
the error is the driver's own. A conflict is signalled by the server itself, where there is one. So the code above sees what it
would see in earnest.

Not for production: the wrapped engine fails until `Injection.close`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, MutableMapping, Sequence
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from ...clock import SYSTEM_CLOCK, Clock, seeded_random
from ...deadline import seconds
from ...errors import ConfigurationError
from .interrupt import cut

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

__all__ = ["Fault", "FaultPlan", "Injection", "SeededFaults", "inject"]


class Fault(StrEnum):
    """What can happen to one attempt, which is one transaction."""

    CONTENTION = "contention"
    """It fails at its beginning as the loser of a conflict with another transaction (deadlock; SQLite: locked)."""
    LOST_BEFORE_COMMIT = "lost_before_commit"
    """The connection is lost when COMMIT is due: the server rolls back. To the client it looks like the next one."""
    LOST_AFTER_COMMIT = "lost_after_commit"
    """COMMIT is applied, and the connection is lost before the answer arrives."""
    SLOW = "slow"
    """It takes longer to begin; no lock is held meanwhile."""


FaultPlan = Callable[[], Fault | None]
"""Called once per transaction, as it begins, in its task or thread: what shall happen to it, or None."""


class SeededFaults:
    """A plan that hits a share of all transactions, the same ones for the same seed. Safe in threads and tasks.

    Args:
        seed: of the generator.
        share: how many are hit, from 0 to 1.
        kinds: what they are hit by, in equal parts; default: every kind.

    Raises:
        ConfigurationError: the share is not between 0 and 1, or there is no kind.
    """

    __slots__ = ("_draw", "_kinds", "_share")

    def __init__(self, seed: int, share: float, kinds: Sequence[Fault] = tuple(Fault)) -> None:
        if not 0 <= share <= 1:
            raise ConfigurationError(f"share must be between 0 and 1, not {share}")
        if not kinds:
            raise ConfigurationError("kinds must name at least one fault")
        self._draw = seeded_random(seed)
        self._share = share
        self._kinds = tuple(kinds)

    def __call__(self) -> Fault | None:
        """The fate of the next transaction."""
        draw = self._draw()
        return self._kinds[int(draw / self._share * len(self._kinds))] if draw < self._share else None


def inject(
    engine: Engine | AsyncEngine, plan: FaultPlan, *, slow: float | timedelta = 0.25, clock: Clock = SYSTEM_CLOCK
) -> Injection:
    """Let `plan` decide what happens to every transaction on `engine`, until the injection is closed.

    Args:
        engine: which one; others, to the same server as well, stay untouched. Not one to SQLite in memory, whose data would be
            lost with its connection.
        plan: what happens to each transaction.
        slow: how much longer a slow transaction takes; seconds or `timedelta`.
        clock: sleeps meanwhile.

    Returns:
        The injection, to be closed or used as a block.

    Raises:
        ConfigurationError: the engine's database is in memory, or one of the two is something else.
    """
    if not isinstance(engine, (Engine, AsyncEngine)):
        raise ConfigurationError(f"inject() takes an engine, not a {type(engine).__name__}: inject(db.engine, plan)")
    if not callable(plan):
        raise ConfigurationError(
            f"plan is asked for the fate of each transaction, so it must be a function, not a {type(plan).__name__}: "
            "SeededFaults(seed=7, share=0.18), or lambda: Fault.SLOW"
        )
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if sync_engine.dialect.name == "sqlite" and sync_engine.url.database in (None, "", ":memory:"):
        raise ConfigurationError("faults would end a SQLite database in memory; use a file")
    return Injection(sync_engine, plan, seconds(slow, name="slow"), clock)


class Injection:
    """Faults on one engine; made by `inject`.

    Attributes:
        hits: how often each fault has happened.
    """

    def __init__(self, engine: Engine, plan: FaultPlan, slow_s: float, clock: Clock) -> None:
        self.hits: Counter[Fault] = Counter()
        self._engine = engine
        self._plan = plan
        self._slow_s = slow_s
        self._clock = clock
        self._closed = False
        # One dialect object belongs to one engine, so wrapping its methods reaches no other.
        dialect = engine.dialect
        self._wrapped: dict[str, Any] = {name: getattr(dialect, name) for name in _METHODS}
        self._own = {name: vars(dialect)[name] for name in _METHODS if name in vars(dialect)}
        event.listen(engine, "checkout", self._checked_out)
        dialect.do_begin = self._begin  # type: ignore[method-assign, assignment]
        dialect.do_rollback = self._roll_back  # type: ignore[method-assign, assignment]
        dialect.do_execute = self._execute  # type: ignore[method-assign]
        dialect.do_commit = self._commit  # type: ignore[method-assign, assignment]

    def close(self) -> None:
        """Let the engine work undisturbed again. Harmless twice."""
        if self._closed:
            return
        self._closed = True
        event.remove(self._engine, "checkout", self._checked_out)
        dialect = self._engine.dialect
        for name in _METHODS:
            delattr(dialect, name)
        for name, method in self._own.items():
            setattr(dialect, name, method)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _checked_out(self, _connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        record.info[_FATE] = _UNDRAWN

    def _begin(self, connection: PoolProxiedConnection) -> None:
        self._before_work(connection)
        self._wrapped["do_begin"](connection)

    def _execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        # Only for SQLite's BEGIN IMMEDIATE, which an event sends ahead of `do_begin` and which takes the lock.
        if context is not None:
            self._before_work(context.root_connection.connection)
        self._wrapped["do_execute"](cursor, statement, parameters, context)

    def _before_work(self, connection: PoolProxiedConnection) -> None:
        info = _info_of(connection)
        if info.get(_FATE) is not _UNDRAWN:
            return
        fate = info[_FATE] = self._plan()
        if fate is Fault.SLOW:
            self.hits[fate] += 1
            self._sleep()
        elif fate is Fault.CONTENTION:
            self.hits[fate] += 1
            signal = _CONFLICTS.get(self._engine.dialect.name)
            if signal is None:
                raise _locked()
            connection.cursor().execute(signal)

    def _commit(self, connection: PoolProxiedConnection) -> None:
        do_commit = self._wrapped["do_commit"]
        info = _info_of(connection)
        fate = info.get(_FATE)
        info[_FATE] = _UNDRAWN
        if fate is Fault.LOST_BEFORE_COMMIT:
            self.hits[fate] += 1
            self._lose(connection)
            do_commit(connection)
            _touch(connection)
        elif fate is Fault.LOST_AFTER_COMMIT:
            self.hits[fate] += 1
            do_commit(connection)
            self._lose(connection)
            _touch(connection)
        else:
            do_commit(connection)

    def _roll_back(self, connection: PoolProxiedConnection) -> None:
        _info_of(connection)[_FATE] = _UNDRAWN
        self._wrapped["do_rollback"](connection)

    def _sleep(self) -> None:
        if self._engine.dialect.is_async:
            await_only(self._clock.sleep_async(self._slow_s))
        else:
            self._clock.sleep(self._slow_s)

    def _lose(self, connection: PoolProxiedConnection) -> None:
        driver_connection: Any = connection.driver_connection
        if self._engine.dialect.name != "sqlite":
            cut(driver_connection)
        elif self._engine.dialect.is_async:
            await_only(driver_connection.close())
        else:
            driver_connection.close()


_FATE = "holdfast_fate"
_UNDRAWN = object()
_METHODS = ("do_begin", "do_rollback", "do_commit", "do_execute")

_CONFLICTS = {
    "mysql": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found when trying to get lock'",
    "mariadb": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found when trying to get lock'",
    "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END $$",
}


def _locked() -> sqlite3.OperationalError:
    """SQLite has no server to signal anything; this is what its module raises for a lock that somebody else holds."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    error.sqlite_errorname = "SQLITE_BUSY"
    return error


def _info_of(connection: PoolProxiedConnection) -> MutableMapping[Any, Any]:
    try:
        return connection.info
    except NotImplementedError:
        return {}  # an engine's very first connection, at which SQLAlchemy looks around before it is in the pool


def _touch(connection: PoolProxiedConnection) -> None:
    """Have the driver find out that the connection is gone.

    COMMIT need not: psycopg sends none outside a transaction, and SQLAlchemy skips it on a closed connection of aiosqlite.
    """
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    raise ConfigurationError(f"a connection of {type(connection.driver_connection).__module__} cannot be cut")
