"""What goes wrong, as the caller sees it: a problem document with the right status, and nothing he must not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from examples.ledger import problems
from holdfast import errors
from holdfast.outcome import Failure, FailureClass, Rejection, Stage
from tests.ledger.conftest import Running

SECRET = "hunter2"

ANSWERS: dict[type[errors.HoldfastError], tuple[int, str, bool]] = {
    # status, the end of the type, whether it says when to come again
    errors.Conflict: (409, "conflict", False),
    errors.ForeignKeyViolation: (422, "data-rejected", False),
    errors.CheckViolation: (422, "data-rejected", False),
    errors.InvalidData: (422, "data-rejected", False),
    errors.DataRejected: (422, "data-rejected", False),
    errors.KeyReused: (422, "idempotency-key-reused", False),
    errors.InProgress: (409, "in-progress", True),
    errors.RateLimited: (429, "rate-limited", True),
    errors.Contended: (503, "contended", True),
    errors.Overloaded: (503, "overloaded", True),
    errors.Unavailable: (503, "unavailable", True),
    errors.BreakerOpen: (503, "unavailable", True),
    errors.BulkheadFull: (503, "unavailable", True),
    errors.NoWriter: (503, "unavailable", True),
    errors.LoadShed: (503, "unavailable", True),
    errors.Rejected: (503, "unavailable", True),
    errors.StorageExhausted: (503, "unavailable", True),
    errors.NotCommitted: (503, "unavailable", True),
    errors.DeadlineExceeded: (504, "deadline-exceeded", True),
    errors.OutcomeUnknown: (504, "outcome-unknown", True),
    errors.SchemaMismatch: (500, "internal", False),
    errors.AccessDenied: (500, "internal", False),
    errors.StatementRejected: (500, "internal", False),
    errors.ResultNotSerializable: (500, "internal", False),
    errors.ConfigurationError: (500, "internal", False),
    errors.MissingExtra: (500, "internal", False),
    errors.UsageError: (500, "internal", False),
    errors.DrillFailed: (500, "internal", False),
    errors.ForeignTransaction: (500, "internal", False),
    errors.BlockTimedOut: (504, "deadline-exceeded", True),
    errors.HoldfastError: (500, "internal", False),
}


def kinds(root: type[errors.HoldfastError] = errors.HoldfastError) -> Iterator[type[errors.HoldfastError]]:
    """Every error that Holdfast can raise."""
    yield root
    for derived in root.__subclasses__():
        if derived.__module__ == errors.__name__:
            yield from kinds(derived)


async def answer_to(error: Exception) -> httpx2.Response:
    """What a service answers whose operation raises `error`."""
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    async def fail() -> None:
        raise error

    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://ledger") as http:
        return await http.get("/")


def test_every_error_has_an_answer() -> None:
    """An error that is added to Holdfast must be given its status here."""
    assert set(ANSWERS) == set(kinds())


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
async def test_error_becomes_a_problem_document(kind: type[errors.HoldfastError]) -> None:
    """Status, type, outcome and Retry-After are right, and the error's own text stays in the log."""
    status, name, comes_again = ANSWERS[kind]
    failure = Failure(FailureClass.PERMANENT, Stage.BODY, rejection=Rejection.OTHER, table=SECRET, columns=(SECRET,))
    answer = await answer_to(kind(f"operation {SECRET} failed", failure=failure))
    document = answer.json()
    assert answer.status_code == document["status"] == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert document["type"] == f"urn:ledger:problem:{name}"
    assert document["title"]
    assert document["detail"].endswith(".")
    assert ("Retry-After" in answer.headers) is comes_again
    assert document.get("outcome") == (kind.outcome.value if kind.outcome else None)
    assert SECRET not in answer.text


async def test_unknown_outcome_tells_to_repeat_with_the_same_key() -> None:
    """The one answer that leaves the caller in doubt says how the doubt ends."""
    document = (await answer_to(errors.OutcomeUnknown("..."))).json()
    assert document["outcome"] == "unknown"
    assert "with the same key" in document["detail"]


async def test_retry_after_is_what_the_error_says_rounded_up() -> None:
    """A caller who waits that long does not come too early."""
    assert (await answer_to(errors.BreakerOpen("...", retry_after_s=4.2))).headers["Retry-After"] == "5"


async def test_unexpected_error_shows_nothing_of_itself() -> None:
    """No text and no stack trace of an error that nobody thought of reaches the caller."""
    answer = await answer_to(RuntimeError(SECRET))
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text


INVALID: dict[str, tuple[str, dict[str, Any], str]] = {
    "no age": ("users", {"username": "ada", "name": "Ada"}, "body.age"),
    "null age": ("users", {"username": "ada", "name": "Ada", "age": None}, "body.age"),
    "long name": ("users", {"username": "a" * 101, "name": "Ada", "age": 1}, "body.username"),
    "odd name": ("users", {"username": SECRET + " <", "name": "Ada", "age": 1}, "body.username"),
    "three places": (
        "accounts",
        {"owner_id": 1, "currency": "EUR", "opening_balance": "1.001"},
        "body.opening_balance",
    ),
    "binary money": ("accounts", {"owner_id": 1, "currency": "EUR", "opening_balance": 0.1}, "body.opening_balance"),
    "debt": ("accounts", {"owner_id": 1, "currency": "EUR", "opening_balance": "-1"}, "body.opening_balance"),
    "nothing moves": ("transfers", {"source_id": 1, "target_id": 2, "amount": "0"}, "body.amount"),
    "to itself": ("transfers", {"source_id": 1, "target_id": 1, "amount": "1"}, "body"),
}


@pytest.mark.parametrize(("path", "body", "field"), INVALID.values(), ids=INVALID)
async def test_invalid_request_names_the_field_and_not_the_value(
    ledger: Running, path: str, body: dict[str, Any], field: str
) -> None:
    """What breaks a rule is 422 and says where, before the database is asked."""
    answer = await ledger.post(path, body, "k")
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert SECRET not in answer.text


@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b"\xff"])
async def test_what_is_no_object_is_a_problem_too(ledger: Running, content: bytes) -> None:
    """Broken JSON is the caller's error, not the service's."""
    answer = await ledger.http.post("/api/v1/users", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_taken_name_is_a_conflict(ledger: Running) -> None:
    """The second Ada is refused, whatever the case of her name."""
    await ledger.post("users", {"username": "ada", "name": "Ada", "age": 36})
    answer = await ledger.post("users", {"username": "ADA", "name": "Another", "age": 20})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:ledger:problem:conflict")


@pytest.mark.parametrize("path", ["users/9", "accounts/9", "accounts/9/history", "transfers/9", "nowhere"])
async def test_missing_row_is_not_found(ledger: Running, path: str) -> None:
    """What is not there is 404, as a problem document."""
    answer = await ledger.get(path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("accounts", {"owner_id": 9, "currency": "EUR"}),
        ("transfers", {"source_id": 1, "target_id": 9, "amount": "1"}),
    ],
)
async def test_reference_to_a_missing_row_is_not_found(ledger: Running, path: str, body: dict[str, Any]) -> None:
    """So is what a request refers to; the text says which."""
    await ledger.open_accounts("10")
    answer = await ledger.post(path, body, "k")
    assert answer.status_code == 404
    assert ("owner_id" if path == "accounts" else "target_id") in answer.json()["detail"]


async def test_currencies_do_not_mix(ledger: Running) -> None:
    """Euros cannot be moved to an account in dollars."""
    (source,) = await ledger.open_accounts("10")
    target = (await ledger.post("accounts", {"owner_id": 1, "currency": "usd"})).json()["id"]
    answer = await ledger.post("transfers", {"source_id": source, "target_id": target, "amount": "1"}, "k")
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:ledger:problem:currency-mismatch")


@pytest.mark.parametrize("key", [None, "", '""', "two words", '"unclosed', "k" * 256, "schlüssel"])
async def test_transfer_needs_a_key_that_is_one(ledger: Running, key: str | None) -> None:
    """Without a proper key no money moves."""
    source, target = await ledger.open_accounts("10", "0")
    headers = {} if key is None else {b"Idempotency-Key": key.encode()}
    body = {"source_id": source, "target_id": target, "amount": "1"}
    answer = await ledger.http.post("/api/v1/transfers", json=body, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:ledger:problem:idempotency-key-missing")
    assert (await ledger.get(f"accounts/{source}")).json()["balance"] == "10.00"


async def test_wrong_method_says_which_are_right(ledger: Running) -> None:
    """HTTP's own headers survive in the problem document's answer."""
    answer = await ledger.http.put("/api/v1/users", json={})
    assert (answer.status_code, answer.headers["Content-Type"]) == (405, "application/problem+json")
    assert "GET" in answer.headers["Allow"] or "POST" in answer.headers["Allow"]


async def test_problems_are_documented(ledger: Running) -> None:
    """Every route's documentation names the problems and their media type."""
    paths = (await ledger.http.get("/openapi.json")).json()["paths"]
    for path in ("/api/v1/users", "/api/v1/transfers"):
        responses = paths[path]["post"]["responses"]
        assert {"400", "404", "409", "422", "429", "503", "504"} <= set(responses)
        assert all("application/problem+json" in responses[status]["content"] for status in ("409", "422", "503"))
