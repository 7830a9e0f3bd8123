"""The service put together: settings, database, ledger, HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from holdfast.ext.sqlalchemy import AsyncDatabase, DatabaseSettings, PoolSettings

from . import api, problems
from .service import Ledger
from .settings import LedgerSettings
from .tables import METADATA

__all__ = ["create_app", "open_database"]


def open_database(settings: LedgerSettings) -> AsyncDatabase:
    """The database the settings name; nothing is connected yet."""
    return AsyncDatabase(
        settings.database_url.get_secret_value(),
        DatabaseSettings(
            deadline=settings.deadline,
            pool=PoolSettings(size=settings.pool_size, open_max=settings.pool_open_max),
        ),
    )


def create_app(db: AsyncDatabase) -> FastAPI:
    """The service on `db`, which it migrates at its start and closes at its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with db:
            await db.migrate(METADATA)
            app.state.ledger = Ledger(db)
            yield

    app = FastAPI(title="Ledger", summary="Users, accounts and transfers, each saved exactly once.", lifespan=lifespan)
    app.include_router(api.router)
    problems.install(app)

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """The process is alive."""
        return {"status": "alive"}

    return app
