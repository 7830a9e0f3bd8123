"""One key, one effect: the layer on a real database (SQLite)."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm.exc import StaleDataError
from starlette.middleware.gzip import GZipMiddleware

from holdfast.asgi.answers import StoredAnswer
from holdfast.asgi.body import BodyBuffer
from holdfast.asgi.context import RequestContext, current_request
from holdfast.asgi.idempotency import Idempotency
from holdfast.asgi.interface import App, Receive, Scope, Send
from holdfast.asgi.key_quota import KeyQuota
from holdfast.asgi.keyed_request import KeyRules
from holdfast.asgi.stack import Place, Stack
from holdfast.deadline import within
from holdfast.errors import ConfigurationError, UsageError
from holdfast.ext.sqlalchemy import OPERATIONS, AsyncDatabase, DatabaseSettings, PoolSettings
from holdfast.ext.sqlalchemy.idempotency import SqlIdempotency
from holdfast.testing import ManualClock
from tests.asgi.asgi_calls import Answer, Connection, call, http_scope, run_lifespan, until
from tests.asgi.effect_app import Effects, Make, caller


async def post(effects: Effects, key: str | None = "k", body: bytes = b"b", query: str = "", **who: str) -> Answer:
    """One request; what the application raised is raised."""
    answer = await call(effects.app, "POST", "/effects", caller(key=key, **who), body, query_string=query.encode())
    if answer.error is not None:
        raise answer.error
    return answer


def start(effects: Effects, key: str = "k", body: bytes = b"b") -> Connection:
    """A request under way."""
    connection = Connection(http_scope("POST", "/effects", caller(key=key)))
    connection.push(body)
    connection.start(effects.app)
    return connection


class Held:
    """Holds the handler back after its effect, until the test lets it go."""

    def __init__(self, effects: Effects) -> None:
        self.there = asyncio.Event()
        self.go = asyncio.Event()
        effects.after_effect = self._wait

    async def _wait(self, _scope: Scope) -> None:
        self.there.set()
        await self.go.wait()


# -- one effect ----------------------------------------------------------------------------------------------------------


async def test_fifty_identical_requests_at_once_have_one_effect(make: Make) -> None:
    """One of them runs, fifty answers are equal, 49 say that they are repetitions."""
    effects = await make()
    answers = await asyncio.gather(*(post(effects) for _ in range(50)))
    assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}
    assert {(answer.header("location"), answer.header("content-type")) for answer in answers} == {
        (answers[0].header("location"), "text/plain")
    }
    assert sum(answer.header("idempotency-replayed") == "true" for answer in answers) == 49
    assert (await effects.count(), effects.calls) == (1, 1)
    assert effects.idempotency._at_work == {}
    assert effects.idempotency._body.held == 0


async def test_quoted_and_bare_are_one_key(make: Make) -> None:
    """A client that changes how it writes the key does not change the key."""
    effects = await make()
    assert (await post(effects, "k")).body == (await post(effects, '"k"')).body
    assert await effects.count() == 1


async def test_another_payload_is_refused(make: Make) -> None:
    """422, and nothing of the first answer."""
    effects = await make()
    first = await post(effects)
    other = await post(effects, body=b"other")
    assert (other.status, other.json["type"]) == (422, "urn:holdfast:problem:key-reused")
    assert first.body not in other.body
    assert await effects.count() == 1


async def test_without_a_key_everything_is_as_before(make: Make) -> None:
    """No key, and keys of safe methods: the layer is not there; nor is it for what is not HTTP."""
    effects = await make()
    assert [(await post(effects, None)).status for _ in range(2)] == [201, 201]
    assert [(await call(effects.app, "GET", "/effects", caller(key="k"))).status for _ in range(2)] == [201, 201]
    assert await effects.count() == 4
    assert await effects.rows() == []
    await run_lifespan(effects.app)


async def test_a_route_can_require_a_key_and_another_ignore_it(make: Make) -> None:
    """`rules_for` says so by the scope: 400 without a key; None: as if there were none."""

    def rules_for(scope: Scope) -> KeyRules | None:
        return KeyRules(required=True) if scope["path"] == "/effects" else None

    effects = await make(rules_for=rules_for)
    assert (await post(effects, None)).json["type"] == "urn:holdfast:problem:idempotency-key-missing"
    assert (await post(effects)).status == 201
    for _ in range(2):
        assert (await call(effects.app, "POST", "/other", caller(key="k"))).header("idempotency-replayed") is None
    assert await effects.count() == 3


@pytest.mark.parametrize("key", [b"", b"k" * 256, b"k" * 100_000, "schlüssel".encode(), b"a b", b'"a', b"a\x1b[0m"])
async def test_a_malformed_key_is_refused_before_anything_is_read(make: Make, key: bytes) -> None:
    """400, a document without the key in it, and not a byte of the body was asked for."""
    effects = await make()
    connection = Connection(http_scope("POST", "/effects", [(b"x-user", b"ada"), (b"idempotency-key", key)]))
    connection.start(effects.app)
    answer = await connection.answer()
    assert (answer.status, answer.json["type"]) == (400, "urn:holdfast:problem:idempotency-key-malformed")
    assert connection.received == 0
    assert len(answer.body) < 300


async def test_a_body_without_end_is_refused(make: Make) -> None:
    """413 when the limit is passed, whatever length was promised, and no effect; a client that leaves meanwhile gets nothing."""
    effects = await make(body=BodyBuffer(limit=1000))
    answer = await call(effects.app, "POST", "/effects", caller(key="k"), [b"x" * 100] * 20)
    assert answer.status == 413
    leaving = Connection(http_scope("POST", "/effects", caller(key="k")))
    leaving.push(b"half", more=True)
    leaving.hang_up()
    leaving.start(effects.app)
    assert (await leaving.answer()).messages == []
    assert (await effects.count(), effects.idempotency._body.held) == (0, 0)


async def test_nobody_has_no_key(make: Make) -> None:
    """Without a principal 401; where the service names one for all who are not proven, they share it."""
    effects = await make()
    answer = await post(effects, user="")
    assert (answer.status, answer.header("www-authenticate")) == (401, "Bearer")
    assert await effects.count() == 0
    shared = await make(anonymous="everybody")
    assert (await post(shared, user="")).body == (await post(shared, user="")).body
    assert await shared.count() == 1


# -- while it is at work ---------------------------------------------------------------------------------------------------


async def test_a_repetition_waits_for_the_first(make: Make) -> None:
    """It gets the first one's answer, and holds no connection meanwhile."""
    effects = await make()
    held = Held(effects)
    first = start(effects)
    await held.there.wait()
    second = start(effects)
    await until(lambda: second.received)
    assert second.so_far.messages == []
    held.go.set()
    one, two = await first.answer(), await second.answer()
    assert one.body == two.body
    # Which of the two has the key is settled after the keys were counted: that may overtake.
    assert {one.header("idempotency-replayed"), two.header("idempotency-replayed")} == {None, "true"}
    assert effects.calls == 1


@pytest.mark.parametrize("wait", [0, 0.05])
async def test_a_repetition_that_may_not_wait_is_told_when_to_come_again(make: Make, wait: float) -> None:
    """409 with `Retry-After`, at once or when the wait is over; then the first one's answer."""
    # Only one is hurried: a slow machine may need longer than `wait` to claim a key that is free.
    rules = [KeyRules()]
    effects = await make(rules_for=lambda _scope: rules[-1])
    held = Held(effects)
    first = start(effects)
    await held.there.wait()
    rules.append(KeyRules(wait=wait))
    again = await post(effects)
    rules.pop()
    assert (again.status, again.json["type"]) == (409, "urn:holdfast:problem:in-progress")
    assert again.header("retry-after") == "1"
    held.go.set()
    answered = await first.answer()
    assert (await post(effects)).body == answered.body
    assert effects.calls == 1


async def test_a_repetition_waits_no_longer_than_its_deadline(make: Make) -> None:
    """The nearer of wait and deadline counts."""
    effects = await make(rules=KeyRules(wait=1000))
    held = Held(effects)
    first = start(effects)
    await held.there.wait()
    with within(0.05):
        again = await post(effects)
    assert again.status == 409
    held.go.set()
    assert (await first.answer()).status == 201


@pytest.mark.parametrize("quota", [None, 1_000_000], ids=["key", "quota"])
async def test_a_request_that_waits_for_a_connection_is_not_told_of_another(
    make: Make, quota: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wait` bounds the wait for another request with the key, the deadline alone that for a database with too much to do."""
    small = DatabaseSettings(pool=PoolSettings(size=1, open_max=1), deadline=3600)
    effects = await make(small, rules=KeyRules(wait=60), quota=quota)
    loop = asyncio.get_running_loop()
    time = loop.time
    async with effects.db.engine.connect():
        answer = asyncio.ensure_future(start(effects).answer())
        await asyncio.wait({answer}, timeout=0.05)
        monkeypatch.setattr(loop, "time", lambda: time() + 100)
        await asyncio.wait({answer}, timeout=0.05)
        assert not answer.done(), answer.result().json
    assert (await answer).status == 201


# -- refusals and failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 409, 422, 429, 500, 503])
async def test_a_refusal_has_no_effect_and_frees_the_key(make: Make, status: int) -> None:
    """What the handler had saved by then is rolled back, its answer is sent, and the next request runs."""
    effects = await make()
    assert (await post(effects, query=f"status={status}")).status == status
    assert (await effects.count(), await effects.rows()) == (0, [])
    again = await post(effects, query=f"status={status}")
    assert again.header("idempotency-replayed") is None
    assert effects.calls == 2


async def test_a_final_refusal_is_kept_without_its_effect(make: Make) -> None:
    """Where the rules call it final, it is answered again without running; nothing of what was written stays."""
    effects = await make(rules=KeyRules(final=frozenset({409})))
    first = await post(effects, query="status=409")
    again = await post(effects, query="status=409")
    assert (first.status, again.status) == (409, 409)
    assert (first.body, again.header("idempotency-replayed")) == (again.body, "true")
    assert (await effects.count(), effects.calls) == (0, 1)


async def test_an_error_of_the_handler_is_raised_and_frees_the_key(make: Make) -> None:
    """It reaches whoever answers errors; the effect is gone, the next request runs."""
    effects = await make()

    async def fail(_scope: Scope) -> None:
        raise ValueError("of the handler's own")

    effects.after_effect = fail
    with pytest.raises(ValueError, match="of the handler's own"):
        await post(effects)
    assert await effects.count() == 0
    effects.after_effect = None
    assert (await post(effects)).status == 201
    assert effects.idempotency._at_work == {}


async def test_a_conflict_runs_the_request_again(make: Make) -> None:
    """With the same body and a scope as at the beginning; only the last answer leaves, and the layers outside see its route."""
    effects = await make()
    seen: list[tuple[bool, bool, int]] = []

    async def lose_twice(scope: Scope) -> None:
        context = current_request()
        assert context is not None
        seen.append(("route" in scope, "mine" in scope["state"], context.attempts))
        scope["route"] = f"route {len(seen)}"
        scope["state"]["mine"] = True
        if len(seen) < 3:
            raise StaleDataError

    effects.after_effect = lose_twice
    connection = Connection(http_scope("POST", "/effects", caller(key="k")))
    connection.push(b"body")
    connection.start(effects.app)
    assert (await connection.answer()).status == 201
    assert seen == [(False, False, 1), (False, False, 2), (False, False, 3)]
    assert connection.scope["route"] == "route 3"
    assert (await effects.count(), effects.calls) == (1, 3)


async def test_a_handler_in_another_task_is_refused(make: Make) -> None:
    """It could not be part of the transaction: a clear error, and no effect."""
    effects = await make()
    inner = effects.idempotency.app

    async def in_a_task(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.create_task(inner(scope, receive, send))  # type: ignore[arg-type]

    effects.idempotency.app = in_a_task
    with pytest.raises(UsageError, match="another task"):
        await post(effects)
    assert await effects.count() == 0


# -- answers ---------------------------------------------------------------------------------------------------------------


async def test_an_answer_too_large_to_keep_is_given_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The effect happens once all the same; the repetition is told that, and where the result is. The log says why."""
    effects = await make()
    with caplog.at_level(logging.WARNING, "holdfast"):
        first = await post(effects, query="size=70000")
    assert (first.status, len(first.body)) == (201, 70_000)
    assert "kept_max" in caplog.text
    again = await post(effects, query="size=70000")
    assert (again.status, again.json["type"]) == (409, "urn:holdfast:problem:answer-not-kept")
    assert (again.json["outcome"], again.json["answered"]) == ("committed", 201)
    assert again.header("location") == first.header("location")
    assert (await effects.count(), effects.calls) == (1, 1)


def sending(*messages: dict[str, Any]) -> App:
    """An application that sends just this."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for message in messages:
            await send(message)

    return app


START = {"type": "http.response.start", "status": 200, "headers": []}
STREAM = {"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"text/event-stream")]}
PIECE = {"type": "http.response.body", "body": b"x" * 600_000, "more_body": True}


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "without a complete answer"),
        ([START], "without a complete answer"),
        ([START, PIECE], "without a complete answer"),
        ([START, PIECE, PIECE], "larger than 1048576 bytes"),
        ([STREAM], "event stream"),
        ([START, {"type": "http.response.pathsend", "path": "x"}], "pathsend cannot be kept"),
    ],
)
async def test_an_answer_that_cannot_be_complete_is_refused(
    make: Make, messages: list[dict[str, Any]], complaint: str
) -> None:
    """Streams, files and what is too large: a clear error, nothing applied, nothing sent."""
    effects = await make()
    effects.idempotency.app = sending(*messages)
    answer = await call(effects.app, "POST", "/effects", caller(key="k"))
    assert isinstance(answer.error, UsageError)
    assert complaint in str(answer.error)
    assert answer.messages == []
    assert await effects.rows() == []


async def test_what_is_refused_stays_refused(make: Make) -> None:
    """An application that swallows the refusal and goes on does not get its answer through."""
    effects = await make()

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(UsageError):
            await send(dict(STREAM))
        await send(dict(START))
        await send({"type": "http.response.body", "body": b"done"})

    effects.idempotency.app = stubborn
    with pytest.raises(UsageError, match=r'event stream.*edge\(key="ignored"\)'):
        await post(effects)


async def test_the_server_s_ways_around_are_not_offered(make: Make) -> None:
    """Extensions by which an application could send past the buffer are taken out; others stay."""
    effects = await make()
    seen: list[Any] = []

    async def look(scope: Scope) -> None:
        seen.append(scope["extensions"])

    effects.after_effect = look
    offered: dict[str, Any] = {"http.response.pathsend": {}, "http.response.trailers": {}, "tls": {}}
    await call(effects.app, "POST", "/effects", caller(key="k"), extensions=offered)
    assert seen == [{"tls": {}}]


@pytest.mark.parametrize("accepted", ["gzip", None])
async def test_what_is_kept_is_in_no_encoding(make: Make, accepted: str | None) -> None:
    """Whoever repeats a request may take other encodings; what the answer depends on is said again, too."""
    effects = await make()
    effects.idempotency.app = GZipMiddleware(effects.idempotency.app, minimum_size=1)
    answers = []
    for encoding in (accepted, "br", "identity"):
        headers = {} if encoding is None else {"accept_encoding": encoding}
        answers.append(await call(effects.app, "POST", "/effects", caller(key="k", **headers), b"b"))
    assert {(answer.body, answer.header("content-encoding")) for answer in answers} == {(b"effect 1 of acme", None)}
    assert {answer.header("vary") for answer in answers} == {"Accept-Encoding"}
    assert [answer.header("idempotency-replayed") for answer in answers] == [None, "true", "true"]


async def test_encodings_are_for_whoever_stands_outside(make: Make) -> None:
    """Each client gets the kept answer in the encoding it takes."""
    effects = await make()
    app = GZipMiddleware(effects.app, minimum_size=1)
    for encoding, expected in (("gzip", "gzip"), ("identity", None), ("gzip", "gzip")):
        answer = await call(app, "POST", "/effects", caller(key="k", accept_encoding=encoding), b"b")
        assert (answer.status, answer.header("content-encoding")) == (201, expected)
    assert effects.calls == 1


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_replay_can_be_forbidden(make: Make, *, asynchronous: bool) -> None:
    """`may_replay` is asked each time, with the context of who asks now: 403, and no byte of the answer."""
    asked: list[tuple[str | None, int]] = []

    def may_replay(context: RequestContext, stored: StoredAnswer) -> bool:
        asked.append((context.principal, stored.status))
        return len(asked) > 1

    async def may_replay_async(context: RequestContext, stored: StoredAnswer) -> bool:
        return may_replay(context, stored)

    effects = await make(may_replay=may_replay_async if asynchronous else may_replay)
    first = await post(effects)
    refused = await post(effects)
    assert (refused.status, refused.json["type"]) == (403, "urn:holdfast:problem:replay-refused")
    assert first.body not in refused.body
    assert (await post(effects)).body == first.body
    assert asked == [("ada", 201)] * 2


# -- bounds ----------------------------------------------------------------------------------------------------------------


async def expire(effects: Effects) -> None:
    """Every key's time is over."""
    async with effects.db.engine.begin() as connection:
        await connection.execute(update(OPERATIONS).values(expires=1))


async def test_an_expired_key_is_free_and_is_purged(make: Make) -> None:
    """The same key runs again; `purge` takes away what nobody asks for."""
    effects = await make(DatabaseSettings(key_ttl=timedelta(hours=1)))
    await post(effects)
    await expire(effects)
    assert (await post(effects)).header("idempotency-replayed") is None
    assert await effects.count() == 2
    await expire(effects)
    await effects.db.purge()
    assert await effects.rows() == []


async def test_random_keys_are_bounded(make: Make) -> None:
    """429 beyond the quota, counted for each tenant; what is kept is still answered; expired keys make room."""
    clock = ManualClock()
    effects = await make(quota=KeyQuota(5), clock=clock)
    statuses = [(await post(effects, f"k{number}")).status for number in range(8)]
    assert statuses == [201] * 5 + [429] * 3
    assert (await effects.count(), len(await effects.rows())) == (5, 5)
    refused = await post(effects, "k9")
    assert (refused.json["type"], refused.header("retry-after")) == ("urn:holdfast:problem:too-many-keys", "60")
    assert (await post(effects, "k0")).header("idempotency-replayed") == "true"
    assert (await post(effects, "k0", tenant="other")).status == 201
    await expire(effects)
    clock.advance(2)
    assert (await post(effects, "k9")).status == 201


async def test_refused_requests_use_up_no_quota(make: Make) -> None:
    """A key that is free again does not count."""
    effects = await make(quota=2, clock=ManualClock())
    for number in range(5):
        assert (await post(effects, f"k{number}", query="status=500")).status == 500
    assert [(await post(effects, f"k{number}")).status for number in range(3)] == [201, 201, 429]


@pytest.mark.parametrize("setting", [{"secret": b"short"}, {"anonymous": ""}, {"quota": 0}])
def test_a_setting_that_cannot_work_is_refused(setting: dict[str, Any], sqlite_url: str) -> None:
    """Where it is given."""
    with pytest.raises(ConfigurationError):
        Idempotency(sending(), SqlIdempotency(AsyncDatabase(sqlite_url)), **setting)


def test_it_has_its_place(sqlite_url: str) -> None:
    """Inside a stack it stands where keys are counted for somebody proven."""
    store = SqlIdempotency(AsyncDatabase(sqlite_url))
    stack = Stack(sending(), lambda app: Idempotency(app, store))
    assert Idempotency.place is Place.IDEMPOTENCY
    assert isinstance(stack.app, Idempotency)
