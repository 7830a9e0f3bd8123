"""What happens between the end of the transaction function and the server's answer to COMMIT, and what is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from holdfast.errors import NotCommitted, OutcomeUnknown, StatementRejected
from holdfast.ext.sqlalchemy.faults import Fault, inject
from tests.contract.faces import ONE_A_SERVER, Face, Kind, User, only, usernames

kind = only(
    [*ONE_A_SERVER, Kind("postgresql", "psycopg", asynchronous=False), Kind("postgresql", "psycopg", asynchronous=True)]
)


def adding(username: str) -> User:
    """A user."""
    return User(username=username, age=30)


@contextmanager
def before_commit(listener: Any) -> Iterator[None]:
    """An application's own listener, on all sessions."""
    event.listen(Session, "before_commit", listener)
    try:
        yield
    finally:
        event.remove(Session, "before_commit", listener)


@pytest.mark.parametrize("key", [None, "k"], ids=["unkeyed", "keyed"])
def test_a_released_savepoint_is_no_answer_to_commit(face: Face, key: str | None) -> None:
    """SQLAlchemy calls a session's `after_commit` for both. A COMMIT that fails each time is not told committed."""
    told: list[str] = []

    def body(session: Session) -> str:
        with session.begin_nested():
            session.add(adding("ada"))
        face.db.after_commit(told.append, "committed")
        return "done"

    with inject(face.engine, lambda: Fault.LOST_BEFORE_COMMIT), pytest.raises((NotCommitted, OutcomeUnknown)):
        face.run(body, key=key)
    assert (told, face.read(usernames)) == ([], [])
    faults = iter([Fault.LOST_BEFORE_COMMIT])
    with inject(face.engine, lambda: next(faults, None)):
        assert face.run(body, key=key) == "done"
    assert (told, face.read(usernames)) == (["committed"], ["ada"])


def test_a_keyed_operation_inside_is_no_answer_to_commit(face: Face) -> None:
    """Its savepoint is ours, and no other."""

    def add(session: Session) -> None:
        session.add(adding("ada"))

    inner = face.db.transaction(name="inner")(face.function(add)).keyed("inner")

    def sync(_session: Any) -> str:
        inner()
        return "done"

    async def asynchronous(_session: Any) -> str:
        await inner()
        return "done"

    outer = face.db.transaction(name="outer")(asynchronous if face.kind.asynchronous else sync)
    with inject(face.engine, lambda: Fault.LOST_BEFORE_COMMIT), pytest.raises((NotCommitted, OutcomeUnknown)):
        face.wait(outer())
    assert face.read(usernames) == []
    face.wait(outer())
    assert face.read(usernames) == ["ada"]


@pytest.mark.parametrize("options", [{}, {"key": "k"}, {"protect": False}], ids=["plain", "keyed", "unprotected"])
def test_what_a_listener_swallows_is_not_committed_over(face: Face, options: dict[str, Any]) -> None:
    """On PostgreSQL the failed statement of a listener has ended the transaction, as one of the function would have."""

    def audit(session: Session) -> None:
        with suppress(Exception):
            session.execute(text("INSERT INTO contract_nowhere VALUES (1)"))

    def save(session: Session) -> str:
        session.add(adding("ada"))
        return "done"

    with before_commit(audit):
        if face.kind.server == "postgresql":
            with pytest.raises(StatementRejected):
                face.run(save, **options)
        else:
            assert face.run(save, **options) == "done"
    assert face.read(usernames) == ([] if face.kind.server == "postgresql" else ["ada"])


def test_what_a_listener_writes_is_in_doubt_as_well(face: Face) -> None:
    """The function writes nothing, and COMMIT never arrives: the listener's row is missed, and the whole runs again."""

    def audit(session: Session) -> None:
        if not session.in_nested_transaction():
            session.add(adding("auditor"))

    faults = iter([Fault.LOST_BEFORE_COMMIT])
    with before_commit(audit), inject(face.engine, lambda: next(faults, None)):
        assert face.run(lambda _session: 5) == 5
    assert face.read(usernames) == ["auditor"]
