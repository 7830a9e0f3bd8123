"""The life of one operation: a pure engine that decides, and two shells that act.

    STARTED ─► BEGIN ─► CLAIM ─► RUN ─► STORE ─► COMMIT ─► RETURN
                 ▲        │       │       │        │
                 │        └───────┴── FAILED ──────┤
                 │                      │          │ AMBIGUOUS: in doubt
                 │        ROLL_BACK or DISCARD ◄───┘
                 │                      │
                 └── SLEEP ◄─── decide ─┴─► RAISE

The engine is told what happened, with the time and a random draw, and answers with the next action. It reads no clock, does
no I/O and draws no number, so one simulation covers every path of both shells. The shells decide nothing.

Three rules carry the promise of exactly once:

- After any failure the transaction is rolled back or its connection closed, and the *whole* unit runs again from BEGIN.
- COMMIT is sent once. If its answer is lost, the operation is *in doubt*, and no error may say "not committed" until the doubt
  is settled.
- A doubt is settled by the key row, never by a plain read: the next attempt *inserts* the same key first. The unique index
  makes it wait for the old transaction; then the row is there (committed) or the insert goes through (it never can be).
  Where the server keeps a record of transactions (PostgreSQL's `pg_xact_status`), it is asked instead.

`CLAIM` and `STORE` happen for operations with a key row only, `PROBE` where the server keeps a record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Generic, NoReturn, Protocol, TypeVar

from .decision import CONTENTION, Allowance, Decision, RetryPolicy, Situation, StopReason, decide
from .errors import (
    Contended,
    DeadlineExceeded,
    HoldfastError,
    InProgress,
    KeyReused,
    OutcomeUnknown,
    Report,
    attach_report,
    error_for,
)
from .events import (
    AttemptFailed,
    CommitResolved,
    Event,
    EventStream,
    OperationEnded,
    RetryDenied,
    RetryScheduled,
)
from .outcome import Failure, FailureClass, Outcome, Stage, Verdict

if TYPE_CHECKING:
    from .clock import Clock, Random
    from .operation import Record

T = TypeVar("T")

__all__ = [
    "Action",
    "AsyncPort",
    "AsyncShell",
    "Do",
    "Engine",
    "EngineMisused",
    "Happening",
    "Plan",
    "Port",
    "ProbeAnswer",
    "Protection",
    "Shell",
    "What",
]


class Protection(Enum):
    """How an ambiguous commit can be found out."""

    NONE = "none"
    """Not at all: it is reported as unknown."""
    KEY = "key"
    """By the key row, whose insert waits for the old transaction."""
    STATUS = "status"
    """By asking the server for the transaction's status."""


class ProbeAnswer(Enum):
    """What a server says of a transaction whose COMMIT was not answered."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    IN_PROGRESS = "in_progress"
    UNKNOWN = "unknown"


class Do(Enum):
    """What a shell is asked to do."""

    BEGIN = "begin"
    CLAIM = "claim"
    RUN = "run"
    STORE = "store"
    COMMIT = "commit"
    ROLL_BACK = "roll_back"
    DISCARD = "discard"
    SLEEP = "sleep"
    PROBE = "probe"
    RETURN = "return"
    RAISE = "raise"


class What(Enum):
    """What happened, as a shell tells it."""

    STARTED = "started"
    BEGAN = "began"
    CLAIMED = "claimed"
    FOUND = "found"
    RETURNED = "returned"
    STORED = "stored"
    ACKNOWLEDGED = "acknowledged"
    ROLLED_BACK = "rolled_back"
    DISCARDED = "discarded"
    SLEPT = "slept"
    ANSWERED = "answered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Action:
    """The next thing to do.

    Attributes:
        do: what.
        delay_s: for `SLEEP`, seconds.
        kill: for `DISCARD`: end the connection's work on the server as well.
        attempt: for `RETURN`: the attempt whose result it is.
        record: for `RETURN`: the row whose stored result to return instead.
        error: for `RAISE`: the error, or None for the exception that was caught.
    """

    do: Do
    delay_s: float = 0.0
    kill: bool = False
    attempt: int = 0
    record: Record | None = None
    error: HoldfastError | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """What came of an action.

    Attributes:
        what: the kind.
        failure: for `FAILED`, the classified error.
        interrupted: for `FAILED`: the caller stopped the work (task cancelled, Ctrl-C); it must end now.
        record: for `FOUND`, the committed row under the key.
        answer: for `ANSWERED`, the server's word.
    """

    what: What
    failure: Failure | None = None
    interrupted: bool = False
    record: Record | None = None
    answer: ProbeAnswer | None = None


class TransactionBudget(Protocol):
    """What the engine needs of a retry budget (`budget.RetryBudget` is one)."""

    def try_spend(self, cost: float, now: float) -> bool:
        """Take `cost` tokens if they are there."""

    def refund(self, cost: float, now: float) -> None:
        """Give back what a retry cost that succeeded."""

    def deposit(self, now: float) -> None:
        """Count one success."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is fixed about an operation before it starts.

    Attributes:
        operation: its name.
        expires_at: its deadline, monotonic seconds.
        protection: how a doubt is settled.
        keyed: the caller gave the key: the result is stored, and a row found is a replay.
        fingerprint: what was asked for; compared with the row's. Empty without a key row.
        policy: which failures are retried.
        budget: the retry budget, or None.
        rerunnable: whether the body can run again (a `with` block cannot).
        nested: an outer retry layer is active: one attempt only, the doubt is settled all the same.
        key: the key itself, handed out with `OutcomeUnknown` so that the caller can settle it.
    """

    operation: str
    expires_at: float
    protection: Protection = Protection.NONE
    keyed: bool = False
    fingerprint: str = ""
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    budget: TransactionBudget | None = None
    rerunnable: bool = True
    nested: bool = False
    key: str | None = field(default=None, repr=False)


class EngineMisused(AssertionError):
    """A shell reported something that does not answer what it was asked: a bug in the shell."""


_ANSWERS: dict[Do | None, frozenset[What]] = {
    None: frozenset({What.STARTED}),
    Do.BEGIN: frozenset({What.BEGAN, What.FAILED}),
    Do.CLAIM: frozenset({What.CLAIMED, What.FOUND, What.FAILED}),
    Do.RUN: frozenset({What.RETURNED, What.FAILED}),
    Do.STORE: frozenset({What.STORED, What.FAILED}),
    Do.COMMIT: frozenset({What.ACKNOWLEDGED, What.FAILED}),
    Do.ROLL_BACK: frozenset({What.ROLLED_BACK, What.FAILED}),
    Do.DISCARD: frozenset({What.DISCARDED, What.FAILED}),
    Do.SLEEP: frozenset({What.SLEPT, What.FAILED}),
    Do.PROBE: frozenset({What.ANSWERED, What.FAILED}),
    Do.RETURN: frozenset(),
    Do.RAISE: frozenset(),
}

_HELD_UP = frozenset({FailureClass.CONTENTION, FailureClass.CANCELLED})
"""How an insert fails that waits for another transaction: its lock wait or its statement time ran out."""

_RESOLVE_DELAY_S_MIN = 0.005
"""Half of what is left never reaches the deadline; below this the rest is slept through."""

ROLLBACK_GRACE_S = 0.1
"""How long after the deadline a ROLLBACK may still take; then the connection is closed instead."""

_BEGIN = Action(Do.BEGIN)
_CLAIM = Action(Do.CLAIM)
_RUN = Action(Do.RUN)
_STORE = Action(Do.STORE)
_COMMIT = Action(Do.COMMIT)
_ROLL_BACK = Action(Do.ROLL_BACK)
_PROBE = Action(Do.PROBE)

_STARTED = Happening(What.STARTED)
_BEGAN = Happening(What.BEGAN)
_CLAIMED = Happening(What.CLAIMED)
_RETURNED = Happening(What.RETURNED)
_STORED = Happening(What.STORED)
_ACKNOWLEDGED = Happening(What.ACKNOWLEDGED)
_ROLLED_BACK = Happening(What.ROLLED_BACK)
_DISCARDED = Happening(What.DISCARDED)
_SLEPT = Happening(What.SLEPT)


class Engine:
    """Decides the life of one operation. One instance serves one operation; not shared between threads or tasks.

    Attributes:
        attempts: how many attempts were begun.
        notes: events to emit, filled while `narrate` is True.
        outcome: the answer, once there is one.
    """

    __slots__ = (
        "_asked",
        "_body_ran",
        "_doubt",
        "_doubt_since",
        "_ending",
        "_explanation",
        "_failed_at",
        "_failure",
        "_failures",
        "_interrupted",
        "_may_rerun",
        "_plan",
        "_reason",
        "_spent",
        "_started_at",
        "_waits",
        "attempts",
        "narrate",
        "notes",
        "outcome",
    )

    def __init__(self, plan: Plan, *, narrate: bool = False) -> None:
        self._plan = plan
        self.narrate = narrate
        self.notes: list[Event] = []
        self.attempts = 0
        self.outcome: Outcome | None = None
        self._asked: Do | None = None
        self._started_at = 0.0
        self._failure: Failure | None = None
        self._failed_at: Do | None = None
        self._failures: dict[Allowance | None, int] = {}
        self._waits = 0
        self._interrupted = False
        self._body_ran = False
        self._doubt = False
        self._doubt_since = 0.0
        self._may_rerun = True
        self._spent = 0.0
        self._ending: Action | None = None
        self._reason = StopReason.SUCCEEDED
        self._explanation = ""

    def step(self, happened: Happening, now: float, draw: float) -> Action:
        """What to do next.

        Args:
            happened: the answer to the action asked last (`STARTED` at first).
            now: monotonic seconds.
            draw: a number from [0, 1).

        Raises:
            EngineMisused: `happened` does not answer the last action.
        """
        what = happened.what
        if what not in _ANSWERS[self._asked]:
            raise EngineMisused(f"asked to {self._asked}, told {what}")
        if what is What.FAILED:
            action = self._failed(happened, now, draw)
        elif what is What.STARTED:
            self._started_at = now
            action = self._begin(now)
        elif what is What.BEGAN:
            action = _CLAIM if self._plan.protection is Protection.KEY else self._run(now)
        elif what is What.CLAIMED:
            action = self._claimed(now)
        elif what is What.RETURNED:
            action = _STORE if self._plan.keyed else self._commit(now)
        elif what is What.STORED:
            action = self._commit(now)
        elif what is What.ACKNOWLEDGED:
            action = self._committed(now, self.attempts, None)
        elif what is What.FOUND:
            action = self._found(happened.record, now)
        elif what is What.SLEPT:
            action = self._begin(now)
        elif what is What.ANSWERED:
            action = self._answered(happened.answer, now, draw)
        else:
            action = self._cleaned(now, draw)
        self._asked = action.do
        return action

    def report(self, now: float) -> Report:
        """What happened so far, for the error that ends the operation."""
        return Report(
            operation=self._plan.operation,
            attempts=self.attempts,
            elapsed_s=now - self._started_at,
            reason=self._reason.value,
            outcome=self.outcome,
            explanation=self._explanation,
            exhausted=self._reason in (StopReason.ATTEMPTS, StopReason.BUDGET, StopReason.DEADLINE),
        )

    # -- the way forward ---------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> Action:
        if now >= self._plan.expires_at:
            return self._out_of_time(now)
        if self._doubt and self._plan.protection is Protection.STATUS:
            return _PROBE
        # An attempt that may not run the body only asks the key row; it is not one of the caller's attempts.
        if self._may_rerun:
            self.attempts += 1
        return _BEGIN

    def _claimed(self, now: float) -> Action:
        # The insert went through, so no earlier attempt of this operation holds the key or ever will.
        self._settle(Outcome.NOT_COMMITTED, now)
        if self._may_rerun:
            return self._run(now)
        self._ending = self._give_up(now)
        return _ROLL_BACK

    def _run(self, now: float) -> Action:
        if now >= self._plan.expires_at:
            self._ending = self._out_of_time(now)
            return _ROLL_BACK
        self._body_ran = True
        return _RUN

    def _commit(self, now: float) -> Action:
        if now >= self._plan.expires_at:
            self._ending = self._out_of_time(now)
            return _ROLL_BACK
        return _COMMIT

    def _found(self, record: Record | None, now: float) -> Action:
        assert record is not None
        if record.fingerprint != self._plan.fingerprint:
            error = KeyReused(
                f"{self._plan.operation}: this key belongs to an operation with other arguments; "
                "use a new key for a new operation"
            )
            self._reason = StopReason.NOT_RETRYABLE
            self._ending = self._raise(error, Outcome.NOT_COMMITTED, now)
        else:
            self._ending = self._committed(now, record.attempt, record)
        return _ROLL_BACK

    def _committed(self, now: float, attempt: int, record: Record | None) -> Action:
        replayed = record is not None and not self._doubt
        self._settle(Outcome.COMMITTED, now)
        self.outcome = Outcome.COMMITTED
        self._reason = StopReason.SUCCEEDED
        budget = self._plan.budget
        if budget is not None:
            budget.deposit(now)
            if self._spent:
                budget.refund(self._spent, now)
        if self.narrate:
            self.notes.append(
                OperationEnded(
                    self._plan.operation, Outcome.COMMITTED, self.attempts, now - self._started_at, replayed=replayed
                )
            )
        return Action(Do.RETURN, attempt=attempt, record=record if self._plan.keyed else None)

    # -- failures ----------------------------------------------------------------------------------------------------

    def _failed(self, happened: Happening, now: float, draw: float) -> Action:
        failure = happened.failure
        assert failure is not None
        asked = self._asked
        if happened.interrupted:
            self._interrupted = True
        if asked is Do.ROLL_BACK:
            # The first failure is the one that counts; this one only says that the connection is no good.
            return Action(Do.DISCARD)
        if asked is Do.DISCARD:
            return self._cleaned(now, draw)
        self._failure = failure
        self._failed_at = asked
        if self.narrate:
            self.notes.append(
                AttemptFailed(self._plan.operation, self.attempts, failure.failure_class, failure.stage, failure.code)
            )
        if asked is Do.SLEEP or asked is Do.PROBE or failure.stage is Stage.CONNECT:
            return self._next(now, draw)
        if failure.failure_class is FailureClass.AMBIGUOUS and not self._doubt:
            self._doubt = True
            self._doubt_since = now
        if failure.connection_usable and not self._interrupted:
            return _ROLL_BACK
        # Whatever the server still does for this connection holds locks that the next attempt would wait for.
        return Action(Do.DISCARD, kill=True)

    def _cleaned(self, now: float, draw: float) -> Action:
        if self._ending is None:
            return self._next(now, draw)
        if self._interrupted:
            # The answer is known, but the caller left during the clean-up: the interrupt must not be swallowed.
            return self._raise(None, self.outcome or Outcome.NOT_COMMITTED, now)
        return self._ending

    def _next(self, now: float, draw: float) -> Action:
        """After a failure, with nothing held any more: retry, resolve, or end."""
        failure = self._failure
        assert failure is not None
        plan = self._plan
        if self._interrupted:
            self._reason = StopReason.NOT_RETRYABLE
            return self._raise(None, Outcome.UNKNOWN if self._doubt else Outcome.NOT_COMMITTED, now)
        if self._doubt and plan.protection is Protection.NONE:
            self._reason = StopReason.MAY_BE_APPLIED
            return self._unknown(now)
        if now >= plan.expires_at:
            return self._out_of_time(now)
        if self._failed_at is Do.CLAIM and failure.failure_class in _HELD_UP and (plan.keyed or self._doubt):
            return self._wait_for_key(failure, now, draw)
        if self._failed_at is Do.PROBE:
            if failure.failure_class is FailureClass.PERMANENT:
                return self._unknown(now)
            return self._sleep_to_resolve(failure, now, draw)
        return self._decide(failure, now, draw)

    def _decide(self, failure: Failure, now: float, draw: float) -> Action:
        plan = self._plan
        allowance = plan.policy.allowances.get(failure.failure_class)
        failures = self._failures.get(allowance, 0) + 1
        self._failures[allowance] = failures
        if self._body_ran and not plan.rerunnable:
            decision = Decision(
                Verdict.GIVE_UP,
                reason=StopReason.NOT_RETRYABLE,
                checks=(("can the body run again?", "no: it is the block of a with statement"),),
            )
        elif not self._may_rerun:
            decision = Decision(Verdict.GIVE_UP, reason=self._reason)
        else:
            decision = decide(
                Situation(
                    failure=failure,
                    failures=failures,
                    now=now,
                    draw=draw,
                    expires_at=plan.expires_at,
                    resolvable=plan.protection is not Protection.NONE,
                    nested=plan.nested,
                ),
                plan.policy,
                plan.budget,
            )
        if decision.checks:
            self._explanation = decision.explain()
        if decision.reason is None:
            self._spent += decision.cost
            return self._sleep(decision.delay_s, failure)
        if self._may_rerun:
            self._reason = decision.reason
            if self.narrate and decision.reason is not StopReason.NOT_RETRYABLE:
                self.notes.append(
                    RetryDenied(plan.operation, self.attempts, failure.failure_class, decision.reason.value)
                )
        if self._doubt:
            # The body may not run again, but the caller is still owed the truth about what was sent.
            self._may_rerun = False
            return self._sleep_to_resolve(failure, now, draw)
        return self._give_up(now)

    def _wait_for_key(self, failure: Failure, now: float, draw: float) -> Action:
        # The body has not run: this is waiting for the key's holder, bounded by the deadline and not by attempts.
        self._waits += 1
        delay_s = CONTENTION.backoff.delay_s(self._waits, draw)
        if now + delay_s >= self._plan.expires_at:
            return self._out_of_time(now)
        return self._sleep(delay_s, failure)

    def _sleep_to_resolve(self, failure: Failure, now: float, draw: float) -> Action:
        self._waits += 1
        allowance = self._plan.policy.allowances.get(FailureClass.AMBIGUOUS, CONTENTION)
        left_s = self._plan.expires_at - now
        delay_s = min(allowance.backoff.delay_s(self._waits, draw), max(left_s / 2, _RESOLVE_DELAY_S_MIN))
        return self._sleep(delay_s, failure)

    def _sleep(self, delay_s: float, failure: Failure) -> Action:
        if self.narrate:
            self.notes.append(RetryScheduled(self._plan.operation, self.attempts, failure.failure_class, delay_s))
        return Action(Do.SLEEP, delay_s=delay_s)

    def _answered(self, answer: ProbeAnswer | None, now: float, draw: float) -> Action:
        failure = self._failure
        assert failure is not None
        if answer is ProbeAnswer.COMMITTED:
            return self._committed(now, self.attempts, None)
        if answer is ProbeAnswer.ABORTED:
            self._settle(Outcome.NOT_COMMITTED, now)
            return self._begin(now) if self._may_rerun else self._give_up(now)
        if answer is ProbeAnswer.IN_PROGRESS:
            return self._sleep_to_resolve(failure, now, draw)
        return self._unknown(now)

    # -- endings -----------------------------------------------------------------------------------------------------

    def _settle(self, outcome: Outcome, now: float) -> None:
        if self._doubt:
            self._doubt = False
            if self.narrate:
                self.notes.append(CommitResolved(self._plan.operation, outcome, now - self._doubt_since))

    def _out_of_time(self, now: float) -> Action:
        self._reason = StopReason.DEADLINE
        if self._doubt:
            return self._unknown(now)
        plan = self._plan
        name = plan.operation
        error: HoldfastError
        if self._failed_at is Do.CLAIM and plan.keyed:
            error = InProgress(
                f"{name}: another caller is still running the operation with this key; ask again with the same key",
                failure=self._failure,
            )
        elif self._failure is not None and self._failure.failure_class is FailureClass.CONTENTION:
            error = Contended(
                f"{name}: lost against other transactions until the deadline passed; nothing was applied "
                f"[{self._failure}]",
                failure=self._failure,
            )
        else:
            cause = f" [last failure: {self._failure}]" if self._failure is not None else ""
            error = DeadlineExceeded(
                f"{name}: the deadline passed before COMMIT was sent; nothing was applied{cause}", failure=self._failure
            )
        return self._raise(error, Outcome.NOT_COMMITTED, now)

    def _give_up(self, now: float) -> Action:
        failure = self._failure
        assert failure is not None
        if failure.failure_class is FailureClass.PERMANENT and failure.flavour is None:
            return self._raise(None, Outcome.NOT_COMMITTED, now)
        if failure.failure_class is FailureClass.AMBIGUOUS:
            advice = "the connection failed while COMMIT was under way; it was found out that nothing was applied"
            resolved = Failure(FailureClass.LOST, failure.stage, failure.flavour, failure.code, failure.name)
            return self._raise(
                error_for(resolved, operation=self._plan.operation, advice=advice), Outcome.NOT_COMMITTED, now
            )
        if failure.failure_class is FailureClass.CANCELLED:
            advice = "the server stopped the statement (statement timeout or KILL QUERY); nothing was applied"
            return self._raise(
                error_for(failure, operation=self._plan.operation, advice=advice), Outcome.NOT_COMMITTED, now
            )
        return self._raise(error_for(failure, operation=self._plan.operation), Outcome.NOT_COMMITTED, now)

    def _unknown(self, now: float) -> Action:
        failure = self._failure
        assert failure is not None
        self._settle(Outcome.UNKNOWN, now)
        error = OutcomeUnknown(
            f"{self._plan.operation}: COMMIT was sent and its answer is missing; it may have been applied. "
            f"{'Run it again with the same key to settle it' if self._plan.key else 'No key was used to settle it by'} "
            f"[{failure}]",
            failure=failure,
        )
        error.operation_key = self._plan.key
        return self._raise(error, Outcome.UNKNOWN, now)

    def _raise(self, error: HoldfastError | None, outcome: Outcome, now: float) -> Action:
        self.outcome = outcome
        if self.narrate:
            failure_class = self._failure.failure_class if self._failure is not None else None
            self.notes.append(
                OperationEnded(
                    self._plan.operation, outcome, self.attempts, now - self._started_at, failure_class=failure_class
                )
            )
        return Action(Do.RAISE, error=error)


# -- the shells ------------------------------------------------------------------------------------------------------


class Port(Protocol[T]):
    """What the synchronous shell acts on: one operation's way to the database.

    Every method may raise anything; `classify` says what it means. A port keeps to the deadline it was made with: no call
    returns later than `expires_at` (`roll_back`: plus `ROLLBACK_GRACE_S`; `discard` takes no time worth counting).
    """

    def begin(self) -> None:
        """Get a connection and open a transaction on it."""

    def claim(self, attempt: int) -> Record | None:
        """Insert the key row, waiting for whoever holds the key; the committed row if there is one, None if inserted."""

    def run(self) -> T:
        """Run the body and send everything it left unsent."""

    def store(self, result: T) -> None:
        """Write the result into the key row."""

    def commit(self) -> None:
        """Send COMMIT and wait for its answer."""

    def roll_back(self) -> None:
        """Roll back and give the connection back."""

    def discard(self, *, kill: bool) -> None:
        """Close the connection instead of giving it back; with `kill`, see to it that the server ends its work as well."""

    def probe(self) -> ProbeAnswer:
        """Ask the server what became of the transaction whose COMMIT was sent."""

    def stored_result(self, record: Record) -> T:
        """The result that the key row holds."""

    def classify(self, error: BaseException, doing: Do) -> Failure:
        """What `error` means, raised while `doing`."""


class AsyncPort(Protocol[T]):
    """What the asynchronous shell acts on; as `Port`, except that the shell itself cancels a call at the deadline."""

    async def begin(self) -> None:
        """As in `Port`."""

    async def claim(self, attempt: int) -> Record | None:
        """As in `Port`."""

    async def run(self) -> T:
        """As in `Port`."""

    async def store(self, result: T) -> None:
        """As in `Port`."""

    async def commit(self) -> None:
        """As in `Port`."""

    async def roll_back(self) -> None:
        """As in `Port`."""

    async def discard(self, *, kill: bool) -> None:
        """As in `Port`; everything that matters happens before the first suspension."""

    async def probe(self) -> ProbeAnswer:
        """As in `Port`."""

    def stored_result(self, record: Record) -> T:
        """As in `Port`."""

    def classify(self, error: BaseException, doing: Do) -> Failure:
        """As in `Port`."""


_TERMINAL = frozenset({Do.RETURN, Do.RAISE})
_CLEANING = frozenset({Do.ROLL_BACK, Do.DISCARD})
_UNDER_DEADLINE = frozenset({Do.BEGIN, Do.CLAIM, Do.RUN, Do.STORE, Do.COMMIT, Do.PROBE})


class _Memory(Generic[T]):
    """What both shells keep of one operation: the engine, the results by attempt, and the exception that counts."""

    __slots__ = ("_clock", "_engine", "_error", "_events", "_expires_at", "_random", "_results")

    def __init__(self, plan: Plan, *, clock: Clock, random: Random, events: EventStream) -> None:
        self._engine = Engine(plan, narrate=bool(events.subscriptions))
        self._expires_at = plan.expires_at
        self._clock = clock
        self._random = random
        self._events = events
        self._results: dict[int, T] = {}
        self._error: BaseException | None = None

    def _step(self, happened: Happening) -> Action:
        engine = self._engine
        action = engine.step(happened, self._clock.monotonic(), self._random())
        if engine.notes:
            notes, engine.notes = engine.notes, []
            for note in notes:
                self._events.emit(note)
        return action

    def _remember(self, error: BaseException, doing: Do, failure: Failure) -> Happening:
        interrupted = not isinstance(error, Exception)
        if interrupted or doing not in _CLEANING:
            self._error = error
        return Happening(What.FAILED, failure=failure, interrupted=interrupted)

    def _raise(self, action: Action) -> NoReturn:
        report = self._engine.report(self._clock.monotonic())
        caught = self._error
        if action.error is None:
            assert caught is not None
            attach_report(caught, report)
            raise caught
        attach_report(action.error, report)
        raise action.error from caught


class Shell(_Memory[T]):
    """Acts for one operation in the calling thread."""

    __slots__ = ("_port",)

    def __init__(self, plan: Plan, port: Port[T], *, clock: Clock, random: Random, events: EventStream) -> None:
        super().__init__(plan, clock=clock, random=random, events=events)
        self._port = port

    def run(self) -> T:
        """The whole life of the operation.

        Returns:
            The body's result, or the one stored under the key.

        Raises:
            NotCommitted, OutcomeUnknown: as the module `errors` draws them.
            BaseException: what the body raised, after everything was rolled back.
        """
        return self._end(self._proceed(_STARTED))

    def enter(self) -> None:
        """The first half, for a `with` block: up to the point where the body runs."""
        action = self._proceed(_STARTED, stop_at_body=True)
        if action.do is Do.RAISE:
            self._raise(action)

    def leave(self, error: BaseException | None) -> T:
        """The second half: what follows after the block returned, or raised `error`."""
        if error is not None:
            return self._end(self._proceed(self._failed(error, Do.RUN)))
        return self._end(self._proceed(self._act(_RUN)))

    def _proceed(self, happened: Happening, *, stop_at_body: bool = False) -> Action:
        while True:
            action = self._step(happened)
            if action.do in _TERMINAL or (stop_at_body and action.do is Do.RUN):
                return action
            happened = self._act(action)

    def _act(self, action: Action) -> Happening:
        port = self._port
        doing = action.do
        try:
            if doing is Do.BEGIN:
                port.begin()
                return _BEGAN
            if doing is Do.CLAIM:
                record = port.claim(self._engine.attempts)
                return _CLAIMED if record is None else Happening(What.FOUND, record=record)
            if doing is Do.RUN:
                self._results[self._engine.attempts] = port.run()
                return _RETURNED
            if doing is Do.STORE:
                port.store(self._results[self._engine.attempts])
                return _STORED
            if doing is Do.COMMIT:
                port.commit()
                return _ACKNOWLEDGED
            if doing is Do.ROLL_BACK:
                port.roll_back()
                return _ROLLED_BACK
            if doing is Do.DISCARD:
                port.discard(kill=action.kill)
                return _DISCARDED
            if doing is Do.SLEEP:
                self._clock.sleep(action.delay_s)
                return _SLEPT
            return Happening(What.ANSWERED, answer=port.probe())
        except BaseException as error:
            return self._failed(error, doing)

    def _failed(self, error: BaseException, doing: Do) -> Happening:
        return self._remember(error, doing, self._port.classify(error, doing))

    def _end(self, action: Action) -> T:
        if action.do is Do.RAISE:
            self._raise(action)
        return self._results[action.attempt] if action.record is None else self._port.stored_result(action.record)


class AsyncShell(_Memory[T]):
    """Acts for one operation in the calling task, and cancels its own calls at the deadline."""

    __slots__ = ("_port",)

    def __init__(self, plan: Plan, port: AsyncPort[T], *, clock: Clock, random: Random, events: EventStream) -> None:
        super().__init__(plan, clock=clock, random=random, events=events)
        self._port = port

    async def run(self) -> T:
        """As `Shell.run`."""
        return self._end(await self._proceed(_STARTED))

    async def enter(self) -> None:
        """As `Shell.enter`."""
        action = await self._proceed(_STARTED, stop_at_body=True)
        if action.do is Do.RAISE:
            self._raise(action)

    async def leave(self, error: BaseException | None) -> T:
        """As `Shell.leave`."""
        if error is not None:
            return self._end(await self._proceed(self._failed(error, Do.RUN)))
        return self._end(await self._perform_until(_RUN, stop_at_body=False))

    async def _proceed(self, happened: Happening, *, stop_at_body: bool = False) -> Action:
        return await self._perform_until(self._step(happened), stop_at_body=stop_at_body)

    async def _perform_until(self, action: Action, *, stop_at_body: bool) -> Action:
        while action.do not in _TERMINAL and not (stop_at_body and action.do is Do.RUN):
            if action.do in _UNDER_DEADLINE:
                action = await self._work(action, stop_at_body=stop_at_body)
            else:
                action = self._step(await self._clean_or_sleep(action))
        return action

    async def _work(self, action: Action, *, stop_at_body: bool) -> Action:
        """Everything from BEGIN to COMMIT under one timer: a timer a call would cost more than the engine does."""
        import asyncio

        doing = action.do
        try:
            async with asyncio.timeout(self._expires_at - self._clock.monotonic()):
                while action.do in _UNDER_DEADLINE and not (stop_at_body and action.do is Do.RUN):
                    doing = action.do
                    try:
                        happened = await self._act(doing)
                    except Exception as error:
                        happened = self._failed(error, doing)
                    action = self._step(happened)
            return action
        except (TimeoutError, asyncio.CancelledError) as error:
            return self._step(self._failed(error, doing))

    async def _act(self, doing: Do) -> Happening:
        port = self._port
        if doing is Do.BEGIN:
            await port.begin()
            return _BEGAN
        if doing is Do.CLAIM:
            record = await port.claim(self._engine.attempts)
            return _CLAIMED if record is None else Happening(What.FOUND, record=record)
        if doing is Do.RUN:
            self._results[self._engine.attempts] = await port.run()
            return _RETURNED
        if doing is Do.STORE:
            await port.store(self._results[self._engine.attempts])
            return _STORED
        if doing is Do.COMMIT:
            await port.commit()
            return _ACKNOWLEDGED
        return Happening(What.ANSWERED, answer=await port.probe())

    async def _clean_or_sleep(self, action: Action) -> Happening:
        import asyncio

        doing = action.do
        try:
            if doing is Do.SLEEP:
                await self._clock.sleep_async(action.delay_s)
                return _SLEPT
            if doing is Do.DISCARD:
                await self._port.discard(kill=action.kill)
                return _DISCARDED
            left_s = max(0.0, self._expires_at - self._clock.monotonic())
            async with asyncio.timeout(left_s + ROLLBACK_GRACE_S):
                await self._port.roll_back()
            return _ROLLED_BACK
        except BaseException as error:
            return self._failed(error, doing)

    def _failed(self, error: BaseException, doing: Do) -> Happening:
        return self._remember(error, doing, self._port.classify(error, doing))

    def _end(self, action: Action) -> T:
        if action.do is Do.RAISE:
            self._raise(action)
        return self._results[action.attempt] if action.record is None else self._port.stored_result(action.record)
