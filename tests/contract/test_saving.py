"""What `db.save` does to the caller's objects: what they are checked for, what they get back, and when they must not keep it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Enum, ForeignKey, String, event, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from holdfast.deadline import current_deadline
from holdfast.errors import (
    ConfigurationError,
    HoldfastError,
    InvalidData,
    KeyReused,
    NotCommitted,
    OutcomeUnknown,
    ResultNotSerializable,
    SchemaMismatch,
    UsageError,
)
from holdfast.ext.sqlalchemy.faults import Fault, inject
from holdfast.outcome import Outcome
from tests.contract.faces import ONE_A_SERVER, Face, only

kind = only(ONE_A_SERVER)


class Base(DeclarativeBase):
    """The tables of these tests."""


class Child(Base):
    """Belongs to a parent."""

    __tablename__ = "saving_children"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("saving_parents.id"))
    note: Mapped[str] = mapped_column(String(5))


class Parent(Base):
    """Has children, which are saved with it."""

    __tablename__ = "saving_parents"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    children: Mapped[list[Child]] = relationship(cascade="all, delete-orphan", order_by=Child.id)


class Leaf(Base):
    """Belongs to a tree."""

    __tablename__ = "saving_leaves"
    id: Mapped[int] = mapped_column(primary_key=True)
    tree_id: Mapped[int | None] = mapped_column(ForeignKey("saving_trees.id"))
    note: Mapped[str] = mapped_column(String(5))
    tree: Mapped[Tree | None] = relationship(back_populates="leaves")


class Tree(Base):
    """Holds its leaves in no order."""

    __tablename__ = "saving_trees"
    id: Mapped[int] = mapped_column(primary_key=True)
    leaves: Mapped[set[Leaf]] = relationship(back_populates="tree")


class Page(Base):
    """A row that the database writes to as well."""

    __tablename__ = "saving_pages"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(20))
    version: Mapped[int] = mapped_column()
    edits: Mapped[int] = mapped_column(default=0, onupdate=text("edits + 1"))
    state: Mapped[str] = mapped_column(String(20), server_default="draft")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # as SQLAlchemy has it


class Colour(enum.Enum):
    """A primary key."""

    RED = "r"
    GREEN = "g"


class Paint(Base):
    """Known by its colour."""

    __tablename__ = "saving_paints"
    colour: Mapped[Colour] = mapped_column(Enum(Colour), primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Line(Base):
    """Known by its cart and its number in it."""

    __tablename__ = "saving_lines"
    cart_id: Mapped[int] = mapped_column(ForeignKey("saving_carts.id"), primary_key=True)
    no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    what: Mapped[str] = mapped_column(String(20))


class Cart(Base):
    """Has lines."""

    __tablename__ = "saving_carts"
    id: Mapped[int] = mapped_column(primary_key=True)
    lines: Mapped[list[Line]] = relationship()


class Seat(Base):
    """Belongs to a student and to a course, and knows neither."""

    __tablename__ = "saving_seats"
    id: Mapped[int] = mapped_column(primary_key=True)
    student_id: Mapped[int] = mapped_column(ForeignKey("saving_students.id"))
    course_id: Mapped[int] = mapped_column(ForeignKey("saving_courses.id"))


class Student(Base):
    """Has seats."""

    __tablename__ = "saving_students"
    id: Mapped[int] = mapped_column(primary_key=True)
    seats: Mapped[list[Seat]] = relationship()


class Course(Base):
    """Has seats."""

    __tablename__ = "saving_courses"
    id: Mapped[int] = mapped_column(primary_key=True)
    seats: Mapped[list[Seat]] = relationship()


@pytest.fixture
def face(make_face: Callable[..., Face]) -> Face:
    """A face with the tables of these tests, empty."""
    made = make_face()
    made.fresh(Base.metadata)
    return made


def inside(face: Face, obj: Any, *, failing: bool = False, savepoint: bool = False) -> list[int | None]:
    """Save `obj` inside an operation, or inside a savepoint of it that is rolled back; the id it had there at each attempt."""
    ids: list[int | None] = []

    def sync(tx: Any) -> None:
        if savepoint:
            with pytest.raises(LookupError), tx.begin_nested():
                face.db.save(obj)
                ids.append(obj.id)
                raise LookupError
        else:
            face.db.save(obj)
            ids.append(obj.id)
        if failing:
            raise LookupError

    async def asynchronous(tx: Any) -> None:
        if savepoint:
            with pytest.raises(LookupError):
                async with tx.begin_nested():
                    await face.db.save(obj)
                    ids.append(obj.id)
                    raise LookupError
        else:
            await face.db.save(obj)
            ids.append(obj.id)
        if failing:
            raise LookupError

    face.wait(face.db.run(asynchronous if face.kind.asynchronous else sync))
    return ids


def parents(session: Session) -> list[str]:
    """Every parent's name."""
    return sorted(session.scalars(select(Parent.name)))


def children(session: Session) -> list[tuple[int, int | None, str]]:
    """Every child, in the order of the ids."""
    return [(child.id, child.parent_id, child.note) for child in session.scalars(select(Child).order_by(Child.id))]


# -- what an operation around the save does not keep -----------------------------------------------------------------------


def test_a_save_that_its_outer_operation_undoes_leaves_no_key(face: Face) -> None:
    """Else the next save of the object would overwrite the row that got the key meanwhile."""
    ada = Parent(name="ada", children=[Child(note="a")])
    with pytest.raises(LookupError):
        inside(face, ada, failing=True)
    left: list[int | None] = [ada.id, ada.children[0].id]
    assert left == [None, None]

    face.save(Parent(name="bob", children=[Child(note="b")]))
    face.save(ada)
    assert face.read(parents) == ["ada", "bob"]
    assert [note for _, _, note in face.read(children)] == ["b", "a"]


def test_a_save_inside_an_operation_has_its_key_there_and_afterwards(face: Face) -> None:
    """The body needs it for a foreign key; once it is committed the caller does."""
    ada = Parent(name="ada")
    ids = inside(face, ada)
    assert ids == [ada.id]
    assert ada.id is not None


def test_a_save_goes_with_the_savepoint_it_was_made_in(face: Face) -> None:
    """What is rolled back to has forgotten the row, although the operation is committed."""
    ada, bob = Parent(name="ada"), Parent(name="bob")
    ids = inside(face, ada, savepoint=True)
    assert None not in ids
    assert ada.id is None
    face.save(bob)
    face.save(ada)
    assert face.read(parents) == ["ada", "bob"]


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE_COMMIT, Fault.LOST_AFTER_COMMIT])
def test_a_rerun_starts_from_the_object_as_it_was(face: Face, fault: Fault) -> None:
    """Each attempt inserts; and a COMMIT whose answer was lost leaves the key that it was carried out with."""
    ada = Parent(name="ada")
    faults = iter([fault])
    with inject(face.db.engine, lambda: next(faults, None)):
        inside(face, ada)

    def ids(session: Session) -> list[int]:
        return list(session.scalars(select(Parent.id)))

    assert face.read(ids) == [ada.id]


def test_an_unknown_outcome_leaves_no_key(face: Face) -> None:
    """Nobody knows whether the row is there."""
    ada = Parent(name="ada")
    unprotected = face.db.transaction(protect=False)

    def sync(_tx: Any) -> None:
        face.db.save(ada)

    async def asynchronous(_tx: Any) -> None:
        await face.db.save(ada)

    faults = iter([Fault.LOST_AFTER_COMMIT])
    with inject(face.db.engine, lambda: next(faults, None)), pytest.raises(OutcomeUnknown):
        face.wait(unprotected(asynchronous if face.kind.asynchronous else sync)())
    assert ada.id is None


# -- what is saved with an object ------------------------------------------------------------------------------------------


def test_children_get_their_keys_so_that_a_second_save_keeps_them(face: Face) -> None:
    """An object saved twice has the same children afterwards, under the same ids."""
    ada = Parent(name="ada", children=[Child(note="a"), Child(note="b")])
    saved = face.save(ada)
    first = face.read(children)
    assert [(child.id, child.parent_id, child.note) for child in ada.children] == first
    assert [child.id for child in saved.children] == [child.id for child in ada.children]

    ada.name = "ada lovelace"
    ada.children.append(Child(note="c"))
    face.save(ada)
    assert face.read(children)[:2] == first
    assert [note for _, _, note in face.read(children)] == ["a", "b", "c"]


def test_a_set_of_children_gets_each_its_own_key(face: Face) -> None:
    """A set has no order by which a copy could be told from another."""
    leaves = [Leaf(note=note) for note in "abcdef"]
    tree = Tree(leaves=set(leaves))
    for _ in range(2):
        face.save(tree)
    found = face.read(lambda session: {leaf.note: leaf.id for leaf in session.scalars(select(Leaf))})
    assert found == {leaf.note: leaf.id for leaf in leaves}


def test_an_object_named_beside_its_parent_is_saved_once(face: Face) -> None:
    """In whatever order, and also twice."""
    child = Child(note="a")
    ada = Parent(name="ada", children=[child])
    saved = face.save_all([child, ada, child])
    assert [type(one).__name__ for one in saved] == ["Child", "Parent", "Child"]
    assert face.read(children) == [(child.id, ada.id, "a")]


@pytest.mark.parametrize("key", [None, "k"], ids=["unkeyed", "keyed"])
def test_a_new_object_that_two_lead_to_is_one_row(face: Face, key: str | None) -> None:
    """As with `Session.add_all`: whoever is given first, and however the two know of each other."""

    def trees(session: Session) -> list[list[str]]:
        return [sorted(leaf.note for leaf in tree.leaves) for tree in session.scalars(select(Tree).order_by(Tree.id))]

    tree = Tree()
    first, second = Leaf(note="one", tree=tree), Leaf(note="two", tree=tree)
    face.save_all([first, second], **({} if key is None else {"key": key}))
    assert face.read(trees) == [["one", "two"]]
    assert None not in (tree.id, first.id, second.id)
    assert first.tree_id == second.tree_id == tree.id

    if key is not None:  # another process asks again
        other = Tree()
        again = [Leaf(note="one", tree=other), Leaf(note="two", tree=other)]
        face.save_all(again, key=key)
        assert [leaf.id for leaf in again] == [first.id, second.id]
        assert other.id == tree.id
        assert face.read(trees) == [["one", "two"]]


def test_two_new_objects_with_one_half_of_a_key_are_two(face: Face) -> None:
    """What is missing of their keys comes from their parents: until then they are not the same."""
    carts = [Cart(lines=[Line(cart_id=None, no=1, what=what)]) for what in ("apple", "pear")]
    face.save_all(carts)
    wanted = [(cart.id, 1, what) for cart, what in zip(carts, ("apple", "pear"), strict=True)]
    assert sorted((cart.lines[0].cart_id, cart.lines[0].no, cart.lines[0].what) for cart in carts) == wanted

    def lines(session: Session) -> list[tuple[int, int, str]]:
        return sorted((line.cart_id, line.no, line.what) for line in session.scalars(select(Line)))

    assert face.read(lines) == wanted


def test_a_new_object_of_two_parents_is_written_when_both_are_known(face: Face) -> None:
    """Neither of its columns may be empty."""
    seat = Seat()
    student, course = Student(seats=[seat]), Course(seats=[seat])
    face.save_all([student, course])
    assert (seat.student_id, seat.course_id) == (student.id, course.id)


@pytest.mark.parametrize("order", [["leaf"], ["leaf", "tree"], ["tree", "leaf"], ["tree"]], ids="-".join)
def test_what_was_taken_out_is_out_wherever_the_walk_begins(face: Face, order: list[str]) -> None:
    """Each side of a relationship is saved, also when the other one is met first."""
    tree = Tree()
    first, second = Leaf(note="one", tree=tree), Leaf(note="two", tree=tree)
    face.save_all([first, second])
    tree.leaves.discard(second)
    first.note = "three"
    face.save_all([{"leaf": first, "tree": tree}[name] for name in order])

    def leaves(session: Session) -> list[tuple[str, int | None]]:
        return sorted((leaf.note, leaf.tree_id) for leaf in session.scalars(select(Leaf)))

    assert face.read(leaves) == [("three", tree.id), ("two", None)]


def test_what_an_object_leads_to_by_way_of_another_is_saved_with_it(face: Face) -> None:
    """The leaf's tree, and the tree's other leaf."""
    tree = Tree()
    first, second = Leaf(note="one", tree=tree), Leaf(note="two", tree=tree)
    face.save(first)
    assert None not in (tree.id, first.id, second.id)
    assert second.tree_id == tree.id


def test_children_are_checked_too(face: Face) -> None:
    """The error names the child's column."""
    with pytest.raises(InvalidData, match="saving_children") as caught:
        face.save(Parent(name="ada", children=[Child(note="far too long")]))
    assert caught.value.columns == ("note",)


def test_a_keyed_save_is_replayed_with_its_children(face: Face) -> None:
    """They get their keys as well; other children are another request."""
    first = face.save(Parent(name="ada", children=[Child(note="a")]), key="k")
    again = Parent(name="ada", children=[Child(note="a")])
    assert face.save(again, key="k").id == again.id == first.id
    again.name = "bob"
    face.save(again)
    assert len(face.read(children)) == 1
    with pytest.raises(KeyReused):
        face.save(Parent(name="ada", children=[Child(note="b")]), key="k")


# -- what the database makes of it -----------------------------------------------------------------------------------------


def test_what_the_database_changes_comes_back(face: Face) -> None:
    """Defaults, versions and expressions: in the object, and in the copy that is returned."""
    page = Page(title="one")
    saved = face.save(page)
    assert (page.version, page.edits, page.state) == (1, 0, "draft")
    assert (saved.version, saved.edits, saved.state) == (1, 0, "draft")

    for round_ in (1, 2):
        page.title = f"round {round_}"
        saved = face.save(page)
        assert (page.version, page.edits) == (saved.version, saved.edits) == (1 + round_, round_)


def test_a_save_asks_nothing_more_where_it_knows_all(face: Face) -> None:
    """An insert without expressions is one statement beside the key row."""
    asked: list[str] = []
    engine = face.engine

    def note(_c: Connection, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement.split(maxsplit=1)[0])

    event.listen(engine, "before_cursor_execute", note)
    face.save(Parent(name="ada"))
    event.remove(engine, "before_cursor_execute", note)
    assert asked.count("SELECT") <= (face.kind.server == "postgresql")  # its transaction's id
    assert asked.count("INSERT") == 1


def test_a_replay_of_what_was_deleted_says_that_it_was_committed(face: Face) -> None:
    """Not that a row was not found, of which the caller knows nothing."""
    face.save(Page(title="one"), key="k")
    face.run(lambda session: session.execute(text("DELETE FROM saving_pages")) and None)
    with pytest.raises(UsageError, match="has been deleted since") as caught:
        face.save(Page(title="one"), key="k")
    assert caught.value.outcome is Outcome.COMMITTED


def test_a_replay_holds_what_the_first_answer_held(face: Face) -> None:
    """What is related to the object can be read from either; what the caller did not give from neither."""
    first = face.save(Parent(name="ada", children=[Child(note="a"), Child(note="b")]), key="k")
    again = face.save(Parent(name="ada", children=[Child(note="a"), Child(note="b")]), key="k")
    assert [(child.id, child.note) for child in again.children] == [(child.id, child.note) for child in first.children]
    face.save(Parent(name="bob"), key="other")
    assert "children" not in face.save(Parent(name="bob"), key="other").__dict__


def test_a_replay_that_cannot_be_loaded_says_that_it_was_committed(face: Face) -> None:
    """Whoever is told that nothing was applied makes a new key, and saves it twice."""
    face.save(Page(title="one"), key="k")
    face.wait(face.db.run(face.function(lambda session: session.execute(text("DROP TABLE saving_pages")) and None)))
    try:
        with pytest.raises(HoldfastError, match="is committed, but could not be loaded") as caught:
            face.save(Page(title="one"), key="k")
    finally:
        face.wait(face.db.migrate(Base.metadata))
    assert caught.value.outcome is Outcome.COMMITTED
    assert not isinstance(caught.value, NotCommitted)
    assert isinstance(caught.value.__cause__, SchemaMismatch)


def test_a_replay_has_the_time_of_one_operation(face: Face) -> None:
    """The caller's deadline is for both, the question and the load."""
    face.save(Page(title="one"), key="k")
    left: list[float] = []

    def note(_c: Connection, _cursor: object, statement: str, *_: object) -> None:
        deadline = current_deadline()
        if "saving_pages" in statement and deadline is not None:
            left.append(deadline.remaining_s())

    event.listen(face.engine, "before_cursor_execute", note)
    face.save(Page(title="one"), key="k", deadline=4.0)
    event.remove(face.engine, "before_cursor_execute", note)
    assert left
    assert max(left) < 4.0


def test_a_member_of_an_enumeration_is_a_key_like_any_other(face: Face) -> None:
    """The replay finds the row by it."""
    for _ in range(2):
        assert face.save(Paint(colour=Colour.RED, name="x"), key="k").colour is Colour.RED


def test_a_number_too_large_for_every_column_is_refused_by_name(face: Face) -> None:
    """Whoever notices it first: some drivers do, before they ask."""
    with pytest.raises(InvalidData) as caught:
        face.save(Parent(id=2**70, name="secret"))
    assert "secret" not in f"{caught.value} {caught.value!r}"
    assert str(2**70) not in f"{caught.value} {caught.value!r}"


# -- an object's own check -------------------------------------------------------------------------------------------------


class Checked(Parent):
    """Refuses itself."""

    async def validate(self) -> None:
        """Refuse."""
        raise ValueError("no")


def test_a_validate_that_has_to_be_awaited_is_awaited_or_refused(face: Face) -> None:
    """It is never skipped."""
    expected: type[Exception] = ValueError if face.kind.asynchronous else ConfigurationError
    with pytest.raises(expected, match="no" if face.kind.asynchronous else "use AsyncDatabase") as caught:
        face.save(Checked(name="ada"))
    assert face.read(parents) == []
    assert isinstance(caught.value, HoldfastError) is not face.kind.asynchronous


def test_a_key_that_cannot_be_found_again_is_refused(face: Face) -> None:
    """The text speaks of the save, not of a function that the caller does not have."""
    from holdfast.ext.sqlalchemy.given import database_of
    from holdfast.ext.sqlalchemy.saving import IdentityCodec, Pair

    class Odd:
        pass

    page = Page(title="x")
    page._sa_instance_state.key = (Page, (Odd(),), None)  # type: ignore[attr-defined]
    with pytest.raises(ResultNotSerializable, match="primary key holds a Odd"):
        IdentityCodec().encode([Pair(page, page, database_of(Session(face.engine)))])
