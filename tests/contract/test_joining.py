"""What an operation inside another one may ask, and what becomes of its errors.

On SQLite alone: the joining does not depend on the server.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from holdfast.errors import Conflict, HoldfastError, NotCommitted, OutcomeUnknown, UsageError
from holdfast.ext.sqlalchemy import AsyncDatabase, Database
from holdfast.ext.sqlalchemy.keyrows import KeyRows
from holdfast.outcome import Outcome
from tests.contract.faces import Base, User, usernames


class Own(DeclarativeBase):
    """A table that is missing at first."""


class Document(Own):
    """A row whose primary key Python makes."""

    __tablename__ = "joining_documents"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: uuid.UUID(int=7).hex)
    title: Mapped[str]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A database with its tables."""
    with Database(f"sqlite:///{tmp_path / 'joining.db'}") as made:
        made.migrate(Base.metadata)
        yield made


def add(tx: Any, username: str) -> None:
    """Insert a user."""
    tx.add(User(username=username, age=30))
    tx.flush()


def failing_once(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the next insert of a keyed operation inside another one fail; the list says whether it did."""
    insert = KeyRows.claim
    failed: list[str] = []

    def claim(rows: KeyRows, connection: Any, key: Any, *rest: Any) -> Any:
        if key.key == "inner" and not failed:
            failed.append(key.key)
            raise error
        return insert(rows, connection, key, *rest)

    monkeypatch.setattr(KeyRows, "claim", claim)
    return failed


def locked() -> sqlite3.OperationalError:
    """SQLite's word for contention."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    error.sqlite_errorname = "SQLITE_BUSY"
    return error


@pytest.mark.parametrize("swallowed", [False, True])
def test_contention_on_an_inner_key_reruns_the_whole(
    db: Database, monkeypatch: pytest.MonkeyPatch, swallowed: bool
) -> None:
    """Though a keyed operation's statements go past SQLAlchemy, and though the body may swallow their errors."""
    failed = failing_once(locked(), monkeypatch)
    inner = db.transaction(add).keyed("inner")
    attempts: list[int] = []

    def outer(tx: Any) -> None:
        attempts.append(1)
        add(tx, "outer")
        with suppress(*([Exception] if swallowed else [])):
            inner("inner")

    db.run(outer)

    assert (failed, len(attempts)) == (["inner"], 2)
    assert db.read(usernames) == ["inner", "outer"]


def test_a_refused_inner_key_is_a_typed_error(db: Database) -> None:
    """The key table is missing: the error names the cure, as anywhere else."""
    with db.engine.begin() as connection:
        connection.execute(text("DROP TABLE holdfast_operations"))

    with pytest.raises(NotCommitted, match="migrate"):
        db.transaction(lambda _: db.transaction(add).keyed("inner")("inner")).having(protect=False)()


def test_a_read_takes_no_operation_that_writes(db: Database) -> None:
    """A read is repeated after any failure, also after a lost answer to COMMIT: a write inside could be applied twice."""
    with pytest.raises(UsageError, match="read"):
        db.read(lambda _: db.save(User(username="ada", age=30)))

    def block(_tx: Any) -> None:
        with db.begin():
            pass

    with pytest.raises(UsageError, match="read"):
        db.read(block)
    assert db.read(lambda _: db.read(usernames)) == []


def test_a_block_inside_gets_no_weaker_isolation_than_it_asks_for(db: Database) -> None:
    """As for functions: the level is the outer transaction's, so another one is refused."""

    def outer(_tx: Any) -> None:
        with db.begin(isolation="serializable"):
            pass

    with pytest.raises(UsageError, match="stronger level"):
        db.run(outer)


def test_an_object_can_be_saved_again_under_its_key_after_a_failure(db: Database) -> None:
    """What a failed save made (a primary key by a Python default) is no part of what was asked for."""
    document = Document(title="a")
    with pytest.raises(HoldfastError):
        db.save(document, key="k")  # its table is missing yet
    assert document.id is None
    db.migrate(Own.metadata)
    db.save(document, key="k")
    assert document.id == uuid.UUID(int=7).hex
    assert db.save(Document(title="a"), key="k").id == document.id


def test_what_became_of_an_operation_is_asked_outside_of_transactions(db: Database) -> None:
    """Inside one, the question's key row would be committed with it, and the key be spoilt."""
    unknown = OutcomeUnknown("lost")
    unknown.operation_scope, unknown.operation_key = "scope", "key"

    with pytest.raises(UsageError, match="outside"):
        db.run(lambda _: db.outcome_of(unknown))
    assert db.outcome_of(unknown) is Outcome.NOT_COMMITTED


def test_going_on_after_a_swallowed_contention_reruns_the_whole(db: Database) -> None:
    """The session then only says that it must be rolled back first; what counts is why."""
    attempts: list[int] = []

    def body(tx: Any) -> None:
        attempts.append(1)
        add(tx, "ada")
        if len(attempts) == 1:

            def fail(*_: object) -> None:
                raise locked()

            event.listen(db.engine, "before_cursor_execute", fail)
            with suppress(OperationalError):
                add(tx, "bob")
            event.remove(db.engine, "before_cursor_execute", fail)
            add(tx, "carl")

    db.run(body)

    assert (len(attempts), db.read(usernames)) == (2, ["ada"])


def test_what_the_server_refuses_is_the_same_error_inside_another_operation(db: Database) -> None:
    """A duplicate is a `Conflict` for whoever called the inner operation, and for whoever called the outer one."""
    db.save(User(username="ada", age=36))
    seen: list[type[Exception]] = []

    def outer(tx: Any) -> None:
        try:
            db.save(User(username="ada", age=30))
        except Conflict as conflict:
            seen.append(type(conflict))
            raise

    with pytest.raises(Conflict):
        db.run(outer)
    assert seen == [Conflict]
    assert db.read(usernames) == ["ada"]


def refuse(tx: Any, username: str) -> None:
    """Insert a user, and think better of it."""
    add(tx, username)
    raise LookupError(username)


def test_an_inner_operation_that_fails_leaves_no_key_behind(db: Database) -> None:
    """Its row would say that it was done, for as long as keys live; and what it wrote goes with it."""

    def outer(tx: Any) -> None:
        add(tx, "outer")
        with suppress(LookupError):
            db.transaction(name="inner")(refuse).keyed("k")("inner")

    db.run(outer)
    assert db.read(usernames) == ["outer"]
    db.transaction(name="inner")(add).keyed("k")("inner")
    assert db.read(usernames) == ["inner", "outer"]


def test_a_savepoint_that_is_undone_undoes_the_keys_inside_it(db: Database) -> None:
    """Also the key of an operation that had succeeded."""

    def outer(tx: Any) -> None:
        with suppress(LookupError), tx.begin_nested():
            db.transaction(name="inner")(add).keyed("k")("undone")
            raise LookupError
        add(tx, "outer")

    db.run(outer)
    assert db.read(usernames) == ["outer"]
    db.transaction(name="inner")(add).keyed("k")("undone")
    assert db.read(usernames) == ["outer", "undone"]


async def test_keys_of_coroutines_go_with_their_work(tmp_path: Path) -> None:
    """As the two above."""
    async with AsyncDatabase(f"sqlite+aiosqlite:///{tmp_path / 'joining.db'}") as db:
        await db.migrate(Base.metadata)

        async def inner(tx: AsyncSession, username: str, *, fails: bool) -> str:
            tx.add(User(username=username, age=30))
            await tx.flush()
            if fails:
                raise LookupError(username)
            return username

        operation = db.transaction(name="inner")(inner)

        async def outer(tx: AsyncSession) -> str:
            with suppress(LookupError):
                await operation.keyed("k1")("ada", fails=True)
            with suppress(LookupError):
                async with tx.begin_nested():
                    await operation.keyed("k2")("bob", fails=False)
                    raise LookupError
            return await operation.keyed("k3")("cyd", fails=False)

        assert await db.run(outer) == "cyd"
        assert await operation.keyed("k1")("ada", fails=False) == "ada"
        assert await operation.keyed("k2")("bob", fails=False) == "bob"
        assert await operation.keyed("k3")("cyd", fails=False) == "cyd"  # found, and not run again
        async with db.begin() as tx:
            assert await tx.run_sync(usernames) == ["ada", "bob", "cyd"]
