"""A conflict that the transaction function swallows: an error on every server, unless a savepoint has undone it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlalchemy.orm import Session

from holdfast.errors import Conflict, StatementRejected
from tests.contract.faces import ONE_A_SERVER, Face, Kind, User, only, usernames

PSYCOPG = [Kind("postgresql", "psycopg", asynchronous=False), Kind("postgresql", "psycopg", asynchronous=True)]

kind = only([*ONE_A_SERVER, *PSYCOPG])


def adding(username: str) -> User:
    """A user."""
    return User(username=username, age=30)


def save_and_go_on(session: Session) -> str:
    """What `get_or_create` looks like when somebody writes it for the first time."""
    session.add(adding("ada"))
    try:
        session.flush()
    except IntegrityError:
        return "there already"
    return "new"


def save_and_look(session: Session) -> list[str]:
    """The same, by somebody who thinks that the session can still be asked."""
    save_and_go_on(session)
    return usernames(session)


@pytest.mark.parametrize(("body", "first"), [(save_and_go_on, "new"), (save_and_look, ["ada"])])
@pytest.mark.parametrize("key", [None, "k"], ids=["unkeyed", "keyed"])
def test_a_swallowed_conflict_is_still_a_conflict(
    face: Face, key: str | None, body: Callable[[Session], object], first: object
) -> None:
    """The transaction cannot go on; on every server the caller hears why, without the value.

    Also where the session was used after it: SQLAlchemy's error about that only says that it was.
    """
    assert face.run(body) == first
    with pytest.raises(Conflict) as caught:
        face.run(body, key=key)
    assert "ada" not in str(caught.value)
    with pytest.raises(Conflict):
        face.block(body)
    assert face.read(usernames) == ["ada"]


def test_a_conflict_in_a_savepoint_is_dealt_with(face: Face) -> None:
    """That is the way to go on after one."""

    def get_or_create(session: Session) -> str:
        try:
            with session.begin_nested():
                session.add(adding("ada"))
        except IntegrityError:
            session.add(adding("bob"))
            return "there already"
        return "new"

    assert [face.run(get_or_create), face.run(get_or_create)] == ["new", "there already"]
    assert face.read(usernames) == ["ada", "bob"]


def save_and_fail_past_sqlalchemy(session: Session) -> None:
    """What goes through the driver itself (a COPY, say) fails, and nobody hears of it."""
    session.add(adding("ada"))
    session.flush()
    cursor = session.connection().connection.cursor()
    with suppress(Exception):
        cursor.execute("SELECT nothing FROM nowhere")
    cursor.close()


@pytest.mark.parametrize("options", [{}, {"key": "k"}, {"protect": False}], ids=["plain", "keyed", "unprotected"])
def test_what_the_driver_alone_was_told_is_not_told_committed(face: Face, options: dict[str, Any]) -> None:
    """On PostgreSQL any failure ends the transaction: its COMMIT is answered with ROLLBACK."""
    if face.kind.server != "postgresql":
        face.run(save_and_fail_past_sqlalchemy, **options)
        assert face.read(usernames) == ["ada"]
        return
    with pytest.raises(StatementRejected, match="in_failed_sql_transaction"):
        face.run(save_and_fail_past_sqlalchemy, **options)
    assert face.read(usernames) == []


def look_for_nobody(session: Session) -> None:
    """An error that SQLAlchemy raises by itself."""
    session.scalars(select(User).where(User.username == "nobody")).one()


def insert_in_a_savepoint(session: Session) -> None:
    """A statement that is refused, and undone."""
    with session.begin_nested():
        insert(session)


def insert(session: Session) -> None:
    """A statement that is refused."""
    session.add(adding("ada"))
    session.flush()


@pytest.mark.parametrize("own", [TimeoutError, ConnectionError])
@pytest.mark.parametrize("hidden", [False, True], ids=["", "from None"])
@pytest.mark.parametrize("what", [look_for_nobody, insert_in_a_savepoint, insert])
def test_what_the_function_raises_over_a_refusal_is_its_own(
    face: Face, what: Callable[[Session], None], hidden: bool, own: type[Exception]
) -> None:
    """What it was handling says nothing of the connection; so another try would call its mail server once more."""
    calls: list[int] = []

    def body(session: Session) -> None:
        calls.append(1)
        try:
            what(session)
        except (NoResultFound, IntegrityError) as error:
            raise own("mail server") from (None if hidden else error)

    face.run(insert)
    with pytest.raises(own, match="mail server") as caught:
        face.run(body)
    assert (caught.type, calls) == (own, [1])
    assert face.read(usernames) == ["ada"]


@pytest.mark.parametrize("hidden", [False, True], ids=["", "from None"])
def test_what_the_function_raises_over_a_lost_connection_is_not_its_own(face: Face, hidden: bool) -> None:
    """Whatever it makes of that, the whole runs again."""
    calls: list[int] = []
    lost: list[int] = []

    def body(session: Session) -> None:
        calls.append(1)
        try:
            insert(session)
        except ConnectionResetError as error:
            raise TimeoutError("mail server") from (None if hidden else error)

    def fail(*_: object) -> None:
        if calls and not lost:
            lost.append(1)
            raise ConnectionResetError("of the connection")

    event.listen(face.engine, "before_cursor_execute", fail)
    face.run(body)
    event.remove(face.engine, "before_cursor_execute", fail)
    assert (len(calls), face.read(usernames)) == (2, ["ada"])
