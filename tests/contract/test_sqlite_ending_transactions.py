"""On SQLite a statement may end the transaction: what comes after it would be saved at once, statement by statement."""

from __future__ import annotations

from contextlib import suppress

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from holdfast.errors import DataRejected, StatementRejected
from tests.contract.faces import ON_SQLITE, Face, User, only, usernames

kind = only(ON_SQLITE)


@pytest.fixture
def refusing(face: Face) -> Face:
    """With a trigger that refuses a name."""

    def create(session: Session) -> None:
        session.execute(
            text(
                "CREATE TRIGGER no_mallory BEFORE INSERT ON contract_users WHEN new.username = 'mallory' "
                "BEGIN SELECT RAISE(ROLLBACK, 'not her'); END"
            )
        )

    face.run(create)
    return face


def body(session: Session, *, fails: bool, savepoint: bool) -> str:
    """Goes on after it."""
    session.execute(insert(User).values(username="first", age=1))
    with suppress(Exception):
        if savepoint:
            with session.begin_nested():
                session.execute(insert(User).values(username="mallory", age=1))
        else:
            session.execute(insert(User).values(username="mallory", age=1))
    with suppress(Exception), session.begin_nested():
        session.execute(insert(User).values(username="second", age=1))
        raise ValueError("undone")
    session.execute(insert(User).values(username="third", age=1))
    if fails:
        raise KeyError("of the function")
    return "done"


@pytest.mark.parametrize("savepoint", [False, True])
@pytest.mark.parametrize("key", [None, "k"], ids=["unkeyed", "keyed"])
def test_nothing_of_it_stays(refusing: Face, key: str | None, savepoint: bool) -> None:
    """Neither is what is left told committed, nor does it stay where the function fails."""

    def goes_on(session: Session) -> str:
        return body(session, fails=False, savepoint=savepoint)

    def fails(session: Session) -> str:
        return body(session, fails=True, savepoint=savepoint)

    with pytest.raises((StatementRejected, DataRejected)):
        refusing.run(goes_on, key=key)
    assert refusing.read(usernames) == []
    with pytest.raises(KeyError):
        refusing.run(fails, key=key)
    assert refusing.read(usernames) == []


def test_an_error_on_a_closed_connection_reaches_the_function_as_it_is(face: Face) -> None:
    """Whether its transaction has ended cannot be asked there, and that is no other error in its place."""
    caught: list[type[Exception]] = []

    def body(session: Session) -> str:
        if caught:
            return "again"
        session.connection().connection.dbapi_connection.close()  # type: ignore[union-attr]
        try:
            session.execute(text("SELECT 1"))
        except Exception as error:
            caught.append(type(error))
            raise
        return "not closed"

    assert face.run(body) == "again"
    assert [issubclass(kind, DBAPIError) for kind in caught] == [True]
