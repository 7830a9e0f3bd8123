"""What a policy costs where nothing fails: Holdfast beside its peers, around a function that does nothing.

    python -m benchmarks.policies [--write] [--rounds 200] [--calls 1000]

All kinds take short turns in every round, and what is compared was measured in one round: a machine whose speed halves for a
second halves both. What is reported is the time added to the bare call, and the peers' as a multiple of Holdfast's; of each the
median over the rounds. The targets in microseconds were set on a machine where tenacity adds 21 µs, so they are also told at the
speed of the machine that measures.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter

import aiolimiter
import backoff
import limits
import pybreaker
import stamina
import tenacity

from benchmarks.report import median_ratio, table, write_section
from holdfast import Bulkhead, CircuitBreaker, Pipeline, RateLimiter, retry, within

OURS = "holdfast"
YARDSTICK, YARDSTICK_US = ("retry", "tenacity", False), 21.0
"""What adds how much where the targets were set."""
PLENTY = 10**8
"""A rate that a benchmark does not reach."""

Function = Callable[[int], int]
Coroutine = Callable[[int], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One wrapped function to measure; `target_us` is what Holdfast set itself."""

    policy: str
    library: str
    function: Function | Coroutine
    is_async: bool
    target_us: float | None = None


def plain(value: int) -> int:
    """The function that everything is put around."""
    return value


async def coroutine(value: int) -> int:
    """Its asynchronous twin."""
    return value


def full(deadline: float | None) -> Pipeline:
    """Every policy there is."""
    return Pipeline(
        RateLimiter("bench", rate=PLENTY, burst=PLENTY),
        retry(on=ConnectionError),
        CircuitBreaker("bench"),
        Bulkhead("bench", permits=10),
        deadline=deadline,
    )


def with_aiolimiter() -> Coroutine:
    """Aiolimiter has a context form only."""
    limiter = aiolimiter.AsyncLimiter(PLENTY, 1.0)

    async def limited(value: int) -> int:
        async with limiter:
            return value

    return limited


def with_limits() -> Function:
    """Limits has a hit-or-miss call only."""
    limiter = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    item = limits.RateLimitItemPerSecond(PLENTY)

    def limited(value: int) -> int:
        if not limiter.hit(item, "bench"):
            raise AssertionError
        return value

    return limited


def with_deadline(value: int) -> int:
    """The `with` form of a deadline."""
    with within(2.0):
        return value


async def with_asyncio_timeout(value: int) -> int:
    """What the event loop asks for a timer, under whatever library."""
    async with asyncio.timeout(2.0):
        return await coroutine(value)


def kinds() -> list[Kind]:
    """Everything that is measured; the bare calls first."""
    on = ConnectionError
    with_tenacity = tenacity.retry(
        retry=tenacity.retry_if_exception_type(on),
        stop=tenacity.stop_after_attempt(5),
        wait=tenacity.wait_random_exponential(0.05, 5),
        reraise=True,
    )
    with_stamina = stamina.retry(on=on, attempts=5)
    with_backoff = backoff.on_exception(backoff.expo, on, max_tries=5)
    return [
        Kind("bare call", "", plain, is_async=False),
        Kind("bare call", "", coroutine, is_async=True),
        Kind("retry", OURS, retry(on=on)(plain), is_async=False, target_us=0.5),
        Kind("retry", "backoff", with_backoff(plain), is_async=False),
        Kind("retry", "tenacity", with_tenacity(plain), is_async=False),
        Kind("retry", "stamina", with_stamina(plain), is_async=False),
        Kind("retry", OURS, retry(on=on)(coroutine), is_async=True, target_us=0.8),
        Kind("retry", "backoff", with_backoff(coroutine), is_async=True),
        Kind("retry", "tenacity", with_tenacity(coroutine), is_async=True),
        Kind("retry", "stamina", with_stamina(coroutine), is_async=True),
        Kind("breaker", OURS, CircuitBreaker("bench")(plain), is_async=False),
        Kind("breaker", "pybreaker", pybreaker.CircuitBreaker()(plain), is_async=False),
        Kind("breaker", OURS, CircuitBreaker("bench")(coroutine), is_async=True),
        Kind("rate limit", OURS, RateLimiter("bench", rate=PLENTY, burst=PLENTY)(plain), is_async=False),
        Kind("rate limit", "limits", with_limits(), is_async=False),
        Kind("rate limit", OURS, RateLimiter("bench", rate=PLENTY, burst=PLENTY)(coroutine), is_async=True),
        Kind("rate limit", "aiolimiter", with_aiolimiter(), is_async=True),
        Kind("bulkhead", OURS, Bulkhead("bench", permits=10)(plain), is_async=False),
        Kind("bulkhead", OURS, Bulkhead("bench", permits=10)(coroutine), is_async=True),
        Kind("deadline", OURS, with_deadline, is_async=False),
        Kind("full pipeline", OURS, full(deadline=2.0)(plain), is_async=False, target_us=3.0),
        Kind(
            "full pipeline, no deadline of its own", OURS, full(deadline=None)(coroutine), is_async=True, target_us=3.0
        ),
        Kind("timer of the event loop", "asyncio", with_asyncio_timeout, is_async=True),
        Kind("full pipeline, cut at the deadline", OURS, full(deadline=2.0)(coroutine), is_async=True),
    ]


def measure(kind: Kind, calls: int, runner: asyncio.Runner) -> float:
    """Microseconds a call."""
    return (runner.run(_async_loop(kind, calls)) if kind.is_async else _loop(kind, calls)) / calls * 1e6


def _loop(kind: Kind, calls: int) -> float:
    function = kind.function
    begun = perf_counter()
    for _ in range(calls):
        function(1)
    return perf_counter() - begun


async def _async_loop(kind: Kind, calls: int) -> float:
    function = kind.function
    begun = perf_counter()
    for _ in range(calls):
        await function(1)  # type: ignore[misc]
    return perf_counter() - begun


Added = list[float]
"""Microseconds that a kind added in each round; for the bare calls, their own."""


def run(rounds: int, calls: int) -> list[tuple[Kind, Added]]:
    """Everything, measured."""
    everything = kinds()
    added: dict[int, Added] = {index: [] for index in range(len(everything))}
    with asyncio.Runner() as runner:
        for kind in everything:
            measure(kind, 2000, runner)  # warm: caches, specialised bytecode
        for _ in range(rounds):
            times = [measure(kind, calls, runner) for kind in everything]
            for index, kind in enumerate(everything):
                bare = 0.0 if kind.policy == "bare call" else times[1 if kind.is_async else 0]
                added[index].append(times[index] - bare)
    return [(kind, added[index]) for index, kind in enumerate(everything)]


def report(results: list[tuple[Kind, Added]]) -> str:
    """The table."""
    ours = {(kind.policy, kind.is_async): added for kind, added in results if kind.library == OURS}
    (yardstick,) = (added for kind, added in results if (kind.policy, kind.library, kind.is_async) == YARDSTICK)
    rows = []
    for kind, added in results:
        base = ours.get((kind.policy, kind.is_async))
        times = f"{median_ratio(added, base):.1f}" if base and kind.library not in {OURS, ""} else ""
        target = "" if kind.target_us is None else _judged(added, kind.target_us, yardstick)
        mode = "async" if kind.is_async else "sync"
        rows.append([kind.policy, mode, kind.library, f"{statistics.median(added):.2f} µs", times, target])
    return table(["policy", "", "library", "adds to a call", "times Holdfast", "target"], rows)


def _judged(added: Added, target_us: float, yardstick: Added) -> str:
    here_us = statistics.median(added)
    there_us = median_ratio(added, yardstick) * YARDSTICK_US
    verdicts = ["met" if us <= target_us else "missed" for us in (here_us, there_us)]
    return f"{target_us:g} µs: {verdicts[0]}; {there_us:.2f} µs where tenacity adds {YARDSTICK_US:g}: {verdicts[1]}"


def main() -> None:
    """Measure, print, and on request write the results down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    body = report(run(arguments.rounds, arguments.calls))
    print(body)
    if arguments.write:
        write_section("Policies where nothing fails", "python -m benchmarks.policies", body)


if __name__ == "__main__":
    main()
