"""Mutants of what happens when the answer to a COMMIT is lost, or nobody waits for an answer any more."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pymysql.connections
import pytest
import sqlalchemy.util
from sqlalchemy import text
from sqlalchemy.orm import Session, SessionTransaction

from holdfast.breaker import CircuitBreaker
from holdfast.clock import seeded_random
from holdfast.drills.checkers import crosstalk, fail_means_absent, no_double_apply, no_lost_ack
from holdfast.drills.history import History
from holdfast.drills.workloads.inserts import SetOfRows
from holdfast.errors import NotCommitted
from holdfast.ext.sqlalchemy import Database, DatabaseSettings, PoolSettings, UnitSession, sessions
from holdfast.ext.sqlalchemy.unit import Unit
from holdfast.faultproxy import FaultProxy, Kind, Phase, ResetPeer
from holdfast.operation import Record
from holdfast.outcome import Failure, FailureClass, Outcome
from holdfast.transaction import Action, Do, Engine

from .mutant import mutant
from .stage import Stage, asked, play, through

_SHARE = 0.15


def _cut_commits(stage: Stage, *, protect: bool) -> History:
    server, workload = stage.mariadb, SetOfRows()
    told: list[History] = []
    # A server that loses every third COMMIT would open the circuit, and the scene would wait.
    breaker = CircuitBreaker("mutant")
    breaker.observe()
    with (
        stage.recording(told) as writer,
        stage.tables(server.url("pymysql"), workload) as final,
        FaultProxy((server.host, server.port), "mysql", seed=stage.seed) as proxy,
        Database(through(proxy, server), DatabaseSettings(protect=protect), breaker=breaker) as db,
    ):
        db.migrate()
        for phase in (Phase.BEFORE, Phase.ANSWERED):
            proxy.add(ResetPeer(), phase, on=Kind.COMMIT, toxicity=_SHARE)
        play(writer, workload, asked(db, workload, keyed=protect), seed=stage.seed, each=10)
        proxy.heal()
        writer.final(workload.final_name, final())
    return told[0]


def cut_commits(stage: Stage) -> History:
    """Keyed inserts; of the COMMITs some never arrive, and of some the answer never does."""
    return _cut_commits(stage, protect=True)


def cut_commits_without_keys(stage: Stage) -> History:
    """The same without anything by which a doubt could be settled."""
    return _cut_commits(stage, protect=False)


@mutant(no_double_apply, cut_commits_without_keys)
def retry_on_2013_without_resolving(patch: pytest.MonkeyPatch) -> None:
    """A connection lost at COMMIT counts as lost before it, so the unit is simply run again."""
    classified = Unit._classified

    def mistaken(self: Unit[Any], error: BaseException, doing: Do) -> Failure:
        failure = classified(self, error, doing)
        ambiguous = failure.failure_class is FailureClass.AMBIGUOUS
        return failure._replace(failure_class=FailureClass.LOST) if ambiguous else failure

    patch.setattr(Unit, "_classified", mistaken)


@mutant(fail_means_absent, cut_commits)
def not_committed_on_2013(patch: pytest.MonkeyPatch) -> None:
    """A connection lost at COMMIT is reported as not committed, without finding out."""
    next_ = Engine._next

    def hasty(self: Engine, now: float, draw: float) -> Action:
        if self._doubt is None:
            return next_(self, now, draw)
        return self._raise(NotCommitted("the connection was lost"), Outcome.NOT_COMMITTED)

    patch.setattr(Engine, "_next", hasty)


@mutant(no_lost_ack, cut_commits)
def token_in_a_separate_transaction(patch: pytest.MonkeyPatch) -> None:
    """The key row is committed ahead of the work, so it is there although the work is not."""
    claim = Unit.claim

    def apart(self: Unit[Any], attempt: int, **more: Any) -> Record | None:
        found = claim(self, attempt, **more)
        if found is None:
            self.connected().connection.driver_connection.commit()  # type: ignore[union-attr]
        return found

    patch.setattr(Unit, "claim", apart)


@mutant(no_lost_ack, cut_commits)
def savepoint_taken_for_the_answer(patch: pytest.MonkeyPatch) -> None:
    """A savepoint in the body counts as the answer to the COMMIT after it, for SQLAlchemy announces both by one event."""
    begin = UnitSession.begin

    def mistaken(self: UnitSession, nested: bool = False) -> SessionTransaction:
        if nested:
            self.info[sessions._ACKNOWLEDGED] = True
        return begin(self, nested)

    patch.setattr(UnitSession, "begin", mistaken)


class _Interrupted(threading.local):
    now = False


_interrupted = _Interrupted()


def interrupted_echoes(stage: Stage) -> History:
    """Echoes, one in four interrupted while its answer is on its way, with a driver that trusts everybody.

    It leaves an interrupted connection as it is, as asyncmy did until 0.2.12, and takes whatever comes for the answer to a
    ROLLBACK. Today's drivers are more careful; nobody should have to rely on that.
    """
    told: list[History] = []
    draw = seeded_random(stage.seed)
    settings = DatabaseSettings(pool=PoolSettings(size=1, open_max=1))
    read_bytes: Any = vars(pymysql.connections.Connection)["_read_bytes"]

    def interruptible(self: Any, count: int) -> Any:
        if _interrupted.now:
            _interrupted.now = False
            raise asyncio.CancelledError
        return read_bytes(self, count)

    def echo(session: Session, nonce: int, interrupt: bool) -> int:
        _interrupted.now = interrupt
        return int(session.scalar(text("SELECT :nonce"), {"nonce": nonce}) or 0)

    with (
        stage.recording(told) as writer,
        pytest.MonkeyPatch.context() as patch,
        Database(stage.mariadb.url("pymysql"), settings) as db,
    ):
        patch.setattr(pymysql.connections.Connection, "_read_bytes", interruptible)
        patch.setattr(pymysql.connections.Connection, "_read_ok_packet", lambda self: self._read_query_result())
        for nonce in range(1, 61):
            operation = writer.invoke("echo", {"nonce": nonce})
            try:
                value = db.read(echo, nonce, draw() < 0.25)
            except asyncio.CancelledError:
                operation.info(error="CancelledError")
            except Exception as error:
                operation.fail(error=type(error).__name__)
            else:
                operation.ok({"nonce": value})
    return told[0]


@mutant(crosstalk, interrupted_echoes)
def connection_pooled_after_a_cancel(patch: pytest.MonkeyPatch) -> None:
    """A connection goes back to the pool in the middle of a statement, with the answer still to come."""

    def kept(self: Unit[Any], *, kill: bool) -> None:
        dialect: Any = self.runtime.engine.dialect
        dialect.do_rollback = lambda _connection: None
        try:
            self.roll_back()
        finally:
            del dialect.do_rollback

    patch.setattr(Unit, "discard", kept)
    # SQLAlchemy's own precaution: it invalidates a connection that a cancellation was raised on.
    patch.setattr(sqlalchemy.util, "is_exit_exception", lambda _error: False)
