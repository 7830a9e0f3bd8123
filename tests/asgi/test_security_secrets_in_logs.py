"""Risk: secrets in logs. A canary in everything a request can hold and every error can say comes out nowhere."""

from __future__ import annotations

import asyncio
from functools import partial
from unittest import mock

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import MetaData
from sqlalchemy.util import greenlet_spawn

from holdfast import errors
from holdfast.asgi.access_log import AccessLog
from holdfast.asgi.answers import StoredAnswer
from holdfast.asgi.body import BodyLimit
from holdfast.asgi.context import context_of
from holdfast.asgi.deadline import Deadline
from holdfast.asgi.interface import App, Receive, Scope, Send
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.stack import Stack
from holdfast.ext.redis.idempotency import RedisIdempotency, _Claim
from holdfast.ext.sqlalchemy import AsyncDatabase, UnitAsyncSession
from holdfast.ext.sqlalchemy.keyrows import KeyRows
from holdfast.health import Health, HealthCheck
from holdfast.shutdown import Drain, DrainSettings
from holdfast.stream import subscribe
from holdfast.testing import RecordingHook
from tests.asgi.asgi_calls import Connection, Echo, http_scope
from tests.asgi.log_capture import log_of

CANARY = "c4nary-4111111111111111"


class DriverError(Exception):
    """As drivers raise it: the statement and its values in the text, and in a note."""

    def __init__(self) -> None:
        super().__init__(f"duplicate entry '{CANARY}'", {"password": CANARY})
        self.add_note(f"parameters: {CANARY}")


async def raising(scope: Scope, receive: Receive, send: Send) -> None:
    """A driver's error, as it is."""
    card = CANARY
    assert card
    raise DriverError


async def chained(scope: Scope, receive: Receive, send: Send) -> None:
    """An error of Holdfast's, caused by a driver's, while handling another, in a group."""
    try:
        try:
            raise KeyError(CANARY)
        except KeyError:
            raise DriverError  # noqa: B904 - the chain is what is tested
    except DriverError as error:
        raise errors.SchemaMismatch("the table does not exist") from ExceptionGroup(CANARY, [error])


async def begun(scope: Scope, receive: Receive, send: Send) -> None:
    """An error after the answer was begun."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"set-cookie", CANARY.encode())]})
    await send({"type": "http.response.body", "body": CANARY.encode(), "more_body": True})
    raise DriverError


async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
    """Work that the deadline cuts, and that fails while it is cleaned up."""
    try:
        await asyncio.Event().wait()
    finally:
        raise DriverError


async def unavailable(scope: Scope, receive: Receive, send: Send) -> None:
    """What is expected to happen, caused by what holds the secret."""
    try:
        raise DriverError
    except DriverError as error:
        raise errors.Unavailable("the server could not be reached") from error


PATHS: list[App] = [raising, chained, begun, hanging, unavailable, Echo()]


@pytest.mark.parametrize("app", PATHS, ids=lambda app: getattr(app, "__name__", "well"))
@pytest.mark.parametrize("body_limit", [4, 1000], ids=["body refused", "body taken"])
@pytest.mark.parametrize("timeout", [b"50", CANARY.encode()], ids=["short", "malformed"])
async def test_the_canary_comes_out_nowhere(app: App, body_limit: int, timeout: bytes) -> None:
    """In the path, the query, headers, cookies, the body, who asks, and the errors: not in logs, documents or events."""

    async def identified(scope: Scope, receive: Receive, send: Send) -> None:
        context = context_of(scope)
        context.tenant = context.principal = CANARY
        context.claims = {"card": CANARY}
        context.notes = {"key": CANARY}
        await app(scope, receive, send)

    layers = Stack(
        identified,
        RequestId,
        partial(AccessLog, tenant_key=b"k" * 16),
        Recovery,
        Deadline,
        partial(BodyLimit, limit=body_limit),
    )
    secret = CANARY.encode()
    scope = http_scope(
        "POST",
        f"/users/{CANARY}",
        [
            (b"authorization", b"Bearer " + secret),
            (b"cookie", b"session=" + secret),
            (b"idempotency-key", secret),
            (b"x-request-timeout-ms", timeout),
        ],
        query_string=b"token=" + secret,
    )
    hook = RecordingHook()
    connection = Connection(scope)
    connection.push(secret)
    with log_of("holdfast", "asyncio") as log, subscribe(hook):
        connection.start(layers)
        answer = await connection.answer()
    assert log.lines, "something must have been written, or this proves nothing"
    assert CANARY not in log.everything
    assert CANARY not in repr(hook.events)
    assert CANARY not in repr(context_of(scope))
    if app not in {begun, *(one for one in PATHS if isinstance(one, Echo))}:  # those two answer with it themselves
        assert CANARY not in answer.body.decode()
    assert CANARY not in str(answer.error)


class AwayScript:
    """A script of a Redis that says in its error what it was sent."""

    async def __call__(self, **_: object) -> object:
        raise RedisError(CANARY)


async def test_what_runs_beside_requests_tells_no_text_of_others() -> None:
    """After-commit hooks, steps of the end, checks of health, hooks on events, and the keys' store."""

    def fail(*_: object) -> None:
        raise DriverError

    db = AsyncDatabase("sqlite://")
    await db.migrate(MetaData())
    drain = Drain(DrainSettings(lame_duck=0, finish=0.1))
    drain.on_drain("consumer", fail)
    drain.on_flush("outbox", fail)
    drain.on_close("database", fail)
    health = Health([HealthCheck("db", fail)])
    store = RedisIdempotency(Redis())
    store._finish = store._release = AwayScript()  # type: ignore[assignment]
    claim = _Claim(("a", "b"), "c")
    with log_of("holdfast") as log, subscribe(fail):

        @db.transaction
        async def save(tx: UnitAsyncSession) -> None:
            db.after_commit(fail)

        await save()
        db._runtime._purging.acquire()
        with mock.patch.object(KeyRows, "purge", fail):
            await greenlet_spawn(db._runtime._purge_quietly)
        await health.report()
        await drain.run_async()
        await store._record(claim, StoredAnswer(201, [], b""))
        await store._let_go(claim)
    await db.close()
    said = log.everything
    for words in (
        "after-commit hook",
        "expired key rows",
        "the check db raised",
        "outbox failed",
        "an event hook failed",
    ):
        assert words in said
    assert "could not be recorded" in said
    assert "could not be freed" in said
    assert "DriverError" in said
    assert CANARY not in said


async def test_planted_leak_is_found() -> None:
    """The canary would be seen: a service that logs the exception's text turns this red."""
    import logging

    with log_of("holdfast") as log:
        try:
            await raising({}, Echo(), Echo())  # type: ignore[arg-type]
        except DriverError:
            logging.getLogger("holdfast").exception("failed")
    assert CANARY in log.json_text.getvalue()
    assert CANARY in log.plain_text.getvalue()
