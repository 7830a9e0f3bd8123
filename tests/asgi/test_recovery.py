"""Whatever is raised becomes an answer for the caller, and one entry in the log without a value in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from holdfast.asgi.answers import Answer as Whole
from holdfast.asgi.answers import StoredAnswer
from holdfast.asgi.body import ClientLeft
from holdfast.asgi.deadline import Deadline
from holdfast.asgi.idempotency import Idempotency, KeyedRun
from holdfast.asgi.interface import App, Message, Receive, Scope, Send
from holdfast.asgi.keyed_request import KeyIdentity
from holdfast.asgi.problems import Problem, RequestRefused
from holdfast.asgi.recovery import AnswerCut, Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.errors import (
    BlockTimedOut,
    Conflict,
    DeadlineExceeded,
    OutcomeUnknown,
    RateLimited,
    ResultNotSerializable,
    SchemaMismatch,
    StatementRejected,
    StorageExhausted,
)
from holdfast.traces import trace_of
from tests.asgi.asgi_calls import Connection, answering, call, http_scope, until
from tests.asgi.log_capture import Log, log_of

SECRET = "s3cret-value"


class Raising:
    """An application that raises `error`, after `begun` and `ended` parts of an answer."""

    def __init__(self, error: BaseException, *, begun: bool = False, ended: bool = False) -> None:
        self.error = error
        self.begun = begun
        self.ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if self.ended:
            await send({"type": "http.response.body", "body": b"whole"})
        raise self.error


def levels(log: Log) -> list[str]:
    """The levels of all lines."""
    return [line["level"] for line in log.lines]


async def test_an_unknown_error_is_a_500_without_a_word() -> None:
    """The caller gets a document with the request's id; the log one entry with the trace and without the text."""
    with log_of("holdfast.asgi.recovery") as log:
        answer = await call(RequestId(Recovery(Raising(ValueError(SECRET)))), headers={"X-Request-Id": "one"})
    assert answer.status == 500
    assert answer.json["request_id"] == "one"
    assert SECRET not in answer.body.decode()
    assert SECRET not in log.everything
    assert levels(log) == ["ERROR"]
    message = log.lines[0]["message"]
    assert message.startswith("request one failed\nbuiltins.ValueError\n")
    assert "in Raising.__call__" in message


async def test_typed_errors_are_answered_and_noted_without_a_trace() -> None:
    """What is expected to happen is a line, with the error's own text, which holds no value."""
    with log_of("holdfast.asgi.recovery") as log:
        answer = await call(Recovery(Raising(RateLimited("orders: too many", retry_after_s=3))))
    assert (answer.status, answer.header("retry-after")) == (429, "3")
    assert levels(log) == ["INFO"]
    assert log.lines[0]["message"] == "request - ended with 429: RateLimited: orders: too many"


async def test_a_bug_of_the_service_is_logged_as_one() -> None:
    """A typed error that means a 500 has its trace in the log."""
    with log_of("holdfast.asgi.recovery") as log:
        answer = await call(Recovery(Raising(SchemaMismatch("the table does not exist"))))
    assert answer.status == 500
    assert levels(log) == ["ERROR"]
    assert "SchemaMismatch: the table does not exist" in log.lines[0]["message"]


async def test_a_refusal_is_answered_as_it_says() -> None:
    """Its detail is for the caller, not for the log."""
    with log_of("holdfast.asgi.recovery") as log:
        answer = await call(Recovery(Raising(RequestRefused(Problem(403, "forbidden", detail=SECRET)))))
    assert (answer.status, answer.json["detail"]) == (403, SECRET)
    assert SECRET not in log.everything


async def test_what_a_task_group_wraps_is_found() -> None:
    """One error in a group speaks for it; two do not."""
    one = ExceptionGroup("g", [ExceptionGroup("h", [RateLimited("x")])])
    assert (await call(Recovery(Raising(one)))).status == 429
    two = ExceptionGroup("g", [RateLimited("x"), ValueError()])
    assert (await call(Recovery(Raising(two)))).status == 500


async def test_an_answer_that_was_begun_is_cut() -> None:
    """The server is told to end the connection, without a trace of its own; the trace is logged once."""
    with log_of("holdfast.asgi.recovery") as log:
        answer = await call(Recovery(Raising(ValueError(SECRET), begun=True)))
    assert isinstance(answer.error, AnswerCut)
    assert answer.error.__suppress_context__
    assert not answer.complete
    assert levels(log) == ["ERROR"]


async def test_an_answer_that_was_complete_stands() -> None:
    """An error afterwards (Starlette raises what it answered) is logged, and that is all."""
    with log_of("holdfast.asgi.recovery") as log:
        answer = await call(Recovery(Raising(ValueError(SECRET), begun=True, ended=True)))
    assert (answer.status, answer.body, answer.error) == (200, b"whole", None)
    assert levels(log) == ["ERROR"]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt()])
async def test_what_belongs_to_the_server_is_passed_on(error: BaseException) -> None:
    """A cancellation and an interrupt are neither answered nor logged."""
    with log_of("holdfast.asgi.recovery") as log, pytest.raises(type(error)):
        await Recovery(Raising(error))(http_scope(), answering, answering)  # type: ignore[arg-type]
    assert log.lines == []


async def test_nobody_is_answered_who_is_gone() -> None:
    """Whatever ends the work of a client that hung up is one line; what it did to the data is kept for the access log."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise OutcomeUnknown("it may have been applied")

    connection = Connection(http_scope())
    connection.hang_up()
    with log_of("holdfast.asgi.recovery") as log:
        connection.start(Recovery(app))
        answer = await connection.answer()
    assert (answer.messages, answer.error) == ([], None)
    assert levels(log) == ["INFO"]
    assert "OutcomeUnknown" in log.lines[0]["message"]
    assert connection.scope["state"]["holdfast"].outcome == "unknown"

    answer = await call(Recovery(Raising(ClientLeft())))
    assert (answer.messages, answer.error) == ([], None)


async def test_a_send_that_fails_is_a_client_that_left() -> None:
    """A server that raises when the client is gone does not make an error of it."""
    connection = Connection(http_scope())
    connection.hang_up()
    with log_of("holdfast.asgi.recovery") as log:
        connection.start(Recovery(answering()))
        answer = await connection.answer()
    assert answer.error is None
    assert levels(log) == ["INFO"]


async def test_it_logs_while_others_work() -> None:
    """Two requests at once have their own entries, each named."""
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        raise ValueError

    layers = RequestId(Recovery(app))
    with log_of("holdfast.asgi.recovery") as log:
        tasks = [asyncio.create_task(call(layers, headers={"X-Request-Id": name})) for name in ("one", "two")]
        await until(lambda: len(asyncio.all_tasks()) == 5)
        gate.set()
        answers = await asyncio.gather(*tasks)
    assert [answer.json["request_id"] for answer in answers] == ["one", "two"]
    assert [line["request_id"] for line in log.lines] == ["one", "two"]


def test_a_trace_has_an_end() -> None:
    """A recursion and a chain without end are cut, and a loop in the chain is gone through once."""

    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise ValueError

    with pytest.raises(ValueError) as caught:
        deep(500)
    assert len(trace_of(caught.value).splitlines()) == 61
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert trace_of(first) == "builtins.ValueError\ncaused by: builtins.KeyError"
    chain = ValueError()
    for _ in range(100):
        outer = ValueError()
        outer.__context__ = chain
        chain = outer
    assert len(trace_of(chain).splitlines()) == 12
    group = ExceptionGroup(SECRET, [ValueError(SECRET)])
    assert trace_of(group) == "builtins.ExceptionGroup\nin the group: builtins.ValueError"


# ------------------------------------------------------------------------------- what somebody further out has raised


class Stop(Exception):
    """What a middleware of somebody else raises through `receive` or `send`, and catches again."""


@pytest.mark.parametrize("passes", ["receive", "send"])
async def test_what_is_raised_from_outside_is_passed_on(passes: str) -> None:
    """Whoever raised it through here answers it: it says nothing of the application. What led to it stays inside."""

    async def receive() -> Message:
        raise Stop

    async def send(message: Message) -> None:
        if passes == "send":
            raise Stop

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await (receive() if passes == "receive" else Raising(ValueError(SECRET))(scope, receive, send))
        except ValueError:
            await answering()(scope, receive, send)

    with log_of("holdfast.asgi.recovery") as log, pytest.raises(Stop) as caught:
        await RequestId(Recovery(app))(http_scope(headers={"X-Request-Id": "one"}), receive, send)
    assert caught.value.__suppress_context__
    assert [(line["level"], line["message"]) for line in log.lines] == [
        ("INFO", "request one ended with Stop, which was raised further out and is passed on")
    ]


async def test_what_the_application_made_of_it_is_its_own() -> None:
    """An error in its place is the application's; so is one that comes later."""

    async def receive() -> Message:
        raise Stop

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
        except Stop:
            raise ValueError(SECRET) from None

    connection = Connection(http_scope())
    with log_of("holdfast.asgi.recovery") as log:
        await Recovery(app)(connection.scope, receive, connection.send)
    assert connection.so_far.status == 500
    assert levels(log) == ["ERROR"]
    assert connection.scope["state"]["holdfast"].exchange.raised_outside is None


# ------------------------------------------------------------------------------------- what a layer further in answers


class Keyless:
    """A store that keeps nothing."""

    async def answer(self, _identity: KeyIdentity, run: KeyedRun) -> Whole | StoredAnswer:
        """The application's answer."""
        return await run()

    async def live_keys(self, scope: str, most: int) -> int:
        """None that count."""
        return 0


INNER: list[tuple[str, Callable[[App], App]]] = [
    ("none", lambda app: app),
    ("keyed", lambda app: Idempotency(app, Keyless(), anonymous="all")),
    ("deadline", Deadline),
    ("both", lambda app: Deadline(Idempotency(app, Keyless(), anonymous="all"))),
]


@pytest.mark.parametrize("outer", [True, False], ids=["inside-recovery", "alone"])
@pytest.mark.parametrize("inner", [inner for _, inner in INNER[1:]], ids=[name for name, _ in INNER[1:]])
@pytest.mark.parametrize(
    "error",
    [
        SchemaMismatch("the table does not exist"),
        StatementRejected("no such column"),
        ResultNotSerializable("no codec"),
        StorageExhausted("the disk is full"),
        Conflict("orders: it exists"),
        OutcomeUnknown("it may have been applied"),
        DeadlineExceeded("orders: too late"),
        BlockTimedOut("block: too late"),
        RequestRefused(Problem(403, "forbidden", detail=SECRET)),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_is_said_once_by_whichever_layer_answers_it(
    error: Exception, inner: Callable[[App], App], outer: bool
) -> None:
    """The same line and the same level as from `Recovery`, whose answer it has; a layer that does not answer it says nothing."""
    headers = {"X-Request-Id": "one", "Idempotency-Key": "k"}
    with log_of("holdfast.asgi.recovery") as expected:
        plain = await call(RequestId(Recovery(Raising(error))), "GET", headers=headers)
    with log_of("holdfast.asgi.recovery") as log:
        layers = inner(Raising(error))
        answer = await call(RequestId(Recovery(layers) if outer else layers), "POST", headers=headers)
    if answer.error is not None:
        assert (answer.error, outer, levels(log)) == (error, False, [])
        return
    assert answer.status == plain.status
    assert levels(log) == levels(expected)
    assert log.lines[0]["message"].splitlines()[:2] == expected.lines[0]["message"].splitlines()[:2]
    assert SECRET not in log.everything


@pytest.mark.parametrize("inner", [inner for _, inner in INNER], ids=[name for name, _ in INNER])
async def test_nobody_is_answered_who_left_a_layer_further_in(inner: Callable[[App], App]) -> None:
    """One line, as from `Recovery`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise OutcomeUnknown("it may have been applied")

    connection = Connection(http_scope("POST", headers={"Idempotency-Key": "k"}))
    connection.push(b"body")
    connection.start(RequestId(Recovery(inner(app))))
    with log_of("holdfast.asgi.recovery") as log:
        await until(lambda: connection.received)
        connection.hang_up()
        answer = await connection.answer()
    assert (answer.messages, answer.error) == ([], None)
    assert [line["message"].partition(": ")[2] for line in log.lines] == [
        "the client is gone; OutcomeUnknown ended the work"
    ]


async def test_a_time_that_was_up_is_a_line() -> None:
    """The layer's own error is said as others are."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    with log_of("holdfast.asgi.recovery") as log:
        answer = await call(RequestId(Recovery(Deadline(app, maximum=0.01, floor=0))), headers={"X-Request-Id": "one"})
    assert answer.status == 504
    assert [line["message"] for line in log.lines] == [
        "request one ended with 504: BlockTimedOut: the request did not end within its time"
    ]


class Socket:
    """A websocket: what its handler sent, and a client that leaves when asked."""

    def __init__(self, handle: App, *, leaves: bool = False, answers: bool = False) -> None:
        self.sent: list[Message] = []
        self._handle = handle
        self._incoming = ["websocket.connect", *(["websocket.disconnect"] if leaves else [])]
        self.scope = http_scope(type="websocket", extensions={"websocket.http.response": {}} if answers else {})

    async def run(self) -> None:
        """Have it handled, inside of `Recovery`."""
        await RequestId(Recovery(self._handle))(self.scope, self._receive, self._send)

    async def _receive(self) -> Message:
        return {"type": self._incoming.pop(0)}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


def failing(*messages: Message, times: int = 1) -> App:
    """A handler that receives, sends and raises."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(times):
            await receive()
        for message in messages:
            await send(message)
        raise ValueError(SECRET)

    return handle


ACCEPT = {"type": "websocket.accept"}


async def test_a_websocket_that_fails_is_closed_with_1011() -> None:
    """The client is told, the log has the trace without the text, and the server gets no exception to print."""
    socket = Socket(failing(ACCEPT))
    with log_of("holdfast.asgi.recovery") as log:
        await socket.run()
    assert socket.sent[1:] == [{"type": "websocket.close", "code": 1011}]
    assert levels(log) == ["ERROR"]
    assert SECRET not in log.everything


async def test_a_handshake_that_fails_is_answered() -> None:
    """By a document where the server can, else by a code."""
    socket, other = Socket(failing(), answers=True), Socket(failing())
    with log_of("holdfast.asgi.recovery"):
        await socket.run()
        await other.run()
    assert socket.sent[0]["status"] == 500
    assert b"request_id" in socket.sent[1]["body"]
    assert other.sent == [{"type": "websocket.close", "code": 1011}]


async def test_a_websocket_that_is_over_stays_over() -> None:
    """Nothing is sent after a close, or to a client that has gone; of that there is one line."""
    close: Message = {"type": "websocket.close", "code": 1000}
    closed, left = Socket(failing(ACCEPT, close)), Socket(failing(ACCEPT, times=2), leaves=True)
    with log_of("holdfast.asgi.recovery") as log:
        await closed.run()
        await left.run()
    assert closed.sent[1:] == [close]
    assert left.sent[1:] == []
    assert levels(log) == ["ERROR", "INFO"]
