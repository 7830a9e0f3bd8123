"""Draining: everything under way is told, waited for, and cancelled only at the limit."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from holdfast.asgi.access_log import AccessLog
from holdfast.asgi.context import context_of
from holdfast.asgi.draining import Draining
from holdfast.asgi.interface import Message, Receive, Scope, Send
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.stack import Place, Stack
from holdfast.effects import note_applied
from holdfast.errors import Report, attach_report
from holdfast.outcome import Outcome
from holdfast.shutdown import Drain, DrainSettings, Phase, current_drain, draining, is_draining
from holdfast.testing import ManualClock
from tests.asgi.asgi_calls import Answer, Connection, answering, call, http_scope
from tests.asgi.log_capture import log_of


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def drain(clock: ManualClock) -> Drain:
    return Drain(DrainSettings(lame_duck=5, finish=15, cancel=2), clock=clock)


async def turns(true: Callable[[], bool]) -> None:
    """Let other tasks run until something holds."""
    while not true():  # noqa: ASYNC110 - of somebody else's state
        await asyncio.sleep(0)  # noqa: TID251 - a turn for the others, not a wait


class Life:
    """The server's side of a lifespan."""

    def __init__(self, app: Any) -> None:
        self.said: list[str] = []
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self._told.put_nowait({"type": "lifespan.startup"})
        self.task = asyncio.create_task(app({"type": "lifespan"}, self._told.get, self._send))

    async def _send(self, message: Message) -> None:
        self.said.append(message["type"])

    async def started(self) -> None:
        await turns(lambda: bool(self.said))

    def shut_down(self) -> None:
        self._told.put_nowait({"type": "lifespan.shutdown"})


def living(said: list[str], handle: Any = None) -> Any:
    """An application with a lifespan that notes its own shutdown, and `handle` for everything else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await handle(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        said.append("application")
        await send({"type": "lifespan.shutdown.complete"})

    return app


class Hung:
    """A handler that never answers, and cleans up when it is cancelled."""

    def __init__(self, *, starts: bool = False) -> None:
        self.starts = starts
        self.cleaned = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self.starts:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await asyncio.Event().wait()
        finally:
            self.cleaned += 1


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_added_while_serving(drain: Drain) -> None:
    """An answer of a serving process is the application's own."""
    answer = await call(Draining(answering(headers=[(b"x", b"y")]), drain=drain))
    assert answer.headers == [(b"x", b"y")]
    assert drain.in_flight == 0


@pytest.mark.parametrize(
    ("version", "own", "headers"),
    [
        ("1.1", [], [(b"connection", b"close")]),
        ("1.1", [(b"Connection", b"keep-alive"), (b"x", b"y")], [(b"x", b"y"), (b"connection", b"close")]),
        ("1.0", [], [(b"connection", b"close")]),
        ("2", [], []),
        ("3", [], []),
    ],
)
async def test_each_answer_while_draining_closes(
    drain: Drain, version: str, own: list[tuple[bytes, bytes]], headers: list[tuple[bytes, bytes]]
) -> None:
    """The next request goes elsewhere; HTTP/2 has no such header."""
    drain.begin()
    answer = await call(Draining(answering(headers=own), drain=drain), http_version=version)
    assert answer.status == 200
    assert answer.headers == headers


@pytest.mark.parametrize(
    ("headers", "closes"),
    [
        ({"Content-Length": "3", "Transfer-Encoding": "chunked"}, True),
        ({"Content-Length": "3"}, False),
        ({"Transfer-Encoding": "chunked"}, False),
    ],
)
async def test_a_request_with_two_ends_is_the_last_on_its_connection(
    drain: Drain, headers: dict[str, str], closes: bool
) -> None:
    """Somebody in front may have read it otherwise: what comes after it is not to be trusted."""
    answer = await call(Draining(answering(), drain=drain), "POST", headers=headers)
    assert answer.header("connection") == ("close" if closes else None)


async def test_an_answer_that_begins_after_the_end_began_closes(drain: Drain) -> None:
    """What counts is when the answer leaves, not when the request came."""
    go_on = asyncio.Event()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        await answering()(scope, receive, send)

    connection = Connection(http_scope())
    connection.start(Draining(handler, drain=drain))
    await turns(lambda: drain.in_flight == 1)
    drain.begin()
    go_on.set()
    assert (await connection.answer()).header("connection") == "close"


async def test_the_context_says_so(drain: Drain) -> None:
    """A request that comes while draining can see it in its context, and ask."""
    seen: list[bool] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([context_of(scope).draining, is_draining(), current_drain() is app.part])
        await answering()(scope, receive, send)

    app = Draining(handler, drain=drain)
    await asyncio.create_task(call(app))
    drain.begin()
    await asyncio.create_task(call(app))
    assert seen == [False, False, True, True, True, True]


async def test_a_stream_ends_by_itself_when_told(drain: Drain) -> None:
    """A handler that awaits the end finishes its answer: whole, not cut."""

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await draining()
        await send({"type": "http.response.body", "body": b"end"})

    connection = Connection(http_scope())
    connection.start(Draining(stream, drain=drain))
    await turns(lambda: bool(connection.so_far.messages))
    drain.begin()
    answer = await connection.answer()
    assert (answer.body, answer.complete) == (b"oneend", True)


async def test_an_error_leaves_nothing_counted(drain: Drain) -> None:
    """Whatever a handler raises, the end does not wait for it."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("no")

    answer = await call(Draining(fail, drain=drain))
    assert isinstance(answer.error, ValueError)
    assert drain.in_flight == 0


async def test_a_cancelled_request_stays_cancelled(drain: Drain) -> None:
    """A client that hangs up is not answered with "shutting down"."""
    connection = Connection(http_scope())
    task = connection.start(Draining(Hung(), drain=drain))
    await turns(lambda: drain.in_flight == 1)
    task.cancel()
    answer = await connection.answer()
    assert isinstance(answer.error, asyncio.CancelledError)
    assert answer.messages == []


async def test_two_layers_with_one_drain_count_once(drain: Drain) -> None:
    """The outer one does the work: the server's, around an application that has one of its own."""
    seen: list[int] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(drain.in_flight)
        await answering()(scope, receive, send)

    await call(Draining(Draining(handler, drain=drain), drain=drain))
    assert seen == [1]


def test_it_has_a_place() -> None:
    """The stack knows where it stands."""
    assert Draining.place is Place.DRAINING


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_the_end_has_an_order(drain: Drain, clock: ManualClock) -> None:
    """Requests first, then what is flushed, then the application's own shutdown, then what is closed."""
    said: list[str] = []
    release = asyncio.Event()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        said.append("request")
        await answering()(scope, receive, send)

    drain.on_flush("outbox", lambda: said.append("flush"))
    drain.on_close("database", lambda: said.append("close"))
    app = Draining(living(said, handler), drain=drain)
    life = Life(app)
    await life.started()
    connection = Connection(http_scope())
    connection.start(app)
    await turns(lambda: drain.in_flight == 1)
    life.shut_down()
    await turns(lambda: drain.phase is Phase.FINISHING)
    assert said == []
    release.set()
    await life.task
    assert said == ["request", "flush", "application", "close"]
    assert life.said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert (await connection.answer()).header("connection") == "close"
    assert drain.report.is_clean
    assert clock.sleeps == []


@pytest.mark.parametrize("starts", [False, True])
async def test_a_hung_request_is_cancelled_and_awaited(drain: Drain, clock: ManualClock, starts: bool) -> None:
    """At the limit it is cancelled, cleans up, and is answered if it can be; only then things are closed."""
    said: list[str] = []
    hung = Hung(starts=starts)
    drain.on_close("database", lambda: said.append(f"closed after {hung.cleaned}"))
    app = Draining(living(said, hung), drain=drain)
    life = Life(app)
    await life.started()
    scope = http_scope("POST", "/transfers/17")
    context_of(scope).route = "/transfers/{id}"
    connection = Connection(scope)
    connection.start(app)
    await turns(lambda: drain.in_flight == 1)
    life.shut_down()
    await turns(lambda: drain.phase is Phase.FINISHING and clock.waiting == 1)
    clock.advance(15)
    await life.task
    assert said == ["application", "closed after 1"]
    answer = await connection.answer()
    if starts:  # half an answer must not look whole
        assert isinstance(answer.error, asyncio.CancelledError)
        assert not answer.complete
    else:
        assert (answer.status, answer.error) == (504, None)
        assert (answer.json["type"], answer.json["outcome"]) == ("urn:holdfast:problem:outcome-unknown", "unknown")
        assert answer.header("connection") == "close"
        assert answer.header("retry-after") is None
        assert answer.json["detail"].startswith("The service is being replaced, and it may have been applied. Find out")
    assert drain.report.cancelled == ("POST /transfers/{id}",)
    assert drain.report.left_behind == ()


class Cut:
    """A handler that waits until it is cancelled; then `note` says what is known of it."""

    def __init__(self, note: Callable[[BaseException], None] = lambda error: None) -> None:
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            self._note(error)
            raise


def rolled_back(error: BaseException) -> None:
    """What an operation says of itself that was cut before its COMMIT."""
    attach_report(error, Report("transfer", 1, 1.0, "stopped", Outcome.NOT_COMMITTED))


def rolled_back_after_a_save(error: BaseException) -> None:
    """The same, when an operation before it was committed."""
    note_applied()
    rolled_back(error)


async def cut_answer(drain: Drain, clock: ManualClock, app: Any, method: str) -> Answer:
    """What a request is answered that is cut at the limit."""
    connection = Connection(http_scope(method))
    connection.start(app)
    await turns(lambda: drain.in_flight == 1)
    ending = asyncio.create_task(drain.finish_async())
    await turns(lambda: drain.phase is Phase.FINISHING and clock.waiting == 1)
    clock.advance(15)
    await ending
    return await connection.answer()


@pytest.mark.parametrize(
    ("method", "note", "status", "outcome"),
    [
        ("GET", lambda error: None, 503, None),
        ("POST", lambda error: None, 504, "unknown"),
        ("DELETE", lambda error: None, 504, "unknown"),
        ("POST", rolled_back, 503, "not_committed"),
        ("POST", rolled_back_after_a_save, 504, "unknown"),
    ],
)
async def test_who_may_have_done_something_is_not_told_to_come_again(
    drain: Drain,
    clock: ManualClock,
    method: str,
    note: Callable[[BaseException], None],
    status: int,
    outcome: str | None,
) -> None:
    """503 with `Retry-After` means "refused", and clients send such a request again also without a key."""
    answer = await cut_answer(drain, clock, Draining(Cut(note), drain=drain), method)
    assert (answer.status, answer.json.get("outcome")) == (status, outcome)
    assert answer.header("connection") == "close"
    assert (answer.header("retry-after") is None) is (outcome == "unknown")


async def test_the_line_of_a_request_that_was_cut_tells_what_the_client_got(drain: Drain, clock: ManualClock) -> None:
    """The server's own layer stands outside of the log; the stack's, inside of it, gives the answer."""
    layers = Stack(Cut(), RequestId, AccessLog, Recovery, partial(Draining, drain=drain))
    with log_of("holdfast") as log:
        answer = await cut_answer(drain, clock, Draining(layers, drain=drain), "POST")
    (line,) = [line for line in log.lines if line.get("event") == "request"]
    assert (line["status"], line["outcome"], line["effect"]) == (504, "answered", "unknown")
    assert answer.header("x-request-id") == line["request_id"]
    assert drain.report.cancelled == ("POST <unknown route>",)
    assert sum("cancelled POST" in line.get("message", "") for line in log.lines) == 1


@pytest.mark.parametrize("starts", [False, True])
async def test_with_two_layers_it_is_cut_once(drain: Drain, clock: ManualClock, starts: bool) -> None:
    """Half an answer stays half with two of them, and without one further in the outer one answers."""
    app = Draining(Draining(Hung(starts=starts), drain=drain), drain=drain)
    answer = await cut_answer(drain, clock, app, "POST")
    assert isinstance(answer.error, asyncio.CancelledError) is starts
    assert answer.complete is not starts


async def test_a_request_that_cannot_be_cancelled_is_left_behind(drain: Drain, clock: ManualClock) -> None:
    """The end comes all the same, and the report says what was lost, without a concrete path."""
    release = asyncio.Event()

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()
        await answering()(scope, receive, send)

    said: list[str] = []
    app = Draining(living(said, stubborn), drain=drain)
    life = Life(app)
    await life.started()
    connection = Connection(http_scope("GET", "/secret-id-17"))
    connection.start(app)
    await turns(lambda: drain.in_flight == 1)
    life.shut_down()
    for phase, limit_s in ((Phase.FINISHING, 15), (Phase.CANCELLING, 2)):
        await turns(lambda phase=phase: drain.phase is phase and clock.waiting == 1)  # type: ignore[misc]
        clock.advance(limit_s)
    await life.task
    assert drain.report.left_behind == ("GET <unknown route>",)
    assert said == ["application"]
    release.set()
    await connection.answer()


async def test_an_application_can_be_started_again(drain: Drain) -> None:
    """What ended serves again after the next start in the same process: tests and reloaders do that."""
    for _ in range(2):
        app = Draining(living([]), drain=drain)
        life = Life(app)
        await life.started()
        assert not drain.is_draining
        life.shut_down()
        await life.task
        assert drain.phase is Phase.DONE


async def test_another_servers_signal_is_noticed(drain: Drain) -> None:
    """The server's own handler is called as before; answers and handlers know of the end at once."""
    calls: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: calls.append(number))
    try:
        handler = signal.getsignal(signal.SIGTERM)
        life = Life(Draining(living([]), drain=drain))
        await life.started()
        signal.raise_signal(signal.SIGTERM)
        await turns(lambda: drain.is_draining)
        assert calls == [signal.SIGTERM]
        life.shut_down()
        await life.task
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


# -- websockets --------------------------------------------------------------------------------------------------------


class Socket:
    """The server's side of a websocket."""

    def __init__(self, app: Any, **scope: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        self.scope = {"type": "websocket", "path": "/ws", "headers": [], "state": {}, **scope}
        self.task = asyncio.create_task(app(self.scope, self._incoming.get, self._send))

    async def _send(self, message: Message) -> None:
        self.sent.append(dict(message))
        if message["type"] == "websocket.close":
            self._incoming.put_nowait({"type": "websocket.disconnect", "code": message.get("code", 1000)})


async def listening(scope: Scope, receive: Receive, send: Send) -> None:
    """A handler that listens until the other side is gone and never looks at the drain."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass
    await send({"type": "websocket.send", "text": "too late"})


async def attentive(scope: Scope, receive: Receive, send: Send) -> None:
    """A handler that ends by itself."""
    await receive()
    await send({"type": "websocket.accept"})
    await draining()
    await send({"type": "websocket.send", "text": "bye"})
    await send({"type": "websocket.close", "code": 1001})


async def test_a_websocket_may_end_by_itself(drain: Drain) -> None:
    """During the lame duck it is left alone."""
    socket = Socket(Draining(attentive, drain=drain))
    await turns(lambda: len(socket.sent) == 1)
    drain.begin()
    await socket.task
    assert [message.get("code") for message in socket.sent] == [None, None, 1001]
    assert drain.in_flight == 0


async def test_a_websocket_that_does_not_is_closed(drain: Drain) -> None:
    """After the lame duck it gets 1012, its handler ends, and what it still sends goes nowhere."""
    socket = Socket(Draining(listening, drain=drain))
    await turns(lambda: len(socket.sent) == 1)
    drain.begin()
    drain.begin(lame_duck=False)
    await socket.task
    assert socket.sent[1:] == [{"type": "websocket.close", "code": 1012}]
    assert drain.in_flight == 0


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
async def test_a_new_websocket_is_refused_while_draining(drain: Drain, extensions: dict[str, Any]) -> None:
    """It would have to be closed at once; the client connects to the next process instead."""
    drain.begin()
    socket = Socket(Draining(listening, drain=drain), extensions=extensions)
    await socket.task
    if extensions:
        assert [message["type"] for message in socket.sent] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert socket.sent[0]["status"] == 503
    else:
        assert socket.sent == [{"type": "websocket.close", "code": 1012}]


async def test_the_refusal_of_a_websocket_has_a_name(drain: Drain) -> None:
    """Where the stack has a layer of its own that one refuses, inside of the layer that names requests."""
    app = Draining(Stack(living([], listening), RequestId, partial(Draining, drain=drain)), drain=drain)
    life = Life(app)
    await life.started()
    drain.begin()
    socket = Socket(app, extensions={"websocket.http.response": {}})
    await socket.task
    assert socket.sent[0]["status"] == 503
    assert b"x-request-id" in dict(socket.sent[0]["headers"])
    assert b"request_id" in socket.sent[1]["body"]
    life.shut_down()
    await life.task


async def test_a_hung_websocket_is_cancelled(drain: Drain, clock: ManualClock) -> None:
    """A handler that listens to nothing is cancelled at the limit, as a request is."""
    hung = Hung()
    socket = Socket(Draining(hung, drain=drain))
    await turns(lambda: drain.in_flight == 1)
    ending = asyncio.create_task(drain.finish_async())
    await turns(lambda: drain.phase is Phase.FINISHING and clock.waiting == 1)
    clock.advance(15)
    await ending
    await socket.task
    assert (hung.cleaned, drain.report.cancelled) == (1, ("websocket",))
