"""The pipeline: one order, each policy once, nothing held while waiting."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from holdfast.adaptive import AdaptiveLimit
from holdfast.backoff import Backoff
from holdfast.breaker import CircuitBreaker
from holdfast.budget import RetryBudget
from holdfast.bulkhead import Bulkhead
from holdfast.deadline import current_deadline, within
from holdfast.errors import (
    BlockTimedOut,
    BreakerOpen,
    BulkheadFull,
    ConfigurationError,
    DeadlineExceeded,
    RateLimited,
    UsageError,
    report_of,
)
from holdfast.pipeline import Pipeline, Policy
from holdfast.ratelimit import RateLimiter
from holdfast.retry import retry
from holdfast.testing import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def limiter(clock: ManualClock, burst: int = 100) -> RateLimiter:
    return RateLimiter("limit", rate=1, burst=burst, max_wait=0, clock=clock)


def retries(clock: ManualClock, attempts: int = 3) -> retry:
    return retry(
        on=ConnectionRefusedError,
        attempts=attempts,
        clock=clock,
        random=lambda: 0.5,
        budget=None,
        backoff=Backoff(1, 1),
    )


def breaker(clock: ManualClock, calls_min: int = 100) -> CircuitBreaker:
    return CircuitBreaker("breaker", calls_min=calls_min, clock=clock)


def adaptive(clock: ManualClock) -> AdaptiveLimit:
    return AdaptiveLimit("adaptive", most=10, clock=clock)


def bulkhead(clock: ManualClock) -> Bulkhead:
    return Bulkhead("bulkhead", permits=1, clock=clock)


def test_only_one_order_is_accepted(clock: ManualClock) -> None:
    """Of all 120 orders of the five policies one passes; the others are told the right one."""
    right: tuple[Policy, ...] = (limiter(clock), retries(clock), breaker(clock), adaptive(clock), bulkhead(clock))
    for order in itertools.permutations(right):
        if order == right:
            Pipeline(*order)
        else:
            with pytest.raises(ConfigurationError, match="RateLimiter, retry, CircuitBreaker, AdaptiveLimit, Bulkhead"):
                Pipeline(*order)


def test_any_policy_may_be_left_out(clock: ManualClock) -> None:
    """Each subset in the right order is a pipeline."""
    right: tuple[Policy, ...] = (limiter(clock), retries(clock), breaker(clock), adaptive(clock), bulkhead(clock))
    for size in range(1, 6):
        for subset in itertools.combinations(right, size):
            assert Pipeline(*subset).call(lambda: 1) == 1


@pytest.mark.parametrize("make", [limiter, retries, breaker, adaptive, bulkhead])
def test_a_policy_cannot_come_twice(clock: ManualClock, make: object) -> None:
    """Two of a kind are refused by name."""
    with pytest.raises(ConfigurationError, match="comes twice"):
        Pipeline(make(clock), make(clock))  # type: ignore[operator]


@pytest.mark.parametrize("policies", [(5,), (RetryBudget(),), (retry,)])
def test_what_is_no_policy_is_refused(policies: tuple[Policy, ...]) -> None:
    """Anything else is refused when the pipeline is made."""
    with pytest.raises(ConfigurationError, match="cannot hold"):
        Pipeline(*policies)


def test_an_empty_pipeline_is_a_mistake() -> None:
    """It would protect nothing."""
    with pytest.raises(ConfigurationError, match="needs a policy"):
        Pipeline()


def test_it_describes_itself_from_the_outside_in(clock: ManualClock) -> None:
    """A line a layer, for tests and logs."""
    pipeline = Pipeline(
        limiter(clock),
        retries(clock),
        breaker(clock),
        adaptive(clock),
        bulkhead(clock),
        deadline=2,
        attempt_timeout=0.5,
        clock=clock,
    )
    assert [line.partition(":")[0] for line in pipeline.describe()] == [
        "deadline",
        "rate limit",
        "retry",
        "breaker",
        "adaptive limit",
        "bulkhead",
        "attempt timeout",
    ]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_each_layer_stands_where_the_order_says(clock: ManualClock, kind: str) -> None:
    """One turn for the call, a breaker count and a permit for each attempt, and no permit while waiting."""
    limit, breaks, holds = limiter(clock), breaker(clock), bulkhead(clock)
    in_use: list[int] = []
    sleeping: list[int] = []

    class Watching(ManualClock):
        def sleep(self, seconds: float, /) -> None:
            sleeping.append(holds.in_use)
            super().sleep(seconds)

    pipeline = Pipeline(limit, retries(Watching()), breaks, holds, clock=clock)

    def fail() -> None:
        in_use.append(holds.in_use)
        raise ConnectionRefusedError

    async def fail_async() -> None:
        fail()

    with pytest.raises(ConnectionRefusedError) as caught:
        pipeline(fail)() if kind == "sync" else asyncio.run(pipeline(fail_async)())
    assert (in_use, sleeping) == ([1, 1, 1], [0, 0])
    assert breaks.counts() == (3, 3)
    assert sum(limit.try_acquire() for _ in range(200)) == 99
    report = report_of(caught.value)
    assert report is not None
    assert report.operation.endswith("fail" if kind == "sync" else "fail_async")


def test_a_rejection_inside_is_not_the_servers_failure(clock: ManualClock) -> None:
    """A full bulkhead does not open the breaker around it."""
    breaks, holds = breaker(clock, calls_min=1), bulkhead(clock)
    pipeline = Pipeline(breaks, holds)
    with holds:
        for _ in range(5):
            with pytest.raises(BulkheadFull):
                pipeline.call(lambda: 1)
    assert pipeline.call(lambda: 1) == 1


def test_an_open_breaker_is_retried_only_when_named(clock: ManualClock) -> None:
    """By default an open circuit fails fast; a retry on it waits for the time it names."""
    breaks = breaker(clock, calls_min=1)
    with pytest.raises(ZeroDivisionError), breaks:
        raise ZeroDivisionError
    with pytest.raises(BreakerOpen):
        Pipeline(retries(clock), breaks).call(lambda: 1)
    patient = retry(on=BreakerOpen, clock=clock, random=lambda: 0.5, budget=None)
    assert Pipeline(patient, breaks).call(lambda: 1) == 1
    assert clock.sleeps == [5.0]


def test_the_deadline_is_set_for_everything_inside(clock: ManualClock) -> None:
    """The function sees the pipeline's deadline, or the caller's if that is earlier."""
    pipeline = Pipeline(deadline=2, clock=clock)

    def left() -> float:
        deadline = current_deadline()
        assert deadline is not None
        return deadline.remaining_s()

    assert pipeline.call(left) == pytest.approx(2)
    with within(1, clock=clock):
        assert pipeline.call(left) == pytest.approx(1)
    with within(5, clock=clock):
        assert pipeline.call(left) == pytest.approx(2)
    assert current_deadline() is None


def test_the_attempt_timeout_is_set_for_each_attempt(clock: ManualClock) -> None:
    """Every attempt gets its share anew, within the whole."""
    seen: list[float] = []

    def function() -> None:
        deadline = current_deadline()
        assert deadline is not None
        seen.append(deadline.remaining_s())
        clock.advance(0.3)
        raise ConnectionRefusedError

    pipeline = Pipeline(retries(clock), deadline=2, attempt_timeout=1, clock=clock)
    with pytest.raises(ConnectionRefusedError):
        pipeline.call(function)
    assert seen == [pytest.approx(1), pytest.approx(1), pytest.approx(0.4)]


@pytest.mark.parametrize("kind", ["sync", "async", "block", "async block"])
@pytest.mark.parametrize(("outer_s", "own_s"), [(0, 2), (0, None), (5, 0), (None, 0)])
def test_after_the_deadline_nothing_is_begun(
    clock: ManualClock, kind: str, outer_s: float | None, own_s: float | None
) -> None:
    """A caller whose time is up is told so before anything happens, whether the pipeline has a deadline of its own or not."""
    pipeline = Pipeline(limiter(clock), deadline=own_s, clock=clock)
    begun: list[int] = []

    async def coroutine() -> None:
        begun.append(1)

    async def block() -> None:
        async with pipeline.block():
            begun.append(1)

    outer = nullcontext() if outer_s is None else within(outer_s, clock=clock)
    with outer, pytest.raises(DeadlineExceeded):
        if kind == "sync":
            pipeline.call(begun.append, 1)
        elif kind == "async":
            asyncio.run(pipeline.call_async(coroutine))
        elif kind == "block":
            with pipeline.block():
                begun.append(1)
        else:
            asyncio.run(block())
    assert begun == []


def test_a_deadline_of_another_clock_is_compared_by_what_is_left() -> None:
    """Two clocks show different moments at one time: what counts is the time left, in pipelines, blocks and retries."""
    early, late = ManualClock(start=0), ManualClock(start=1e9)
    for ours, others in ((early, late), (late, early)):
        pipeline = Pipeline(retry(on=ConnectionError, budget=None, clock=ours), deadline=3, clock=ours)
        for left_s, seen_s in ((2, 2), (5, 3)):
            outcomes = iter([ConnectionRefusedError(), None])

            def function(outcomes: Iterator[Exception | None] = outcomes) -> float:
                if (error := next(outcomes)) is not None:
                    raise error
                deadline = current_deadline()
                assert deadline is not None
                return deadline.remaining_s()

            with within(left_s, clock=others):
                assert pipeline.call(function) == pytest.approx(seen_s, abs=0.1)
                with within(3, clock=ours) as deadline:
                    assert deadline.remaining_s() == pytest.approx(seen_s, abs=0.1)
        with within(0, clock=others), pytest.raises(DeadlineExceeded):
            pipeline.call(current_deadline)


async def test_a_coroutine_is_cut_at_the_deadline() -> None:
    """What hangs is cancelled, and told as a block that timed out."""
    bulk = Bulkhead("x", permits=1)
    pipeline = Pipeline(bulk, deadline=0.01)
    cancelled = False

    @pipeline
    async def hang() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    with pytest.raises(BlockTimedOut):
        await hang()
    assert (cancelled, bulk.in_use) == (True, 0)


@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_cut_attempt_is_repeated_only_on_a_promise(idempotent: bool) -> None:
    """An attempt that was cut may have done its work; with `idempotent=True` the next gets its own time."""
    policy = retry(on=TimeoutError, idempotent=idempotent, budget=None, backoff=Backoff(0, 0))
    breaks = CircuitBreaker("x")
    pipeline = Pipeline(policy, breaks, deadline=30, attempt_timeout=0.01)
    attempts = 0

    @pipeline
    async def hang_once() -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await asyncio.Event().wait()
        return "done"

    if idempotent:
        assert await hang_once() == "done"
    else:
        with pytest.raises(BlockTimedOut):
            await hang_once()
    assert breaks.counts() == (attempts, 1)  # a hung attempt is the server's failure


@pytest.mark.parametrize(
    "limits, counted", [({"deadline": 0.01}, (0, 0)), ({"deadline": 30, "attempt_timeout": 0.01}, (2, 2))]
)
async def test_a_server_that_hangs_is_told_to_the_breaker_by_the_attempt_timeout_alone(
    limits: dict[str, float], counted: tuple[int, int]
) -> None:
    """A deadline may be the caller's own haste. Neither makes a second attempt of what is not idempotent."""
    breaks = CircuitBreaker("x")
    attempts = 0

    @Pipeline(retry(on=TimeoutError, budget=None, backoff=Backoff(0, 0)), breaks, **limits)  # type: ignore[arg-type]
    async def hang() -> None:
        nonlocal attempts
        attempts += 1
        await asyncio.Event().wait()

    for _ in range(2):
        with pytest.raises(BlockTimedOut):
            await hang()
    assert (attempts, breaks.counts()) == (2, counted)


def test_a_block_passes_every_layer_and_gives_everything_back(clock: ManualClock) -> None:
    """In a block the permit is held and the deadline set; afterwards neither is."""
    breaks, holds = breaker(clock), bulkhead(clock)
    pipeline = Pipeline(limiter(clock, burst=2), breaks, holds, deadline=2, attempt_timeout=1, clock=clock)
    with pipeline.block():
        assert holds.in_use == 1
        deadline = current_deadline()
        assert deadline is not None
        assert deadline.remaining_s() == pytest.approx(1)
    with pytest.raises(ValueError), pipeline.block():
        raise ValueError
    assert (holds.in_use, current_deadline(), breaks.counts()) == (0, None, (2, 1))
    with pytest.raises(RateLimited), pipeline.block():
        raise AssertionError("the third call is over the limit")
    assert (holds.in_use, current_deadline(), breaks.counts()) == (0, None, (2, 1))


async def test_an_async_block_does_the_same(clock: ManualClock) -> None:
    """The asynchronous block passes the same layers."""
    breaks, holds = breaker(clock), bulkhead(clock)
    pipeline = Pipeline(limiter(clock, burst=1), breaks, holds, deadline=2, attempt_timeout=1, clock=clock)
    async with pipeline.block():
        assert holds.in_use == 1
    with pytest.raises(RateLimited):
        async with pipeline.block():
            raise AssertionError("the second call is over the limit")
    assert (holds.in_use, current_deadline(), breaks.counts()) == (0, None, (1, 0))


def test_a_block_cannot_be_retried(clock: ManualClock) -> None:
    """A pipeline with a retry refuses to surround a block, and says what to write instead."""
    with pytest.raises(UsageError, match="for attempt in retry"):
        Pipeline(retries(clock)).block()


@pytest.mark.parametrize("setting", ["deadline", "attempt_timeout"])
def test_wrong_durations_are_refused_by_name(setting: str) -> None:
    """A negative duration names the setting."""
    with pytest.raises(ConfigurationError, match=setting):
        Pipeline(**{setting: -1})  # type: ignore[arg-type]
