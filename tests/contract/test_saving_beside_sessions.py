"""What `db.save` does with objects that a session looks after: one of the caller's, or the one of the operation around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import ForeignKey, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from holdfast.errors import ForeignTransaction
from tests.contract.faces import ONE_A_SERVER, Face, only

kind = only(ONE_A_SERVER)


class Base(DeclarativeBase):
    """The tables of these tests."""


class Crew(Base):
    """Belongs to a ship."""

    __tablename__ = "beside_crews"
    id: Mapped[int] = mapped_column(primary_key=True)
    ship_id: Mapped[int | None] = mapped_column(ForeignKey("beside_ships.id"))
    name: Mapped[str] = mapped_column(String(20))
    ship: Mapped[Ship | None] = relationship(back_populates="crews")


class Flag(Base):
    """The one of a ship."""

    __tablename__ = "beside_flags"
    id: Mapped[int] = mapped_column(primary_key=True)
    ship_id: Mapped[int | None] = mapped_column(ForeignKey("beside_ships.id"))
    ship: Mapped[Ship | None] = relationship(back_populates="flag")


class Ship(Base):
    """Has crews, and a flag."""

    __tablename__ = "beside_ships"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(20))
    crews: Mapped[list[Crew]] = relationship(back_populates="ship", order_by=Crew.id)
    flag: Mapped[Flag | None] = relationship(back_populates="ship")


@pytest.fixture
def face(make_face: Callable[..., Face]) -> Face:
    """A face with one ship."""
    made = make_face()
    made.fresh(Base.metadata)

    def fill(session: Session) -> None:
        session.add(Ship(id=1, name="Beagle"))

    made.run(fill, protect=False)
    return made


def stored(session: Session) -> tuple[list[str], list[tuple[str, int | None]]]:
    """The names of the ships, and each crew with its ship."""
    crews = session.scalars(select(Crew).order_by(Crew.id))
    return [*session.scalars(select(Ship.name))], [(crew.name, crew.ship_id) for crew in crews]


def changed_elsewhere(face: Face) -> tuple[Session, Ship]:
    """The ship in a session of the caller's, where it has another name that is not committed."""
    ship = face.read(lambda session: session.get_one(Ship, 1))
    other = Session()
    other.add(ship)
    ship.name = "not yet"
    return other, ship


def test_what_another_session_has_changed_is_not_saved_on_the_way(face: Face) -> None:
    """That session looks after it, and may roll back; the key is all that the save needs of it."""
    other, ship = changed_elsewhere(face)
    crew = face.save(Crew(name="one", ship=ship))
    assert face.read(stored) == (["Beagle"], [("one", 1)])
    assert (ship.name, crew.ship.name) == ("not yet", "Beagle")
    assert ship in other.dirty


def test_what_only_another_session_has_yet_is_refused(face: Face) -> None:
    """Its row is in a transaction that is not committed, so nothing can refer to it."""
    _, ship = changed_elsewhere(face)
    face.run(lambda session: session.delete(session.get_one(Ship, 1)))
    with pytest.raises(ForeignTransaction, match="Ship that belongs to a session"):
        face.save(Crew(name="one", ship=ship))
    assert face.read(stored) == ([], [])


@pytest.mark.parametrize("loaded", [False, True])
def test_an_object_of_the_operation_around_gets_the_saved_copy_alone(face: Face, *, loaded: bool) -> None:
    """The original is in no session: whatever takes the ship along again would insert it a second time."""

    def prepare(ship: Ship) -> tuple[Crew, Flag]:
        if loaded:
            assert (ship.crews, ship.flag) == ([], None)
        return Crew(name="one", ship=ship), Flag(ship=ship)

    def check(tx: Session, ship: Ship, crew: Crew, flag: Flag) -> None:
        tx.add(ship)
        tx.flush()
        assert crew not in tx
        assert flag not in tx
        assert [(one.id, one.name) for one in ship.crews] == [(crew.id, "one")]
        assert ship.flag is not flag
        assert ship.flag is not None
        assert (ship.flag.id, crew.ship, flag.ship) == (flag.id, ship, ship)

    def sync(tx: Session) -> None:
        ship = tx.get_one(Ship, 1)
        crew, flag = prepare(ship)
        face.db.save_all([crew, flag])
        check(tx, ship, crew, flag)

    async def asynchronous(tx: Any) -> None:
        ship = await tx.get_one(Ship, 1)
        crew, flag = await tx.run_sync(lambda _: prepare(ship))
        await face.db.save_all([crew, flag])
        await tx.run_sync(lambda session: check(session, ship, crew, flag))

    face.wait(face.db.run(asynchronous if face.kind.asynchronous else sync))
    assert face.read(stored) == (["Beagle"], [("one", 1)])
