"""What goes wrong, as RFC 9457 problem documents: what happened, whether anything was applied, and what to do next.

A document never holds a value, a key, a name of the schema or a stack trace; those are for the log.

| what happened | status | |
|---|---|---|
| the request breaks a rule | 422 | `errors` says which field |
| the key belongs to another request | 422 | |
| no such row | 404 | |
| a unique name is taken | 409 | |
| not enough money | 409 | the request is valid, the account's state is in its way: the same request may succeed later |
| the same key is still at work | 409 | `Retry-After` |
| too many requests | 429 | `Retry-After` |
| the database is busy, away or overloaded | 503 | `Retry-After`; nothing was applied |
| the time was up | 504 | `Retry-After`; `outcome` says whether something may have been applied; the same key settles it |
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from holdfast.errors import (
    BlockTimedOut,
    Conflict,
    Contended,
    DataRejected,
    DeadlineExceeded,
    HoldfastError,
    InProgress,
    KeyReused,
    NotCommitted,
    OutcomeUnknown,
    Overloaded,
    RateLimited,
    Rejected,
    ResultNotSerializable,
    StatementRejected,
    Unavailable,
)

from .domain import CurrencyMismatch, InsufficientFunds, LedgerError, NotFound

__all__ = ["DOCUMENTED", "KeyMissing", "install"]

_log = logging.getLogger("ledger")

_MEDIA_TYPE = "application/problem+json"


class KeyMissing(LedgerError):
    """The header `Idempotency-Key` is missing or malformed."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of problem.

    Attributes:
        status: the HTTP status.
        name: the end of the document's `type`; stable, for programs.
        detail: what it means for the caller; None: the exception's own text, which is written for callers.
        retry_after_s: seconds for `Retry-After` where the exception has none; None: repeating it changes nothing.
    """

    status: int
    name: str
    detail: str | None = None
    retry_after_s: float | None = None


_SAME_KEY = "Repeat the request with the same key."

# The first class that fits speaks, so a class stands before those it derives from.
_KINDS: dict[type[Exception], _Kind] = {
    NotFound: _Kind(404, "not-found"),
    InsufficientFunds: _Kind(409, "insufficient-funds"),
    CurrencyMismatch: _Kind(422, "currency-mismatch"),
    KeyMissing: _Kind(400, "idempotency-key-missing"),
    KeyReused: _Kind(
        422, "idempotency-key-reused", "The key belongs to another request. Use a new key for a new request."
    ),
    InProgress: _Kind(409, "in-progress", f"A request with this key is still at work. {_SAME_KEY}", 1),
    Conflict: _Kind(409, "conflict", "It exists already."),
    DataRejected: _Kind(422, "data-rejected", "The data breaks a rule of the ledger."),
    RateLimited: _Kind(429, "rate-limited", f"Too many requests. Nothing was applied. {_SAME_KEY}", 1),
    Contended: _Kind(503, "contended", f"Others were faster, every time. Nothing was applied. {_SAME_KEY}", 1),
    Overloaded: _Kind(503, "overloaded", f"There is too much to do. Nothing was applied. {_SAME_KEY}", 5),
    Unavailable: _Kind(503, "unavailable", f"The database is away. Nothing was applied. {_SAME_KEY}", 2),
    Rejected: _Kind(503, "unavailable", f"The service protects its database. Nothing was applied. {_SAME_KEY}", 2),
    DeadlineExceeded: _Kind(504, "deadline-exceeded", f"The time was up. Nothing was applied. {_SAME_KEY}", 1),
    OutcomeUnknown: _Kind(504, "outcome-unknown", f"It may have been applied. {_SAME_KEY} That settles it.", 1),
    BlockTimedOut: _Kind(504, "deadline-exceeded", f"The time was up. {_SAME_KEY}", 1),
    StatementRejected: _Kind(500, "internal", "The service is set up wrongly. Nothing was applied."),
    ResultNotSerializable: _Kind(500, "internal", "The service failed. Nothing was applied."),
    NotCommitted: _Kind(503, "unavailable", f"It could not be saved. Nothing was applied. {_SAME_KEY}", 5),
}

_INTERNAL = _Kind(500, "internal", "The service failed. Its log says why.")

DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {"description": HTTPStatus(status).phrase, "content": {_MEDIA_TYPE: {}}}
    for status in sorted({422, *(kind.status for kind in _KINDS.values())} - {500})
}
"""The problems of every route, for the OpenAPI document."""


def install(app: FastAPI) -> None:
    """Have `app` answer every error with a problem document."""
    for error_class in (LedgerError, HoldfastError, Exception):
        app.add_exception_handler(error_class, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)


async def _answer(_request: Request, error: Exception) -> JSONResponse:
    kind = next((found for error_class, found in _KINDS.items() if isinstance(error, error_class)), _INTERNAL)
    outcome = getattr(error, "outcome", None)
    # The log gets what the caller must not see: codes, names of the schema, attempts.
    _log.log(logging.ERROR if kind.status == 500 else logging.INFO, "answered %d: %s", kind.status, error)
    return _document(
        kind.status,
        kind.name,
        kind.detail or _sentence(str(error)),
        retry_after_s=getattr(error, "retry_after_s", None) or kind.retry_after_s,
        **({} if outcome is None else {"outcome": outcome.value}),
    )


async def _answer_invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [{"field": ".".join(map(str, found["loc"])), "detail": _advice(found)} for found in error.errors()]
    return _document(422, "invalid-request", "The request breaks a rule.", errors=errors)


async def _answer_http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = _sentence(status.description or status.phrase)
    return _document(status.value, status.phrase.lower().replace(" ", "-"), detail, headers=error.headers)


def _document(
    status: int,
    name: str,
    detail: str,
    *,
    retry_after_s: float | None = None,
    headers: Any = None,
    **members: Any,
) -> JSONResponse:
    document = {
        "type": f"urn:ledger:problem:{name}",
        "title": name.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        **members,
    }
    headers = dict(headers or {})
    if retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(retry_after_s))
    return JSONResponse(document, status, headers, media_type=_MEDIA_TYPE)


def _advice(found: Mapping[str, Any]) -> str:
    # Pydantic's errors hold the input as well; only the text leaves, in the words of JSON.
    if found["type"] == "dataclass_type":
        return "This should be a JSON object."
    return _sentence(found["msg"].removeprefix("Value error, "))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
