"""Tenants see nothing of each other: not a row, not a name, not a key, not a byte."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from examples.ledger import tables
from examples.ledger.access import READ
from tests.ledger.conftest import Running

ADA = {"username": "ada", "name": "Ada", "age": 36}
SOUTH = "south"


async def moved(ledger: Running, tenant: str) -> dict[str, Any]:
    """A tenant with two accounts and a transfer between them, by the key `k`; what it was answered."""
    source, target = await ledger.open_accounts("10", "0", tenant=tenant)
    order = {"source_id": source, "target_id": target, "amount": "4", "reference": tenant}
    answer = await ledger.post("transfers", order, "k", tenant=tenant)
    assert answer.status_code == 201
    document: dict[str, Any] = answer.json()
    return document


# -- keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["users", "accounts", "transfers"])
async def test_same_key_of_another_tenant_has_its_own_effect(ledger: Running, path: str) -> None:
    """The same key and the very same bytes: each tenant gets an effect and an answer of its own."""
    bodies = []
    for tenant in ("north", SOUTH):
        source, target = await ledger.open_accounts("10", "0", tenant=tenant)
        owner = (await ledger.get(f"accounts/{source}", tenant=tenant)).json()["owner_id"]
        opened = {"owner_id": owner, "currency": "EUR"}
        order = {"source_id": source, "target_id": target, "amount": "4"}
        bodies.append({"users": ADA, "accounts": opened, "transfers": order}[path])
    north = await ledger.post(path, bodies[0], "k")
    south = await ledger.post(path, bodies[1], "k", tenant=SOUTH)
    assert (north.status_code, south.status_code) == (201, 201)
    assert north.json()["id"] != south.json()["id"]
    assert north.headers["Location"] != south.headers["Location"]
    assert "Idempotency-Replayed" not in south.headers
    again = await ledger.post(path, bodies[1], "k", tenant=SOUTH)
    assert (again.content, again.headers["Idempotency-Replayed"]) == (south.content, "true")


async def test_key_belongs_to_whoever_sent_it(ledger: Running) -> None:
    """Within a tenant, too, another one's key is just a key that nobody has used."""
    first = await ledger.post("users", ADA, "k")
    headers = {**ledger.bearer(subject="eve"), "Idempotency-Key": "k"}
    other = await ledger.http.post("/api/v1/users", json=ADA, headers=headers)
    assert (first.status_code, other.status_code) == (201, 409)
    assert "Idempotency-Replayed" not in other.headers


async def test_who_may_no_longer_write_gets_no_stored_answer(ledger: Running) -> None:
    """A repetition is authorised anew: 401 or 403, and nothing of what was answered."""
    first = await ledger.post("users", ADA, "k")
    headers = {**ledger.bearer(scope=READ), "Idempotency-Key": "k"}
    revoked = await ledger.http.post("/api/v1/users", json=ADA, headers=headers)
    nobody = await ledger.http.post("/api/v1/users", json=ADA, headers={"Idempotency-Key": "k", "Authorization": ""})
    assert [answer.status_code for answer in (first, revoked, nobody)] == [201, 403, 401]
    assert '"ada"' not in revoked.text + nobody.text  # quoted: the ids of requests are hexadecimal


# -- rows -----------------------------------------------------------------------------------------------------------------


async def test_ids_of_another_tenant_are_not_found(ledger: Running) -> None:
    """Read, listed or referred to: what belongs to somebody else is not there, and does not look different from nothing."""
    north = await moved(ledger, "north")
    south = await moved(ledger, SOUTH)
    user = (await ledger.get("users")).json()["items"][0]["id"]
    for path in (
        f"users/{user}",
        f"accounts/{north['source_id']}",
        f"accounts/{north['source_id']}/history",
        f"transfers/{north['id']}",
    ):
        theirs = await ledger.get(path, tenant=SOUTH)
        nothing = await ledger.get(re.sub(r"\d+", "999999", path), tenant=SOUTH)
        assert theirs.status_code == nothing.status_code == 404
        assert theirs.json()["detail"] == nothing.json()["detail"]
        assert (await ledger.get(path)).status_code == 200
    for path, body in (
        ("accounts", {"owner_id": user, "currency": "EUR"}),
        ("transfers", {"source_id": north["source_id"], "target_id": south["target_id"], "amount": "1"}),
        ("transfers", {"source_id": south["source_id"], "target_id": north["target_id"], "amount": "1"}),
    ):
        assert (await ledger.post(path, body, "other", tenant=SOUTH)).status_code == 404
    assert (await ledger.get(f"accounts/{north['source_id']}")).json()["balance"] == "6.00"


async def test_lists_and_sums_hold_ones_own_alone(ledger: Running) -> None:
    """Names may be taken by another tenant, lists do not show its rows, and books do not count its money."""
    for tenant, amount in (("north", "10"), (SOUTH, "3")):
        assert (await ledger.post("users", ADA, tenant=tenant)).status_code == 201
        await ledger.open_accounts(amount, tenant=tenant)
    for tenant, amount in (("north", "10.00"), (SOUTH, "3.00")):
        names = [user["username"] for user in (await ledger.get("users", tenant=tenant)).json()["items"]]
        assert names == ["ada", "owner"]
        books = (await ledger.get("books", tenant=tenant)).json()
        assert books == {"sums": [{"currency": "EUR", "opened": amount, "held": amount}], "balanced": True}
    assert (await ledger.get("users", tenant="west")).json() == {"items": [], "next": None}


@pytest.mark.parametrize("tenant", ["North", "north ", "nörth", "", "n" * 64, "no/rth"])
async def test_tenant_that_a_database_could_mistake_is_refused(ledger: Running, tenant: str) -> None:
    """Databases disagree on letter case, accents and spaces; a tenant must never be another one."""
    answer = await ledger.get("users", tenant=tenant)
    assert answer.status_code in {401, 403}
    assert answer.headers["Content-Type"] == "application/problem+json"


# -- the database ---------------------------------------------------------------------------------------------------------


async def test_database_refuses_a_row_that_points_at_another_tenant(ledger: Running) -> None:
    """Even a mistake in the code could not make one."""
    north = await moved(ledger, "north")
    await moved(ledger, SOUTH)
    for statement in (
        "UPDATE accounts SET tenant = 'south' WHERE id = :account",
        "INSERT INTO accounts SELECT 99, 'south', owner_id, currency, 0, 0, created FROM accounts WHERE id = :account",
        "INSERT INTO entries SELECT 99, 'south', transfer_id, account_id, 0, 0 FROM entries WHERE account_id = :account",
    ):
        with pytest.raises(IntegrityError):
            async with ledger.db.engine.begin() as connection:
                await connection.execute(text(statement), {"account": north["source_id"]})


OURS = re.compile(r"\b(users|accounts|transfers|entries)\b")


@contextmanager
def statements(ledger: Running) -> Iterator[list[str]]:
    """The statements on the ledger's tables that the database is given meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if OURS.search(statement):
            seen.append(statement)

    engine = ledger.db.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def without_a_tenant(seen: list[str]) -> list[str]:
    """Those that do not name the tenant where they choose or make rows."""
    parts = {"INSERT": r"INSERT INTO \w+ \(([^)]*)\)", "SELECT": r"WHERE (.*)", "UPDATE": r"WHERE (.*)"}
    found = []
    for statement in seen:
        flat = " ".join(statement.split())
        chosen = re.search(parts.get(flat.split()[0], "$^"), flat)
        if chosen is None or not re.search(r"\btenant\b", chosen[1]):
            found.append(flat)
    return found


async def test_every_statement_names_the_tenant(ledger: Running) -> None:
    """Whatever the service asks of the ledger's tables, the rows are chosen by their tenant."""
    with statements(ledger) as seen:
        north = await moved(ledger, "north")
        for path in ("users", "users/1", "books", f"transfers/{north['id']}"):
            assert (await ledger.get(path)).status_code == 200
        for path in ("", "/history"):
            assert (await ledger.get(f"accounts/{north['source_id']}{path}")).status_code == 200
    kinds = {(statement.split()[0], found[1]) for statement in seen if (found := OURS.search(statement))}
    assert {("INSERT", name) for name in ("users", "accounts", "transfers", "entries")} <= kinds
    assert {("SELECT", name) for name in ("users", "accounts", "transfers", "entries")} <= kinds
    assert ("UPDATE", "accounts") in kinds
    assert without_a_tenant(seen) == []


async def test_planted_statement_without_a_tenant_is_seen(ledger: Running) -> None:
    """A query that forgets it is found."""

    async def forgetful(tx: AsyncSession) -> None:
        await tx.scalars(select(tables.User).where(tables.User.id == 1))

    with statements(ledger) as seen:
        await ledger.db.read(forgetful)
    assert len(without_a_tenant(seen)) == 1
