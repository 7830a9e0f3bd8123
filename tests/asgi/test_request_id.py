"""Every request has a name and a trace, inside, in the answer and in the log."""

from __future__ import annotations

import io
import logging

import pytest

from holdfast.asgi.context import RequestContext, context_of, current_request
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.request_id import RequestFilter, RequestId
from holdfast.asgi.trace_context import parse_traceparent
from holdfast.errors import ConfigurationError
from tests.asgi.asgi_calls import answering, call, http_scope, run_lifespan

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class Seeing:
    """An application that keeps the context it was called in."""

    def __init__(self) -> None:
        self.seen: list[RequestContext] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        assert current_request() is context
        self.seen.append(context)
        await answering(headers=[(b"x-request-id", b"of the application"), (b"x-other", b"1")])(scope, receive, send)


async def test_an_id_from_outside_is_taken_and_sent_back() -> None:
    """The header's id names the request and stands in the answer, once, instead of the application's."""
    app = Seeing()
    answer = await call(RequestId(app), headers={"X-Request-Id": "order-17.a_b:c"})
    assert app.seen[0].request_id == "order-17.a_b:c"
    assert answer.header("x-request-id") == "order-17.a_b:c"
    assert answer.header("x-other") == "1"
    assert current_request() is None


@pytest.mark.parametrize(
    "values",
    [
        [b""],
        [b"x" * 129],
        [b"a b"],
        [b"a\r\nset-cookie: x"],
        [b"\x1b[2J"],
        [b"\xff"],
        [b"<script>"],
        [b"a", b"b"],
        [b"a", b"a"],
    ],
)
async def test_an_id_that_is_not_harmless_is_replaced(values: list[bytes]) -> None:
    """Another charset, too long, or two of them: a fresh token, 32 hexadecimal digits."""
    app = Seeing()
    answer = await call(RequestId(app), headers=[(b"x-request-id", value) for value in values])
    assert len(answer.header("x-request-id") or "") == 32
    assert int(app.seen[0].request_id, 16)


async def test_ids_are_fresh_and_can_be_kept_to_oneself() -> None:
    """Without a trusted header every request has its own; the header of the answer can be left out."""
    app = Seeing()
    layer = RequestId(app, incoming=None, outgoing=None)
    answers = [await call(layer, headers={"X-Request-Id": "chosen"}) for _ in range(2)]
    assert app.seen[0].request_id != app.seen[1].request_id
    assert "chosen" not in {context.request_id for context in app.seen}
    assert answers[0].header("x-request-id") == "of the application"


async def test_a_trace_goes_on() -> None:
    """The trace id and the decision to sample are kept, the parent is this request, and the state is passed on."""
    app = Seeing()
    await call(RequestId(app), headers={"Traceparent": TRACEPARENT, "Tracestate": "a=1"})
    context = app.seen[0]
    assert context.trace_id == TRACE
    assert context.traceparent != TRACEPARENT
    assert parse_traceparent((context.traceparent or "").encode()) == (TRACE, "01")
    assert context.tracestate == "a=1"


@pytest.mark.parametrize(
    "headers",
    [[], [(b"traceparent", b"nonsense"), (b"tracestate", b"a=1")], [(b"traceparent", TRACEPARENT.encode())] * 2],
)
async def test_a_new_trace_begins(headers: list[tuple[bytes, bytes]]) -> None:
    """Where there is none, where it is malformed and where there are two; the state belonged to the other one."""
    for sampled in (True, False):
        app = Seeing()
        await call(RequestId(app, sampled=sampled), headers=headers)
        context = app.seen[0]
        assert context.trace_id != TRACE
        assert parse_traceparent((context.traceparent or "").encode()) == (context.trace_id, "01" if sampled else "00")
        assert context.tracestate is None


async def test_an_application_inside_an_application_keeps_the_name() -> None:
    """The second layer of its kind changes nothing."""
    app = Seeing()
    answer = await call(RequestId(RequestId(app)), headers={"X-Request-Id": "one"})
    assert (app.seen[0].request_id, answer.header("x-request-id")) == ("one", "one")


async def test_a_websocket_has_a_name_and_a_lifespan_none() -> None:
    """The id stands in the head that accepts a WebSocket; starting and stopping pass."""
    sent: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
            return
        assert context_of(scope).request_id == "w"
        await send({"type": "websocket.accept"})

    async def send(message: object) -> None:
        sent.append(message)

    scope = http_scope(headers={"X-Request-Id": "w"}, type="websocket")
    await RequestId(app)(scope, answering, send)  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.accept", "headers": [(b"x-request-id", b"w")]}]
    assert await run_lifespan(RequestId(app)) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_every_log_line_can_name_the_request() -> None:
    """A filter on a handler puts both ids on records of every logger, and a dash outside a request."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(message)s %(request_id)s %(trace_id)s"))
    handler.addFilter(RequestFilter())
    logger = logging.getLogger("tests.request_id")
    logger.addHandler(handler)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        logger.warning("inside")
        await answering()(scope, receive, send)

    try:
        await call(RequestId(app), headers={"X-Request-Id": "one", "Traceparent": TRACEPARENT})
        logger.warning("outside")
    finally:
        logger.removeHandler(handler)
    assert text.getvalue().splitlines() == [f"inside one {TRACE}", "outside - -"]


def test_a_header_that_is_none_is_refused() -> None:
    """A name with a colon or a line break is told where it is given."""
    with pytest.raises(ConfigurationError):
        RequestId(answering(), incoming="x:y")
    with pytest.raises(ConfigurationError):
        RequestId(answering(), outgoing="x\r\n")
