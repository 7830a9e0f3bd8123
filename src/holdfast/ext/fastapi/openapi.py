"""What the edge adds to an application's OpenAPI document. Pure but for `install_openapi`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from ...asgi.idempotency import KEYED_METHODS
from ...asgi.keyed_request import KEY_LENGTH_MAX
from ...asgi.route_patterns import RoutePatterns
from .options import PLAIN, EdgeOptions
from .routes import Route, Routes

__all__ = ["Told", "documented", "install_openapi"]

_METHODS = ("get", "put", "post", "delete", "patch", "head", "options", "trace")
_KEYED = frozenset(method.lower() for method in KEYED_METHODS)
_WAITS = frozenset({409, 429, 503, 504})
_MEANING = {
    400: "A header is malformed, or the Idempotency-Key that this needs is missing.",
    401: "Nobody proved who asks.",
    403: "It is not allowed.",
    408: "The body did not arrive in time.",
    409: "A conflict, or a request with this key is still at work.",
    413: "The body is too large.",
    422: "The request is not valid, or its key belongs to another one.",
    429: "Too many requests.",
    500: "The service failed.",
    503: "Not now. Nothing was applied.",
    504: "The time was up. `outcome` says whether something may have been applied.",
}
_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "trace_id": {"type": "string"},
        "outcome": {"type": "string", "enum": ["committed", "not_committed", "unknown"]},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "error": {"type": "string"}},
            },
        },
        "violated-policies": {"type": "array", "items": {"type": "string"}},
        "answered": {"type": "integer", "description": "The status that the first request with this key got."},
    },
}
_HEADERS: dict[str, dict[str, Any]] = {
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}},
    "X-Request-Id": {"description": "The request's name in the service's log.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "The answer is the one that the first request with this key got.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "RateLimit-Policy": {"description": "The quotas that count for this request.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "What proof is asked for.", "schema": {"type": "string"}},
    "RateLimit": {"description": "What is left of them, and when they are whole again.", "schema": {"type": "string"}},
}
_PROBLEM = "application/problem+json"
_FASTAPIS_422 = {"schema": {"$ref": "#/components/schemas/HTTPValidationError"}}


@dataclass(frozen=True, slots=True)
class Told:
    """What the document is to tell.

    Attributes:
        on: the names of the layers that are on.
        schemes: how one may prove who one is: the first words of the challenges, in lower case (`bearer`).
        public: the routes on which a proof may be missing.
    """

    on: frozenset[str]
    schemes: tuple[str, ...]
    public: RoutePatterns


@dataclass(frozen=True, slots=True)
class _References:
    """Where the edge's components stand in a document, which may have others under their names."""

    problem: dict[str, str]
    headers: dict[str, dict[str, str]]
    schemes: tuple[str, ...]


def documented(document: dict[str, Any], routes: Mapping[tuple[str, str], Route], told: Told) -> dict[str, Any]:
    """`document` with the edge's answers and headers, changed in place. What the application says itself stays.

    Args:
        document: an OpenAPI document.
        routes: each route by path and method (lower case).
        told: what there is to tell of the edge.
    """
    components = document.setdefault("components", {})
    references = _References(
        _reference(components, "schemas", "Problem", _SCHEMA),
        {name: _reference(components, "headers", name, header) for name, header in _HEADERS.items()},
        tuple(_scheme(components, scheme) for scheme in told.schemes),
    )
    for path, methods in document.get("paths", {}).items():
        for method in _METHODS:
            if method in methods:
                operation, route = methods[method], routes.get((path, method))
                _describe(operation, method, route, told, references)
                if references.schemes and "security" not in document:
                    _describe_proof(operation, route, told, references)
    return document


def _free(named: dict[str, Any], name: str, value: dict[str, Any]) -> str:
    """The name under which `value` stands from now on: `name`, unless that is something else's."""
    while named.setdefault(name, value) != value:
        name = f"Holdfast{name}"
    return name


def _reference(components: dict[str, Any], kind: str, name: str, value: dict[str, Any]) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{_free(components.setdefault(kind, {}), name, value)}"}


def _scheme(components: dict[str, Any], scheme: str) -> str:
    named, value = components.setdefault("securitySchemes", {}), {"type": "http", "scheme": scheme}
    known = named.get(scheme, {})
    # One that says the same may say more: the format of its tokens.
    return scheme if value.items() <= known.items() else _free(named, scheme, value)


def _describe(operation: dict[str, Any], method: str, route: Route | None, told: Told, references: _References) -> None:
    asked, on = PLAIN if route is None else route.options, told.on
    needs = route is not None and bool(route.required)
    has_key = "Idempotency" in on and method in _KEYED and asked.key != "ignored"
    standing = ["RateLimit-Policy", "RateLimit"] if "RateLimit" in on else []
    headers = ["X-Request-Id", *standing, *(["Idempotency-Replayed"] if has_key else [])]
    responses = operation.setdefault("responses", {})
    _remove_fastapis_422(responses)
    for response in responses.values():
        _add_headers(response, headers, references)
        # The application may name further problems of its own by their media type alone.
        problem = response.get("content", {}).get(_PROBLEM)
        if problem is not None:
            problem.setdefault("schema", references.problem)
    for status in _statuses(asked, on, needs=needs, has_body="requestBody" in operation, has_key=has_key):
        response = responses.setdefault(str(status), {"description": _MEANING[status]})
        if "$ref" in response:  # beside which nothing counts
            continue
        response.setdefault("content", {}).setdefault(_PROBLEM, {"schema": references.problem})
        # Who is nobody is refused before anything is counted for him.
        more = ["WWW-Authenticate"] if status == 401 else [*standing, *(["Retry-After"] if status in _WAITS else [])]
        _add_headers(response, ["X-Request-Id", *more], references)
    operation["responses"] = dict(sorted(responses.items()))
    _describe_parameters(operation, asked, has_key=has_key, has_deadline="Deadline" in on)


def _remove_fastapis_422(responses: dict[str, Any]) -> None:
    """It describes a body that is not sent any more; what the application says of a 422 stays."""
    response = responses.get("422", {})
    content = response.get("content", {})
    if content.get("application/json") == _FASTAPIS_422:
        del content["application/json"]
        if not content and response.keys() == {"description", "content"}:
            del responses["422"]


def _describe_parameters(operation: dict[str, Any], asked: EdgeOptions, *, has_key: bool, has_deadline: bool) -> None:
    parameters: list[dict[str, Any]] = []
    if has_key:
        key = {
            "type": "string",
            "minLength": 1,
            "maxLength": KEY_LENGTH_MAX,
            "pattern": '^("[!#-\\[\\]-~]+"|[!#-\\[\\]-~]+)$',
        }
        parameters.append(
            {"name": "Idempotency-Key", "in": "header", "required": asked.key == "required", "schema": key}
        )
    if has_deadline:
        milliseconds = {"type": "integer", "minimum": 0, "maximum": 9_999_999_999}
        parameters.append({"name": "X-Request-Timeout-Ms", "in": "header", "required": False, "schema": milliseconds})
    known = {one.get("name", "").lower() for one in operation.get("parameters", ()) if one.get("in") == "header"}
    new = [one for one in parameters if one["name"].lower() not in known]
    if new:
        operation.setdefault("parameters", []).extend(new)


def _describe_proof(operation: dict[str, Any], route: Route | None, told: Told, references: _References) -> None:
    # An empty requirement is OpenAPI's word for: a proof may be missing. The others are alternatives.
    may_miss = route is not None and not route.required and told.public.names(route.path_format)
    operation.setdefault("security", [*({one: []} for one in references.schemes), *([{}] if may_miss else [])])


def _statuses(asked: EdgeOptions, on: frozenset[str], *, needs: bool, has_body: bool, has_key: bool) -> list[int]:
    statuses = {409, 422, 500, 503, 504}
    if has_key or has_body or "Deadline" in on:
        statuses.add(400)
    if has_body:
        statuses |= {408, 413}
    if "RateLimit" in on or "Authentication" in on or has_key:
        statuses.add(429)
    if "Authentication" in on or needs:
        statuses.add(401)
    if needs or asked.allowlist is not None:
        statuses.add(403)
    return sorted(statuses)


def _add_headers(response: dict[str, Any], names: Iterable[str], references: _References) -> None:
    if "$ref" in response:
        return
    headers = response.setdefault("headers", {})
    known = {name.lower() for name in headers}
    headers.update({name: references.headers[name] for name in names if name.lower() not in known})


def install_openapi(app: FastAPI, routes: Routes, told: Told) -> None:
    """Have `app.openapi()` give `documented`."""
    plain = app.openapi
    done: list[dict[str, Any]] = []

    def openapi() -> dict[str, Any]:
        document = plain()
        # FastAPI keeps its document; a fresh one comes after somebody has thrown it away.
        if not done or done[0] is not document:
            by_path = {(one.path_format, method.lower()): one for one in routes for method in one.methods}
            done[:] = [documented(document, by_path, told)]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it
