"""Draining: the requests under way, counted, told, waited for, and only at the limit cancelled.

    app = Draining(app)                         # the process's own drain
    drain.on_close("database", db.close)

What it does, under any ASGI server:

- Each request is work that the end waits for (`holdfast.shutdown`), and `await draining()` works inside.
- While draining, each answer over HTTP/1.1 says `Connection: close`: clients open their next connection elsewhere. So does, at
  any time, the answer to a request with both `Content-Length` and `Transfer-Encoding`: what follows on its connection may be read
  in two ways (RFC 9112, 6.1).
- A websocket that is open when the end begins has until the end of the lame duck to end by itself (`draining()`); then it is
  closed with 1012, "service restart". One that comes later is refused.
- A request that is cancelled at the limit before its answer began is answered: with 503 where it only reads, or where it is known
  that nothing was applied; else with 504, `outcome` is `unknown`, and the same key settles it.
- When the server says `lifespan.shutdown`: what is under way is waited for, cancelled at its limit and waited for again, then the
  steps of `on_flush` are taken, then the application's own shutdown runs, then the steps of `on_close`. While other applications
  run in the process, that is the end of this one alone: of its requests, and of the steps that are its own (`Part`; inside, it is
  `current_drain()`). The last one ends the rest. One that fails to start is over, too.

Under `holdfast.ext.uvicorn` the end begins with the signal, and the lame duck takes place. Under another server the signal
belongs to that server: `Draining` puts itself in front of its handler, so that answers and handlers know of the end at
once, but the server closes its listener as soon as it likes.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

from ..errors import OutcomeUnknown, report_of
from ..outcome import Outcome
from ..shutdown import DRAIN, Drain, Part, Phase, Work, use_drain
from .context import context_of, fields_of
from .exchange import Exchange, exchange_of
from .handshakes import refuse_handshake
from .headers import put
from .interface import SAFE_METHODS
from .problems import Problem, problem_for, send_problem
from .stack import Place

if TYPE_CHECKING:
    from .context import RequestContext
    from .interface import App, Headers, Message, Receive, Scope, Send

__all__ = ["Draining"]

_log = logging.getLogger("holdfast")

_MARK = "holdfast.draining"
_REQUEST = "holdfast.draining.request"
_CLOSE = (b"connection", b"close")
_SERVICE_RESTART = 1012
_CUT = Problem(
    503,
    "shutting-down",
    "",
    "The service is being replaced, and the time it had for this request is over. Repeat the request.",
    1,
    headers=(_CLOSE,),
)
_CUT_UNAPPLIED = replace(
    _CUT,
    detail="The service is being replaced, and the time it had for this request is over. Nothing was applied. "
    "Repeat the request, with the same Idempotency-Key if it had one.",
    extensions={"outcome": Outcome.NOT_COMMITTED.value},
)
# Not 503: who reads that with a `Retry-After` takes the request for refused, and sends it again also without a key.
_UNKNOWN = problem_for(OutcomeUnknown())
_MAYBE = replace(
    _UNKNOWN, detail=_UNKNOWN.detail.replace("The time was up", "The service is being replaced"), headers=(_CLOSE,)
)
_REFUSED = Problem(503, "shutting-down", "", "The service is being replaced. Connect again.", 1, headers=(_CLOSE,))


class Draining:
    """The outermost layer but for those that name and log requests. Belongs to one event loop.

    A second one with the same drain further inside, as under `holdfast.ext.uvicorn`, counts nothing again. But it is the one that
    answers what is cut or refused: the layers around it, which name and log requests, see what the client gets.

    Args:
        app: the application inside.
        drain: what is drained: the process's (default) or another, in which the application gets a part; or such a part.
        watch_signals: under a server that is not ours, notice SIGTERM and SIGINT before the server does; default True. Without
            effect outside of the main thread.

    Attributes:
        part: what ends with the application.
    """

    __slots__ = ("_has_inner", "_watch_signals", "app", "part")
    place = Place.DRAINING

    def __init__(self, app: App, *, drain: Drain = DRAIN, watch_signals: bool = True) -> None:
        self.app = app
        self.part = Part.of(drain)
        self._watch_signals = watch_signals
        self._has_inner = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request, one websocket, or the life of the application."""
        drain = self.part
        outer = scope.get(_MARK)
        if outer is not None and outer.part.whole is drain.whole:
            await self._within(outer, scope, receive, send)
            return
        scope[_MARK] = self
        kind = scope["type"]
        if kind == "http":
            context, exchange, receive, send = exchange_of(scope, receive, send)
            # Other versions of HTTP have no such header; there it is the proxy's to say.
            if scope.get("http_version", "1.1").startswith("1"):
                fields = fields_of(scope, context)
                has_two_ends = b"transfer-encoding" in fields and b"content-length" in fields
                exchange.on_head(self, _say_close if has_two_ends else self._say_close)
            request = _Request(scope, context, exchange)
            use_drain(drain)
            if drain.is_draining:
                context.draining = True
            drain.enter(request)
            scope[_REQUEST] = request
            try:
                await self.app(scope, receive, send)
            except asyncio.CancelledError as error:
                if not await request.cut(error, send):
                    raise
            finally:
                drain.leave(request)
                scope.pop(_REQUEST, None)  # each holds the other: a cycle, for the collector to find
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _within(self, outer: Draining, scope: Scope, receive: Receive, send: Send) -> None:
        """Inside of `outer`, which counts: answer what is cut or refused."""
        self.part.join(outer.part)
        kind = scope["type"]
        if kind == "lifespan":
            outer._has_inner = True
        elif kind == "websocket" and self.part.is_draining:
            await _refuse(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError as error:
            request: _Request | None = scope.get(_REQUEST)
            if request is None or not await request.cut(error, send):
                raise

    def _say_close(self, headers: Headers) -> None:
        if self.part.is_draining:
            put(headers, _CLOSE)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        drain = self.part
        if drain.is_draining:
            await (self.app(scope, receive, send) if self._has_inner else _refuse(scope, receive, send))
            return
        use_drain(drain)
        socket = _WebSocket(send, drain)
        drain.enter(socket)
        watcher = asyncio.ensure_future(socket.close_when_told())
        try:
            await self.app(scope, receive, socket.send)
        except asyncio.CancelledError:
            if not socket.is_ours_to_end():
                raise
        finally:
            watcher.cancel()
            drain.leave(socket)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        use_drain(self.part)
        restore = _notice_signals(self.part.whole) if self._watch_signals else None
        life = _Life(self.part, receive, send)
        try:
            await self.app(scope, life.receive, life.send)
        finally:
            life.over()
            if restore is not None:
                restore()


def _say_close(headers: Headers) -> None:
    put(headers, _CLOSE)


class _Cancellable(Work):
    """Work in a task of this loop."""

    __slots__ = ("_cut", "_task")

    _task: asyncio.Task[None]
    _cut: bool

    def cancel(self) -> None:
        self._task.get_loop().call_soon_threadsafe(self._cancel_here)

    def _cancel_here(self) -> None:
        self._cut = True
        self._task.cancel()

    def is_ours_to_end(self) -> bool:
        """Whether the cancellation that just arrived came from `cancel`; then it ends here."""
        if self._cut:
            self._task.uncancel()
        return self._cut


class _Request(_Cancellable):
    """One request under way."""

    __slots__ = ("_context", "_exchange", "_scope", "_was_asked")

    def __init__(self, scope: Scope, context: RequestContext, exchange: Exchange) -> None:
        # One flat list instead of three calls: this runs for every request.
        self._task = asyncio.current_task()  # type: ignore[assignment]  # ASGI applications run in tasks
        self._cut = self._was_asked = False
        self._scope = scope
        self._context = context
        self._exchange = exchange

    @property
    def name(self) -> str:
        """Method and route, never a concrete path."""
        route = self._context.route or getattr(self._scope.get("route"), "path", None)
        return f"{self._scope['method']} {route or '<unknown route>'}"

    async def cut(self, error: asyncio.CancelledError, send: Send) -> bool:
        """Answer instead of the handler, if `error` is that it was cancelled for the drain's sake; whether it was answered.

        Asked once: where that was not to be answered, the layers further out do not answer either.
        """
        if self._was_asked or not self.is_ours_to_end():
            return False
        self._was_asked = True
        _log.warning("shutdown: cancelled %s", self.name)
        if self._exchange.started:
            # Half an answer must not look like a whole one: the server ends the connection for it.
            return False
        await send_problem(send, self._said_of(error), self._context)
        return True

    def _said_of(self, error: asyncio.CancelledError) -> Problem:
        if self._scope["method"] in SAFE_METHODS:
            return _CUT
        report = report_of(error)
        is_known = report is not None and report.outcome is Outcome.NOT_COMMITTED and not self._context.applied
        return _CUT_UNAPPLIED if is_known else _MAYBE


class _WebSocket(_Cancellable):
    """One websocket, and the `send` it is called with."""

    __slots__ = ("_closed", "_drain", "_send")

    def __init__(self, send: Send, drain: Drain) -> None:
        super().__init__("websocket")
        self._task = asyncio.current_task()  # type: ignore[assignment]
        self._cut = False
        self._send = send
        self._drain = drain
        self._closed = False

    async def send(self, message: Message) -> None:
        if self._closed:
            return  # the handler did not notice yet; there is nobody to hear it
        if message["type"] == "websocket.close":
            self._closed = True
        await self._send(message)

    async def close_when_told(self) -> None:
        """Close it with 1012 when the lame duck is over and it has not ended by itself."""
        await self._drain.wait_async(Phase.STOPPING)
        with suppress(Exception):  # it may be closed from the other side at this moment
            await self.send({"type": "websocket.close", "code": _SERVICE_RESTART})


class _Life:
    """One run of the application, and its end: work first, then its own shutdown, then ours."""

    __slots__ = ("_ending", "_is_over", "_part", "_receive", "_send")

    def __init__(self, part: Part, receive: Receive, send: Send) -> None:
        self._part = part
        self._receive = receive
        self._send = send
        self._ending: Drain | None = None
        self._is_over = False
        part.start()

    def over(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._part.over()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "lifespan.shutdown":
            self._ending = self._part.ending()
            if self._ending is not None:
                await self._ending.finish_async()
                await self._ending.flush_async()
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.failed" and self._part.ending() is not None:
            await _end(self._part)
        elif kind in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"} and self._ending is not None:
            await self._ending.close_async()
            self.over()
            # Where others ran when this one's end began, they may be over by now: then the rest is left to the last.
            rest = self._part.ending()
            if rest is not None:
                await _end(rest)
        await self._send(message)


async def _end(drain: Drain) -> None:
    await drain.finish_async()
    await drain.flush_async()
    await drain.close_async()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await refuse_handshake(scope, send, _REFUSED, context_of(scope), code=_SERVICE_RESTART)


def _notice_signals(drain: Drain) -> Callable[[], None] | None:
    """Begin the drain at SIGTERM and SIGINT, and let the server's own handler do what it does; how to undo that.

    None outside of the main thread, where Python allows no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    loop = asyncio.get_running_loop()
    begun: list[asyncio.Task[None]] = []

    def begin() -> None:
        if not begun:
            begun.append(loop.create_task(drain.lame_duck_async()))

    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(begin)
        handler = former[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for number, handler in former.items():
            if signal.getsignal(number) is handle and handler is not None:
                signal.signal(number, handler)

    for number in former:
        signal.signal(number, handle)
    return restore
