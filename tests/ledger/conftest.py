"""The ledger as tests use it: the whole service on a database of its own, spoken to over HTTP without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from examples.ledger.access import EVERYTHING
from examples.ledger.demo.truth import Applied, count
from examples.ledger.main import create_app, open_database
from examples.ledger.settings import LedgerSettings, edge_settings
from examples.ledger.token import token
from holdfast.ext.sqlalchemy import AsyncDatabase
from holdfast.shutdown import Drain, DrainSettings

SECRET = "a secret of at least 32 bytes, for tests"
TENANT = "north"


@dataclass(frozen=True, slots=True)
class Running:
    """A running ledger.

    Attributes:
        http: the client of somebody of the tenant `north` who may do everything.
    """

    app: FastAPI
    db: AsyncDatabase
    settings: LedgerSettings
    http: httpx2.AsyncClient

    async def post(
        self, path: str, body: dict[str, Any], key: str | None = None, *, tenant: str = TENANT
    ) -> httpx2.Response:
        """Send a request to the API."""
        headers = self.bearer(tenant) if key is None else {**self.bearer(tenant), "Idempotency-Key": key}
        return await self.http.post(f"/api/v1/{path}", json=body, headers=headers)

    async def get(self, path: str, *, tenant: str = TENANT) -> httpx2.Response:
        """Ask the API."""
        return await self.http.get(f"/api/v1/{path}", headers=self.bearer(tenant))

    def bearer(self, tenant: str = TENANT, subject: str = "ada", scope: str = " ".join(EVERYTHING)) -> dict[str, str]:
        """The header by which somebody proves who it is."""
        return bearer(self.settings, tenant, subject, scope)

    async def open_accounts(self, *balances: str, tenant: str = TENANT) -> list[int]:
        """A user with one account for each balance; their ids."""
        new = {"username": "owner", "name": "Owner", "age": 40}
        # With a key: the first one of a tenant has the service count its keys, which faults of a test must not meet.
        owner = (await self.post("users", new, "owner", tenant=tenant)).json()["id"]
        bodies = [{"owner_id": owner, "currency": "EUR", "opening_balance": balance} for balance in balances]
        return [(await self.post("accounts", body, tenant=tenant)).json()["id"] for body in bodies]

    async def applied(self) -> Applied:
        """What is in the database, asked past the service."""
        async with self.db.engine.connect() as connection:
            return await count(connection)


def bearer(
    settings: LedgerSettings, tenant: str = TENANT, subject: str = "ada", scope: str = " ".join(EVERYTHING)
) -> dict[str, str]:
    """The header by which somebody proves who it is, to a ledger with these settings."""
    return {"Authorization": f"Bearer {token(settings, tenant, subject, scope)}"}


@asynccontextmanager
async def run_ledger(url: str, **edge: Any) -> AsyncIterator[Running]:
    """The service on the database at `url`, started and stopped as in earnest; `edge` changes settings of its edge."""
    settings = LedgerSettings.model_validate({"database_url": url, "token_secret": SECRET})
    configured = edge_settings().model_copy(update=edge)
    db = open_database(settings, configured)
    app = create_app(db, settings, configured, drain=Drain(DrainSettings(lame_duck=0)))
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        _alive(app),
        httpx2.AsyncClient(transport=transport, base_url="http://ledger", headers=bearer(settings)) as http,
    ):
        yield Running(app, db, settings, http)


@asynccontextmanager
async def _alive(app: FastAPI) -> AsyncIterator[None]:
    """Start the application as a server does, through its layers, and end it so."""
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, told.get, said.put))
    for step in ("startup", "shutdown"):
        told.put_nowait({"type": f"lifespan.{step}"})
        answer = await said.get()
        assert answer["type"] == f"lifespan.{step}.complete", answer
        if step == "startup":
            try:
                yield
            except BaseException:
                life.cancel()
                raise
    await life


@pytest.fixture
async def ledger(sqlite_url: str) -> AsyncIterator[Running]:
    """A ledger on a new SQLite file."""
    async with run_ledger(sqlite_url) as running:
        yield running


@pytest.fixture
def ledger_at() -> Callable[..., AbstractAsyncContextManager[Running]]:
    """Starts a ledger on the database at a URL."""
    return run_ledger


@pytest.fixture(autouse=True)
def _no_operations_of_others(request: pytest.FixtureRequest) -> None:
    """The demo touches no table that it did not make; tests before this one may have left theirs on the shared servers."""
    for name in {"mariadb_server", "postgresql_server", "mysql_server"}.intersection(request.fixturenames):
        server = request.getfixturevalue(name)
        server.execute("DROP TABLE IF EXISTS holdfast_operations", database=server.database)
