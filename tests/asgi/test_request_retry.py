"""A whole request again: only where that is safe, nobody else retries, and nothing has left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from holdfast.asgi.context import current_request
from holdfast.asgi.interface import Message, Receive, Scope, Send
from holdfast.asgi.retry import RequestRetry
from holdfast.asgi.stack import Place
from holdfast.backoff import Backoff
from holdfast.budget import RetryBudget, default_budget
from holdfast.deadline import within
from holdfast.errors import ConfigurationError, Contended, LoadShed, Report, attach_report
from holdfast.events import AttemptFailed, RetryDenied, RetryScheduled
from holdfast.layer import retry_layer
from holdfast.stream import Event, EventStream
from holdfast.testing import ManualClock, seeded_random
from tests.asgi.asgi_calls import Connection, call, http_scope, run_lifespan

Turn = int | Exception | Callable[[], Exception] | tuple[int, Sequence[tuple[bytes, bytes]]]


class Flaky:
    """Answers or raises what each turn says, and 200 when the turns are used up. Reads the whole body first.

    Attributes:
        bodies: what it read, each time.
        scopes: what it found in the scope beyond the usual, each time.
    """

    def __init__(self, *turns: Turn, read: bool = True) -> None:
        self._turns = list(turns)
        self._read = read
        self.bodies: list[bytes] = []
        self.scopes: list[tuple[Any, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append((scope.get("route"), scope["state"].get("mine")))
        scope["route"] = f"route {len(self.scopes)}"
        scope["state"]["mine"] = True
        body, more = b"", self._read
        while more:
            message = await receive()
            body += message.pop("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        turn: Turn = self._turns.pop(0) if self._turns else 200
        if callable(turn):
            turn = turn()
        if isinstance(turn, Exception):
            raise turn
        status, headers = turn if isinstance(turn, tuple) else (turn, [])
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": b"answer %d" % len(self.bodies)})


def retrying(app: Any, **settings: Any) -> RequestRetry:
    """The layer, with time and chance of the test's own."""
    settings.setdefault("budget", None)
    return RequestRetry(app, clock=ManualClock(), random=seeded_random(1), **settings)


def exhausted(error: Exception) -> Exception:
    """`error` as an inner layer leaves it that has used up its attempts."""
    attach_report(error, Report("save", 8, 1.0, "attempts", exhausted=True))
    return error


async def test_what_passes_is_not_seen() -> None:
    """An error or a 503 once or twice, then an answer: the client gets that one alone, and the body was read each time."""
    app = Flaky(ConnectionResetError(), 503)
    answer = await call(retrying(app), "PUT", "/a", {}, [b"first ", b"second"])
    assert (answer.status, answer.body) == (200, b"answer 3")
    assert app.bodies == [b"first second"] * 3


async def test_each_attempt_finds_the_scope_as_it_was() -> None:
    """What the framework wrote into it is gone, and the layers outside see the last route."""
    app = Flaky(503, 503)
    connection = Connection(http_scope())
    connection.push()
    connection.start(retrying(app))
    await connection.answer()
    assert app.scopes == [(None, None)] * 3
    assert connection.scope["route"] == "route 3"


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "BREW"])
async def test_what_is_not_idempotent_is_not_repeated(method: str) -> None:
    """One call, and its error or answer as it is."""
    app = Flaky(503)
    assert (await call(retrying(app), method)).status == 503
    app = Flaky(ConnectionResetError())
    assert isinstance((await call(retrying(app), method)).error, ConnectionResetError)
    assert len(app.bodies) == 1


async def test_a_key_makes_it_idempotent_where_the_author_says_so() -> None:
    """`keyed=True` and a key: repeated; without either: not."""
    headers = {"Idempotency-Key": "k"}
    assert (await call(retrying(Flaky(503), keyed=True), "POST", "/", headers)).status == 200
    assert (await call(retrying(Flaky(503), keyed=True), "POST")).status == 503
    assert (await call(retrying(Flaky(503)), "POST", "/", headers)).status == 503


@pytest.mark.parametrize("turn", [500, 502, 504, 404, 409, 429, (503, [(b"retry-after", b"1")])])
async def test_other_answers_are_final(turn: Turn) -> None:
    """A status that is not named, and one that says when to come again: as they are."""
    app = Flaky(turn)
    assert (await call(retrying(app))).status == (turn if isinstance(turn, int) else 503)
    assert len(app.bodies) == 1


@pytest.mark.parametrize(
    "error", [ValueError("of its own"), LoadShed("full", retry_after_s=1), KeyError("x"), PermissionError("no")]
)
async def test_other_errors_are_final(error: Exception) -> None:
    """What is not named is raised at once, unchanged."""
    app = Flaky(error)
    assert (await call(retrying(app))).error is error
    assert len(app.bodies) == 1


async def test_an_inner_layer_that_gave_up_has_the_last_word() -> None:
    """An error whose attempts are used up passes, also in a group; the same without that is repeated."""
    for app in (
        Flaky(lambda: exhausted(Contended("lost"))),
        Flaky(lambda: ExceptionGroup("tasks", [exhausted(Contended("lost"))])),
    ):
        assert (await call(retrying(app))).error is not None
        assert len(app.bodies) == 1
    assert (await call(retrying(Flaky(ExceptionGroup("tasks", [Contended("lost")]))))).status == 200


async def test_a_report_from_before_is_about_another_request() -> None:
    """An exception object may be raised again, out of a cache or by a mock: who gave up then has not given up now."""
    assert (await call(retrying(Flaky(exhausted(Contended("lost")))))).status == 200


async def test_inside_another_layer_it_stands_back() -> None:
    """Where a layer outside retries, there is one call."""
    app = Flaky(503)
    with retry_layer():
        assert (await call(retrying(app))).status == 503
    assert len(app.bodies) == 1


async def test_an_answer_that_began_is_not_replaced() -> None:
    """Once a byte has left, an error is raised: there is no second beginning."""

    async def begins(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ConnectionResetError

    answer = await call(retrying(begins))
    assert isinstance(answer.error, ConnectionResetError)
    assert len(answer.messages) == 1


async def test_a_framework_s_own_500_is_replaced() -> None:
    """Frameworks answer 500 and raise on: what was answered is held back until the error was judged."""
    calls = 0

    async def framework(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        failed = calls < 3
        await send({"type": "http.response.start", "status": 500 if failed else 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % calls})
        if failed:
            raise ConnectionResetError

    assert (await call(retrying(framework))).body == b"3"
    calls = 0
    last = await call(retrying(framework, attempts=2))
    assert (last.status, last.body) == (500, b"2"), "what it answered last goes out, as without this layer"
    assert isinstance(last.error, ConnectionResetError)


@pytest.mark.parametrize("pieces", [[40_000] * 3, [1] * 50])
async def test_a_large_error_page_is_let_go(pieces: list[int]) -> None:
    """What is held back has a bound, in bytes and in pieces: beyond it the answer leaves, whole, and is final."""
    pages: list[int] = []

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        pages.append(1)
        await send({"type": "http.response.start", "status": 503, "headers": []})
        for size in pieces:
            await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
        await send({"type": "http.response.body"})

    answer = await call(retrying(large))
    assert (answer.status, len(answer.body), len(pages)) == (503, sum(pieces), 1)


async def test_a_large_body_streams_and_is_not_repeated() -> None:
    """Beyond what may be kept the application reads on undisturbed, and the first failure is final; nothing stays held."""
    app = Flaky(503)
    layer = retrying(app, body_max=1000)
    assert (await call(layer, "PUT", "/", {}, [b"x" * 600] * 5)).status == 503
    assert [len(body) for body in app.bodies] == [3000]
    assert layer.held == 0
    assert (await call(retrying(Flaky(503), body_max=1000), "PUT", "/", {}, [b"x" * 500] * 2)).status == 200


async def test_a_body_that_was_half_read_is_read_on() -> None:
    """What the first attempt did not read comes from the client, after what it did."""
    read: list[bytes] = []

    async def reads_more_each_time(scope: Scope, receive: Receive, send: Send) -> None:
        pieces = [(await receive())["body"] for _ in range(len(read) + 1)]
        read.append(b"".join(pieces))
        if len(read) < 3:
            raise ConnectionResetError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert (await call(retrying(reads_more_each_time), "PUT", "/", {}, [b"a", b"b", b"c"])).status == 200
    assert read == [b"a", b"ab", b"abc"]


async def test_a_client_that_left_is_not_worked_for() -> None:
    """When the application has heard that the client is gone, there is no other attempt."""
    calls = 0

    async def listens(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        while (await receive())["type"] != "http.disconnect":
            pass
        raise ConnectionResetError

    connection = Connection(http_scope())
    connection.push()
    connection.hang_up()
    connection.start(retrying(listens))
    assert isinstance((await connection.answer()).error, ConnectionResetError)
    assert calls == 1


async def test_attempts_deadline_and_budget_end_it() -> None:
    """Three calls by default; none whose delay would pass the deadline; none the budget does not pay."""
    app = Flaky(*[503] * 9)
    assert (await call(retrying(app))).status == 503
    assert len(app.bodies) == 3
    clock = ManualClock()
    app = Flaky(*[503] * 9)
    slow = RequestRetry(app, backoff=Backoff(base=10, cap=10), budget=None, clock=clock, random=lambda: 0.9)
    with within(5, clock=clock):
        assert (await call(slow)).status == 503
    assert len(app.bodies) == 1
    app = Flaky(*[503] * 9)
    await call(retrying(app, budget=RetryBudget(0, 0.1, clock=ManualClock())))
    assert len(app.bodies) == 2


@pytest.mark.parametrize("way, balance", [(ConnectionResetError(), 1.5), (503, 0.5)], ids=["error", "503"])
async def test_a_retry_that_was_worth_it_is_paid_back(way: Exception | int, balance: float) -> None:
    """Successes fill the budget, and a retry that succeeded gives back what it took; not of an overload."""
    budget = RetryBudget(0.5, 0.1, clock=ManualClock())
    assert (await call(retrying(Flaky(way), budget=budget))).status == 200
    assert budget.balance() == pytest.approx(balance)


async def test_moments_of_two_clocks_never_meet() -> None:
    """The caller's deadline counts by its own clock, and so does the budget; that of the process stays on the process's clock."""
    far = ManualClock(start=1e12)
    budget = RetryBudget(0.5, 0.1, clock=ManualClock())
    for paid_by in (default_budget(), budget):
        with within(60, clock=ManualClock(start=5.0)):
            layer = RequestRetry(Flaky(ConnectionResetError()), budget=paid_by, clock=far, random=seeded_random(1))
            assert (await call(layer)).status == 200
        assert paid_by._window.slot_ends < 1e12
    assert budget.balance() == 1.5


async def test_a_cancelled_request_stays_cancelled() -> None:
    """Cancelling is no failure to be mended."""

    async def cancelled(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    assert isinstance((await call(retrying(cancelled))).error, asyncio.CancelledError)


async def test_it_says_what_it_does() -> None:
    """Events for failure, retry and the end; the context counts the calls."""
    told: list[Event] = []
    counted: list[int] = []
    events = EventStream()
    events.subscribe(told.append)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context = current_request()
        assert context is not None
        counted.append(context.attempts)
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    await call(retrying(app, attempts=2, events=events))
    assert [type(event) for event in told] == [AttemptFailed, RetryScheduled, AttemptFailed, RetryDenied]
    assert counted == [1, 2]


async def test_other_connections_pass() -> None:
    """The life of the service is none of its business; it has its place."""
    assert RequestRetry.place is Place.RETRY
    called: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        called.append(scope["type"])

    async def nothing(_message: Message) -> None: ...

    await run_lifespan(retrying(app))
    await retrying(app)({"type": "websocket"}, lambda: asyncio.sleep(0, {}), nothing)  # noqa: TID251 - waits for no time
    assert called == ["lifespan", "websocket"]


@pytest.mark.parametrize(
    "setting",
    [{"statuses": frozenset({429})}, {"body_max": -1}, {"bodies_max": 1}, {"attempts": 0}, {"on": KeyboardInterrupt}],
)
def test_a_setting_that_cannot_work_is_refused(setting: dict[str, Any]) -> None:
    """Where it is given."""
    with pytest.raises(ConfigurationError):
        RequestRetry(Flaky(), **setting)
