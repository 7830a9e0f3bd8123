"""The client's side: a pool, and everything that a port does, as moves.

A move is a generator that yields where it waits (`Wait`); `ports` plays it, in a thread or in a task.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, TypeVar

from holdfast.errors import NoWriter
from holdfast.operation import TOMBSTONE, OperationKey, Record
from holdfast.outcome import Failure, FailureClass, Rejection, Stage
from holdfast.transaction import Do, ProbeAnswer

from .faults import Delivery, Fault, Schedule, Symptom
from .server import Connection, Row, Server, State, Transaction
from .virtual_time import VirtualClock

__all__ = ["FOREVER", "BodyFailed", "Client", "ConnectionLost", "Crash", "Moves", "Pool", "Progress"]

T = TypeVar("T")

LATENCY_S = 0.001
"""A round trip."""
LOCK_WAIT_S = 2.0
"""How long a statement waits for a lock (and never beyond the deadline)."""
GHOST_S = 3.0
"""How long the server goes on with a transaction whose client is gone: more than one lock wait, less than two."""
DAWDLE_S = 8.0
"""How long a body can be busy with something else."""
LATE_S = 2.5
"""How long a late COMMIT takes."""
AWAY_S = 1.5
"""How long a server stays away that went."""
TOO_LATE_S = 25.0
"""How long a COMMIT takes that comes too late: longer than two deadlines."""


class Wait(NamedTuple):
    """Where a move waits: for `seconds`, for an answer that never comes (infinity), or, `cancelled`, until it is stopped."""

    seconds: float
    cancelled: bool = False


FOREVER = Wait(float("inf"))
_UNTIL_CANCELLED = Wait(0.0, cancelled=True)

Moves = Generator[Wait, None, T]


class DriverError(Exception):
    """An error the server answered with."""

    def __init__(self, symptom: Symptom) -> None:
        super().__init__(symptom.value)
        self.symptom = symptom


class ConnectionLost(Exception):
    """The connection broke, or no answer came in time."""


class Refused(Exception):
    """There is no connection to be had."""


class BodyFailed(Exception):
    """What a body raises for reasons of its own."""


class Crash(BaseException):
    """The client's process is gone. Only the simulation sees this."""


@dataclass(slots=True)
class Pool:
    """One process's connections.

    Attributes:
        checked_out: connections in somebody's hands.
        dirty: connections that were given back although another caller cannot use them.
    """

    idle: list[Connection] = field(default_factory=list)
    checked_out: int = 0
    dirty: int = 0

    def take(self) -> Connection:
        """A pooled connection, or a new one."""
        self.checked_out += 1
        return self.idle.pop() if self.idle else Connection()

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next caller."""
        self.checked_out -= 1
        self.dirty += not connection.clean
        self.idle.append(connection)

    def drop(self) -> None:
        """Count out a connection that was closed."""
        self.checked_out -= 1


@dataclass(slots=True)
class Progress:
    """What all the processes of one case have done so far, and which faults are still to come.

    Attributes:
        calls: (step, which time) of every move made, in order.
        hit: the faults that were met.
        receipts: how many bodies ran to their end.
    """

    schedule: Schedule
    calls: list[tuple[str, int]] = field(default_factory=list)
    hit: list[Fault] = field(default_factory=list)
    receipts: int = 0
    _counts: dict[str, int] = field(default_factory=dict)

    def next(self, step: str) -> Fault | None:
        """Count one more `step`; the fault it meets."""
        which = self._counts.get(step, 0) + 1
        self._counts[step] = which
        self.calls.append((step, which))
        fault = self.schedule.at(step, which)
        if fault is not None:
            self.hit.append(fault)
        return fault


_ERRORS: dict[Symptom, tuple[FailureClass, Rejection | None]] = {
    Symptom.DEADLOCK: (FailureClass.CONTENTION, None),
    Symptom.LOCK_WAIT: (FailureClass.CONTENTION, None),
    Symptom.REJECTED: (FailureClass.PERMANENT, Rejection.CHECK),
    Symptom.OVERLOADED: (FailureClass.OVERLOAD, None),
    Symptom.UNSURE: (FailureClass.AMBIGUOUS, None),
}

_SERVER_MAY_BE_GONE = frozenset({FailureClass.UNSENT, FailureClass.LOST, FailureClass.AMBIGUOUS})

_STAGES = {Do.BEGIN: Stage.BEGIN, Do.COMMIT: Stage.COMMIT}


class Client:
    """One call's way to the server: the moves of a port, and a record of what it met.

    Attributes:
        bodies: how often the engine asked to run the body.
        failures: (number of bodies asked for before it, what was being done, its class) of each failed move.
        commits: the transactions that COMMIT was sent for.
        transactions: the ones it began.
        dawdled: its body was busy with something else for long.
        asleep_holding: it slept with a connection checked out.
        interrupts: how often it was cancelled.
        crashed: its process is gone.
        excused: the failures (their places) that an outage explained.
    """

    def __init__(
        self,
        call: str,
        server: Server,
        pool: Pool,
        clock: VirtualClock,
        progress: Progress,
        *,
        expires_at: float,
        key: OperationKey | None,
        fingerprint: str,
        block: bool = False,
        outages: bool = False,
    ) -> None:
        self.call = call
        self.bodies = 0
        self.failures: list[tuple[int, Do, FailureClass]] = []
        self.commits: list[Transaction] = []
        self.asleep_holding = False
        self.interrupts = 0
        self.dawdled = False
        self.transactions: list[Transaction] = []
        self.crashed = False
        self.clock = clock
        self.expires_at = expires_at
        self._server = server
        self._pool = pool
        self._progress = progress
        self._key = key
        self._fingerprint = fingerprint
        self._block = block
        self._outages = outages
        self.excused: set[int] = set()
        self._connection: Connection | None = None
        self._transaction: Transaction | None = None

    # -- the moves -----------------------------------------------------------------------------------------------------

    def begin(self) -> Moves[None]:
        fault = self._arrive("begin")
        self._transaction = None
        if fault is not None:
            if fault.symptom is Symptom.REFUSED:
                raise Refused
            if fault.symptom is Symptom.REJECTED:
                raise DriverError(Symptom.REJECTED)
            if fault.symptom in (Symptom.CANCELLED, Symptom.SILENT) and fault.delivery is Delivery.NEVER:
                yield from self._wait_in_vain(fault.symptom)
        connection = self._connection = self._pool.take()
        if connection.broken:
            raise ConnectionLost
        if fault is None:
            self._open(connection)
        else:
            yield from self._go_wrong(fault, connection, lambda: self._open(connection))

    def _open(self, connection: Connection) -> None:
        self._transaction = self._server.begin(connection, self.call)
        self.transactions.append(self._transaction)

    def claim(self, attempt: int, *, settling: bool) -> Moves[Record | None]:
        assert self._key is not None
        row = Row(self._key.key, self._fingerprint, self.call, TOMBSTONE if settling else attempt)
        yield from self._send("claim", row.key, lambda connection: self._insert(connection, row))
        found = self._server.rows.get(row.key)
        if found is None or (found.attempt == TOMBSTONE and not settling):
            return None
        if found.attempt == TOMBSTONE:
            return Record(found.fingerprint, TOMBSTONE, None)
        return Record(found.fingerprint, found.attempt if found.call == self.call else 0, found.result)

    def run(self) -> Moves[str]:
        self.bodies += 1
        if not self._block:
            return (yield from self.body())
        transaction = self._transaction
        return (transaction.receipt if transaction is not None else None) or ""

    def body(self) -> Moves[str]:
        """The transfer itself."""
        self._progress.receipts += 1
        receipt = f"receipt {self._progress.receipts}"
        yield from self._send("debit", "debit", lambda connection: self._server.write(connection, self.call, "debit"))
        yield from self._send(
            "credit", "credit", lambda connection: self._server.write(connection, self.call, "credit")
        )
        if self._transaction is not None:
            self._transaction.receipt = receipt
        return receipt

    def store(self, result: str) -> Moves[None]:
        yield from self._send("store", None, lambda connection: self._store(connection, result))

    def commit(self, *, claiming: int | None = None) -> Moves[None]:
        fault = self._arrive("commit")
        connection = self._connection
        assert connection is not None
        if claiming is not None and self._transaction is not None:
            assert self._key is not None
            self._transaction.late_row = Row(self._key.key, self._fingerprint, self.call, claiming)
        yield from self._send_commit(fault, connection)
        self._connection = None
        self._pool.give_back(connection)

    def _send_commit(self, fault: Fault | None, connection: Connection) -> Moves[None]:
        transaction = self._transaction
        if transaction is not None:
            transaction.commits_sent += 1
            self.commits.append(transaction)
        if connection.broken:
            raise ConnectionLost
        if fault is None:
            self._server.commit(connection)
            if (
                transaction is not None
                and transaction.late_row is not None
                and transaction.state is not State.COMMITTED
            ):
                raise DriverError(Symptom.UNSURE)  # a row was there: with a key that nobody else has, it may be our own
            return
        yield from self._go_wrong(fault, connection, lambda: self._server.commit(connection), commit=True)

    def roll_back(self) -> Moves[None]:
        fault = self._arrive("rollback")
        connection = self._connection
        assert connection is not None
        if connection.broken:
            raise ConnectionLost
        if fault is None:
            self._server.roll_back(connection)
        else:
            yield from self._go_wrong(fault, connection, lambda: self._server.roll_back(connection))
        self._connection = None
        self._pool.give_back(connection)

    def discard(self, *, kill: bool) -> Moves[None]:
        fault = None if self.crashed else self._progress.next("discard")
        connection, self._connection = self._connection, None
        if connection is not None:
            transaction = self._transaction
            self._pool.drop()
            if kill and transaction is not None and not self.crashed:
                self._server.kill(transaction)
            if connection.transaction is not None and not connection.transaction.orphaned:
                self._server.roll_back(connection)
        if fault is not None:
            if fault.symptom is Symptom.CRASHED:
                self._crash()
            yield from self._wait_in_vain(Symptom.CANCELLED)

    def sleep(self, seconds: float) -> Moves[None]:
        if self.crashed:
            self.clock.advance(seconds)
            raise Crash
        self.asleep_holding |= self._connection is not None
        fault = self._progress.next("sleep")
        if fault is None:
            yield Wait(seconds)
        elif fault.symptom is Symptom.CRASHED:
            self._crash()
        else:
            yield from self._wait_in_vain(Symptom.CANCELLED)

    def await_server(self) -> Moves[bool]:
        """The server was away, unless the schedule says that it was there."""
        fault = self._arrive("await")
        symptom = fault.symptom if fault is not None else None
        if symptom is None:
            self.excused.add(len(self.failures) - 1)
        if symptom is Symptom.REFUSED:
            raise NoWriter("too many wait already")
        if symptom is Symptom.CRASHED:
            self._crash()
        if symptom is Symptom.CANCELLED:
            yield from self._wait_in_vain(symptom)
        left_s = max(0.0, self.expires_at - self.clock.now)
        if symptom is Symptom.THERE:
            return False
        yield Wait(left_s if symptom is Symptom.GONE else min(AWAY_S, left_s))
        return symptom is None and left_s > AWAY_S

    def probe(self) -> Moves[ProbeAnswer]:
        fault = self._arrive("probe")
        if fault is not None:
            if fault.symptom is Symptom.FORGOTTEN:
                return ProbeAnswer.UNKNOWN
            if fault.symptom is Symptom.REJECTED:
                raise DriverError(Symptom.REJECTED)
            if fault.symptom is Symptom.REFUSED:
                raise Refused
            if fault.symptom is Symptom.LOST:
                raise ConnectionLost
            if fault.symptom is Symptom.CRASHED:
                self._crash()
            yield from self._wait_in_vain(fault.symptom)
        asked = self.commits[-1]
        return {
            State.OPEN: ProbeAnswer.IN_PROGRESS,
            State.COMMITTED: ProbeAnswer.COMMITTED,
            State.ROLLED_BACK: ProbeAnswer.ABORTED,
        }[asked.state]

    # -- how they go ---------------------------------------------------------------------------------------------------

    def _arrive(self, step: str) -> Fault | None:
        if self.crashed:
            raise Crash
        fault = self._progress.next(step)
        self.clock.advance(LATENCY_S)
        self._server.settle()
        return fault

    def _send(self, step: str, lock: str | None, apply: Any) -> Moves[None]:
        """One statement: wait for its lock, then apply it."""
        fault = self._arrive(step)
        connection = self._connection
        assert connection is not None
        if connection.broken:
            raise ConnectionLost
        if fault is not None:
            yield from self._go_wrong(fault, connection, lambda: apply(connection), lock=lock)
            return
        if lock is not None and self._server.blocked(connection.transaction, lock):
            yield from self._wait_for(connection, lock)
        apply(connection)

    def _wait_for(self, connection: Connection, lock: str) -> Moves[None]:
        gives_up_at = self.clock.now + LOCK_WAIT_S
        connection.unread = True
        while self._server.blocked(connection.transaction, lock):
            left_s = gives_up_at - self.clock.now
            if left_s <= 0:
                connection.unread = False
                raise DriverError(Symptom.LOCK_WAIT)
            yield Wait(min(left_s, self._server.next_change_s()))
            self._server.settle()
        connection.unread = False

    def _go_wrong(
        self, fault: Fault, connection: Connection, apply: Any, *, lock: str | None = None, commit: bool = False
    ) -> Moves[None]:
        """What the server does with the request, then what the client sees."""
        symptom, delivery = fault.symptom, fault.delivery
        server = self._server
        if symptom in (Symptom.DEADLOCK, Symptom.LOCK_WAIT, Symptom.REJECTED, Symptom.OVERLOADED):
            if commit or symptom is Symptom.DEADLOCK:
                server.roll_back(connection)
            raise DriverError(symptom)
        if symptom is Symptom.RAISED:
            raise BodyFailed
        if symptom is Symptom.DAWDLED:
            self.dawdled = True
            self.clock.advance(DAWDLE_S)
            apply()
            return
        if symptom is Symptom.EXITED:
            self.interrupts += 1
            raise SystemExit(3)

        delivered = delivery is Delivery.DONE or (delivery is Delivery.GHOST and not commit)
        if delivered and not (lock is not None and server.blocked(connection.transaction, lock)):
            apply()
        transaction = self._transaction
        if transaction is not None and transaction.state is State.OPEN:
            if delivery in (Delivery.LATE, Delivery.TOO_LATE):
                late_s = LATE_S if delivery is Delivery.LATE else TOO_LATE_S
                # A COMMIT under way cannot be killed: seen on MySQL while it waits for a replica's answer.
                server.orphan(transaction, State.COMMITTED, late_s, killable=False)
                connection.transaction = None
            elif delivery is Delivery.GHOST or symptom in (Symptom.CRASHED, Symptom.SILENT):
                # After a loss kill is refused (the user may lack the right); after silence it works, and is needed.
                ghost_s = TOO_LATE_S if symptom is Symptom.SILENT else GHOST_S
                server.orphan(transaction, State.ROLLED_BACK, ghost_s, killable=symptom is not Symptom.LOST)
                connection.transaction = None
            elif symptom is Symptom.LOST or symptom is Symptom.UNSURE:
                server.roll_back(connection)

        if symptom is Symptom.UNSURE:
            raise DriverError(symptom)
        if symptom is Symptom.LOST:
            connection.broken = True
            raise ConnectionLost
        connection.unread = True
        if symptom is Symptom.CRASHED:
            self._crash()
        yield from self._wait_in_vain(symptom)

    def _wait_in_vain(self, symptom: Symptom) -> Generator[Wait, None, NoReturn]:
        if symptom is Symptom.SILENT:
            yield FOREVER
        self.interrupts += 1
        try:
            yield _UNTIL_CANCELLED
        except BaseException as error:
            if symptom is not Symptom.MASKED:
                raise
            if isinstance(error, KeyboardInterrupt):
                self.interrupts -= 1  # nobody can know of it any more
            raise ConnectionLost from error
        raise AssertionError("whoever waits in vain is stopped")

    def _crash(self) -> NoReturn:
        connection = self._connection
        if connection is not None and connection.transaction is not None and not connection.transaction.orphaned:
            self._server.orphan(connection.transaction, State.ROLLED_BACK, GHOST_S, killable=True)
            connection.transaction = None
        self.crashed = True
        raise Crash

    def _insert(self, connection: Connection, row: Row) -> None:
        found = self._server.rows.get(row.key)
        if found is None or (found.attempt == TOMBSTONE and row.attempt != TOMBSTONE):
            self._server.insert(connection, row)

    def _store(self, connection: Connection, result: str) -> None:
        transaction = connection.transaction
        if transaction is not None and transaction.row is not None:
            row = transaction.row
            transaction.row = Row(row.key, row.fingerprint, row.call, row.attempt, result)

    def classify(self, error: BaseException, doing: Do) -> Failure:
        failure = self._classified(error, doing)
        if self._outages and failure.failure_class in _SERVER_MAY_BE_GONE and doing is not Do.AWAIT_SERVER:
            failure = failure._replace(server_in_doubt=True)
        if doing not in (Do.ROLL_BACK, Do.DISCARD, Do.SLEEP):
            self.failures.append((self.bodies, doing, failure.failure_class))
        return failure

    def _classified(self, error: BaseException, doing: Do) -> Failure:
        stage = _STAGES.get(doing, Stage.BODY)
        if doing in (Do.BEGIN, Do.AWAIT_SERVER) and self._connection is None:
            stage = Stage.CONNECT
        if isinstance(error, DriverError):
            failure_class, rejection = _ERRORS[error.symptom]
            return Failure(failure_class, stage, "fake", error.symptom.value, rejection=rejection)
        if isinstance(error, Refused):
            return Failure(FailureClass.UNSENT, stage, "fake", "refused")
        if doing is Do.COMMIT:
            return Failure(FailureClass.AMBIGUOUS, stage, "fake", type(error).__name__, connection_usable=False)
        if isinstance(error, ConnectionLost):
            return Failure(FailureClass.LOST, stage, "fake", "lost", connection_usable=False)
        if isinstance(error, TimeoutError) or not isinstance(error, Exception):
            return Failure(FailureClass.CANCELLED, stage, name=type(error).__name__, connection_usable=False)
        return Failure(FailureClass.PERMANENT, stage, name=type(error).__name__)

    def stored_result(self, record: Record) -> str:
        return record.result or ""
