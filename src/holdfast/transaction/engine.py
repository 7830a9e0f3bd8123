"""The engine: what happened goes in, what to do next comes out. No clock, no I/O, no random."""

from __future__ import annotations

from ..decision import CONTENTION, Allowance, Decision, Situation, StopReason, decide
from ..errors import (
    Contended,
    DeadlineExceeded,
    HoldfastError,
    InProgress,
    KeyReused,
    OutcomeUnknown,
    Report,
    error_for,
    unreachable,
)
from ..events import AttemptFailed, CommitResolved, OperationEnded, RetryDenied, RetryScheduled
from ..operation import TOMBSTONE, Record
from ..outcome import Failure, FailureClass, Outcome, Stage, Verdict
from ..stream import Event
from .actions import (
    ANSWERS,
    AWAIT_SERVER,
    BEGIN,
    CLAIM,
    CLAIM_AND_COMMIT,
    CLAIM_TO_SETTLE,
    COMMIT,
    PROBE,
    ROLL_BACK,
    RUN,
    STORE,
    Action,
    Do,
    Happening,
    Plan,
    ProbeAnswer,
    Protection,
    What,
)

__all__ = ["Engine", "EngineMisused"]

_HELD_UP = frozenset({FailureClass.CONTENTION, FailureClass.CANCELLED})
"""How an insert fails that waits for another transaction: its lock wait or its statement time ran out."""

_HOPELESS = frozenset({FailureClass.PERMANENT, FailureClass.EXHAUSTED})
"""What is the better answer than "too late", however late it is."""

_HOLDS_NOTHING = frozenset({Do.SLEEP, Do.AWAIT_SERVER, Do.PROBE})

_ENDINGS = frozenset({Do.RETURN, Do.RAISE})

# Whatever the server still does for a connection that is closed here holds locks that somebody will wait for.
_DISCARD = Action(Do.DISCARD, kill=True)

_WAIT_S_MIN = 0.005
"""Half of what is left never reaches the deadline; below this the rest is slept through."""


class EngineMisused(AssertionError):
    """A shell reported something that does not answer what it was asked: a bug in the shell."""


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
        "_key_is_held",
        "_may_rerun",
        "_plan",
        "_reason",
        "_refund",
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
        self._key_is_held = False
        self._body_ran = False
        self._doubt: Failure | None = None
        self._doubt_since = 0.0
        self._may_rerun = True
        self._refund = 0.0
        self._ending: Action | None = None
        self._reason = StopReason.SUCCEEDED
        self._explanation = ""

    def step(self, happened: Happening, now: float, draw: float) -> Action:
        """What to do next.

        Args:
            happened: the answer to the action asked last (`STARTED` at first).
            now: monotonic seconds.
            draw: a number from [0, 1); used after `DRAWS` alone.

        Raises:
            EngineMisused: `happened` does not answer the last action.
        """
        what = happened.what
        if what not in ANSWERS[self._asked]:
            raise EngineMisused(f"asked to {self._asked}, told {what}")
        if what is What.FAILED:
            action = self._failed(happened, now, draw)
        elif what is What.STARTED:
            self._started_at = now
            action = self._begin(now)
        elif what is What.BEGAN:
            action = self._claim() if self._must_claim() else self._run(now)
        elif what is What.CLAIMED:
            action = self._claimed(now, conclusive=happened.conclusive)
        elif what is What.RETURNED:
            action = STORE if self._plan.keyed else self._commit(now)
        elif what is What.STORED:
            action = self._commit(now)
        elif what is What.ACKNOWLEDGED:
            action = self._acknowledged(now) if self._may_rerun else self._buried(now)
        elif what is What.FOUND:
            action = self._found(happened.record, now)
        elif what is What.SLEPT:
            action = self._begin(now)
        elif what is What.AWAITED:
            action = self._awaited(now, draw, server_was_away=happened.server_was_away)
        elif what is What.ANSWERED:
            action = self._answered(happened.answer, now, draw)
        else:
            action = self._cleaned(now, draw)
        self._asked = action.do
        if self.narrate and action.do in _ENDINGS:
            self._narrate_end(action, now)
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
        if self._doubt is not None and self._plan.protection is Protection.STATUS:
            return PROBE
        # An attempt that may not run the body only asks the key row; it is not one of the caller's attempts.
        if self._may_rerun:
            self.attempts += 1
        return BEGIN

    def _must_claim(self) -> bool:
        """Whether the key row comes first. With a key that nobody else has it need not until an attempt may have left it."""
        plan = self._plan
        return plan.protection is Protection.KEY and (not plan.claims_late or self._doubt is not None)

    def _claim(self) -> Action:
        return CLAIM if self._may_rerun else CLAIM_TO_SETTLE

    def _claimed(self, now: float, *, conclusive: bool) -> Action:
        self._key_is_held = False
        if conclusive and not self._plan.claims_late:
            # The insert went through, so no earlier attempt of this operation holds the key or ever will. One that claims with
            # its COMMIT may still be on its way here: that doubt stays until our own row is committed.
            self._settle(Outcome.NOT_COMMITTED, now)
        if self._may_rerun:
            return self._run(now)
        if self._doubt is not None:
            # The ghost may live on another node, or be under way. Once our row is committed, it collides with it.
            return self._commit(now)
        self._ending = self._give_up()
        return ROLL_BACK

    def _buried(self, now: float) -> Action:
        """The row that says "not committed" is committed."""
        self._settle(Outcome.NOT_COMMITTED, now)
        return self._give_up()

    def _run(self, now: float) -> Action:
        if now >= self._plan.expires_at:
            self._ending = self._out_of_time(now)
            return ROLL_BACK
        self._body_ran = True
        return RUN

    def _commit(self, now: float) -> Action:
        if now >= self._plan.expires_at:
            self._ending = self._out_of_time(now)
            return ROLL_BACK
        return CLAIM_AND_COMMIT if self._plan.claims_late and self._doubt is None else COMMIT

    def _found(self, record: Record | None, now: float) -> Action:
        assert record is not None
        if record.attempt == TOMBSTONE:
            self._ending = self._buried(now)
        elif record.fingerprint != self._plan.fingerprint:
            error = KeyReused(
                f"{self._plan.operation}: this key belongs to an operation with other arguments; "
                "use a new key for a new operation"
            )
            self._reason = StopReason.NOT_RETRYABLE
            self._settle(Outcome.NOT_COMMITTED, now)
            self._ending = self._raise(error, Outcome.NOT_COMMITTED)
        else:
            self._ending = self._committed(now, record.attempt, record)
        return ROLL_BACK

    def _acknowledged(self, now: float) -> Action:
        # Our row is committed. So whatever was still in doubt has collided with it, or will.
        self._settle(Outcome.NOT_COMMITTED, now)
        return self._committed(now, self.attempts, None)

    def _committed(self, now: float, attempt: int, record: Record | None) -> Action:
        replayed = record is not None and record.attempt == 0
        self._settle(Outcome.COMMITTED, now)
        self.outcome = Outcome.COMMITTED
        self._reason = StopReason.SUCCEEDED
        budget = self._plan.budget
        if budget is not None and not self._plan.nested:
            budget.deposit(now)  # a layer around this one counts the success itself
            if self._refund:
                budget.refund(self._refund, now)
        return Action(Do.RETURN, attempt=attempt, record=record if replayed else None)

    # -- failures ----------------------------------------------------------------------------------------------------

    def _failed(self, happened: Happening, now: float, draw: float) -> Action:
        failure = happened.failure
        assert failure is not None
        asked = self._asked
        if happened.interrupted:
            self._interrupted = True
        if asked is Do.ROLL_BACK:
            # The first failure is the one that counts; this one only says that the connection is no good.
            return _DISCARD
        if asked is Do.DISCARD:
            return self._cleaned(now, draw)
        self._failure = failure
        self._failed_at = asked
        self._refund = 0.0  # what was tried again has failed
        if asked is Do.CLAIM and failure.failure_class in _HELD_UP:
            self._key_is_held = True
        elif now < self._plan.expires_at:
            self._key_is_held = (
                False  # there is other trouble; but what the deadline cuts says nothing new about the key
            )
        if self.narrate:
            self.notes.append(
                AttemptFailed(self._plan.operation, self.attempts, failure.failure_class, failure.stage, failure.code)
            )
        if asked in _HOLDS_NOTHING or failure.stage is Stage.CONNECT:
            return self._next(now, draw)
        if failure.failure_class is FailureClass.AMBIGUOUS and self._doubt is None:
            self._doubt = failure
            self._doubt_since = now
        if failure.connection_usable and not self._interrupted:
            return ROLL_BACK
        return _DISCARD

    def _cleaned(self, now: float, draw: float) -> Action:
        if self._ending is None:
            return self._next(now, draw)
        if self._interrupted:
            # The answer is known, but the caller left during the clean-up: the interrupt must not be swallowed.
            return self._raise(None, self.outcome or Outcome.NOT_COMMITTED)
        return self._ending

    def _next(self, now: float, draw: float) -> Action:
        """After a failure, with nothing held any more: retry, resolve, or end."""
        failure = self._failure
        assert failure is not None
        plan = self._plan
        if self._interrupted:
            self._reason = StopReason.NOT_RETRYABLE
            outcome = Outcome.NOT_COMMITTED if self._doubt is None else Outcome.UNKNOWN
            self._settle(outcome, now)
            return self._raise(None, outcome)
        if self._doubt is not None and plan.protection is Protection.NONE:
            self._reason = StopReason.MAY_BE_APPLIED
            return self._unknown(now)
        if now >= plan.expires_at and (self._doubt is not None or failure.failure_class not in _HOPELESS):
            return self._out_of_time(now)
        if failure.server_in_doubt and self._goes_on(failure):
            return AWAIT_SERVER
        return self._mend(failure, now, draw)

    def _goes_on(self, failure: Failure) -> bool:
        """Whether there will be another attempt if the server is there: only then is it worth to wait for it."""
        return self._doubt is not None or self._may_run_again(failure)

    def _may_run_again(self, failure: Failure) -> bool:
        plan = self._plan
        may_rerun = self._may_rerun and (plan.rerunnable or not self._body_ran) and not plan.nested
        return may_rerun and plan.policy.allowances.get(failure.failure_class) is not None

    def _awaited(self, now: float, draw: float, *, server_was_away: bool) -> Action:
        failure = self._failure
        assert failure is not None
        if now >= self._plan.expires_at:
            return self._out_of_time(now)
        if server_was_away and self._may_run_again(failure):
            # It was not the operation's own failure, and the gate has paced this: neither attempts nor budget are asked.
            return self._begin(now)
        return self._mend(failure, now, draw)

    def _mend(self, failure: Failure, now: float, draw: float) -> Action:
        """Retry, resolve or end, by the operation's own means."""
        plan = self._plan
        if self._held_up() and (plan.keyed or self._doubt is not None):
            return self._wait(CONTENTION, failure, now, draw)
        if self._failed_at is Do.PROBE:
            if failure.failure_class is FailureClass.PERMANENT:
                return self._unknown(now)
            return self._wait_to_resolve(failure, now, draw)
        return self._decide(failure, now, draw)

    def _held_up(self) -> bool:
        """Whether the last thing that happened is that another transaction held the key."""
        failure = self._failure
        return self._failed_at is Do.CLAIM and failure is not None and failure.failure_class in _HELD_UP

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
            self._refund = decision.refund
            return self._sleep(decision.delay_s, failure)
        if self._may_rerun:
            self._reason = decision.reason
            if self.narrate and decision.reason is not StopReason.NOT_RETRYABLE:
                self.notes.append(
                    RetryDenied(plan.operation, self.attempts, failure.failure_class, decision.reason.value)
                )
        if self._doubt is not None:
            # The body may not run again, but the caller is still owed the truth about what was sent.
            self._may_rerun = False
            return self._wait_to_resolve(failure, now, draw)
        return self._give_up()

    def _wait_to_resolve(self, failure: Failure, now: float, draw: float) -> Action:
        return self._wait(self._plan.policy.allowances.get(FailureClass.AMBIGUOUS, CONTENTION), failure, now, draw)

    def _wait(self, pace: Allowance, failure: Failure, now: float, draw: float) -> Action:
        """Wait for another transaction's end, which is bounded by the deadline and not by attempts: the body does not run."""
        self._waits += 1
        left_s = self._plan.expires_at - now
        return self._sleep(min(pace.backoff.delay_s(self._waits, draw), max(left_s / 2, _WAIT_S_MIN)), failure)

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
            return self._begin(now) if self._may_rerun else self._give_up()
        if answer is ProbeAnswer.IN_PROGRESS:
            return self._wait_to_resolve(failure, now, draw)
        return self._unknown(now)

    # -- endings -----------------------------------------------------------------------------------------------------

    def _settle(self, outcome: Outcome, now: float) -> None:
        if self._doubt is not None:
            # What came after the ambiguous COMMIT was about the doubt; the operation failed of this.
            self._failure = self._doubt
            self._doubt = None
            if self.narrate:
                self.notes.append(CommitResolved(self._plan.operation, outcome, now - self._doubt_since))

    def _out_of_time(self, now: float) -> Action:
        self._reason = StopReason.DEADLINE
        if self._doubt is not None:
            return self._unknown(now)
        plan = self._plan
        name = plan.operation
        error: HoldfastError
        if plan.keyed and self._key_is_held:
            error = InProgress(
                f"{name}: another caller, or an attempt that the server has not ended yet, holds the key; "
                "ask again with the same key",
                failure=self._failure,
            )
        elif self._failure is not None and self._failure.failure_class is FailureClass.CONTENTION:
            error = Contended(
                f"{name}: lost against other transactions until the deadline passed; nothing was applied "
                f"[{self._failure}]",
                failure=self._failure,
            )
        else:
            known = self._failure
            cure = unreachable(known) if known is not None else ""
            error = DeadlineExceeded(
                f"{name}: the deadline passed before COMMIT was sent; nothing was applied"
                f"{f'; {cure}' if cure else ''}{f' [last failure: {known}]' if known is not None else ''}",
                failure=known,
            )
        return self._raise(error, Outcome.NOT_COMMITTED)

    def _give_up(self) -> Action:
        failure = self._failure
        assert failure is not None
        if failure.failure_class is FailureClass.PERMANENT and failure.flavour is None:
            return self._raise(None, Outcome.NOT_COMMITTED)
        if failure.failure_class is FailureClass.AMBIGUOUS:
            advice = "the connection failed while COMMIT was under way; it was found out that nothing was applied"
            resolved = Failure(FailureClass.LOST, failure.stage, failure.flavour, failure.code, failure.name)
            return self._raise(
                error_for(resolved, operation=self._plan.operation, advice=advice), Outcome.NOT_COMMITTED
            )
        if failure.failure_class is FailureClass.CANCELLED:
            advice = "the server stopped the statement (statement timeout or KILL QUERY); nothing was applied"
            return self._raise(error_for(failure, operation=self._plan.operation, advice=advice), Outcome.NOT_COMMITTED)
        return self._raise(error_for(failure, operation=self._plan.operation), Outcome.NOT_COMMITTED)

    def _unknown(self, now: float) -> Action:
        self._settle(Outcome.UNKNOWN, now)
        failure = self._failure
        error = OutcomeUnknown(
            f"{self._plan.operation}: COMMIT was sent and its answer is missing; it may have been applied. "
            f"{'Its key settles it: run it again with it, or ask db.outcome_of(error)' if self._plan.key else 'It had no key'} "
            f"[{failure}]",
            failure=failure,
        )
        error.operation_scope, error.operation_key = self._plan.scope, self._plan.key
        return self._raise(error, Outcome.UNKNOWN)

    def _raise(self, error: HoldfastError | None, outcome: Outcome) -> Action:
        self.outcome = outcome
        return Action(Do.RAISE, error=error)

    def _narrate_end(self, action: Action, now: float) -> None:
        failure = self._failure if action.do is Do.RAISE else None
        assert self.outcome is not None
        self.notes.append(
            OperationEnded(
                self._plan.operation,
                self.outcome,
                self.attempts,
                now - self._started_at,
                replayed=action.record is not None,
                failure_class=failure.failure_class if failure is not None else None,
            )
        )
