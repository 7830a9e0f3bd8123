"""What goes wrong, as the ledger's caller sees it: a problem document with the right status, and nothing he must not know."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ledger.conftest import Running

SECRET = "hunter2"

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
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:holdfast:problem:conflict")


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
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:holdfast:problem:currency-mismatch")


@pytest.mark.parametrize("key", [None, "", '""', "two words", '"unclosed', "k" * 256, "schlüssel"])
async def test_transfer_needs_a_key_that_is_one(ledger: Running, key: str | None) -> None:
    """Without a proper key no money moves."""
    source, target = await ledger.open_accounts("10", "0")
    headers = {} if key is None else {b"Idempotency-Key": key.encode()}
    body = {"source_id": source, "target_id": target, "amount": "1"}
    answer = await ledger.http.post("/api/v1/transfers", json=body, headers=headers)
    code = "missing" if key is None else "malformed"
    assert (answer.status_code, answer.json()["type"]) == (400, f"urn:holdfast:problem:idempotency-key-{code}")
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
        assert {"400", "401", "403", "409", "413", "422", "429", "503", "504"} <= set(responses)
        assert all("application/problem+json" in responses[status]["content"] for status in ("409", "422", "503"))
