"""Risk: unbounded buffering for retries and replays. What layers hold of bodies has a bound, one by one and altogether."""

from __future__ import annotations

import asyncio
import tracemalloc

from holdfast.asgi.body import BodyBuffer
from holdfast.asgi.interface import Message, Receive, Scope, Send
from holdfast.asgi.retry import RequestRetry
from tests.asgi.asgi_calls import Connection, call, http_scope, until
from tests.asgi.effect_app import Make, caller

KIB = 1024


class Hungry:
    """An application that reads everything and then waits."""

    def __init__(self) -> None:
        self.read = 0
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            self.read += len(message.get("body", b""))
            more = message.get("more_body", False)
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def test_many_bodies_at_once_share_one_allowance() -> None:
    """A thousand uploads: no more is held than allowed; all of them are served, and everything is given back."""
    app = Hungry()
    layer = RequestRetry(app, body_max=64 * KIB, bodies_max=1024 * KIB)
    connections = [Connection(http_scope("PUT")) for _ in range(1000)]
    for connection in connections:
        connection.push(b"x" * 32 * KIB)
        connection.start(layer)
    await until(lambda: app.read == 1000 * 32 * KIB)
    assert layer.held == 1024 * KIB
    app.go.set()
    assert {(await connection.answer()).status for connection in connections} == {200}
    assert layer.held == 0


async def test_an_upload_without_end_passes_through_and_is_not_held() -> None:
    """The retry layer keeps the beginning at most; how much an application reads is the body limit's business."""
    pieces = 2000

    async def receive() -> Message:
        nonlocal pieces
        pieces -= 1
        return {"type": "http.request", "body": bytes(64 * KIB), "more_body": pieces > 0}

    async def nothing(_message: Message) -> None: ...

    app = Hungry()
    app.go.set()
    layer = RequestRetry(app, body_max=128 * KIB)
    tracemalloc.start()
    try:
        await layer(http_scope("PUT"), receive, nothing)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert app.read == 2000 * 64 * KIB
    assert peak < 1024 * KIB
    assert layer.held == 0


async def test_keyed_bodies_share_one_allowance(make: Make) -> None:
    """Keyed requests are read whole: who comes when the allowance is used up gets 503, and nobody's memory is lost."""
    effects = await make(body=BodyBuffer(limit=64 * KIB, total=256 * KIB))
    slow = [Connection(http_scope("POST", "/effects", caller(key=f"k{number}"))) for number in range(8)]
    for connection in slow:
        connection.push(b"x" * 60 * KIB, more=True)
        connection.start(effects.app)
    await until(lambda: all(connection.received for connection in slow))
    for connection in slow:
        connection.push(b"")
    statuses = sorted([(await connection.answer()).status for connection in slow])
    assert statuses == [201] * 4 + [503] * 4
    assert effects.idempotency._body.held == 0
    assert (await call(effects.app, "POST", "/effects", caller(key="k9"), b"x" * 60 * KIB)).status == 201
