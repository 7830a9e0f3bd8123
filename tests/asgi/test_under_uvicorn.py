"""Clients that hang up, bodies without end and answers that break, with a real server and real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import uvicorn

from holdfast.asgi.access_log import AccessLog
from holdfast.asgi.body import BodyLimit
from holdfast.asgi.deadline import Deadline
from holdfast.asgi.interface import App, Receive, Scope, Send
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.stack import Stack
from tests.asgi.asgi_calls import Echo, answering
from tests.asgi.log_capture import log_of

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def served(app: App, maximum: float = 30.0) -> AsyncIterator[int]:
    """The port on which `app`, inside its layers, is served."""
    layers = Stack(
        app,
        RequestId,
        AccessLog,
        Recovery,
        partial(Deadline, maximum=maximum, notice_after=0.01),
        partial(BodyLimit, limit=100_000),
    )
    config = uvicorn.Config(layers, host="127.0.0.1", port=0, http="h11", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    server.capture_signals = suppress  # type: ignore[method-assign,assignment] # signals are the test runner's
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(30):
        while not (server.started or task.done()):  # noqa: ASYNC110 - uvicorn tells by an attribute
            await asyncio.sleep(0.01)  # noqa: TID251 - a real server takes real time
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def test_a_client_that_hangs_up_ends_its_work() -> None:
    """The handler is cancelled although it never listens, and the line of the log says why."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    with log_of("holdfast.asgi.access_log") as log:
        async with served(app) as port, asyncio.timeout(30):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(GET)
            await began.wait()
            writer.close()
            await ended.wait()
    assert [line["outcome"] for line in log.lines] == ["client_left"]


async def test_a_body_without_end_is_refused_while_it_comes() -> None:
    """413, and the connection is closed: nothing more is read."""
    async with served(Echo()) as port, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED)
        piece = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
        with suppress(ConnectionError):
            for _ in range(11):
                writer.write(piece)
                await writer.drain()
        assert b" 413 " in await reader.readline()
        with suppress(ConnectionError):
            assert b"content-too-large" in await reader.read()
        writer.close()


async def test_an_answer_that_breaks_ends_the_connection() -> None:
    """The client sees that it is incomplete; the next client is served."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ValueError
        await answering(headers=[(b"content-length", b"4")])(scope, receive, send)

    async with served(app) as port, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        assert (await reader.read()).endswith(b"half")
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET.replace(b"GET /", b"GET /next"))
        assert b" 200 " in await reader.readline()
        writer.close()


async def test_the_deadline_answers_and_the_connection_goes_on() -> None:
    """504 with a document, and the same connection takes the next request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async with served(app, maximum=0.05) as port, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(GET)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 504 " in head
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            assert b"deadline-exceeded" in await reader.readexactly(int(length.split(b":")[1]))
        writer.close()
