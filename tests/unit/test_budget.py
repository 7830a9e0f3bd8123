"""The retry budget: what retries may add to the load."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from holdfast.budget import RetryBudget, default_budget
from holdfast.errors import ConfigurationError


def test_the_floor_can_be_spent_at_once_and_no_more() -> None:
    """Without a success, a window's worth of the floor is there, once."""
    budget = RetryBudget(ratio=0.1, floor_per_s=1, window=10)
    assert [budget.try_spend(1, now=0.0) for _ in range(12)] == [True] * 10 + [False] * 2


def test_ten_successes_earn_exactly_one_retry() -> None:
    """Ten tenths make one token, without a rounding error."""
    budget = RetryBudget(ratio=0.1, floor_per_s=0)
    for _ in range(9):
        budget.deposit(now=0.0)
    assert not budget.try_spend(1, now=0.0)
    budget.deposit(now=0.0)
    assert budget.try_spend(1, now=0.0)
    assert not budget.try_spend(1, now=0.0)


def test_a_refund_can_be_spent_again() -> None:
    """What a successful retry gives back is there for the next one."""
    budget = RetryBudget(ratio=0, floor_per_s=0.1, window=10)
    assert budget.try_spend(1, now=0.0)
    budget.refund(1, now=0.5)
    assert budget.try_spend(1, now=0.5)
    assert not budget.try_spend(1, now=0.5)


@pytest.mark.parametrize("later_s, balance", [(9.9, 1.0), (11.0, 0.0), (1e6, 0.0)])
def test_successes_are_forgotten_after_the_window(later_s: float, balance: float) -> None:
    """A success counts for the window, and for at most a slot longer."""
    budget = RetryBudget(ratio=1, floor_per_s=0, window=10)
    budget.deposit(now=100.0)
    assert budget.balance(now=100.0 + later_s) == balance


def test_spending_is_forgotten_after_the_window() -> None:
    """An empty budget has its floor back after a window without load."""
    budget = RetryBudget(ratio=0.1, floor_per_s=1, window=10)
    for _ in range(10):
        assert budget.try_spend(1, now=0.0)
    assert budget.balance(now=9.9) == 0
    assert budget.balance(now=11.1) == 10


def test_a_clock_read_too_early_by_another_thread_changes_nothing() -> None:
    """A `now` behind the newest slot counts into the newest slot."""
    budget = RetryBudget(ratio=1, floor_per_s=0, window=10)
    budget.deposit(now=50.0)
    budget.deposit(now=12.0)
    assert budget.balance(now=50.0) == 2


def test_slots_close_once_even_on_a_rounding_error() -> None:
    """Reading again and again at one moment forgets nothing, also where slot times are no exact binary fractions."""
    for tenths in range(1, 300):
        budget = RetryBudget(ratio=1, floor_per_s=0, window=1)
        budget.deposit(now=0.0)
        now = 0.0
        for _ in range(tenths % 10):
            now += 0.1
        for _ in range(20):
            assert budget.balance(now=now) == 1


def test_an_outage_adds_no_more_than_the_floor_and_the_tenth() -> None:
    """100 calls a second that all fail for a minute: retries stay within 1.1 times the load and the floor."""
    budget = RetryBudget()
    for tick in range(1_000):  # ten good seconds
        budget.deposit(now=tick / 100)
    retries = sum(budget.try_spend(1, now=10 + tick / 100) for tick in range(6_000))
    assert retries <= 0.1 * 1_000 + 1.0 * (60 + 10)


def test_what_it_costs_is_free_is_always_granted() -> None:
    """A cost of nothing (contention) is granted by an empty budget."""
    assert RetryBudget(ratio=0, floor_per_s=0).try_spend(0, now=0.0)


def test_no_token_is_made_or_lost_between_threads() -> None:
    """64 threads deposit, spend and refund at once: the balance is exact afterwards."""
    budget = RetryBudget(ratio=0.5, floor_per_s=0, window=10)
    start = threading.Barrier(64)
    granted = [0] * 64

    def work(index: int) -> None:
        start.wait()
        for _ in range(200):
            budget.deposit(now=1.0)
            budget.deposit(now=1.0)
            granted[index] += budget.try_spend(1, now=1.0)
            if budget.try_spend(1, now=1.0):
                budget.refund(1, now=1.0)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.balance(now=1.0) == 64 * 200 - sum(granted)
    assert sum(granted) > 0


@pytest.mark.parametrize(
    "settings, named",
    [({"ratio": -0.1}, "ratio"), ({"floor_per_s": float("inf")}, "floor_per_s"), ({"window": 0}, "window")],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    """A value outside its bounds names the setting."""
    with pytest.raises(ConfigurationError, match=named):
        RetryBudget(**settings)


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf")])
def test_a_cost_that_would_make_tokens_is_refused(cost: float) -> None:
    """Neither spending nor refunding takes a negative or endless cost."""
    budget = RetryBudget()
    with pytest.raises(ConfigurationError, match="cost"):
        budget.try_spend(cost, now=0.0)
    with pytest.raises(ConfigurationError, match="cost"):
        budget.refund(cost, now=0.0)


def test_there_is_one_default_for_the_process() -> None:
    """Everything that was given no budget shares one."""
    assert default_budget() is default_budget()
    assert default_budget().name == "default"
