"""Errors that nobody else handles: the application's own handler for `Exception` or 500 is called, inside of the edge as well."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from holdfast.asgi.authentication import require
from holdfast.asgi.problems import Problem
from holdfast.asgi.recovery import AnswerCut
from holdfast.errors import Unavailable, UsageError
from holdfast.ext.fastapi import EdgeSettings, install
from holdfast.shutdown import Drain

from .asgi_calls import Answer, Connection, call, http_scope
from .log_capture import log_of


class Reporter:
    """A crash reporter's handler: keeps what it was called with, and where."""

    def __init__(self, response: Response | None = None) -> None:
        self.response = response or JSONResponse({"mine": True}, 500)
        self.seen: list[Exception] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, request: Request, error: Exception) -> Response:
        """Answer."""
        assert request.method == "GET"
        self.seen.append(error)
        self.threads.append(threading.current_thread())
        return self.response

    async def answer(self, request: Request, error: Exception) -> Response:
        """The same as a coroutine function."""
        return self(request, error)


def service(**install_with: Any) -> FastAPI:
    """An application inside the edge that fails in every way."""
    app = FastAPI()
    raised: dict[str, Callable[[], Exception]] = {
        "/value": ValueError,
        "/away": partial(Unavailable, "stock: away"),
        "/misuse": partial(UsageError, "a bug"),
        "/http": partial(HTTPException, 500, "said"),
    }

    def raising(make: Callable[[], Exception]) -> Callable[[], None]:
        def fail() -> None:
            raise make()

        return fail

    for path, make in raised.items():
        app.get(path)(raising(make))

    @app.get("/closed")
    async def closed() -> None:
        require("nothing").check()

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def pieces() -> Any:
            yield b"half"
            raise ValueError

        return StreamingResponse(pieces())

    install(app, None, EdgeSettings(attempts=2), drain=Drain(), **install_with)
    return app


async def asked(app: FastAPI, path: str) -> tuple[Answer, list[dict[str, Any]]]:
    """The answer, and what recovery logged."""
    with log_of("holdfast.asgi.recovery") as log:
        answer = await call(app, path=path)
    return answer, log.lines


@pytest.mark.parametrize("key", [Exception, 500])
@pytest.mark.parametrize("response", [JSONResponse({}, 500), PlainTextResponse("mine", 500), JSONResponse({}, 200)])
async def test_the_handler_answers_and_the_error_is_logged(key: Any, response: Response) -> None:
    """Once each, whatever it answers; also one that is registered after `install`."""
    app, reporter = service(), Reporter(response)
    app.add_exception_handler(key, reporter.answer)
    answer, lines = await asked(app, "/value")
    assert (answer.status, answer.body, answer.complete, answer.error) == (
        response.status_code,
        response.body,
        True,
        None,
    )
    assert answer.header("x-request-id")
    assert [type(error) for error in reporter.seen] == [ValueError]
    assert [line["level"] for line in lines] == ["ERROR"]
    assert "ValueError" in lines[0]["message"]


async def test_the_last_one_registered_counts() -> None:
    """As in Starlette, which takes both for the same; and also after the first request."""
    app, reporters = service(), [Reporter(), Reporter()]
    keys: tuple[Any, ...] = (Exception, 500)
    for key, reporter in zip(keys, reporters, strict=True):
        app.add_exception_handler(key, reporter)
        await call(app, path="/value")
    assert [len(reporter.seen) for reporter in reporters] == [1, 1]


async def test_a_plain_function_runs_in_a_thread() -> None:
    """As Starlette has it."""
    app, reporter = service(), Reporter()
    app.add_exception_handler(Exception, reporter)
    assert (await call(app, path="/value")).json == {"mine": True}
    assert reporter.threads != [threading.current_thread()]


async def test_a_problem_for_exception_answers() -> None:
    """`problems` may say what everything unforeseen is; a nearer class speaks first."""
    app = service(problems={Exception: Problem(503, "try-later"), ValueError: Problem(404, "no-value")})
    answers = [await asked(app, path) for path in ("/misuse", "/value")]
    assert [answer.json["type"] for answer, _ in answers] == [
        "urn:holdfast:problem:try-later",
        "urn:holdfast:problem:no-value",
    ]
    assert [len(lines) for _, lines in answers] == [1, 0]


@pytest.mark.parametrize(
    ("path", "status", "seen"),
    [("/misuse", 500, [UsageError]), ("/away", 503, []), ("/closed", 401, []), ("/http", 500, []), ("/no", 404, [])],
)
async def test_what_has_an_answer_is_none_of_it(path: str, status: int, seen: list[type[Exception]]) -> None:
    """What is refused, and what an error of Holdfast means, keeps its document; its bugs are the application's as well."""
    app, reporter = service(), Reporter()
    app.add_exception_handler(Exception, reporter)
    assert (await call(app, path=path)).status == status
    assert [type(error) for error in reporter.seen] == seen


async def test_half_an_answer_stays_half() -> None:
    """The handler hears of it, and its answer is not put behind."""
    app, reporter = service(), Reporter()
    app.add_exception_handler(Exception, reporter)
    answer, lines = await asked(app, "/half")
    assert (answer.status, answer.body, answer.complete) == (200, b"half", False)
    assert isinstance(answer.error, AnswerCut)
    assert [type(error) for error in reporter.seen] == [ValueError, AnswerCut]
    assert len(lines) == 1


async def test_nobody_is_answered_who_is_gone() -> None:
    """The error is reported all the same, and stays the error."""
    app, reporter = service(), Reporter()
    app.add_exception_handler(Exception, reporter)
    connection = Connection(http_scope(path="/value"))
    connection.hang_up()
    connection.start(app)
    answer = await connection.answer()
    assert (answer.messages, answer.error) == ([], None)
    assert [type(error) for error in reporter.seen] == [ValueError]


async def test_a_handler_that_fails_is_logged() -> None:
    """With the error that it was given, and the client gets its document."""
    app = service()

    def fail(_request: Request, _error: Exception) -> Response:
        raise KeyError

    app.add_exception_handler(Exception, fail)
    answer, lines = await asked(app, "/value")
    assert (answer.status, answer.json["type"]) == (500, "urn:holdfast:problem:internal")
    assert len(lines) == 1
    assert "KeyError" in lines[0]["message"]
    assert "ValueError" in lines[0]["message"]


async def test_a_mounted_applications_own_answer_stands() -> None:
    """The outer handler hears of the error and does not answer a second time, as in Starlette."""
    app, inner, reporters = service(), FastAPI(), [Reporter(), Reporter()]
    inner.add_exception_handler(Exception, reporters[0])
    app.add_exception_handler(Exception, reporters[1])

    @inner.get("/value")
    async def fail() -> None:
        raise ValueError

    app.mount("/inner", inner)
    answer, _ = await asked(app, "/inner/value")
    assert (answer.json, answer.error) == ({"mine": True}, None)
    assert [len(reporter.seen) for reporter in reporters] == [1, 1]
