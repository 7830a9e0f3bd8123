"""What looks right and would lose something: refused, with the cure, before anything is lost.

On SQLite alone: the same on every server.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
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


BULK: dict[str, Callable[[Session], object]] = {
    "objects": lambda session: session.bulk_save_objects([adding("ada")]),
    "inserts": lambda session: session.bulk_insert_mappings(User.__mapper__, [{"username": "ada", "age": 30}]),
    "updates": lambda session: session.bulk_update_mappings(Account.__mapper__, [{"id": 1, "balance": 0}]),
}


@pytest.mark.parametrize("call", BULK.values(), ids=BULK)
def test_a_read_refuses_what_goes_past_the_flush(face: Face, call: Callable[[Session], object]) -> None:
    """It would be rolled back without a word; an operation that writes does take it."""
    with pytest.raises(UsageError, match="only reads"):
        face.read(call)
    assert (face.read(usernames), face.read(balances)[1]) == ([], 100)
    face.run(call)
    assert (face.read(usernames), face.read(balances)[1]) != ([], 100)


def reading(face: Face, fn: Callable[[Session], object]) -> Any:
    """Read inside of a transaction function that runs synchronously."""
    read = face.db.read(face.function(fn))
    return await_only(read) if face.kind.asynchronous else read


def change_an_account(session: Session) -> None:
    """Leave a change unsent."""
    session.get_one(Account, 1).balance = 0


JOINED: dict[str, Callable[[Session], object]] = {
    **BULK,
    "statement": lambda session: session.execute(update(Account).values(balance=0)) and None,
    "core statement": lambda session: session.execute(insert(TABLE).values(id=9, balance=9)) and None,
    "past the session": lambda session: session.connection().execute(insert(TABLE).values(id=9, balance=9)) and None,
    "inside a query": lambda session: session.execute(
        select(insert(TABLE).values(id=9, balance=9).returning(TABLE.c.id).cte("added"))
    ).all(),
    "flushed": add_and_flush,
    "pending": lambda session: session.add(adding("ada")),
    "changed": change_an_account,
    "deleted": lambda session: session.delete(session.get_one(Account, 1)),
}


@pytest.mark.parametrize("call", JOINED.values(), ids=JOINED)
def test_a_read_inside_an_operation_changes_nothing_either(face: Face, call: Callable[[Session], object]) -> None:
    """It joins a session that may write, and so does the operation around it before and after."""
    before = face.read(balances)
    with pytest.raises(UsageError, match="only reads"):
        face.run(lambda session: reading(face, call))
    assert (face.read(usernames), face.read(balances)) == ([], before)

    def body(session: Session) -> list[str]:
        session.add(adding("before"))
        names: list[str] = reading(face, lambda inner: reading(face, usernames))
        session.add(adding("after"))
        return names

    assert face.run(body) == ["before"]
    assert face.read(usernames) == ["after", "before"]


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
def test_what_a_read_has_left_behind_is_not_committed_by_who_swallows_that(face: Face, raises: bool) -> None:
    """It stands in the session of the operation around it, which would send it with its own."""

    def inner(session: Session) -> None:
        session.add(adding("ada"))
        if raises:
            raise LookupError

    def body(session: Session) -> None:
        with suppress(UsageError, LookupError):
            reading(face, inner)
        session.add(adding("bob"))

    with pytest.raises(UsageError, match="only reads"):
        face.run(body)
    assert face.read(usernames) == []


def test_a_refused_statement_of_a_read_can_be_lived_with(face: Face) -> None:
    """Nothing of it was sent, so there is nothing to undo."""

    def body(session: Session) -> None:
        with suppress(UsageError):
            reading(face, lambda inner: inner.execute(delete(Account)) and None)
        session.add(adding("bob"))

    face.run(body)
    assert (face.read(usernames), len(face.read(balances))) == (["bob"], 3)


def test_an_operation_inside_a_joined_read_may_not_write(face: Face) -> None:
    """Whoever is told that it only reads relies on that."""

    def save(session: Session) -> None:
        saved = face.db.save(adding("ada"))
        _ = await_only(saved) if face.kind.asynchronous else saved

    with pytest.raises(UsageError, match="only reads"):
        face.run(lambda session: reading(face, save))
    assert face.read(usernames) == []


def test_what_must_not_be_sent_yet_waits_through_a_read(face: Face) -> None:
    """`no_autoflush` is the word of the operation around it."""

    def body(session: Session) -> list[str]:
        user = User(username="ada")
        with session.no_autoflush:
            session.add(user)
            names: list[str] = reading(face, usernames)
            user.age = 30
        return names

    assert face.run(body) == []
    assert face.read(usernames) == ["ada"]


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
