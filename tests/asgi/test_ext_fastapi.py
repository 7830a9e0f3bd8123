"""One call switches on the edge around a FastAPI application."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from pydantic import BaseModel

from holdfast.asgi.answers import Answer, StoredAnswer
from holdfast.asgi.authentication import Principal
from holdfast.asgi.idempotency import KeyedRun
from holdfast.asgi.interface import Scope
from holdfast.asgi.keyed_request import KeyIdentity
from holdfast.errors import ConfigurationError
from holdfast.ext.fastapi import EdgeSettings, current_principal, edge, install
from holdfast.health import HealthCheck
from holdfast.shutdown import Drain

from .asgi_calls import call, run_lifespan


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
    """The document names refusals, the key and the wait."""
    operation = service.app.openapi()["paths"]["/transfers"]["post"]
    assert operation == service.app.openapi()["paths"]["/transfers"]["post"]
    assert {"201", "401", "403", "409", "422", "429", "503", "504"} == set(operation["responses"])
    assert [(one["name"], one["required"]) for one in operation["parameters"]] == [("Idempotency-Key", True)]
    assert "Retry-After" in operation["responses"]["429"]["headers"]
    assert "parameters" not in service.app.openapi()["paths"]["/who"]["get"]


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
