"""Results as they are stored under keys: what comes back, and what is refused."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel

from holdfast.errors import ResultNotSerializable
from holdfast.operation import JsonCodec
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


class Placed(NamedTuple):
    at: Point
    name: str


@dataclass
class Unresolvable:
    line: NowhereToBeFound  # type: ignore[name-defined]  # noqa: F821 - as after an import for type checkers alone


@dataclass
class Loose:
    content: Any


class LooseModel(BaseModel):
    content: Any


class Renamed(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    account_id: int


class RenamedByName(Renamed):
    model_config = ConfigDict(populate_by_name=True)


class RenamedWhenDumped(Renamed):
    model_config = ConfigDict(serialize_by_alias=True, extra="forbid")
    made_at: datetime


class RenamedApart(BaseModel):
    account_id: int = Field(validation_alias=AliasChoices("accountId", "account"), serialization_alias="ACCOUNT")
    currency: str = Field(validation_alias=AliasPath("money", 0))


class Nesting(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")
    inner_one: Renamed
    all_of_them: list[RenamedApart]


RENAMED = Renamed.model_validate({"accountId": 1})
RENAMED_APART = RenamedApart.model_validate({"account": 2, "money": ["EUR"]})


@dataclass
class Totalled:
    amounts: list[Decimal]
    total: Decimal = field(init=False)
    lines: list[Line] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.total = sum(self.amounts, Decimal(0))


@dataclass(frozen=True, slots=True)
class Stamped:
    number: int
    stamp: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamp", "new")


@dataclass
class NeverFilled:
    number: int
    total: int = field(init=False)


def totalled_by_hand() -> Totalled:
    """What its constructor would not make."""
    made = Totalled([Decimal(1)])
    made.total = Decimal(7)
    made.lines.append(LINE)
    return made


def stamped(stamp: str) -> Stamped:
    """With another stamp than a new one."""
    made = Stamped(1)
    object.__setattr__(made, "stamp", stamp)
    return made


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
        (RENAMED, Renamed),
        ([RENAMED, None], list[Renamed | None]),
        (RenamedByName(account_id=1), RenamedByName),
        (
            RenamedWhenDumped.model_validate({"accountId": 1, "madeAt": datetime(2026, 1, 2, tzinfo=UTC)}),
            RenamedWhenDumped,
        ),
        (RENAMED_APART, RenamedApart),
        (Nesting.model_validate({"innerOne": RENAMED, "allOfThem": [RENAMED_APART]}), Nesting),
        (totalled_by_hand(), Totalled),
        ([Stamped(1), stamped("old")], list[Stamped]),
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
        pytest.param(NeverFilled(1), NeverFilled, id="an attribute that was never set"),
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
    """A class with Pydantic's two methods, as they were before 2.11, is dumped and validated."""

    class Model:
        def __init__(self, number: int) -> None:
            self.number = number

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Model) and other.number == self.number

        __hash__ = None  # type: ignore[assignment]

        def model_dump(self, *, mode: str, by_alias: bool) -> dict[str, Any]:
            assert (mode, by_alias) == ("json", False)
            return {"number": self.number}

        @classmethod
        def model_validate(cls, found: dict[str, Any]) -> Model:
            return cls(**found)

    codec = JsonCodec(list[Model])
    assert codec.decode(codec.encode([Model(1), Model(2)])) == [Model(1), Model(2)]
