"""What mypy and pyright must infer of the public names. Checked by both, never executed.

A line with a `type: ignore` is a mistake that must be one: mypy reports the comment when it stops being needed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from holdfast import (
    AdaptiveLimit,
    Backoff,
    Bulkhead,
    CircuitBreaker,
    Deadline,
    Failure,
    FailureClass,
    Pipeline,
    RateLimiter,
    Report,
    RetryBudget,
    current_deadline,
    report_of,
    retry,
    within,
)
from holdfast.ext.fastapi import EdgeSettings


@retry(on=ConnectionError)
def plain(key: str, *, times: int = 1) -> list[str]:
    """A function keeps its parameters and its result."""
    return [key] * times


@retry(on=(ConnectionError, OSError), attempts=3, backoff=Backoff(0.1, timedelta(seconds=5)), budget=None)
async def coroutine(key: str) -> bytes:
    """So does a coroutine function."""
    return key.encode()


assert_type(plain("a", times=2), list[str])
plain(1)  # type: ignore[arg-type]
plain("a", often=2)  # type: ignore[call-arg]


def by_answer(error: Exception) -> bool | float | FailureClass | Failure | timedelta | None:
    """A callable for `on` may answer with any of these."""
    return error is not None


retry(on=by_answer, budget=RetryBudget(0.2), idempotent=True, deadline=2, name="x")
retry()  # type: ignore[call-arg]
retry(on="ConnectionError")  # type: ignore[arg-type]


class Client:
    """Methods stay methods."""

    @retry(on=ConnectionError)
    def fetch(self, key: str) -> int:
        """Fetch."""
        return len(key)

    @Pipeline(CircuitBreaker("x"), deadline=2)
    async def fetch_async(self, key: str) -> int:
        """Fetch, asynchronously."""
        return len(key)


assert_type(Client().fetch("a"), int)


async def inside() -> None:
    """Calls, blocks and loops."""
    policy = retry(on=ConnectionError)
    assert_type(policy.call(plain, "a", times=3), list[str])
    assert_type(await coroutine("a"), bytes)
    assert_type(await policy.call_async(coroutine, "a"), bytes)
    assert_type(await Client().fetch_async("a"), int)
    policy.call(plain, 5)  # type: ignore[arg-type]
    for attempt in policy:
        with attempt as same:
            assert_type(same.number, int)
    async for attempt in policy:
        async with attempt:
            assert_type(attempt.number, int)
    breaker, bulkhead, limiter = CircuitBreaker("x"), Bulkhead("x", permits=1), RateLimiter("x", rate=1)
    with breaker, bulkhead, limiter, within(2.0) as deadline:
        assert_type(deadline, Deadline)
        assert_type(current_deadline(), Deadline | None)
    async with breaker, bulkhead, limiter, within(timedelta(seconds=2)):
        assert_type(limiter.try_acquire(), bool)
    breaker.acquire().succeeded()
    adaptive = AdaptiveLimit("x", most=10, mode="dark", dropped=lambda error: isinstance(error, OSError))
    adaptive.acquire(expires_at=5.0).dropped()
    (await adaptive.acquire_async()).succeeded()
    AdaptiveLimit("x", most=10, mode="maybe")  # type: ignore[arg-type]
    with adaptive.block():
        assert_type(adaptive(plain)("a"), list[str])
    pipeline = Pipeline(limiter, policy, breaker, adaptive, bulkhead, deadline=2)
    assert_type(pipeline.call(plain, "a"), list[str])
    Pipeline(5)  # type: ignore[arg-type]
    assert_type(report_of(ValueError()), Report | None)


def narrowed() -> int:
    """The result of a retried loop that returns needs no extra line for mypy."""
    for attempt in retry(on=ConnectionError):
        with attempt:
            return 1
    raise AssertionError


by_name: dict[str, list[str]] = {"operators": ["192.0.2.0/24"]}
EdgeSettings(trusted_proxies=["192.0.2.0/24"], allowlist={"/admin/*": ["192.0.2.0/24"]}, networks=by_name)
EdgeSettings(trusted_proxies=("192.0.2.0/24",), allowlist={"/admin/*": ("192.0.2.0/24",)})
EdgeSettings(trusted_proxies=7)  # type: ignore[arg-type]
