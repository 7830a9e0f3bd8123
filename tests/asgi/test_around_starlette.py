"""The layers around Starlette, which answers what is raised with a 500 of its own before it raises it on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from holdfast.asgi.authentication import Authentication, Principal, require
from holdfast.asgi.interface import App, Receive, Scope, Send
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.stack import Stack
from holdfast.errors import Conflict, Unavailable
from holdfast.ext.fastapi import EdgeSettings, edge, install
from holdfast.shutdown import Drain
from tests.asgi.asgi_calls import call
from tests.asgi.log_capture import log_of


class Ada:
    """Everybody is ada, who may nothing."""

    challenge = "Bearer"

    async def authenticate(self, _scope: Scope, /) -> Principal | None:
        """The one principal."""
        return Principal("ada", "here")


async def _refused(_request: Request) -> Response:
    require("orders:write").check()
    return PlainTextResponse("never")


async def _away(_request: Request) -> Response:
    raise Unavailable("orders: away", retry_after_s=3)


async def _fails(_request: Request) -> Response:
    raise ValueError


async def _says_so(_request: Request) -> Response:
    return PlainTextResponse("of its own", status_code=500)


async def _streams(_request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    return StreamingResponse(pieces(), status_code=500, media_type="text/plain")


ROUTES = [
    Route("/refused", _refused),
    Route("/away", _away),
    Route("/fails", _fails),
    Route("/says-so", _says_so),
    Route("/streams", _streams),
]
LAYERS = (RequestId, Recovery, partial(Authentication, authenticators=[Ada()]))


def _around() -> App:
    return Stack(Starlette(routes=ROUTES), *LAYERS)


def _inside() -> App:
    return Starlette(routes=ROUTES, middleware=[Middleware(Stack, *LAYERS)])


@pytest.mark.parametrize("form", [_around, _inside])
@pytest.mark.parametrize(("path", "status"), [("/refused", 403), ("/away", 503), ("/fails", 500), ("/none", 404)])
async def test_what_is_raised_is_answered_by_what_it_means(form: Callable[[], App], path: str, status: int) -> None:
    """By both forms, with the headers that belong to it; the log says what was sent."""
    with log_of("holdfast.asgi.recovery") as log:
        answer = await call(form(), "GET", path)
    assert (answer.status, answer.error) == (status, None)
    if status != 404:
        assert answer.header("content-type") == "application/problem+json"
        assert answer.json["status"] == status
    if status == 503:
        assert answer.header("retry-after") is not None
    if status in {403, 503}:
        assert f"ended with {status}" in log.lines[0]["message"]


@pytest.mark.parametrize(("path", "body"), [("/says-so", b"of its own"), ("/streams", b"onetwo")])
async def test_a_500_that_nothing_was_raised_for_stands(path: str, body: bytes) -> None:
    """Whole or in pieces, it is the application's."""
    answer = await call(_around(), "GET", path)
    assert (answer.status, answer.body, answer.complete) == (500, body, True)


async def test_another_answer_that_was_begun_stands_and_the_log_says_which() -> None:
    """A handler of the application's own for everything is asked first; no line claims another status."""

    async def own(_request: Request, _error: Exception) -> Response:
        return JSONResponse({"sorry": True}, status_code=500)

    app = Stack(Starlette(routes=ROUTES, exception_handlers={Exception: own}), *LAYERS)
    with log_of("holdfast.asgi.recovery") as log:
        answer = await call(app, "GET", "/refused")
    assert (answer.status, answer.json) == (500, {"sorry": True})
    assert "answered before this by 500" in log.lines[0]["message"]
    assert log.lines[0]["level"] == "INFO"
    assert "403 forbidden" in log.lines[0]["message"]


async def test_a_success_that_was_none_is_an_error_in_the_log() -> None:
    """FastAPI answers before its dependencies end: if the save fails only then, the caller takes it for done."""

    async def answers_and_fails(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})
        raise Conflict("there already")

    with log_of("holdfast.asgi.recovery") as log:
        answer = await call(Stack(answers_and_fails, *LAYERS), "POST", "/users")
    assert answer.status == 201
    assert "answered before this by 201: Conflict" in log.lines[0]["message"]
    assert log.lines[0]["level"] == "ERROR"


async def test_a_mounted_application_s_errors_are_answered_by_what_they_mean() -> None:
    """Inside an application that `install` was called for."""
    inner, app = FastAPI(), FastAPI()

    @inner.get("/x", **edge(permission="orders:write"))
    async def inside() -> None: ...

    app.mount("/inner", inner)
    install(app, None, EdgeSettings(), authenticator=Ada(), drain=Drain())
    answer = await call(app, "GET", "/inner/x")
    assert (answer.status, answer.header("content-type")) == (403, "application/problem+json")
