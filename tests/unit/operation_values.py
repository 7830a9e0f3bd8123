"""What operations are given and return in the tests of fingerprints and of stored results."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, SecretStr

__all__ = ["LINE", "Colour", "Line", "Money", "OtherModel", "PlainModel", "Point", "Receipt", "SecretModel", "Size"]


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


class Money(int):
    pass


class Point(NamedTuple):
    x: int
    y: int


class PlainModel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    amount: int


class OtherModel(BaseModel):
    amount: int
    note: str | None = None


class SecretModel(BaseModel):
    pin: SecretStr


LINE = Line(Decimal("1.50"), Colour.RED)
