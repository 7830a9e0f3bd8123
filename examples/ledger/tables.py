"""The ledger's tables. `db.migrate(METADATA)` creates them, on SQLite, MariaDB, MySQL and PostgreSQL alike."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import BigInteger, CheckConstraint, DateTime, Dialect, ForeignKey, Integer, String, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from . import domain

__all__ = ["METADATA", "Account", "Entry", "Transfer", "User"]

_BigInteger = BigInteger().with_variant(Integer, "sqlite")


class _Money(TypeDecorator[Decimal]):
    """A `Decimal` with two places, stored as a whole number of hundredths: exact on every database."""

    impl = _BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value.scaleb(2))

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value).scaleb(-2)


class _Moment(TypeDecorator[datetime]):
    """A moment in UTC. What is read is what was written, also where the database keeps no time zone and no fractions."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


_Id = Annotated[int, mapped_column(_BigInteger, primary_key=True)]
_Created = Annotated[datetime, mapped_column(_Moment, default=_now)]
_INNODB: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


class _Base(DeclarativeBase):
    __table_args__: Any = _INNODB


class User(_Base):
    """See `domain.User`."""

    __tablename__ = "users"

    id: Mapped[_Id]
    username: Mapped[str] = mapped_column(String(100), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    age: Mapped[int]
    created: Mapped[_Created]

    def read(self) -> domain.User:
        """The row as a value."""
        return domain.User(self.id, self.username, self.name, self.age, self.created)


class Account(_Base):
    """See `domain.Account`. The database itself refuses a balance below nothing."""

    __tablename__ = "accounts"
    __table_args__ = (CheckConstraint("balance >= 0", name="accounts_balance_not_negative"), _INNODB)

    id: Mapped[_Id]
    owner_id: Mapped[int] = mapped_column(_BigInteger, ForeignKey("users.id"), index=True)
    currency: Mapped[str] = mapped_column(String(3))
    opening_balance: Mapped[Decimal] = mapped_column(_Money)
    balance: Mapped[Decimal] = mapped_column(_Money)
    created: Mapped[_Created]

    def read(self) -> domain.Account:
        """The row as a value."""
        return domain.Account(self.id, self.owner_id, self.currency, self.balance, self.created)


class Transfer(_Base):
    """See `domain.Transfer`."""

    __tablename__ = "transfers"

    id: Mapped[_Id]
    source_id: Mapped[int] = mapped_column(_BigInteger, ForeignKey("accounts.id"))
    target_id: Mapped[int] = mapped_column(_BigInteger, ForeignKey("accounts.id"))
    currency: Mapped[str] = mapped_column(String(3))
    amount: Mapped[Decimal] = mapped_column(_Money)
    reference: Mapped[str] = mapped_column(String(140))
    created: Mapped[_Created]
    entries: Mapped[list[Entry]] = relationship(back_populates="transfer")

    def read(self) -> domain.Transfer:
        """The row as a value."""
        return domain.Transfer(
            self.id, self.source_id, self.target_id, self.currency, self.amount, self.reference, self.created
        )


class Entry(_Base):
    """See `domain.Entry`."""

    __tablename__ = "entries"

    id: Mapped[_Id]
    transfer_id: Mapped[int] = mapped_column(_BigInteger, ForeignKey("transfers.id"), index=True)
    account_id: Mapped[int] = mapped_column(_BigInteger, ForeignKey("accounts.id"), index=True)
    amount: Mapped[Decimal] = mapped_column(_Money)
    balance: Mapped[Decimal] = mapped_column(_Money)
    transfer: Mapped[Transfer] = relationship(back_populates="entries")

    def read(self) -> domain.Entry:
        """The row as a value; its transfer must be loaded."""
        transfer = self.transfer
        return domain.Entry(self.id, self.transfer_id, self.amount, self.balance, transfer.reference, transfer.created)


METADATA = _Base.metadata
"""All of them."""
