"""The faults that a client process does to itself: begun by name, healed one by one or all, and only where they can happen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from holdfast.drills.history import History, HistoryWriter
from holdfast.drills.inside import INSIDE, InsideFaults
from holdfast.drills.subjects import Subject
from holdfast.errors import UsageError

REAL = socket.getaddrinfo


class Saving:
    """A subject, as far as its engine goes."""

    name = "saving"

    def __init__(self, engine: Engine | None) -> None:
        self.engine = engine


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    url = f"sqlite:///{tmp_path / 'inside.db'}"
    options = {"check_same_thread": False}
    return create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.1, connect_args=options)


def with_faults(tmp_path: Path, engine: Engine | None, use: Callable[[InsideFaults], None]) -> None:
    """Use the faults of a process from beside its event loop, as its orders come."""

    async def process() -> None:
        with HistoryWriter(tmp_path / "w1.jsonl", "w1") as writer:
            subject = cast("Subject", Saving(engine))
            await asyncio.to_thread(use, InsideFaults(7, subject, writer, asyncio.get_running_loop()))

    asyncio.run(process())


def save(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("SELECT 1"))


def test_each_is_begun_and_healed_by_name(tmp_path: Path, engine: Engine) -> None:
    """A starved pool, a lost name, lost COMMITs; what is healed works again, and healing twice does nothing."""

    def use(faults: InsideFaults) -> None:
        faults.begin("pool-starvation", "")
        # One is there: it has either the fault or the first one here.
        with pytest.raises(PoolTimeout), engine.connect(), engine.connect():
            pass
        faults.heal("pool-starvation")
        faults.begin("dns-failure", "localhost")
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("localhost", 80)
        faults.heal("dns-failure")
        faults.heal("dns-failure")
        assert socket.getaddrinfo is REAL
        faults.begin("commit", "1.0")
        with pytest.raises(DBAPIError):
            save(engine)
        faults.heal("commit")
        save(engine)

    with_faults(tmp_path, engine, use)
    engine.dispose()
    assert len(History.load(tmp_path / "w1.jsonl").wire) == 2  # seen or forwarded, then cut


def test_all_are_healed_at_once(tmp_path: Path, engine: Engine) -> None:
    """A client that ends puts back whatever is still there."""

    def use(faults: InsideFaults) -> None:
        faults.begin("dns-failure", "localhost")
        faults.begin("pool-starvation", "")
        faults.heal_all()
        assert socket.getaddrinfo is REAL
        save(engine)

    with_faults(tmp_path, engine, use)
    engine.dispose()


@pytest.mark.parametrize("name", [name for name in INSIDE if name != "dns-failure"])
def test_planted_subject_without_an_engine_is_refused(tmp_path: Path, name: str) -> None:
    """A fault that would meet nobody is an error, and does not pass for one that did no harm."""

    def use(faults: InsideFaults) -> None:
        with pytest.raises(UsageError, match="no engine in this process"):
            faults.begin(name, "0.5")

    with_faults(tmp_path, None, use)


def test_unknown_order_is_refused(tmp_path: Path) -> None:
    """As is a fault that nobody knows."""

    def use(faults: InsideFaults) -> None:
        with pytest.raises(UsageError, match="there are commit"):
            faults.begin("earthquake", "")

    with_faults(tmp_path, None, use)
