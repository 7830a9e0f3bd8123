"""What `db.lock` locks of models that are more than one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import ForeignKey, String, event
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from tests.contract.faces import ONE_A_SERVER, Face, only

kind = only(ONE_A_SERVER)


class Base(DeclarativeBase):
    """The tables of these tests."""


class Owner(Base):
    """Somebody."""

    __tablename__ = "locks_owners"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Tag(Base):
    """Belongs to a thing."""

    __tablename__ = "locks_tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    thing_id: Mapped[int] = mapped_column(ForeignKey("locks_things.id"))
    text: Mapped[str] = mapped_column(String(20))


class Thing(Base):
    """Comes with its owner, if it has one, and its tags."""

    __tablename__ = "locks_things"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(20))
    owner_id: Mapped[int | None] = mapped_column(ForeignKey(Owner.id))
    owner: Mapped[Owner | None] = relationship(lazy="joined")
    tags: Mapped[list[Tag]] = relationship(lazy="joined", order_by=Tag.id)
    __mapper_args__ = {  # noqa: RUF012  # as SQLAlchemy has it
        "polymorphic_on": "kind",
        "polymorphic_identity": "thing",
        "with_polymorphic": "*",
    }


class Book(Thing):
    """A thing with a table of its own beside that of things."""

    __tablename__ = "locks_books"
    id: Mapped[int] = mapped_column(ForeignKey(Thing.id), primary_key=True, autoincrement=False)
    title: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "book"}  # noqa: RUF012


@pytest.fixture
def face(make_face: Callable[..., Face]) -> Face:
    """A face with two things, one of them a book."""
    made = make_face()
    made.fresh(Base.metadata)

    def fill(session: Session) -> None:
        session.add(Owner(id=1))
        session.flush()
        session.add(Thing(id=1, owner_id=1, tags=[Tag(text="red"), Tag(text="old")]))
        session.add(Book(id=2, title="Emma", tags=[Tag(text="green")]))

    made.run(fill, protect=False)
    return made


def locked(face: Face, model: Any) -> dict[int, Any]:
    """What `db.lock` gives for both ids, as told of it while the transaction is open."""

    def told(things: dict[int, Any]) -> dict[int, Any]:
        return {number: (type(one).__name__, [tag.text for tag in one.tags]) for number, one in things.items()}

    def sync(_tx: Any) -> Any:
        return told(face.db.lock(model, [2, 1]))

    async def asynchronous(_tx: Any) -> Any:
        return told(await face.db.lock(model, [2, 1]))

    found: dict[int, Any] = face.wait(face.db.run(asynchronous if face.kind.asynchronous else sync))
    return found


def test_a_row_is_locked_with_all_that_it_is_loaded_with(face: Face) -> None:
    """Joined relationships and subclasses come along. Only the rows asked for are locked, where the server tells them apart."""
    asked: list[str] = []

    def note(_c: Connection, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(face.engine, "before_cursor_execute", note)
    try:
        assert locked(face, Thing) == {1: ("Thing", ["red", "old"]), 2: ("Book", ["green"])}
        assert locked(face, Book) == {2: ("Book", ["green"])}
    finally:
        event.remove(face.engine, "before_cursor_execute", note)
    locks = [statement.partition("FOR UPDATE")[1:] for statement in asked if "locks_tags" in statement]
    tables = [set(of.removeprefix(" OF ").split(", ")) for lock, of in locks if lock]
    own = [{"locks_things"}, {"locks_things", "locks_books"}]
    assert tables == {"sqlite": [], "mariadb": [{""}, {""}]}.get(face.kind.server, own)
