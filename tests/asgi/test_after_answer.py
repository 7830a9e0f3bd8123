"""What an application does after its answer, in a keyed request: after COMMIT, after the answer, outside of the transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from holdfast.asgi.answers import Answer as Whole
from holdfast.asgi.answers import StoredAnswer
from holdfast.asgi.context import RequestContext
from holdfast.asgi.deadline import Deadline
from holdfast.asgi.draining import Draining
from holdfast.asgi.idempotency import Idempotency, KeyedRun
from holdfast.asgi.interface import App, Message, Receive, Scope, Send
from holdfast.asgi.keyed_request import KeyIdentity
from holdfast.asgi.recovery import AnswerCut, Recovery
from holdfast.errors import NotCommitted, Report, Unavailable, attach_report
from holdfast.ext.sqlalchemy import UnitAsyncSession
from holdfast.ext.sqlalchemy.current import open_unit
from holdfast.outcome import Outcome
from holdfast.shutdown import Drain
from tests.asgi.asgi_calls import Answer, Connection, call, http_scope, until
from tests.asgi.effect_app import Effect, Effects, Make, Proven, caller
from tests.asgi.log_capture import log_of


class Shop:
    """An application whose handler saves and whose background task is the test's."""

    def __init__(self, after: Callable[[], Awaitable[None]], effects: Effects | None = None, status: int = 201) -> None:
        self.effects = effects
        self.after = after
        self.status = status
        self.calls = 0
        self.ended: list[str] = []
        self.app = Starlette(routes=[Route("/effects", self._handle, methods=["POST"])])

    async def _handle(self, _request: Request) -> Response:
        self.calls += 1
        if self.effects is not None:
            await self.effects.db.save(Effect(tenant="acme", what="order"))
        return PlainTextResponse("done", self.status, background=BackgroundTask(self.after))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, and note how it ended."""
        try:
            await self.app(scope, receive, send)
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        self.ended.append("returned")


class Plain:
    """A store that keeps nothing; `ends` are those of its transactions: what is raised, None for a success."""

    def __init__(self, *ends: Exception | None) -> None:
        self.ends = list(ends or [None])

    async def answer(self, _identity: KeyIdentity, run: KeyedRun) -> Whole | StoredAnswer:
        """The application's answer; after an `Unavailable` from another call of it."""
        while True:
            answer = await run()
            end = self.ends.pop(0)
            if end is None:
                return answer
            if not isinstance(end, Unavailable):
                raise end

    async def live_keys(self, scope: str, most: int) -> int:
        """None that count."""
        return 0


def start(app: App) -> Connection:
    """A keyed request under way."""
    connection = Connection(http_scope("POST", "/effects", caller(key="k")))
    connection.push(b"b")
    connection.start(app)
    return connection


async def post(app: App) -> Answer:
    """A whole keyed request."""
    return await call(app, "POST", "/effects", caller(key="k"), b"b")


async def test_background_work_comes_after_commit_and_after_the_answer(make: Make) -> None:
    """It sees what is committed, belongs to no transaction, and what it saves is its own."""
    effects, go = await make(), asyncio.Event()
    seen: list[Any] = []

    async def after() -> None:
        await go.wait()
        seen.append((open_unit(effects.db._runtime), len(await effects.rows())))
        await effects.db.save(Effect(tenant="acme", what="mail"))
        seen.append(await effects.count())

    shop = Shop(after, effects)
    effects.idempotency.app = shop
    connection = start(effects.app)
    await until(lambda: connection.so_far.complete)
    assert (connection.so_far.status, seen, await effects.count()) == (201, [], 1)
    go.set()
    answer = await connection.answer()
    assert (answer.error, seen, shop.ended) == (None, [(None, 1), 2], ["returned"])
    again = await post(effects.app)
    assert (again.header("idempotency-replayed"), shop.calls, await effects.count()) == ("true", 1, 2)


async def test_a_repetition_is_answered_while_background_work_goes_on(make: Make) -> None:
    """The key is at work no longer than the answer."""
    effects, go = await make(), asyncio.Event()

    async def after() -> None:
        await go.wait()

    effects.idempotency.app = Shop(after, effects)
    connection = start(effects.app)
    await until(lambda: connection.so_far.complete)
    assert (await post(effects.app)).header("idempotency-replayed") == "true"
    go.set()
    await connection.answer()


async def test_an_error_of_background_work_changes_no_answer(make: Make) -> None:
    """It is logged once, with its trace; effect and answer stand."""
    effects = await make()

    async def after() -> None:
        raise NotCommitted("orders: of the background work")

    effects.idempotency.app = Shop(after, effects)
    with log_of("holdfast.asgi.recovery") as log:
        answer = await post(Recovery(effects.app))
    assert (answer.status, answer.body, answer.error) == (201, b"done", None)
    assert len(log.lines) == 1
    assert await effects.count() == 1


async def test_the_deadline_does_not_cut_background_work() -> None:
    """The answer was in time; the work goes on beyond it."""
    done: list[bool] = []

    async def after() -> None:
        loop = asyncio.get_running_loop()
        until_then = loop.time() + 0.15
        await until(lambda: loop.time() > until_then, turns=10_000_000)
        done.append(True)

    keyed = Proven(Idempotency(Shop(after), Plain()))
    answer = await post(Deadline(keyed, maximum=0.1))
    assert (answer.status, done) == (201, [True])


@pytest.mark.parametrize("ends", [NotCommitted("no"), ValueError("broken")])
async def test_nothing_comes_after_an_answer_that_was_not_to_be(ends: Exception) -> None:
    """Where it could not be made durable, the application ends as if cancelled, and no mail is sent of what never was."""
    done: list[bool] = []

    async def after() -> None:
        done.append(True)

    shop = Shop(after)
    answer = await post(Recovery(Proven(Idempotency(shop, Plain(ends)))))
    assert answer.status in {500, 503}
    assert (done, shop.ended) == ([], ["CancelledError"])


async def test_of_several_calls_only_the_last_goes_on() -> None:
    """One whose transaction was rolled back and run again is ended before the next begins."""
    done: list[int] = []

    async def after() -> None:
        done.append(shop.calls)

    shop = Shop(after)
    answer = await post(Proven(Idempotency(shop, Plain(Unavailable("again"), Unavailable("again"), None))))
    assert (answer.status, done) == (201, [3])
    assert shop.ended == ["CancelledError", "CancelledError", "returned"]


async def test_a_refusal_has_its_background_work_after_it_too(make: Make) -> None:
    """What it wrote is rolled back by then."""
    effects, seen = await make(), []

    async def after() -> None:
        seen.append(await effects.count())

    effects.idempotency.app = Shop(after, effects, status=409)
    answer = await post(effects.app)
    assert (answer.status, answer.error, seen) == (409, None, [0])


async def test_an_answer_from_another_task_waits_for_its_application() -> None:
    """It cannot be left where it stands: the work is done, only the answer comes after it."""
    order: list[str] = []

    async def after() -> None:
        order.append("work")

    shop = Shop(after)

    async def in_a_task(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.create_task(shop(scope, receive, send))

    answer = await post(Proven(Idempotency(in_a_task, Plain())))
    assert (answer.status, answer.body, order) == (201, b"done", ["work"])


async def test_a_client_that_is_gone_stops_no_background_work() -> None:
    """What was asked for is there, and so is what belongs to it."""
    done: list[bool] = []

    async def after() -> None:
        done.append(True)

    connection = Connection(http_scope("POST", "/effects", caller(key="k")))
    connection.push(b"b")
    connection.hang_up()
    connection.start(Proven(Idempotency(Shop(after), Plain())))
    answer = await connection.answer()
    assert isinstance(answer.error, OSError)
    assert done == [True]


async def test_a_cancellation_in_the_middle_of_commit_ends_the_application() -> None:
    """It is passed on, once."""
    there = asyncio.Event()

    class Slow(Plain):
        async def answer(self, _identity: KeyIdentity, run: KeyedRun) -> Whole | StoredAnswer:
            answer = await run()
            there.set()
            await asyncio.Event().wait()
            return answer

    async def after() -> None:
        raise AssertionError("it must not run")

    shop = Shop(after)
    connection = Connection(http_scope("POST", "/effects", caller(key="k")))
    connection.push(b"b")
    task = connection.start(Proven(Idempotency(shop, Slow())))
    await there.wait()
    task.cancel()
    answer = await connection.answer()
    assert isinstance(answer.error, asyncio.CancelledError)
    assert (answer.messages, shop.ended) == ([], ["CancelledError"])


class Timed:
    """An application with a time limit of its own around a shop; the test says when that is over."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.limit = asyncio.timeout(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve within the limit."""
        async with self.limit:
            await self.shop(scope, receive, send)

    async def run_out(self, outcome: Outcome | None) -> None:
        """Be at something when the time is up; what is known of it stands on the error, as an operation leaves it."""
        self.limit.reschedule(asyncio.get_running_loop().time())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            if outcome is not None:
                attach_report(error, Report("request", 1, 0.0, "cancelled", outcome))
            raise


async def never() -> None:
    """Background work that must not run."""
    raise AssertionError("it must not run")


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.NOT_COMMITTED, "deadline-exceeded"),
        (Outcome.UNKNOWN, "outcome-unknown"),
        (None, "outcome-unknown"),
    ],
)
async def test_a_time_limit_of_the_application_that_cuts_its_commit_is_answered(
    outcome: Outcome | None, code: str
) -> None:
    """The application is long past its work, and takes its own cancellation back; the client hears what became of the request."""
    timed = Timed(Shop(never))

    class Slow(Plain):
        async def answer(self, _identity: KeyIdentity, run: KeyedRun) -> Whole | StoredAnswer:
            answer = await run()
            await timed.run_out(outcome)
            return answer

    answer = await post(Recovery(Proven(Idempotency(timed, Slow()))))
    assert (answer.status, answer.error, timed.shop.ended) == (504, None, ["CancelledError"])
    assert answer.json["type"].endswith(code)
    assert answer.json["outcome"] == (outcome or Outcome.UNKNOWN).value


async def test_a_deadline_that_comes_before_the_handler_says_that_nothing_was_applied() -> None:
    """A keyed request is cut while it waits for its key: the application was not even called."""

    class Waiting(Plain):
        async def answer(self, _identity: KeyIdentity, run: KeyedRun) -> Whole | StoredAnswer:
            await asyncio.Event().wait()
            return await run()

    shop = Shop(never)
    answer = await post(Deadline(Proven(Idempotency(shop, Waiting())), maximum=0.02, floor=0))
    assert (answer.status, answer.json["outcome"], shop.calls) == (504, "not_committed", 0)


async def test_a_deadline_in_the_handler_says_what_the_transaction_knows(make: Make) -> None:
    """All that a keyed request saves is one transaction, and its COMMIT was not sent."""
    effects = await make()

    async def hang(_scope: Scope) -> None:
        await asyncio.Event().wait()

    effects.after_effect = hang
    # On a slow machine the time may be up before the handler is called; the answer is the same.
    answer = await post(Deadline(effects.app, maximum=0.3))
    assert (answer.status, answer.json["outcome"], await effects.count()) == (504, "not_committed", 0)


async def test_a_time_limit_of_the_application_that_cuts_its_answer_ends_it() -> None:
    """As without a key: its end is told to the application, and half an answer does not look like a whole one."""
    timed, there = Timed(Shop(never)), asyncio.Event()

    async def send(_message: Message) -> None:
        there.set()
        await timed.run_out(None)

    connection = Connection(http_scope("POST", "/effects", caller(key="k")))
    connection.push(b"b")
    with pytest.raises(AnswerCut):
        await Recovery(Proven(Idempotency(timed, Plain())))(connection.scope, connection.receive, send)
    assert (there.is_set(), timed.shop.ended) == (True, ["CancelledError"])


async def test_a_cancellation_in_the_middle_of_the_answer_ends_the_application() -> None:
    """It is not left standing where it sent its answer."""
    there, shop = asyncio.Event(), Shop(never)

    async def send(_message: Message) -> None:
        there.set()
        await asyncio.Event().wait()

    connection = Connection(http_scope("POST", "/effects", caller(key="k")))
    connection.push(b"b")
    keyed = Proven(Idempotency(shop, Plain()))
    task = asyncio.ensure_future(keyed(connection.scope, connection.receive, send))
    await there.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert shop.ended == ["CancelledError"]


async def test_a_server_that_fails_stops_no_background_work() -> None:
    """Whatever it raises when it is handed the answer."""
    done: list[bool] = []

    async def after() -> None:
        done.append(True)

    async def send(_message: Message) -> None:
        raise RuntimeError("of the server")

    connection = Connection(http_scope("POST", "/effects", caller(key="k")))
    connection.push(b"b")
    with pytest.raises(RuntimeError, match="of the server"):
        await Proven(Idempotency(Shop(after), Plain()))(connection.scope, connection.receive, send)
    assert done == [True]


async def test_who_may_not_look_whether_a_replay_is_allowed_hears_no_lie() -> None:
    """What was asked for was done before: an error on the way to its answer does not say that nothing was."""

    class Kept(Plain):
        async def answer(self, _identity: KeyIdentity, _run: KeyedRun) -> Whole | StoredAnswer:
            return StoredAnswer(201, [], b"done")

    async def may_replay(_context: RequestContext, _answer: StoredAnswer) -> bool:
        raise Unavailable("rights: the server is away")

    answer = await post(Recovery(Proven(Idempotency(Shop(never), Kept(), may_replay=may_replay))))
    assert (answer.status, answer.json["outcome"]) == (504, "unknown")


async def test_a_session_of_a_dependency_is_saved_with_the_answer(make: Make) -> None:
    """What was added in a block that ends after the answer is in the transaction of its key."""
    effects, ended = await make(), []
    app = FastAPI()

    async def session() -> AsyncIterator[UnitAsyncSession]:
        async with effects.db.begin() as tx:
            yield tx
        ended.append(await effects.count())

    @app.post("/effects")
    async def handle(tx: UnitAsyncSession = Depends(session)) -> str:  # noqa: FAST002, B008 - it is a name of this test
        tx.add(Effect(tenant="acme", what="order"))
        return "done"

    effects.idempotency.app = app
    answers = [await post(effects.app) for _ in range(2)]
    assert [answer.body for answer in answers] == [b'"done"'] * 2
    assert (answers[1].header("idempotency-replayed"), ended, await effects.count()) == ("true", [1], 1)


async def test_the_end_waits_for_background_work() -> None:
    """A process that drains counts the request until its work is done."""
    drain, go = Drain(), asyncio.Event()

    async def after() -> None:
        await go.wait()

    keyed = Draining(Proven(Idempotency(Shop(after), Plain())), drain=drain)
    connection = start(keyed)
    await until(lambda: connection.so_far.complete)
    assert drain.in_flight == 1
    go.set()
    await connection.answer()
    assert drain.in_flight == 0
