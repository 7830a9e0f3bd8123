"""Several applications in one process: the end of one is its own, a signal and the end of the last are everybody's."""

from __future__ import annotations

import asyncio
import gc
import signal
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from holdfast.asgi.draining import Draining
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.ext.fastapi import EdgeSettings, install
from holdfast.ext.uvicorn import Server
from holdfast.health import HealthCheck
from holdfast.shutdown import Drain, DrainSettings, Part, Phase, current_drain, draining
from holdfast.testing import ManualClock

from .asgi_calls import Connection, answering, call, http_scope, run_lifespan, until
from .test_draining import Hung, Life, living

Make = Callable[[str], FastAPI]


class Base:
    """A database that remembers how often it was closed."""

    def __init__(self, name: str, closed: list[str]) -> None:
        self.name = name
        self.closed = closed

    def health_checks(self) -> tuple[HealthCheck, ...]:
        return ()

    async def close(self) -> None:
        self.closed.append(self.name)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def drain(clock: ManualClock) -> Drain:
    return Drain(DrainSettings(lame_duck=0, finish=15, cancel=2), clock=clock)


@pytest.fixture
def closed() -> list[str]:
    """The databases that were closed, in order."""
    return []


@pytest.fixture
def service(drain: Drain, closed: list[str]) -> Make:
    """Makes an application with the edge around it, which waits in `/told` until it is told of the end."""

    def make(name: str) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            if name == "broken":
                raise ValueError
            yield
            closed.append(f"{name} itself")

        app = FastAPI(lifespan=lifespan)

        @app.get("/told")
        async def told() -> None:
            await draining()

        install(app, Base(name, closed), EdgeSettings(), drain=drain)
        return app

    return make


async def lives(*apps: FastAPI | Draining) -> list[Life]:
    """The lifespans of `apps`, started."""
    found = [Life(app) for app in apps]
    for life in found:
        await life.started()
    return found


async def ended(life: Life) -> None:
    """Its end."""
    life.shut_down()
    await life.task


async def is_serving(app: FastAPI) -> bool:
    """Whether it is ready, and its answers leave connections open."""
    ready, other = await call(app, path="/readyz"), await call(app, path="/no")
    return (ready.status, other.header("connection")) == (200, None)


async def test_the_end_of_one_leaves_the_others_alone(drain: Drain, closed: list[str], service: Make) -> None:
    """Its own database is closed, nobody else's; the process goes on until the last one has ended."""
    drain.on_close("redis", lambda: closed.append("redis"))
    public, admin = service("public"), service("admin")
    first, second = await lives(public, admin)
    await ended(second)
    assert closed == ["admin itself", "admin"]
    assert await is_serving(public)
    assert not await is_serving(admin)
    assert not drain.is_draining
    await ended(first)
    assert closed == ["admin itself", "admin", "public itself", "public", "redis"]
    assert drain.phase is Phase.DONE


async def test_only_its_own_requests_are_told_and_waited_for(drain: Drain, service: Make) -> None:
    """An answer that ends with the application ends; one of another application goes on."""
    public, admin = service("public"), service("admin")
    first, second = await lives(public, admin)
    connections = [Connection(http_scope(path="/told")) for _ in range(2)]
    for app, connection in zip((public, admin), connections, strict=True):
        connection.start(app)
    await until(lambda: drain.in_flight == 2)
    await ended(second)
    assert (await connections[1].answer()).header("connection") == "close"
    assert (drain.in_flight, connections[0].so_far.messages) == (1, [])
    await ended(first)
    assert (await connections[0].answer()).status == 200


async def test_what_takes_too_long_is_cancelled_where_it_belongs(drain: Drain, clock: ManualClock) -> None:
    """The limits are those of the process, and hold for the application alone."""
    hung = [Hung(), Hung()]
    apps = [Draining(living([], one), drain=drain) for one in hung]
    _, second = await lives(*apps)
    connections = [Connection(http_scope()) for _ in apps]
    tasks = [connection.start(app) for connection, app in zip(connections, apps, strict=True)]
    await until(lambda: drain.in_flight == 2)
    second.shut_down()
    await until(lambda: apps[1].part.phase is Phase.FINISHING and clock.waiting == 1)
    clock.advance(15)
    await second.task
    assert (await connections[1].answer()).status == 503
    assert [one.cleaned for one in hung] == [0, 1]
    tasks[0].cancel()


async def test_at_a_signal_all_are_told_and_each_closes_its_own(drain: Drain, closed: list[str], service: Make) -> None:
    """While the first one closes, the other may still need its database."""
    drain.on_flush("outbox", lambda: closed.append("flushed"))
    public, admin = service("public"), service("admin")
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        first, second = await lives(public, admin)
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: drain.is_draining)
        assert not await is_serving(public)
        assert not await is_serving(admin)
        await ended(first)
        assert closed == ["public itself", "public"]
        await ended(second)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert closed[2:] == ["flushed", "admin itself", "admin"]


async def test_both_end_at_once(drain: Drain, closed: list[str], service: Make) -> None:
    """The rest is done once, by whoever is last."""
    drain.on_close("redis", lambda: closed.append("redis"))
    both = await lives(service("public"), service("admin"))
    await asyncio.gather(*(ended(one) for one in both))
    assert sorted(closed) == ["admin", "admin itself", "public", "public itself", "redis"]
    assert closed[-1] == "redis"
    assert drain.phase is Phase.DONE


async def test_one_application_after_the_other_closes_its_own(drain: Drain, closed: list[str], service: Make) -> None:
    """As in tests with a fixture: nothing piles up, and nothing that is gone is kept."""
    gone = []
    for name in ("first", "second"):
        app = service(name)
        gone.append(weakref.ref(app))
        assert await is_serving(app)  # also before its start, though the drain was over
        for _ in range(2):
            await run_lifespan(app)
        del app
    assert [name for name in closed if "itself" not in name] == ["first", "first", "second", "second"]
    gc.collect()
    assert [one() for one in gone] == [None, None]
    assert drain.longest_s == 0 + 15 + 2 + 2


async def test_an_application_may_be_started_twice(drain: Drain, closed: list[str], service: Make) -> None:
    """Its things end with its last run."""
    app = service("public")
    first, second = await lives(app, app)
    await ended(second)
    assert closed == ["public itself"]
    assert await is_serving(app)
    await ended(first)
    assert closed == ["public itself"] * 2 + ["public"]


async def test_one_that_does_not_start_is_over(drain: Drain, closed: list[str], service: Make) -> None:
    """What it opened is closed, others go on, and it is not waited for at the end."""
    public, broken = service("public"), service("broken")
    (first,) = await lives(public)
    with suppress(ValueError):
        await Life(broken).task
    assert closed == ["broken"]
    assert await is_serving(public)
    await ended(first)
    assert (closed, drain.phase) == (["broken", "public itself", "public"], Phase.DONE)


@pytest.mark.parametrize("is_asked", [True, False])
async def test_a_mounted_application_ends_with_the_outer_one(
    drain: Drain, closed: list[str], service: Make, is_asked: bool
) -> None:
    """Nobody runs its lifespan; what it has is closed all the same, each time."""
    inner = service("inner")
    app = Draining(Starlette(routes=[Mount("/inner", inner)]), drain=drain)
    for _ in range(2):
        (life,) = await lives(app)
        if is_asked:
            answer = await call(app, path="/inner/readyz")
            assert (answer.status, answer.header("connection")) == (200, None)
        await ended(life)
        assert not is_asked or not await is_serving(inner)
    assert closed == (["inner"] * 2 if is_asked else ["inner"])


async def test_a_mounted_application_that_was_asked_ends_with_the_outer_one_alone(
    drain: Drain, closed: list[str], service: Make
) -> None:
    """Though others run."""
    app = Draining(Starlette(routes=[Mount("/inner", service("inner"))]), drain=drain)
    outer, _ = await lives(app, service("public"))
    assert (await call(app, path="/inner/readyz")).status == 200
    await ended(outer)
    assert closed == ["inner"]


async def test_an_application_may_be_given_its_part(drain: Drain, closed: list[str], service: Make) -> None:
    """What was registered on it where the application was made ends with it."""
    part, app = Part(drain), FastAPI()
    part.on_close("keys", lambda: closed.append("keys"))
    install(app, Base("admin", closed), EdgeSettings(), drain=part)
    admin, _ = await lives(app, service("public"))
    await ended(admin)
    assert closed == ["admin", "keys"]
    assert not drain.is_draining


async def test_what_an_application_registers_inside_is_its_own(drain: Drain) -> None:
    """In its lifespan and its requests `current_drain` is its part of the process's."""
    seen: list[Drain] = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(current_drain())
        await (living([]) if scope["type"] == "lifespan" else answering())(scope, receive, send)

    app = Draining(noting, drain=drain)
    (life,) = await lives(app)
    await asyncio.create_task(call(app))
    assert seen == [app.part] * 2
    assert isinstance(seen[0], Part)
    assert seen[0].whole is drain
    await ended(life)


@pytest.mark.parametrize("is_last", [False, True])
async def test_a_server_that_stops_without_a_signal_ends_its_own(
    closed: list[str], drain: Drain, service: Make, is_last: bool
) -> None:
    """Two servers in one loop: each stops for itself."""
    drain = Drain(DrainSettings(lame_duck=0, finish=15, cancel=2))
    apps = [FastAPI(), FastAPI()]
    for name, app in zip(("public", "admin"), apps, strict=True):
        install(app, Base(name, closed), EdgeSettings(), drain=drain)
    async with asyncio.timeout(30):
        servers = [served(app, drain) for app in (apps[1:] if is_last else apps)]
        await until_started(server for server, _ in servers)
        server, task = servers.pop()
        server.should_exit = True
        await task
        assert closed == ["admin", *(["public"] if is_last else [])]
        assert (drain.phase is Phase.DONE) is is_last
        for server, task in servers:
            assert await is_serving(apps[0])
            server.should_exit = True
            await task
    assert sorted(closed) == ["admin", "public"]
    assert drain.phase is Phase.DONE


def served(app: FastAPI, drain: Drain) -> tuple[Server, asyncio.Task[None]]:
    """A server of `app`, starting."""
    server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None), drain=drain)
    server.capture_signals = suppress  # type: ignore[method-assign,assignment] # signals are the test runner's
    return server, asyncio.create_task(server.serve())


async def until_started(servers: Iterable[Server]) -> None:
    """Wait for all of `servers`."""
    for server in servers:
        while not server.started:  # noqa: ASYNC110 - uvicorn tells by an attribute
            await asyncio.sleep(0.01)  # noqa: TID251 - a real server takes real time
