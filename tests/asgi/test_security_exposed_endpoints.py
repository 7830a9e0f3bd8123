"""Risk: metrics, health detail, chaos and admin endpoints in the open. The layers of the edge add no path and obey no header."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from holdfast.asgi.access_log import AccessLog
from holdfast.asgi.body import BodyLimit
from holdfast.asgi.deadline import Deadline
from holdfast.asgi.interface import App, Receive, Scope, Send
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.stack import Stack
from holdfast.ext.fastapi import EdgeSettings, install
from holdfast.health import HealthCheck
from holdfast.shutdown import Drain
from tests.asgi.asgi_calls import call

PATHS = [
    "/metrics", "/health", "/healthz", "/livez", "/readyz", "/admin", "/debug", "/debug/pprof", "/chaos", "/fault", "/drill",
    "/actuator", "/actuator/env", "/env", "/config", "/.env", "/__debug__", "/docs", "/openapi.json",
]  # fmt: skip

HEADERS = [
    "X-Chaos",
    "X-Fault",
    "X-Inject-Fault",
    "X-Envoy-Fault-Abort-Request",
    "X-Holdfast-Fault",
    "X-Debug",
    "X-Drill",
]


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


LAYERS = Stack(_nothing_here, RequestId, AccessLog, Recovery, Deadline, BodyLimit)


@pytest.mark.parametrize("path", PATHS)
async def test_layers_answer_no_path_of_their_own(path: str) -> None:
    """What the application does not have is a 404, whatever the method."""
    for method in ("GET", "POST", "DELETE", "OPTIONS", "TRACE"):
        answer = await call(LAYERS, method, path)
        assert (answer.status, answer.body) == (404, b"")


def _installed() -> FastAPI:
    """An application with the edge as it comes, and one route."""
    app = FastAPI(openapi_url=None)

    @app.get("/")
    async def here() -> str:
        return "here"

    def fails() -> bool:
        raise ConnectionError("db1 is away")

    install(app, None, EdgeSettings(), checks=[HealthCheck("database", fails)], drain=Drain())
    return app


INSTALLED = _installed()
PROBES = {"/livez", "/readyz", "/healthz"}


@pytest.mark.parametrize("path", sorted({*PATHS} - PROBES))
async def test_a_default_install_answers_no_path_of_its_own(path: str) -> None:
    """As above, with everything that `install` puts around an application."""
    for method in ("GET", "POST", "DELETE", "OPTIONS", "TRACE"):
        answer = await call(INSTALLED, method, path)
        assert answer.status == 404
        assert set(answer.json) == {"type", "title", "status", "request_id", "trace_id"}


@pytest.mark.parametrize("path", sorted(PROBES))
async def test_the_probes_of_a_default_install_say_names_and_states(path: str) -> None:
    """Of a check that fails no error and no address is told."""
    answer = await call(INSTALLED, "GET", path)
    assert answer.json["alive"] is True
    assert set(answer.json) <= {"alive", "started", "state", "draining", "checks"}
    for check in answer.json.get("checks", ()):
        assert set(check) <= {"name", "state", "critical", "age_s", "since_s"}
    assert b"db1" not in answer.body


@pytest.mark.parametrize("app", [LAYERS, INSTALLED], ids=["layers", "installed"])
@pytest.mark.parametrize("name", HEADERS)
async def test_no_header_makes_a_fault(name: str, app: App) -> None:
    """The answer is the same with it, but for the name of the request."""
    for value in ("1", "503", "true", "abort=100%"):
        answer = await call(app, headers={name: value, "X-Request-Id": "one"})
        assert answer.messages == (await call(app, headers={"X-Request-Id": "one"})).messages


async def test_an_error_shows_nothing_of_the_inside() -> None:
    """The document of an unknown error has the same shape and the same words for every error."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise {"/a": ValueError, "/b": ZeroDivisionError, "/c": OSError}[scope["path"]](scope["path"])

    answers = [(await call(Recovery(broken), path=path)).json for path in ("/a", "/b", "/c")]
    assert answers[0] == answers[1] == answers[2]
    assert set(answers[0]) == {"type", "title", "status", "detail"}
