"""One call switches on the edge around a FastAPI application."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

from holdfast.asgi.answers import Answer, StoredAnswer
from holdfast.asgi.authentication import Principal
from holdfast.asgi.idempotency import KeyedRun
from holdfast.asgi.interface import Scope
from holdfast.asgi.keyed_request import KeyIdentity
from holdfast.asgi.problems import Problem
from holdfast.asgi.quotas import Quota
from holdfast.deadline import current_deadline
from holdfast.errors import ConfigurationError
from holdfast.ext.fastapi import EdgeSettings, current_principal, edge, install, require
from holdfast.health import HealthCheck
from holdfast.shutdown import Drain

from .asgi_calls import call, run_lifespan, until
from .log_capture import log_of


class Names:
    """Believes whoever names itself; `root` may transfer."""

    challenge = "Bearer"

    async def authenticate(self, scope: Scope, /) -> Principal | None:
        """The principal of the header `x-name`."""
        name = next((value.decode() for known, value in scope["headers"] if known == b"x-name"), None)
        permissions = frozenset({"transfers:write"}) if name == "root" else frozenset[str]()
        return None if name is None else Principal(name, "here", "t", permissions)


class Kept:
    """Keeps answers in a map, which is enough to see that they are asked for."""

    def __init__(self) -> None:
        self.rows: dict[Any, StoredAnswer] = {}

    async def answer(self, identity: KeyIdentity, run: KeyedRun) -> Answer | StoredAnswer:
        """The kept answer, or a fresh one."""
        if identity in self.rows:
            return self.rows[identity]
        answer = await run()
        if answer.status < 400:
            self.rows[identity] = run.to_keep(answer)
        return answer

    async def live_keys(self, scope: str, most: int) -> int:
        """None that count."""
        return 0


class Base:
    """A database with one check."""

    closed = False

    def health_checks(self) -> tuple[HealthCheck, ...]:
        """One that holds."""
        return (HealthCheck("database", lambda: True),)

    async def close(self) -> None:
        """Remember it."""
        self.closed = True


class Order(BaseModel):
    """What is ordered."""

    amount: int


class Service:
    """A small application with everything on."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.effects = 0
        self.db = Base()
        self.drain = Drain()
        app = self.app

        @app.post("/transfers", status_code=201, **edge(key="required", permission="transfers:write"))
        async def transfer(order: Order) -> dict[str, int]:
            self.effects += 1
            return {"amount": order.amount, "effects": self.effects}

        @app.get("/who")
        async def who(principal: Annotated[Principal | None, Depends(current_principal)]) -> str:
            return principal.subject if principal else "nobody"

        @app.get("/slow")
        async def slow() -> None:
            await asyncio.Event().wait()

        @app.get("/teapot")
        async def teapot() -> None:
            raise HTTPException(409, "It is taken.", headers={"X-Why": "tea"})

        settings = EdgeSettings(
            deadline_s=0.2,
            body_max=1000,
            concurrency=10,
            rate_per_s=100,
            attempts=2,
            allowlist={"/inner/*": ("100.64.0.0/10",)},
        )
        self.edge = install(app, self.db, settings, authenticator=Names(), idempotency=Kept(), drain=self.drain)

    def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """One request by `root`, unless it says who."""

        async def asked() -> httpx2.Response:
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), base_url="http://edge") as client:
                return await client.request(method, path, **{"headers": {"x-name": "root"}, **more})

        return asyncio.run(asked())


@pytest.fixture
def service() -> Service:
    """The application."""
    return Service()


def test_layers_stand_in_the_checked_order(service: Service) -> None:
    """All layers are on, and none is off."""
    assert service.edge.off == ()
    assert service.edge.on[:5] == ("RequestId", "AccessLog", "Recovery", "Draining", "HealthEndpoints")
    assert service.edge.on[-2:] == ("Idempotency", "RequestRetry")
    assert len(service.edge.on) == 14


def test_what_is_not_configured_is_off() -> None:
    """Without settings, only what harms nobody is on."""
    found = install(FastAPI(), None, EdgeSettings(), drain=Drain())
    assert "Deadline" in found.off
    assert "Idempotency" in found.off
    assert found.on[-1] == "ClientAddress"


def test_a_second_install_is_refused(service: Service) -> None:
    """Nothing is counted twice."""
    with pytest.raises(ConfigurationError, match="once"):
        install(service.app, None, EdgeSettings(), drain=service.drain)


def test_a_required_key_needs_a_store() -> None:
    """A promise that nothing keeps is refused at start."""
    app = FastAPI()
    app.post("/pay", **edge(key="required"))(lambda: None)
    with pytest.raises(ConfigurationError, match="store"):
        install(app, None, EdgeSettings(), drain=Drain())


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/no", 404), ("PUT", "/who", 405), ("GET", "/teapot", 409)]
)
def test_errors_of_the_framework_are_problems(service: Service, method: str, path: str, status: int) -> None:
    """What FastAPI refuses looks as what the edge refuses."""
    answer = service.ask(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    if status == 409:
        assert (answer.json()["detail"], answer.headers["x-why"]) == ("It is taken.", "tea")


def test_invalid_requests_name_fields_and_no_values(service: Service) -> None:
    """A 422 says where it is wrong, and repeats nothing."""
    headers = {"x-name": "root", "idempotency-key": "a"}
    answer = service.ask("POST", "/transfers", headers=headers, json={"amount": "sesame"})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "body.amount", "error": "int_parsing"}]
    assert "sesame" not in answer.text


def test_health_has_the_checks_of_the_database(service: Service) -> None:
    """Probes need no proof, and readiness asks the database."""
    answer = service.ask("GET", "/readyz", headers={})
    assert answer.status_code == 200
    assert [check.name for check in asyncio.run(service.edge.health.report()).checks] == ["database"]


def test_deadline_is_a_504(service: Service) -> None:
    """A handler that hangs is ended."""
    assert service.ask("GET", "/slow").status_code == 504


def test_key_is_required_and_answers_are_replayed(service: Service) -> None:
    """Without a key 400; the same twice is one effect with one answer."""
    assert service.ask("POST", "/transfers", json={"amount": 1}).status_code == 400
    headers = {"x-name": "root", "idempotency-key": "a"}
    first, second = (service.ask("POST", "/transfers", headers=headers, json={"amount": 1}) for _ in range(2))
    assert (
        (first.status_code, first.json()) == (second.status_code, second.json()) == (201, {"amount": 1, "effects": 1})
    )
    assert second.headers["idempotency-replayed"] == "true"


def test_permission_and_proof(service: Service) -> None:
    """Nobody is 401, somebody without the permission 403, and a dependency says who asks."""
    assert service.ask("GET", "/who", headers={}).status_code == 401
    headers = {"x-name": "guest", "idempotency-key": "a"}
    assert service.ask("POST", "/transfers", headers=headers, json={"amount": 1}).status_code == 403
    assert service.ask("GET", "/who").json() == "root"
    assert service.effects == 0


def test_settings_come_from_environment_and_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment beats the file."""
    file = tmp_path / "edge.toml"
    file.write_text("deadline_s = 3\nconcurrency = 7\n")
    monkeypatch.setenv("HOLDFAST_DEADLINE_S", "5")
    monkeypatch.setenv("HOLDFAST_TRUSTED_PROXIES", '["100.64.0.0/10"]')
    settings = EdgeSettings.load(file)
    assert (settings.deadline_s, settings.concurrency, settings.trusted_proxies) == (5, 7, ("100.64.0.0/10",))


async def test_settings_reach_the_layers_that_keep_secrets_and_ids() -> None:
    """The fingerprint is an HMAC, the log has the tenant's hash, no id of a client is believed, and no secret is shown."""
    kept = Kept(), Kept()
    secrets: list[dict[str, Any]] = [{}, {"tenant_key": "t" * 16, "key_secret": "k" * 16, "request_id_header": ""}]
    lines = []
    for store, given in zip(kept, secrets, strict=True):
        app, settings = FastAPI(), EdgeSettings(**given)
        app.post("/")(_late)
        install(app, None, settings, authenticator=Names(), idempotency=store, drain=Drain())
        with log_of("holdfast.asgi.access_log") as log:
            headers = {"x-name": "ada", "idempotency-key": "k", "x-request-id": "mine"}
            assert (await call(app, "POST", "/", headers)).status == 200
        lines.append(log.lines[0])
        assert "kkkk" not in repr(settings)
        assert "tttt" not in repr(settings)
    plain, hashed = (next(iter(store.rows)) for store in kept)
    assert (plain.key, plain.scope) == (hashed.key, hashed.scope)
    assert plain.fingerprint != hashed.fingerprint
    assert lines[0]["request_id"] == "mine" != lines[1]["request_id"]
    assert (lines[0].get("tenant"), len(lines[1]["tenant"])) == (None, 16)


async def test_a_dark_limit_lets_all_in() -> None:
    """It refuses nobody; one that is off does not hold to a priority."""
    app, busy = FastAPI(), asyncio.Event()
    inside: list[None] = []

    @app.get("/")
    async def work() -> None:
        inside.append(None)
        await busy.wait()

    install(app, None, EdgeSettings(concurrency=1, queue=0, concurrency_mode="dark"), drain=Drain())
    calls = [asyncio.create_task(call(app, "GET", "/")) for _ in range(3)]
    await until(lambda: len(inside) == 3)
    busy.set()
    assert [(await one).status for one in calls] == [200, 200, 200]
    off = FastAPI()
    off.get("/", **edge(priority="critical"))(_late)
    with pytest.raises(ConfigurationError, match="priority"):
        install(off, None, EdgeSettings(concurrency=1, concurrency_mode="off"), drain=Drain())


@pytest.mark.parametrize("name", ["tenant_key", "key_secret"])
def test_a_short_secret_is_refused_and_not_shown(name: str) -> None:
    """By its name."""
    with pytest.raises(ValueError, match=name) as caught:
        EdgeSettings.model_validate({name: "sesame"})
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("text", ["deadline = 3", "deadline_s = -77", "deadline_s = ", "queue = 'sesame77'"])
def test_bad_settings_are_refused(tmp_path: Path, text: str) -> None:
    """Unknown names, bad values and bad files are refused, and no value is repeated."""
    file = tmp_path / "edge.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        EdgeSettings.load(file)
    assert "77" not in str(caught.value)


def test_every_setting_says_what_it_is() -> None:
    """Each field has a description with its default."""
    assert all("default" in (field.description or "") for field in EdgeSettings.model_fields.values())


def test_openapi_has_the_edge(service: Service) -> None:
    """The document names refusals, the key, the deadline, the token and the wait, and stays what it is."""
    document = service.app.openapi()
    operation = document["paths"]["/transfers"]["post"]
    assert operation == service.app.openapi()["paths"]["/transfers"]["post"]
    refusals = {"400", "401", "403", "408", "409", "413", "422", "429", "500", "503", "504"}
    assert {"201", *refusals} == set(operation["responses"])
    key, timeout = operation["parameters"]
    assert (key["name"], key["required"], key["schema"]["maxLength"]) == ("Idempotency-Key", True, 255)
    assert (timeout["name"], timeout["required"]) == ("X-Request-Timeout-Ms", False)
    assert "Retry-After" in operation["responses"]["429"]["headers"]
    assert {"RateLimit", "Idempotency-Replayed", "X-Request-Id"} <= set(operation["responses"]["201"]["headers"])
    assert (operation["x-permission"], operation["security"]) == ("transfers:write", [{"bearer": []}])
    who = document["paths"]["/who"]["get"]
    assert [one["name"] for one in who["parameters"]] == ["X-Request-Timeout-Ms"]
    assert "403" not in who["responses"]


async def test_openapi_tells_public_routes_and_the_proof_that_is_asked_for() -> None:
    """A proof may be missing where the edge says so, unless a dependency asks for one; its kind is the authenticator's."""

    class Badges(Names):
        challenge = 'Badge realm="shop"'

    app = FastAPI()
    app.get("/open")(_late)
    app.get("/open/{name}")(_late)
    app.get("/closed")(_late)
    app.get("/paid", dependencies=[Depends(require("pay"))])(_late)
    settings, public = EdgeSettings(rate_per_s=5), ["/open", "/open/*", "/paid"]
    install(app, None, settings, authenticator=Badges(), public=public, drain=Drain())
    assert (await call(app, path="/paid")).header("www-authenticate") == Badges.challenge
    document = app.openapi()
    found = {path: methods["get"]["security"] for path, methods in document["paths"].items()}
    asked: list[dict[str, list[str]]] = [{"badge": []}]
    assert found == {"/open": [*asked, {}], "/open/{name}": [*asked, {}], "/closed": asked, "/paid": asked}
    assert document["components"]["securitySchemes"] == {"badge": {"type": "http", "scheme": "badge"}}
    answers = document["paths"]["/paid"]["get"]["responses"]
    assert "403" in answers
    assert set(answers["401"]["headers"]) == {"X-Request-Id", "WWW-Authenticate"}
    for status in ("429", "503"):
        assert {"Retry-After", "RateLimit", "RateLimit-Policy"} <= set(answers[status]["headers"])
    used = {
        name
        for path in document["paths"].values()
        for one in path["get"]["responses"].values()
        for name in one["headers"]
    }
    assert used <= set(document["components"]["headers"])


def test_database_is_closed_at_the_end(service: Service) -> None:
    """The application's end closes the database."""
    asyncio.run(run_lifespan(service.app))
    assert service.db.closed


def test_routes_of_routers_keep_their_options() -> None:
    """A required key counts in an included router too, also in the check at start."""
    router = APIRouter(prefix="/inner")

    @router.post("/pay", **edge(key="required"))
    async def pay() -> None: ...

    app = FastAPI()
    app.include_router(router, prefix="/v1")
    with pytest.raises(ConfigurationError, match="store"):
        install(app, None, EdgeSettings(), drain=Drain())
    install(app, None, EdgeSettings(), idempotency=Kept(), anonymous_keys="all", drain=Drain())
    answer = asyncio.run(call(app, "POST", "/v1/inner/pay"))
    assert answer.status == 400


# -- what a route says ----------------------------------------------------------------------------------------------------


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
    app.post("/pay", **more)(_late)
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
        install(app, None, EdgeSettings(), idempotency=Kept(), drain=Drain())


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


async def _late() -> None: ...


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
    app.post("/plain")(_late)
    app.post("/late", **edge(**asked))(_late)
    with log_of("holdfast.asgi.recovery") as log:
        assert (await call(app, "POST", "/late", client=("203.0.113.9", 1))).status == 500
    assert "/late has edge(" in log.everything
    assert (await call(app, "POST", "/plain")).status == 200
    with pytest.raises(ConfigurationError, match="/late has edge"):
        await run_lifespan(app)


async def test_route_that_is_added_later_may_share_what_is_known() -> None:
    """A quota that a layer counts already is counted for a later route, too."""
    app, shared = FastAPI(), Quota("shared", rate=1, per=60)
    app.get("/one", **edge(quota=shared, priority="batch"))(_late)
    install(app, None, EdgeSettings(concurrency=2), drain=Drain())
    app.get("/late", **edge(quota=shared, priority="critical"))(_late)
    assert [(await call(app, "GET", path)).status for path in ("/one", "/late")] == [200, 429]
    assert await run_lifespan(app) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize("methods", [["GET"], ["POST", "GET"]])
def test_a_required_key_needs_a_method_whose_keys_count(methods: list[str]) -> None:
    """On a GET it would be ignored."""
    app = FastAPI()
    app.api_route("/g", methods=methods, **edge(key="required"))(_late)
    with pytest.raises(ConfigurationError, match="not for GET"):
        install(app, None, EdgeSettings(), idempotency=Kept(), drain=Drain())


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
