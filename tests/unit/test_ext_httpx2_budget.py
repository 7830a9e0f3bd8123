"""What the retries of outgoing calls add to the load of a service that has trouble: a tenth, and the floor."""

from __future__ import annotations

import httpx2
import pytest

from holdfast.budget import RetryBudget, default_budget
from holdfast.testing import ManualClock
from tests.unit.outgoing_calls import Sender, Service


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def sender(request: pytest.FixtureRequest) -> Sender:
    return Sender(request.param, ManualClock())


def test_a_service_that_is_down_gets_a_tenth_more_and_the_floor(sender: Sender) -> None:
    """A storm: 200 callers of a dead service send at most 1.1 times as much as without retries, and the floor."""
    budget = RetryBudget(ratio=0.1, floor_per_s=1.0, window=10.0, clock=sender.clock)
    steady = Service(200)
    for _ in range(200):
        sender.send(steady, rules={"budget": budget, "breaker": None})
    service = Service(httpx2.ReadError("x"))
    began = sender.clock.monotonic()
    for _ in range(200):
        with pytest.raises(httpx2.ReadError):
            sender.send(service, rules={"budget": budget, "breaker": None})
    windows = 1 + (sender.clock.monotonic() - began) // 10
    assert 200 < len(service.requests) <= 200 * 1.1 + 10 * windows


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_service_that_turns_a_third_away_gets_a_tenth_more(sender: Sender, status: int) -> None:
    """Most retries succeed there, and each was load that the service could have done without."""
    budget = RetryBudget(ratio=0.1, floor_per_s=1.0, window=10.0, clock=sender.clock)
    began, tries = sender.clock.monotonic(), 0
    for number in range(3_000):
        sender.clock.advance(max(0.0, began + number / 100 - sender.clock.monotonic()))
        service = Service(*([status, 200] if number % 3 == 0 else [200]))
        sender.send(service, rules={"budget": budget, "breaker": None})
        tries += len(service.requests)
    assert tries <= 1.1 * 3_000 + (sender.clock.monotonic() - began) + 10


def test_a_clock_of_its_own_and_the_budget_of_the_process_never_meet(sender: Sender) -> None:
    """A client on another clock has a private budget, and a given one is not told the other clock's time."""
    sender.clock.advance(1e12)
    given = RetryBudget(floor_per_s=0.2, clock=ManualClock())
    for budget in (default_budget(), given):
        assert sender.send(Service(httpx2.ConnectError("x"), 200), rules={"budget": budget}).status_code == 200
        assert budget._window.slot_ends < 1e12
    assert given.balance() == pytest.approx(2.1)
