"""The ledger's API: what it answers when the database does its part."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.ledger.conftest import Running

ADA = {"username": "Ada", "name": "Ada Lovelace", "age": 36}


async def test_user_is_saved_and_found(ledger: Running) -> None:
    """A user comes back with an id, under the address in `Location`."""
    added = await ledger.post("users", ADA)
    assert added.status_code == 201
    assert added.headers["Location"] == f"/api/v1/users/{added.json()['id']}"
    assert added.json() == {**ADA, "username": "ada", "id": added.json()["id"], "created": added.json()["created"]}
    assert (await ledger.http.get(added.headers["Location"])).json() == added.json()


async def test_users_are_listed_page_by_page(ledger: Running) -> None:
    """Following `next` shows every user once, in order."""
    names = [f"user-{number}" for number in range(5)]
    for name in names:
        await ledger.post("users", {**ADA, "username": name})
    found: list[str] = []
    address = "/api/v1/users?limit=2"
    while address:
        page = (await ledger.http.get(address)).json()
        found += [user["username"] for user in page["items"]]
        address = page["next"]
    assert found == names


async def test_transfer_moves_money_in_two_entries(ledger: Running) -> None:
    """Balances change by the amount, and both sides have it in their history, the newest first."""
    source, target = await ledger.open_accounts("100.00", "0")
    order = {"source_id": source, "target_id": target, "amount": "12.50", "reference": "rent"}
    moved = await ledger.post("transfers", order, "k1")
    await ledger.post("transfers", {**order, "amount": "1", "reference": "tip"}, "k2")
    assert moved.status_code == 201
    assert moved.json() == {**order, "currency": "EUR", "id": moved.json()["id"], "created": moved.json()["created"]}
    assert (await ledger.http.get(moved.headers["Location"])).json() == moved.json()
    assert (await ledger.get(f"accounts/{source}")).json()["balance"] == "86.50"
    assert (await ledger.get(f"accounts/{target}")).json()["balance"] == "13.50"
    first = (await ledger.get(f"accounts/{source}/history?limit=1")).json()
    rest = (await ledger.http.get(first["next"])).json()
    entries = [(entry["reference"], entry["amount"], entry["balance"]) for entry in first["items"] + rest["items"]]
    assert entries == [("tip", "-1.00", "86.50"), ("rent", "-12.50", "87.50")]
    assert (await ledger.applied()).balanced


async def test_transfers_at_once_keep_the_books(ledger: Running) -> None:
    """Forty transfers to and fro at once lose no update."""
    first, second = await ledger.open_accounts("500", "500")
    ways = [(first, second), (second, first)]
    orders: list[dict[str, Any]] = [
        {"source_id": source, "target_id": target, "amount": f"{number % 7 + 1}", "reference": f"r{number}"}
        for number in range(40)
        for source, target in (ways[number % 3 == 0],)
    ]
    answers = await asyncio.gather(*(ledger.post("transfers", order, order["reference"]) for order in orders))
    assert {answer.status_code for answer in answers} == {201}
    there = 500 + sum(int(order["amount"]) * (1 if order["source_id"] == second else -1) for order in orders)
    assert (await ledger.get(f"accounts/{first}")).json()["balance"] == f"{there}.00"
    assert (await ledger.applied()).balanced


async def test_more_than_there_is_cannot_be_moved(ledger: Running) -> None:
    """A transfer that would overdraw is refused, changes nothing, and may succeed later under the same key."""
    source, target = await ledger.open_accounts("5", "5")
    order = {"source_id": source, "target_id": target, "amount": "5.01"}
    refused = await ledger.post("transfers", order, "k")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:holdfast:problem:insufficient-funds")
    assert (await ledger.get(f"accounts/{source}")).json()["balance"] == "5.00"
    await ledger.post("transfers", {"source_id": target, "target_id": source, "amount": "1"}, "refill")
    assert (await ledger.post("transfers", order, "k")).status_code == 201


# -- keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["users", "accounts", "transfers"])
async def test_same_key_gets_the_same_answer_and_no_second_effect(ledger: Running, path: str) -> None:
    """Asked again, quoted or bare, each POST answers byte for byte what it answered first, and says so."""
    source, target = await ledger.open_accounts("10", "0")
    body: dict[str, object] = {
        "users": ADA,
        "accounts": {"owner_id": 1, "currency": "USD", "opening_balance": "7"},
        "transfers": {"source_id": source, "target_id": target, "amount": "4", "reference": "once"},
    }[path]
    first = await ledger.post(path, body, "key-1")
    again = await ledger.post(path, body, '"key-1"')
    assert first.status_code == 201
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (again.status_code, again.content, again.headers["Location"]) == (
        first.status_code,
        first.content,
        first.headers["Location"],
    )
    assert (await ledger.get(f"accounts/{source}")).json()["balance"] == ("6.00" if path == "transfers" else "10.00")
    assert len((await ledger.get("users")).json()["items"]) == (2 if path == "users" else 1)


async def test_same_key_for_another_request_is_refused(ledger: Running) -> None:
    """The key of one transfer cannot be used for another."""
    source, target = await ledger.open_accounts("10", "0")
    order = {"source_id": source, "target_id": target, "amount": "4"}
    await ledger.post("transfers", order, "k")
    refused = await ledger.post("transfers", {**order, "amount": "5"}, "k")
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:holdfast:problem:key-reused")
    assert (await ledger.get(f"accounts/{source}")).json()["balance"] == "6.00"


async def test_fifty_identical_requests_at_once_have_one_effect(ledger: Running) -> None:
    """Whoever comes first moves the money; all get that answer."""
    source, target = await ledger.open_accounts("100", "0")
    order = {"source_id": source, "target_id": target, "amount": "4", "reference": "all"}
    answers = await asyncio.gather(*(ledger.post("transfers", order, "k") for _ in range(50)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert (await ledger.applied()).times["all"] == 1
    assert (await ledger.get(f"accounts/{target}")).json()["balance"] == "4.00"
