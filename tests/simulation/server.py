"""A database server in memory, as far as a save can feel it.

It keeps a log of what was committed, lets a lock block whoever comes second, and goes on for a while with a transaction whose
client is gone. Like MySQL it answers a COMMIT without a transaction with OK, commits an open transaction when a new one
begins, and runs a statement outside a transaction on its own: the mistakes that this forgives are the ones that lose money.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from enum import Enum

from .virtual_time import VirtualClock

__all__ = ["Connection", "Row", "Server", "State", "Transaction"]


class State(Enum):
    """What has become of a transaction."""

    OPEN = "open"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True)
class Row:
    """A key row."""

    key: str
    fingerprint: str
    call: str
    attempt: int
    result: str | None = None


@dataclass(slots=True, eq=False)
class Transaction:
    """A transaction, open or ended.

    Attributes:
        call: the call that began it.
        halves: the halves of the transfer it has written.
        row: the key row it has inserted.
        late_row: the key row that is inserted when its COMMIT arrives.
        receipt: the result of the body that ran in it.
        commits_sent: how often its client sent COMMIT.
        orphaned: its client is gone; the server does not know yet.
        killable: a KILL from a side connection ends it.
    """

    call: str
    state: State = State.OPEN
    halves: list[str] = field(default_factory=list)
    row: Row | None = None
    late_row: Row | None = None
    receipt: str | None = None
    commits_sent: int = 0
    orphaned: bool = False
    killable: bool = True
    locks: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Connection:
    """A client's connection.

    Attributes:
        transaction: the one open on it, on the server's side.
        broken: the client has seen it break.
        unread: an answer may be under way that nobody has read: the protocol is out of step.
    """

    transaction: Transaction | None = None
    broken: bool = False
    unread: bool = False

    @property
    def clean(self) -> bool:
        """Whether another caller can use it."""
        return not (self.broken or self.unread or self.transaction is not None)


class Server:
    """The server. Whoever looks at it calls `settle` first.

    Attributes:
        log: the transactions that were committed, in order.
        rows: the committed key rows.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.log: list[Transaction] = []
        self.rows: dict[str, Row] = {}
        self._clock = clock
        self._locks: dict[str, Transaction] = {}
        self._fates: list[tuple[float, int, Transaction, State]] = []
        self._fates_made = 0
        self._queue: list[Transaction] = []

    def settle(self) -> None:
        """Do what is due by now: orphaned transactions end."""
        while self._fates and self._fates[0][0] <= self._clock.now:
            _, _, transaction, state = heapq.heappop(self._fates)
            if transaction.state is State.OPEN:
                self._end(transaction, state)

    def next_change_s(self) -> float:
        """Seconds until something here changes by itself."""
        return self._fates[0][0] - self._clock.now if self._fates else float("inf")

    def begin(self, connection: Connection, call: str) -> Transaction:
        """BEGIN: commits what is still open on the connection."""
        if connection.transaction is not None:
            self.commit(connection)
        connection.transaction = Transaction(call)
        return connection.transaction

    def blocked(self, transaction: Transaction | None, lock: str) -> bool:
        """Whether another transaction holds `lock`."""
        return self._locks.get(lock, transaction) is not transaction

    def take(self, transaction: Transaction, lock: str) -> None:
        """Hold `lock` until the transaction ends."""
        if lock not in self._locks:
            self._locks[lock] = transaction
            transaction.locks.append(lock)

    def write(self, connection: Connection, call: str, half: str) -> None:
        """UPDATE: one half of a transfer. Outside a transaction it is one of its own."""
        transaction = connection.transaction
        if transaction is None:
            self._end(Transaction(call, halves=[half]), State.COMMITTED)
            return
        self.take(transaction, half)
        transaction.halves.append(half)

    def insert(self, connection: Connection, row: Row) -> None:
        """INSERT a key row; the caller has seen that nobody else holds or has it."""
        transaction = connection.transaction
        if transaction is None:
            self._end(Transaction(row.call, row=row), State.COMMITTED)
            return
        self.take(transaction, row.key)
        transaction.row = row

    def commit(self, connection: Connection) -> None:
        """COMMIT; without a transaction there is nothing to do, and the answer is OK all the same."""
        transaction, connection.transaction = connection.transaction, None
        if transaction is not None and transaction.state is State.OPEN:
            self._end(transaction, State.COMMITTED)

    def roll_back(self, connection: Connection) -> None:
        """ROLLBACK, also when the server sees that the client is gone."""
        transaction, connection.transaction = connection.transaction, None
        if transaction is not None and transaction.state is State.OPEN:
            self._end(transaction, State.ROLLED_BACK)

    def orphan(self, transaction: Transaction, state: State, after_s: float, *, killable: bool) -> None:
        """Let the transaction live on without its client and end as `state` after `after_s`."""
        transaction.orphaned = True
        transaction.killable = killable
        self._fates_made += 1
        heapq.heappush(self._fates, (self._clock.now + after_s, self._fates_made, transaction, state))

    def kill(self, transaction: Transaction) -> None:
        """KILL: roll it back, if it listens."""
        if transaction.killable and transaction.state is State.OPEN:
            self._end(transaction, State.ROLLED_BACK)

    def _end(self, transaction: Transaction, state: State) -> None:
        if state is State.COMMITTED and transaction.late_row is not None and transaction.row is None:
            state = self._claim(transaction, transaction.late_row)
        if state is State.OPEN:
            return
        transaction.state = state
        for lock in transaction.locks:
            del self._locks[lock]
        if state is State.COMMITTED:
            self.log.append(transaction)
            if transaction.row is not None:
                self.rows[transaction.row.key] = transaction.row
        queue, self._queue = self._queue, []
        for waiting in queue:
            if waiting.state is State.OPEN:
                self._end(waiting, State.COMMITTED)

    def _claim(self, transaction: Transaction, row: Row) -> State:
        """Insert a row in front of COMMIT: what becomes of the transaction. It waits for whoever holds the key (`OPEN`)."""
        if self.blocked(transaction, row.key):
            self._queue.append(transaction)
            return State.OPEN
        if row.key in self.rows:
            return State.ROLLED_BACK  # a duplicate: COMMIT is not reached, and the client is gone
        self.take(transaction, row.key)
        transaction.row = row
        return State.COMMITTED
