"""Bodies have an end: in bytes, in time, and altogether."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.asgi.body import BodyBuffer, BodyLimit, BufferedBody, ClientLeft, promised_length
from holdfast.asgi.headers import Fields
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.problems import RequestRefused
from holdfast.errors import ConfigurationError
from tests.asgi.asgi_calls import Connection, Echo, answering, call, http_scope, until


async def whole(app_scope: dict[str, object], pieces: list[bytes], buffer: BodyBuffer) -> BufferedBody:
    """Read a body that comes in `pieces`."""
    connection = Connection(app_scope)
    for number, piece in enumerate(pieces, start=1):
        connection.push(piece, more=number < len(pieces))
    return await buffer.read(app_scope, connection.receive)


async def test_a_buffered_body_can_be_read_again() -> None:
    """The application reads it from the beginning, and after `rewind` once more; then it hears the server."""
    buffer = BodyBuffer()
    connection = Connection(http_scope())
    connection.push(b"ab", more=True)
    connection.push(b"c")
    connection.hang_up()
    async with await buffer.read(connection.scope, connection.receive) as body:
        assert body.data == b"abc"
        for _ in range(2):
            assert await body.receive() == {"type": "http.request", "body": b"abc", "more_body": False}
            body.rewind()
        await body.receive()
        assert await body.receive() == {"type": "http.disconnect"}
        assert buffer.held == 3
    assert buffer.held == 0


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 6, b"x" * 5], [b"x"] * 11])
async def test_what_arrives_is_counted(pieces: list[bytes]) -> None:
    """A byte too many is refused with 413, however it was cut, and nothing stays held."""
    buffer = BodyBuffer(limit=10)
    with pytest.raises(RequestRefused, match="413"):
        await whole(http_scope("POST"), pieces, buffer)
    assert buffer.held == 0
    async with await whole(http_scope("POST"), [b"x" * 10], buffer) as body:
        assert len(body.data) == 10


async def test_a_promise_of_too_much_is_refused_unread() -> None:
    """With a Content-Length above the limit nothing is read."""
    connection = Connection(http_scope("POST", headers={"Content-Length": "11"}))
    with pytest.raises(RequestRefused, match="413"):
        await BodyBuffer(limit=10).read(connection.scope, connection.receive)
    assert connection.received == 0


@pytest.mark.parametrize("value", ["", "-1", "1e3", "0x10", "٣", "9" * 20, "9" * 100_000, " 5", "5, 5"])
def test_a_promise_that_is_no_number_is_none(value: str) -> None:
    """Nonsense counts as unsaid; what arrives is counted anyway."""
    assert promised_length(Fields([(b"content-length", value.encode())])) is None


async def test_a_client_that_hangs_up_has_left() -> None:
    """Half a body and then nothing is no request."""
    buffer = BodyBuffer()
    connection = Connection(http_scope("POST"))
    connection.push(b"half", more=True)
    connection.hang_up()
    with pytest.raises(ClientLeft):
        await buffer.read(connection.scope, connection.receive)
    assert buffer.held == 0


async def test_a_body_that_does_not_come_is_refused() -> None:
    """After the time for all of it: 408."""
    buffer = BodyBuffer(timeout=0.01)
    connection = Connection(http_scope("POST"))
    connection.push(b"half", more=True)
    with pytest.raises(RequestRefused, match="408"):
        await buffer.read(connection.scope, connection.receive)
    assert buffer.held == 0


async def test_cancelling_gives_the_place_back() -> None:
    """A request that is cancelled while it is read holds nothing."""
    buffer = BodyBuffer()
    connection = Connection(http_scope("POST"))
    connection.push(b"half", more=True)
    task = asyncio.create_task(buffer.read(connection.scope, connection.receive))
    await until(lambda: buffer.held)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert buffer.held == 0


async def test_the_limit_passes_what_fits() -> None:
    """A body within the limit arrives piece by piece, unchanged."""
    echo = Echo()
    answer = await call(BodyLimit(echo, limit=4), "POST", body=[b"ab", b"cd"])
    assert (answer.status, answer.body) == (200, b"abcd")


async def test_the_limit_refuses_a_promise_without_asking_the_application() -> None:
    """413 before anything is done."""
    echo = Echo()
    answer = await call(BodyLimit(echo, limit=4), "POST", headers={"Content-Length": "5"}, body=b"12345")
    assert (answer.status, echo.calls) == (413, 0)
    assert answer.header("connection") == "close"


async def test_the_cause_reaches_the_client_whatever_the_application_makes_of_it() -> None:
    """Raised on, swallowed, or turned into a 400 (as frameworks do): the client gets 413."""

    async def turning(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
        except Exception:  # what FastAPI does around reading a body
            await answering(400)(scope, receive, send)

    async def swallowing(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(RequestRefused):
            await receive()

    for app in (Echo(), turning, swallowing):
        answer = await call(BodyLimit(app, limit=4), "POST", body=b"12345")
        assert answer.status == 413, app
        assert answer.error is None
        assert answer.complete


async def test_an_answer_that_was_begun_is_not_begun_again() -> None:
    """Then the error goes on outwards, where the connection is ended."""

    async def eager(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()

    answer = await call(BodyLimit(eager, limit=4), "POST", body=b"12345")
    assert isinstance(answer.error, RequestRefused)
    assert answer.status == 200
    assert not answer.complete


async def test_a_slow_body_gets_408_and_a_slow_application_does_not() -> None:
    """The time runs while the body is awaited; waiting for the client to hang up is not limited."""
    chunked = {"Transfer-Encoding": "chunked"}
    connection = Connection(http_scope("POST", headers=chunked))
    connection.start(BodyLimit(Echo(), timeout=0.01))
    connection.push(b"half", more=True)
    assert (await connection.answer()).status == 408

    async def listening(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        async with asyncio.timeout(0.05):
            await receive()

    connection = Connection(http_scope("POST", headers=chunked))
    connection.push(b"all")
    connection.start(BodyLimit(listening, timeout=0.01))
    assert isinstance((await connection.answer()).error, TimeoutError)  # its own, not the body's


@pytest.mark.parametrize("wrong", [{"limit": -1}, {"timeout": 0}, {"timeout": -1}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    """Bounds are held where the settings are given."""
    with pytest.raises(ConfigurationError):
        BodyBuffer(**wrong)
    with pytest.raises(ConfigurationError):
        BodyLimit(answering(), **wrong)
    with pytest.raises(ConfigurationError):
        BodyBuffer(limit=10, total=9)
