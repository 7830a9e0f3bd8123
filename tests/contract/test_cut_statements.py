"""What a statement leaves behind that its own task cuts off half-way. On aiosqlite, where the file's lock shows it at once."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from holdfast.clock import SYSTEM_CLOCK
from holdfast.errors import DeadlineExceeded
from holdfast.ext.sqlalchemy import AsyncDatabase, Database
from holdfast.ext.sqlalchemy.cancellation import roll_back_unseen
from holdfast.ext.sqlalchemy.pool import AsyncDeadlinePool
from tests.contract.faces import Base, User, usernames

SLOW = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000000) SELECT max(i) FROM n")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[AsyncDatabase]:
    """A database with its tables."""
    async with AsyncDatabase(f"sqlite:///{tmp_path / 'cut.db'}") as made:
        await made.migrate(Base.metadata)
        yield made


async def add(tx: Any, username: str) -> None:
    """Insert a user."""
    tx.add(User(username=username, age=30))
    await tx.flush()


async def stored(db: AsyncDatabase) -> list[str]:
    """Every stored username."""

    async def read(tx: Any) -> list[str]:
        return await tx.run_sync(usernames)  # type: ignore[no-any-return]

    return await db.read(read)


async def test_a_cancelled_operation_lets_go_of_the_file(db: AsyncDatabase) -> None:
    """The next writer need not wait for a garbage collector to close what the cancelled one left."""

    async def slow(tx: Any) -> None:
        await add(tx, "ada")
        await tx.execute(SLOW)

    task = asyncio.create_task(db.run(slow))
    asyncio.get_running_loop().call_later(0.1, task.cancel)
    with pytest.raises(asyncio.CancelledError) as kept:
        await task
    await db.transaction(add).having(deadline=5)("bob")

    assert kept.type is asyncio.CancelledError
    assert await stored(db) == ["bob"]


async def test_the_bodys_own_timeout_is_no_cancellation_of_the_operation(db: AsyncDatabase) -> None:
    """Nobody cancelled the caller's task, so it must not look so; what the statement ruined is done again."""
    attempts: list[int] = []

    async def body(tx: Any) -> None:
        attempts.append(1)
        await add(tx, "ada")
        if len(attempts) == 1:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await tx.execute(SLOW)

    await db.run(body)

    assert (len(attempts), await stored(db)) == (2, ["ada"])


async def test_a_body_that_waits_for_something_else_is_cut_as_any_other(db: AsyncDatabase) -> None:
    """The deadline speaks for itself also where no statement was under way; a timeout of the body's own is the body's."""

    async def hang(tx: Any) -> None:
        await add(tx, "ada")
        await asyncio.Event().wait()

    async def give_up(tx: Any) -> None:
        raise TimeoutError("of its own")

    with pytest.raises(DeadlineExceeded):
        await db.transaction(hang).having(deadline=0.3)()
    with pytest.raises(TimeoutError, match="of its own") as own:
        await db.run(give_up)
    assert not isinstance(own.value, DeadlineExceeded)
    assert await stored(db) == []


class Busy:
    """A connection whose thread does nothing else until it is let go."""

    def __init__(self, driver_connection: Any) -> None:
        self._thread: threading.Thread = getattr(driver_connection, "_thread", driver_connection)
        self._held = threading.Event()
        driver_connection._tx.put_nowait((None, self._held.wait))

    async def cancelled(self, call: Awaitable[object]) -> list[asyncio.Task[Any]]:
        """Cancel a call to the connection in its middle; the tasks that are left when the connection has ended."""
        others = asyncio.all_tasks()
        task = asyncio.ensure_future(call)
        await SYSTEM_CLOCK.sleep_async(0)
        task.cancel()
        await SYSTEM_CLOCK.sleep_async(0)
        self._held.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(self._thread.join)
        for _ in range(3):
            await SYSTEM_CLOCK.sleep_async(0)  # what the thread has said is heard
        return list(asyncio.all_tasks() - others - {task})


async def test_a_cancelled_farewell_leaves_no_task_behind(db: AsyncDatabase) -> None:
    """It would be destroyed pending, which asyncio logs as an error of the program's."""
    connection = await db.engine.connect()
    raw = await connection.get_raw_connection()
    assert await Busy(raw.driver_connection).cancelled(connection.invalidate()) == []


async def test_a_cancelled_reset_is_no_error(db: AsyncDatabase, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever was cancelled knows, and the connection is thrown away."""
    raw = await db.engine.raw_connection()
    with caplog.at_level(logging.DEBUG):
        assert await Busy(raw.driver_connection).cancelled(greenlet_spawn(raw.close)) == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert isinstance(db.engine.pool, AsyncDeadlinePool)
    assert db.engine.pool.checkedout() == 0


async def test_a_reset_that_fails_is_logged(
    db: AsyncDatabase, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is quiet about cancellations alone."""
    raw = await db.engine.raw_connection()

    async def rollback() -> None:
        raise OSError("no disk")

    monkeypatch.setattr(raw.driver_connection, "rollback", rollback)
    await greenlet_spawn(raw.close)
    assert "Exception during reset or similar" in caplog.messages


async def test_rows_that_nobody_has_fetched_do_not_keep_the_file(db: AsyncDatabase, tmp_path: Path) -> None:
    """After an interrupt SQLite would refuse the ROLLBACK as well, as long as a statement is under way."""
    raw = await db.engine.raw_connection()
    connection: Any = raw.driver_connection
    await connection.execute("BEGIN IMMEDIATE")
    await connection.execute("INSERT INTO contract_users (username, age) VALUES ('ada', 1), ('bob', 2)")
    kept = await connection.execute("SELECT id FROM contract_users")
    connection._conn.interrupt()
    roll_back_unseen(connection)
    await connection.close()
    with closing(sqlite3.connect(tmp_path / "cut.db", timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
    assert kept is not None
    await greenlet_spawn(raw.close)


def test_the_same_in_threads(tmp_path: Path) -> None:
    """The next operation on the same connection finds no transaction open, and the file is free."""
    kept: list[Any] = []

    def interrupted(tx: Session) -> None:
        tx.add_all([User(username="ada", age=1), User(username="bob", age=2)])
        tx.flush()
        kept.append(tx.execute(text("SELECT id FROM contract_users")))
        kept[0].fetchone()
        driver_connection: Any = tx.connection().connection.driver_connection
        driver_connection.interrupt()
        raise KeyError("the body's own")

    with Database(f"sqlite:///{tmp_path / 'cut.db'}") as made:
        made.migrate(Base.metadata)
        with pytest.raises(KeyError):
            made.run(interrupted)
        with closing(sqlite3.connect(tmp_path / "cut.db", timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")
        made.run(lambda tx: tx.add(User(username="eve", age=3)))
        assert made.read(usernames) == ["eve"]
