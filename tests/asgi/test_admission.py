"""As many requests as the service bears: never more, batch refused first, and no tenant in the place of all others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.asgi.admission import ConcurrencyLimit, Priorities, Priority
from holdfast.asgi.context import context_of
from holdfast.asgi.deadline import Deadline
from holdfast.asgi.draining import Draining
from holdfast.asgi.interface import App, Receive, Scope, Send
from holdfast.deadline import within
from holdfast.errors import ConfigurationError, Conflict, DeadlineExceeded, LoadShed, Overloaded
from holdfast.events import CallShed, LimitChanged
from holdfast.shutdown import Drain
from holdfast.testing import ManualClock, RecordingHook
from tests.asgi.asgi_calls import Answer, Connection, answering, http_scope, until

TENANTS = ["a", "b", "c"]


class Held:
    """An application whose requests stay until they are let go; counts how many are in."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.done = 0
        self.received = 0
        self._go: asyncio.Event = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self._go.wait()
        finally:
            self.inside -= 1
        self.done += 1
        await answering()(scope, receive, send)

    def let_go(self) -> None:
        """Everybody who is in, or comes."""
        self._go.set()


def request(tenant: str | None = None, path: str = "/", headers: Any = ()) -> Connection:
    """A request of a tenant that authentication proved."""
    scope = http_scope("POST", path, headers)
    context_of(scope).tenant = tenant
    return Connection(scope)


def start(app: App, connection: Connection) -> asyncio.Task[Answer]:
    """Send it, and have its answer."""
    connection.start(app)
    return asyncio.create_task(connection.answer())


# ------------------------------------------------------------------------------------------------------------ the limit


async def test_the_limit_holds_and_the_next_is_refused_unread() -> None:
    """Two places: the third request gets 503 with Retry-After, and not a byte of its body was read."""
    held = Held()
    app = ConcurrencyLimit(held, limit=2, queue=0)
    inside = [start(app, request()) for _ in range(2)]
    await until(lambda: held.inside == 2)
    third = request()
    third.push(b"a body that nobody reads")
    answer = await start(app, third)
    assert answer.status == 503
    assert answer.json["type"] == "urn:holdfast:problem:overloaded"
    assert answer.json["outcome"] == "not_committed"
    assert int(answer.header("retry-after") or 0) >= 1
    assert third.received == 0
    held.let_go()
    assert [(await task).status for task in inside] == [200, 200]
    assert app.gate.in_flight == 0


async def test_ten_thousand_at_once() -> None:
    """Of 10,000 tasks never more than the limit are in, every one is answered, and nothing is left behind."""

    class Turns(Held):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0)  # noqa: TID251 - gives way, waits for no time
            self.inside -= 1
            await answering()(scope, receive, send)

    held = Turns()
    app = ConcurrencyLimit(held, limit=50, queue=30, clock=ManualClock())
    answers = await asyncio.gather(*(start(app, request(TENANTS[n % 3])) for n in range(10_000)))
    statuses = [answer.status for answer in answers]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 80
    assert held.most <= 50
    assert (app.gate.in_flight, app.gate.waiting, app.gate.tenants, app._waiting) == (0, 0, 0, {})


async def test_who_waits_gets_the_place_that_comes_free() -> None:
    """The queue hands places on, the newest first."""
    order: list[str] = []
    gates = {name: asyncio.Event() for name in ("first", "old", "new")}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        order.append(scope["path"][1:])
        await gates[scope["path"][1:]].wait()
        await answering()(scope, receive, send)

    limited = ConcurrencyLimit(app, limit=1, queue=2, clock=ManualClock(), tenant=None)
    tasks = []
    for name in gates:
        tasks.append(start(limited, request(path=f"/{name}")))
        await until(lambda: limited.gate.in_flight + limited.gate.waiting == len(tasks))
    for gate in gates.values():
        gate.set()
    assert [(await task).status for task in tasks] == [200, 200, 200]
    assert order == ["first", "new", "old"]


async def test_the_wait_is_bounded_by_time_and_deadline() -> None:
    """A waiter is refused after max_wait; who has no time left does not wait at all; who is cancelled leaves nothing."""
    clock, held = ManualClock(), Held()
    app = ConcurrencyLimit(held, limit=1, queue=5, max_wait=0.5, clock=clock)
    inside = start(app, request())
    await until(lambda: held.inside == 1)

    waiter = start(app, request())
    await until(lambda: app.gate.waiting == 1)
    clock.advance(0.5)
    assert (await waiter).status == 503

    with within(0.0, clock=clock):
        assert (await start(app, request())).status == 503

    gone = request()
    task = gone.start(app)
    await until(lambda: app.gate.waiting == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (app.gate.waiting, app._waiting) == (0, {})
    held.let_go()
    assert (await inside).status == 200


async def test_a_place_that_was_handed_over_to_somebody_cancelled_goes_on() -> None:
    """Woken and cancelled in the same moment: the place is not lost."""
    held = Held()
    app = ConcurrencyLimit(held, limit=1, queue=5, clock=ManualClock())
    inside = request()
    task = inside.start(app)
    await until(lambda: held.inside == 1)
    waiter = request()
    waiting = waiter.start(app)
    await until(lambda: app.gate.waiting == 1)
    task.cancel()
    await until(lambda: app.gate.waiting == 0)  # the waiter has the place, and has not run yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert app.gate.in_flight == 0
    held.let_go()
    assert (await start(app, request())).status == 200


async def test_websockets_lifespan_and_exempt_paths_are_not_counted() -> None:
    """They pass, also when no place is left."""
    held = Held()
    app = ConcurrencyLimit(held, limit=1, queue=0, exempt=["/livez"])
    full = start(app, request())
    await until(lambda: held.inside == 1)
    probe = start(app, request(path="/livez"))
    await until(lambda: held.inside == 2)
    seen: list[str] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    passing = ConcurrencyLimit(note, limit=1)
    for kind in ("websocket", "lifespan"):
        await passing({"type": kind, "path": "/"}, Connection({}).receive, Connection({}).send)
    assert seen == ["websocket", "lifespan"]
    assert passing.gate.in_flight == 0
    held.let_go()
    assert (await full).status == (await probe).status == 200


# ------------------------------------------------------------------------------------------------------------- adaptive


def failing(error: BaseException | None, status: int = 200) -> App:
    """An application that raises, or answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if error is not None:
            raise error
        await answering(status)(scope, receive, send)

    return app


@pytest.mark.parametrize(
    ("error", "status", "falls"),
    [
        (None, 503, True),
        (None, 504, True),
        (TimeoutError(), 0, True),
        (Overloaded("x"), 0, True),
        (LoadShed("x"), 0, True),
        (None, 200, False),
        (None, 404, False),
        (None, 429, False),
        (None, 500, False),
        (ValueError(), 0, False),
        (Conflict("x"), 0, False),
        (asyncio.CancelledError(), 0, False),
    ],
)
async def test_what_makes_the_limit_fall(error: BaseException | None, status: int, falls: bool) -> None:
    """503, 504, and the errors that say so; nothing else."""
    hook = RecordingHook()
    app = ConcurrencyLimit(failing(error, status), limit=100, least=10, events=hook.stream)
    await start(app, request())
    assert app.gate.limit == (90 if falls else 100)
    assert [(e.old, e.new) for e in hook.of(LimitChanged)] == ([(100, 90)] if falls else [])


async def test_a_deadline_that_cancels_is_a_drop() -> None:
    """The task is cancelled by it and does not see its error."""
    clock = ManualClock()
    app = ConcurrencyLimit(failing(asyncio.CancelledError()), limit=100, least=10, clock=clock)
    with within(0.0, clock=clock):
        await start(app, request())
    assert app.gate.limit == 90


@pytest.mark.parametrize(
    ("headers", "took_s", "falls"),
    [
        ({}, 4, True),
        ({"X-Request-Timeout-Ms": "9000"}, 4, True),
        ({"X-Request-Timeout-Ms": "30"}, 1, False),
        ({"X-Request-Timeout-Ms": "30"}, 5, True),
    ],
)
@pytest.mark.parametrize("how", [DeadlineExceeded("x"), TimeoutError(), 504], ids=["refused", "timeout", "answered"])
async def test_nobody_shrinks_the_limit_by_giving_no_time(
    headers: dict[str, str], took_s: float, falls: bool, how: Exception | int
) -> None:
    """A time that its caller chose says nothing of the service, unless it had half of the service's own 8 s."""
    clock = ManualClock()

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        clock.advance(took_s)
        if isinstance(how, Exception):
            raise how
        await answering(how)(scope, receive, send)

    limit = ConcurrencyLimit(work, limit=100, least=10, clock=clock)
    connection = Connection(http_scope("POST", "/", headers))
    connection.start(Deadline(limit, maximum=8, clock=clock))
    await connection.answer()
    assert limit.gate.limit == (90 if falls else 100)


async def test_an_overload_counts_whoever_found_it() -> None:
    """It is the service that says so, however little time it was given."""
    clock = ManualClock()
    limit = ConcurrencyLimit(failing(Overloaded("x")), limit=100, least=10, clock=clock)
    connection = Connection(http_scope("POST", "/", {"X-Request-Timeout-Ms": "30"}))
    connection.start(Deadline(limit, maximum=8, clock=clock))
    await connection.answer()
    assert limit.gate.limit == 90


class Working:
    """An application that answers with `status`, and goes on until it is let go; then it fails with `error`."""

    def __init__(self, status: int = 200, error: Exception | None = None) -> None:
        self.status = status
        self.error = error
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answering(self.status)(scope, receive, send)
        await self.go.wait()
        if self.error is not None:
            raise self.error


async def test_work_after_the_answer_takes_no_place_and_is_waited_for_at_the_end() -> None:
    """The next request has the only place while a background task goes on; the drain counts both."""
    working, drain = Working(), Drain()
    limit = ConcurrencyLimit(working, limit=1, queue=0)
    app = Draining(limit, drain=drain, watch_signals=False)
    first, second = request(), request()
    first.start(app)
    await until(lambda: first.so_far.complete)
    second.start(app)
    await until(lambda: second.so_far.complete)
    assert (first.so_far.status, second.so_far.status) == (200, 200)
    assert (limit.gate.in_flight, drain.in_flight) == (0, 2)
    working.go.set()
    for connection in (first, second):
        assert (await connection.answer()).error is None
    assert (limit.gate.in_flight, drain.in_flight) == (0, 0)


@pytest.mark.parametrize(("status", "limit_then"), [(200, 100), (404, 100), (503, 90)])
async def test_what_comes_after_a_good_answer_says_nothing(status: int, limit_then: int) -> None:
    """A background task that runs out of time is no drop; after a 503 there is nothing good to keep."""
    working = Working(status, TimeoutError())
    working.go.set()
    limit = ConcurrencyLimit(working, limit=100, least=10)
    assert isinstance((await start(limit, request())).error, TimeoutError)
    assert (limit.gate.limit, limit.gate.in_flight) == (limit_then, 0)


async def test_an_answer_in_pieces_has_its_place_until_the_last_of_them() -> None:
    """A stream that goes on is still being served."""
    go = asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await go.wait()
        await send({"type": "http.response.body", "body": b"b"})

    limit = ConcurrencyLimit(stream, limit=1, queue=0)
    first = request()
    task = start(limit, first)
    await until(lambda: len(first.so_far.messages) == 2)
    assert (await start(limit, request())).status == 503
    go.set()
    assert (await task).body == b"ab"
    assert limit.gate.in_flight == 0


async def test_the_latency_is_that_of_the_answer() -> None:
    """What a request takes, by which those who are refused are told to come again, has no background task in it."""
    clock = ManualClock()

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        clock.advance(2)
        await answering()(scope, receive, send)
        clock.advance(100)

    limit = ConcurrencyLimit(work, limit=10, clock=clock)
    for _ in range(10):  # a round
        await start(limit, request())
    assert limit._aimd.latency_s == pytest.approx(2)


async def test_the_limit_never_leaves_its_bounds_and_comes_back() -> None:
    """It stops at `least`, and successes that use the half of it bring it up again."""
    status = [503]

    async def work(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)  # noqa: TID251 - gives way, waits for no time
        await answering(status[0])(scope, receive, send)

    app = ConcurrencyLimit(work, limit=20, least=5, queue=0, tenant=None)
    for _ in range(50):
        await start(app, request())
    assert app.gate.limit == 5
    status[0] = 200
    for _ in range(100):
        await asyncio.gather(*(start(app, request()) for _ in range(25)))
    assert app.gate.limit == 20


async def test_a_fixed_limit_stays() -> None:
    """Whatever is answered."""
    app = ConcurrencyLimit(failing(None, 503), limit=10)
    for _ in range(30):
        await start(app, request())
    assert app.gate.limit == 10


async def test_dark_lets_everybody_in_and_tells() -> None:
    """Four requests at a limit of two: all run, and two would have been refused. Off counts nothing."""
    hook, held = RecordingHook(), Held()
    app = ConcurrencyLimit(held, limit=2, queue=5, mode="dark", events=hook.stream)
    tasks = [start(app, request()) for _ in range(4)]
    await until(lambda: held.inside == 4)
    assert [(event.name, event.limit, event.dark) for event in hook.of(CallShed)] == [("requests", 2, True)] * 2
    off = ConcurrencyLimit(held, limit=1, mode="off")
    tasks += [start(off, request()) for _ in range(3)]
    await until(lambda: held.inside == 7)
    held.let_go()
    assert [(await task).status for task in tasks] == [200] * 7
    assert off.gate.in_flight == app.gate.in_flight == 0


async def test_retry_after_grows_with_those_who_were_refused() -> None:
    """By the time a request takes: the hundredth in that time is told to come later than the first; never beyond 30 s."""
    clock, hook, held = ManualClock(), RecordingHook(), Held()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/held":
            await held(scope, receive, send)
        else:
            clock.advance(4)
            await answering()(scope, receive, send)

    app = ConcurrencyLimit(slow, limit=10, queue=0, tenant=None, clock=clock, events=hook.stream)
    for _ in range(10):
        await start(app, request())
    inside = [start(app, request(path="/held")) for _ in range(10)]
    await until(lambda: held.inside == 10)
    for _ in range(100):
        assert (await start(app, request(path="/held"))).status == 503
    told = [event.retry_after_s for event in hook.of(CallShed)]
    assert told == sorted(told)
    assert told[0] == pytest.approx(4.4)
    assert told[-1] == 30
    held.let_go()
    await asyncio.gather(*inside)


# ----------------------------------------------------------------------------------------------------------- priorities


async def fill(app: ConcurrencyLimit, held: Held, path: str, count: int) -> tuple[list[asyncio.Task[Answer]], int]:
    """Send requests one after the other; the tasks, and how many got in."""
    before = held.inside
    tasks = []
    for _ in range(count):
        tasks.append(start(app, request(path=path)))
        for _ in range(6):
            await asyncio.sleep(0)  # noqa: TID251 - gives way, waits for no time
    return tasks, held.inside - before


async def test_batch_is_shed_first_and_nobody_starves() -> None:
    """Of 20 places batch gets half, normal what is not kept for the others, critical the rest: each has its guarantee."""
    held = Held()
    priority = Priorities({"/pay": Priority.CRITICAL, "/export/{name}": Priority.BATCH})
    app = ConcurrencyLimit(held, limit=20, queue=0, priority=priority, tenant=None)
    batch, in_batch = await fill(app, held, "/export/users", 30)
    normal, in_normal = await fill(app, held, "/orders", 30)
    critical, in_critical = await fill(app, held, "/pay", 30)
    assert (in_batch, in_normal, in_critical) == (10, 6, 4)  # 4 kept for critical, 6 for normal
    held.let_go()
    assert [(await task).status for task in [*batch, *normal, *critical]].count(200) == held.most == 20

    held = Held()
    app = ConcurrencyLimit(held, limit=20, queue=0, priority=priority, tenant=None)
    normal, in_normal = await fill(app, held, "/orders", 30)
    batch, in_batch = await fill(app, held, "/export/users", 30)
    assert (in_normal, in_batch) == (15, 1)  # 4 kept for critical, 1 for batch
    held.let_go()
    await asyncio.gather(*normal, *batch)


async def test_without_priorities_nothing_is_kept_free() -> None:
    """All requests are alike: every place is theirs."""
    held = Held()
    app = ConcurrencyLimit(held, limit=20, queue=0, tenant=None)
    tasks, admitted = await fill(app, held, "/", 25)
    assert admitted == 20
    held.let_go()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("path", "header", "permitted", "expected"),
    [
        ("/pay", None, False, Priority.CRITICAL),
        ("/export/1", None, False, Priority.BATCH),
        ("/export/mine", None, False, Priority.NORMAL),
        ("/Export/MINE", None, False, Priority.BATCH),
        ("//export/1/", None, False, Priority.BATCH),
        ("/PAY", None, False, Priority.NORMAL),
        ("/pay/", None, False, Priority.NORMAL),
        ("/other", None, False, Priority.NORMAL),
        ("/other", b"batch", False, Priority.BATCH),
        ("/pay", b" Batch ", False, Priority.BATCH),
        ("/other", b"critical", False, Priority.NORMAL),
        ("/export/1", b"critical", False, Priority.BATCH),
        ("/other", b"critical", True, Priority.CRITICAL),
        ("/export/1", b"normal", True, Priority.NORMAL),
        ("/other", b"urgent", True, Priority.NORMAL),
        ("/other", b"critical" + b" " * 100_000, True, Priority.NORMAL),
    ],
)
def test_priorities(path: str, header: bytes | None, permitted: bool, expected: Priority) -> None:
    """The route says it, in doubt the less; everybody may ask for less, and only who has the permission for more."""
    routes = {"/pay": Priority.CRITICAL, "/export/mine": Priority.NORMAL, "/export/{id}": Priority.BATCH}
    priorities = Priorities(routes, header="X-Priority")
    scope = http_scope("GET", path, [] if header is None else [(b"x-priority", header)])
    context = context_of(scope)
    context.permissions = frozenset({"priority"}) if permitted else frozenset()
    assert priorities(scope, context) is expected


async def test_the_more_important_takes_a_place_in_a_full_queue() -> None:
    """A critical request displaces a batch request that waits, and goes first."""
    clock, held = ManualClock(), Held()
    priority = Priorities({"/pay": Priority.CRITICAL, "/export": Priority.BATCH})
    app = ConcurrencyLimit(held, limit=1, queue=1, priority=priority, tenant=None, clock=clock)
    inside = start(app, request())
    await until(lambda: held.inside == 1)
    batch = start(app, request(path="/export"))
    await until(lambda: app.gate.waiting == 1)
    assert (await start(app, request(path="/export"))).status == 503
    critical = start(app, request(path="/pay"))
    assert (await batch).status == 503
    assert app.gate.waiting == 1
    held.let_go()
    assert (await critical).status == (await inside).status == 200


# -------------------------------------------------------------------------------------------------------------- tenants


async def test_alone_a_tenant_has_everything_and_beside_others_its_share() -> None:
    """Ten places: alone all ten; once another came, no more than five; ten seconds after it left, all again."""
    clock, held = ManualClock(), Held()
    app = ConcurrencyLimit(held, limit=10, queue=0, clock=clock)
    tasks = [start(app, request("a")) for _ in range(10)]
    await until(lambda: held.inside == 10)
    other = await start(app, request("b"))
    assert other.status == 503
    held.let_go()
    await asyncio.gather(*tasks)

    held._go.clear()
    tasks = [start(app, request("a")) for _ in range(10)]
    await until(lambda: held.inside == 5)
    assert [(await task).status for task in tasks[5:]] == [503] * 5
    tasks += [start(app, request("b")) for _ in range(5)]
    await until(lambda: held.inside == 10)

    clock.advance(10)
    held.let_go()
    await asyncio.gather(*tasks)
    held._go.clear()
    tasks = [start(app, request("a")) for _ in range(10)]
    await until(lambda: held.inside == 10)
    held.let_go()
    await asyncio.gather(*tasks)


async def test_the_queue_serves_the_tenant_with_the_fewest_inside() -> None:
    """A tenant's place in the queue does not wait for all of another's."""
    held, clock = Held(), ManualClock()
    order: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        order.append(context_of(scope).tenant or "")
        await held(scope, receive, send)

    limited = ConcurrencyLimit(app, limit=2, queue=4, clock=clock)
    inside = [request("a") for _ in range(2)]
    running = [connection.start(limited) for connection in inside]
    await until(lambda: held.inside == 2)
    waiting = [start(limited, request("a")) for _ in range(2)]
    await until(lambda: limited.gate.waiting == 2)
    late = start(limited, request("b"))
    await until(lambda: limited.gate.waiting == 3)
    running[0].cancel()
    await until(lambda: len(order) == 3)
    assert order == ["a", "a", "b"]
    held.let_go()
    assert {(await task).status for task in [*waiting, late]} == {200}


@pytest.mark.parametrize(
    "settings",
    [
        {"limit": 0},
        {"limit": 10, "least": 10},
        {"limit": 10, "least": 0},
        {"queue": -1},
        {"mode": "maybe"},
        {"max_wait": -1},
        {"tenant_share": 0},
        {"tenant_share": 1.5},
        {"priority": Priorities(), "shares": {Priority.CRITICAL: 1.0}},
    ],
)
def test_planted_settings_are_refused(settings: dict[str, Any]) -> None:
    """Outside of their bounds, where they are given."""
    with pytest.raises(ConfigurationError):
        ConcurrencyLimit(answering(), **settings)
