"""Request bodies with an end: how much, how long, and how much altogether.

    app = BodyLimit(app, limit=1_048_576, timeout=10)       # for every request; nothing is kept

    buffer = BodyBuffer(limit=65_536)                       # for a layer that must have the whole body: once for the service
    async with await buffer.read(scope, receive) as body:
        body.data                                           # all of it
        await app(scope, body.receive, send)                # the application reads it as if it came from the server
        body.rewind()                                       # and once more, for another attempt

What is counted is what arrives: a length that was promised only lets a body be refused sooner, so a chunked body without end is
cut at the limit like any other. A client that sends too slowly gets 408, a body that is too large 413; bodies that many requests
hold at the same time share one allowance, and who comes when it is used up gets 503. The cap is Starlette's missing default
(encode/starlette discussion 2155); the shared allowance answers many small bodies at once.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

from ..deadline import seconds
from ..errors import ConfigurationError
from .context import RequestContext, fields_of
from .exchange import Exchange, exchange_of
from .headers import Fields
from .interface import App, Message, Receive, Scope, Send
from .problems import Problem, RequestRefused, problem_messages, send_problem
from .stack import Place

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["BodyBuffer", "BodyLimit", "BufferedBody", "ClientLeft", "promised_length"]

_TOO_LARGE = Problem(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "content-too-large",
    detail="The body is larger than this service takes. Nothing was applied.",
    headers=((b"connection", b"close"),),  # the rest of the body is still on its way, and nobody will read it
)
_TOO_SLOW = Problem(
    HTTPStatus.REQUEST_TIMEOUT,
    "request-timeout",
    detail="The body did not arrive in time. Nothing was applied.",
    headers=((b"connection", b"close"),),
)
_NO_ROOM = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "overloaded",
    detail="Too many bodies are held at the moment. Nothing was applied. Repeat the request.",
    retry_after_s=1,
    headers=((b"connection", b"close"),),
)


_LINGER_S = 1.0
_LINGER_MAX = 1_048_576


class ClientLeft(Exception):
    """The client hung up before its request was complete: there is nobody to answer."""


def promised_length(headers: Fields) -> int | None:
    """The body's length as the request states it, or None where it does not or says nonsense. Only ever a hint."""
    value = headers.get(b"content-length")
    # 19 digits fit in 64 bits; turning more into a number is work that an attacker chooses.
    return int(value) if value is not None and value.isdigit() and len(value) < 20 else None


def _bounds(limit: int, timeout: float | timedelta) -> tuple[int, float]:
    if limit < 0:
        raise ConfigurationError(f"limit must be a number of bytes, 0 or more, not {limit}")
    timeout_s = seconds(timeout, name="timeout")
    if timeout_s == 0:
        raise ConfigurationError("timeout must be more than 0 s")
    return limit, timeout_s


class BufferedBody:
    """A whole body in memory, and the place it takes in the buffer's allowance until the block it is in ends.

    Attributes:
        data: the bytes.
    """

    __slots__ = ("_buffer", "_given", "_receive", "data")

    def __init__(self, data: bytes, receive: Receive, buffer: BodyBuffer) -> None:
        self.data = data
        self._receive = receive
        self._buffer = buffer
        self._given = False

    async def receive(self) -> Message:
        """ASGI's `receive`: the body in one piece, then whatever the server has to say (that the client hung up)."""
        if self._given:
            return await self._receive()
        self._given = True
        return {"type": "http.request", "body": self.data, "more_body": False}

    def rewind(self) -> None:
        """Give the body once more from the beginning."""
        self._given = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give back the place in the allowance; the block does it. More than once is harmless."""
        self._buffer._held -= len(self.data)
        self.data = b""


class BodyBuffer:
    """Reads whole bodies for those layers that cannot do with less. One for a service; for one event loop.

    Args:
        limit: bytes one body may have, default 1 MiB; 0 or more.
        timeout: how long reading one may take altogether, seconds or `timedelta`, default 10 s; more than 0.
        total: bytes that all bodies being held may have together, default 64 MiB; at least `limit`.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    __slots__ = ("_held", "_limit", "_timeout_s", "_total")

    def __init__(
        self, *, limit: int = 1_048_576, timeout: float | timedelta = 10.0, total: int = 64 * 1_048_576
    ) -> None:
        self._limit, self._timeout_s = _bounds(limit, timeout)
        if total < limit:
            raise ConfigurationError(f"total must be at least limit ({limit} bytes), not {total}")
        self._total = total
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes held at the moment, also by bodies that are still being read."""
        return self._held

    async def read(self, scope: Scope, receive: Receive) -> BufferedBody:
        """The whole body of a request.

        Raises:
            RequestRefused: with 413, 408 or 503, as the text at the top says; what was read is gone.
            ClientLeft: the client hung up first.
        """
        length = promised_length(Fields(scope["headers"]))
        if length is not None and length > self._limit:
            raise RequestRefused(_TOO_LARGE)
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    piece = message.get("body", b"")
                    more = message.get("more_body", False)
                    if piece:
                        self._held += len(piece)
                        size += len(piece)
                        pieces.append(piece)
                    if size > self._limit:
                        raise RequestRefused(_TOO_LARGE)
                    if self._held > self._total:
                        raise RequestRefused(_NO_ROOM)
        except BaseException as error:
            self._held -= size
            if isinstance(error, TimeoutError):
                raise RequestRefused(_TOO_SLOW) from None
            raise
        return BufferedBody(pieces[0] if len(pieces) == 1 else b"".join(pieces), receive, self)


class BodyLimit:
    """Ends bodies that are too large or too slow, for every request, without keeping any of them.

    A request that promises too much is refused at once; one that turns out too large is refused as soon as it is, unless the
    application has begun to answer by then. What the application makes of the interruption does not reach the client. The answer
    does, also if the client goes on sending: for a second and a mebibyte what it sends is read and thrown away (RFC 9112, 9.6).

    Args:
        app: the application around which this stands.
        limit: bytes a body may have, default 1 MiB; 0 or more.
        timeout: how long it may take to arrive from the first time the application asks for it, default 10 s; more than 0.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    place: ClassVar[Place] = Place.BODY_LIMIT

    __slots__ = ("_limit", "_timeout_s", "app")

    def __init__(self, app: App, *, limit: int = 1_048_576, timeout: float | timedelta = 10.0) -> None:
        self.app = app
        self._limit, self._timeout_s = _bounds(limit, timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context, exchange, receive, send = exchange_of(scope, receive, send)
        headers = fields_of(scope, context)
        length = promised_length(headers)
        if length is not None and length > self._limit:
            await _answer_too_large(receive, send, context)
            return
        # RFC 9112 6.3: in HTTP/1 a request with neither header ends with its head; later versions need neither. Where no body
        # comes there is nothing to wait for. What comes nevertheless is counted.
        timed = length is not None or b"transfer-encoding" in headers or not scope["http_version"].startswith("1")
        counted = _Counted(receive, exchange, self._limit, self._timeout_s if timed else None)
        try:
            await self.app(scope, counted.receive, send)
        except Exception:
            # Whatever the application made of being interrupted: the client learns the cause. An answer that was begun is
            # another matter; somebody further out has to end it.
            if counted.problem is None or exchange.started:
                raise
        finally:
            exchange.muted = False
        if counted.problem is None or exchange.started:
            return
        if counted.problem is _TOO_LARGE:
            await _answer_too_large(receive, send, context)
        else:
            await send_problem(send, counted.problem, context)


async def _answer_too_large(receive: Receive, send: Send, context: RequestContext) -> None:
    """Answer, and keep the connection until the client has had time to read it.

    A server that closes one on which bytes are still arriving resets it, and the client's system throws the answer away with it.
    """
    start, body = problem_messages(_TOO_LARGE, context)
    await send(start)
    await send({**body, "more_body": True})
    left = _LINGER_MAX
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):  # all of it came, or the client is gone
                    break
    await send({"type": "http.response.body", "body": b""})


class _Counted:
    """One request: what arrived so far, and until when it may."""

    __slots__ = ("_exchange", "_left", "_receive", "_timeout_s", "_until", "_whole", "problem")

    def __init__(self, receive: Receive, exchange: Exchange, limit: int, timeout_s: float | None) -> None:
        self._receive = receive
        self._exchange = exchange
        self._left = limit
        self._timeout_s = timeout_s
        self._until: float | None = None
        self._whole = False
        self.problem: Problem | None = None

    async def receive(self) -> Message:
        if self._whole:  # from here on it is only the client's hanging up that can be heard
            return await self._receive()
        if self.problem is not None:
            raise RequestRefused(self.problem)
        message = await (self._receive() if self._timeout_s is None else self._receive_in_time(self._timeout_s))
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._left < 0:
                self._whole = False
                raise self._refused(_TOO_LARGE)
        return message

    async def _receive_in_time(self, timeout_s: float) -> Message:
        if self._until is None:
            self._until = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(self._until):
                return await self._receive()
        except TimeoutError:
            raise self._refused(_TOO_SLOW) from None

    def _refused(self, problem: Problem) -> RequestRefused:
        self.problem = problem
        if not self._exchange.started:
            self._exchange.muted = True  # for what the application says about it; ours follows
        return RequestRefused(problem)
