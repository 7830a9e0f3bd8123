"""The retry budget's stated bound, under any sequence of calls."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.budget import RetryBudget

WINDOW_S, RATIO, FLOOR_PER_S = 10.0, 0.25, 0.5


class Budget(RuleBasedStateMachine):
    """Deposits, spends and refunds at any times; every window is checked against the promise."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = RetryBudget(RATIO, FLOOR_PER_S, WINDOW_S)
        self.now = 1000.0
        self.successes: list[float] = []
        self.net: list[tuple[float, float]] = []
        self.refundable = 0.0

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.25, 0.9, 1.0, 3.0, 9.99, 10.0, 11.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 20))
    def calls_succeed(self, count: int) -> None:
        for _ in range(count):
            self.budget.deposit(self.now)
            self.successes.append(self.now)

    @rule(cost=st.sampled_from([0.5, 1.0, 2.0]), times=st.integers(1, 12))
    def retries_are_asked_for(self, cost: float, times: int) -> None:
        for _ in range(times):
            balance = self.budget.balance(self.now)
            granted = self.budget.try_spend(cost, self.now)
            assert granted == (balance >= cost)
            if granted:
                self.net.append((self.now, cost))
                self.refundable += cost
                self.check_the_bound()

    @precondition(lambda self: self.refundable >= 0.5)
    @rule()
    def a_retry_succeeds(self) -> None:
        self.budget.refund(0.5, self.now)
        self.net.append((self.now, -0.5))
        self.refundable -= 0.5

    def check_the_bound(self) -> None:
        slot_s = WINDOW_S / 10
        begins = self.now - WINDOW_S
        spent = sum(amount for at, amount in self.net if at >= begins)
        # A refund in the slot before the window is as good as a success there.
        returned = -sum(amount for at, amount in self.net if begins - slot_s <= at < begins and amount < 0)
        earned = RATIO * sum(1 for at in self.successes if at >= begins - slot_s)
        assert spent <= FLOOR_PER_S * WINDOW_S + earned + returned + 1e-9

    @invariant()
    def the_balance_is_never_negative(self) -> None:
        assert self.budget.balance(self.now) >= 0


Budget.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestBudget = Budget.TestCase
