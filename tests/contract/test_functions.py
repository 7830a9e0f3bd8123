"""What a transaction function may be, what it may be given and return, and what tells its keyed calls apart."""

from __future__ import annotations

import asyncio
import functools
import inspect
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from holdfast.errors import ConfigurationError, ForeignTransaction, KeyReused, UsageError, report_of
from holdfast.ext.sqlalchemy import AsyncDatabase
from holdfast.ext.sqlalchemy.arguments import refuse_caller_session
from holdfast.outcome import Outcome
from tests.contract.faces import ON_SQLITE, Face, User, only, usernames

kind = only(ON_SQLITE)


@dataclass(frozen=True)
class Deposit:
    amount: Any


class Paid(BaseModel):
    amount: int


@dataclass(frozen=True)
class Withdraw:
    amount: int


class Colour(Enum):
    RED = "red"


class Mark(Enum):
    RED = "red"


def hidden(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that does not say what it hides."""
    if inspect.iscoroutinefunction(fn):

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await fn(*args, **kwargs)

        return wrapper

    def plain_wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return plain_wrapper


def echo(_: Session, value: Any = None) -> str:
    """What it was given, as text."""
    return repr(value)


# -- what tells keyed calls apart ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((Deposit(5),), (Withdraw(5),)),
        ((Deposit(5),), ({"amount": 5},)),
        ((Colour.RED,), (Mark.RED,)),
        ((Colour.RED,), ("red",)),
        (({1: "a"},), ({"1": "a"},)),
    ],
    ids=repr,
)
def test_a_key_is_refused_for_an_argument_of_another_type(
    face: Face, first: tuple[Any, ...], second: tuple[Any, ...]
) -> None:
    """What looks the same as JSON is not the same request."""
    run = face.operation(echo, key="k")
    assert run(*first) == run(*first)
    with pytest.raises(KeyReused):
        run(*second)


def test_a_decorator_that_hides_the_signature_hides_no_argument(face: Face) -> None:
    """The session is one of `*args`; the others count."""
    run = face.operation(echo)
    operation = face.db.transaction(name="hidden_echo")(hidden(face.function(echo))).keyed("k")

    assert face.wait(operation(30)) == run(30)
    assert face.wait(operation(30)) == run(30)
    with pytest.raises(KeyReused):
        face.wait(operation(50))


def test_arguments_without_a_name_of_their_own_keep_their_number(face: Face) -> None:
    """`(1, 2)` is no `([1, 2],)`."""

    def count(_: Session, *items: Any, **more: Any) -> int:
        return len(items) + len(more)

    run = face.operation(count, key="k")
    assert run(1, 2) == run(1, 2) == 2
    for other in (((1, 2),), (1,), ()):
        with pytest.raises(KeyReused):
            run(*other)
    with pytest.raises(KeyReused):
        run(1, 2, more=3)


def test_a_parameter_may_be_added(face: Face) -> None:
    """A request of before the deployment is the same afterwards, as long as it does not use what is new."""

    def before(_: Session, amount: int) -> int:
        return amount

    def after(_: Session, amount: int, note: str = "", *more: int, flag: object = inspect, **others: int) -> int:
        return amount + 1000

    run = face.operation(before, key="k", name="pay")
    again = face.operation(after, key="k", name="pay")
    assert run(5) == again(5) == again(5, "") == again(amount=5, note="", flag=inspect) == 5
    for args, kwargs in (((5, "x"), {}), ((5, "", 1), {}), ((5,), {"flag": 1}), ((5,), {"others": 1})):
        with pytest.raises(KeyReused):
            again(*args, **kwargs)


def test_functions_of_two_modules_have_keys_of_their_own(face: Face) -> None:
    """The same name in another module is another operation."""

    def made(module: str) -> Callable[..., Any]:
        def create(_: Session, name: str) -> str:
            return f"{name} of {module}"

        create.__module__ = module
        return face.operation(create, key="k")

    users, orders = made("shop.users"), made("shop.orders")
    assert users("x") == users("x") == "x of shop.users"
    assert orders("x") == orders("x") == "x of shop.orders"


def test_functions_of_two_modules_are_not_mixed_up_in_one_scope(face: Face) -> None:
    """Where they share a scope, the key belongs to the first."""

    def made(module: str) -> Callable[..., Any]:
        def create(_: Session, name: str) -> str:
            return f"{name} of {module}"

        create.__module__ = module
        return face.operation(create, key="k", scope="tenant-7")

    assert made("shop.users")("x") == "x of shop.users"
    with pytest.raises(KeyReused):
        made("shop.orders")("x")


def test_what_has_no_name_of_its_own_cannot_be_keyed(face: Face) -> None:
    """Lambdas, partials and wrappers share theirs with others; with a name given they have one."""
    plain = face.function(echo)
    nameless = [functools.partial(plain, value=1), hidden(plain)]
    if not face.kind.asynchronous:
        nameless.append(lambda _: "1")
    for number, function in enumerate(nameless):
        operation = face.db.transaction(function)
        assert face.wait(operation()) in ("1", "None")
        for scope in (None, "tenant-7"):
            with pytest.raises(ConfigurationError, match="no name of its own"):
                operation.keyed("k", scope=scope)
        named = face.db.transaction(name=f"named-{number}")(function)
        assert face.wait(named.keyed("k")()) == face.wait(named.keyed("k")())


class Ledger:
    """What it saves depends on who it is; so does what its subclasses save."""

    tenant = "nobody"

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    def pay(self, _: Session, amount: int) -> str:
        """What a transaction function would do for this ledger."""
        return f"{self.tenant} got {amount}"

    async def pay_async(self, _: AsyncSession, amount: int) -> str:
        """The same, awaited."""
        return f"{self.tenant} got {amount}"

    @classmethod
    def pay_all(cls, _: Session, amount: int) -> str:
        """One of the class."""
        return f"{cls.tenant} got {amount}"

    @classmethod
    async def pay_all_async(cls, _: AsyncSession, amount: int) -> str:
        """The same, awaited."""
        return f"{cls.tenant} got {amount}"


class Somebodys(Ledger):
    tenant = "somebody"


class CallableLedger(Ledger):
    def __call__(self, tx: Session, amount: int) -> str:
        return self.pay(tx, amount)


class AsyncCallableLedger(Ledger):
    async def __call__(self, _: AsyncSession, amount: int) -> str:
        return f"{self.tenant} got {amount}"


class SlottedLedger:
    __slots__ = ("_tenant",)

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant

    def __call__(self, _: Session, amount: int) -> str:
        return f"{self._tenant} got {amount}"


class AsyncSlottedLedger(SlottedLedger):
    __slots__ = ()

    async def __call__(self, _: AsyncSession, amount: int) -> str:  # type: ignore[override]
        return f"{self._tenant} got {amount}"


def test_what_belongs_to_an_object_can_be_keyed_by_a_name_for_each_alone(face: Face) -> None:
    """Another object's call with the same key and arguments would get this one's result, and save nothing."""

    def of(tenant: str) -> list[Callable[..., Any]]:
        is_async, ledger = face.kind.asynchronous, Ledger(tenant)
        method: Any = ledger.pay_async if is_async else ledger.pay
        decorated = [functools.wraps(one)(hidden(method)) for one in (method, functools.partial(method))]
        kinds: tuple[Any, ...] = (
            (AsyncCallableLedger, AsyncSlottedLedger) if is_async else (CallableLedger, SlottedLedger)
        )
        return [method, *decorated, *(kind(tenant) for kind in kinds)]

    for function in of("acme"):
        operation = face.db.transaction(function)
        assert face.wait(operation(5)) == "acme got 5"
        for scope in (None, "tenant-7"):
            with pytest.raises(ConfigurationError, match=r"no name of its own.* one for each"):
                operation.keyed("k", scope=scope)
    for number, (one, other) in enumerate(zip(of("acme"), of("bolt"), strict=True)):
        for tenant, function in {"acme": one, "bolt": other}.items():
            named = face.db.transaction(name=f"pay {number} of {tenant}")(function).keyed("k")
            assert face.wait(named(5)) == face.wait(named(5)) == f"{tenant} got 5"


def test_a_method_of_a_class_has_the_name_of_its_class(face: Face) -> None:
    """It needs no other one. What it inherits has that of another class, and what has no name has none in a class."""

    class Unnamed:
        pay = classmethod(hidden(face.function(echo)))
        refund = classmethod(functools.partial(face.function(echo)))

    inherited = Somebodys.pay_all_async if face.kind.asynchronous else Somebodys.pay_all
    own = face.db.transaction(Ledger.pay_all_async if face.kind.asynchronous else Ledger.pay_all).keyed("k")
    assert face.wait(own(5)) == face.wait(own(5)) == "nobody got 5"
    for function in (inherited, Unnamed.pay, Unnamed.refund):
        with pytest.raises(ConfigurationError, match="no name of its own"):
            face.db.transaction(function).keyed("k")
    named = face.db.transaction(name="pay somebody")(inherited).keyed("k")
    assert face.wait(named(5)) == "somebody got 5"


def test_any_name_can_be_keyed(face: Face) -> None:
    """Letters that a scope cannot have, spaces, and a name that is too long; each with keys of its own."""
    names = ["\u00fcberweisen", "pay out", "pay_out", "x" * 120, "y" + "x" * 120]
    runs = [face.operation(echo, name=name, key="k") for name in names]
    for number, run in enumerate(runs):
        assert run(number) == run(number) == repr(number)


def test_a_name_or_scope_that_cannot_be_one_is_refused_where_it_is_given(face: Face) -> None:
    """At the decorator, or at `keyed`; an empty scope is none."""
    for options in ({"scope": ""}, {"scope": "two words"}, {"scope": "x" * 101}, {"name": ""}):
        with pytest.raises(ConfigurationError, match=r"scope|name"):
            face.operation(echo, **options)
    with pytest.raises(ConfigurationError, match="scope"):
        face.db.transaction(face.function(echo)).keyed("k", scope="")


# -- what a transaction function may be ---------------------------------------------------------------------------------


class Answering:
    """A callable object with attributes that have names of ours."""

    def __init__(self) -> None:
        self._key = self._options = self._runtime = self._fn = "mine"
        self.keyed = "mine"

    def __call__(self, _: Any, value: int) -> int:
        return value


class AnsweringAsync(Answering):
    """The same, awaited."""

    async def __call__(self, _: Any, value: int) -> int:  # type: ignore[override]
        return value


def test_a_callable_object_keeps_its_attributes_to_itself(face: Face) -> None:
    """What it calls `_key`, `_options` or `keyed` has nothing to do with the operation's."""
    operation = face.db.transaction(name="answer")((AnsweringAsync if face.kind.asynchronous else Answering)())
    assert face.wait(operation(3)) == 3
    assert face.wait(operation.keyed("k")(3)) == face.wait(operation.keyed("k")(3)) == 3


class Plain:
    """A callable object with nothing of its own."""

    def __call__(self, _: Any, value: int) -> int:
        return value


class PlainAsync:
    """The same, awaited."""

    async def __call__(self, _: Any, value: int) -> int:
        return value


def test_a_callable_object_with_nothing_of_its_own_has_the_name_of_its_class(face: Face) -> None:
    """No other object of the class would do anything else."""
    made = [face.db.transaction((PlainAsync if face.kind.asynchronous else Plain)()) for _ in range(2)]
    assert [face.wait(operation.keyed("k")(3)) for operation in made] == [3, 3]
    with pytest.raises(KeyReused):
        face.wait(made[1].keyed("k")(4))


def test_the_signature_of_an_operation_is_what_its_caller_sees(face: Face) -> None:
    """Without the session; the class has none of its own to show."""
    operation = face.db.transaction(face.function(echo))
    assert list(inspect.signature(operation).parameters) == ["value"]
    assert list(inspect.signature(operation.keyed("k")).parameters) == ["value"]
    assert "options" in inspect.signature(type(operation)).parameters


def test_a_bound_method_can_be_an_operation_and_a_method_cannot(face: Face) -> None:
    """The function of a class would get the session for its object."""

    class Service:
        def save(self, _: Session, value: int) -> int:
            return value

        async def save_async(self, _: AsyncSession, value: int) -> int:
            return value

    service = Service()
    method = service.save_async if face.kind.asynchronous else service.save
    assert face.wait(face.db.transaction(method)(3)) == 3
    with pytest.raises(ConfigurationError, match="is a method"):
        face.db.transaction(Service.save_async if face.kind.asynchronous else Service.save)


async def coroutine(tx: Any) -> None:
    """What only an `AsyncDatabase` runs."""
    tx.add(User(username="never", age=1))


def generator(_: Any) -> Any:
    """What runs when somebody iterates."""
    yield 1


async def async_generator(_: Any) -> Any:
    """The same, asynchronously."""
    yield 1


class Iterating:
    """An object whose call is a generator."""

    def __call__(self, _: Any) -> Any:
        yield 1


def test_what_cannot_be_a_transaction_function_is_refused_where_it_is_given(face: Face) -> None:
    """Also inside a partial or behind `__call__`: a typed error that names it."""
    wrong: list[Any] = [generator, async_generator, functools.partial(generator), Iterating(), None, 3]
    if face.kind.asynchronous:
        wrong += [usernames, functools.partial(usernames), Answering()]
    else:
        wrong += [
            coroutine,
            functools.partial(coroutine),
            AnsweringAsync(),
            functools.partial(AnsweringAsync(), value=1),
        ]
    for function in wrong:
        with pytest.raises(ConfigurationError):
            face.db.transaction()(function)


def test_a_result_that_has_not_been_worked_out_is_not_committed(face: Face) -> None:
    """A coroutine or generator that the function hands out would run after COMMIT, or never."""

    def add(tx: Any) -> None:
        tx.add(User(username="ada", age=1))

    def returning(unfinished: Callable[[Any], Any]) -> Callable[..., Any]:
        def plain(tx: Any) -> Any:
            add(tx)
            return unfinished(tx)

        async def asynchronous(tx: Any) -> Any:
            add(tx)
            return unfinished(tx)

        return asynchronous if face.kind.asynchronous else plain

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for unfinished in (coroutine, generator, async_generator):
            for operation in (
                face.db.transaction(returning(unfinished)),
                face.db.transaction(returning(unfinished)).keyed("k"),
            ):
                with pytest.raises(UsageError, match="nothing was applied") as caught:
                    face.wait(operation())
                report = report_of(caught.value)
                assert report is not None
                assert report.outcome is Outcome.NOT_COMMITTED
    assert face.read(usernames) == []


def test_rows_that_are_still_to_be_made_are_not_committed(face: Face) -> None:
    """The iterators of results are generators as well, though SQLAlchemy has compiled them."""

    def add_and_iterate(session: Session) -> Any:
        session.add(User(username="ada", age=1))
        return iter(session.scalars(select(User)))

    with pytest.raises(UsageError, match="nothing was applied"):
        face.run(add_and_iterate)
    assert face.read(usernames) == []


def test_a_stored_result_that_no_longer_fits_is_told_without_it(face: Face) -> None:
    """After a release the function returns something else: the effect stands, and no log shows what was stored."""

    def book(session: Session) -> dict[str, str]:
        session.add(User(username="ada", age=30))
        return {"amount": "secret-41"}

    def book_anew(session: Session) -> Paid:
        raise AssertionError("it was committed")

    face.wait(face.db.transaction(face.function(book), name="book").keyed("k")())
    anew = face.db.transaction(face.function(book_anew), name="book").keyed("k")

    def outer_sync(session: Session) -> None:
        anew()

    async def outer_async(tx: Any) -> None:
        await anew()

    for call in (anew, face.db.transaction(outer_async if face.kind.asynchronous else outer_sync)):
        with pytest.raises(UsageError, match=r"book: .* was committed, but its stored result no longer fits") as caught:
            face.wait(call())
        assert "secret-41" not in "".join(traceback.format_exception(caught.value))
    assert face.read(usernames) == ["ada"]


def test_a_function_that_only_seems_to_be_asynchronous_is_told_so(tmp_path: Path) -> None:
    """Where nothing can be awaited, nothing is committed."""

    async def fn(_: Any) -> None: ...

    async def pretend() -> None:
        async with AsyncDatabase(f"sqlite+aiosqlite:///{tmp_path / 'pretend.db'}") as db:
            operation = db.transaction(protect=False)(fn)
            operation._fn = lambda _: 1
            with pytest.raises(UsageError, match="cannot be awaited"):
                await operation()

    asyncio.run(pretend())


# -- what it may be given -----------------------------------------------------------------------------------------------


@pytest.fixture
def attached(face: Face) -> Any:
    """An object that belongs to a session of the caller's."""
    face.save(User(username="ada", age=1))
    session = Session(face.engine, autobegin=True)
    user = User(id=1, username="ada", age=1)
    session.add(user)
    return user


@pytest.mark.parametrize(
    "inside",
    [
        lambda value: value,
        lambda value: [value],
        lambda value: (1, value),
        lambda value: {value},
        lambda value: {"user": value},
        lambda value: {value: 1},
        Deposit,
        lambda value: [{"all": [Deposit((value,))]}],
        lambda value: ["x"] * 90 + [value],
    ],
    ids=["alone", "list", "tuple", "set", "dict", "key", "dataclass", "deep", "far"],
)
def test_objects_and_sessions_of_the_caller_are_refused_wherever_they_are(
    face: Face, attached: User, inside: Callable[[Any], Any]
) -> None:
    """A rerun would find them as the failed attempt left them."""
    session = Session.object_session(attached)
    for thing in (attached, session, AsyncSession(), scoped_session(sessionmaker())):
        with pytest.raises(ForeignTransaction, match="of the caller's"):
            face.run(echo, inside(thing))


def test_a_detached_object_may_be_given(face: Face) -> None:
    """It belongs to nobody, and is not looked into: loading what is missing would fail."""

    def ada(session: Session) -> User:
        return session.scalars(select(User)).one()

    face.save(User(username="ada", age=1))
    user = face.read(ada)
    assert "User" in face.run(echo, [user])


def test_the_search_for_sessions_ends() -> None:
    """In a list that holds itself, and after a hundred values."""
    endless: list[Any] = []
    endless.append(endless)
    refuse_caller_session("f", (endless, ["x"] * 1_000_000), {})
