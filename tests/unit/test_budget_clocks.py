"""A retry budget and those who use it, each with a clock of its own."""

from __future__ import annotations

from contextlib import suppress

import pytest

from holdfast.backoff import Backoff
from holdfast.budget import BudgetOfOthers, RetryBudget, default_budget
from holdfast.errors import report_of
from holdfast.ext.sqlalchemy import Database
from holdfast.retry import retry
from holdfast.testing import ManualClock
from tests.unit.forms import FORMS, Flaky, Run, always

REFUSED = ConnectionRefusedError


@pytest.fixture(params=FORMS, ids=lambda form: form.__name__.removeprefix("by_"))
def run(request: pytest.FixtureRequest) -> Run:
    form: Run = request.param
    return form


def test_a_retry_on_another_clock_leaves_the_time_of_the_process_alone(run: Run) -> None:
    """The window of the process's budget is not moved to where that clock stands."""
    far = ManualClock(start=1e12)
    run(retry(on=REFUSED, clock=far), Flaky())
    with suppress(REFUSED):
        run(retry(on=REFUSED, clock=far), Flaky(*[REFUSED()] * 9))
    assert default_budget()._window.slot_ends < 1e12


def test_a_test_may_be_run_any_number_of_times_in_one_process(run: Run) -> None:
    """Each retry on a clock of its own has a budget of its own: none finds it spent by those before."""
    for _ in range(12):
        with pytest.raises(REFUSED) as caught:
            run(retry(on=REFUSED, attempts=3, clock=ManualClock(), random=always(0.5)), Flaky(*[REFUSED()] * 9))
        report = report_of(caught.value)
        assert report is not None
        assert report.reason == "attempts"


def test_the_private_budget_bounds_and_lives_on_its_clock(run: Run) -> None:
    """Its floor can be spent, and is back after a window of that clock."""
    clock = ManualClock()
    policy = retry(on=REFUSED, attempts=11, clock=clock, backoff=Backoff(base=0))

    def retries() -> int:
        function = Flaky(*[REFUSED()] * 99)
        with pytest.raises(REFUSED):
            run(policy, function)
        return function.calls - 1

    assert [retries(), retries()] == [10, 0]
    clock.advance(11.0)
    assert retries() == 10


def test_a_given_budget_is_never_told_the_time_of_another_clock(run: Run) -> None:
    """Success, retry and refund all count for when they are by the budget's own clock."""
    own = ManualClock(start=5.0)
    budget = RetryBudget(ratio=0.5, floor_per_s=0.2, window=10, clock=own)
    policy = retry(on=REFUSED, clock=ManualClock(start=1e6), budget=budget, backoff=Backoff(base=0))
    run(policy, Flaky(REFUSED(), REFUSED()))
    assert budget.balance() == 2 - 2 + 1 + 0.5
    assert budget._window.slot_ends == 6.0
    own.advance(20.0)
    assert budget.balance() == 2


def test_a_database_tells_a_shared_budget_no_time_of_its_clock() -> None:
    """Its operations spend from it as of the budget's own."""
    own = ManualClock()
    shared, clock = RetryBudget(clock=own), ManualClock(start=1e6)
    assert isinstance(Database("sqlite://", budget=shared, clock=clock)._runtime.budget, BudgetOfOthers)
    assert Database("sqlite://", budget=shared, clock=own)._runtime.budget is shared
