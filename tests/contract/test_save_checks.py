"""What `db.save` refuses before the database is asked, and what it leaves to the database or to the models' own listeners."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import JSON, String, TypeDecorator, event, func, select
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, column_property, foreign, mapped_column, relationship

from holdfast.errors import InvalidData
from holdfast.ext.sqlalchemy.faults import Fault, inject
from tests.contract.faces import ONE_A_SERVER, Face, only

kind = only(ONE_A_SERVER)


class Base(DeclarativeBase):
    """The tables of these tests."""


class Mood(enum.StrEnum):
    """Its names are shorter than its values."""

    A = "as happy as can be"
    B = "blue"


class Note(Base):
    """Has an expression beside its columns."""

    __tablename__ = "checked_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    words: Mapped[str] = mapped_column(String(20))
    mood: Mapped[Mood] = mapped_column(default=Mood.A)
    motto: Mapped[str | None] = mapped_column(String(20))
    shouted: Mapped[str] = column_property(func.upper(words))


class Stamped(Base):
    """Its listeners fill it."""

    __tablename__ = "checked_stamps"
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(5))


class Bare(Base):
    """Has nobody who fills it."""

    __tablename__ = "checked_bare"
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(5))


class Wheel(Base):
    """Belongs to a car, of which its column says nothing."""

    __tablename__ = "checked_wheels"
    id: Mapped[int] = mapped_column(primary_key=True)
    car_id: Mapped[int]


class Car(Base):
    """Has wheels, and fills their column."""

    __tablename__ = "checked_cars"
    id: Mapped[int] = mapped_column(primary_key=True)
    wheels: Mapped[list[Wheel]] = relationship(primaryjoin=lambda: Car.id == foreign(Wheel.car_id))


class Empty(TypeDecorator[str]):
    """Writes an empty text where there is none."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Any) -> str:
        """What is written."""
        return value or ""


class Typed(Base):
    """Its types make something of None."""

    __tablename__ = "checked_types"
    id: Mapped[int] = mapped_column(primary_key=True)
    data: Mapped[Any] = mapped_column(JSON, nullable=False)
    label: Mapped[str | None] = mapped_column(Empty(20), nullable=False)


def from_context(context: DefaultExecutionContext) -> str:
    """A key that the other values of the row decide."""
    parameters: dict[str, Any] = context.get_current_parameters()  # type: ignore[no-untyped-call]
    return f"key of {parameters['name']}"


class Named(Base):
    """Its key follows from its name."""

    __tablename__ = "checked_names"
    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=from_context)
    name: Mapped[str] = mapped_column(String(20))


class Model:
    """As the models of a well-known library: a constructor by this name."""

    @classmethod
    def validate(cls, value: Any) -> Any:
        """Make one of `value`."""
        return value


class Own(Model, Base):
    """Inherits a `validate` that is none of its own."""

    __tablename__ = "checked_own"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Other(Base):
    """Has a `validate` for something else."""

    __tablename__ = "checked_other"
    id: Mapped[int] = mapped_column(primary_key=True)

    def validate(self, value: Any) -> bool:
        """Whether `value` is fine."""
        return bool(value)


@pytest.fixture
def face(make_face: Callable[..., Face]) -> Face:
    """A face with the tables of these tests, empty."""
    made = make_face()
    made.fresh(Base.metadata)
    return made


@contextmanager
def listening(target: Any, name: str, listener: Callable[..., Any]) -> Iterator[None]:
    """Have `listener` listen for a while."""
    event.listen(target, name, listener)
    try:
        yield
    finally:
        event.remove(target, name, listener)


def test_an_expression_beside_the_columns_is_not_checked(face: Face) -> None:
    """It is nothing that could be written."""
    assert face.save(Note(words="hello")).words == "hello"


def test_a_member_of_an_enumeration_is_as_long_as_what_is_written(face: Face) -> None:
    """Its name, where the column is of the enumeration's type; its text, where the column takes texts."""
    note = face.save(Note(words="hello", mood=Mood.A, motto=Mood.A))
    assert face.read(lambda session: session.scalars(select(Note.mood)).one()) is Mood.A
    assert face.read(lambda session: session.scalars(select(Note.motto)).one()) == Mood.A.value
    assert note.mood is Mood.A
    with pytest.raises(InvalidData) as caught:
        face.save(Note(words=f"{Mood.A} and more"))
    assert caught.value.columns == ("words",)


@pytest.mark.parametrize("by", ["mapper", "session"])
def test_what_a_listener_fills_is_not_missing(face: Face, by: str) -> None:
    """It does so before the INSERT, after the check; what nobody fills is refused all the same."""

    def before_insert(_mapper: object, _connection: object, stamped: Stamped) -> None:
        stamped.slug = "abc"

    def before_flush(session: Session, _context: object, _instances: object) -> None:
        for new in session.new:
            if isinstance(new, Stamped):
                new.slug = "abc"

    def saved() -> Stamped:
        stamped: Stamped = face.save(Stamped())
        return stamped

    heard = (Stamped, "before_insert", before_insert) if by == "mapper" else (Session, "before_flush", before_flush)
    with listening(*heard):
        assert saved().slug == "abc"
        if by == "mapper":
            with pytest.raises(InvalidData, match="missing"):
                face.save(Bare())
    with pytest.raises(InvalidData, match="missing") as caught:
        saved()
    assert caught.value.columns == ("slug",)


def test_what_a_listener_shortens_is_not_too_long(face: Face) -> None:
    """What is written counts; and what it leaves too long is refused, by SQLite as well, which would take it."""

    def before_insert(_mapper: object, _connection: object, stamped: Stamped) -> None:
        stamped.slug = stamped.slug.strip()

    with listening(Stamped, "before_insert", before_insert):
        assert face.save(Stamped(slug="  abc  ")).slug == "abc"
        with pytest.raises(InvalidData):
            face.save(Stamped(slug=" far too long "))
    assert face.read(lambda session: session.scalars(select(Stamped.slug)).all()) == ["abc"]


def test_what_a_relationship_fills_is_not_missing(face: Face) -> None:
    """Also where the column does not say whose key it is, and only the other side knows."""
    car = Car(wheels=[Wheel(), Wheel()])
    face.save(car)
    assert [wheel.car_id for wheel in car.wheels] == [car.id, car.id]


def test_what_a_type_makes_something_of_is_not_missing(face: Face) -> None:
    """None is a value of JSON's, and a type of the user's may write what it likes for it."""
    typed = face.save(Typed(data=None, label=None))
    assert face.read(lambda session: session.scalars(select(Typed.data)).one()) is None
    assert face.read(lambda session: session.scalars(select(Typed.label)).one()) == ""
    assert typed.id is not None


def test_a_key_that_follows_from_other_values_is_made_with_the_row(face: Face) -> None:
    """Nobody knows it earlier; each attempt makes it anew."""
    named = Named(name="ada")
    faults = iter([Fault.LOST_BEFORE_COMMIT])
    with inject(face.db.engine, lambda: next(faults, None)):
        face.save(named)
    assert named.id == "key of ada"
    assert face.read(lambda session: session.scalars(select(Named.id)).all()) == ["key of ada"]


def test_only_a_check_of_the_objects_own_is_called(face: Face) -> None:
    """Not a constructor that bears the name, nor a method that checks something else."""
    assert face.save(Own(name="ada")).name == "ada"
    assert face.save(Other()).id is not None
