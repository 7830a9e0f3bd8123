"""Keys, fingerprints and stored results."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, StrEnum
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr

from holdfast.errors import ConfigurationError, ResultNotSerializable
from holdfast.operation import (
    KEY_LENGTH_MAX,
    SCOPE_LENGTH_MAX,
    JsonCodec,
    OperationKey,
    Record,
    fingerprint,
    qualified_name,
    scope_of,
)


class Colour(Enum):
    RED = "red"


class Size(StrEnum):
    LARGE = "large"


@dataclass(frozen=True)
class Line:
    amount: Decimal
    colour: Colour


@dataclass(frozen=True)
class Receipt:
    number: int
    lines: list[Line] = field(default_factory=list)
    note: str | None = None


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
    def __init__(self, amount: int) -> None:
        self._amount = amount


class Money(int):
    pass


class Point(NamedTuple):
    x: int
    y: int


class Placed(NamedTuple):
    at: Point
    name: str


@dataclass
class Unresolvable:
    line: NowhereToBeFound  # type: ignore[name-defined]  # noqa: F821 - as after an import for type checkers alone


@dataclass
class Loose:
    content: Any


class PlainModel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    amount: int


class OtherModel(BaseModel):
    amount: int
    note: str | None = None


class LooseModel(BaseModel):
    content: Any


class SecretModel(BaseModel):
    pin: SecretStr


class CachingModel(BaseModel):
    amount: int

    @cached_property
    def double(self) -> int:
        return self.amount * 2


LINE = Line(Decimal("1.50"), Colour.RED)


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
        ((SimpleNamespace(a=1, b=2, _cache=1),), (SimpleNamespace(b=2, a=1, _cache=2),)),
    ],
)
def test_equal_arguments_have_one_fingerprint(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """Order in dictionaries and sets, lists for tuples and private attributes make no difference."""
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


def test_a_keyword_is_not_a_value() -> None:
    """The name of an argument counts."""
    assert fingerprint("transfer", (), {"source": 1}) != fingerprint("transfer", (), {"target": 1})


def _with_attributes() -> None: ...


_with_attributes.amount = 5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "argument",
    [object(), lambda: None, Ellipsis, _with_attributes, Receipt, Colour, dataclass, json, Hidden(1), [[Hidden]]],
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


# -- results ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (None, None),
        (True, bool),
        (0.1, float),
        ("é\u2028\x00", str),
        ([1, [2, (3, "x")]], None),
        ({"a": {"b": [Decimal("1.10")]}}, dict),
        ((1, (2, [3])), tuple),
        (Decimal("1.10"), Decimal),
        (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), datetime),
        (date(2026, 1, 2), date),
        (time(1, 2, 3), time),
        (timedelta(days=-1, seconds=5, microseconds=7), timedelta),
        (UUID(int=7), UUID),
        (b"\x00\xff", bytes),
        ({1, 2, 3}, set),
        (frozenset({"a"}), frozenset),
        (Colour.RED, Colour),
        (Size.LARGE, Size),
        (Receipt(1, [LINE], "n"), Receipt),
        ([Receipt(1), Receipt(2, [LINE])], list[Receipt]),
        ({"first": Receipt(1)}, dict[str, Receipt]),
        ((Receipt(1), Colour.RED), tuple[Receipt, Colour]),
        ((Receipt(1), Receipt(2)), tuple[Receipt, ...]),
        (Receipt(1), Receipt | None),
        (None, Receipt | None),
        (LINE, Receipt | Line),
        ([LINE, None], list[Line | None]),
        ({1: "a", "1": "b", None: "c"}, None),
        ({(1, date(2026, 1, 2)): Decimal(1)}, None),
        ({"$decimal": "1"}, None),
        ({"nested": {"$set": [1], "$dict": []}}, None),
        ({Size.LARGE: LINE}, dict[Size, Line]),
        ({Colour.RED: [1]}, dict[Colour, list[int]]),
        (Point(1, 2), Point),
        ([Placed(Point(1, 2), "here"), None], list[Placed | None]),
    ],
)
def test_a_result_comes_back_as_it_was(result: Any, kind: Any) -> None:
    """What a replay returns equals what the first call returned, in type as well as in value."""
    codec = JsonCodec(kind)
    again = codec.decode(codec.encode(result))
    assert again == result
    assert type(again) is type(result)


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        pytest.param(object(), None, id="an object"),
        (Receipt(1), None),
        ([Receipt(1)], None),
        ([Receipt(1)], list),
        ({"first": Receipt(1)}, dict[str, Line]),
        ([Colour.RED], None),
        ("\ud800", str),
        (float("nan"), float),
        ((1, 2), tuple[int]),
        ([Point(1, 2)], None),
        ([Size.LARGE], None),
        ({Size.LARGE}, None),
        ({Size.LARGE: 1}, None),
        ({"nested": OrderedDict(a=1)}, None),
        ([(1, Money(2))], None),
        (Point(1, 2), None),
        ({Colour.RED: 1}, None),
        (Placed(Point(1, 2), "here"), tuple[Point, str]),
        (time(1, 2, tzinfo=ZoneInfo("Europe/Zurich")), time),
        (SecretModel(pin=SecretStr("hidden")), SecretModel),
        (Unresolvable(LINE), Unresolvable),
        (Loose([Point(1, 2)]), Loose),
        (Loose({"a": {Size.LARGE}}), Loose),
        (LooseModel(content=[Point(1, 2)]), LooseModel),
    ],
    ids=repr,
)
def test_a_result_that_would_come_back_as_something_else_is_refused(result: Any, kind: Any) -> None:
    """It is refused before COMMIT, with the cure, rather than handed to the second caller as another thing."""
    with pytest.raises(ResultNotSerializable, match=r"annotate the function's return type"):
        JsonCodec(kind).encode(result)


ZURICH = ZoneInfo("Europe/Zurich")


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 7, 1, 12, tzinfo=ZURICH),
        datetime(2026, 10, 25, 2, 30, tzinfo=ZURICH),
        datetime(2026, 10, 25, 2, 30, tzinfo=ZURICH, fold=1),
        datetime(2026, 10, 25, 2, 30, fold=1),  # noqa: DTZ001 - some have none
        datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=2)), fold=1),
        datetime(2026, 10, 25, 2, 30, tzinfo=UTC),
    ],
    ids=repr,
)
def test_a_moment_comes_back_with_its_zone(moment: datetime) -> None:
    """Also in the hour that comes twice, where two moments are written alike and Python calls no two zones equal."""
    again = JsonCodec(datetime).decode(JsonCodec(datetime).encode(moment))
    assert again == moment
    assert (again.tzinfo, again.fold, again.utcoffset()) == (moment.tzinfo, moment.fold, moment.utcoffset())


class OwnZone(tzinfo):
    """A zone with a key of its own that names no zone, or another one."""

    def __init__(self, key: object) -> None:
        self.key = key

    def utcoffset(self, _: datetime | None) -> timedelta:
        """As in Kathmandu."""
        return timedelta(hours=5, minutes=45)

    def tzname(self, _: datetime | None) -> None:
        """Not known."""

    def dst(self, _: datetime | None) -> None:
        """Not known."""


@pytest.mark.parametrize("key", ["head office", "Europe/Zurich", "../zone", "", 7, None], ids=repr)
def test_a_moment_in_a_zone_that_is_not_found_by_name_comes_back_with_its_offset(key: object) -> None:
    """As one in a zone that has no name: it is the same moment. A name that means another zone is none."""
    moment = datetime(2026, 7, 1, 12, tzinfo=OwnZone(key))
    again = JsonCodec(datetime).decode(JsonCodec(datetime).encode(moment))
    assert again == moment
    assert again.utcoffset() == moment.utcoffset()


def test_a_moment_that_was_stored_as_text_alone_can_still_be_read() -> None:
    """As before zones were kept."""
    assert JsonCodec(datetime).decode('{"$datetime":"2026-01-02T03:04:05+00:00"}') == datetime(
        2026, 1, 2, 3, 4, 5, tzinfo=UTC
    )


def test_a_masked_secret_is_told_with_another_cure() -> None:
    """The annotation is right already."""
    with pytest.raises(ResultNotSerializable, match="masks a secret") as caught:
        JsonCodec(SecretModel).encode(SecretModel(pin=SecretStr("hunter2")))
    assert "hunter2" not in str(caught.value)


def test_a_refused_result_stays_out_of_the_error() -> None:
    """Pydantic's complaint quotes what it was given; the error names types alone."""
    with pytest.raises(ResultNotSerializable, match="ValidationError") as caught:
        JsonCodec(PlainModel).encode(OtherModel(amount=1, note="hunter2-secret"))
    assert "hunter2" not in str(caught.value)


def test_a_result_without_end_is_refused() -> None:
    """A list that holds itself has no stored form."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ResultNotSerializable, match="of type list cannot be stored"):
        JsonCodec().encode(endless)


def test_a_model_comes_back_as_a_model() -> None:
    """A class with Pydantic's two methods is dumped and validated."""

    class Model:
        def __init__(self, number: int) -> None:
            self.number = number

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Model) and other.number == self.number

        __hash__ = None  # type: ignore[assignment]

        def model_dump(self, *, mode: str) -> dict[str, Any]:
            assert mode == "json"
            return {"number": self.number}

        @classmethod
        def model_validate(cls, found: dict[str, Any]) -> Model:
            return cls(**found)

    codec = JsonCodec(list[Model])
    assert codec.decode(codec.encode([Model(1), Model(2)])) == [Model(1), Model(2)]
