"""What the tests of outgoing calls share: a service in memory, whoever calls it, and a body that knows how it was treated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2

from holdfast.budget import RetryBudget
from holdfast.clock import seeded_random
from holdfast.ext.httpx2 import AsyncRetryTransport, CallRules, RetryTransport
from holdfast.testing import ManualClock, RecordingHook

__all__ = ["Body", "Sender", "Service", "Step"]

Step = int | Exception | httpx2.Response | Callable[[httpx2.Request], httpx2.Response]


class Service:
    """Answers each request with the next step, the last one for ever; keeps what it saw."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        if isinstance(step, int):
            return httpx2.Response(step, text=f"answer {len(self.requests)}")
        return step if isinstance(step, httpx2.Response) else step(request)

    @property
    def keys(self) -> list[str | None]:
        return [request.headers.get("idempotency-key") for request in self.requests]


class Sender:
    """Sends through the sync or the async transport, as a test is told to, from sync code."""

    def __init__(self, asynchronous: bool, clock: ManualClock) -> None:
        self.asynchronous = asynchronous
        self.clock = clock
        self.hook = RecordingHook()
        self.budget = RetryBudget(floor_per_s=100.0, clock=clock)
        self._transports: dict[int, Any] = {}

    def send(
        self,
        service: Service,
        method: str = "GET",
        url: str = "http://shop.example/orders",
        *,
        follow_redirects: bool = False,
        extensions: dict[str, Any] | None = None,
        rules: dict[str, Any] | None = None,
        **content: Any,
    ) -> httpx2.Response:
        transport = self.transport(service, rules or {})

        async def send_async() -> httpx2.Response:
            async with httpx2.AsyncClient(transport=transport, follow_redirects=follow_redirects) as sender:
                return await sender.request(method, url, extensions=extensions, **content)

        if self.asynchronous:
            return asyncio.run(send_async())
        with httpx2.Client(transport=transport, follow_redirects=follow_redirects) as sender:
            return sender.request(method, url, extensions=extensions, **content)

    def transport(self, service: Service, rules: dict[str, Any]) -> Any:
        """One for each service, so that its breakers last."""
        if id(service) not in self._transports:
            kind = AsyncRetryTransport if self.asynchronous else RetryTransport
            self._transports[id(service)] = kind(
                httpx2.MockTransport(service),
                CallRules(**{"budget": self.budget, **rules}),
                clock=self.clock,
                random=seeded_random(7),
                events=self.hook.stream,
                new_key=iter("abcdefgh").__next__,
            )
        return self._transports[id(service)]


class Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """An answer's body that knows whether it was closed."""

    def __init__(self, parts: list[bytes], breaks: bool = False) -> None:
        self._parts = parts
        self._breaks = breaks
        self.read = 0
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            self.read += 1
            yield part
        if self._breaks:
            raise httpx2.ReadError("x")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True
