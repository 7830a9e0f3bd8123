"""Risk: rows of another request, after a cancellation. What a cut connection still had to say reaches nobody."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from holdfast.ext.sqlalchemy import AsyncDatabase, DatabaseSettings, PoolSettings
from tests.integration.endpoints import ASYNC, Case, url_of

CASES = [case for case in ASYNC if case.flavour in {"mariadb", "postgresql"}]
QUESTIONS = 150
SLEEP = {
    "mariadb": "SELECT SLEEP(0.004), CAST(:nonce AS INTEGER)",
    "postgresql": "SELECT pg_sleep(0.004), CAST(:nonce AS INTEGER)",
}


@pytest.fixture
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncDatabase]:
    """A database with one connection at a time, so that whatever is left on it meets the next caller."""
    case: Case = request.param
    async with AsyncDatabase(
        url_of(request, case, tmp_path),
        DatabaseSettings(pool=PoolSettings(size=1, open_max=1), protect=False, deadline=8.0),
    ) as opened:
        yield opened


@pytest.mark.parametrize("db", CASES, indirect=True, ids=str)
async def test_each_caller_gets_its_own_answer_while_others_are_cancelled(
    db: AsyncDatabase, request: pytest.FixtureRequest, rng: random.Random
) -> None:
    """A number goes to the server and comes back; one caller in four leaves in the middle of it."""
    case: Case = request.node.callspec.params["db"]
    statement = text(SLEEP[case.flavour])
    answered: list[tuple[int, int]] = []
    cancelled = 0

    @db.transaction
    async def ask(tx: AsyncSession, nonce: int) -> int:
        return int((await tx.execute(statement, {"nonce": nonce})).one()[1])

    for nonce in range(QUESTIONS):
        asking = asyncio.create_task(ask(nonce))
        if rng.random() < 0.25:
            await asyncio.wait({asking}, timeout=rng.random() * 0.008)
            asking.cancel()
        try:
            answered.append((nonce, await asking))
        except asyncio.CancelledError:
            cancelled += 1
    assert [nonce for nonce, answer in answered if answer != nonce] == []
    assert cancelled >= QUESTIONS // 20
    assert len(answered) >= QUESTIONS // 2
