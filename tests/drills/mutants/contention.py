"""Mutants of what happens when transactions meet: lock waits, conflicts, and how fast the losers come back."""

from __future__ import annotations

import heapq
import threading
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from holdfast.backoff import Backoff
from holdfast.clock import Random, seeded_random
from holdfast.decision import CONTENTION, Allowance, RetryPolicy, Situation, decide
from holdfast.drills.checkers import bank_total, counter_bounds, liveness
from holdfast.drills.history import History, HistoryWriter
from holdfast.drills.workloads import Call
from holdfast.drills.workloads.bank import Bank
from holdfast.drills.workloads.counters import ReadModifyWrite
from holdfast.drills.workloads.workload import Identity
from holdfast.ext.sqlalchemy import Database, DatabaseSettings, PoolSettings, settings
from holdfast.ext.sqlalchemy.unit import Unit
from holdfast.outcome import Failure, FailureClass, Stage, Verdict
from holdfast.testing import ManualClock
from holdfast.transaction import Do

from .mutant import mutant
from .stage import Stage as Theatre
from .stage import asked, play

# -- a lock wait in the middle of a transfer ---------------------------------------------------------------------------


class _TwoSteps(Bank):
    """Transfers that take from one account before they look at the other: a lock wait meets them half done."""

    def next(self, random: Random, identity: Identity) -> Call:
        """Always from the first account to the second."""
        return Call("transfer", {"from": 0, "to": 1, "amount": 1, "id": identity.text}, identity.text)

    def perform(self, session: Session, call: Call) -> dict[str, Any]:
        """Take, give, note."""
        for account, change in ((call.v["from"], -call.v["amount"]), (call.v["to"], call.v["amount"])):
            session.execute(
                text("UPDATE holdfast_drill_account SET balance = balance + :change WHERE id = :account"),
                {"account": account, "change": change},
            )
        session.execute(
            text("INSERT INTO holdfast_drill_transfer (operation, source, target, amount) VALUES (:id, 0, 1, 1)"),
            {"id": call.v["id"]},
        )
        return {}


def lock_wait(stage: Theatre) -> History:
    """Somebody else holds the second account for longer than a statement waits for it (1205), and then lets go."""
    server, workload = stage.mariadb, _TwoSteps()
    told: list[History] = []
    one = DatabaseSettings(pool=PoolSettings(size=1, open_max=1), deadline=8)
    with (
        stage.recording(told) as writer,
        stage.tables(server.url("pymysql"), workload) as final,
        Database(server.url("pymysql"), one) as db,
    ):
        db.migrate()
        with db.engine.connect() as connection:
            # The server's limit counts whole seconds; the shortest makes the shortest scene.
            connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
        holder = server.connect()
        with holder.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("UPDATE holdfast_drill_account SET balance = balance WHERE id = 1")
        letting_go = threading.Timer(1.3, holder.rollback)
        letting_go.start()
        play(writer, workload, asked(db, workload), seed=stage.seed, workers=1, each=3, deadline_s=8)
        letting_go.join()
        holder.close()
        writer.final(workload.final_name, final())
    return told[0]


@mutant(bank_total, lock_wait)
def no_rollback_after_1205(patch: pytest.MonkeyPatch) -> None:
    """After a lock wait the unit is run again without ROLLBACK, although the server undid one statement alone."""
    roll_back = Unit.roll_back

    def skipped(self: Unit[Any]) -> None:
        dialect: Any = self.runtime.engine.dialect
        dialect.do_rollback = lambda _connection: None
        try:
            roll_back(self)
        finally:
            del dialect.do_rollback

    patch.setattr(Unit, "roll_back", skipped)


# -- one row that everybody reads, changes and writes ------------------------------------------------------------------


class _HotRow(ReadModifyWrite):
    """Everybody adds to the same row, and thinks for a moment between reading and writing."""

    def next(self, random: Random, identity: Identity) -> Call:
        """The one row."""
        return Call("rmw", {"row": "0", "id": identity.text}, identity.text)

    def perform(self, session: Session, call: Call) -> dict[str, Any]:
        """Read, think, add, write."""
        session.execute(text("SELECT n, SLEEP(0.002) FROM holdfast_drill_rmw WHERE id = 0"))
        return super().perform(session, call)


def hot_row(stage: Theatre) -> History:
    """Read-modify-write of one row by four workers, at the default isolation."""
    server, workload = stage.mariadb, _HotRow()
    told: list[History] = []
    # Short delays and many attempts: the scene is about conflicts, not about giving up.
    patient = RetryPolicy({FailureClass.CONTENTION: Allowance(200, Backoff(base=0.005, cap=0.05))})
    with (
        stage.recording(told) as writer,
        stage.tables(server.url("pymysql"), workload) as final,
        Database(server.url("pymysql"), DatabaseSettings(policy=patient)) as db,
    ):
        db.migrate()
        play(writer, workload, asked(db, workload), seed=stage.seed, each=20)
        writer.final(workload.final_name, final())
    return told[0]


@mutant(liveness, hot_row)
def conflict_1020_not_retryable(patch: pytest.MonkeyPatch) -> None:
    """1020, "Record has changed since last read", counts as a mistake of the statement instead of a lost race."""
    classified = Unit._classified

    def mistaken(self: Unit[Any], error: BaseException, doing: Do) -> Failure:
        failure = classified(self, error, doing)
        return failure._replace(failure_class=FailureClass.PERMANENT) if failure.code == 1020 else failure

    patch.setattr(Unit, "_classified", mistaken)


@mutant(counter_bounds, hot_row)
def read_modify_write_without_snapshot_isolation(patch: pytest.MonkeyPatch) -> None:
    """MariaDB's REPEATABLE READ as it comes, without `innodb_snapshot_isolation`: who writes last wins."""
    statement = settings.session_statement

    def as_it_comes(*args: Any, **kwargs: Any) -> str:
        return statement(*args, **{**kwargs, "detect_conflicts": False})

    patch.setattr("holdfast.ext.sqlalchemy.engines.session_statement", as_it_comes)


# -- the pace of the losers, in simulated time -------------------------------------------------------------------------

_CLIENTS = 10
_VOLLEYS = 5
_NETWORK_S = (0.008, 0.012)


def volleys(stage: Theatre) -> History:
    """Ten clients write one row at the same moment, five times; who read what has changed since tries again.

    The model is the simulator of the AWS Architecture Blog ("Exponential Backoff And Jitter"): optimistic concurrency, a network
    of 10 ms give or take 2. What decides and how long it waits is the real thing.
    """
    told: list[History] = []
    clock = ManualClock()
    with stage.recording(told) as recorder:
        writer = HistoryWriter(recorder.path.with_suffix(".volleys"), "clients", clock=clock)
        draw = seeded_random(stage.seed)
        for _ in range(_VOLLEYS):
            _volley(writer, clock, draw)
            clock.advance(10.0)
        writer.close()
    return History.load(writer.path)


def _volley(writer: HistoryWriter, clock: ManualClock, draw: Random) -> None:
    began_s = clock.monotonic()
    operations = [writer.invoke("write", process=f"c{client}") for client in range(_CLIENTS)]
    failures = [0] * _CLIENTS
    version = 0
    low, high = _NETWORK_S
    # (when, a tie-breaker, the client, the version it read or None if it is about to read)
    events: list[tuple[float, int, int, int | None]] = [
        (began_s + low + (high - low) * draw(), client, client, None) for client in range(_CLIENTS)
    ]
    heapq.heapify(events)
    while events:
        now_s, order, client, read = heapq.heappop(events)
        clock.advance(now_s - clock.monotonic())
        if read is None:
            heapq.heappush(events, (now_s + low + (high - low) * draw(), order, client, version))
        elif read == version:
            version += 1
            operations[client].ok(attempts=failures[client] + 1)
        else:
            failures[client] += 1
            failure = Failure(FailureClass.CONTENTION, Stage.COMMIT, code=1020)
            situation = Situation(failure, failures[client], now_s, draw())
            decision = decide(situation, RetryPolicy({FailureClass.CONTENTION: CONTENTION}))
            if decision.verdict is Verdict.RETRY:
                again_s = now_s + decision.delay_s + low + (high - low) * draw()
                heapq.heappush(events, (again_s, order + _CLIENTS, client, None))
            else:
                operations[client].fail(attempts=failures[client], code=1020, failure_class="contention")


@mutant(liveness, volleys)
def no_jitter(patch: pytest.MonkeyPatch) -> None:
    """Everybody waits exactly as long as everybody else, so they all meet again."""
    patch.setattr(Backoff, "delay_s", lambda self, failures, _draw, _retry_after_s=None: self.ceiling_s(failures))
