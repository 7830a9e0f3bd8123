"""Fingerprints: different arguments have different ones, equal ones the same, whatever is nested in what."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from holdfast.operation import fingerprint


class Colour(Enum):
    RED = "a"


class Mark(StrEnum):
    RED = "a"


class Level(IntEnum):
    ONE = 1


@dataclass(frozen=True)
class Deposit:
    a: Any


@dataclass(frozen=True)
class Withdraw:
    a: Any


class Point(NamedTuple):
    x: Any
    y: Any


# Few values, so that what differs only in its type or nesting is often drawn side by side.
_LEAVES = st.sampled_from(
    [
        None,
        True,
        1,
        0,
        1.0,
        "1",
        "a",
        "",
        "$dict",
        "$decimal",
        b"a",
        Decimal(1),
        Colour.RED,
        Mark.RED,
        Level.ONE,
        date(2026, 1, 1),
        datetime(2026, 1, 1),  # noqa: DTZ001  # a value like any other
        timedelta(1),
    ]
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inside: st.one_of(
        st.lists(inside, max_size=2),
        st.tuples(inside, inside).map(lambda pair: Point(*pair)),
        st.frozensets(_LEAVES, max_size=2),
        st.dictionaries(_LEAVES, inside, max_size=2),
        inside.map(Deposit),
        inside.map(Withdraw),
    ),
    max_leaves=5,
)


def _seen(value: Any) -> Any:
    """`value` with every type spelled out, so that two are equal exactly when they are the same argument."""
    kind = type(value)
    if isinstance(value, (Deposit, Withdraw)):
        return kind, _seen(value.a)
    if isinstance(value, (list, tuple)):
        return kind, tuple(_seen(item) for item in value)
    if isinstance(value, frozenset):
        return kind, frozenset(_seen(item) for item in value)
    if isinstance(value, dict):
        return kind, frozenset((_seen(key), _seen(item)) for key, item in value.items())
    return kind, value


@given(_VALUES, _VALUES)
def test_arguments_have_one_fingerprint_exactly_when_they_are_the_same(one: Any, other: Any) -> None:
    """In type as well as in value; and a copy is the same."""
    first = fingerprint("f", (), {"value": one})

    assert (first == fingerprint("f", (), {"value": other})) is (_seen(one) == _seen(other))
    assert first == fingerprint("f", (), {"value": copy.deepcopy(one)})
