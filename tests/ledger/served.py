"""The ledger as a real process on a real port, and what tests do to one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from examples.ledger.settings import LedgerSettings
from holdfast.clock import new_token
from holdfast.drills.servers.process import END_WITH_PARENT, free_port
from tests.ledger.conftest import SECRET, TENANT, bearer

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
GENEROUS_S = 60.0
SETTINGS = LedgerSettings.model_validate({"token_secret": SECRET})
LEDGER = ("-m", "examples.ledger")


@dataclass(frozen=True, slots=True)
class Served:
    """One process of the ledger.

    Attributes:
        http: a client of somebody of the tenant `north` who may do everything.
    """

    process: asyncio.subprocess.Process
    port: int
    log: Path
    http: httpx2.AsyncClient

    async def post(
        self,
        path: str,
        body: dict[str, Any],
        key: str | None = None,
        *,
        tenant: str = TENANT,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Send a request to the API."""
        headers = {**bearer(SETTINGS, tenant), **(headers or {}), **({} if key is None else {"Idempotency-Key": key})}
        return await self.http.post(f"/api/v1/{path}", json=body, headers=headers)

    async def get(self, path: str, *, tenant: str = TENANT) -> httpx2.Response:
        """Ask the API."""
        return await self.http.get(f"/api/v1/{path}", headers=bearer(SETTINGS, tenant))

    async def open_accounts(self, *balances: str, tenant: str = TENANT) -> list[int]:
        """A user with one account for each balance; their ids."""
        new = {"username": f"owner-{new_token()}", "name": "Owner", "age": 40}
        owner = (await self.post("users", new, "owner", tenant=tenant)).json()["id"]
        bodies = [{"owner_id": owner, "currency": "EUR", "opening_balance": balance} for balance in balances]
        return [(await self.post("accounts", body, tenant=tenant)).json()["id"] for body in bodies]

    async def applied(self, reference: str, *, tenant: str = TENANT) -> int:
        """How many of the tenant's transfers by this reference there are, asked of the accounts' histories."""
        found = set()
        users = (await self.get("users", tenant=tenant)).json()["items"]
        assert users, "nobody owns anything"
        for account in range(1, 50):
            answer = await self.get(f"accounts/{account}/history?limit=100", tenant=tenant)
            if answer.status_code == 200:
                found |= {entry["transfer_id"] for entry in answer.json()["items"] if entry["reference"] == reference}
        return len(found)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Tell it."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; its exit status."""
        async with asyncio.timeout(GENEROUS_S):
            return await self.process.wait()

    def said(self) -> str:
        """Its log."""
        return self.log.read_text()


@asynccontextmanager
async def serve(
    folder: Path,
    url: str,
    environment: Mapping[str, str] | None = None,
    *,
    program: tuple[str, ...] = LEDGER,
    port: int | None = None,
) -> AsyncIterator[Served]:
    """A process of the ledger that answers; killed if a test leaves it running. `environment` is more of that."""
    port = port or free_port()
    log = folder / f"{new_token()}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *END_WITH_PARENT,
            *(sys.executable, *program),
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "LEDGER_DATABASE_URL": url,
                "LEDGER_TOKEN_SECRET": SECRET,
                "LEDGER_PORT": str(port),
                "LEDGER_LAME_DUCK": "0",
                **(environment or {}),
            },
            stdout=output,
            stderr=output,
        )
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=200)
    address = f"http://{HOST}:{port}"
    async with httpx2.AsyncClient(base_url=address, timeout=GENEROUS_S, limits=limits, trust_env=False) as http:
        served = Served(process, port, log, http)
        try:
            async with asyncio.timeout(GENEROUS_S):
                while "Shutdown takes" not in served.said():
                    assert process.returncode is None, f"it ended instead of serving: {served.said()}"
                    await asyncio.sleep(0.02)
            yield served
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
