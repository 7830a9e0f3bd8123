"""Keys and fingerprints."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import cached_property
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, PrivateAttr, SecretStr

from holdfast.errors import ConfigurationError
from holdfast.operation import (
    KEY_LENGTH_MAX,
    SCOPE_LENGTH_MAX,
    OperationKey,
    Record,
    fingerprint,
    qualified_name,
    scope_of,
)
from tests.unit.operation_values import (
    LINE,
    Colour,
    Line,
    Money,
    OtherModel,
    PlainModel,
    Point,
    Receipt,
    SecretModel,
    Size,
)


class Mark(Enum):
    RED = "red"


@dataclass(frozen=True)
class Invoice:
    number: int
    lines: list[Line] = field(default_factory=list)
    note: str | None = None


class Slotted:
    __slots__ = ("amount",)

    def __init__(self, amount: int) -> None:
        self.amount = amount


class Hidden:
    def __init__(self, amount: Any) -> None:
        self._amount = amount


@dataclass
class Unfilled:
    total: int = field(init=False)


class SlottedHidden(Slotted):
    __slots__ = ("__amount", "_note")

    def __init__(self, amount: int, note: str) -> None:
        super().__init__(0)
        self.__amount = amount
        self._note = note


class Priced(Decimal):
    _currency: str

    @classmethod
    def of(cls, amount: int, currency: str) -> Priced:
        """An amount with something beside it."""
        made = cls(amount)
        made._currency = currency
        return made


class PrivateModel(BaseModel):
    amount: int
    _currency: str = PrivateAttr()

    def __init__(self, amount: int, currency: str) -> None:
        super().__init__(amount=amount)
        self._currency = currency


class CachingModel(BaseModel):
    amount: int

    @cached_property
    def double(self) -> int:
        return self.amount * 2


# -- keys ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "key", "complaint"),
    [
        ("", "k", "scope must be a non-empty string"),
        ("s", "", "key must be a non-empty string"),
        ("s", 7, "key must be a non-empty string"),
        ("s" * (SCOPE_LENGTH_MAX + 1), "k", "scope may have 100 characters, this one has 101"),
        ("s", "k" * (KEY_LENGTH_MAX + 1), "key may have 255 characters, this one has 256"),
        ("s", "two words", "printable ASCII characters without spaces"),
        ("s", "schlüssel", "printable ASCII characters without spaces"),
        ("s", "line\n", "printable ASCII characters without spaces"),
    ],
)
def test_a_key_that_databases_could_disagree_on_is_refused(scope: str, key: Any, complaint: str) -> None:
    """Empty, too long, or outside the alphabet in which every collation agrees: an error that says which."""
    with pytest.raises(ConfigurationError, match=complaint):
        OperationKey(scope, key)


def test_the_longest_key_is_taken() -> None:
    """The bounds are the last values that work."""
    key = OperationKey("s" * SCOPE_LENGTH_MAX, "k" * KEY_LENGTH_MAX)
    assert len(key.key) == KEY_LENGTH_MAX


def test_keys_and_results_stay_out_of_sight() -> None:
    """Neither a key nor a stored result stands in a `repr`."""
    assert "secret" not in repr(OperationKey("transfer", "secret"))
    assert "secret" not in repr(Record("f" * 64, 1, "secret"))


# -- fingerprints -------------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_a_digest() -> None:
    """64 hexadecimal digits that hold no argument."""
    digest = fingerprint("transfer", (1, "secret"), {})
    assert len(digest) == 64
    assert int(digest, 16) >= 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (((1, 2), {}), ([1, 2], {})),
        (((), {"a": 1, "b": 2}), ((), {"b": 2, "a": 1})),
        (({"x": 1, "y": {"b": 1, "a": 2}},), ({"y": {"a": 2, "b": 1}, "x": 1},)),
        (({3, 1, 2},), ({2, 3, 1},)),
        ((Receipt(1, [LINE]),), (Receipt(1, [Line(Decimal("1.50"), Colour.RED)]),)),
        ((SimpleNamespace(a=1, b=2, _c=3),), (SimpleNamespace(_c=3, b=2, a=1),)),
        ((SimpleNamespace(a=1, _sa_instance_state=object()),), (SimpleNamespace(a=1),)),
        ((Hidden(1),), (Hidden(1),)),
        ((SlottedHidden(1, "a"),), (SlottedHidden(1, "a"),)),
    ],
)
def test_equal_arguments_have_one_fingerprint(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """Order in dictionaries and sets, lists for tuples, and what SQLAlchemy keeps in an object make no difference."""
    assert fingerprint("transfer", one, {}) == fingerprint("transfer", other, {})


@pytest.mark.parametrize(
    "args",
    [
        (1, 2, Decimal(10)),
        (2, 1, Decimal(10)),
        (1, 2, Decimal(11)),
        (1, 2, "10"),
        (1, 2, 10),
        (1, 2),
        (1, (2, Decimal(10))),
        (datetime(2026, 1, 1, tzinfo=UTC),),
        (date(2026, 1, 1),),
        (b"\x01",),
        ("01",),
        (None,),
        (False,),
        (Receipt(1),),
        (Receipt(2),),
        (SimpleNamespace(a=1),),
        (SimpleNamespace(a=2),),
    ],
)
def test_other_arguments_have_another_fingerprint(args: tuple[Any, ...]) -> None:
    """No two of these calls are taken for each other, nor for another operation's."""
    plain = fingerprint("transfer", (1, 2, Decimal("10.0")), {})
    assert fingerprint("transfer", args, {}) != plain
    assert fingerprint("transfer", args, {}) != fingerprint("refund", args, {})
    assert fingerprint("transfer", (*args, 0), {}) != fingerprint("transfer", args, {})


_ALIKE: list[Any] = [
    Receipt(5),
    Invoice(5),
    {"number": 5, "lines": [], "note": None},
    SimpleNamespace(number=5, lines=[], note=None),
    Colour.RED,
    Mark.RED,
    "red",
    Size.LARGE,
    "large",
    {1: "a"},
    {"1": "a"},
    {True: "a"},
    {Colour.RED: "a"},
    {"red": "a"},
    [[1, "a"]],
    {"$dict": [[1, "a"]]},
    Decimal(1),
    {"$decimal": "1"},
    "1",
    1,
    1.0,
    True,
    Money(1),
    {1},
    frozenset({1}),
    [1],
    [[1]],
    Point(1, 2),
    [1, 2],
    OrderedDict(a=1),
    {"a": 1},
    Slotted(1),
    Slotted(2),
    PlainModel(amount=1),
    OtherModel(amount=1),
    {"amount": 1},
    SecretModel(pin=SecretStr("1")),
    SecretModel(pin=SecretStr("2")),
    Hidden(1),
    Hidden(2),
    SlottedHidden(1, "a"),
    SlottedHidden(2, "a"),
    SlottedHidden(1, "b"),
    Priced(1),
    Priced.of(1, "EUR"),
    Priced.of(1, "USD"),
    PrivateModel(1, "EUR"),
    PrivateModel(1, "USD"),
    PurePosixPath("a"),
    PurePosixPath("a/b"),
    IPv4Address("192.0.2.1"),
    IPv4Address("192.0.2.2"),
]


def test_no_argument_is_taken_for_one_of_another_type() -> None:
    """Each of these has its own fingerprint, alone and inside a list, a dictionary or a dataclass."""
    for inside in (
        lambda value: value,
        lambda value: [value],
        lambda value: {"x": value},
        lambda value: Receipt(1, value),
    ):
        prints = {fingerprint("f", (inside(value),), {}) for value in _ALIKE}
        assert len(prints) == len(_ALIKE)


def test_classes_of_two_modules_are_told_apart() -> None:
    """The same class name with the same content, of two modules, is two arguments."""
    orders = [make_dataclass("Order", ["number"], namespace={"__module__": module})(5) for module in ("shop", "crm")]
    assert fingerprint("f", (orders[0],), {}) != fingerprint("f", (orders[1],), {})


def test_what_is_cached_in_a_model_is_no_part_of_it() -> None:
    """A model that has been looked at is still the same argument."""
    looked_at = CachingModel(amount=1)
    assert looked_at.double == 2
    assert fingerprint("f", (looked_at,), {}) == fingerprint("f", (CachingModel(amount=1),), {})


def test_a_path_that_has_been_looked_at_is_the_same_argument() -> None:
    """It remembers what it was asked for, in attributes of its own."""
    looked_at = PurePosixPath("a", "b")
    assert (str(looked_at), hash(looked_at)) == ("a/b", hash(PurePosixPath("a/b")))
    assert fingerprint("f", (looked_at,), {}) == fingerprint("f", (PurePosixPath("a", "b"),), {})


def test_a_keyword_is_not_a_value() -> None:
    """The name of an argument counts."""
    assert fingerprint("transfer", (), {"source": 1}) != fingerprint("transfer", (), {"target": 1})


def _with_attributes() -> None: ...


_with_attributes.amount = 5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "argument",
    [
        object(),
        lambda: None,
        Ellipsis,
        _with_attributes,
        Receipt,
        Colour,
        dataclass,
        json,
        Hidden(object()),
        [[Hidden]],
    ],
    ids=lambda argument: type(argument).__name__,
)
def test_an_argument_without_a_value_is_refused(argument: object) -> None:
    """What only its address tells apart would make every call another operation."""
    with pytest.raises(ConfigurationError, match="transfer: the arguments of a keyed operation must be plain values"):
        fingerprint("transfer", (argument,), {})


def test_an_argument_without_end_is_refused() -> None:
    """A list that holds itself cannot be told apart from others either."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ConfigurationError, match="RecursionError"):
        fingerprint("transfer", (endless,), {})


def test_a_refused_argument_stays_out_of_the_error() -> None:
    """What somebody else's code says of a value may quote it, so only the kind of its error is told."""

    class Unwilling:
        def model_dump(self) -> dict[str, Any]:
            raise ValueError("hunter2-secret")

    with pytest.raises(ConfigurationError, match="ValueError") as caught:
        fingerprint("transfer", (Unwilling(),), {})
    assert "hunter2" not in str(caught.value)


# -- names --------------------------------------------------------------------------------------------------------------


def test_a_name_that_can_be_a_scope_is_its_own() -> None:
    """Up to a hundred characters stay readable."""
    assert scope_of("shop.orders.create") == "shop.orders.create"
    assert scope_of("x" * SCOPE_LENGTH_MAX) == "x" * SCOPE_LENGTH_MAX


def test_other_names_become_scopes_of_their_own() -> None:
    """Long ones keep their end, other characters are spelled with `_`, and no two names have one scope."""
    long = "shop." + "x" * SCOPE_LENGTH_MAX
    names = [long, "crm" + long, "pay out", "pay_out", "pay\u00f6ut", "pay\nout", "\ud800"]
    scopes = [scope_of(name) for name in names]

    assert len(set(scopes)) == len(names)
    for scope in scopes:
        OperationKey(scope, "k")
    assert scopes[0].startswith("x" * 80)
    assert scopes[2].startswith("pay_out~")


def test_a_class_of_the_program_itself_is_named_as_the_program_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a worker that imports the same module, and in a child that calls it `__mp_main__`."""
    main = sys.modules["__main__"]
    made = {module: type("Order", (), {"__module__": module}) for module in ("__main__", "__mp_main__", "shop")}

    monkeypatch.setattr(main, "__spec__", SimpleNamespace(name="shop"), raising=False)
    assert {qualified_name(kind) for kind in made.values()} == {"shop.Order"}
    monkeypatch.setattr(main, "__spec__", None)
    assert qualified_name(made["__main__"]) == qualified_name(made["__mp_main__"]) == "__main__.Order"
