"""What `db.save` writes of an object: what it holds, and, where it was read before, no more than what was changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, ForeignKey, PickleType, String, event, func, select, update
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    composite,
    deferred,
    mapped_column,
    relationship,
    synonym,
    undefer,
    validates,
)

from holdfast.errors import Conflict, KeyReused
from holdfast.ext.sqlalchemy import Database
from holdfast.ext.sqlalchemy.faults import Fault, inject
from holdfast.outcome import Outcome, Rejection
from tests.contract.faces import ONE_A_SERVER, Face, only

kind = only(ONE_A_SERVER)

ONE, TWO = 1_001, 1_002
"""Keys that no sequence reaches here."""


class Base(DeclarativeBase):
    """The tables of these tests."""


class Member(Base):
    """Hashes its password, and lets nobody in again who was thrown out."""

    __tablename__ = "copied_members"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    password: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20), default="in")
    changes: Mapped[int] = mapped_column(default=0)

    @validates("password")
    def hashed(self, _key: str, value: str) -> str:
        """Hash it."""
        return f"h({value})"

    @validates("state")
    def allowed(self, _key: str, value: str) -> str:
        """Refuse what may not be changed."""
        if self.state == "out" and value != "out":
            raise ValueError("out is out")
        return value


@event.listens_for(Member.name, "set")
def count_changes(member: Member, *_: object) -> None:
    """Count them."""
    member.changes = (member.changes or 0) + 1


class Secret(Base):
    """Its column is made of what is in none."""

    __tablename__ = "copied_secrets"
    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str | None] = mapped_column(String(20))
    raw = ""

    @cached_property
    def label(self) -> str:
        """Something that is computed once."""
        return f"secret {self.id}"


@event.listens_for(Secret, "before_insert")
def make_digest(_mapper: object, _connection: object, secret: Secret) -> None:
    """Make the column."""
    secret.digest = f"of {secret.raw}"


@dataclass(frozen=True)
class Pair:
    """Two columns in one."""

    left: int
    right: int


class Wallet(Base):
    """Has something of every kind."""

    __tablename__ = "copied_wallets"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    balance: Mapped[int] = mapped_column(default=0)
    left: Mapped[int] = mapped_column(default=0)
    right: Mapped[int] = mapped_column(default=0)
    notes: Mapped[Any] = mapped_column(JSON, default=list)
    seen: Mapped[Any] = mapped_column(PickleType, default=set)
    tracked: Mapped[Any] = mapped_column(MutableDict.as_mutable(JSON()), default=dict)
    memo: Mapped[str] = deferred(mapped_column(String(20), default=""))
    pair: Mapped[Pair] = composite("left", "right")
    title: Mapped[str] = synonym("name")
    twice: Mapped[int] = column_property(balance * 2)
    coins: Mapped[list[Coin]] = relationship(back_populates="wallet", cascade="all, delete-orphan", order_by="Coin.id")


class Coin(Base):
    """Lies in a wallet."""

    __tablename__ = "copied_coins"
    id: Mapped[int] = mapped_column(primary_key=True)
    worth: Mapped[int] = mapped_column(default=1)
    wallet_id: Mapped[int | None] = mapped_column(ForeignKey(Wallet.id))
    wallet: Mapped[Wallet | None] = relationship(back_populates="coins")


class Page(Base):
    """Counts its versions."""

    __tablename__ = "copied_pages"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(20))
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # as SQLAlchemy has it


class Animal(Base):
    """Of one kind or another."""

    __tablename__ = "copied_animals"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_on": kind}  # noqa: RUF012  # as SQLAlchemy has it


class Dog(Animal):
    """One of two tables."""

    __tablename__ = "copied_dogs"
    id: Mapped[int] = mapped_column(ForeignKey(Animal.id), primary_key=True)
    bark: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012  # as SQLAlchemy has it


@pytest.fixture
def face(make_face: Callable[..., Face]) -> Face:
    """A face with the tables of these tests, and one wallet of 100 with one coin."""
    made = make_face()
    made.fresh(Base.metadata)

    def fill(session: Session) -> None:
        session.add(
            Wallet(id=ONE, name="ada", balance=100, notes=["a"], seen={1}, tracked={"a": 1}, coins=[Coin(id=ONE)])
        )

    made.run(fill, protect=False)
    return made


def read(face: Face, *options: Any, model: Any = Wallet, identity: int = ONE) -> Any:
    """The object, as a caller has it who has read it."""
    return face.read(lambda session: session.get_one(model, identity, options=options))


def meanwhile(face: Face, model: Any = Wallet, **values: Any) -> None:
    """What somebody else commits."""
    face.run(lambda session: session.execute(update(model).values(**values)) and None)


def updates(face: Face, call: Callable[[], object]) -> list[str]:
    """The UPDATE statements that `call` sends, of the tables of these tests."""
    sent: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE") and "copied_" in statement:
            sent.append(statement)

    event.listen(face.engine, "before_cursor_execute", note)
    try:
        call()
    finally:
        event.remove(face.engine, "before_cursor_execute", note)
    return sent


# -- what an object holds is what is stored ------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "k"], ids=["unkeyed", "keyed"])
def test_what_an_object_holds_is_stored_as_it_is(face: Face, key: str | None) -> None:
    """Its validators and listeners have made of it what they make, when the program set it; and once is enough."""
    member = Member(name="ada", password="x")
    saved = face.save(member, **({} if key is None else {"key": key}))
    assert (member.password, member.changes, saved.password, saved.changes) == ("h(x)", 1, "h(x)", 1)
    for again in (member, saved, read(face, model=Member, identity=saved.id)):
        again.name = "bob"
        face.save(again)
        assert (again.password, read(face, model=Member, identity=saved.id).password) == ("h(x)", "h(x)")
    assert read(face, model=Member, identity=saved.id).changes == 2


def test_a_validator_is_not_asked_for_what_was_not_changed(face: Face) -> None:
    """It would refuse to go back to what the caller had read; which nobody wants."""
    saved = face.save(Member(name="ada", password="x", state="in"))
    meanwhile(face, Member, state="out")
    saved.name = "bob"
    face.save(saved)
    assert saved.state == "out"


def test_what_is_saved_twice_without_a_change_is_no_update(face: Face) -> None:
    """Neither of an object that was made, nor of one that was read."""
    member = face.save(Member(name="ada", password="x"))
    made = Member(id=member.id, name="ada", password="x")
    for one in (member, made, read(face)):
        assert updates(face, lambda one=one: face.save(one)) == []  # type: ignore[misc]


def test_listeners_find_on_the_copy_what_the_object_holds_beside_its_columns(face: Face) -> None:
    """At every attempt; what the object only remembers is found out anew."""
    secret = Secret()
    secret.raw = "word"
    assert secret.label == "secret None"
    faults = iter([Fault.LOST_BEFORE_COMMIT])
    with inject(face.db.engine, lambda: next(faults, None)):
        saved = face.save(secret)
    assert (saved.digest, secret.digest, saved.raw) == ("of word", "of word", "word")
    assert saved.label == f"secret {saved.id}"


def test_what_changes_inside_of_a_saved_object_is_seen(face: Face) -> None:
    """The copy follows its own mutable values, as an object that was loaded does."""
    saved = face.save(Wallet(name="bob", tracked={"b": 1}))
    saved.tracked["b"] = 2
    face.save(saved)
    assert read(face, identity=saved.id).tracked == {"b": 2}
    saved = face.save(Wallet(name="bob", tracked={"b": 1}))
    session = Session()
    session.add(saved)
    assert saved not in session.dirty
    saved.tracked["b"] = 3
    assert saved in session.dirty


def test_a_row_in_two_tables_is_saved_as_one(face: Face) -> None:
    """Made, and read and changed."""
    dog = face.save(Dog(name="rex", bark="wuff"))
    dog.bark = "wow"
    meanwhile(face, Animal, name="max")
    face.save(dog)
    found = read(face, model=Dog, identity=dog.id)
    assert (found.name, found.bark, dog.name) == ("max", "wow", "max")


# -- of what was read, only what was changed -----------------------------------------------------------------------------


def test_what_was_only_read_does_not_undo_what_others_committed(face: Face) -> None:
    """The object then holds what its row does."""
    wallet = read(face)
    meanwhile(face, balance=150, left=7)
    wallet.title = "new"
    saved = face.save(wallet)
    for one in (wallet, saved, read(face)):
        assert (one.name, one.balance, one.left, one.pair, one.twice) == ("new", 150, 7, Pair(7, 0), 300)


def test_a_change_that_was_saved_is_no_change_any_more(face: Face) -> None:
    """The next save of the same object leaves it to the others."""
    wallet = read(face)
    wallet.name = "new"
    face.save(wallet)
    meanwhile(face, name="newer")
    wallet.balance = 5
    face.save(wallet)
    found = read(face)
    assert (found.name, found.balance, wallet.name) == ("newer", 5, "newer")


def test_a_composite_value_that_was_changed_is_written(face: Face) -> None:
    """In the columns it is made of."""
    wallet = read(face)
    wallet.pair = Pair(1, 2)
    meanwhile(face, balance=150)
    saved = face.save(wallet)
    for one in (wallet, saved, read(face)):
        assert (one.pair, one.right, one.balance) == (Pair(1, 2), 2, 150)


def test_a_child_takes_nothing_from_a_parent_that_was_only_read(face: Face) -> None:
    """Nor do several that are saved together."""
    wallet, other = read(face), read(face)
    meanwhile(face, balance=150)
    face.save(Coin(wallet=wallet))
    assert (read(face).balance, wallet.balance) == (150, 150)
    face.save_all([Coin(wallet=other), Coin(wallet=other)])
    assert (read(face).balance, other.balance) == (150, 150)


def test_a_parent_that_was_only_read_keeps_the_children_that_came_since(face: Face) -> None:
    """And a child the parent that it was given since. The answer holds what is there now."""

    def with_coins(session: Session) -> Wallet:
        wallet = session.get_one(Wallet, ONE)
        assert [coin.wallet for coin in wallet.coins] == [wallet]
        return wallet

    wallet = face.read(with_coins)
    (coin,) = wallet.coins
    face.save_all([Wallet(id=TWO, name="bob"), Coin(id=TWO, wallet_id=ONE)])
    face.run(lambda session: session.execute(update(Coin).where(Coin.id == ONE).values(wallet_id=TWO)) and None)
    wallet.name, coin.worth = "new", 2
    saved = face.save(wallet)

    def coins(session: Session) -> list[tuple[int, int | None, int]]:
        return [(one.id, one.wallet_id, one.worth) for one in session.scalars(select(Coin).order_by(Coin.id))]

    assert face.read(coins) == [(ONE, TWO, 2), (TWO, ONE, 1)]
    assert [one.id for one in saved.coins] == [TWO]

    coin.wallet = None  # a change of the caller's
    face.save(coin)
    assert face.read(coins)[0] == (ONE, None, 2)


def test_a_change_inside_of_a_value_is_written(face: Face) -> None:
    """SQLAlchemy sees none in a list or a set, so these are compared with the row."""
    wallet = read(face)
    wallet.notes.append("b")
    wallet.seen.add(2)
    wallet.tracked["b"] = 2
    face.save(wallet)
    found = read(face)
    assert (found.notes, found.seen, found.tracked) == (["a", "b"], {1, 2}, {"a": 1, "b": 2})


def test_a_rerun_writes_the_changes_again(face: Face) -> None:
    """Each attempt begins with the object as the caller had it, also inside of an operation that is undone."""
    wallet = read(face)
    wallet.name = "new"
    faults = iter([Fault.LOST_BEFORE_COMMIT])
    with inject(face.db.engine, lambda: next(faults, None)):
        face.save(wallet)
    assert read(face).name == "new"

    wallet.name = "newer"
    attempts: list[str] = []

    def sync(_tx: Any) -> None:
        face.db.save(wallet)
        attempts.append(wallet.name)
        if len(attempts) == 1:
            raise LookupError

    async def asynchronous(_tx: Any) -> None:
        await face.db.save(wallet)
        attempts.append(wallet.name)
        if len(attempts) == 1:
            raise LookupError

    operation = face.db.transaction(asynchronous if face.kind.asynchronous else sync)
    with pytest.raises(LookupError):
        face.wait(operation())
    faults = iter([Fault.LOST_BEFORE_COMMIT])
    with inject(face.db.engine, lambda: next(faults, None)):
        face.wait(operation())
    assert (attempts, read(face).name) == (["newer"] * 3, "newer")


def test_a_row_that_was_deleted_meanwhile_is_inserted_whole(face: Face) -> None:
    """There is nothing left that others could have changed."""
    coin = read(face, model=Coin)
    coin.worth = 5
    face.run(lambda session: session.delete(session.get_one(Coin, ONE)))
    face.save(coin)
    found = read(face, model=Coin)
    assert (found.worth, found.wallet_id) == (5, ONE)


def test_what_was_not_loaded_is_left_alone(face: Face) -> None:
    """And what was is there afterwards, though the row is not loaded with it by itself."""
    wallet = read(face)
    meanwhile(face, memo="new")
    assert "memo" not in face.save(wallet).__dict__
    wallet = read(face, undefer(Wallet.memo))
    meanwhile(face, memo="newer")
    assert (face.save(wallet).memo, wallet.memo) == ("newer", "newer")
    wallet.memo = "newest"
    face.save(wallet)
    assert read(face, undefer(Wallet.memo)).memo == "newest"


def expired(face: Face, model: Any, *identities: int) -> list[Any]:
    """Objects that have let go of all that they held, and belong to no session."""

    def load(session: Session) -> list[Any]:
        found = [session.get_one(model, identity) for identity in identities]
        session.expire_all()
        session.expunge_all()
        return found

    found: list[Any] = face.read(load)
    return found


def test_an_expired_object_is_saved_to_its_own_row(face: Face) -> None:
    """And what it does not hold is left alone."""
    (wallet,) = expired(face, Wallet, ONE)
    wallet.name = "new"
    assert face.save(wallet) is not wallet
    assert (wallet.id, wallet.name, wallet.balance) == (ONE, "new", 100)


def test_an_expired_object_is_not_taken_for_another_one(face: Face) -> None:
    """Its key in the database is part of what is asked, though it does not hold it."""
    face.save(Coin(id=TWO))
    one, other = expired(face, Coin, ONE, TWO)
    one.worth = other.worth = 7
    face.save(one, key="k")
    with pytest.raises(KeyReused):
        face.save(other, key="k")
    assert face.save(expired_again(face, ONE, worth=7), key="k").id == ONE
    assert face.read(lambda session: session.scalar(select(func.sum(Coin.worth)))) == 8


def expired_again(face: Face, identity: int, **values: Any) -> Any:
    """As another process would ask for the same."""
    (coin,) = expired(face, Coin, identity)
    for name, value in values.items():
        setattr(coin, name, value)
    return coin


# -- of what was made, all of it once ------------------------------------------------------------------------------------


def coins_of(face: Face, wallet: Wallet) -> list[int]:
    """The coins that are in it now."""
    identity = wallet.id
    found: list[int] = face.read(
        lambda session: list(session.scalars(select(Coin.id).where(Coin.wallet_id == identity)))
    )
    return found


def test_what_was_made_is_written_whole_once(face: Face) -> None:
    """Then it has a row, as what was read: what others commit stands, in columns and collections."""
    wallet = Wallet(name="bob", balance=100, coins=[Coin(id=TWO)])
    face.save(wallet)
    meanwhile(face, balance=150)
    face.run(lambda session: session.execute(update(Coin).values(wallet_id=wallet.id)) and None)
    wallet.name = "new"
    face.save(wallet)
    found = read(face, identity=wallet.id)
    assert (found.name, found.balance, wallet.balance) == ("new", 150, 150)
    assert sorted(coins_of(face, wallet)) == [ONE, TWO]
    wallet.coins.clear()  # what the program sees in it
    face.save(wallet)
    assert coins_of(face, wallet) == []


def test_what_was_made_stays_the_programs_own(face: Face) -> None:
    """What it does not hold is empty, and not to be loaded; a new key is a new row, of all that it holds."""
    coin = Coin()
    face.save(coin)
    assert (coin.wallet, coin.id is not None) == (None, True)
    coin.id = another = coin.id + TWO
    meanwhile(face, Coin, worth=9)
    face.save(coin)
    assert read(face, model=Coin, identity=another).worth == 1


def test_what_was_made_and_undone_is_written_whole_again(face: Face) -> None:
    """It has no row after a rollback; another's under the same key is overwritten, as ever."""
    wallet = Wallet(id=TWO, name="bob", balance=7, coins=[Coin(id=TWO)])

    def sync(_tx: Any) -> None:
        face.db.save(wallet)
        raise LookupError

    async def asynchronous(_tx: Any) -> None:
        await face.db.save(wallet)
        raise LookupError

    operation = face.db.transaction(asynchronous if face.kind.asynchronous else sync)
    with pytest.raises(LookupError):
        face.wait(operation())
    face.save(Wallet(id=TWO, name="eve", balance=9))
    face.save(wallet)
    found = read(face, identity=TWO)
    assert (found.name, found.balance, coins_of(face, wallet)) == ("bob", 7, [TWO])


def test_what_was_saved_elsewhere_is_written_whole(face: Face, tmp_path: Path) -> None:
    """A row of the same key in another database is another row."""
    wallet = Wallet(id=ONE, name="bob", balance=7)
    with Database(f"sqlite:///{tmp_path / 'another.db'}") as another:
        another.migrate(Base.metadata)
        another.save(wallet)
    face.save(wallet)
    found = read(face)
    assert (found.name, found.balance) == ("bob", 7)


# -- versions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["read", "made"])
def test_a_stale_version_of_the_callers_is_refused_at_once(face: Face, how: str) -> None:
    """No other attempt could mend it; the text says what does."""
    page = face.save(Page(title="one"))
    stale = read(face, model=Page, identity=page.id) if how == "read" else Page(id=page.id, title="x", version=1)
    page.title = "two"
    face.save(page)
    stale.title = "three"
    with pytest.raises(Conflict, match="load it again") as caught:
        face.save(stale)
    assert (caught.value.rejection, caught.value.table) == (Rejection.STALE, "copied_pages")
    assert caught.value.outcome is Outcome.NOT_COMMITTED
    assert read(face, model=Page, identity=page.id).title == "two"


def test_a_version_counts_on_with_each_save(face: Face) -> None:
    """Also of what was read; a save that changes nothing is no version."""
    page = face.save(Page(title="one"))
    for version, title in enumerate(("two", "three", "three"), start=2):
        page.title = title
        saved = face.save(page)
        assert page.version == saved.version == min(version, 3)
