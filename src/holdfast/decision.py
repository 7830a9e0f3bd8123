"""May this be retried? The one place that answers, for plain functions and for transactions alike.

    Is the failure of a kind that another attempt can mend?         no -> NOT_RETRYABLE
    Does an outer layer retry already, or did an inner one give up? yes -> NESTED
    Could the work have been applied, and is rerunning it unsafe?   yes -> MAY_BE_APPLIED
    Are attempts left for this kind of failure?                     no -> ATTEMPTS
    Does the delay fit before the deadline?                         no -> DEADLINE
    Does the retry budget allow it?                                 no -> BUDGET

The budget comes last because asking takes its tokens: a retry that another question forbids must not cost any.
`Decision.explain()` spells out the answers. Nothing here sleeps, reads a clock or draws a number.

What is only carried from here to there is a named tuple: a frozen dataclass is the same to whoever reads it, and four times as
dear to make, at every start of every program.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol, Self

from .backoff import Backoff
from .bounds import instance_of, whole_number
from .outcome import Failure, FailureClass, Verdict

__all__ = [
    "CONNECTION",
    "CONTENTION",
    "OVERLOAD",
    "Allowance",
    "Budget",
    "Decision",
    "RetryPolicy",
    "Situation",
    "StopReason",
    "decide",
]


class StopReason(StrEnum):
    """Why there is no further attempt."""

    SUCCEEDED = "succeeded"
    NOT_RETRYABLE = "not_retryable"
    NESTED = "nested"
    MAY_BE_APPLIED = "may_be_applied"
    ATTEMPTS = "attempts"
    DEADLINE = "deadline"
    BUDGET = "budget"


class _Allowance(NamedTuple):
    attempts: int
    backoff: Backoff


class Allowance(_Allowance):
    """How often, and at what pace, one kind of failure is retried.

    Attributes:
        attempts: attempts in all, the first included; 1 or more (1: never retry).
        backoff: the delays between them.

    Raises:
        ConfigurationError: `attempts` is outside its bounds, or `backoff` is none.
    """

    __slots__ = ()

    def __new__(cls, attempts: int, backoff: Backoff) -> Self:
        """The allowance, once its number is checked."""
        whole_number(attempts, "attempts", 1)
        instance_of(backoff, Backoff, "backoff")
        return super().__new__(cls, attempts, backoff)


CONTENTION = Allowance(8, Backoff(base=0.005, cap=0.5))
"""The loser of a lock conflict only has to come at another moment (MongoDB's figures: 5 ms, 500 ms)."""

CONNECTION = Allowance(5, Backoff(base=0.05, cap=5.0))
"""A lost or refused connection: 50 ms (AWS SDKs, 2026) up to 5 s."""

OVERLOAD = Allowance(2, Backoff(base=1.0, cap=20.0))
"""A server that says it has too much to do is asked once more, a second later."""

_DEFAULT_ALLOWANCES: Mapping[FailureClass, Allowance] = {
    FailureClass.CONTENTION: CONTENTION,
    FailureClass.UNSENT: CONNECTION,
    FailureClass.LOST: CONNECTION,
    FailureClass.AMBIGUOUS: CONNECTION,
    FailureClass.ROLE_CHANGED: CONNECTION,
    FailureClass.OVERLOAD: OVERLOAD,
}


class RetryPolicy(NamedTuple):
    """Which failure classes are retried, and how. A class without an allowance is not retried.

    Attributes:
        allowances: failure class to allowance. The default retries everything but `EXHAUSTED`, `PERMANENT` and `CANCELLED`.
    """

    allowances: Mapping[FailureClass, Allowance] = _DEFAULT_ALLOWANCES

    @classmethod
    def never(cls) -> RetryPolicy:
        """The policy that retries nothing."""
        return cls({})

    @property
    def attempts_max(self) -> int:
        """The most attempts one operation can make, whatever mixture of failures it meets: classes share an allowance."""
        return 1 + sum(allowance.attempts - 1 for allowance in set(self.allowances.values()))


class Budget(Protocol):
    """What `decide` asks of a retry budget (`budget.RetryBudget` is one)."""

    def try_spend(self, cost: float, now: float) -> bool:
        """Take `cost` tokens if they are there at `now` (seconds, monotonic); whether they were."""


class Situation(NamedTuple):
    """What is known when an attempt has failed.

    Attributes:
        failure: the classified failure.
        failures: how many attempts failed with an allowance of this kind so far, this one included.
        now: seconds, monotonic.
        draw: a number from [0, 1) for the jitter.
        expires_at: the deadline on the same clock, or None.
        idempotent: the author's promise that running the work twice equals running it once.
        resolvable: an ambiguous outcome can be found out (a transaction with a key can, a plain function cannot).
        nested: an outer retry layer is active.
        exhausted: an inner retry layer already gave up on this failure.
    """

    failure: Failure
    failures: int
    now: float
    draw: float
    expires_at: float | None = None
    idempotent: bool = False
    resolvable: bool = False
    nested: bool = False
    exhausted: bool = False


class Decision(NamedTuple):
    """The answer, with the way it was reached.

    Attributes:
        verdict: what to do next.
        delay_s: how long to wait before it, in seconds (0.0 for `GIVE_UP`).
        reason: why not, for `GIVE_UP`; otherwise None.
        refund: tokens for the budget, if what is tried next succeeds.
        checks: (question, answer) pairs in the order asked; the last one decided.
    """

    verdict: Verdict
    delay_s: float = 0.0
    reason: StopReason | None = None
    refund: float = 0.0
    checks: tuple[tuple[str, str], ...] = ()

    def explain(self) -> str:
        """The decision as text: one line a question, then the verdict."""
        lines = [f"{question} {answer}" for question, answer in self.checks]
        end = f"in {self.delay_s:.3f} s" if self.reason is None else f"({self.reason})"
        return "\n".join([*lines, f"=> {self.verdict} {end}"])


def decide(situation: Situation, policy: RetryPolicy, budget: Budget | None = None) -> Decision:
    """What to do after a failure.

    Args:
        situation: what is known.
        policy: which classes are retried, how often and at what pace.
        budget: asked last, and only when everything else allows a retry; None: no budget applies.

    Returns:
        `RETRY` or `RESOLVE` with a delay, or `GIVE_UP` with the reason. Deterministic in its arguments and the budget's state.
    """
    failure_class = situation.failure.failure_class
    checks: list[tuple[str, str]] = []

    def give_up(reason: StopReason) -> Decision:
        return Decision(Verdict.GIVE_UP, reason=reason, checks=tuple(checks))

    allowance = policy.allowances.get(failure_class)
    checks.append(("retryable?", f"{'no' if allowance is None else 'yes'}: {situation.failure}"))
    if allowance is None:
        return give_up(StopReason.NOT_RETRYABLE)

    if situation.nested or situation.exhausted:
        which = (
            "an inner layer has used up its attempts" if situation.exhausted else "an outer retry layer is in charge"
        )
        checks.append(("the only retry layer?", f"no: {which}"))
        return give_up(StopReason.NESTED)

    ambiguous = failure_class is FailureClass.AMBIGUOUS
    if ambiguous and not situation.idempotent and not situation.resolvable:
        checks.append(("safe to run again?", "no: it may have been applied, and nobody promised idempotent=True"))
        return give_up(StopReason.MAY_BE_APPLIED)
    if ambiguous:
        checks.append(("safe to run again?", "yes: idempotent" if situation.idempotent else "yes: once it is resolved"))

    checks.append(("attempts left?", f"{situation.failures} of {allowance.attempts} used"))
    if situation.failures >= allowance.attempts:
        return give_up(StopReason.ATTEMPTS)

    delay_s = allowance.backoff.delay_s(situation.failures, situation.draw, situation.failure.retry_after_s)
    if situation.expires_at is not None:
        left_s = situation.expires_at - situation.now
        checks.append(("fits the deadline?", f"delay {delay_s:.3f} s, {max(0.0, left_s):.3f} s left"))
        if delay_s >= left_s:
            return give_up(StopReason.DEADLINE)

    cost, refund = failure_class.budget_cost, 0.0
    if budget is not None and cost > 0:
        granted = budget.try_spend(cost, situation.now)
        checks.append(("within the budget?", "yes" if granted else "no"))
        if not granted:
            return give_up(StopReason.BUDGET)
        refund = failure_class.budget_refund

    verdict = Verdict.RESOLVE if ambiguous and not situation.idempotent else Verdict.RETRY
    return Decision(verdict, delay_s=delay_s, refund=refund, checks=tuple(checks))
