"""Where the demo's tables live: a new SQLite file for each service, or a server's database that has none of these tables."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import MetaData, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.ext.sqlalchemy import OPERATIONS, open_endpoint

from ..tables import METADATA

__all__ = ["TablesInTheWay", "check", "database"]


class TablesInTheWay(Exception):
    """The database holds tables by the names that the demo would use; it touches none that it did not make."""


async def check(url: str | None) -> None:
    """Whether the demo can run there.

    Raises:
        TablesInTheWay: the server's database has a table by the name of one of the demo's.
        HoldfastError: the URL is wrong.
        sqlalchemy.exc.SQLAlchemyError: the server cannot be reached.
    """
    async with database(url):
        pass


@asynccontextmanager
async def database(url: str | None) -> AsyncIterator[str]:
    """The URL of a database with none of the demo's tables. What is in it afterwards goes away.

    Args:
        url: of a server's database, or None for a SQLite file in a temporary folder.

    Raises:
        TablesInTheWay: the server's database has one of these tables already.
    """
    if url is None:
        with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as folder:
            yield f"sqlite:///{Path(folder) / 'ledger.db'}"
        return
    engine = open_endpoint(url, asynchronous=True).async_engine
    assert engine is not None
    try:
        await _refuse_to_mix(engine)  # only now may the tables be dropped
        try:
            yield url
        finally:
            async with engine.begin() as connection:
                await connection.run_sync(_all_tables().drop_all)
    finally:
        await engine.dispose()


def _all_tables() -> MetaData:
    everything = MetaData()
    for table in (*METADATA.tables.values(), OPERATIONS):
        table.to_metadata(everything)
    return everything


async def _refuse_to_mix(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        there = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
    in_the_way = sorted(there.intersection(_all_tables().tables))
    if in_the_way:
        raise TablesInTheWay(
            f"The database holds tables named {', '.join(in_the_way)} already, and the demo touches none that it did not make "
            "itself. Give it an empty database: CREATE DATABASE holdfast_demo, and DATABASE_URL with that name."
        )
