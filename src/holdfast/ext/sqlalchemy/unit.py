"""The port to SQLAlchemy: one operation's session, from checkout to COMMIT.

Written once, synchronously. `async_unit` runs the same code in a greenlet, the way SQLAlchemy's own asyncio layer does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from sqlalchemy import exc
from sqlalchemy.orm import exc as orm_exc

from ...dialects import classify
from ...effects import note_applied
from ...errors import BulkheadFull, HoldfastError, LoadShed, NoWriter, Rejected, UsageError
from ...events import ConnectionDiscarded, HookFailed
from ...operation import TOMBSTONE, replayed
from ...outcome import Failure, FailureClass, Stage
from ...transaction import Do, ProbeAnswer, Protection
from . import pushdown, sessions, status
from .current import AT_WORK, body_of
from .engines import READ_ONLY, PooledSession, session_of
from .failover import Attempt, TurnedAway
from .isolation import set_level
from .keyrows import of_block
from .origin import NO_CONNECTION_LEFT, doubts_connection, doubts_server, leaves_connection, with_server
from .permits import settle
from .sessions import UnitAsyncSession, UnitSession
from .swallowed import NoticesErrors

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import SessionTransaction
    from sqlalchemy.pool import PoolProxiedConnection

    from ...adaptive import Admission
    from ...breaker import Permit
    from ...operation import OperationKey, Record, ResultCodec
    from .given import Givings
    from .runtime import Runtime
    from .watchdog import Guard

__all__ = ["Hook", "Ran", "Unit"]

T = TypeVar("T")

Hook = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Ran(Generic[T]):
    """What one attempt's body left: its result, and the hooks to call once that very attempt is known to be committed."""

    result: T
    hooks: list[Hook]


_ATTEMPTS_PER_CALL = 1_000
"""Room for one call's attempts in the `attempt` column; far above what any policy allows."""


class _OneAttempt(NoticesErrors):
    """What a unit knows of the attempt that it makes, as it is when one begins.

    Most operations have one attempt, which starts from what stands here; the next ones do once what was set before is forgotten.
    """

    connection: Connection | None = None
    givings: Givings | None = None
    _transaction: SessionTransaction | None = None
    _pooled: PooledSession | None = None
    _commit_sent: bool = False
    _ends_by_rollback: bool = False
    _last_words: Callable[[PoolProxiedConnection], None] | None = None
    _refusal: UsageError | None = None
    _swallowed: BaseException | None = None
    _swallowed_failure: Failure | None = None
    _swallowed_inside: frozenset[str] = frozenset()
    _last_error: BaseException | None = None
    _transaction_id: str | None = None
    _permit: Permit | None = None
    _admission: Admission | None = None
    _watch: Guard | None = None
    _attempt: Attempt | None = None
    _last_class: FailureClass | None = None
    _server_in_doubt: bool = False
    late: BaseException | None = None
    _began_at: float = 0.0


class Unit(_OneAttempt, Generic[T]):
    """One operation's way to its database; an attempt at a time.

    Args:
        runtime: what the operation's `Database` shares among its operations.
        name: the operation's name.
        body: called with the attempt's session, once an attempt; None when an `AsyncUnit` calls it.
        expires_at: the deadline, monotonic seconds.
        protection: how a doubt is settled.
        given_s: how long the database itself lets the operation take; its caller may give it less.
        key, fingerprint, ttl_s, codec: the key row, where there is one, and how the result goes into it.
        isolation: an isolation level for this operation alone, or None for the database's default.
        read_only: the operation writes nothing: it ends with ROLLBACK, so nothing about it can be ambiguous.

    Attributes:
        isolation, read_only: as above.
        keys: of the operations that the body is inside of.
        outages: how many outages of the server had ended when the attempt, or the last question about it, began, or when the gate
            let the operation through.
        has_doubt: whether a COMMIT was sent whose fate is not known.
        outer: the unit of another database inside whose body this one's runs.
        holder: the task or thread that runs the body; None while no body runs.
        session, async_session, connection: the attempt's.
        givings: what saves inside the attempt's body have put into the caller's objects.
        hooks: what the attempt's body wants called after COMMIT.
        late: what a part of the attempt's body was cut with that had less time than the whole.
    """

    outages = 0
    has_doubt = False
    outer: Unit[Any] | None = None
    holder: object | None = None

    # Which attempt's session it is says whoever makes it.
    session: UnitSession | None = None
    async_session: UnitAsyncSession | None = None
    _begun = False

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        body: Callable[[UnitSession], T] | None,
        *,
        expires_at: float,
        protection: Protection,
        given_s: float = 0.0,
        key: OperationKey | None = None,
        fingerprint: str = "",
        ttl_s: int = 0,
        codec: ResultCodec | None = None,
        isolation: str | None = None,
        read_only: bool = False,
    ) -> None:
        self.runtime = runtime
        self.name = name
        self.expires_at = expires_at
        self._given_s = given_s
        self.hooks: list[Hook] = []
        self.isolation = isolation
        self._body = body
        self._protection = protection
        self._key = key
        self.keys: tuple[OperationKey, ...] = () if key is None else (key,)
        self._fingerprint = fingerprint
        self._ttl_s = ttl_s
        self._codec = codec
        self.read_only = read_only
        self._serial = next(runtime.serials) * _ATTEMPTS_PER_CALL if key is not None else 0
        # What was being handled when the operation began hangs behind every exception raised in it.
        self._handled = sys.exception()

    def forget_attempt(self) -> None:
        """Whoever waits for the next one holds nothing: what was its connection may be another operation's by now."""
        if self._begun:
            self.hooks = []
            for name in _OneAttempt.__annotations__:
                self.__dict__.pop(name, None)

    # -- Port --------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Pass the failover gate and the limit, take a connection, and open the transaction."""
        self.forget_attempt()
        runtime = self.runtime
        failover = runtime.failover
        if failover is not None and failover.gate.closed and not failover.gate.has_let_through(self.outages):
            failover.gate.enter(self.expires_at, urgent=self.has_doubt)
            self.check_time()
        while True:
            limit = None if self.has_doubt else runtime.limit
            admission = limit.acquire(expires_at=self.expires_at) if limit is not None else None
            try:
                self.begin_on(runtime.new_session(self.read_only), admission)
            except TurnedAway as turned:
                turned.gate.enter(self.expires_at, lost_at_outage=self.outages, turned_away=True, urgent=self.has_doubt)
                self.check_time()
            else:
                return

    def check_time(self) -> None:
        """After a wait at the gate.

        Raises:
            NoWriter: it took all the time there was.
        """
        if self._time_is_up():
            where = ", ".join(map(str, self.runtime.endpoint.address.hosts))
            raise NoWriter(
                f"no server took writes until the deadline; see that it runs, and that host and port are right: {where}"
            )

    def begin_on(self, session: UnitSession, admission: Admission | None) -> None:
        """As `begin`, past gate and limit, on a session made by the caller."""
        runtime = self.runtime
        failover = runtime.failover
        self.forget_attempt()
        self._begun = True
        self._admission = admission
        self._began_at = runtime.clock.monotonic()
        self.session = session
        session.hooks = self.hooks
        if failover is not None:
            self.outages = failover.gate.outages
        try:
            self._permit = runtime.breaker.acquire()
            token = AT_WORK.set(self)
            try:
                self.connection = connection = session.connection(execution_options=_READS if self.read_only else None)
            finally:
                AT_WORK.reset(token)
            self._transaction = session.get_transaction()
            runtime.units[connection] = self
            self._pooled = pooled = session_of(connection)
            self._watch = runtime.watch(pooled.driver_connection, self.expires_at)
            now = runtime.clock.monotonic()
            if failover is not None:
                self._attempt = Attempt(
                    pooled.host,
                    pooled.driver_connection,
                    self._watch,
                    began_at=now,
                    expires_at=self.expires_at,
                    settles=self._protection is not Protection.NONE,
                )
                failover.began(self._attempt)
            if self.isolation is not None:
                set_level(connection, self.isolation)  # PostgreSQL takes it before anything else alone
            pushdown.push_down(connection, pooled.limits, self.expires_at - now)
        except BaseException as error:
            if self.connection is None:
                # Nothing is held, so no clean-up follows; the permit must not wait for one.
                failure = self.classify(error, Do.BEGIN)
                self._settle_permits(
                    failure.failure_class,
                    refused=failure.code in NO_CONNECTION_LEFT,
                    starved=isinstance(error, (exc.TimeoutError, BulkheadFull)),
                )
                sessions.close(session)
            raise

    @property
    def in_cluster(self) -> bool:
        """Whether other nodes take writes as well; as in `Port`."""
        return self.runtime.endpoint.in_cluster

    def claim(self, attempt: int, *, settling: bool) -> Record | None:
        """Insert the key row."""
        assert self._key is not None
        serial = TOMBSTONE if settling else self._serial + attempt
        record = self.runtime.key_rows.claim(self.connected(), self._key, self._fingerprint, serial, self._ttl_s)
        if record is None or record.attempt == TOMBSTONE:
            return record
        own = record.attempt - self._serial
        return replace(record, attempt=own if 0 < own < _ATTEMPTS_PER_CALL else 0)

    def run(self) -> Ran[T]:
        """Run the body, then send what it left unsent."""
        assert self.session is not None
        assert self._body is not None
        with body_of(self):
            result = self._body(self.session)
        self.finish_body()
        return Ran(result, self.hooks)

    def finish_body(self) -> None:
        """Flush, and refuse to commit over an error that the body swallowed."""
        assert self.session is not None
        if self._refusal is not None:
            raise self._refusal
        if self.session.get_transaction() is not self._transaction:
            raise UsageError(
                f"{self.name} has rolled its own transaction back, so there is nothing to save; take what does so out "
                "of the transaction function (the rollback of get_transaction(), say)"
            )
        before = self._swallowed or (None if self.session.is_active else self._last_error)
        if before is not None:
            self._raise_swallowed(before)  # first: the session of a failed flush would only say that it failed
        self.session.flush()
        self._refuse_swallowed()

    def _refuse_swallowed(self) -> None:
        if self._swallowed is not None:
            self._raise_swallowed(self._swallowed)

    def refuse_commit(self) -> NoReturn:
        """The body would commit its own transaction."""
        self._refusal = UsageError(
            f"{self.name} would commit its own transaction; Holdfast does when the transaction function returns. Take what "
            "commits out of it"
        )
        raise self._refusal

    def works_on(self, driver_connection: object) -> bool:
        """Whether that is the connection on which the body runs now."""
        return (
            self.holder is not None and self._pooled is not None and self._pooled.driver_connection is driver_connection
        )

    def store(self, result: Ran[T]) -> None:
        """Put the result into the key row; None is what the row says anyway."""
        key, codec, key_rows = self._key, self._codec, self.runtime.key_rows
        assert key is not None
        assert codec is not None
        if result.result is None:
            status.refuse_aborted(self.connected())
            return
        encoded = codec.encode(result.result)
        if key_rows.writes_with_commit:
            self._last_words = lambda connection: key_rows.store_and_commit(connection, key, encoded)
        else:
            key_rows.store(self.connected(), key, encoded)

    def commit(self, *, claiming: int | None = None) -> None:
        """Send COMMIT; where nothing may be written, ROLLBACK, so that nothing was."""
        session = self.session
        assert session is not None
        assert self._pooled is not None
        if claiming is not None:
            assert self._key is not None
            claim = (self._key, self._fingerprint, self._serial + claiming, self._ttl_s)
            key_rows = self.runtime.key_rows
            self._last_words = lambda connection: key_rows.claim_and_commit(connection, *claim)
        if self.read_only:
            session.expunge_all()  # what was loaded stays readable; a rollback would expire it
            self.roll_back()
            return
        token = AT_WORK.set(self)
        try:
            sessions.end_by_commit(session)
        except BaseException as error:
            acknowledged = sessions.was_acknowledged(session)
            if acknowledged:
                note_applied()
            if not acknowledged or not isinstance(error, Exception):
                raise
            # A listener of the session raised after the server had answered: the save stands.
            self._hook_failed("after_commit", error)
        finally:
            AT_WORK.reset(token)
        note_applied()
        self._release(None)
        sessions.close(session)

    def roll_back(self) -> None:
        """Roll back and give the connection back."""
        session = self.session
        assert session is not None
        if self.givings is not None:
            self.givings.take_back()
        if self._pooled is not None:
            # SQLAlchemy sends no ROLLBACK after a failed COMMIT, and none where the body has interfered. Then the pool does.
            open_still = session.get_transaction() is self._transaction and self.connected().in_transaction()
            self._ends_by_rollback = open_still and not self._commit_sent
        token = AT_WORK.set(self)
        try:
            sessions.end_by_rollback(session)
        finally:
            AT_WORK.reset(token)
        self._release(self._last_class)
        sessions.close(session)

    def discard(self, *, kill: bool) -> None:
        """Close the connection; with `kill`, end its work on the server from another one."""
        if self.givings is not None:
            self.givings.take_back()
        self._release(self._last_class)
        if self.session is not None:
            sessions.invalidate(self.session)
        pooled = self._pooled
        killed = kill and pooled is not None and pooled.identity is not None
        if killed and pooled is not None:
            self.runtime.endpoint.killer_of(pooled.host).kill_soon(pooled.identity)
        if self.runtime.events.subscriptions:
            self.runtime.events.emit(ConnectionDiscarded(self.name, str(self._last_class or "rollback"), killed))

    def suspect(self) -> None:
        """Have the server looked for that the attempt was lost with, unless it was found again since."""
        failover = self.runtime.failover
        assert failover is not None
        if failover.gate.outages == self.outages:
            failover.gate.suspect(role_changed=self._last_class is FailureClass.ROLE_CHANGED)

    def await_server(self) -> bool:
        """Have the server looked for, and wait at the failover gate until it is there."""
        self.suspect()
        failover = self.runtime.failover
        assert failover is not None
        was_away = failover.gate.enter(self.expires_at, lost_at_outage=self.outages, urgent=self.has_doubt)
        self.outages = failover.gate.outages
        return was_away

    def probe(self) -> ProbeAnswer:
        """Ask the server what became of the transaction."""
        if self._transaction_id is None:
            return ProbeAnswer.COMMITTED  # it had written nothing, so there was nothing to lose
        if self.runtime.failover is not None:
            self.outages = self.runtime.failover.gate.outages  # what fails from here on is not that outage's doing
        with self.runtime.engine.connect() as connection:
            watch = self.runtime.watch(connection.connection.driver_connection, self.expires_at)
            try:
                fate = status.fate_of(connection, self._transaction_id)
            finally:
                if watch is not None:
                    watch.close()
        if fate is ProbeAnswer.COMMITTED:
            note_applied()
        return fate

    def stored_result(self, record: Record) -> Ran[T]:
        """The result in the key row; whoever wrote it has called its hooks."""
        note_applied()
        assert self._codec is not None
        return Ran(replayed(record, self._codec, self.name), [])

    def classify(self, error: BaseException, doing: Do) -> Failure:
        """What `error` means."""
        failure = with_server(self._classified(error, doing), error, self.runtime.endpoint)
        self._last_class = failure.failure_class
        self.has_doubt = self.has_doubt or failure.failure_class is FailureClass.AMBIGUOUS
        self._server_in_doubt = self.runtime.failover is not None and doubts_server(error, failure)
        return failure._replace(server_in_doubt=True) if self._server_in_doubt else failure

    def _classified(self, error: BaseException, doing: Do) -> Failure:
        stage = self._stage(doing)
        if isinstance(error, exc.PendingRollbackError):
            before = self._swallowed or self._last_error  # it only says that the session was used after that
            error = before if isinstance(before, Exception) else error
        if isinstance(error, Rejected) and doing in _OUTSIDE:
            # Refused so that no queue builds: the caller is told when to come again, and nothing here waits for it.
            is_full = isinstance(error, (LoadShed, NoWriter)) or (
                isinstance(error, BulkheadFull) and not self.has_doubt
            )
            failure_class, where = (FailureClass.PERMANENT, stage) if is_full else (FailureClass.UNSENT, Stage.CONNECT)
            return Failure(failure_class, where, name=type(error).__name__, retry_after_s=error.retry_after_s)
        if isinstance(error, orm_exc.StaleDataError):
            # A version column says that another transaction was faster; a rerun reads the new version.
            return Failure(FailureClass.CONTENTION, stage, name="StaleDataError")
        if error is self.late:
            return Failure(FailureClass.PERMANENT, stage, name=type(error).__name__, connection_usable=False)
        if doing is Do.RUN and self._is_callers_own(error):
            return Failure(FailureClass.PERMANENT, stage, name=type(error).__name__)
        failure = classify(error, stage=stage, flavour=self.runtime.flavour_or_none, handled=self._handled)
        if doing is Do.CLAIM and failure.failure_class is FailureClass.LOST and self._time_is_up():
            # We cut it ourselves, and an insert of a key that takes this long is waiting for the key's holder.
            return failure._replace(failure_class=FailureClass.CANCELLED)
        if doing is Do.COMMIT and self._last_words is not None:
            return of_block(failure, classify(error, stage=Stage.BODY, flavour=self.runtime.flavour_or_none))
        if self.read_only and failure.failure_class is FailureClass.AMBIGUOUS:
            return Failure(FailureClass.LOST, stage, failure.flavour, failure.code, failure.name, False)
        return failure

    def _is_callers_own(self, error: BaseException) -> bool:
        """Whether the body raised something that has nothing to do with this connection (its own HTTP call timed out)."""
        ruined = self._swallowed is not None and not leaves_connection(self._swallowed_failure)
        if ruined or isinstance(error, exc.SQLAlchemyError):
            return False
        if isinstance(error, TimeoutError) and self._time_is_up():
            return False  # the deadline's own cut, of a body that was not waiting for the database
        return isinstance(error, HoldfastError) or not doubts_connection(error, self._handled, self.runtime.endpoint)

    def _time_is_up(self) -> bool:
        return self.runtime.clock.monotonic() >= self.expires_at - _TICK_S

    def _stage(self, doing: Do) -> Stage:
        if doing is Do.COMMIT and self._commit_sent:
            return Stage.COMMIT
        if doing in _HOLDS_NOTHING or (doing is Do.BEGIN and self.connection is None):
            return Stage.CONNECT
        return Stage.BODY

    # -- told by the connection's events -----------------------------------------------------------------------------

    def send_commit(
        self, connection: PoolProxiedConnection, do_commit: Callable[[PoolProxiedConnection], None]
    ) -> None:
        """Hand COMMIT to the driver, with the key row or the result where they go in the same request."""
        # Here and not before: listeners of the session were called, and what they changed was flushed, since the body ended.
        self._refuse_swallowed()
        if self._protection is Protection.STATUS:
            self._transaction_id = status.transaction_of(self.connected())
        elif self._protection is Protection.NONE:
            status.refuse_aborted(self.connected())
        self._commit_sent = True
        if self._attempt is not None:
            self._attempt.committing_since = self.runtime.clock.monotonic()
        (self._last_words or do_commit)(connection)
        # The connection goes back to the pool inside `commit`, and without a ROLLBACK only because this was answered.
        assert self._pooled is not None
        self._pooled.is_clean = True

    def has_rolled_back(self) -> None:
        """The server has answered a ROLLBACK."""
        if self._ends_by_rollback and self._pooled is not None:
            self._pooled.is_clean = True

    # -- after the answer --------------------------------------------------------------------------------------------

    def hook_failed(self, hook: Callable[..., Any], error: BaseException) -> None:
        """An after-commit hook raised or, where `error` stops the caller, was cut or left out; the save stands."""
        self._hook_failed(getattr(hook, "__qualname__", type(hook).__name__), error)

    def _hook_failed(self, name: str, error: BaseException) -> None:
        self.runtime.log_hook_failure(self.name, name, error)
        if self.runtime.events.subscriptions:
            self.runtime.events.emit(HookFailed(self.name, name, type(error).__name__))

    def connected(self) -> Connection:
        """The attempt's connection, which has been taken."""
        assert self.connection is not None
        return self.connection

    def _release(self, failure_class: FailureClass | None) -> None:
        """Stop the watch, settle the permit, and tell the failover whether the server answered."""
        if self.connection is not None:
            self.runtime.units.pop(self.connection, None)
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._attempt is not None:
            failover = self.runtime.failover
            assert failover is not None
            attempt, self._attempt = self._attempt, None
            failover.ended(attempt)
            if failure_class is None or failure_class in _ANSWERED:
                failover.gate.answered(attempt.committing_since or attempt.began_at)
        self._settle_permits(failure_class)
        if failure_class is FailureClass.ROLE_CHANGED and self._pooled is not None:
            self.runtime.retire_pool(self._pooled)

    def _settle_permits(
        self, failure_class: FailureClass | None, *, refused: bool = False, starved: bool = False
    ) -> None:
        """Tell limit and breaker how the attempt went; `refused` and `starved` as in `permits`."""
        admission, self._admission = self._admission, None
        permit, self._permit = self._permit, None
        settle(
            admission,
            permit,
            failure_class,
            time_is_up=self._time_is_up(),
            had_time=self.runtime.clock.monotonic() - self._began_at >= self._given_s / 2 - _TICK_S,
            refused=refused,
            starved=starved,
            server_in_doubt=self._server_in_doubt,
        )


_READS = {READ_ONLY: True}

_TICK_S = 0.01  # a timer may go off that early

_HOLDS_NOTHING = frozenset({Do.AWAIT_SERVER, Do.PROBE})
_OUTSIDE = _HOLDS_NOTHING | {Do.BEGIN}
"""What is done with no transaction of the operation's own open."""

_ANSWERED = frozenset({FailureClass.CONTENTION, FailureClass.PERMANENT, FailureClass.EXHAUSTED})
"""Failures that only a server at work gives."""
