"""One call switches on the edge around a FastAPI application."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel

import holdfast
from holdfast.asgi.authentication import Principal
from holdfast.asgi.problems import Problem
from holdfast.errors import ConfigurationError
from holdfast.ext.fastapi import EdgeSettings, current_principal, edge, install, require
from holdfast.health import HealthCheck
from holdfast.shutdown import Drain

from .asgi_calls import call, run_lifespan, until
from .edge_doubles import Kept, Names, nothing
from .log_capture import log_of


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


async def test_what_describes_another_body_is_not_taken_over() -> None:
    """The headers of an `HTTPException` stand beside the document's own, never in their place."""
    app = FastAPI()

    @app.get("/")
    async def page() -> None:
        about_another = {"Content-Type": "text/html", "content-length": "3", "Content-Encoding": "gzip"}
        raise HTTPException(
            404, headers={**about_another, "Transfer-Encoding": "chunked", "Connection": "x", "X-Why": "tea"}
        )

    install(app, None, EdgeSettings(), drain=Drain())
    answer = await call(app, "GET", "/")
    assert answer.status == 404
    assert answer.header("content-type") == "application/problem+json"
    assert answer.header("content-length") == str(len(answer.body))
    others = ("content-encoding", "transfer-encoding", "connection", "x-why")
    assert [answer.header(name) for name in others] == [None, None, None, "tea"]


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


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"app": None}, "app must be a FastAPI, not None"),
        ({"db": EdgeSettings()}, "db must be a Closable or None, not EdgeSettings"),
        ({"db": "sqlite:///shop.db"}, "db must be a Closable or None, not str"),
        ({"settings": {"deadline_s": 3}}, "settings must be a EdgeSettings or None, not dict"),
        ({"authenticator": Names}, r"authenticator must be made first: Names\(\.\.\.\)"),
        ({"idempotency": object()}, "idempotency must be a IdempotencyStore or None, not object"),
        ({"quota_store": "redis://"}, "quota_store must be a QuotaStore or None, not str"),
        ({"problems": {KeyError: 404}}, r"problems\[KeyError\] must be a Problem, or a function from .* not a int"),
        ({"problems": {KeyError: Problem}}, r"problems\[KeyError\] must be a Problem, or a function .* not a type"),
        ({"checks": [lambda: True]}, "checks must hold HealthCheck, not function"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_of_another_kind_is_told_where_it_is_given(wrong: dict[str, Any], named: str) -> None:
    """By the argument's name, before anything is switched on."""
    app = FastAPI()
    with pytest.raises(ConfigurationError, match=f"install: {named}"):
        install(**{"app": app, "drain": Drain(), **wrong})
    assert app.user_middleware == []


def test_a_slip_in_a_name_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the file it is refused; in the environment, where others have variables as well, it is logged, without the value."""
    file = tmp_path / "edge.toml"
    file.write_text("dedline_s = 3\nwholly_other = 4\n")
    with pytest.raises(ConfigurationError, match=r"dedline_s \(did you mean deadline_s\?\), wholly_other$"):
        EdgeSettings.load(file)
    for name in ("HOLDFAST_DEADLINE", "holdfast_concurency", "HOLDFAST_QUEUE", "HOLDFAST_COLOUR", "DEADLINE"):
        monkeypatch.setenv(name, "77")
    EdgeSettings.load()
    assert sorted(record.getMessage() for record in caplog.records) == [
        "HOLDFAST_DEADLINE in the environment is no setting (did you mean deadline_s?)",
        "holdfast_concurency in the environment is no setting (did you mean concurrency?)",
    ]


async def test_settings_reach_the_layers_that_keep_secrets_and_ids() -> None:
    """The fingerprint is an HMAC, the log has the tenant's hash, no id of a client is believed, and no secret is shown."""
    kept = Kept(), Kept()
    secrets: list[dict[str, Any]] = [{}, {"tenant_key": "t" * 16, "key_secret": "k" * 16, "request_id_header": ""}]
    lines = []
    for store, given in zip(kept, secrets, strict=True):
        app, settings = FastAPI(), EdgeSettings(**given)
        app.post("/")(nothing)
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
    off.get("/", **edge(priority="critical"))(nothing)
    with pytest.raises(ConfigurationError, match="priority"):
        install(off, None, EdgeSettings(concurrency=1, concurrency_mode="off"), drain=Drain())


@pytest.mark.parametrize("name", ["tenant_key", "key_secret"])
def test_a_short_secret_is_refused_and_not_shown(name: str) -> None:
    """By its name."""
    with pytest.raises(ValueError, match=name) as caught:
        EdgeSettings.model_validate({name: "sesame"})
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("text", ["deadline = 3", "deadline_s = -77", "deadline_s = ", "queue = 'sesame77'"])
def test_bad_settings_are_refused(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown names, bad values and bad files are refused, and no value is repeated."""
    monkeypatch.chdir(tmp_path)  # the path is named, and might hold the value
    file = Path("edge.toml")
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        EdgeSettings.load(file)
    assert "77" not in str(caught.value)


def test_every_setting_says_what_it_is() -> None:
    """Each field has a description with its default."""
    assert all("default" in (field.description or "") for field in EdgeSettings.model_fields.values())


@pytest.mark.parametrize("promised", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize("key", [{}, {"idempotency-key": "k"}], ids=["plain", "keyed"])
async def test_a_body_that_the_framework_finds_too_large_is_a_413(promised: bool, key: dict[str, str]) -> None:
    """FastAPI's own `max_body_size` stands outside of the edge, and is believed: it is no error of the service."""
    app = FastAPI(max_body_size=50)

    @app.post("/")
    async def size(request: Request) -> int:
        return len(await request.body())

    install(app, None, EdgeSettings(), idempotency=Kept(), anonymous_keys="all", drain=Drain())
    body = [b"x" * 40, b"x" * 40]
    headers = {**key, **({"content-length": "80"} if promised else {"transfer-encoding": "chunked"})}
    with log_of("holdfast") as log:
        answer = await call(app, "POST", "/", headers, body)
        assert (await call(app, "POST", "/", key, b"x" * 50)).body == b"50"
    assert (answer.status, answer.error, answer.complete) == (413, None, True)
    assert {line["level"] for line in log.lines} == {"INFO"}


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


def test_openapi_has_every_member_that_a_problem_may_have(service: Service) -> None:
    """Those of every problem, and what one or the other says besides."""
    found = {"request_id", "trace_id"}
    for file in Path(holdfast.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"Problem", "replace"}:
                found |= {
                    key.value
                    for keyword in node.keywords
                    if keyword.arg == "extensions" and isinstance(keyword.value, ast.Dict)
                    for key in keyword.value.keys
                    if isinstance(key, ast.Constant) and isinstance(key.value, str)
                }
    schema = service.app.openapi()["components"]["schemas"]["Problem"]
    assert len(found) > 4
    assert found <= set(schema["properties"])


async def test_openapi_tells_public_routes_and_the_proof_that_is_asked_for() -> None:
    """A proof may be missing where the edge says so, unless a dependency asks for one; its kind is the authenticator's."""

    class Badges(Names):
        challenge = 'Badge realm="shop"'

    app = FastAPI()
    app.get("/open")(nothing)
    app.get("/open/{name}")(nothing)
    app.get("/closed")(nothing)
    app.get("/paid", dependencies=[Depends(require("pay"))])(nothing)
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
