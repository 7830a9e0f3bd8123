"""Retry at one layer only: who is in charge, and what the others say."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.budget import RetryBudget
from holdfast.errors import Report, attach_report, report_of
from holdfast.layer import retry_is_active, retry_layer
from holdfast.retry import retry
from holdfast.testing import ManualClock
from tests.unit.forms import FORMS, SYNC_FORMS, Flaky, Run

REFUSED = ConnectionRefusedError


@pytest.fixture(params=FORMS, ids=lambda form: form.__name__.removeprefix("by_"))
def run(request: pytest.FixtureRequest) -> Run:
    form: Run = request.param
    return form


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make(clock: ManualClock, *, on: type[Exception] = REFUSED, attempts: int = 5, name: str = "f") -> retry:
    return retry(on=on, attempts=attempts, name=name, budget=None, clock=clock)


@pytest.mark.parametrize("run", SYNC_FORMS)
def test_an_inner_layer_makes_one_attempt_and_says_so(run: Run, clock: ManualClock) -> None:
    """Three times three attempts would be nine; only the outer layer retries, and the last word is its."""
    inner_reasons: list[str] = []
    function = Flaky(*(REFUSED() for _ in range(20)))

    def inner(value: str) -> str:
        try:
            return run(make(clock, attempts=3), function)
        except REFUSED as error:
            report = report_of(error)
            assert report is not None
            inner_reasons.append(report.reason)
            raise

    with pytest.raises(REFUSED) as caught:
        run(make(clock, attempts=3, name="outer"), inner)
    report = report_of(caught.value)
    assert report is not None
    assert function.calls == 3
    assert inner_reasons == ["nested"] * 3
    assert (report.operation, report.reason, report.exhausted, report.attempts) == ("outer", "attempts", True, 3)


def test_a_failure_that_only_the_inner_layer_would_have_retried_says_so(run: Run, clock: ManualClock) -> None:
    """The inner one steps back from everything; the report tells that it did, and not only that the outer one refused."""
    function = Flaky(REFUSED())

    def inner(_value: str) -> str:
        return make(clock, attempts=3, name="inner").call(function)

    with pytest.raises(REFUSED) as caught:
        run(make(clock, on=KeyError, name="outer"), inner)
    report = report_of(caught.value)
    assert report is not None
    assert (function.calls, report.operation, report.reason) == (1, "outer", "not_retryable")
    assert report.explanation.splitlines() == [
        "inner, inside, stepped back:",
        "retryable? yes: unsent at connect: ConnectionRefusedError",
        "the only retry layer? no: an outer retry layer is in charge",
        "=> give_up (nested)",
        "outer, in charge:",
        "retryable? no: permanent at body: ConnectionRefusedError",
        "=> give_up (not_retryable)",
    ]


async def test_async_layers_nest(clock: ManualClock) -> None:
    """The same for coroutines, also when the inner call runs in a task of its own."""
    calls = 0

    @make(clock, attempts=3)
    async def inner() -> None:
        nonlocal calls
        calls += 1
        raise REFUSED

    @make(clock, attempts=3)
    async def outer() -> None:
        await asyncio.create_task(inner())

    with pytest.raises(REFUSED):
        await outer()
    assert calls == 3


async def test_a_task_that_outlives_the_layer_retries_on_its_own(clock: ManualClock) -> None:
    """A background task started during an attempt is not bound by a layer that has ended."""
    calls = 0
    go = asyncio.Event()

    async def background() -> None:
        nonlocal calls
        await go.wait()
        await inner()

    @make(clock, attempts=3)
    async def inner() -> None:
        nonlocal calls
        calls += 1
        raise REFUSED

    @make(clock)
    async def outer() -> asyncio.Task[None]:
        return asyncio.create_task(background())

    task = await outer()
    go.set()
    with pytest.raises(REFUSED):
        await task
    assert calls == 3


def test_another_kind_of_layer_silences_retries_too(run: Run, clock: ManualClock) -> None:
    """Whatever holds the layer, a transaction for instance, is the only one that retries."""
    function = Flaky(REFUSED())
    with retry_layer(), pytest.raises(REFUSED) as caught:
        assert retry_is_active()
        run(make(clock), function)
    report = report_of(caught.value)
    assert report is not None
    assert (report.reason, report.exhausted, function.calls) == ("nested", False, 1)
    assert not retry_is_active()


def test_a_nested_success_earns_nothing(run: Run, clock: ManualClock) -> None:
    """One logical call deposits once, however many layers it passes."""
    budget = RetryBudget(ratio=1, floor_per_s=0)
    with retry_layer():
        run(retry(on=REFUSED, budget=budget, clock=clock), Flaky())
    assert budget.balance(clock.monotonic()) == 0


def test_what_an_inner_layer_gave_up_on_is_not_tried_again(run: Run, clock: ManualClock) -> None:
    """An error that carries an exhausted report (from a thread that saw no mark, say) passes through, also as a cause."""
    for wrapped in (False, True):
        calls = 0

        def function(_value: str, *, wrapped: bool = wrapped) -> str:
            nonlocal calls
            calls += 1
            error = REFUSED()
            attach_report(error, Report("inner", 5, 1.0, "attempts", exhausted=True))
            if wrapped:
                raise OSError from error
            raise error

        with pytest.raises(OSError) as caught:
            run(make(clock, on=OSError), function)
        assert calls == 1
        report = report_of(caught.value)
        assert report is not None
        assert report.exhausted


def test_layers_of_the_same_kind_nest() -> None:
    """When an inner layer ends the outer one is still in charge."""
    with retry_layer():
        with retry_layer():
            assert retry_is_active()
        assert retry_is_active()
    assert not retry_is_active()
