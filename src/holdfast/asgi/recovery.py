"""Whatever is raised inside becomes an answer the caller can use, and one entry in the log that a person can use.

    app = Recovery(app)

| raised | answered | logged |
|---|---|---|
| an error of Holdfast, or `RequestRefused` | what `problem_for` says | one line: its class and text, which hold no value |
| one of those that are a bug here (500), or anything else | 500 without a word about it | ERROR with its trace, once |
| the same after the answer was begun | the connection is ended | as above |
| anything, after the answer was complete | the answer stands | as above |
| anything, because the client is gone | nothing: nobody listens | one line |
| what the server, or a middleware further out, raised when it was called | passed on: it is theirs to answer | one line |
| a cancellation | passed on: it belongs to the server | nothing |

What a layer further in answers itself (`Deadline`, `Idempotency`: they are usable without this one) it logs by the same table.

The trace in the log holds files, lines and classes, and no texts of exceptions that are not Holdfast's: a driver's text may hold
the statement's values, a parser's the body, and a note whatever somebody put in it.

Frameworks may answer errors themselves before they get here: Starlette, and what is mounted in it, sends a 500 of its own and
then raises the error on. So an answer of 500 in plain text waits until the application has returned or raised; if it raises,
the table above answers in its place. Nothing else is held back: another answer that was begun stands, and the log says which.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from typing import ClassVar

from .body import ClientLeft
from .context import context_of
from .error_log import note_error, note_passed_on
from .exchange import exchange_of
from .handshakes import refuse_handshake
from .headers import first
from .interface import App, Message, Receive, Scope, Send
from .problems import as_far_as_known, problem_for, send_problem
from .stack import Place

__all__ = ["AnswerCut", "Recovery"]

_INTERNAL_ERROR = 1011


class AnswerCut(Exception):
    """An answer that was begun cannot be finished: the server should end the connection. Why stands in the log."""


class Recovery:
    """Turns what is raised inside into problem documents, as the table above says.

    A websocket is closed with 1011, "internal error"; before it was accepted its handshake is answered.

    Args:
        app: the application around which this stands.

    Raises:
        AnswerCut: (to the server) an error came after the answer was begun.
        Exception: (to whoever raised it) what came from further out by `receive` or `send`.
    """

    place: ClassVar[Place] = Place.RECOVERY

    __slots__ = ("app",)

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await (self._websocket if scope["type"] == "websocket" else self.app)(scope, receive, send)
            return
        context, exchange, receive, send = exchange_of(scope, receive, send)
        held: list[Message] = []

        def holding(message: Message) -> Awaitable[None]:
            # No coroutine of its own: this stands in the way of every message.
            if held or (message["type"] == "http.response.start" and message["status"] == 500):
                return _hold(held, message, send)
            return send(message)

        try:
            await self.app(scope, receive, holding)
            await _let_go(held, send)
        except Exception as error:
            # Cancellation is no Exception: it passes.
            problem = as_far_as_known(problem_for(error), context)
            gone = exchange.disconnected or isinstance(error, ClientLeft)
            if error is exchange.raised_outside and not gone:
                note_passed_on(error, context)
                error.__suppress_context__ = True  # what it met in here: the server logs what it gets
                raise
            note_error(error, problem, context, gone=gone, answered=exchange.status)
            if gone:
                exchange.disconnected = True
            elif not exchange.started:
                await send_problem(send, problem, context)
            elif not exchange.complete:
                # Without its cause: the server logs what it gets, and the trace was written above.
                raise AnswerCut(f"request {context.request_id or 'without an id'} was cut after it was begun") from None
        finally:
            exchange.raised_outside = None

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        socket = _Socket(receive, send)
        try:
            await self.app(scope, socket.receive, socket.send)
        except Exception as error:
            problem = as_far_as_known(problem_for(error), context)
            note_error(error, problem, context, gone=socket.is_gone)
            if socket.is_over or socket.is_gone:
                return
            with suppress(OSError):
                if socket.is_accepted:
                    await send({"type": "websocket.close", "code": _INTERNAL_ERROR})
                else:
                    await refuse_handshake(scope, send, problem, context, code=_INTERNAL_ERROR)


class _Socket:
    """What passed on one websocket."""

    __slots__ = ("_receive", "_send", "is_accepted", "is_gone", "is_over")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.is_accepted = False
        self.is_gone = False  # the other side
        self.is_over = False  # from here: closed, or its handshake answered

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.is_gone = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "websocket.accept":
            self.is_accepted = True
        elif message["type"] != "websocket.send":
            self.is_over = True
        try:
            await self._send(message)
        except OSError:  # what a server raises when the client is gone (ASGI 2.4)
            self.is_gone = True
            raise


async def _hold(held: list[Message], message: Message, send: Send) -> None:
    """Keep a 500 in plain text that ends with its first piece; hand on everything else, and what was kept before it."""
    if not held:
        if (first(message.get("headers", ()), b"content-type") or b"").startswith(b"text/plain"):
            held.append(message)
            return
    elif message["type"] == "http.response.start":
        held.clear()  # a layer inside answers in place of the one that is kept
    elif len(held) == 1 and not message.get("more_body", False):
        held.append(message)
        return
    await _let_go(held, send)
    await send(message)


async def _let_go(held: list[Message], send: Send) -> None:
    for one in held:
        await send(one)
    held.clear()
