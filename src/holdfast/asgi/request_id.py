"""Every request has a name: in every log line, in every problem document, in the answer, and in the trace it belongs to.

    app = RequestId(app)
    handler.addFilter(RequestFilter())              # record.request_id, record.trace_id: in the handler's format
    handler.setFormatter(JsonLines())               # or whole lines of JSON (log_lines)

The id comes from a header that a proxy set, if it is made of harmless characters and not too long, or is a fresh token. Who has
no proxy that sets (or removes) the header gives `incoming=None`: otherwise callers choose the names of their requests, which
can be confusing, though no more than that. The trace comes from `traceparent`, or a new one begins.
"""

from __future__ import annotations

import logging
from typing import ClassVar

from ..clock import SYSTEM_CLOCK, Clock, new_token
from .context import CURRENT, RequestContext, context_of, fields_of
from .exchange import exchange_of
from .headers import Fields, MalformedHeader, header, put
from .interface import App, Message, Receive, Scope, Send
from .stack import Place
from .trace_context import child_of, parse_traceparent, parse_tracestate

__all__ = ["RequestFilter", "RequestId", "acceptable_id"]

_ID_MAX = 128
_ID = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:"


def acceptable_id(value: bytes) -> str | None:
    """An id from outside, if it has 1 to 128 letters, digits, hyphens, underscores, dots and colons; else None. Pure."""
    if not 0 < len(value) <= _ID_MAX or value.translate(None, _ID):
        return None
    return value.decode("ascii")


class RequestId:
    """Names each request and finds its trace; the outermost layer, since all others use the name.

    Args:
        app: the application around which this stands.
        incoming: the header from which an id is taken, default `x-request-id`; None: every id is fresh.
        outgoing: the header in which the answer carries it, default `x-request-id`; None: it does not.
        sampled: whether a trace that begins here asks the services behind to record it, default False. One that began elsewhere
            keeps what was decided there.
        clock: where the request's beginning is read.

    Raises:
        ConfigurationError: a header's name is none.
    """

    place: ClassVar[Place] = Place.REQUEST_ID

    __slots__ = ("_clock", "_flags", "_incoming", "_outgoing", "app")

    def __init__(
        self,
        app: App,
        *,
        incoming: str | None = "x-request-id",
        outgoing: str | None = "x-request-id",
        sampled: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.app = app
        self._incoming = header(incoming, "")[0] if incoming is not None else None
        self._outgoing = header(outgoing, "")[0] if outgoing is not None else None
        self._flags = "01" if sampled else "00"
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, a request or a WebSocket."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        before = CURRENT.get()
        context = context_of(scope, self._clock)
        if context.request_id:  # an application inside an application: it has its name
            await self.app(scope, receive, send)
            return
        self._name_it(scope, context)
        outgoing = self._outgoing
        if outgoing is not None:
            pair = (outgoing, context.request_id.encode("ascii"))
            if scope["type"] == "http":
                context, exchange, receive, send = exchange_of(scope, receive, send, self._clock)
                exchange.on_head(self, lambda headers: put(headers, pair))
            else:
                send = _Naming(send, pair)
        try:
            await self.app(scope, receive, send)
        finally:
            CURRENT.set(before)

    def _name_it(self, scope: Scope, context: RequestContext) -> None:
        fields = fields_of(scope, context)
        fresh = new_token()
        given = None if self._incoming is None else _one(fields, self._incoming)
        context.request_id = (acceptable_id(given) if given is not None else None) or fresh
        parent = _one(fields, b"traceparent")
        trace = parse_traceparent(parent) if parent is not None else None
        if trace is not None:
            context.trace_id, flags = trace
            if b"tracestate" in fields:
                context.tracestate = parse_tracestate([value for name, value in fields.pairs if name == b"tracestate"])
            context.traceparent = child_of(context.trace_id, fresh[:16], flags)
        else:
            # A token is a version 4 UUID's worth of chance: never all zeros in practice, which the format forbids.
            context.trace_id = fresh
            context.traceparent = child_of(fresh, new_token()[:16], self._flags)


def _one(fields: Fields, name: bytes) -> bytes | None:
    # Two ids, or two parents, are as good as none: which of them would the next service take?
    try:
        return fields.only(name)
    except MalformedHeader:
        return None


class _Naming:
    """A `send` that puts the id into the head of what a WebSocket's handshake is answered with, in place of any other."""

    __slots__ = ("_pair", "_send")

    def __init__(self, send: Send, pair: tuple[bytes, bytes]) -> None:
        self._send = send
        self._pair = pair

    async def __call__(self, message: Message) -> None:
        if message["type"] in {"websocket.accept", "websocket.http.response.start"}:
            headers = list(message.get("headers", ()))
            put(headers, self._pair)
            message = {**message, "headers": headers}
        await self._send(message)


class RequestFilter(logging.Filter):
    """Puts `request_id` and `trace_id` on every log record, `-` outside a request. Never drops one.

    Add it to a handler: filters of a logger do not see the records of the loggers below it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Name the request that `record` was written in."""
        context = CURRENT.get()
        record.request_id = (context.request_id if context is not None else "") or "-"
        record.trace_id = (context.trace_id if context is not None else None) or "-"
        return True
