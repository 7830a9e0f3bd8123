"""Calls whose caller has little time: what their host's breaker hears, and how long their body is waited for."""

from __future__ import annotations

import contextlib

import httpx2
import pytest

from holdfast.breaker import BreakerState, CircuitBreaker
from holdfast.deadline import within
from holdfast.decision import RetryPolicy
from holdfast.testing import ManualClock
from tests.unit.outgoing_calls import Sender, Service, Step


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sync", "async"])
def sender(request: pytest.FixtureRequest, clock: ManualClock) -> Sender:
    return Sender(request.param == "async", clock)


@pytest.mark.parametrize(
    ("late", "given", "opens"),
    [
        (httpx2.ReadTimeout("x"), 4.9, False),
        (httpx2.ReadTimeout("x"), 5.1, True),
        (httpx2.ConnectTimeout("x"), 0.9, False),
        (httpx2.ConnectTimeout("x"), 1.1, True),
        (504, 4.9, False),
        (504, 5.1, True),
        (503, 0.1, True),
        (httpx2.ReadError("x"), 0.1, True),
        (httpx2.ReadTimeout("x"), None, True),
    ],
)
def test_a_callers_short_deadline_opens_no_breaker(
    sender: Sender, clock: ManualClock, late: Step, given: float | None, opens: bool
) -> None:
    """No answer in time says something of the host only if it had half of the time that the client itself gives, or more."""
    made: list[CircuitBreaker] = []

    def make(host: str) -> CircuitBreaker:
        made.append(CircuitBreaker(host, calls_min=1, clock=clock))
        return made[0]

    service = Service(late)
    timeout = {"connect": 2.0, "read": 10.0, "write": 10.0, "pool": 2.0}
    hurry = contextlib.nullcontext() if given is None else within(given, clock=clock)
    with hurry, contextlib.suppress(httpx2.TransportError):
        sender.send(service, rules={"breaker": make, "policy": RetryPolicy.never()}, extensions={"timeout": timeout})
    assert [breaker.state for breaker in made] == [BreakerState.OPEN if opens else BreakerState.CLOSED]


@pytest.mark.parametrize(
    ("took", "own", "left"), [(3.0, 10.0, 2.0), (3.0, 1.0, 1.0), (3.0, None, 2.0), (5.0, 10.0, 0.001)]
)
def test_a_body_is_waited_for_as_long_as_is_left(
    clock: ManualClock, took: float, own: float | None, left: float
) -> None:
    """In a thread: the head may have taken most of what there was when the attempt began."""

    def slow_head(_request: httpx2.Request) -> httpx2.Response:
        clock.advance(took)
        return httpx2.Response(200)

    service = Service(slow_head)
    with within(5, clock=clock):
        Sender(False, clock).send(service, extensions={"timeout": {"read": own}})
    (request,) = service.requests
    assert request.extensions["timeout"]["read"] == pytest.approx(left)
