"""Hedged reads, and calls that are stopped under way: one more at most, and nothing goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from holdfast.breaker import BreakerState, CircuitBreaker
from holdfast.budget import RetryBudget
from holdfast.deadline import within
from holdfast.errors import ConfigurationError, OutcomeUnknown, report_of
from holdfast.ext.httpx2 import AsyncRetryTransport, CallRules, RetryTransport
from holdfast.layer import retry_layer
from holdfast.outcome import Outcome
from holdfast.testing import ManualClock
from tests.unit.outgoing_calls import Body, Service


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


# -- hedging -------------------------------------------------------------------------------------------------------------


class Slow(httpx2.AsyncBaseTransport):
    """Each request waits until it is answered from the test."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[httpx2.Response]] = []
        self.cancelled = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.waiting.append(asyncio.get_running_loop().create_future())
        try:
            return await self.waiting[-1]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def turns(number: int = 20) -> None:
    for _ in range(number):
        await asyncio.sleep(0)  # noqa: TID251 - a turn for the others, not a wait


def hedging(clock: ManualClock, inner: Slow, **rules: Any) -> AsyncRetryTransport:
    rules.setdefault("budget", RetryBudget(clock=clock))
    return AsyncRetryTransport(inner, CallRules(hedge_after=0.1, **rules), clock=clock)


def read(transport: AsyncRetryTransport, method: str = "GET") -> asyncio.Task[httpx2.Response]:
    return asyncio.create_task(transport.handle_async_request(httpx2.Request(method, "http://shop.example/")))


@pytest.mark.parametrize("winner", [0, 1])
async def test_a_hedge_is_one_more_and_the_first_answer_wins(clock: ManualClock, winner: int) -> None:
    """A slow read is sent once more, never twice; the other is cancelled and waited for; a token is taken."""
    inner, budget = Slow(), RetryBudget(ratio=0, clock=clock)
    task = read(hedging(clock, inner, budget=budget))
    await turns()
    assert len(inner.waiting) == 2
    inner.waiting[winner].set_result(httpx2.Response(200 + winner))
    assert (await task).status_code == 200 + winner
    assert (len(inner.waiting), inner.cancelled, budget.balance()) == (2, 1, 9)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_hedge_covers_the_failure_of_the_other(clock: ManualClock) -> None:
    """While one is under way a failure of the other is not the end; when both fail, what follows is decided once."""
    inner = Slow()
    task = read(hedging(clock, inner))
    await turns()
    inner.waiting[0].set_exception(httpx2.ReadError("x"))
    await turns()
    refused = Body([b"x"])
    inner.waiting[1].set_result(httpx2.Response(503, stream=refused))
    await turns()
    assert (len(inner.waiting), refused.closed) == (3, True)  # an attempt like any other, and no further hedge
    inner.waiting[2].set_result(httpx2.Response(200))
    assert (await task).status_code == 200
    assert len(inner.waiting) == 3


async def test_the_answer_that_comes_too_late_is_closed(clock: ManualClock) -> None:
    """Two answers at the same moment: one is given to the caller, the connection of the other goes back."""
    inner, bodies = Slow(), [Body([b"0"]), Body([b"1"])]
    task = read(hedging(clock, inner))
    await turns()
    for future, body in zip(inner.waiting, bodies, strict=True):
        future.set_result(httpx2.Response(200, stream=body))
    answer = await task
    assert sorted(body.closed for body in bodies) == [False, True]
    assert answer.stream is next(body for body in bodies if not body.closed)


async def test_what_is_not_hedged(clock: ManualClock) -> None:
    """Not what writes, not inside another retry layer, not without a token, and not with an open breaker."""
    empty = RetryBudget(ratio=0, floor_per_s=0, clock=clock)
    for method, rules in (("POST", {}), ("PUT", {}), ("GET", {"budget": empty})):
        inner = Slow()
        task = read(hedging(clock, inner, **rules), method)
        await turns()
        assert len(inner.waiting) == 1
        inner.waiting[0].set_result(httpx2.Response(200))
        await task
    inner = Slow()
    with retry_layer():
        task = read(hedging(clock, inner))
        await turns()
        assert len(inner.waiting) == 1
        inner.waiting[0].set_result(httpx2.Response(200))
        await task


class Reluctant(Slow):
    """A request that is cancelled takes until `release` to end."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await super().handle_async_request(request)
        except asyncio.CancelledError:
            await self.release.wait()
            raise


async def test_a_caller_who_leaves_while_the_other_ends_leaves_no_answer_open(clock: ManualClock) -> None:
    """However often it is cancelled: the answer that won goes back, and the other attempt is waited for."""
    inner, body = Reluctant(), Body([b"1"])
    task = read(hedging(clock, inner))
    await turns()
    inner.waiting[1].set_result(httpx2.Response(200, stream=body))
    await turns()
    for _ in range(2):
        task.cancel()
        await turns()
    inner.release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert body.closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelling_a_hedged_read_ends_both(clock: ManualClock) -> None:
    """Nothing goes on when the caller is gone, and no breaker takes it for a failure."""
    breaker, inner = CircuitBreaker("x", calls_min=1, clock=clock), Slow()
    task = read(hedging(clock, inner, breaker=lambda _: breaker))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (inner.cancelled, breaker.state, breaker.counts()) == (2, BreakerState.CLOSED, (0, 0))
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_threads_cannot_hedge() -> None:
    """The sync transport refuses rules that ask for it, and says why."""
    with pytest.raises(ConfigurationError, match="async client"):
        RetryTransport(httpx2.MockTransport(Service(200)), CallRules(hedge_after=0.1))


# -- being stopped -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "outcome"), [("GET", None), ("POST", Outcome.UNKNOWN)])
async def test_a_call_that_is_cancelled_under_way_may_have_been_done(
    clock: ManualClock, method: str, outcome: Outcome | None
) -> None:
    """Cancelled while it waits for its answer: for what writes the outcome is unknown, and the host is not blamed."""
    inner, breaker = Slow(), CircuitBreaker("x", calls_min=1, clock=clock)
    task = read(AsyncRetryTransport(inner, CallRules(breaker=lambda _: breaker), clock=clock), method)
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    report = report_of(caught.value)
    assert report is not None
    assert report.outcome is outcome
    assert (breaker.state, breaker.counts()) == (BreakerState.CLOSED, (0, 0))


async def test_a_block_that_is_cut_in_a_write_says_unknown() -> None:
    """The deadline of a block around a POST under way: whoever called learns that it may have been done."""
    transport = AsyncRetryTransport(Slow(), CallRules(margin=0))
    with pytest.raises(OutcomeUnknown):
        async with within(0.5):
            await transport.handle_async_request(httpx2.Request("POST", "http://shop.example/"))
