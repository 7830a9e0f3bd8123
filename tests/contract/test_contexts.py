"""Where an operation may run: tasks and threads that start inside another one, and blocks that end in another context.

On SQLite alone: none of this depends on the server.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import UsageError, report_of
from holdfast.events import HookFailed
from holdfast.ext.sqlalchemy import AsyncDatabase, Database
from holdfast.outcome import Outcome
from holdfast.stream import subscribe
from holdfast.testing import RecordingHook
from tests.contract.faces import Base, User, usernames


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A synchronous database with its tables."""
    with Database(f"sqlite:///{tmp_path / 'contexts.db'}") as made:
        made.migrate(Base.metadata)
        yield made


@pytest.fixture
async def async_db(tmp_path: Path) -> AsyncIterator[AsyncDatabase]:
    """An asynchronous database with its tables."""
    async with AsyncDatabase(f"sqlite:///{tmp_path / 'contexts.db'}") as made:
        await made.migrate(Base.metadata)
        yield made


async def names_in(async_db: AsyncDatabase) -> list[str]:
    """Every stored username."""

    async def read(tx: Any) -> list[str]:
        return await tx.run_sync(usernames)  # type: ignore[no-any-return]

    return await async_db.read(read)


async def test_a_task_that_outlives_its_operation_saves_on_its_own(async_db: AsyncDatabase) -> None:
    """A task started inside inherits the context; after the operation's end its saves must not join what has ended."""
    ended = asyncio.Event()

    async def later() -> None:
        await ended.wait()
        await async_db.save(User(username="later", age=1))

    async def start(tx: Any) -> asyncio.Task[None]:
        tx.add(User(username="first", age=1))
        return asyncio.create_task(later())

    task = await async_db.run(start)
    ended.set()
    await task

    assert await names_in(async_db) == ["first", "later"]


async def test_a_task_inside_an_operation_cannot_join_it(async_db: AsyncDatabase) -> None:
    """Two tasks cannot use one session, and a transaction of its own would be applied again by every rerun."""

    async def start(tx: Any) -> None:
        await asyncio.create_task(async_db.save(User(username="child", age=1)))

    with pytest.raises(UsageError, match="another task or thread"):
        await async_db.run(start)
    assert await names_in(async_db) == []


def test_a_thread_inside_an_operation_cannot_join_it(db: Database) -> None:
    """A worker thread that was given a copy of the context is not the one the session belongs to."""

    def start(_tx: Any) -> None:
        context = contextvars.copy_context()
        asyncio.run(asyncio.to_thread(context.run, db.save, User(username="child", age=1)))

    with pytest.raises(UsageError, match="another task or thread"):
        db.run(start)
    assert db.read(usernames) == []


def test_a_block_may_end_in_another_context(db: Database) -> None:
    """FastAPI enters and leaves a generator dependency in two copies of the context; the block commits all the same."""
    block = db.begin()
    tx = contextvars.copy_context().run(block.__enter__)
    tx.add(User(username="ada", age=30))
    contextvars.copy_context().run(block.__exit__, None, None, None)

    assert db.read(usernames) == ["ada"]


async def test_an_asynchronous_block_may_end_in_another_task(async_db: AsyncDatabase) -> None:
    """As test fixtures and generators that are collected late do."""
    block = async_db.begin()
    tx = await asyncio.create_task(block.__aenter__())
    tx.add(User(username="ada", age=30))
    await asyncio.create_task(block.__aexit__(None, None, None))

    assert await names_in(async_db) == ["ada"]


def test_a_database_inside_another_still_joins_its_own_transaction(tmp_path: Path, db: Database) -> None:
    """One that only looked at the innermost transaction would commit on its own, whatever becomes of the outer one."""
    with Database(f"sqlite:///{tmp_path / 'other.db'}") as other:
        other.migrate()

        def outermost(_tx: Any) -> None:
            other.run(lambda _: db.save(User(username="ada", age=30)))
            raise LookupError

        with pytest.raises(LookupError):
            db.run(outermost)
    assert db.read(usernames) == []


def test_a_program_that_stops_in_a_hook_is_told_what_stands(db: Database) -> None:
    """Ctrl-C in an after-commit hook comes out with a report that says committed; no hook is lost without a word."""
    left: list[str] = []

    def stop() -> None:
        raise KeyboardInterrupt

    def body(tx: Any) -> None:
        tx.add(User(username="ada", age=30))
        db.after_commit(stop)
        db.after_commit(left.append, "second")

    hook = RecordingHook()
    with subscribe(hook), pytest.raises(KeyboardInterrupt) as caught:
        db.transaction(name="sign up")(body)()

    report = report_of(caught.value)
    assert report is not None
    assert (report.operation, report.outcome, report.attempts) == ("sign up", Outcome.COMMITTED, 1)
    assert [event.error for event in hook.of(HookFailed)] == ["KeyboardInterrupt"] * 2
    assert [event.hook.split(".")[-1] for event in hook.of(HookFailed)] == ["stop", "append"]
    assert (db.read(usernames), left) == (["ada"], [])


@pytest.mark.parametrize("in_a_block", [False, True])
async def test_a_task_that_is_cancelled_in_a_hook_is_told_what_stands(
    async_db: AsyncDatabase, *, in_a_block: bool
) -> None:
    """The cancellation comes out with a report that says committed, from a function and from a block."""
    started = asyncio.Event()
    left: list[str] = []

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    async def body(tx: Any) -> None:
        tx.add(User(username="ada", age=30))
        async_db.after_commit(hang)
        async_db.after_commit(left.append, "second")

    async def block() -> None:
        async with async_db.begin() as tx:
            await body(tx)

    hook = RecordingHook()
    with subscribe(hook):
        task = asyncio.create_task(block() if in_a_block else async_db.run(body))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task

    report = report_of(caught.value)
    assert report is not None
    assert report.outcome is Outcome.COMMITTED
    assert [event.error for event in hook.of(HookFailed)] == ["CancelledError"] * 2
    assert (await names_in(async_db), left) == (["ada"], [])
