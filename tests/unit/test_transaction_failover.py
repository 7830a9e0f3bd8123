"""The engine beside the failover gate: when it has the server awaited, and what an outage costs the operation: nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import exc

from holdfast.budget import RetryBudget
from holdfast.decision import RetryPolicy
from holdfast.errors import DeadlineExceeded, OutcomeUnknown, Unavailable
from holdfast.ext.sqlalchemy.unit import Unit
from holdfast.failover import FailoverGate
from holdfast.outcome import Failure, FailureClass, Outcome, Stage
from holdfast.testing import ManualClock
from holdfast.transaction import Action, Do, Engine, Happening, Plan, Protection, What

EXPIRES_AT = 110.0

FINE: dict[Do, What] = {
    Do.BEGIN: What.BEGAN,
    Do.CLAIM: What.CLAIMED,
    Do.RUN: What.RETURNED,
    Do.STORE: What.STORED,
    Do.COMMIT: What.ACKNOWLEDGED,
    Do.ROLL_BACK: What.ROLLED_BACK,
    Do.DISCARD: What.DISCARDED,
    Do.SLEEP: What.SLEPT,
}


def doubtful(failure_class: FailureClass, stage: Stage, **rest: Any) -> Happening:
    return Happening(What.FAILED, failure=Failure(failure_class, stage, code=1, server_in_doubt=True, **rest))


REFUSED = doubtful(FailureClass.UNSENT, Stage.CONNECT)
LOST = doubtful(FailureClass.LOST, Stage.BODY, connection_usable=False)
READ_ONLY = doubtful(FailureClass.ROLE_CHANGED, Stage.BODY)
AMBIGUOUS = doubtful(FailureClass.AMBIGUOUS, Stage.COMMIT, connection_usable=False)
WAS_AWAY = Happening(What.AWAITED, server_was_away=True)
WAS_THERE = Happening(What.AWAITED, server_was_away=False)


class Purse:
    """A budget that has nothing, and counts who asked."""

    asked = 0

    def try_spend(self, cost: float, now: float) -> bool:
        self.asked += 1
        return False

    def refund(self, cost: float, now: float) -> None:
        raise AssertionError("nothing was spent")

    def deposit(self, now: float) -> None:
        pass


class Driven:
    """An engine whose steps take no time unless told so."""

    def __init__(self, protection: Protection = Protection.KEY, **settings: Any) -> None:
        settings.setdefault("fingerprint", "f")
        self.engine = Engine(Plan("transfer", EXPIRES_AT, protection, **settings))
        self.now = 100.0
        self.done: list[Do] = []
        self.action = self.tell(Happening(What.STARTED))

    def tell(self, happened: Happening, *, after_s: float = 0.0) -> Action:
        self.now += after_s
        self.action = self.engine.step(happened, self.now, 0.5)
        self.done.append(self.action.do)
        return self.action

    def until(self, *wanted: Do) -> Action:
        """Let everything go well until one of `wanted` is asked."""
        while self.action.do not in wanted:
            self.now += self.action.delay_s
            self.tell(Happening(FINE[self.action.do]))
        return self.action

    def lose(self, at: Do, happened: Happening) -> Do:
        """Fail at `at`, clean up, and see what comes next."""
        self.until(at)
        self.tell(happened)
        while self.action.do in {Do.ROLL_BACK, Do.DISCARD}:
            self.tell(Happening(FINE[self.action.do]))
        return self.action.do


@pytest.mark.parametrize(
    ("at", "happened"),
    [
        (Do.BEGIN, REFUSED),
        (Do.CLAIM, LOST),
        (Do.RUN, LOST),
        (Do.RUN, READ_ONLY),
        (Do.STORE, LOST),
        (Do.COMMIT, AMBIGUOUS),
    ],
)
def test_lost_server_is_awaited_with_nothing_held(at: Do, happened: Happening) -> None:
    """Wherever the server went, the connection is given up first; then the operation waits, and begins again at once."""
    driven = Driven(keyed=True)
    assert driven.lose(at, happened) is Do.AWAIT_SERVER
    before = len(driven.done)
    driven.tell(WAS_AWAY, after_s=3.0)
    driven.until(Do.RETURN)
    assert driven.done[before:] == [Do.BEGIN, Do.CLAIM, Do.RUN, Do.STORE, Do.COMMIT, Do.RETURN]


def test_failure_that_is_not_the_servers_is_not_awaited() -> None:
    """A connection lost while nobody doubts the server is the operation's own."""
    driven = Driven()
    assert LOST.failure is not None
    own = replace(LOST, failure=LOST.failure._replace(server_in_doubt=False))
    assert driven.lose(Do.RUN, own) is Do.SLEEP


def test_outages_cost_neither_attempts_nor_budget() -> None:
    """However often the server goes, an operation that has time is run again without asking for leave."""
    purse = Purse()
    driven = Driven(budget=purse, policy=RetryPolicy())
    for _ in range(50):
        driven.lose(Do.RUN, LOST)
        assert driven.tell(WAS_AWAY).do is Do.BEGIN
    assert driven.until(Do.RETURN, Do.RAISE).do is Do.RETURN
    assert purse.asked == 0
    assert driven.engine.attempts == 51


def test_server_that_was_there_leaves_the_failure_to_the_operation() -> None:
    """Then budget and allowance decide as always."""
    purse = Purse()
    driven = Driven(budget=purse)
    driven.lose(Do.RUN, LOST)
    action = driven.tell(WAS_THERE)
    assert purse.asked == 1
    assert (action.do, type(action.error)) == (Do.RAISE, Unavailable)
    patient = Driven()
    patient.lose(Do.RUN, LOST)
    assert patient.tell(WAS_THERE).do is Do.SLEEP


@pytest.mark.parametrize(
    "settings",
    [
        {"rerunnable": False},
        {"nested": True},
        {"policy": RetryPolicy({FailureClass.CONTENTION: RetryPolicy().allowances[FailureClass.CONTENTION]})},
    ],
)
def test_who_would_not_go_on_does_not_wait(settings: dict[str, Any]) -> None:
    """A block whose body ran, an operation inside another retry layer, a policy without that allowance: they end at once."""
    driven = Driven(**settings)
    assert driven.lose(Do.RUN, LOST) is Do.RAISE
    assert driven.engine.outcome is Outcome.NOT_COMMITTED


def test_block_whose_body_did_not_run_waits() -> None:
    """Nothing was done yet, so nothing has to be done again."""
    driven = Driven(rerunnable=False)
    assert driven.lose(Do.BEGIN, REFUSED) is Do.AWAIT_SERVER
    assert driven.tell(WAS_AWAY).do is Do.BEGIN


@pytest.mark.parametrize("settings", [{"rerunnable": False}, {"nested": True}, {"policy": RetryPolicy({})}])
@pytest.mark.parametrize("protection", [Protection.KEY, Protection.STATUS])
def test_doubt_waits_for_the_server_and_never_runs_the_body_again(
    protection: Protection, settings: dict[str, Any]
) -> None:
    """Whoever sent a COMMIT is owed the truth; but what may run once runs once, also when the server was away."""
    driven = Driven(protection, **settings)
    assert driven.lose(Do.COMMIT, AMBIGUOUS) is Do.AWAIT_SERVER
    driven.tell(WAS_AWAY)
    settling = driven.until(Do.PROBE, Do.CLAIM, Do.RUN, Do.RAISE)
    assert (settling.do, settling.settling) == (
        (Do.PROBE, False) if protection is Protection.STATUS else (Do.CLAIM, True)
    )
    assert driven.done.count(Do.RUN) == 1


def test_doubt_without_protection_does_not_wait() -> None:
    """There is nothing to find out."""
    driven = Driven(Protection.NONE)
    assert driven.lose(Do.COMMIT, AMBIGUOUS) is Do.RAISE
    assert isinstance(driven.action.error, OutcomeUnknown)


def test_deadline_that_is_over_is_not_waited_past() -> None:
    """Who has no time left is told so, before the wait and after it."""
    late = Driven()
    late.until(Do.RUN)
    late.now = EXPIRES_AT
    assert late.lose(Do.RUN, LOST) is Do.RAISE
    driven = Driven()
    driven.lose(Do.RUN, LOST)
    action = driven.tell(WAS_AWAY, after_s=10.0)
    assert (action.do, type(action.error)) == (Do.RAISE, DeadlineExceeded)


def test_doubt_at_the_deadline_is_unknown() -> None:
    """The server did not come back in time, so nobody knows."""
    driven = Driven()
    driven.lose(Do.COMMIT, AMBIGUOUS)
    action = driven.tell(WAS_THERE, after_s=10.0)
    assert (action.do, type(action.error)) == (Do.RAISE, OutcomeUnknown)


def test_question_about_a_doubt_waits_too() -> None:
    """A server that goes while it is asked what became of a transaction is asked again when it is back."""
    driven = Driven(Protection.STATUS)
    driven.lose(Do.COMMIT, AMBIGUOUS)
    assert driven.tell(WAS_AWAY).do is Do.PROBE
    assert driven.tell(REFUSED).do is Do.AWAIT_SERVER
    assert driven.tell(WAS_AWAY).do is Do.PROBE


def test_refusal_at_the_gate_ends_the_operation() -> None:
    """Too many wait already: the caller is told so, as the gate said it, and nothing here waits once more."""
    driven = Driven()
    driven.lose(Do.RUN, LOST)
    refused = Failure(FailureClass.PERMANENT, Stage.CONNECT, name="NoWriter")
    action = driven.tell(Happening(What.FAILED, failure=refused))
    assert (action.do, action.error, driven.engine.outcome) == (Do.RAISE, None, Outcome.NOT_COMMITTED)


def test_cancellation_at_the_gate_ends_the_operation() -> None:
    """The caller left while it waited: nothing is held, and nothing was applied."""
    driven = Driven()
    driven.lose(Do.RUN, LOST)
    cancelled = Happening(What.FAILED, failure=Failure(FailureClass.CANCELLED, Stage.CONNECT), interrupted=True)
    action = driven.tell(cancelled)
    assert (action.do, action.error, driven.engine.outcome) == (Do.RAISE, None, Outcome.NOT_COMMITTED)


# -- the unit ------------------------------------------------------------------------------------------------------------


def test_question_that_fails_after_an_outage_is_news() -> None:
    """A server that goes again after an outage is suspected again, or asking would not be paced by anything."""

    def refuse() -> None:
        raise exc.OperationalError("connect", None, ConnectionRefusedError())

    clock = ManualClock()
    gate = FailoverGate(waiting_max=10, clock=clock, wake_search=lambda: None)
    runtime: Any = SimpleNamespace(
        failover=SimpleNamespace(gate=gate), engine=SimpleNamespace(connect=refuse), clock=clock
    )
    unit: Unit[None] = Unit(runtime, "transfer", None, expires_at=clock.monotonic(), protection=Protection.STATUS)
    unit._transaction_id = "7"
    gate.proven()
    assert gate.outages == 1
    with pytest.raises(exc.OperationalError):
        unit.probe()
    assert unit.await_server() is False
    assert gate.phase == "suspect"


def test_a_retry_that_failed_gets_no_token_back() -> None:
    """Also where the next attempt was free, because the server was away: the token was for the one that failed."""
    budget = RetryBudget(ratio=0, floor_per_s=1)
    driven = Driven(budget=budget)
    failure = Failure(FailureClass.LOST, Stage.BODY, code=1, connection_usable=False)
    driven.lose(Do.RUN, Happening(What.FAILED, failure=failure))
    assert budget.balance(driven.now) == 9.0
    assert driven.lose(Do.RUN, LOST) is Do.AWAIT_SERVER
    driven.tell(WAS_AWAY)
    driven.until(Do.RETURN)
    assert budget.balance(driven.now) == 9.0
