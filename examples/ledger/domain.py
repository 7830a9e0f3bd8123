"""The ledger's words: what can be asked for, what exists, what can go wrong. Knows neither HTTP nor SQL.

The rules stand at the fields (`Annotated`); whoever makes a value from the outside has Pydantic check them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

__all__ = [
    "Account",
    "Books",
    "CurrencyMismatch",
    "Entry",
    "InsufficientFunds",
    "LedgerError",
    "NewAccount",
    "NewUser",
    "NotFound",
    "Order",
    "Sum",
    "Transfer",
    "User",
]


_MONEY = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,2})?")
_MORE_THAN_NOTHING = r"^([1-9][0-9]{0,11}(\.[0-9]{1,2})?|0\.(0[1-9]|[1-9][0-9]?))$"


def _read_money(value: object) -> object:
    # A JSON number goes through binary floating point on its way, and 0.1 is not a binary fraction. "1e3" or a digit of another
    # script would be read as well, and what the API's description does not say should not work by chance.
    if isinstance(value, Decimal) or (isinstance(value, str) and _MONEY.fullmatch(value)):
        return value
    raise ValueError('money is written as a string with up to two decimal places, such as "12.50"')


# Lower-case ASCII, because databases disagree on whether "Ada", "ada" and "adà" are the same name.
Username = Annotated[str, StringConstraints(to_lower=True, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
# No controls: PostgreSQL has no NUL in a text, and the others would keep what no page can show.
Name = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$")]
Reference = Annotated[str, StringConstraints(max_length=140, pattern=r"^[^\x00-\x1f\x7f]*$")]
Age = Annotated[int, Field(ge=0, le=150)]
Currency = Annotated[str, StringConstraints(to_upper=True, pattern=r"^[A-Za-z]{3}$")]
Money = Annotated[
    Decimal,
    BeforeValidator(_read_money),
    Field(ge=0, max_digits=14, decimal_places=2),
    AfterValidator(lambda amount: amount.quantize(Decimal("0.01"))),
    WithJsonSchema({"type": "string", "pattern": f"^{_MONEY.pattern}$", "examples": ["12.50"]}, mode="validation"),
]
Amount = Annotated[
    Money,
    Field(gt=0),
    WithJsonSchema({"type": "string", "pattern": _MORE_THAN_NOTHING, "examples": ["12.50"]}, mode="validation"),
]
Id = Annotated[int, Field(ge=1, lt=2**63)]


# -- what can be asked for ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewUser:
    """Somebody who wants to join."""

    username: Username
    name: Name
    age: Age


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account to open. Its currency never changes, its opening balance is money from outside."""

    owner_id: Id
    currency: Currency
    opening_balance: Money = Decimal(0)


@dataclass(frozen=True, slots=True)
class Order:
    """Move `amount` from one account to another of the same currency; `reference` says what for."""

    source_id: Id
    target_id: Id
    amount: Amount
    reference: Reference = ""

    def __post_init__(self) -> None:
        if self.source_id == self.target_id:
            raise ValueError("source and target are the same account")


# -- what exists ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may own accounts."""

    id: int
    username: str
    name: str
    age: int
    created: datetime


@dataclass(frozen=True, slots=True)
class Account:
    """What somebody has in one currency; never less than nothing."""

    id: int
    owner_id: int
    currency: str
    balance: Decimal
    created: datetime


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that has moved. It has two entries, and they add up to nothing."""

    id: int
    source_id: int
    target_id: int
    currency: str
    amount: Decimal
    reference: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a transfer: what it changed on an account (`amount`), and what was there afterwards (`balance`)."""

    id: int
    transfer_id: int
    amount: Decimal
    balance: Decimal
    reference: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Sum:
    """All accounts in one currency: what was brought in, and what they hold."""

    currency: str
    opened: Decimal
    held: Decimal


@dataclass(frozen=True, slots=True)
class Books:
    """A tenant's books. They balance if no money came or went between its accounts."""

    sums: list[Sum]
    balanced: bool

    @classmethod
    def of(cls, rows: Iterable[Iterable[Any]]) -> Books:
        """The books that consist of these sums: currency, opened, held."""
        sums = [Sum(*row) for row in rows]
        return cls(sums, all(one.opened == one.held for one in sums))


# -- what can go wrong ----------------------------------------------------------------------------------------------------


class LedgerError(Exception):
    """The ledger refuses; nothing was changed. The text is for the caller."""


class NotFound(LedgerError):
    """There is no such row."""


class InsufficientFunds(LedgerError):
    """The source has less than the amount."""


class CurrencyMismatch(LedgerError):
    """Source and target have different currencies."""
