"""The ledger as tests use it: the whole service on a database of its own, spoken to over HTTP without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from examples.ledger.demo.truth import Applied, count
from examples.ledger.main import create_app, open_database
from examples.ledger.settings import LedgerSettings
from holdfast.ext.sqlalchemy import AsyncDatabase


@dataclass(frozen=True, slots=True)
class Running:
    """A running ledger."""

    app: FastAPI
    db: AsyncDatabase
    http: httpx2.AsyncClient

    async def post(self, path: str, body: dict[str, Any], key: str | None = None) -> httpx2.Response:
        """Send a request to the API."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.http.post(f"/api/v1/{path}", json=body, headers=headers)

    async def get(self, path: str) -> httpx2.Response:
        """Ask the API."""
        return await self.http.get(f"/api/v1/{path}")

    async def open_accounts(self, *balances: str) -> list[int]:
        """A user with one account for each balance; their ids."""
        owner = (await self.post("users", {"username": "owner", "name": "Owner", "age": 40})).json()["id"]
        bodies = [{"owner_id": owner, "currency": "EUR", "opening_balance": balance} for balance in balances]
        return [(await self.post("accounts", body)).json()["id"] for body in bodies]

    async def applied(self) -> Applied:
        """What is in the database, asked past the service."""
        async with self.db.engine.connect() as connection:
            return await count(connection)


@asynccontextmanager
async def run_ledger(url: str) -> AsyncIterator[Running]:
    """The service on the database at `url`, started and stopped as in earnest."""
    db = open_database(LedgerSettings.model_validate({"database_url": url}))
    app = create_app(db)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://ledger") as http,
    ):
        yield Running(app, db, http)


@pytest.fixture
async def ledger(sqlite_url: str) -> AsyncIterator[Running]:
    """A ledger on a new SQLite file."""
    async with run_ledger(sqlite_url) as running:
        yield running


@pytest.fixture
def ledger_at() -> Callable[[str], AbstractAsyncContextManager[Running]]:
    """Starts a ledger on the database at a URL."""
    return run_ledger


@pytest.fixture(autouse=True)
def _no_operations_of_others(request: pytest.FixtureRequest) -> None:
    """The demo touches no table that it did not make; tests before this one may have left theirs on the shared servers."""
    for name in {"mariadb_server", "postgresql_server", "mysql_server"}.intersection(request.fixturenames):
        server = request.getfixturevalue(name)
        server.execute("DROP TABLE IF EXISTS holdfast_operations", database=server.database)
