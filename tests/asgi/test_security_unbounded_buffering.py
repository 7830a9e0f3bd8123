"""Risk: unbounded buffering. Bodies without end, many at once and slow ones take bounded memory and get a clear answer."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from holdfast.asgi.body import BodyBuffer, BodyLimit
from holdfast.asgi.interface import Message, Receive, Scope, Send
from holdfast.asgi.problems import RequestRefused
from tests.asgi.asgi_calls import Connection, Echo, http_scope, until

PIECE = 64 * 1024


class Endless:
    """A client that sends and sends.

    Attributes:
        sent: bytes that were taken from it.
    """

    def __init__(self) -> None:
        self.sent = 0

    async def receive(self) -> Message:
        self.sent += PIECE
        return {"type": "http.request", "body": bytes(PIECE), "more_body": True}


async def test_a_body_without_end_is_cut_at_the_limit() -> None:
    """One piece more than fits is read, no more, and the memory is given back."""
    client = Endless()
    buffer = BodyBuffer(limit=1_048_576)
    tracemalloc.start()
    try:
        with pytest.raises(RequestRefused, match="413"):
            await buffer.read(http_scope("POST"), client.receive)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert client.sent == 1_048_576 + PIECE
    assert peak < 2 * 1_048_576
    assert buffer.held == 0


async def test_a_body_without_end_is_cut_for_an_application_that_reads_on_and_on() -> None:
    """The limit holds for an application of one's own as well."""
    client = Endless()
    sent: list[Message] = []

    async def draining(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            await receive()

    async def send(message: Message) -> None:
        sent.append(message)

    await BodyLimit(draining, limit=1_048_576)(http_scope("POST"), client.receive, send)
    assert sent[0]["status"] == 413
    # Answered by then; one more mebibyte is thrown away, so that the client can read that.
    assert client.sent == 2 * 1_048_576 + PIECE
    assert [message.get("more_body", False) for message in sent[1:]] == [True, False]


async def test_a_thousand_bodies_at_once_share_one_allowance() -> None:
    """Of 1,000 bodies of 1 MiB that arrive together, 8 MiB are held; the others get 503, and afterwards there is room again."""
    piece = bytes(1_048_576)
    buffer = BodyBuffer(limit=len(piece), total=8 * len(piece))
    release = asyncio.Event()
    most = 0

    async def one() -> str:
        nonlocal most
        connection = Connection(http_scope("POST"))
        connection.push(piece)
        try:
            async with await buffer.read(connection.scope, connection.receive):
                most = max(most, buffer.held)
                await release.wait()
                return "held"
        except RequestRefused as refused:
            return str(refused)

    tasks = [asyncio.create_task(one()) for _ in range(1000)]
    await until(lambda: sum(task.done() for task in tasks) == 992)
    release.set()
    ends = await asyncio.gather(*tasks)
    assert ends.count("held") == 8
    assert ends.count("503 overloaded") == 992
    assert most == 8 * len(piece)
    assert buffer.held == 0
    assert await one() == "held"


async def test_slow_clients_do_not_hold_their_place_for_ever() -> None:
    """A hundred that send one byte and stop get 408, and what they held is free again."""
    buffer = BodyBuffer(timeout=0.05)

    async def loris() -> str:
        connection = Connection(http_scope("POST"))
        connection.push(b"x", more=True)
        with pytest.raises(RequestRefused) as refused:
            await buffer.read(connection.scope, connection.receive)
        return str(refused.value)

    assert set(await asyncio.gather(*(loris() for _ in range(100)))) == {"408 request-timeout"}
    assert buffer.held == 0


async def test_pieces_of_nothing_do_not_keep_a_request_alive() -> None:
    """A client that sends empty pieces for ever is ended by the time, with and without buffering."""

    async def nothing() -> Message:
        await asyncio.sleep(0)  # noqa: TID251 - gives way, waits for no time
        return {"type": "http.request", "body": b"", "more_body": True}

    with pytest.raises(RequestRefused, match="408"):
        await BodyBuffer(timeout=0.02).read(http_scope("POST"), nothing)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await BodyLimit(Echo(), timeout=0.02)(http_scope("POST", http_version="2"), nothing, send)
    assert sent[0]["status"] == 408
