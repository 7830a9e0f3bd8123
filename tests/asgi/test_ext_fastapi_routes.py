"""What a route says about itself by `edge(...)` holds, or is refused."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: TID251 - to see it refused

from holdfast.asgi.authentication import Principal
from holdfast.asgi.interface import Scope
from holdfast.asgi.problems import Problem
from holdfast.asgi.quotas import Quota
from holdfast.deadline import current_deadline
from holdfast.errors import ConfigurationError
from holdfast.ext.fastapi import EdgeSettings, edge, install, require
from holdfast.ext.sqlalchemy import AsyncDatabase, Database
from holdfast.ext.sqlalchemy.idempotency import SqlIdempotency
from holdfast.shutdown import Drain

from .asgi_calls import call, run_lifespan, until
from .edge_doubles import Kept, nothing
from .log_capture import log_of


class Taken(Exception):
    """An error of the application's own."""


class Overrides:
    """An application whose routes differ."""

    def __init__(self, **settings: Any) -> None:
        self.calls = 0
        self.permissions = frozenset({"pay"})
        router = APIRouter(prefix="/v1")

        @router.get("/patient", **edge(deadline=30))
        @router.get("/hasty", **edge(deadline=0.5))
        @router.get("/plain")
        async def left() -> float:
            deadline = current_deadline()
            assert deadline is not None
            return deadline.remaining_s()

        @router.get("/rare", **edge(quota=Quota("rare", rate=1, per=3600, burst=2)))
        @router.get("/rare/{name}")
        async def rare() -> None: ...

        @router.get("/fails")
        @router.post("/fails", **edge(retry=True))
        @router.put("/fails", **edge(retry=False))
        async def fails() -> None:
            self.calls += 1
            raise ConnectionError

        @router.get("/inner/{path:path}", **edge(allowlist="inner"))
        @router.get("/nobody", **edge(allowlist=()))
        async def inner(path: str = "") -> None: ...

        @router.post("/pay", **edge(permission="pay"))
        async def pay() -> str:
            self.calls += 1
            return "paid"

        @router.get("/taken")
        async def taken() -> None:
            raise Taken("by ada")

        self.app = FastAPI()
        self.app.include_router(router)
        problems: dict[type[Exception], Any] = {Taken: lambda error: Problem(409, "taken", detail=f"Taken {error}.")}
        given = {
            "deadline_s": 10,
            "attempts": 3,
            "networks": {"inner": ("192.0.2.0/28",)},
            "rate_per_s": 1000,
            **settings,
        }
        install(
            self.app,
            None,
            EdgeSettings(**given),
            authenticator=self,
            idempotency=Kept(),
            problems=problems,
            drain=Drain(),
        )

    challenge = "Bearer"

    async def authenticate(self, scope: Scope, /) -> Principal | None:
        """Everybody is ada, and may what is allowed at the moment."""
        return Principal("ada", "here", "t", self.permissions)


async def test_deadline_of_a_route_beats_the_settings() -> None:
    """Longer or shorter; all others have that of the settings, and a client may still ask for less."""
    app = Overrides().app
    assert 20 < (await call(app, "GET", "/v1/patient")).json <= 30
    assert (await call(app, "GET", "/v1/hasty")).json <= 0.5 < (await call(app, "GET", "/v1/plain")).json <= 10
    assert (await call(app, "GET", "/v1/patient", {"X-Request-Timeout-Ms": "2000"})).json <= 2


async def test_quota_of_a_route_counts_that_route_alone() -> None:
    """Beside the service's own, and first."""
    app = Overrides().app
    answers = [await call(app, "GET", "/v1/rare") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[2].json["violated-policies"] == ["rare"]
    other = await call(app, "GET", "/v1/rare/other")
    assert (other.status, (other.header("ratelimit") or "")[:8]) == (200, '"client"')


async def test_retry_of_a_route_beats_its_method() -> None:
    """A POST may be run again where its author says so, a PUT is not where its author says so."""
    counted = Overrides()
    for method, calls in (("GET", 3), ("POST", 3), ("PUT", 1)):
        counted.calls = 0
        assert (await call(counted.app, method, "/v1/fails")).status == 500
        assert counted.calls == calls, method


async def test_allowlist_of_a_route_covers_every_spelling() -> None:
    """By the name of networks, for a path and all below it; a route for nobody is closed."""
    app = Overrides().app
    assert (await call(app, "GET", "/v1/inner/a/b")).status == 200
    for path in ("/v1/inner/a/b", "/v1//Inner/a"):
        assert (await call(app, "GET", path, client=("192.0.2.77", 1))).status == 403
    assert (await call(app, "GET", "/v1/nobody")).status == 403


async def test_stored_answer_needs_the_permission_of_its_route() -> None:
    """Whose permission is gone gets 403, and no byte of what was answered."""
    counted = Overrides()
    key = {"Idempotency-Key": "k"}
    answers = [await call(counted.app, "POST", "/v1/pay", key) for _ in range(2)]
    counted.permissions = frozenset()
    refused = await call(counted.app, "POST", "/v1/pay", key)
    assert [answer.status for answer in (*answers, refused)] == [200, 200, 403]
    assert answers[1].header("idempotency-replayed") == "true"
    assert b"paid" not in refused.body
    assert counted.calls == 1


@pytest.mark.parametrize("where", ["route", "nested", "router", "application"])
async def test_stored_answer_needs_what_the_dependencies_of_its_route_ask_for(where: str) -> None:
    """`require` counts wherever it stands: at the route, inside another dependency, at a router, at the application."""
    asked = [Depends(require("pay"))]

    async def nested(_: Annotated[Principal, Depends(require("pay"))]) -> None: ...

    who = Overrides(deadline_s=1)
    app = FastAPI(dependencies=asked if where == "application" else [])
    router = APIRouter(dependencies=asked if where == "router" else [])
    at_route = {"route": asked, "nested": [Depends(nested)]}.get(where, [])

    @router.post("/pay", dependencies=at_route)
    async def pay() -> str:
        return "paid"

    app.include_router(router)
    install(app, None, EdgeSettings(), authenticator=who, idempotency=Kept(), drain=Drain())
    key = {"Idempotency-Key": "k"}
    answers = [await call(app, "POST", "/pay", key) for _ in range(2)]
    who.permissions = frozenset()
    refused = await call(app, "POST", "/pay", key)
    assert [answer.status for answer in (*answers, refused)] == [200, 200, 403]
    assert b"paid" not in refused.body


async def test_priority_of_a_route_decides_who_is_refused() -> None:
    """When batch has its half of the places, a critical request finds one."""
    app, busy = FastAPI(), asyncio.Event()
    inside: list[str] = []

    @app.get("/report", **edge(priority="batch"))
    @app.get("/pay", **edge(priority="critical"))
    async def work(request: Request) -> None:
        inside.append(request.url.path)
        await busy.wait()

    install(app, None, EdgeSettings(concurrency=4, queue=0), drain=Drain())
    reports = [asyncio.create_task(call(app, "GET", "/report")) for _ in range(4)]
    await until(lambda: sum(task.done() for task in reports) == 2)
    paying = asyncio.create_task(call(app, "GET", "/pay"))
    await until(lambda: inside == ["/report", "/report", "/pay"])
    busy.set()
    assert sorted([(await task).status for task in reports]) == [200, 200, 503, 503]
    assert (await paying).status == 200


async def test_errors_of_the_application_have_its_problems() -> None:
    """Made from the error, as a document."""
    answer = await call(Overrides().app, "GET", "/v1/taken")
    assert (answer.status, answer.json["type"]) == (409, "urn:holdfast:problem:taken")
    assert answer.json["detail"] == "Taken by ada."


@pytest.mark.parametrize(
    ("asked", "cure"),
    [
        ({"key": "required"}, "store"),
        ({"deadline": 1}, "deadline_s"),
        ({"priority": "critical"}, "concurrency"),
        ({"retry": True}, "attempts"),
        ({"allowlist": "operators"}, "networks"),
    ],
)
def test_what_a_route_asks_of_a_layer_that_is_off_is_refused(asked: dict[str, Any], cure: str) -> None:
    """At the start, with the cure, and never ignored."""
    app = FastAPI()

    @app.post("/", **edge(**asked))
    async def nothing() -> None: ...

    with pytest.raises(ConfigurationError, match=cure):
        install(app, None, EdgeSettings(), drain=Drain())


@pytest.mark.parametrize(
    "wrong",
    [{"key": "always"}, {"priority": "high"}, {"deadline": 0}, {"deadline": 4000}, {"allowlist": ["0.0.0.0/0"]}],
)
def test_wrong_word_at_a_route_is_refused(wrong: dict[str, Any]) -> None:
    """Where it is written."""
    with pytest.raises(ConfigurationError):
        edge(**wrong)


async def test_options_stand_beside_further_dependencies_and_documents() -> None:
    """What a decorator takes once is given to `edge`; the permission is asked for first."""
    asked: list[str] = []

    async def note() -> None:
        asked.append("note")

    app, who = FastAPI(), Overrides()
    more = edge(permission="pay", dependencies=[Depends(note)], openapi_extra={"x-owner": "shop"})
    app.post("/pay", **more)(nothing)
    install(app, None, EdgeSettings(), authenticator=who, drain=Drain())
    assert (await call(app, "POST", "/pay")).status == 200
    who.permissions = frozenset()
    assert (await call(app, "POST", "/pay")).status == 403
    assert asked == ["note"]
    operation = app.openapi()["paths"]["/pay"]["post"]
    assert (operation["x-owner"], operation["x-permission"]) == ("shop", "pay")


def test_copied_options_are_refused() -> None:
    """Who takes what `edge` gave apart would lose what it says; that is not ignored either."""
    app = FastAPI()
    copied = {**edge(key="required")["openapi_extra"], "x-more": 1}

    @app.post("/", openapi_extra=copied)
    async def nothing() -> None: ...

    with pytest.raises(ConfigurationError, match="copy"):
        install(app, None, EdgeSettings(), idempotency=Kept(), anonymous_keys="all", drain=Drain())


def test_keys_need_to_know_whose_they_are() -> None:
    """Without an authenticator each keyed request would be refused: that is said where it is set up."""
    with pytest.raises(ConfigurationError, match="anonymous_keys"):
        install(FastAPI(), None, EdgeSettings(), idempotency=Kept(), drain=Drain())


def test_a_permission_needs_somebody_to_have_it() -> None:
    """Without an authenticator the route would refuse everybody."""
    app = FastAPI()
    app.get("/orders", **edge(permission="orders:read"))(nothing)
    with pytest.raises(ConfigurationError, match="authenticator"):
        install(app, None, EdgeSettings(), drain=Drain())


def test_keys_in_the_database_need_an_asynchronous_one() -> None:
    """Not found out with the first keyed request."""
    with Database("sqlite://") as db, pytest.raises(ConfigurationError, match="AsyncDatabase"):
        SqlIdempotency(db)  # type: ignore[arg-type]


@pytest.mark.parametrize("decorated", [True, False])
def test_middleware_that_keeps_keys_from_the_handlers_is_refused(decorated: bool) -> None:
    """It would stand inside and have its own task; added afterwards, or around another store, it is taken."""

    async def passing(request: Request, call_next: Any) -> Response:
        answer: Response = await call_next(request)
        return answer

    def put_on(app: FastAPI) -> FastAPI:
        if decorated:
            app.middleware("http")(passing)
        else:
            app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
        return app

    keys: dict[str, Any] = {"settings": EdgeSettings(), "anonymous_keys": "all", "drain": Drain()}
    stored = SqlIdempotency(AsyncDatabase("sqlite://"))
    with pytest.raises(ConfigurationError, match=r"BaseHTTPMiddleware.*app\.middleware.*Add it after install\(\)"):
        install(put_on(FastAPI()), idempotency=stored, **keys)
    install(put_on(FastAPI()), idempotency=Kept(), **keys)
    app = FastAPI()
    install(app, idempotency=stored, **keys)
    put_on(app)


def test_setting_that_cannot_work_fails_at_once() -> None:
    """Not with the first request."""
    with pytest.raises(ConfigurationError, match="least"):
        install(FastAPI(), None, EdgeSettings(concurrency=5, concurrency_least=9), drain=Drain())


async def test_route_that_is_added_later_counts() -> None:
    """The table of routes is no snapshot."""
    app = FastAPI()
    install(app, None, EdgeSettings(deadline_s=30), idempotency=Kept(), anonymous_keys="all", drain=Drain())
    assert (await call(app, "POST", "/late")).status == 404

    @app.post("/late", **edge(key="required"))
    async def late() -> None: ...

    assert (await call(app, "POST", "/late")).status == 400


@pytest.mark.parametrize(
    "asked",
    [
        {"allowlist": ["192.0.2.0/24"]},
        {"quota": Quota("late", rate=1, per=60)},
        {"priority": "critical"},
        {"deadline": 1},
        {"retry": True},
        {"key": "required"},
    ],
)
async def test_route_that_is_added_later_is_not_served_without_what_it_asks_for(asked: dict[str, Any]) -> None:
    """What the layers did not know of when they were made is refused, at the start or with the request; others go on."""
    app = FastAPI()
    install(app, None, EdgeSettings(concurrency=2, rate_per_s=1000), drain=Drain())
    app.post("/plain")(nothing)
    app.post("/late", **edge(**asked))(nothing)
    with log_of("holdfast.asgi.recovery") as log:
        assert (await call(app, "POST", "/late", client=("203.0.113.9", 1))).status == 500
    assert "/late has edge(" in log.everything
    assert (await call(app, "POST", "/plain")).status == 200
    with pytest.raises(ConfigurationError, match="/late has edge"):
        await run_lifespan(app)


async def test_route_that_is_added_later_may_share_what_is_known() -> None:
    """A quota that a layer counts already is counted for a later route, too."""
    app, shared = FastAPI(), Quota("shared", rate=1, per=60)
    app.get("/one", **edge(quota=shared, priority="batch"))(nothing)
    install(app, None, EdgeSettings(concurrency=2), drain=Drain())
    app.get("/late", **edge(quota=shared, priority="critical"))(nothing)
    assert [(await call(app, "GET", path)).status for path in ("/one", "/late")] == [200, 429]
    assert await run_lifespan(app) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize("methods", [["GET"], ["POST", "GET"]])
def test_a_required_key_needs_a_method_whose_keys_count(methods: list[str]) -> None:
    """On a GET it would be ignored."""
    app = FastAPI()
    app.api_route("/g", methods=methods, **edge(key="required"))(nothing)
    with pytest.raises(ConfigurationError, match="not for GET"):
        install(app, None, EdgeSettings(), idempotency=Kept(), anonymous_keys="all", drain=Drain())


async def test_allow_names_all_methods_of_a_path() -> None:
    """405 says what the path serves, also where each method is a route of its own."""
    answer = await call(Overrides().app, "PATCH", "/v1/fails")
    assert (answer.status, answer.header("allow")) == (405, "GET, POST, PUT")


async def test_log_names_the_route_of_what_is_refused_or_replayed() -> None:
    """Also where the router was never asked: for a stored answer, and for a rate limit."""
    app = Overrides().app
    with log_of("holdfast.asgi.access_log") as log:
        for _ in range(2):
            await call(app, "POST", "/v1/pay", {"Idempotency-Key": "k"})
        for _ in range(3):
            await call(app, "GET", "/v1/rare")
        await call(app, "GET", "/v1/nowhere")
    found = [(line["route"], line["status"]) for line in log.lines]
    paid, rare = ("/v1/pay", 200), "/v1/rare"
    assert found == [paid, paid, (rare, 200), (rare, 200), (rare, 429), ("<unmatched>", 404)]


async def test_a_mounted_application_with_an_edge_of_its_own_reads_its_own_routes() -> None:
    """What the outer one found, that it has no such route, says nothing of the inner one's."""
    inner, outer = FastAPI(), FastAPI()
    inner.post("/orders", **edge(key="required"))(nothing)
    install(inner, settings=EdgeSettings(), idempotency=Kept(), anonymous_keys="public")
    outer.post("/orders")(nothing)
    outer.mount("/shop", inner)
    install(outer, settings=EdgeSettings())
    assert (await call(outer, "POST", "/shop/orders")).status == 400
    assert (await call(outer, "POST", "/shop/orders", {"Idempotency-Key": "k"})).status == 200
    assert (await call(outer, "POST", "/orders")).status == 200


def mounted(inner: FastAPI, *, deep: bool = False) -> FastAPI:
    """An application with `inner` below it; `deep`: below another one in between."""
    outer, between = FastAPI(), FastAPI()
    between.mount("/in", inner)
    outer.mount("/shop", between if deep else inner)
    return outer


@pytest.mark.parametrize(("deep", "path"), [(False, "/shop/orders"), (True, "/shop/in/orders")])
@pytest.mark.parametrize("asked", [{"key": "required"}, {"deadline": 3}, {"allowlist": ()}])
def test_a_mounted_route_that_nobody_would_look_at_is_refused(asked: dict[str, Any], deep: bool, path: str) -> None:
    """Its edge(...) would be written down and not there."""
    inner = FastAPI()
    inner.post("/orders", **edge(**asked))(nothing)
    with pytest.raises(ConfigurationError, match=f"^{path} has edge.*call install on the mounted application"):
        install(mounted(inner, deep=deep), None, EdgeSettings(), drain=Drain())


async def test_a_route_that_is_mounted_later_is_refused_at_the_start() -> None:
    """As one that is added later."""
    inner, outer = FastAPI(), FastAPI()
    inner.post("/orders", **edge(deadline=3))(nothing)
    install(outer, None, EdgeSettings(deadline_s=10), drain=Drain())
    outer.mount("/shop", inner)
    with pytest.raises(ConfigurationError, match="/shop/orders has edge"):
        await run_lifespan(outer)


@pytest.mark.parametrize("deep", [False, True])
async def test_a_mounted_application_with_an_edge_of_its_own_may_ask(deep: bool) -> None:
    """If it had it before; so may one that asks for permissions alone, which the route itself looks at."""
    inner, plain = FastAPI(), FastAPI()
    inner.post("/orders", **edge(deadline=3))(nothing)
    install(inner, None, EdgeSettings(deadline_s=10), drain=Drain())
    plain.post("/orders", **edge(permission="orders"))(nothing)
    for one, status in ((inner, 200), (plain, 401)):
        outer = mounted(one, deep=deep)
        install(outer, None, EdgeSettings(), drain=Drain())
        assert (await call(outer, "POST", "/shop/in/orders" if deep else "/shop/orders")).status == status
