"""Services that the tests of the edge call, closed when they are done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.asgi.context import CURRENT
from holdfast.ext.sqlalchemy import DatabaseSettings
from tests.asgi.effect_app import Effects, Make


@pytest.fixture(autouse=True)
def _no_request() -> None:
    """Every test begins outside of any request; a server gives each one a task, and so a context, of its own."""
    CURRENT.set(None)


@pytest.fixture
async def make(sqlite_url: str) -> AsyncIterator[Make]:
    """Opens the service with effects on a new SQLite file, with settings of the test's own."""
    opened: list[Effects] = []

    async def open_one(database: DatabaseSettings | None = None, **settings: Any) -> Effects:
        opened.append(await Effects.open(sqlite_url, database, **settings))
        return opened[-1]

    yield open_one
    for effects in opened:
        await effects.close()
