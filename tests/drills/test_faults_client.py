"""The faults of a drill's own clients: a name that leads nowhere, a starved pool."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, QueuePool

from holdfast.drills.faults import DnsFailure, StarvePool, StarveTaskPool, is_asked_in_python
from holdfast.errors import ConfigurationError

REAL = socket.getaddrinfo
WITHIN_S = 30.0


# ---- names


@pytest.mark.parametrize("asked", ["localhost", "LocalHost", b"localhost"])
def test_failing_name_is_found_again_once_healed(asked: str | bytes) -> None:
    """One name fails, as if no name server answered; every other goes on, and the function is the old one afterwards."""
    fault = DnsFailure("LOCALHOST")
    assert fault.start() == {"host": "localhost"}
    try:
        with pytest.raises(socket.gaierror) as raised:
            socket.getaddrinfo(asked, 80)
        assert raised.value.errno == socket.EAI_AGAIN
        assert socket.getaddrinfo("127.0.0.1", 80)
    finally:
        fault.heal()
        fault.heal()
    assert socket.getaddrinfo is REAL
    assert socket.getaddrinfo(asked, 80)


def test_failing_name_is_met_by_drivers_and_by_asyncio() -> None:
    """Whatever asks through Python's sockets meets it."""
    fault = DnsFailure("localhost")
    fault.start()
    try:
        with pytest.raises(pymysql.OperationalError, match="name resolution") as raised:
            pymysql.connect(host="localhost", port=1, user="nobody")
        assert raised.value.args[0] == 2003
        with pytest.raises(socket.gaierror):
            asyncio.run(asyncio.wait_for(asyncio.open_connection("localhost", 1), WITHIN_S))
    finally:
        fault.heal()


def test_two_failing_names_are_healed_in_any_order() -> None:
    """The second goes on failing when the first is healed, and so does one that two faults hold."""
    first, second, again = DnsFailure("one.test"), DnsFailure("localhost"), DnsFailure("localhost")
    for fault in (first, second, again):
        fault.start()
    try:
        for healed in (first, second):
            healed.heal()
            with pytest.raises(socket.gaierror):
                socket.getaddrinfo("localhost", 80)
    finally:
        again.heal()
    assert socket.getaddrinfo is REAL


@pytest.mark.parametrize(
    ("driver", "asynchronous", "asked"),
    [("pymysql", False, True), ("asyncmy", True, True), ("psycopg", True, True), ("psycopg", False, False)],
)
def test_libraries_in_c_ask_the_operating_system(driver: str, asynchronous: bool, asked: bool) -> None:
    """It is known which drivers a failing name meets; libpq, which looks names up itself, is none of them."""
    assert is_asked_in_python(driver, asynchronous=asynchronous) is asked


# ---- pools


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A pool of three connections, of which one is an overflow; who gets none is told after 0.1 s."""
    made = create_engine(
        f"sqlite:///{tmp_path / 'pool.db'}",
        poolclass=QueuePool,
        pool_size=2,
        max_overflow=1,
        pool_timeout=0.1,
        connect_args={"check_same_thread": False},
    )
    yield made
    made.dispose()


def _until_held(fault: StarvePool | StarveTaskPool, count: int) -> None:
    waiting = threading.Event()
    for _ in range(int(WITHIN_S / 0.02)):
        if fault.held == count:
            return
        waiting.wait(0.02)
    raise AssertionError(f"{fault.held} of {count} taken")


def test_starved_pool_has_no_connection_until_healed(engine: Engine) -> None:
    """Whoever asks waits in vain; afterwards every connection is back."""
    fault = StarvePool(engine)
    fault.heal()
    for _ in range(2):
        assert fault.start() == {"bound": 3}
        _until_held(fault, 3)
        with pytest.raises(PoolTimeout):
            engine.connect()
        fault.heal()
        fault.heal()
        assert fault.held == 0
        with engine.connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
        pool = engine.pool
        assert isinstance(pool, QueuePool)
        assert pool.checkedout() == 0


def test_starving_waits_for_those_in_use_and_can_be_healed_meanwhile(engine: Engine) -> None:
    """Nobody loses a connection that they have; healing does not wait for them to give it back."""
    fault = StarvePool(engine)
    with engine.connect() as mine:
        fault.start()
        _until_held(fault, 2)
        assert mine.execute(text("SELECT 1")).scalar() == 1
        fault.heal()
        assert fault.held == 0
    with engine.connect(), engine.connect(), engine.connect():
        pass


def test_pool_without_a_bound_cannot_be_starved(tmp_path: Path) -> None:
    """It is said where it is asked for."""
    for options in ({"poolclass": NullPool}, {"poolclass": QueuePool, "max_overflow": -1}):
        with pytest.raises(ConfigurationError, match="has no bound"):
            StarvePool(create_engine(f"sqlite:///{tmp_path / 'pool.db'}", **options))


async def test_starved_pool_of_tasks_has_no_connection_until_healed(tmp_path: Path) -> None:
    """As in threads: those in use are waited for, whoever asks waits in vain, and afterwards every connection is back."""
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path / 'pool.db'}", pool_size=2, max_overflow=0, pool_timeout=0.1
    )
    fault = StarveTaskPool(engine.sync_engine, asyncio.get_running_loop())
    await asyncio.to_thread(fault.heal)
    for _ in range(2):
        async with engine.connect() as mine:
            assert await asyncio.to_thread(fault.start) == {"bound": 2}
            assert (await mine.execute(text("SELECT 1"))).scalar() == 1
        await asyncio.to_thread(_until_held, fault, 2)
        with pytest.raises(PoolTimeout):
            await engine.connect()
        await asyncio.to_thread(fault.heal)
        await asyncio.to_thread(fault.heal)
        assert fault.held == 0
        async with engine.connect() as connection, engine.connect():
            assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await engine.dispose()
