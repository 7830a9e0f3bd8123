"""Calls over real sockets: what is on the wire, when they end, and that no connection is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest

from holdfast.backoff import Backoff
from holdfast.budget import RetryBudget
from holdfast.clock import SYSTEM_CLOCK, seeded_random
from holdfast.deadline import within
from holdfast.decision import Allowance, RetryPolicy
from holdfast.errors import BreakerOpen, Report, report_of
from holdfast.ext.httpx2 import REPORT_EXTENSION, AsyncRetryTransport, CallRules, RetryTransport
from holdfast.outcome import FailureClass, Outcome

QUICK = Allowance(3, Backoff(base=0.001, cap=0.001))
POLICY = RetryPolicy(dict.fromkeys((FailureClass.UNSENT, FailureClass.AMBIGUOUS, FailureClass.OVERLOAD), QUICK))
PLENTY_S = 20.0
"""Far more than anything here takes, and still an end."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
ENDLESS = b"HTTP/1.1 503 Busy\r\nContent-Length: 1000000\r\n\r\nbusy"


class Wire:
    """A server that does with each request what it was told, the last for ever."""

    def __init__(self, *acts: bytes | str) -> None:
        self.acts = list(acts)
        self.heads: list[bytes] = []
        self.connections = 0
        self.open = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        await reader.readexactly(int(line.partition(b":")[2]))
                self.heads.append(head)
                act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
                if act == "reset":
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    writer.transport.abort()
                    return
                if act == "silent":
                    await reader.read()
                    return
                if act in ("drip", "drip-head"):
                    end = b"X: " if act == "drip-head" else b"\r\n"
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n" + end)
                    while True:
                        writer.write(b"x")
                        await writer.drain()
                        await SYSTEM_CLOCK.sleep_async(0.02)
                assert isinstance(act, bytes)
                writer.write(act)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open -= 1
            writer.close()


@contextlib.asynccontextmanager
async def serving(*acts: bytes | str) -> AsyncIterator[tuple[Wire, str]]:
    """A server on a free port, and its address."""
    wire = Wire(*acts)
    server = await asyncio.start_server(wire, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield wire, f"http://{host}:{port}/"
        await until(lambda: wire.open == 0)  # every client below has been closed: no connection may be left
    finally:
        server.close()
        await server.wait_closed()


async def until(true: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PLENTY_S):
        while not true():
            await SYSTEM_CLOCK.sleep_async(0.005)


class Caller:
    """One client of either kind, closed at the end."""

    def __init__(self, asynchronous: bool) -> None:
        self.asynchronous = asynchronous
        self.clients: list[Any] = []

    async def call(self, method: str, url: str, within_s: float | None = None, **rules: Any) -> httpx2.Response:
        settings = CallRules(**{"policy": POLICY, "budget": None, "breaker": None, **rules})
        with contextlib.nullcontext() if within_s is None else within(within_s):
            if self.asynchronous:
                transport = AsyncRetryTransport(rules=settings, random=seeded_random(1))
                async with httpx2.AsyncClient(transport=transport, timeout=PLENTY_S) as sender:
                    return await sender.request(method, url, content=b"body")

            def call() -> httpx2.Response:
                transport = RetryTransport(rules=settings, random=seeded_random(1))
                with httpx2.Client(transport=transport, timeout=PLENTY_S) as sender:
                    return sender.request(method, url, content=b"body")

            return await asyncio.to_thread(call)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param)


def report(thing: httpx2.Response | BaseException) -> Report:
    found = thing.extensions.get(REPORT_EXTENSION) if isinstance(thing, httpx2.Response) else report_of(thing)
    assert isinstance(found, Report)
    return found


async def test_a_refused_connection_is_tried_again_even_for_a_post(caller: Caller) -> None:
    """Nobody listens: three attempts, and it is certain that nothing was done."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused, and nobody else gets the port
        with pytest.raises(httpx2.ConnectError) as caught:
            await caller.call("POST", f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert (report(caught.value).attempts, report(caught.value).outcome) == (3, Outcome.NOT_COMMITTED)


@pytest.mark.parametrize(("method", "attempts"), [("GET", 2), ("PUT", 2), ("POST", 1)])
async def test_a_reset_after_the_request_was_sent(caller: Caller, method: str, attempts: int) -> None:
    """The server took the request and broke off: an idempotent one is sent again, a POST is not, and its outcome is unknown."""
    async with serving("reset", OK) as (wire, url):
        if attempts == 1:
            with pytest.raises(httpx2.TransportError) as caught:
                await caller.call(method, url)
            assert report(caught.value).outcome is Outcome.UNKNOWN
        else:
            assert (await caller.call(method, url)).text == "ok"
        assert len(wire.heads) == attempts


async def test_a_small_refusal_gives_its_connection_back(caller: Caller) -> None:
    """The body of a 503 is read, so all attempts go over one connection; one that has no end costs its connection."""
    async with serving(BUSY, BUSY, OK) as (wire, url):
        assert (await caller.call("GET", url)).text == "ok"
        assert (len(wire.heads), wire.connections) == (3, 1)
    async with serving(ENDLESS, OK) as (wire, url):
        assert (await caller.call("GET", url)).text == "ok"
        assert (len(wire.heads), wire.connections) == (2, 2)


async def test_the_deadline_is_kept_by_a_silent_server(caller: Caller) -> None:
    """No answer comes, the timeouts are long, the deadline is short: the call ends with it, and the server was told it."""
    async with serving("silent") as (wire, url):
        began = SYSTEM_CLOCK.monotonic()
        with pytest.raises(httpx2.ReadTimeout) as caught:
            await caller.call("PUT", url, within_s=0.3)
        took_s = SYSTEM_CLOCK.monotonic() - began
        assert 0.25 < took_s < PLENTY_S / 2
        assert (report(caught.value).reason, report(caught.value).attempts) == ("deadline", 1)
        (told,) = [line for line in wire.heads[0].lower().split(b"\r\n") if line.startswith(b"x-request-timeout-ms")]
        assert 0 < int(told.partition(b":")[2]) <= 280


async def test_the_deadline_is_kept_by_a_dripping_server(caller: Caller) -> None:
    """An answer whose body never ends, though each piece comes in time, is cut at the deadline."""
    async with serving("drip") as (_, url):
        began = SYSTEM_CLOCK.monotonic()
        with pytest.raises(httpx2.ReadTimeout, match="deadline"):
            await caller.call("GET", url, within_s=1.0)
        assert SYSTEM_CLOCK.monotonic() - began < PLENTY_S / 2


async def test_the_deadline_is_kept_by_a_head_that_never_ends() -> None:
    """Each piece of the head comes in time, the head never is complete: a coroutine is cut at the deadline all the same."""
    async with serving("drip-head") as (_, url):
        began = SYSTEM_CLOCK.monotonic()
        with pytest.raises(httpx2.ReadTimeout) as caught:
            await Caller(asynchronous=True).call("POST", url, within_s=1.0)
        assert SYSTEM_CLOCK.monotonic() - began < PLENTY_S / 2
        assert report(caught.value).outcome is Outcome.UNKNOWN


async def test_a_storm_stays_within_the_budget() -> None:
    """200 callers at once of a server that resets all: at most 1.1 attempts for each call, and the floor, on the wire."""
    budget = RetryBudget(ratio=0.1, floor_per_s=1.0, window=10.0)
    for _ in range(200):
        budget.deposit()  # the successes of a moment ago
    transport = AsyncRetryTransport(
        httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=50)),
        CallRules(policy=POLICY, budget=budget, breaker=None),
        random=seeded_random(2),
    )
    began = SYSTEM_CLOCK.monotonic()
    async with serving("reset") as (wire, url), httpx2.AsyncClient(transport=transport, timeout=PLENTY_S) as sender:
        results = await asyncio.gather(*(sender.get(url) for _ in range(200)), return_exceptions=True)
    assert all(isinstance(result, httpx2.TransportError) for result in results)
    windows = 1 + (SYSTEM_CLOCK.monotonic() - began) // 10
    assert 200 <= len(wire.heads) <= 200 * 1.1 + 10 * windows
    assert {report(result).reason for result in results if isinstance(result, Exception)} <= {"attempts", "budget"}


async def test_a_breaker_spares_a_server_that_is_down() -> None:
    """With the breaker on, a server that resets everything sees a few dozen requests of 200 callers, one after another."""
    transport = AsyncRetryTransport(rules=CallRules(policy=POLICY, budget=None), random=seeded_random(3))
    async with serving("reset") as (wire, url), httpx2.AsyncClient(transport=transport, timeout=PLENTY_S) as sender:
        for _ in range(200):
            with contextlib.suppress(httpx2.TransportError, BreakerOpen):
                await sender.get(url)
    assert 20 <= len(wire.heads) <= 23


async def test_a_hedge_on_the_wire() -> None:
    """The first connection is silent, the second answers: two requests, one answer, and the loser's connection is closed."""
    rules = CallRules(policy=POLICY, budget=RetryBudget(), hedge_after=0.05)
    async with (
        serving("silent", OK) as (wire, url),
        httpx2.AsyncClient(transport=AsyncRetryTransport(rules=rules), timeout=PLENTY_S) as sender,
    ):
        assert (await sender.get(url)).text == "ok"
        await until(lambda: wire.open == 1)  # the winner's, kept for the next
        assert (len(wire.heads), wire.connections) == (2, 2)


async def test_no_connection_is_left_behind() -> None:
    """After refusals, resets, cuts and cancellations the pool has no connection in use, and serves the next call."""
    inner = httpx2.AsyncHTTPTransport(limits=httpx2.Limits(max_connections=3))
    transport = AsyncRetryTransport(inner, CallRules(policy=POLICY, budget=None, breaker=None))
    acts: list[bytes | str] = [ENDLESS, "reset", BUSY, BUSY, ENDLESS, "reset", "reset", "reset", "reset"]
    async with (
        serving(*acts, "silent") as (wire, url),
        httpx2.AsyncClient(transport=transport, timeout=PLENTY_S) as sender,
    ):
        for _ in range(3):
            with contextlib.suppress(httpx2.TransportError):
                await sender.get(url)
        assert len(wire.heads) == len(acts)
        for _ in range(5):
            task = asyncio.create_task(sender.get(url))
            seen = len(wire.heads)
            await until(lambda seen=seen: len(wire.heads) > seen)  # type: ignore[misc]
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await until(lambda: wire.open == 0)
        wire.acts = [OK]
        answers = await asyncio.gather(*(sender.get(url) for _ in range(9)))
        assert [answer.text for answer in answers] == ["ok"] * 9
