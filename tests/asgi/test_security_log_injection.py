"""Risk: log injection. Whatever a caller puts into a request, one request is one line, which parses and shows nothing else."""

from __future__ import annotations

import json

import pytest

from holdfast.asgi.access_log import AccessLog
from holdfast.asgi.context import context_of
from holdfast.asgi.deadline import Deadline
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.stack import Stack
from holdfast.errors import Unavailable
from tests.asgi.asgi_calls import answering, call
from tests.asgi.log_capture import log_of

ATTACKS = {
    "a line of one's own": '\r\n{"event":"request","status":200,"tenant":"forged"}\r\n',
    "a terminal's escape": "\x1b[2J\x1b]0;title\x07",
    "NUL": "a\x00b",
    "line separators": "a\u2028b\u2029c\x85d",
    "delete and backspace": "a\x7f\x08b",
    "turning the direction": "\u202egnp.exe",
    "half a character": "\ud800",
    "a quote": '","status":200,"x":"',
    "long": "x" * 100_000,
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
async def test_one_request_is_one_line(attack: str) -> None:
    """In the path, the method, the headers, the client's address, the route and an error's text."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        context.route = context.client_address = context.problem = attack
        raise Unavailable(attack)

    raw = attack.encode("utf-8", "surrogatepass")
    headers = [(b"x-request-id", raw), (b"traceparent", raw), (b"tracestate", raw), (b"user-agent", raw)]
    with log_of("holdfast") as log:
        answer = await call(Stack(app, RequestId, AccessLog, Recovery), attack, attack, headers)
    assert answer.status == 503
    text = log.json_text.getvalue()
    assert text.count("\n") == 2  # what Recovery tells, and the request
    assert all(0x20 <= ord(character) < 0x7F for character in text.replace("\n", ""))
    told, request = log.lines
    assert "forged" not in (request.get("tenant"), told.get("tenant"))
    assert request["status"] == 503
    assert request["method"] == "<other>"
    assert len(text) < 20_000
    plain = log.plain_text.getvalue()
    assert plain.count("\n") == 2
    assert all(character.isprintable() for character in plain.replace("\n", ""))


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
async def test_a_message_with_it_is_one_line_of_json(attack: str) -> None:
    """Also where a service itself logs what it was given, and where an exception's text is printed."""
    import logging

    with log_of("tests.injection") as log:
        logger = logging.getLogger("tests.injection")
        logger.warning("no such user: %s", attack)
        try:
            raise ValueError(attack)
        except ValueError:
            logger.exception("failed")
    text = log.json_text.getvalue()
    assert text.count("\n") == 2
    assert all(0x20 <= ord(character) < 0x7F for character in text.replace("\n", ""))
    assert [json.loads(line)["level"] for line in text.splitlines()] == ["WARNING", "ERROR"]
    assert len(text) < 2 * 6 * 16_384 + 1_000  # each character can become six


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
async def test_nothing_of_it_comes_back(attack: str) -> None:
    """Neither in the head of the answer nor in a problem document."""
    raw = attack.encode("utf-8", "surrogatepass")
    headers = [(b"x-request-id", raw), (b"x-request-timeout-ms", raw)]
    answer = await call(Stack(answering(), RequestId, Deadline), headers=headers)
    assert answer.status == 400
    assert raw not in answer.body
    assert all(raw not in value for _, value in answer.headers)
