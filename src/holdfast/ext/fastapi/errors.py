"""FastAPI's own errors, and the application's, as problem documents: fields and kinds, and never a value of the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from ...asgi.body import ClientLeft
from ...asgi.context import context_of
from ...asgi.exchange import Exchange, exchange_of
from ...asgi.headers import header
from ...asgi.interface import App, Receive, Scope, Send
from ...asgi.problems import Problem, RequestRefused, problem_for, problem_messages
from ...callables import is_coroutine_function
from .routes import Routes

__all__ = ["ProblemFor", "UnhandledErrors", "install_errors"]

ProblemFor = Problem | Callable[[Any], Problem]
"""What answers an error of the application: always the same, or made from the error."""

_FIELDS_MAX = 50
_OF_THE_BODY = frozenset({"content-type", "content-length", "content-encoding", "transfer-encoding", "connection"})
"""What an `HTTPException` cannot say of the document that answers it."""


def install_errors(app: FastAPI, routes: Routes, problems: Mapping[type[Exception], ProblemFor]) -> None:
    """Have `app` answer FastAPI's own errors, and those in `problems`, with documents instead of the handlers it has by now."""

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if not 400 <= error.status_code <= 599:
            return await http_exception_handler(request, error)
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # The router asks one route at a time, and names the methods of the first whose path fits.
            headers["allow"] = ", ".join(sorted(routes.methods(request.scope)))
        return _answer(request, _problem_of(error, headers))

    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    for kind, problem in problems.items():
        app.add_exception_handler(kind, _answering(problem))


class UnhandledErrors:
    """The layer that calls the application's handler for `Exception` or 500. It changes nothing where there is none.

    Starlette keeps that handler outside of all layers, where `Recovery` lets no error come. What Holdfast answers by its meaning
    (a refusal, a conflict, a server that is away) is none of it. All else goes to the handler, whose answer is sent unless one
    was begun, and then on to `Recovery`, which logs it.

    Args:
        app: the application inside.
        handlers: of the FastAPI application; looked into at each error.
    """

    __slots__ = ("_handlers", "app")

    def __init__(self, app: App, *, handlers: Mapping[Any, Callable[[Request, Any], Any]]) -> None:
        self.app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a connection on."""
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            found = [handler for key, handler in self._handlers.items() if key in {500, Exception}]
            if found and scope["type"] == "http" and _is_unhandled(error):
                # To the server itself: `Recovery` holds back an answer of 500 in plain text, which may be Starlette's.
                _, exchange, _, _ = exchange_of(scope, receive, send)
                await _answer_with(found[-1], error, scope, receive, exchange)
            raise


def _is_unhandled(error: Exception) -> bool:
    is_handled = isinstance(error, (ClientLeft, RequestRefused))
    return not is_handled and problem_for(error).status == HTTPStatus.INTERNAL_SERVER_ERROR


async def _answer_with(
    handler: Callable[[Request, Any], Any], error: Exception, scope: Scope, receive: Receive, exchange: Exchange
) -> None:
    request = Request(scope)
    if is_coroutine_function(handler):
        response = await handler(request, error)
    else:
        response = await run_in_threadpool(handler, request, error)
    if exchange.started or exchange.disconnected:
        return
    try:
        await response(scope, receive, exchange.send)
    except OSError:
        if not exchange.disconnected:
            raise


def _answering(problem_for: ProblemFor) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        return _answer(request, problem_for if isinstance(problem_for, Problem) else problem_for(error))

    return answer


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Not the message: those of validators hold what was sent. A location can be as long as the request likes.
    fields = [
        {"field": ".".join(str(part)[:64] for part in one["loc"][:8]), "error": one["type"]}
        for one in error.errors()[:_FIELDS_MAX]
    ]
    detail = "The request is not what this route takes. Nothing was applied."
    return _answer(request, Problem(422, "invalid-request", detail=detail, extensions={"errors": fields}))


def _problem_of(error: HTTPException, headers: Mapping[str, str]) -> Problem:
    phrase = HTTPStatus(error.status_code).phrase if error.status_code in set(HTTPStatus) else "error"
    code = "".join(letter for letter in phrase.lower().replace(" ", "-") if letter.isalnum() or letter == "-")
    detail = error.detail if isinstance(error.detail, str) and error.detail != phrase else ""
    pairs = tuple(header(name.encode(), value) for name, value in headers.items() if name not in _OF_THE_BODY)
    return Problem(error.status_code, code, phrase, detail, headers=pairs)


def _answer(request: Request, problem: Problem) -> Response:
    start, body = problem_messages(problem, context_of(request.scope))
    response = Response(body["body"], status_code=start["status"])
    response.raw_headers = start["headers"]
    return response
