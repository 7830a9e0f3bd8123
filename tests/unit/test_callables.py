"""What a policy can be put around, and what it refuses."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from unittest.mock import AsyncMock

import pytest

from holdfast.adaptive import AdaptiveLimit
from holdfast.breaker import CircuitBreaker
from holdfast.bulkhead import Bulkhead
from holdfast.callables import AroundCallables, in_daemon_thread
from holdfast.errors import ConfigurationError, UsageError
from holdfast.pipeline import Pipeline
from holdfast.ratelimit import RateLimiter
from holdfast.retry import retry


@pytest.fixture(
    params=[
        lambda: retry(on=ValueError),
        lambda: CircuitBreaker("x"),
        lambda: Bulkhead("x", permits=1),
        lambda: RateLimiter("x", rate=1000, burst=1000),
        lambda: AdaptiveLimit("x", most=1),
        lambda: Pipeline(retry(on=ValueError), Bulkhead("x", permits=1), deadline=5, attempt_timeout=5),
        lambda: Pipeline(deadline=5),
    ],
    ids=["retry", "breaker", "bulkhead", "ratelimit", "adaptive", "pipeline", "deadline"],
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

    for function in (
        plain,
        functools.partial(plain),
        Async(),
        functools.partial(Async()),
        AsyncMock(return_value="async"),
    ):
        assert asyncio.run(policy(function)()) == "async"
        with pytest.raises(ConfigurationError, match="call_async"):
            policy.call(function)
    with pytest.raises(ConfigurationError, match=r"policy\.call\("):
        asyncio.run(policy.call_async(lambda: "sync"))  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigurationError, match="callable"):
        policy(5)  # type: ignore[arg-type]


def test_static_and_class_methods_are_decorated_from_above_and_below(policy: AroundCallables) -> None:
    """The order of the two decorators makes no difference, for functions and coroutine functions, on class and instance."""

    class Client:
        @policy
        @staticmethod
        async def fetch(key: str) -> str:
            return key

        @staticmethod
        @policy
        async def get(key: str) -> str:
            return key

        @policy
        @classmethod
        def name(cls) -> str:
            return cls.__name__

    for place in (Client, Client()):
        for fetch in (place.fetch, place.get):
            assert inspect.iscoroutinefunction(fetch)
            assert asyncio.run(fetch("a")) == "a"
        assert place.name() == "Client"


def test_a_plain_function_that_returns_a_coroutine_is_refused(policy: AroundCallables) -> None:
    """It would run outside the policy; saying so beats silently doing nothing."""

    async def fetch() -> str:
        return "never"

    for call in (policy(lambda: fetch()), lambda: policy.call(lambda: fetch())):  # noqa: PLW0108 - that is the mistake
        with pytest.raises(UsageError, match="returned a coroutine"):
            call()  # type: ignore[unused-coroutine]


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


def test_a_stop_iteration_from_a_thread_is_a_runtime_error() -> None:
    """An asyncio future cannot hold one: whoever waited for it would wait for ever."""
    error = in_daemon_thread(lambda: next(iter(()))).exception(timeout=30)
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, StopIteration)
