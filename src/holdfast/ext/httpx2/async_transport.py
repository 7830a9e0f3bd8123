"""The transport for async clients, and hedging. May be shared between the tasks of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, cast

import httpx2

from ...clock import SYSTEM_CLOCK, Clock, Random, new_token, system_random
from ...deadline import seconds
from ...layer import retry_layer
from ...stream import EVENTS, EventStream
from .bodies import BoundedAsync, keep_async
from .call import Attempt, Call, Desk, Result, checked_rules, given
from .rules import CallRules
from .transport import shorten_reading

__all__ = ["AsyncRetryTransport"]

_GRACE_S = 0.05
"""How much longer the whole attempt may take than its steps: their own errors know more of what was sent."""


class AsyncRetryTransport(httpx2.AsyncBaseTransport):
    """As `RetryTransport`, for coroutines. An attempt is cut at the deadline, and a safe read may be hedged.

    With `hedge_after`, a safe read that has no answer by then is sent once more, if the budget has a token for it. The first
    answer is given to the caller, the other attempt is cancelled and waited for. A request is hedged once, whatever follows.

    Args:
        inner: what sends; default `httpx2.AsyncHTTPTransport()`. It should not retry by itself.
        rules: default `CallRules()`.
        clock, random, events, new_key: where time, jitter, listeners and `Idempotency-Key`s come from.

    Raises:
        DeadlineExceeded: (requests) no time was left; nothing was sent.
        BreakerOpen: (requests) the host's breaker is open; nothing was sent.
        httpx2.TransportError: (requests) the last attempt's error.
    """

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport | None = None,
        rules: CallRules | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        random: Random = system_random,
        events: EventStream = EVENTS,
        new_key: Callable[[], str] = new_token,
    ) -> None:
        rules = checked_rules(rules, hedging=True)
        self._desk = Desk(rules, clock, random, events, new_key)
        self._inner = httpx2.AsyncHTTPTransport() if inner is None else inner
        self._hedge_after_s = None if rules.hedge_after is None else seconds(rules.hedge_after)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request, as often as the rules allow and need be."""
        call = Call(self._desk, request)
        last: Result | None = None
        result: Result | None = None
        try:
            with retry_layer():
                while True:
                    attempt = call.begin(last)
                    if attempt is None:
                        assert last is not None
                        return given(last)
                    if self._hedge_after_s is not None and last is None and call.may_hedge:
                        attempt, result = await self._hedged(call, attempt, self._hedge_after_s)
                    else:
                        result = await self._send(call, attempt)
                    delay_s = call.ended(attempt, result)
                    if delay_s is None:
                        return self._handed_over(call, given(result))
                    last = await self._kept(attempt, result)
                    await self._desk.clock.sleep_async(delay_s)
        except Exception:
            raise
        except BaseException as stop:
            call.stopped(stop)
            raise
        finally:
            last = result = None  # an error that is raised from here holds this frame: no circle

    async def _send(self, call: Call, attempt: Attempt) -> Result:
        if call.deadline is None:
            try:
                return await self._inner.handle_async_request(attempt.request)
            except Exception as error:
                return error
        timer = asyncio.timeout(call.deadline.remaining_s() + _GRACE_S)
        try:
            async with timer:
                return await self._inner.handle_async_request(attempt.request)
        except TimeoutError as error:
            if not timer.expired():
                return error
            late = httpx2.ReadTimeout("the deadline passed before the answer came", request=attempt.request)
            late.__cause__ = error
            return late
        except Exception as error:
            return error

    async def _hedged(self, call: Call, attempt: Attempt, after_s: float) -> tuple[Attempt, Result]:
        """The first answer of two, or the first failure once both have failed."""
        attempts = {asyncio.create_task(self._send(call, attempt)): attempt}
        waiting = asyncio.create_task(self._desk.clock.sleep_async(after_s))
        try:
            await asyncio.wait({waiting, *attempts}, return_when=asyncio.FIRST_COMPLETED)
            (first,) = attempts
            second = None if first.done() else call.hedge()
            if second is not None:
                attempts[asyncio.create_task(self._send(call, second))] = second
            chosen: asyncio.Task[Result] | None = None
            pending: set[asyncio.Task[Result]] = set(attempts)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                chosen = chosen or next(iter(done))
                answer = next((task for task in done if call.settle(attempts[task], task.result()) is None), None)
                if answer is not None:
                    chosen = answer
                    break
            assert chosen is not None
        except BaseException:
            await _whole(self._end(call, waiting, attempts))
            raise
        attempt, result = attempts.pop(chosen), chosen.result()
        try:
            await _whole(self._end(call, waiting, attempts))
        except BaseException:
            if isinstance(result, httpx2.Response):  # nobody is there to read it
                await _whole(result.aclose())
            raise
        return attempt, result

    async def _end(
        self, call: Call, waiting: asyncio.Task[None], attempts: dict[asyncio.Task[Result], Attempt]
    ) -> None:
        """Cancel what is not needed, wait for it, and give back its connections."""
        for task in (waiting, *attempts):
            task.cancel()
        await asyncio.wait({waiting, *attempts})
        for task, attempt in attempts.items():
            if not task.cancelled():
                result = task.result()
                call.settle(attempt, result)
                if isinstance(result, httpx2.Response):
                    await result.aclose()
            call.abandoned(attempt)

    async def _kept(self, attempt: Attempt, result: Result) -> Result:
        if isinstance(result, Exception):
            return result
        shorten_reading(attempt)
        return await keep_async(result)

    def _handed_over(self, call: Call, response: httpx2.Response) -> httpx2.Response:
        if call.deadline is not None:
            response.stream = BoundedAsync(cast("httpx2.AsyncByteStream", response.stream), call.deadline)
        return response

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


async def _whole(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, which gives connections back, to its end: a cancellation meanwhile is raised after it."""
    task = asyncio.create_task(work)
    stop: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            stop = error
    if stop is None:
        return task.result()
    try:
        raise stop
    finally:
        del stop  # it holds this frame: no circle
