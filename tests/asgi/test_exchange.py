"""What passes between service and server is seen once, and what layers add to the head of an answer is added there."""

from __future__ import annotations

import asyncio
import gc
from functools import partial
from typing import Any

import pytest

from holdfast.asgi.access_log import AccessLog
from holdfast.asgi.admission import ConcurrencyLimit
from holdfast.asgi.body import BodyLimit
from holdfast.asgi.client_address import ClientAddress
from holdfast.asgi.context import context_of, fields_of
from holdfast.asgi.deadline import Deadline
from holdfast.asgi.draining import Draining
from holdfast.asgi.exchange import Exchange, exchange_of
from holdfast.asgi.headers import Fields, MalformedHeader
from holdfast.asgi.interface import Message, Receive, Scope, Send
from holdfast.asgi.quotas import Quota
from holdfast.asgi.rate_limit import RateLimit
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.retry import RequestRetry
from holdfast.asgi.stack import Stack
from holdfast.shutdown import Drain
from holdfast.testing import ManualClock
from tests.asgi.asgi_calls import Echo, answering, call, http_scope, until

EVERY_LAYER = (
    RequestId,
    AccessLog,
    Recovery,
    partial(Draining, drain=Drain(), watch_signals=False),
    partial(ClientAddress, trusted=["198.51.100.0/24"]),
    Deadline,
    BodyLimit,
    partial(RateLimit, quotas=[Quota("client", rate=1000, burst=1000)]),
    ConcurrencyLimit,
    RequestRetry,
)


def pair() -> tuple[Exchange, list[Message]]:
    """An exchange with a server that keeps what it is handed."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    return Exchange(receive, send), sent


async def test_the_first_to_ask_stands_between_and_all_others_get_the_same() -> None:
    """One pair of calls a message, however many layers look."""
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context, exchange, receive_again, send_again = exchange_of(scope, receive, send)
        seen.extend((context is context_of(scope), exchange is context.exchange, receive_again, send_again))
        assert (receive_again, send_again) == (receive, send)
        await answering()(scope, receive, send)

    await call(AccessLog(Recovery(app)))
    assert seen[:2] == [True, True]


async def test_layers_add_to_the_head_once_each_the_outermost_first() -> None:
    """A layer that is called again for the same request does not add twice; the application's list is left alone."""
    exchange, sent = pair()
    own = [(b"a", b"1")]
    outer, inner = object(), object()
    exchange.on_head(outer, lambda headers: headers.append((b"b", b"first")))
    exchange.on_head(inner, lambda headers: headers.append((b"c", b"3")))
    exchange.on_head(outer, lambda headers: headers.append((b"b", b"2")))
    await exchange.send({"type": "http.response.start", "status": 200, "headers": own})
    await exchange.send({"type": "http.response.body", "body": b"x"})
    assert sent[0]["headers"] == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert own == [(b"a", b"1")]
    assert (exchange.status, exchange.complete, exchange.response_bytes) == (200, True, 1)


async def test_an_answer_is_complete_when_the_server_has_taken_its_last_piece() -> None:
    """Not before: of a client that reads slowly the server may be waiting to be rid of what came earlier."""
    taken = asyncio.Event()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await taken.wait()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    exchange = Exchange(receive, send)
    await exchange.send({"type": "http.response.start", "status": 200, "headers": []})
    sending = asyncio.ensure_future(exchange.send({"type": "http.response.body", "body": b"x"}))
    await until(lambda: exchange.response_bytes)
    assert (exchange.ending, exchange.complete) == (True, False)
    # Some servers say so as soon as they have the last piece: it does not tell whether the client is gone.
    await exchange.receive()
    assert exchange.disconnected is False
    taken.set()
    await sending
    assert exchange.complete


@pytest.mark.parametrize(
    ("messages", "complete"),
    [
        ([{"type": "http.response.pathsend", "path": "/srv/file"}], True),
        ([{"type": "http.response.zerocopysend", "file": 3}], True),
        ([{"type": "http.response.zerocopysend", "file": 3, "more_body": True}], False),
        ([{"type": "http.response.debug", "info": {}}], False),
        ([{"type": "http.response.body", "body": b"x", "more_body": True}], False),
    ],
)
async def test_a_file_that_the_server_sends_is_an_answer(messages: list[Message], complete: bool) -> None:
    """ASGI's extensions end an answer as its body does."""
    exchange, sent = pair()
    for message in [{"type": "http.response.start", "status": 200, "headers": []}, *messages]:
        await exchange.send(message)
    assert (exchange.ending, exchange.complete, len(sent)) == (complete, complete, 2)


async def test_who_asked_hears_once_that_the_answer_is_complete() -> None:
    """With its status, when the server has taken it; what follows (trailers) does not change when that was."""
    clock = ManualClock()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        clock.advance(1)
        sent.append(message)

    _, exchange, _, sending = exchange_of(http_scope(), answering, send, clock)  # type: ignore[arg-type]  # nobody receives
    heard: list[Any] = []
    exchange.on_complete(lambda status: heard.append(("one", status, len(sent))))
    exchange.on_complete(lambda status: heard.append(("two", status, len(sent))))
    began = clock.monotonic()
    await sending({"type": "http.response.start", "status": 202, "headers": []})
    await sending({"type": "http.response.body", "body": b"x", "more_body": True})
    assert (heard, exchange.ended_at) == ([], 0.0)
    await sending({"type": "http.response.body", "body": b"y"})
    await sending({"type": "http.response.trailers", "headers": []})
    assert heard == [("one", 202, 3), ("two", 202, 3)]
    assert exchange.ended_at == began + 3


async def test_what_is_sent_while_it_is_muted_is_dropped() -> None:
    """And counts for nothing: the answer is still to be given."""
    exchange, sent = pair()
    exchange.muted = True
    await exchange.send({"type": "http.response.start", "status": 200, "headers": []})
    assert (sent, exchange.started, exchange.status) == ([], False, None)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_request_leaves_anything_for_the_garbage_collector(method: str) -> None:
    """No layer makes a cycle: a thousand requests a second would have the collector run all the time."""
    app = Stack(Echo(), *EVERY_LAYER)
    answered = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal answered
        answered += message.get("status", 0) == 200

    async def requests(number: int) -> None:
        for _ in range(number):
            await asyncio.create_task(app(http_scope(method), receive, send))

    await requests(5)  # caches
    gc.collect()
    gc.disable()
    try:
        await requests(20)
        assert (answered, _of_holdfast(gc_found())) == (25, [])
    finally:
        gc.enable()


async def test_planted_cycle_is_found() -> None:
    """The test above sees one."""
    gc.collect()
    exchange, _ = pair()
    exchange.on_head(exchange, list.clear)
    del exchange
    assert _of_holdfast(gc_found()) == ["Exchange"]


def gc_found() -> list[Any]:
    """What nobody but a cycle holds."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return list(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def _of_holdfast(found: list[Any]) -> list[str]:
    return sorted(type(one).__name__ for one in found if type(one).__module__.startswith("holdfast."))


# ------------------------------------------------------------------------------------------------------ headers, read once


def test_headers_are_read_once_and_anew_when_a_layer_replaced_them() -> None:
    """Layers of somebody else may put another list into the scope."""
    scope = http_scope(headers=[(b"a", b"1")])
    context = context_of(scope)
    fields = fields_of(scope, context)
    assert fields_of(scope, context) is fields
    scope["headers"] = [*scope["headers"], (b"b", b"2")]
    assert fields_of(scope, context).get(b"b") == b"2"


def test_fields_know_what_is_there_twice() -> None:
    """`only` refuses it, whatever else is repeated does not matter."""
    fields = Fields([(b"a", b"1"), (b"b", b"2"), (b"b", b"3")])
    assert (fields.only(b"a"), fields.only(b"c"), fields.repeated) == (b"1", None, True)
    with pytest.raises(MalformedHeader):
        fields.only(b"b")
    assert Fields([(b"a", b"1")]).only(b"a") == b"1"
