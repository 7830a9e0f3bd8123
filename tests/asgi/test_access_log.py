"""One line a request, with what can be counted and nothing that belongs to the caller alone."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.asgi.access_log import AccessLine, AccessLog
from holdfast.asgi.context import context_of
from holdfast.asgi.interface import App, Receive, Scope, Send
from holdfast.asgi.log_lines import JsonLines, capped, one_line, visible
from holdfast.asgi.request_id import RequestId
from holdfast.errors import ConfigurationError
from holdfast.testing import ManualClock
from tests.asgi.asgi_calls import Connection, Echo, answering, call, http_scope, until
from tests.asgi.log_capture import log_of


class Route:
    """What a framework puts into the scope."""

    path = "/users/{id}"


async def logged(app: App, *args: Any, **more: Any) -> dict[str, Any]:
    """The one line that a call of `app` writes."""
    with log_of("holdfast.asgi.access_log") as log:
        await call(app, *args, **more)
    (line,) = log.lines
    return line


async def test_the_line_says_what_can_be_counted() -> None:
    """Every field, from the context and from what was seen passing."""
    clock = ManualClock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = Route()
        clock.advance(0.25)
        await Echo(201)(scope, receive, send)

    line = await logged(
        RequestId(AccessLog(app, clock=clock), clock=clock), "POST", "/users/17", {"X-Request-Id": "one"}, [b"ab", b"c"]
    )
    assert line.pop("time").endswith("Z")
    assert len(line.pop("trace_id")) == 32
    assert line == {
        "level": "INFO",
        "logger": "holdfast.asgi.access_log",
        "event": "request",
        "method": "POST",
        "route": "/users/{id}",
        "status": 201,
        "duration_s": 0.25,
        "request_bytes": 3,
        "response_bytes": 3,
        "request_id": "one",
        "client": "192.0.2.1",
        "outcome": "answered",
    }


@pytest.mark.parametrize(("ended", "duration_s"), [(True, 0.25), (False, 100.25)])
async def test_work_after_the_answer_is_not_in_its_time(ended: bool, duration_s: float) -> None:
    """How long the client waited; an answer that was never complete lasts until the application ended."""
    clock = ManualClock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clock.advance(0.25)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": not ended})
        clock.advance(100)

    assert (await logged(RequestId(AccessLog(app, clock=clock), clock=clock)))["duration_s"] == duration_s


async def test_what_layers_found_out_is_in_it() -> None:
    """The address behind proxies, the problem, the outcome, repetition and replay; the tenant only as a keyed hash."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        context.client_address, context.tenant, context.principal = "198.51.100.7", "acme", "ada"
        context.problem, context.outcome, context.attempts, context.replayed = "overloaded", "unknown", 2, True
        context.route = "/better"
        await answering(503)(scope, receive, send)

    line = await logged(AccessLog(app, tenant_key=b"k" * 16))
    known = {name: line[name] for name in ("client", "problem", "effect", "attempts", "replayed", "route")}
    assert known == {
        "client": "198.51.100.7",
        "problem": "overloaded",
        "effect": "unknown",
        "attempts": 2,
        "replayed": True,
        "route": "/better",
    }
    assert len(line["tenant"]) == 16
    assert "acme" not in json.dumps(line)
    assert "ada" not in json.dumps(line)
    other = await logged(AccessLog(app, tenant_key=b"K" * 16))
    assert other["tenant"] != line["tenant"]
    assert "tenant" not in await logged(AccessLog(app))


async def test_methods_and_routes_are_of_a_bounded_number() -> None:
    """An invented method and a path that no route takes do not become values of their own."""
    line = await logged(AccessLog(answering(404)), "BREW", "/4f9c1a")
    assert (line["method"], line["route"]) == ("<other>", "<unmatched>")


@pytest.mark.parametrize("noticed_by", ["send", "receive"])
async def test_a_client_that_leaves_is_told_from_an_error(noticed_by: str) -> None:
    """Whether the application notices when sending or when listening."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if noticed_by == "receive":
            await receive()
            return
        await answering()(scope, receive, send)

    with log_of("holdfast.asgi.access_log") as log:
        connection = Connection(http_scope())
        connection.hang_up()
        connection.start(AccessLog(app))
        await connection.answer()
    assert log.lines[0]["outcome"] == "client_left"


async def test_cut_and_cancelled_are_told_apart() -> None:
    """An error on the way out is a cut, a cancellation the service's; both are logged and passed on."""

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError

    async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    assert (await logged(AccessLog(failing)))["outcome"] == "cut"
    with log_of("holdfast.asgi.access_log") as log:
        connection = Connection(http_scope())
        task = connection.start(AccessLog(hanging))
        await until(lambda: connection.scope["state"])
        task.cancel()
        answer = await connection.answer()
    assert isinstance(answer.error, asyncio.CancelledError)
    assert (log.lines[0]["outcome"], log.lines[0]["status"]) == ("cancelled", None)


async def test_nothing_is_built_for_a_logger_that_is_off() -> None:
    """Below INFO there is no line, and the request passes."""
    logger = logging.getLogger("holdfast.asgi.access_log")
    assert not logger.isEnabledFor(logging.INFO)  # as pytest leaves it
    assert (await call(AccessLog(answering()))).status == 200


def test_keys_for_the_hash_have_a_length() -> None:
    """Too short to be a secret, too long for BLAKE2b: refused."""
    for key in (b"short", b"k" * 65):
        with pytest.raises(ConfigurationError):
            AccessLog(answering(), tenant_key=key)


def test_text_for_lines_is_short_and_visible() -> None:
    """What is long ends in dots; what is not printable is escaped."""
    assert (capped("x" * 10, 5), capped("x" * 5, 5)) == ("xx...", "xxxxx")
    assert visible("a\r\n\x1b\x00\u2028\u202eä") == r"a\r\n\x1b\x00\u2028\u202e\xe4"
    assert visible("plain ä") == "plain ä"


def test_a_line_has_its_own_moment() -> None:
    """UTC, to the millisecond, also when the second changes back and forth between threads."""
    formatter = JsonLines()
    times = []
    for created in (0.0, 0.9999, 1_700_000_000.25, 0.5):
        record = logging.makeLogRecord({"msg": "x", "created": created})
        times.append(json.loads(formatter.format(record))["time"])
    assert times == [
        "1970-01-01T00:00:00.000Z",
        "1970-01-01T00:00:00.999Z",
        "2023-11-14T22:13:20.250Z",
        "1970-01-01T00:00:00.500Z",
    ]


TEXTS = st.text(max_size=20)


@given(
    route=TEXTS,
    client=st.none() | TEXTS,
    request_id=st.none() | TEXTS,
    status=st.none() | st.integers(100, 599),
    duration_s=st.floats(0, 1e6),
    others=st.dictionaries(
        st.sampled_from(["tenant", "effect", "problem", "attempts", "replayed"]), TEXTS | st.booleans()
    ),
)
def test_the_short_way_to_a_line_says_the_same(
    route: str,
    client: str | None,
    request_id: str | None,
    status: int | None,
    duration_s: float,
    others: dict[str, object],
) -> None:
    """Whatever is in the fields, the line is the one that the general encoder writes."""
    line = AccessLine(
        event="request",
        method="GET",
        route=route,
        status=status,
        duration_s=duration_s,
        request_bytes=0,
        response_bytes=17,
        request_id=request_id,
        trace_id=None,
        client=client,
        outcome="answered",
        **others,
    )
    assert str(line) == one_line(line)
