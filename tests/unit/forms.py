"""The six ways to put a retry around something, so that one set of expectations runs on all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from holdfast.retry import retry

Run = Callable[[retry, Callable[..., str]], str]


class Flaky:
    """Fails with the given errors, one a call, then returns its last argument."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, value: str = "done") -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return value


def by_decorator(policy: retry, function: Callable[..., str]) -> str:
    return policy(function)("done")


def by_call(policy: retry, function: Callable[..., str]) -> str:
    return policy.call(function, "done")


def by_block(policy: retry, function: Callable[..., str]) -> str:
    for attempt in policy:
        with attempt:
            return function("done")
    raise AssertionError("the loop ended without a result or an error")


def _async_version(function: Callable[..., str]) -> Callable[..., Awaitable[str]]:
    async def version(value: str) -> str:
        return function(value)

    return version


def by_async_decorator(policy: retry, function: Callable[..., str]) -> str:
    async def main() -> str:
        return await policy(_async_version(function))("done")

    return asyncio.run(main())


def by_async_call(policy: retry, function: Callable[..., str]) -> str:
    async def main() -> str:
        return await policy.call_async(_async_version(function), "done")

    return asyncio.run(main())


def by_async_block(policy: retry, function: Callable[..., str]) -> str:
    async def main() -> str:
        async for attempt in policy:
            async with attempt:
                return await _async_version(function)("done")
        raise AssertionError("the loop ended without a result or an error")

    return asyncio.run(main())


FORMS = [by_decorator, by_call, by_block, by_async_decorator, by_async_call, by_async_block]

SYNC_FORMS = FORMS[:3]


def always(number: float) -> Callable[[], float]:
    """A draw that is always the same."""
    return lambda: number
