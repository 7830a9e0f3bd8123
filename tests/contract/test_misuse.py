"""What looks right and would lose something: refused, with the cure, before anything is lost.

On SQLite alone: the same on every server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from holdfast.errors import ConfigurationError, Contended, InvalidData, UsageError
from holdfast.ext.sqlalchemy import Database
from tests.contract.faces import ON_SQLITE, Account, Face, User, balances, only, usernames

kind = only(ON_SQLITE)


def adding(username: str) -> User:
    """A user."""
    return User(username=username, age=30)


def add_and_flush(session: Session) -> None:
    """Write."""
    session.add(adding("late"))
    session.flush()


LATE_USES: dict[str, Callable[[Session], object]] = {
    "add and flush": add_and_flush,
    "execute": lambda session: session.execute(select(User)),
    "get": lambda session: session.get(User, 1),
    "query": lambda session: session.query(User).all(),
    "savepoint": lambda session: session.begin_nested(),
    "begin": lambda session: session.begin(),
}


@pytest.mark.parametrize("read", [False, True], ids=["write", "read"])
@pytest.mark.parametrize("use", LATE_USES.values(), ids=LATE_USES)
def test_a_session_that_outlives_its_function_is_of_no_use(
    face: Face, use: Callable[[Session], object], read: bool
) -> None:
    """A background task that got hold of it would write into a transaction that nobody commits, and lock others out."""
    kept: list[Session] = []

    def body(session: Session) -> None:
        session.scalars(select(User)).all()
        kept.append(session)

    (face.read if read else face.run)(body)

    with pytest.raises(UsageError, match="has ended"):
        use(kept[0])
    assert face.db.engine.pool.checkedout() == 0
    face.run(lambda session: session.add(adding("ada")))
    assert face.read(usernames) == ["ada"]


TABLE: Any = Account.__table__
CHANGES = [
    update(Account).values(balance=0),
    delete(Account),
    insert(Account).values(id=9, balance=9),
    update(TABLE).values(balance=0),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_read_refuses_to_change_anything(face: Face, change: Any) -> None:
    """It ends with ROLLBACK, so the change would be gone without a word."""
    before = face.read(balances)
    with pytest.raises(UsageError, match="only reads"):
        face.read(lambda session: session.execute(change).rowcount)
    assert face.read(balances) == before


UNFINISHED: dict[str, Callable[[Session], object]] = {
    "rows": lambda session: session.execute(select(User)),
    "core rows": lambda session: session.execute(select(User.__table__)),
    "scalars": lambda session: session.scalars(select(User)),
    "mappings": lambda session: session.execute(select(User)).mappings(),
    "query": lambda session: session.query(User),
    "map": lambda session: map(int, "12"),
    "zip": lambda session: zip("12", "34", strict=True),
}


@pytest.mark.parametrize("result", UNFINISHED.values(), ids=UNFINISHED)
def test_rows_that_are_still_to_be_fetched_are_no_result(face: Face, result: Callable[[Session], object]) -> None:
    """After COMMIT there is nothing to fetch them from."""

    def body(session: Session) -> object:
        session.add(adding("ada"))
        return result(session)

    with pytest.raises(UsageError, match="nothing was applied"):
        face.run(body)
    assert face.read(usernames) == []


def test_a_statement_without_rows_may_be_the_result(face: Face) -> None:
    """What `lambda tx: tx.execute(update(...))` returns has nothing left to fetch."""
    assert face.run(lambda session: session.execute(update(Account).values(balance=5))).rowcount == 3
    assert set(face.read(balances).values()) == {5}


def test_two_objects_with_one_primary_key_are_refused(face: Face) -> None:
    """Only the second would be saved, and both would look like it."""
    one, other = Account(id=50, balance=1), Account(id=50, balance=2)
    with pytest.raises(UsageError, match="Account"):
        face.save_all([one, other])
    assert (one.balance, other.balance, 50 in face.read(balances)) == (1, 2, False)
    assert [saved.balance for saved in face.save_all([one, one])] == [1, 1]
    assert face.save_all([adding("ada"), adding("bob")])[1].username == "bob"


@pytest.mark.parametrize("ids", ["12", b"12", 1, None], ids=repr)
def test_ids_to_lock_are_a_list(face: Face, ids: Any) -> None:
    """A text would be taken for the list of its letters."""
    with pytest.raises(ConfigurationError, match="list"):
        face.run(lambda session: face_lock(face, ids))


@pytest.mark.parametrize("objects", [7, "ab", Account(id=1, balance=1)], ids=["number", "text", "object"])
def test_what_is_saved_together_is_a_list(face: Face, objects: Any) -> None:
    """The message says which method is for one object."""
    with pytest.raises(ConfigurationError, match="list"):
        face.save_all(objects)


class Secret:
    """Something that would be shown."""

    def __repr__(self) -> str:
        return "hunter2"


def test_what_is_no_model_is_named_by_its_type(face: Face) -> None:
    """An object in the place of its class may hold values."""
    with pytest.raises(ConfigurationError, match="Secret") as caught:
        face.run(lambda session: face_lock(face, [1], Secret()))
    assert "hunter2" not in str(caught.value)


def face_lock(face: Face, ids: Any, model: Any = Account) -> Any:
    """Lock inside of a transaction function that runs synchronously."""
    locked = face.db.lock(model, ids)
    return await_only(locked) if face.kind.asynchronous else locked


def test_only_what_is_not_known_can_be_asked_for(face: Face) -> None:
    """Every other error tells its outcome by itself."""
    with pytest.raises(UsageError, match="Contended"):
        face.wait(face.db.outcome_of(Contended("lost")))
    with pytest.raises(UsageError, match="InvalidData"):
        face.wait(face.db.outcome_of(InvalidData("bad")))


def test_a_keyed_operation_inside_itself_is_refused(face: Face) -> None:
    """Its result is not there yet, so there is nothing to replay."""
    if face.kind.asynchronous:
        pytest.skip("the synchronous one shows it")
    database: Database = face.db

    def again(session: Session, depth: int) -> str:
        session.add(adding(f"at {depth}"))
        return "inner" if depth == 0 else f"outer of {operation.keyed('same')(depth - 1)}"

    operation = database.transaction(again)
    with pytest.raises(UsageError, match="itself"):
        operation.keyed("same")(1)
    assert face.read(usernames) == []
