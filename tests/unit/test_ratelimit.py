"""The rate limiter: the burst, the schedule, waiting, and what a refusal says."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta

import pytest

from holdfast.deadline import within
from holdfast.errors import ConfigurationError, RateLimited
from holdfast.events import CallRejected
from holdfast.ratelimit import RateLimiter, decide
from holdfast.testing import ManualClock, RecordingHook


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.mark.parametrize(
    "arrival, now, expected",
    [
        (0, 50, (0, 60)),  # long idle: the schedule starts now
        (50, 50, (0, 60)),  # exactly on schedule
        (70, 50, (0, 80)),  # ahead, within the tolerance
        (71, 50, (1, 81)),  # a moment too early
    ],
)
def test_gcra_is_a_formula(arrival: int, now: int, expected: tuple[int, int]) -> None:
    """The wait and the next arrival time, for an interval of 10 and a tolerance of 20."""
    assert decide(arrival, now, interval_ns=10, tolerance_ns=20) == expected


@pytest.mark.parametrize(
    "rate, per, burst", [(10, 1.0, 1), (3, 1.0, 7), (1000, 60, 100), (7, timedelta(seconds=0.1), 3)]
)
def test_a_burst_and_then_the_rate(clock: ManualClock, rate: float, per: float, burst: int) -> None:
    """Exactly the burst at once, then one an interval."""
    limiter = RateLimiter("x", rate=rate, per=per, burst=burst, clock=clock)
    interval_s = (per.total_seconds() if isinstance(per, timedelta) else per) / rate
    assert [limiter.try_acquire() for _ in range(burst + 3)] == [True] * burst + [False] * 3
    for _ in range(20):
        clock.advance(interval_s * 0.9)
        assert not limiter.try_acquire()
        clock.advance(interval_s * 0.1 + 1e-6)
        assert limiter.try_acquire()


def test_the_burst_comes_back_after_a_quiet_time(clock: ManualClock) -> None:
    """Unused turns are kept up to the burst, and no further."""
    limiter = RateLimiter("x", rate=10, burst=5, clock=clock)
    clock.advance(3600)
    assert sum(limiter.try_acquire() for _ in range(50)) == 5
    clock.advance(0.3)
    assert sum(limiter.try_acquire() for _ in range(50)) == 3


def test_waiting_callers_get_their_turns_in_order(clock: ManualClock) -> None:
    """Each waits until its own turn, one interval after the other."""
    limiter = RateLimiter("x", rate=10, clock=clock)
    for _ in range(3):
        limiter.acquire()
    assert clock.sleeps == [pytest.approx(0.1), pytest.approx(0.1)]


def test_a_turn_after_the_deadline_is_refused_at_once_and_costs_nothing(clock: ManualClock) -> None:
    """Who cannot wait long enough is told when to come back, and takes nobody's turn."""
    hook = RecordingHook()
    limiter = RateLimiter("x", rate=1, clock=clock, events=hook.stream)
    limiter.acquire()
    with within(0.5, clock=clock):
        for _ in range(10):
            with pytest.raises(RateLimited, match="'x'") as caught:
                limiter.acquire()
            assert caught.value.retry_after_s == pytest.approx(1.0)
    assert clock.sleeps == []
    assert hook.events == [CallRejected("x", "ratelimit", 1.0)] * 10
    limiter.acquire()
    assert clock.sleeps == [pytest.approx(1.0)]


def test_max_wait_bounds_the_wait_as_well(clock: ManualClock) -> None:
    """Without a deadline `max_wait` says how long is too long."""
    limiter = RateLimiter("x", rate=1, max_wait=1.5, clock=clock)
    limiter.acquire()
    limiter.acquire()
    limiter._reserve(float("inf"))
    with pytest.raises(RateLimited):
        limiter.acquire()
    assert clock.sleeps == [pytest.approx(1.0)]


def test_every_form_takes_a_turn(clock: ManualClock) -> None:
    """Decorator, call and block, sync and async: one turn each."""
    limiter = RateLimiter("x", rate=1, burst=6, max_wait=0, clock=clock)

    def function() -> int:
        return 1

    async def coroutine() -> int:
        return 1

    async def block() -> int:
        async with limiter:
            return 1

    with limiter:
        pass
    assert limiter(function)() == limiter.call(function) == 1
    assert asyncio.run(limiter(coroutine)()) == asyncio.run(limiter.call_async(coroutine)) == asyncio.run(block()) == 1
    assert not limiter.try_acquire()
    with pytest.raises(RateLimited):
        limiter(function)()
    with pytest.raises(RateLimited):
        asyncio.run(limiter(coroutine)())


class Interrupted(ManualClock):
    """A clock on which nobody sleeps in peace."""

    def sleep(self, seconds: float, /) -> None:
        raise KeyboardInterrupt

    async def sleep_async(self, seconds: float, /) -> None:
        raise asyncio.CancelledError


def test_a_cancelled_wait_gives_its_turn_back_if_it_was_the_last() -> None:
    """The turn is free again; turns behind it keep their moments, so the rate holds."""
    clock = Interrupted()
    limiter = RateLimiter("x", rate=1, clock=clock)
    assert limiter.try_acquire()
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            limiter.acquire()
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(limiter.acquire_async())
    clock.advance(1)
    assert limiter.try_acquire()
    first = limiter._reserve(float("inf"))
    second = limiter._reserve(float("inf"))
    limiter._give_back(first[1])
    assert limiter._reserve(float("inf"))[0] == second[0] + 1_000_000_000


def test_64_threads_get_exactly_the_burst(clock: ManualClock) -> None:
    """Of 6,400 attempts at one moment exactly the burst is let through."""
    limiter = RateLimiter("x", rate=10, burst=1_000, clock=clock)
    start = threading.Barrier(64)
    granted = [0] * 64

    def work(index: int) -> None:
        start.wait()
        granted[index] = sum(limiter.try_acquire() for _ in range(100))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 1_000


async def test_10000_tasks_get_10000_different_turns(clock: ManualClock) -> None:
    """Tasks that wait together are spread over the schedule, one an interval, none twice."""
    limiter = RateLimiter("x", rate=1_000, clock=clock)
    moments: list[int] = []

    async def work() -> None:
        moments.append(limiter._reserve(float("inf"))[0])

    await asyncio.gather(*(work() for _ in range(10_000)))
    assert moments == [index * 1_000_000 for index in range(10_000)]


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"rate": 0}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": 2e9}, "rate"),
        ({"rate": 1, "per": 0}, "rate"),
        ({"rate": 1, "per": -1}, "per"),
        ({"rate": 1, "burst": 0}, "burst"),
        ({"rate": 1, "burst": 1.5}, "burst"),
        ({"rate": 1, "max_wait": -1}, "max_wait"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, float], named: str) -> None:
    """A value outside its bounds names the setting."""
    with pytest.raises(ConfigurationError, match=named):
        RateLimiter("x", **settings)  # type: ignore[arg-type]
