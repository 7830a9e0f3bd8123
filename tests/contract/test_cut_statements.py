"""What a statement leaves behind that its own task cuts off half-way. On aiosqlite, where the file's lock shows it at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from holdfast.errors import DeadlineExceeded
from holdfast.ext.sqlalchemy import AsyncDatabase
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
