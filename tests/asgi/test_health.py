"""The probes' endpoints: what they answer, and what they never say."""

from __future__ import annotations

import json
import logging
from functools import partial

import pytest

from holdfast.asgi.access_log import AccessLog
from holdfast.asgi.health import HealthEndpoints
from holdfast.asgi.interface import Message, Receive, Scope, Send
from holdfast.asgi.stack import Place, Stack
from holdfast.errors import ConfigurationError
from holdfast.health import Finding, Health, HealthCheck
from holdfast.shutdown import Drain
from holdfast.testing import ManualClock
from tests.asgi.asgi_calls import answering, call, run_lifespan

MEMBERS = {"state", "alive", "started", "draining", "checks"}


class Switch:
    """A check that finds what it was set to."""

    def __init__(self) -> None:
        self.finding = Finding.OK
        self.calls = 0

    async def look(self) -> Finding:
        self.calls += 1
        return self.finding


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def health(clock: ManualClock, switch: Switch) -> Health:
    return Health([HealthCheck("db", switch.look, cache_for=0, fails_after=1, recovers_after=1)], clock=clock)


@pytest.fixture
def drain(clock: ManualClock) -> Drain:
    return Drain(clock=clock)


@pytest.fixture
def app(health: Health, drain: Drain) -> HealthEndpoints:
    return HealthEndpoints(answering(418), health, drain=drain)


@pytest.mark.parametrize(
    ("finding", "status", "state"),
    [(Finding.OK, 200, "ready"), (Finding.DEGRADED, 200, "degraded"), (Finding.FAILED, 503, "not-ready")],
)
@pytest.mark.parametrize("path", ["/readyz", "/healthz"])
async def test_ready_says_what_the_checks_found(
    app: HealthEndpoints, switch: Switch, path: str, finding: Finding, status: int, state: str
) -> None:
    """Degraded still gets traffic; not ready says when to come back; nothing is cached, the shape is the same."""
    switch.finding = finding
    answer = await call(app, "GET", path)
    assert answer.status == status
    assert answer.json["state"] == state
    assert answer.json.keys() == MEMBERS
    assert answer.header("cache-control") == "no-store"
    assert answer.header("content-type") == "application/json"
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.header("retry-after") == (None if status == 200 else "5")


async def test_draining_is_not_ready_but_alive(app: HealthEndpoints, drain: Drain, switch: Switch) -> None:
    """From the first moment of the end on no new traffic is wanted, and nobody restarts what ends by itself."""
    drain.begin()
    answer = await call(app, "GET", "/readyz")
    assert (answer.status, answer.json["draining"], answer.json.keys()) == (503, True, MEMBERS)
    assert (await call(app, "GET", "/livez")).status == 200
    assert switch.calls == 0


async def test_alive_depends_on_nothing(app: HealthEndpoints, health: Health, switch: Switch) -> None:
    """A lost database restarts nobody; only what cannot recover by itself does."""
    switch.finding = Finding.FAILED
    answer = await call(app, "GET", "/livez")
    assert (answer.status, answer.json, switch.calls) == (200, {"alive": True}, 0)
    health.report_broken("the interpreter is out of threads")
    answer = await call(app, "GET", "/livez")
    assert (answer.status, answer.json) == (503, {"alive": False})
    assert (await call(app, "GET", "/readyz")).status == 503


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_head_is_get_without_a_body(app: HealthEndpoints, path: str) -> None:
    """Status and headers are those of GET."""
    get, head = await call(app, "GET", path), await call(app, "HEAD", path)
    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")


async def test_other_methods_are_refused(app: HealthEndpoints) -> None:
    """A probe only asks."""
    answer = await call(app, "POST", "/readyz")
    assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")


async def test_everything_else_passes(app: HealthEndpoints) -> None:
    """Other paths, also those that only look alike, belong to the application."""
    for path in ("/", "/readyz/", "/readyzz", "/api/livez"):
        assert (await call(app, "GET", path)).status == 418


async def test_paths_are_chosen(health: Health) -> None:
    """Other names can be given, and a path can be left to the application."""
    app = HealthEndpoints(answering(418), health, drain=Drain(), live="/alive", ready="/-/ready", healthz=None)
    assert [(await call(app, "GET", path)).status for path in ("/alive", "/-/ready", "/healthz", "/livez")] == [
        200,
        200,
        418,
        418,
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"live": "/x", "ready": "/x"}, "differ"), ({"live": "x"}, "begin with /"), ({"retry_after": 0}, "1 second")],
)
def test_wrong_settings_are_refused(health: Health, settings: dict[str, object], message: str) -> None:
    """They fail where they are given."""
    with pytest.raises(ConfigurationError, match=message):
        HealthEndpoints(answering(), health, **settings)  # type: ignore[arg-type]


async def test_starting_ends_when_the_application_has_come_up(clock: ManualClock) -> None:
    """Before `lifespan.startup.complete` it is not ready, afterwards it is."""
    health = Health(started=False, clock=clock)
    seen: list[int] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        seen.append((await call(app, "GET", "/readyz")).status)
        await send({"type": "lifespan.startup.complete"})
        seen.append((await call(app, "GET", "/readyz")).status)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    app = HealthEndpoints(inner, health, drain=Drain(clock=clock))
    assert await run_lifespan(app) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert seen == [503, 200]


async def test_security_health_detail_holds_no_secret(clock: ManualClock) -> None:
    """Whatever a check raises, the body holds names, states and ages only."""

    async def fail() -> None:
        raise ConnectionError("mysql://app:hunter2@db1:3306/shop refused")

    health = Health([HealthCheck("db", fail)], clock=clock)
    answer = await call(HealthEndpoints(answering(), health, drain=Drain()), "GET", "/readyz")
    said = json.dumps(answer.json) + repr(answer.headers)
    assert not any(word in said for word in ("hunter2", "db1", "3306", "ConnectionError", "refused"))


def test_it_has_a_place(health: Health) -> None:
    """The stack knows where it stands."""
    assert HealthEndpoints.place is Place.HEALTH
    assert Stack(answering(), partial(HealthEndpoints, health=health)).names == ("HealthEndpoints",)


async def test_passing_sends_every_message(health: Health) -> None:
    """A lifespan of a started health is the application's own business."""
    said: list[Message] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    await HealthEndpoints(inner, health)({"type": "lifespan"}, receive, send)
    assert said == [{"type": "lifespan.startup.complete"}]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
async def test_a_server_with_a_root_path_serves_them_below_it(app: HealthEndpoints, path: str) -> None:
    """As uvicorn hands it in: the path with the root in front. What is asked for without it is found as well."""
    for asked in (f"/api{path}", path):
        assert (await call(app, "GET", asked, root_path="/api")).status == 200
    assert (await call(app, "GET", f"/apis{path}", root_path="/api")).status == 418


async def test_the_access_log_names_them(health: Health, drain: Drain, caplog: pytest.LogCaptureFixture) -> None:
    """Probes come every second, and must not look like somebody who tries out paths."""
    caplog.set_level(logging.INFO)
    await call(AccessLog(HealthEndpoints(answering(418), health, drain=drain)), "GET", "/readyz")
    assert [record.msg["route"] for record in caplog.records if isinstance(record.msg, dict)] == ["/readyz"]
