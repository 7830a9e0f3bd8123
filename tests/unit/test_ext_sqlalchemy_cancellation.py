"""A cancelled call leaves at once, also where the driver would first take leave of a server that says nothing."""

from __future__ import annotations

import asyncio
import gc
import importlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from holdfast.ext.sqlalchemy.cancellation import opener, patient_opener
from holdfast.ext.sqlalchemy.engines import open_endpoint
from holdfast.ext.sqlalchemy.interrupt import connection_id, cut

WITHIN_S = 10.0
WELCOME = b"R" + struct.pack("!ii", 8, 0) + b"K" + struct.pack("!iii", 12, 4711, 1) + b"Z" + struct.pack("!i", 5) + b"I"


Connect = Callable[..., Awaitable[Any]]


class SilentServer:
    """Lets clients log in the way PostgreSQL does, and never says another word."""

    def __init__(self) -> None:
        self.connections = 0
        self.asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        (length,) = struct.unpack("!i", await reader.readexactly(4))
        await reader.readexactly(length - 4)
        writer.write(WELCOME)
        if await reader.read(1):
            self.asked.set()
        await reader.read()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def silent_server(connect: Connect) -> AsyncIterator[tuple[SilentServer, Any]]:
    """A server, and a connection to it."""
    silent = SilentServer()
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.serve(reader, writer)
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = await connect(host="127.0.0.1", port=port, user="app", sslmode="disable", gssencmode="disable")
        try:
            yield silent, connection
        finally:
            await connection.close()
            await ended.wait()


async def cancel_statement(silent: SilentServer, connection: Any) -> object:
    """What a statement ends with that is cancelled while the server says nothing."""
    asking = asyncio.ensure_future(connection.execute("SELECT 1"))
    await silent.asked.wait()
    asking.cancel()
    answers = await asyncio.gather(asking, return_exceptions=True)
    return answers[0]


async def test_cancelled_statement_asks_nobody_and_waits_for_nothing() -> None:
    """The cancellation comes through as it is, the connection is closed, and no second one was opened to ask for an end."""
    async with silent_server(opener(psycopg)) as (silent, connection):
        ended = await cancel_statement(silent, connection)
        assert type(ended) is asyncio.CancelledError
        assert connection.closed
        assert silent.connections == 1


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg", "asyncmy", "aiomysql"])
async def test_connection_that_is_cancelled_while_it_is_made_is_closed(driver: str) -> None:
    """The server sees it go although the exception is still there, as it is in whoever reports it."""
    module: Any = importlib.import_module(driver)
    openers = {"psycopg": opener, "asyncmy": patient_opener, "aiomysql": patient_opener}
    connect = openers[driver](module) if driver in openers else module.connect
    knocked, gone = asyncio.Event(), asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocked.set()
        with suppress(ConnectionError):
            while await reader.read(1000):
                pass
        gone.set()
        writer.close()

    async def connecting(port: int) -> None:
        await connect(host="127.0.0.1", port=port, user="app")

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        task = asyncio.ensure_future(connecting(server.sockets[0].getsockname()[1]))
        await knocked.wait()
        task.cancel()
        gc.disable()
        try:
            async with asyncio.timeout(WITHIN_S):
                kept = await asyncio.gather(task, return_exceptions=True)
                await gone.wait()
        finally:
            gc.enable()
        assert type(kept[0]) is asyncio.CancelledError


async def test_planted_farewell_is_seen() -> None:
    """Psycopg by itself would have the server asked to cancel, and here, too, it would be noticed."""
    farewells: list[str] = []
    async with silent_server(psycopg.AsyncConnection.connect) as (silent, connection):

        async def cancel_safe(*, timeout: float = 30.0) -> None:
            farewells.append(f"up to {timeout:g} s")
            cut(connection)  # or it would wait as long again

        connection.cancel_safe = cancel_safe
        await cancel_statement(silent, connection)
    assert farewells == ["up to 5 s"]


async def test_the_driver_is_still_known() -> None:
    """Connections made so are psycopg's to whoever has to cut them."""
    assert opener(psycopg) is opener(psycopg)
    async with silent_server(opener(psycopg)) as (_, connection):
        assert connection_id(connection) == 4711


async def test_every_engine_of_a_database_leaves_at_once() -> None:
    """The pool's connections, and those that ask and kill from the side, are made so; unless the user's own function is."""
    endpoint = open_endpoint("postgresql+psycopg://app@127.0.0.1:1/shop", asynchronous=True)
    side = endpoint.side_engine(None)
    assert isinstance(side, AsyncEngine)
    for given, expected in (({}, opener(psycopg)), ({"async_creator_fn": silent_server}, silent_server)):
        for engine in (endpoint.engine, side.sync_engine):
            assert _connected_by(engine, given)["async_creator_fn"] is expected


def _connected_by(engine: Engine, given: Mapping[str, object]) -> dict[str, object]:
    """What the driver gets, where SQLAlchemy has `given` in its parameters."""
    handed_over: dict[str, object] = {}
    dialect: Any = engine.dialect
    dialect.connect = lambda **parameters: handed_over.update(parameters) or handed_over
    for listener in dialect.dispatch.do_connect:
        if listener(dialect, SimpleNamespace(info={}), [], dict(given)) is not None:
            break
    return handed_over
