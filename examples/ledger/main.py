"""The service put together: settings, database, ledger, routes, and the edge around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from holdfast.asgi.idempotency import IdempotencyStore
from holdfast.ext.fastapi import EdgeSettings, install
from holdfast.ext.sqlalchemy import AsyncDatabase, DatabaseSettings, PoolSettings
from holdfast.ext.sqlalchemy.idempotency import SqlIdempotency
from holdfast.shutdown import DRAIN, Drain, Part

from . import access, api
from .problems import PROBLEMS
from .service import Ledger
from .settings import LedgerSettings
from .tables import METADATA

__all__ = ["create_app", "open_database"]


def open_database(settings: LedgerSettings, edge: EdgeSettings) -> AsyncDatabase:
    """The database the settings name; nothing is connected yet."""
    return AsyncDatabase(
        settings.database_url.get_secret_value(),
        DatabaseSettings(
            deadline=edge.deadline_s or 10.0,
            pool=PoolSettings(size=settings.pool_size, open_max=settings.pool_open_max),
        ),
    )


def create_app(
    db: AsyncDatabase,
    settings: LedgerSettings,
    edge: EdgeSettings,
    *,
    keys: IdempotencyStore | None = None,
    drain: Drain = DRAIN,
) -> FastAPI:
    """The service on `db`, which it migrates at its start; its end closes it.

    Args:
        db: where everything is.
        settings: who may use it.
        edge: what the edge does, and how much of it.
        keys: where Idempotency-Keys are kept; default `db`, in the transaction of their effect.
        drain: what ends the process; default its own.
    """
    part = Part(drain)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await db.migrate(METADATA)
        app.state.ledger = Ledger(db)
        yield

    app = FastAPI(title="Ledger", summary="Users, accounts and transfers, each saved exactly once.", lifespan=lifespan)
    app.include_router(api.router)
    install(
        app,
        db,
        edge,
        authenticator=access.authenticator_for(settings, part),
        idempotency=keys or SqlIdempotency(db),
        problems=PROBLEMS,
        drain=part,
    )
    return app
