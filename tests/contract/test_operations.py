"""What every face keeps of the promise while nothing fails, and when the caller errs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, SessionTransaction

from holdfast.errors import (
    CheckViolation,
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    ForeignKeyViolation,
    ForeignTransaction,
    InvalidData,
    KeyReused,
    ResultNotSerializable,
    UsageError,
    report_of,
)
from holdfast.outcome import Outcome
from tests.contract.faces import Account, Entry, Face, User, balances, usernames


@dataclass(frozen=True)
class Receipt:
    """A result that only comes back as itself if its annotation is used."""

    number: int
    amount: Decimal


def add_user(session: Session, username: str, age: int = 30) -> int:
    """Insert a user; its id."""
    user = User(username=username, age=age)
    session.add(user)
    session.flush()
    return user.id


def pay(session: Session, account: int, amount: int) -> int:
    """Book one entry; the new balance."""
    row = session.get_one(Account, account, with_for_update=True)
    row.balance += amount
    session.add(Entry(account=account, amount=amount))
    return row.balance


def entries(session: Session) -> int:
    """How many entries were booked."""
    return session.scalar(select(func.count()).select_from(Entry)) or 0


def test_an_operation_commits_and_returns_what_the_function_returned(face: Face) -> None:
    """The effect is there, and the result is the function's own."""
    number = face.run(add_user, "ada")

    assert face.read(usernames) == ["ada"]
    assert number > 0


def test_an_operation_leaves_no_work_for_the_garbage_collector(face: Face) -> None:
    """Session and connection are freed as soon as it ends: a service that saves all day must not pause to look for them."""
    face.run(add_user, "ada", protect=False)
    kinds: list[dict[str, Any]] = [{}, {"protect": False}, {"key": "k"}]
    calls = [face.operation(pay, **options) for options in kinds]
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for call in calls:
            call(1, 5)
        gc.collect()
        left = {type(thing) for thing in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert [kind for kind in left if kind.__module__.startswith(("holdfast", "sqlalchemy.orm.session"))] == []


def test_what_the_body_raises_reaches_the_caller_and_undoes_everything(face: Face) -> None:
    """The caller's own exception is re-raised as it is, after a rollback, with a report of what happened."""

    def fail(session: Session) -> None:
        add_user(session, "ada")
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing") as caught:
        face.run(fail)

    assert face.read(usernames) == []
    report = report_of(caught.value)
    assert report is not None
    assert (report.attempts, report.outcome) == (1, Outcome.NOT_COMMITTED)


def test_the_same_key_returns_the_same_result_without_running_again(face: Face) -> None:
    """A replay is answered from the key row, in the type the function is annotated with."""
    ran = []

    def book(session: Session, amount: Decimal) -> Receipt:
        ran.append(amount)
        pay(session, 1, int(amount))
        return Receipt(len(ran), amount)

    first = face.run(book, Decimal(7), key="request-1")
    again = face.run(book, Decimal(7), key="request-1")

    assert first == again == Receipt(1, Decimal(7))
    assert 1 == len(ran) == face.read(entries)


def test_a_result_of_none_is_replayed_too(face: Face) -> None:
    """None is a result like any other."""

    def book(session: Session) -> None:
        pay(session, 1, 5)

    assert face.run(book, key="k") is None
    assert face.run(book, key="k") is None
    assert face.read(entries) == 1


def test_the_same_key_with_other_arguments_is_refused(face: Face) -> None:
    """A key names one operation with one payload."""
    face.run(add_user, "ada", key="k")

    with pytest.raises(KeyReused, match="new key"):
        face.run(add_user, "bob", key="k")
    assert face.read(usernames) == ["ada"]


def test_a_keyword_is_the_same_payload_as_a_position(face: Face) -> None:
    """How the arguments are written down makes no other operation of it."""
    add = face.operation(add_user, key="k")

    assert add("ada", 30) == add(username="ada", age=30) == add("ada")
    assert face.read(usernames) == ["ada"]


def test_keys_tell_capitals_apart(face: Face) -> None:
    """'KEY' and 'key' are two keys, whatever the database's collation says."""
    face.run(add_user, "ada", key="KEY")
    face.run(add_user, "bob", key="key")

    assert face.read(usernames) == ["ada", "bob"]


@pytest.mark.parametrize("text", ["it's", "back\\slash\\", "%s%%(p_key)s%", '"`;--', "''", "\\'"])
def test_a_key_and_a_result_are_data_whatever_is_in_them(face: Face, text: str) -> None:
    """Quotes, backslashes and placeholders come back as they were, and name no other key."""

    def book(session: Session, amount: int) -> str:
        pay(session, 1, amount)
        return text + "\u00e9\n"

    def book_plain(session: Session, amount: int) -> str:
        pay(session, 1, amount)
        return text

    for operation, result in ((book, text + "\u00e9\n"), (book_plain, text)):
        for amount, key in ((1, text), (2, text + "x")):
            assert face.run(operation, amount, key=key) == result
            assert face.run(operation, amount, key=key) == result
    assert face.read(entries) == 4


def test_one_key_used_by_many_callers_at_once_has_one_effect(face: Face) -> None:
    """Whoever comes second waits for the first and gets its result."""
    results = face.at_once(pay, [(1, 5)] * 8, keys=["same"] * 8)

    assert results == [105] * 8
    assert face.read(entries) == 1


def test_a_duplicate_is_a_conflict_that_names_the_column_and_not_the_value(face: Face) -> None:
    """The typed error says what collided; the value stays out of every text."""
    face.run(add_user, "secret-name")

    with pytest.raises(Conflict) as caught:
        face.run(add_user, "secret-name")

    assert "username" in f"{caught.value.constraint} {caught.value.columns}"
    assert "secret-name" not in f"{caught.value} {caught.value!r}"
    assert report_of(caught.value).attempts == 1  # type: ignore[union-attr]


def test_broken_rules_have_their_own_errors(face: Face) -> None:
    """Foreign key, check, and missing value each raise their kind; nothing is applied."""

    def orphan(session: Session) -> None:
        session.add(Entry(account=999, amount=1))

    def overdraw(session: Session) -> None:
        session.get_one(Account, 1).balance = -1

    def ageless(session: Session) -> None:
        session.execute(User.__table__.insert().values(username="ada", age=None))  # type: ignore[attr-defined]

    with pytest.raises(ForeignKeyViolation):
        face.run(orphan)
    with pytest.raises(CheckViolation):
        face.run(overdraw)
    with pytest.raises(InvalidData):
        face.run(ageless)
    assert face.read(balances) == {1: 100, 2: 100, 3: 100}


def test_a_value_longer_than_its_column_is_refused(face: Face) -> None:
    """Strict mode: nothing is cut to fit. SQLite has no lengths, so there the model's own check speaks."""
    with pytest.raises(InvalidData, match="username"):
        face.save(User(username="x" * 101, age=1))
    if face.kind.server != "sqlite":
        with pytest.raises(InvalidData):
            face.run(add_user, "x" * 101)
    assert face.read(usernames) == []


def test_a_result_that_cannot_be_stored_rolls_the_operation_back(face: Face) -> None:
    """Under a key, a result without a stored form would break the replay, so nothing is committed."""

    def unstorable(session: Session) -> object:
        add_user(session, "ada")
        return object()

    with pytest.raises(ResultNotSerializable, match="annotate"):
        face.run(unstorable, key="k")
    assert face.read(usernames) == []


def test_hooks_run_once_after_commit_and_cannot_undo_it(face: Face) -> None:
    """Hooks see a committed world, run once and in order; one that raises changes nothing."""
    seen: list[Any] = []

    def note(text: str) -> None:
        seen.append(text)

    def fail() -> None:
        raise RuntimeError("the hook's own trouble")

    def body(session: Session) -> None:
        add_user(session, "ada")
        face.db.after_commit(note, "first")
        face.db.after_commit(fail)
        face.db.after_commit(note, "second")

    face.run(body, key="k")
    face.run(body, key="k")

    assert seen == ["first", "second"]
    assert face.read(usernames) == ["ada"]


def test_what_is_no_function_is_no_hook(face: Face) -> None:
    """Told where it is registered: the call itself would fail after COMMIT, when nobody hears of it."""

    def body(session: Session) -> None:
        add_user(session, "ada")
        face.db.after_commit(None)

    with pytest.raises(UsageError, match=r"not a NoneType: after_commit\(notify, user_id\)"):
        face.run(body)
    assert face.read(usernames) == []


def test_hooks_of_a_failed_operation_never_run(face: Face) -> None:
    """No commit, no hook."""
    seen: list[str] = []

    def body(session: Session) -> None:
        face.db.after_commit(seen.append, "never")
        raise LookupError

    with pytest.raises(LookupError):
        face.run(body)
    assert seen == []


def test_operations_inside_an_operation_join_it(face: Face) -> None:
    """An inner operation shares the outer transaction: both are applied, or neither."""

    def outer_sync(session: Session) -> None:
        add_user(session, "outer")
        inner = face.db.transaction(add_user)
        inner("inner")
        raise LookupError

    async def outer_async(tx: Any) -> None:
        await tx.run_sync(add_user, "outer")
        inner = face.db.transaction(face.function(add_user))
        await inner("inner")
        raise LookupError

    with pytest.raises(LookupError):
        face.wait(face.db.run(outer_async if face.kind.asynchronous else outer_sync))
    assert face.read(usernames) == []


def test_a_keyed_operation_inside_another_is_replayed_too(face: Face) -> None:
    """The inner key's row lives in the outer transaction: committed with it, found by the next."""
    inner = face.db.transaction(face.function(pay)).keyed("inner")

    def outer_sync(session: Session, name: str) -> int:
        add_user(session, name)
        result: int = inner(1, 5)
        return result

    async def outer_async(tx: Any, name: str) -> int:
        await tx.run_sync(add_user, name)
        result: int = await inner(1, 5)
        return result

    outer = face.db.transaction(outer_async if face.kind.asynchronous else outer_sync)

    assert face.wait(outer("ada")) == 105
    assert face.wait(outer("bob")) == 105
    assert (face.read(entries), face.read(usernames)) == (1, ["ada", "bob"])


def test_a_call_inside_the_callers_own_transaction_is_refused(face: Face) -> None:
    """Holdfast cannot rerun what somebody else began; it says so before anything happens."""

    async def asynchronous() -> None:
        async with face.db.engine.connect() as connection:
            await connection.execute(select(1))
            await face.db.run(face.function(add_user), "ada")

    def synchronous() -> None:
        with face.db.engine.connect() as connection:
            connection.execute(select(1))
            face.db.run(add_user, "ada")

    with pytest.raises(ForeignTransaction, match="into the transaction function"):
        if face.kind.asynchronous:
            face.wait(asynchronous())
        else:
            synchronous()
    assert face.read(usernames) == []
    face.run(add_user, "ada")  # the refusal leaves nothing behind


def test_a_session_of_the_callers_is_no_argument(face: Face) -> None:
    """What belongs to another session would be half inside and half outside the unit that reruns."""
    with pytest.raises(ForeignTransaction, match="pass ids"):
        face.run(lambda session, other: None, Session())
    user = User(username="ada", age=1)
    with Session() as session:
        session.add(user)
        with pytest.raises(ForeignTransaction):
            face.save(user)


ENDINGS: dict[str, Callable[[Session], object]] = {
    "session.commit": lambda session: session.commit(),
    "session.rollback": lambda session: session.rollback(),
    "session.close": lambda session: session.close(),
    "session.reset": lambda session: session.reset(),
    "session.invalidate": lambda session: session.invalidate(),
    "with session": lambda session: session.__exit__(None, None, None),
    "transaction.commit": lambda session: _transaction_of(session).commit(),
    "transaction.rollback": lambda session: _transaction_of(session).rollback(),
    "connection.commit": lambda session: session.connection().commit(),
    "connection.rollback": lambda session: session.connection().rollback(),
}


def _transaction_of(session: Session) -> SessionTransaction:
    transaction = session.get_transaction()
    assert transaction is not None
    return transaction


@pytest.mark.filterwarnings("ignore:transaction already deassociated")
@pytest.mark.parametrize("options", [{}, {"key": "k"}], ids=["unkeyed", "keyed"])
def test_a_function_must_not_end_its_own_transaction(face: Face, options: dict[str, Any]) -> None:
    """Whatever would commit, roll back or let go of it: nothing is saved then, and the caller is told."""

    def body(session: Session, how: str) -> str:
        add_user(session, "ada")
        ENDINGS[how](session)
        return "saved"

    for how in ENDINGS:
        for _ in range(2):  # the key is free after the first, so it runs again
            with pytest.raises((UsageError, SQLAlchemyError)) as caught:
                face.run(body, how, **options)
            report = report_of(caught.value)
            assert report is not None, how
            assert report.outcome is Outcome.NOT_COMMITTED, how
        assert face.read(usernames) == [], how


def test_savepoints_work_as_usual(face: Face) -> None:
    """A part that may fail can be undone alone."""

    def body(session: Session) -> None:
        add_user(session, "ada")
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"), session.begin_nested():
            add_user(session, "ada")
        add_user(session, "bob")

    face.run(body)
    assert face.read(usernames) == ["ada", "bob"]


def test_hooks_of_a_savepoint_that_was_undone_are_undone(face: Face) -> None:
    """What did not happen is not told."""
    called: list[str] = []

    def body(session: Session) -> None:
        face.db.after_commit(called.append, "first")
        with suppress(LookupError), session.begin_nested():
            face.db.after_commit(called.append, "undone")
            with session.begin_nested():
                face.db.after_commit(called.append, "undone with the one around it")
            raise LookupError
        with session.begin_nested():
            face.db.after_commit(called.append, "kept")
        add_user(session, "ada")

    face.run(body)
    assert called == ["first", "kept"]


def test_a_block_commits_at_its_end_and_rolls_back_when_it_raises(face: Face) -> None:
    """The block form holds the same promises, but never runs twice."""
    face.block(lambda session: add_user(session, "ada"))

    def fail(session: Session) -> None:
        add_user(session, "bob")
        raise LookupError

    with pytest.raises(LookupError):
        face.block(fail)
    with pytest.raises(Conflict):
        face.block(lambda session: add_user(session, "ada"))
    assert face.read(usernames) == ["ada"]


def test_save_inserts_then_updates_and_gives_generated_values_back(face: Face) -> None:
    """The first save makes the key, the next one changes the same row."""
    user = User(username="ada", age=30)
    saved = face.save(user)
    assert saved.id == user.id is not None

    user.age = 31
    face.save(user)

    assert face.read(lambda session: [(u.username, u.age) for u in session.scalars(select(User))]) == [("ada", 31)]


def test_a_keyed_save_returns_the_same_row_again(face: Face) -> None:
    """The same request saved twice is one row; other content under the key is refused."""
    first = face.save(User(username="ada", age=30), key="k")
    second = face.save(User(username="ada", age=30), key="k")

    assert first.id == second.id
    assert second.username == "ada"
    with pytest.raises(KeyReused):
        face.save(User(username="bob", age=30), key="k")
    assert face.read(usernames) == ["ada"]


def test_a_save_calls_its_hook_once_with_what_was_saved(face: Face) -> None:
    """Not again for a replay, and not for a save that failed."""
    seen: list[str] = []

    def note(user: User) -> None:
        seen.append(f"{user.username} {user.id}")

    saved = face.save(User(username="ada", age=1), key="k", after_commit=note)
    face.save(User(username="ada", age=1), key="k", after_commit=note)
    with pytest.raises(Conflict):
        face.save(User(username="ada", age=1), after_commit=note)

    assert seen == [f"ada {saved.id}"]


def test_save_all_is_all_or_nothing(face: Face) -> None:
    """One bad row keeps the good ones out."""
    with pytest.raises(Conflict):
        face.save_all([User(username="ada", age=1), User(username="ada", age=2)])
    assert face.read(usernames) == []

    saved = face.save_all([User(username="ada", age=1), User(username="bob", age=2)])
    assert [user.username for user in saved] == ["ada", "bob"]


def test_save_checks_before_it_asks_the_database(face: Face) -> None:
    """A missing value is refused by name, and so is what is no mapped object."""
    with pytest.raises(InvalidData, match="age") as caught:
        face.save(User(username="ada"))
    assert caught.value.columns == ("age",)
    with pytest.raises(ConfigurationError, match="mapped"):
        face.save(object())


def test_lock_reads_rows_in_key_order(face: Face) -> None:
    """The rows come back by id; an id without a row is left out."""

    def locked_sync(session: Session) -> dict[int, int]:
        return {number: row.balance for number, row in face.db.lock(Account, [3, 1, 99]).items()}

    async def locked_async(tx: Any) -> dict[int, int]:
        return {number: row.balance for number, row in (await face.db.lock(Account, [3, 1, 99])).items()}

    found = face.wait(face.db.run(locked_async if face.kind.asynchronous else locked_sync))

    assert found == {1: 100, 3: 100}
    assert list(found) == [1, 3]


def test_lock_and_hooks_need_a_running_transaction(face: Face) -> None:
    """Outside a transaction they say where they belong."""
    with pytest.raises(UsageError, match="inside"):
        face.wait(face.db.lock(Account, [1]))
    with pytest.raises(UsageError, match="inside"):
        face.db.after_commit(print)


def test_read_modify_write_loses_no_update(face: Face) -> None:
    """At the default isolation every increment counts, without a lock in the code (MySQL has none such: serializable)."""

    def increment(session: Session, account: int) -> None:
        session.get_one(Account, account).balance += 1

    options = {"isolation": "serializable"} if face.kind.server == "mysql" else {}
    rounds = 4
    for _ in range(rounds):
        results = face.at_once(increment, [(1,)] * 4, deadline=30.0, **options)
        assert results == [None] * 4

    assert 100 + rounds * 4 == face.read(balances)[1]


def test_expired_keys_are_forgotten_and_purged(face: Face) -> None:
    """A row past its time answers nobody, and is removed in batches."""

    def age_all(session: Session) -> None:
        from holdfast.ext.sqlalchemy import OPERATIONS

        session.execute(OPERATIONS.update().values(expires=1))

    face.run(pay, 1, 5, key="k")
    face.run(pay, 2, 5, key="other")
    face.run(age_all, protect=False)
    assert face.run(pay, 1, 5, key="k") == 110
    face.run(age_all, protect=False)

    assert face.wait(face.db.purge(1)) == 1
    assert face.wait(face.db.purge()) == 1
    assert face.wait(face.db.purge()) == 0


def test_a_read_changes_nothing(face: Face) -> None:
    """A changed object is refused; what hand-written SQL did is rolled back; what was read stays readable."""

    def change(session: Session) -> None:
        session.get_one(Account, 1).balance = 0

    def change_by_hand(session: Session) -> Account:
        account = session.get_one(Account, 2)
        session.execute(text("UPDATE contract_accounts SET balance = 0"))
        return account

    with pytest.raises(UsageError, match="only reads"):
        face.read(change)
    assert face.read(change_by_hand).balance == 100
    assert face.read(balances) == {1: 100, 2: 100, 3: 100}


def test_a_deadline_too_short_to_begin_touches_nothing(face: Face) -> None:
    """An operation whose time is up before it starts is refused at once."""
    with pytest.raises(DeadlineExceeded, match="nothing was applied"):
        face.run(add_user, "ada", deadline=1e-9)
    assert face.read(usernames) == []
