"""SQLite's writers of one process get the lock in the order in which they came, and whoever leaves the queue leaves no gap."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from holdfast.errors import NotCommitted
from holdfast.ext.sqlalchemy import AsyncDatabase, Database
from tests.asgi.asgi_calls import until

WRITERS = 8


class Base(DeclarativeBase):
    """One table."""


class Turn(Base):
    """Who wrote; the ids tell in which order."""

    __tablename__ = "turns"
    id: Mapped[int] = mapped_column(primary_key=True)
    writer: Mapped[int]


def write(tx: Session, writer: int) -> None:
    tx.add(Turn(writer=writer))


def writers(tx: Session) -> list[int]:
    return list(tx.scalars(select(Turn.writer).order_by(Turn.id)))


def waiting(db: Database | AsyncDatabase) -> int:
    """Operations in the queue."""
    turns = db._runtime.turns
    assert turns is not None
    return turns.waiting


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path / 'turns.db'}") as db:
        db.migrate(Base.metadata)
        yield db


@pytest.fixture
async def async_db(tmp_path: Path) -> AsyncIterator[AsyncDatabase]:
    async with AsyncDatabase(f"sqlite+aiosqlite:///{tmp_path / 'turns.db'}") as db:
        await db.migrate(Base.metadata)
        yield db


def until_waiting(db: Database, number: int) -> None:
    pause = threading.Event()
    while waiting(db) != number:
        pause.wait(0.001)


def test_threads_write_in_the_order_in_which_they_came(db: Database) -> None:
    """While one writes, the others wait in line."""
    with ThreadPoolExecutor(WRITERS) as threads:
        with db.begin() as tx:
            saves = []
            for number in range(WRITERS):
                saves.append(threads.submit(db.run, write, number))
                until_waiting(db, number + 1)
            write(tx, -1)
        for save in saves:
            save.result()
    assert db.read(writers) == [-1, *range(WRITERS)]
    assert waiting(db) == 0


async def test_tasks_write_in_the_order_in_which_they_came(async_db: AsyncDatabase) -> None:
    """Who is cancelled in the queue is left out, and nobody behind it waits for nothing."""

    async def add(tx: AsyncSession, writer: int) -> None:
        tx.add(Turn(writer=writer))

    async with async_db.begin() as tx:
        saves = []
        for number in range(WRITERS):
            # In a context of its own, else it would be a part of the block that waits for the block.
            saves.append(asyncio.create_task(async_db.run(add, number), context=Context()))
            await until(lambda: waiting(async_db) == len(saves))
        saves[2].cancel()
        await asyncio.gather(saves[2], return_exceptions=True)
        await add(tx, -1)
    await asyncio.gather(*saves, return_exceptions=True)
    assert saves[2].cancelled()
    async with async_db.begin() as tx:
        assert await tx.run_sync(writers) == [-1, 0, 1, 3, 4, 5, 6, 7]
    assert waiting(async_db) == 0


def test_reads_wait_for_nobody(db: Database) -> None:
    """SQLite reads beside a writer."""
    with ThreadPoolExecutor(1) as threads, db.begin() as tx:
        write(tx, 1)
        assert threads.submit(db.read, writers).result() == []


def test_what_fails_gives_its_turn_on(db: Database) -> None:
    """A body that raises, a block that raises, and a statement that the server refuses."""

    def fail(_tx: Session) -> None:
        raise LookupError

    def refused(tx: Session) -> None:
        tx.add_all([Turn(id=1, writer=1), Turn(id=1, writer=2)])
        tx.flush()

    for _ in range(2):
        with pytest.raises(LookupError):
            db.run(fail)
        with pytest.raises(LookupError), db.begin() as tx:
            fail(tx)
        with pytest.raises(NotCommitted):
            db.run(refused)
    db.run(write, 1)
    assert db.read(writers) == [1]


def test_time_that_is_up_in_the_queue_is_a_save_that_was_not_made(db: Database) -> None:
    """The deadline holds in the queue as everywhere."""
    with ThreadPoolExecutor(1) as threads, db.begin() as tx:
        late = threads.submit(db.transaction(deadline=0.2)(write), 2)
        with pytest.raises(NotCommitted):
            late.result()
        write(tx, 1)
    assert db.read(writers) == [1]
    assert waiting(db) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_does_not_wait_for_its_parents_writers(db: Database) -> None:
    """Who was writing in the parent does not exist in the child."""
    began, end = threading.Event(), threading.Event()

    def hold() -> None:
        turns = db._runtime.turns
        assert turns is not None
        assert turns.take()
        began.set()
        end.wait()
        turns.give_back()

    holder = threading.Thread(target=hold)
    holder.start()
    began.wait()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            db.transaction(deadline=60.0)(write)(5)
            os._exit(0)
        except BaseException:
            os._exit(1)
    end.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert db.read(writers) == [5]
