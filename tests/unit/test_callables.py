"""What a policy can be put around, and what it refuses."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from holdfast.breaker import CircuitBreaker
from holdfast.bulkhead import Bulkhead
from holdfast.callables import AroundCallables
from holdfast.errors import ConfigurationError
from holdfast.pipeline import Pipeline
from holdfast.ratelimit import RateLimiter
from holdfast.retry import retry


@pytest.fixture(
    params=[
        lambda: retry(on=ValueError),
        lambda: CircuitBreaker("x"),
        lambda: Bulkhead("x", permits=1),
        lambda: RateLimiter("x", rate=1000, burst=1000),
        lambda: Pipeline(retry(on=ValueError), Bulkhead("x", permits=1), deadline=5, attempt_timeout=5),
    ],
    ids=["retry", "breaker", "bulkhead", "ratelimit", "pipeline"],
)
def policy(request: pytest.FixtureRequest) -> AroundCallables:
    made: AroundCallables = request.param()
    return made


def _generator() -> Iterator[int]:
    yield 1


async def _async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [_generator, _async_generator, functools.partial(_generator)])
def test_generators_are_refused(policy: AroundCallables, function: Callable[[], object]) -> None:
    """A generator would run outside the policy; saying so beats silently doing nothing."""
    with pytest.raises(ConfigurationError, match="generator"):
        policy(function)


def test_sync_and_async_are_told_apart_when_decorated(policy: AroundCallables) -> None:
    """Partials and objects with an async `__call__` are asynchronous; handing one to the wrong form is refused."""

    class Async:
        async def __call__(self) -> str:
            return "async"

    async def plain() -> str:
        return "async"

    for function in (plain, functools.partial(plain), Async()):
        assert asyncio.run(policy(function)()) == "async"
        with pytest.raises(ConfigurationError, match="call_async"):
            policy.call(function)  # type: ignore[unused-coroutine]
    with pytest.raises(ConfigurationError, match=r"policy\.call\("):
        asyncio.run(policy.call_async(lambda: "sync"))  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigurationError, match="callable"):
        policy(5)  # type: ignore[arg-type]


def test_a_decorated_function_stays_itself(policy: AroundCallables) -> None:
    """Name, docstring and signature survive, and methods bind."""

    class Client:
        @policy
        def fetch(self, key: str, *, twice: bool = False) -> str:
            """Fetch it."""
            return key * (2 if twice else 1)

    assert Client().fetch("a", twice=True) == "aa"
    assert Client.fetch.__doc__ == "Fetch it."
    assert Client.fetch.__qualname__.endswith("Client.fetch")
