"""What really passed between the service and the server: seen once per request, for all layers that need to know.

    context, exchange, receive, send = exchange_of(scope, receive, send)
    exchange.on_head(self, lambda headers: headers.append((b"x-seen", b"1")))
    exchange.on_complete(lambda status: ...)
    ...
    if not exchange.started: ...        # an answer can still be given

The outermost layer that asks puts itself between; those further in get the same exchange, and `receive` and `send` back
unchanged. So it tells what the server was handed, whatever layers in between hold back, and costs one pair of calls a message.
What layers add to the head of the answer is added here too: a `send` of its own for each of them would cost as much again.
"""

from __future__ import annotations

from collections.abc import Callable

from ..clock import SYSTEM_CLOCK, Clock
from .context import STATE_KEY, RequestContext, new_context
from .interface import Headers, Message, Receive, Scope, Send

__all__ = ["Exchange", "OnComplete", "OnHead", "exchange_of"]

_BODIES = frozenset({"http.response.body", "http.response.pathsend", "http.response.zerocopysend"})
"""What can end an answer; the last two, extensions of ASGI, have the server send a file."""

OnHead = Callable[[Headers], object]
"""Changes the headers of an answer, in place."""

OnComplete = Callable[[int], object]
"""Hears the status of an answer that is complete. It must not raise, nor hold exchange or context: that would be a cycle."""


class Exchange:
    """What passed so far in one request.

    Attributes:
        status: the status of the answer, or None before it was begun.
        started: whether the answer was begun: from then on no other can be given.
        ending: whether its last piece has come: it is being handed over, or was.
        complete: whether it was handed over to the end. A server takes a piece when there is room for it: of a client that reads
            slowly it may be waiting to be rid of what came earlier.
        ended_at: when it was, in the seconds of the clock's `monotonic()`; 0.0 before.
        disconnected: whether the client hung up before that.
        raised_outside: what the server, or a middleware of somebody else further out, raised last when it was called, or None.
            Whoever sets it back keeps it from being a cycle, by its trace.
        muted: a layer has taken the answer over: what is sent meanwhile is dropped.
        request_bytes, response_bytes: bytes of the bodies.
    """

    __slots__ = (
        "_monotonic",
        "_on_complete",
        "_on_head",
        "_receive",
        "_send",
        "complete",
        "disconnected",
        "ended_at",
        "ending",
        "muted",
        "raised_outside",
        "request_bytes",
        "response_bytes",
        "started",
        "status",
    )

    def __init__(self, receive: Receive, send: Send, clock: Clock = SYSTEM_CLOCK) -> None:
        self._receive = receive
        self._send = send
        self._monotonic = clock.monotonic
        self._on_complete: tuple[OnComplete, ...] = ()
        self._on_head: dict[object, OnHead] = {}
        self.status: int | None = None
        self.started = False
        self.ending = False
        self.complete = False
        self.ended_at = 0.0
        self.disconnected = False
        self.muted = False
        self.raised_outside: Exception | None = None
        self.request_bytes = 0
        self.response_bytes = 0

    def on_head(self, layer: object, change: OnHead) -> None:
        """Have `change` called with the answer's headers, a new list, when its head is handed to the server.

        Once for each layer, however often it is called: what it said last counts. The layers outside come first.
        """
        self._on_head[layer] = change

    def on_complete(self, call: OnComplete) -> None:
        """Have `call` called when the answer is complete, once; never if it does not become so."""
        self._on_complete += (call,)

    async def receive(self) -> Message:
        """The server's `receive`, noted. Servers say `http.disconnect` also at the last piece; that is not counted."""
        try:
            message = await self._receive()
        except Exception as error:
            self.raised_outside = error
            raise
        if message["type"] == "http.request":
            self.request_bytes += len(message.get("body", b""))
        elif not self.ending:
            self.disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """The server's `send`, noted."""
        if self.muted:
            return
        # Noted before it is handed over: a half-sent head is sent, and what listens for the client may hear of its end meanwhile.
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            if self._on_head:
                headers = list(message.get("headers", ()))
                for change in self._on_head.values():
                    change(headers)
                message = {**message, "headers": headers}
        elif message["type"] in _BODIES:
            self.response_bytes += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.ending = True
        try:
            await self._send(message)
        except OSError:  # what a server raises when the client is gone (ASGI 2.4)
            self.disconnected = True
            raise
        except Exception as error:
            self.raised_outside = error
            raise
        if self.ending and not self.complete:  # trailers may follow
            self.complete = True
            self.ended_at = self._monotonic()
            if self._on_complete and self.status is not None:
                for call in self._on_complete:
                    call(self.status)


def exchange_of(
    scope: Scope, receive: Receive, send: Send, clock: Clock = SYSTEM_CLOCK
) -> tuple[RequestContext, Exchange, Receive, Send]:
    """The context of the request that `scope` describes, its exchange, and what to call the next layer with.

    `clock` as for `context_of`. The exchange does not know the context: that would be a cycle, for the collector to find.
    """
    try:  # as `context_of`, without a call more: nearly every layer comes here
        context: RequestContext = scope["state"][STATE_KEY]
    except (KeyError, TypeError):
        context = new_context(scope, clock)
    exchange = context.exchange
    if exchange is not None:
        return context, exchange, receive, send
    context.exchange = exchange = Exchange(receive, send, clock)
    return context, exchange, exchange.receive, exchange.send
