"""The decision whether a failure may be retried: its questions, their order, its explanation."""

from __future__ import annotations

import pytest

from holdfast.backoff import Backoff
from holdfast.budget import RetryBudget
from holdfast.decision import CONNECTION, CONTENTION, OVERLOAD, Allowance, RetryPolicy, Situation, StopReason, decide
from holdfast.errors import ConfigurationError
from holdfast.outcome import Failure, FailureClass, Stage, Verdict

LOST = Failure(FailureClass.LOST, Stage.BODY, "mysql", 2013, "CR_SERVER_LOST")
AMBIGUOUS = Failure(FailureClass.AMBIGUOUS, Stage.COMMIT, "mysql", 2013, "CR_SERVER_LOST")
USUAL = Situation(LOST, failures=1, now=100.0, draw=0.5)


class Asked:
    """A budget that grants everything and notes what it was asked."""

    def __init__(self) -> None:
        self.costs: list[float] = []

    def try_spend(self, cost: float, now: float) -> bool:
        self.costs.append(cost)
        return True


def test_a_usual_failure_is_retried() -> None:
    """Half of the first ceiling later, for one token."""
    decision = decide(USUAL, RetryPolicy(), Asked())
    assert (decision.verdict, decision.delay_s, decision.refund) == (Verdict.RETRY, 0.025, 1.0)
    assert decision.reason is None


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"failure": Failure(FailureClass.PERMANENT, Stage.BODY)}, StopReason.NOT_RETRYABLE),
        ({"failure": Failure(FailureClass.EXHAUSTED, Stage.BODY)}, StopReason.NOT_RETRYABLE),
        ({"failure": Failure(FailureClass.CANCELLED, Stage.BODY)}, StopReason.NOT_RETRYABLE),
        ({"nested": True}, StopReason.NESTED),
        ({"exhausted": True}, StopReason.NESTED),
        ({"failure": AMBIGUOUS}, StopReason.MAY_BE_APPLIED),
        ({"failures": 5}, StopReason.ATTEMPTS),
        ({"expires_at": 100.02}, StopReason.DEADLINE),
        ({"expires_at": 99.0}, StopReason.DEADLINE),
    ],
)
def test_each_question_can_forbid_it_and_costs_nothing(change: dict[str, object], reason: StopReason) -> None:
    """The reason is named, the last check explains it, and the budget was not asked."""
    budget = Asked()
    decision = decide(USUAL._replace(**change), RetryPolicy(), budget)  # type: ignore[arg-type]
    assert (decision.verdict, decision.reason, decision.delay_s) == (Verdict.GIVE_UP, reason, 0.0)
    assert budget.costs == []
    assert decision.explain().endswith(f"=> give_up ({reason})")


def test_the_budget_is_asked_last_and_can_forbid_it() -> None:
    """An empty budget stops a retry that everything else allows."""
    decision = decide(USUAL, RetryPolicy(), RetryBudget(ratio=0, floor_per_s=0))
    assert decision.reason is StopReason.BUDGET
    assert decision.checks[-1] == ("within the budget?", "no")


def test_the_first_objection_wins() -> None:
    """With every objection at once they come up in the order of the module's picture."""
    worst = Situation(AMBIGUOUS, failures=99, now=100.0, draw=0.5, expires_at=0.0, nested=True)
    empty = RetryBudget(ratio=0, floor_per_s=0)
    reasons = [decide(worst, RetryPolicy.never(), empty).reason]
    for better in ({"nested": False}, {"idempotent": True}, {"failures": 1}, {"expires_at": None}):
        reasons.append(decide(worst, RetryPolicy(), empty).reason)
        worst = worst._replace(**better)
    reasons.append(decide(worst, RetryPolicy(), empty).reason)
    assert reasons == [reason for reason in StopReason if reason is not StopReason.SUCCEEDED]


@pytest.mark.parametrize(
    "promise, verdict", [({"idempotent": True}, Verdict.RETRY), ({"resolvable": True}, Verdict.RESOLVE)]
)
def test_a_doubt_is_settled_by_promise_or_by_finding_out(promise: dict[str, bool], verdict: Verdict) -> None:
    """Idempotent work is just run again; what can be found out is found out first."""
    decision = decide(USUAL._replace(failure=AMBIGUOUS, **promise), RetryPolicy())
    assert decision.verdict is verdict


def test_contention_costs_nothing() -> None:
    """It is not the server's trouble: the budget is not even asked."""
    budget = Asked()
    decision = decide(USUAL._replace(failure=Failure(FailureClass.CONTENTION, Stage.BODY)), RetryPolicy(), budget)
    assert (decision.verdict, decision.refund, budget.costs) == (Verdict.RETRY, 0.0, [])


@pytest.mark.parametrize("failure_class, refund", [(FailureClass.LOST, 1.0), (FailureClass.OVERLOAD, 0.0)])
def test_what_had_too_much_to_do_gives_no_token_back(failure_class: FailureClass, refund: float) -> None:
    """The retry was load that it could have done without, whatever came of it."""
    budget = Asked()
    decision = decide(USUAL._replace(failure=Failure(failure_class, Stage.BODY)), RetryPolicy(), budget)
    assert (decision.verdict, decision.refund, budget.costs) == (Verdict.RETRY, refund, [1.0])


def test_a_hint_is_honoured_within_bounds_and_within_the_deadline() -> None:
    """The other side's wish lengthens the delay, unless the deadline is earlier."""
    hinted = USUAL._replace(failure=LOST._replace(retry_after_s=3.0))
    assert decide(hinted, RetryPolicy()).delay_s == 3.0
    assert decide(hinted._replace(expires_at=102.0), RetryPolicy()).reason is StopReason.DEADLINE


def test_the_explanation_reads_like_a_conversation() -> None:
    """One line a question, the verdict last."""
    decision = decide(USUAL._replace(expires_at=110.0), RetryPolicy(), Asked())
    assert decision.explain().splitlines() == [
        "retryable? yes: lost at body: mysql 2013 CR_SERVER_LOST",
        "attempts left? 1 of 5 used",
        "fits the deadline? delay 0.025 s, 10.000 s left",
        "within the budget? yes",
        "=> retry in 0.025 s",
    ]


def test_defaults_are_the_documented_ones() -> None:
    """Contention 8 attempts, connection 5, overload 2; the total is bounded."""
    assert (CONTENTION.attempts, CONNECTION.attempts, OVERLOAD.attempts) == (8, 5, 2)
    assert RetryPolicy().attempts_max == 1 + 7 + 4 + 1  # one allowance serves all connection failures together
    assert RetryPolicy.never().attempts_max == 1


@pytest.mark.parametrize("attempts", [0, -3, 2.5])
def test_an_allowance_is_a_positive_whole_number(attempts: int) -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigurationError, match="attempts"):
        Allowance(attempts, Backoff())
