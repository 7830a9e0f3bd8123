"""The OpenAPI document with the edge in it: what the application says itself stays."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header
from fastapi.openapi.utils import get_openapi
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel

from holdfast.ext.fastapi import EdgeSettings, install
from holdfast.shutdown import Drain

from .edge_doubles import Kept, Names, nothing

PROBLEM = "application/problem+json"
OWN_422 = "#/components/schemas/HTTPValidationError"


class Problem(BaseModel):
    """One of the application's own."""

    mine: int


class HoldfastProblem(Problem):
    """Another one, of the name that would be next."""


def documented(app: FastAPI, **more: Any) -> Any:
    """The document of `app` inside the edge."""
    settings = EdgeSettings(deadline_s=5, body_timeout_s=1, rate_per_s=5)
    install(app, None, settings, authenticator=Names(), idempotency=Kept(), drain=Drain(), **more)
    return app.openapi()


def own(app: FastAPI, components: dict[str, Any], **more: Any) -> None:
    """Have `app` make its document itself, with `components` in it."""

    def openapi() -> dict[str, Any]:
        document = get_openapi(title="mine", version="1", routes=app.routes)
        for kind, named in components.items():
            document.setdefault("components", {}).setdefault(kind, {}).update(named)
        return {**document, **more}

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it


def schema_of(document: Any, path: str = "/", method: str = "get", status: str = "503") -> Any:
    """What a problem of this answer refers to."""
    name = document["paths"][path][method]["responses"][status]["content"][PROBLEM]["schema"]["$ref"].rsplit("/", 1)[1]
    return document["components"]["schemas"][name]


@pytest.mark.parametrize("models", [[], [Problem], [Problem, HoldfastProblem]])
def test_a_model_of_the_same_name_stays(models: list[type[BaseModel]]) -> None:
    """The edge's document takes a name that is free."""
    app = FastAPI()
    app.get("/")(nothing)
    for model in models:
        app.get(f"/{model.__name__}", response_model=model)(nothing)
    document = documented(app)
    for model in models:
        answer = document["paths"][f"/{model.__name__}"]["get"]["responses"]["200"]
        assert answer["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{model.__name__}"}
        assert "mine" in document["components"]["schemas"][model.__name__]["properties"]
    assert schema_of(document)["description"] == "RFC 9457"
    assert len(document["components"]["schemas"]) == len(models) + 1


def test_a_422_of_the_application_stays() -> None:
    """Only FastAPI's own, which is not sent any more, is taken away."""
    app, router = FastAPI(), APIRouter(responses={422: {"description": "the router's", "model": Problem}})

    @app.get("/plain")
    async def plain(number: int) -> int:
        return number

    @app.get("/extra", openapi_extra={"responses": {"422": {"headers": {"X-Why": {"description": "why"}}}}})
    async def extra(number: int) -> int:
        return number

    app.get("/told", responses={422: {"description": "mine"}})(plain)
    router.get("/router")(plain)
    app.include_router(router)
    document = documented(app)
    found = {path: methods["get"]["responses"]["422"] for path, methods in document["paths"].items()}
    assert "key belongs" in found["/plain"]["description"]
    assert found["/told"]["description"] == "mine"
    assert found["/router"]["description"] == "the router's"
    assert found["/router"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert found["/extra"]["headers"]["X-Why"] == {"description": "why"}
    for path, response in found.items():
        assert schema_of(document, path, status="422")["description"] == "RFC 9457"
        assert OWN_422 not in str(response)


def test_headers_of_the_application_stay() -> None:
    """However they are written: the names of headers are the same in small letters."""
    said = {"description": "mine", "schema": {"type": "string"}}
    headers = {"retry-after": said, "x-request-id": said}
    app = FastAPI()
    app.get("/", responses={200: {"headers": headers}, 503: {"description": "mine", "headers": headers}})(nothing)
    own(app, {"headers": {"RateLimit": said, "X-Request-Id": said}})
    document = documented(app)
    responses = document["paths"]["/"]["get"]["responses"]
    for found in (responses["200"]["headers"], responses["503"]["headers"]):
        assert {name: found[name] for name in headers} == headers
        assert len({name.lower() for name in found}) == len(found)
    assert document["components"]["headers"]["RateLimit"] == said
    other = responses["503"]["headers"]["RateLimit"]["$ref"].rsplit("/", 1)[1]
    assert document["components"]["headers"][other] != said


def test_a_parameter_of_the_application_stays() -> None:
    """A document with two of one name is none."""
    app = FastAPI()

    @app.post("/")
    async def handle(
        idempotency_key: Annotated[str, Header(description="mine")],
        x_request_timeout_ms: Annotated[int | None, Header(description="mine")] = None,
    ) -> None: ...

    parameters = documented(app)["paths"]["/"]["post"]["parameters"]
    assert [(one["name"], one["description"]) for one in parameters] == [
        ("idempotency-key", "mine"),
        ("x-request-timeout-ms", "mine"),
    ]


def test_an_answer_that_is_kept_elsewhere_stays() -> None:
    """Nothing may stand beside a reference."""
    app = FastAPI()
    reference = {"$ref": "#/components/responses/Away"}
    app.get("/")(nothing)
    own(app, {"responses": {"Away": {"description": "away"}}})
    plain = app.openapi()
    plain["paths"]["/"]["get"]["responses"]["503"] = reference
    app.openapi = lambda: plain  # type: ignore[method-assign]
    assert documented(app)["paths"]["/"]["get"]["responses"]["503"] == {"$ref": "#/components/responses/Away"}


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        (
            HTTPBearer(scheme_name="bearer", bearerFormat="JWT"),
            {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        ),
        (APIKeyHeader(name="x-key", scheme_name="bearer"), {"type": "apiKey", "in": "header", "name": "x-key"}),
    ],
)
def test_security_schemes_of_the_application_stay(scheme: Any, said: dict[str, str]) -> None:
    """One that says the same is used; one that says something else keeps its name."""
    app = FastAPI()
    app.get("/")(nothing)
    app.get("/own", dependencies=[Depends(scheme)])(nothing)
    document = documented(app)
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"] == said
    assert document["paths"]["/own"]["get"]["security"] == [{"bearer": []}]
    ((name, _),) = document["paths"]["/"]["get"]["security"][0].items()
    assert (schemes[name]["type"], schemes[name]["scheme"]) == ("http", "bearer")
    assert (name == "bearer") is (said["type"] == "http")


def test_security_of_the_whole_document_stays() -> None:
    """What an operation says would hide it."""
    app = FastAPI()
    app.get("/")(nothing)
    own(app, {"securitySchemes": {"mine": {"type": "mutualTLS"}}}, security=[{"mine": []}])
    document = documented(app)
    assert document["security"] == [{"mine": []}]
    assert "security" not in document["paths"]["/"]["get"]
