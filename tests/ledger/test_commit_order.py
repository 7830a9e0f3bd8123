"""No answer leaves before its COMMIT. The other way round a client holds a "201" for what was never saved."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from holdfast.ext.sqlalchemy import AsyncDatabase
from tests.ledger.conftest import Running


class Recorder:
    """What happened in which order: COMMIT at the database, the answer at the network."""

    def __init__(self, app: ASGIApp, db: AsyncDatabase, headers: dict[str, str]) -> None:
        self._headers = headers
        self.order: list[str] = []
        self._app = app
        dialect: Any = db.engine.dialect
        self._do_commit: Callable[[Any], None] = dialect.do_commit
        dialect.do_commit = self._commit

    def _commit(self, connection: Any) -> None:
        self._do_commit(connection)
        self.order.append("COMMIT")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def recording(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.order.append(f"answer {message['status']}")
            await send(message)

        await self._app(scope, receive, recording)

    async def post(self, path: str, body: dict[str, Any]) -> list[str]:
        """The order of what a request brings about."""
        self.order.clear()
        transport = httpx2.ASGITransport(app=self)
        async with httpx2.AsyncClient(transport=transport, base_url="http://ledger") as http:
            await http.post(path, json=body, headers={"Idempotency-Key": f"key-{path}", **self._headers})
        return self.order


@pytest.mark.parametrize("path", ["users", "accounts", "transfers"])
async def test_service_commits_before_it_answers(ledger: Running, path: str) -> None:
    """Every POST: first COMMIT, then the first byte of the answer."""
    source, target = await ledger.open_accounts("10", "0")
    bodies: dict[str, dict[str, Any]] = {
        "users": {"username": "ada", "name": "Ada", "age": 36},
        "accounts": {"owner_id": 1, "currency": "EUR"},
        "transfers": {"source_id": source, "target_id": target, "amount": "1"},
    }
    order = await Recorder(ledger.app, ledger.db, ledger.bearer()).post(f"/api/v1/{path}", bodies[path])
    assert order == ["COMMIT", "answer 201"]


async def test_planted_violation_is_seen(ledger: Running) -> None:
    """A session from a dependency with `yield`, as FastAPI runs it by default, answers first."""
    app = FastAPI()

    async def connection() -> AsyncIterator[AsyncConnection]:
        async with ledger.db.engine.begin() as opened:
            yield opened

    @app.post("/users")
    async def add(opened: AsyncConnection = Depends(connection)) -> None:  # noqa: B008, FAST002 - local, so no annotation
        await opened.execute(text("INSERT INTO users VALUES (7, 'north', 'ada', 'Ada', 36, '2026-01-01 00:00:00')"))

    assert await Recorder(app, ledger.db, {}).post("/users", {}) == ["answer 200", "COMMIT"]
