"""What the edge adds to an application's OpenAPI document. Pure but for `install_openapi`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from .routes import KEY_MARK, PERMISSION_MARK

__all__ = ["documented", "install_openapi"]

_METHODS = ("get", "put", "post", "delete", "patch", "head", "options", "trace")
_KEYED = frozenset({"post", "put", "patch", "delete"})
_WAITS = frozenset({409, 429, 503, 504})
_MEANING = {
    401: "Nobody proved who asks.",
    403: "It is not allowed.",
    409: "A conflict, or a request with this key is still at work.",
    422: "The request is not valid, or its key belongs to another one.",
    429: "Too many requests.",
    503: "Not now. Nothing was applied.",
    504: "The time was up.",
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
        "outcome": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
}


def documented(document: dict[str, Any], *, authenticated: bool, keyed: bool, limited: bool) -> dict[str, Any]:
    """`document` with the edge's answers and headers, changed in place.

    Args:
        document: an OpenAPI document.
        authenticated: 401 may be answered.
        keyed: keys count.
        limited: 429 may be answered.
    """
    document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _SCHEMA
    for path in document.get("paths", {}).values():
        for method in _METHODS:
            if method in path:
                _describe(
                    path[method], has_key=keyed and method in _KEYED, authenticated=authenticated, limited=limited
                )
    return document


def _describe(operation: dict[str, Any], *, has_key: bool, authenticated: bool, limited: bool) -> None:
    mode = operation.get(KEY_MARK, "optional")
    has_key = has_key and mode != "ignored"
    statuses = {409, 422, 503, 504}
    if limited or has_key:
        statuses.add(429)
    if authenticated:
        statuses.add(401)
    if PERMISSION_MARK in operation:
        statuses |= {401, 403}
    for status in sorted(statuses):
        operation.setdefault("responses", {})[str(status)] = _response(status)
    if has_key:
        operation.setdefault("parameters", []).append(
            {"name": "Idempotency-Key", "in": "header", "required": mode == "required", "schema": {"type": "string"}}
        )


def _response(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    found: dict[str, Any] = {
        "description": _MEANING[status],
        "content": {"application/problem+json": {"schema": schema}},
    }
    if status in _WAITS:
        found["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return found


def install_openapi(app: FastAPI, *, authenticated: bool, keyed: bool, limited: bool) -> None:
    """Have `app.openapi()` give `documented`; the arguments are its own."""
    plain = app.openapi
    done: list[dict[str, Any]] = []

    def openapi() -> dict[str, Any]:
        document = plain()
        # FastAPI keeps its document; a fresh one comes after somebody has thrown it away.
        if not done or done[0] is not document:
            done[:] = [documented(document, authenticated=authenticated, keyed=keyed, limited=limited)]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it
