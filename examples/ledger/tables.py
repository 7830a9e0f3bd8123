"""The ledger's tables. `db.migrate(METADATA)` creates them, on SQLite, MariaDB, MySQL and PostgreSQL alike.

Every row belongs to a tenant, and is known by tenant *and* id: so SQLAlchemy names the tenant wherever it looks for a row, locks
or changes it. References hold the tenant too, so the database itself refuses a row that points at another tenant's. Names of
tenants are lower-case ASCII (`access.py` sees to it), because databases disagree on whether "north" and "North" are the same.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from . import domain

__all__ = ["METADATA", "TENANT_MAX", "Account", "Entry", "Transfer", "User"]

TENANT_MAX = 63
"""Characters in the name of a tenant."""

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


def _refers(column: str, table: str) -> ForeignKeyConstraint:
    """A reference to a row of the same tenant."""
    return ForeignKeyConstraint(["tenant", column], [f"{table}.tenant", f"{table}.id"])


_Id = Annotated[int, mapped_column(_BigInteger, primary_key=True)]
_Tenant = Annotated[str, mapped_column(String(TENANT_MAX))]
_Other = Annotated[int, mapped_column(_BigInteger)]
_Created = Annotated[datetime, mapped_column(_Moment, default=_now)]
_INNODB: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


class _Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s",
            "uq": "%(table_name)s_%(column_0_N_name)s_unique",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        }
    )
    __table_args__: Any = _INNODB
    # A new row has no id yet, and must not be looked for without one.
    __mapper_args__: Any = {"primary_key": ["tenant", "id"], "allow_partial_pks": False}  # noqa: RUF012 - SQLAlchemy's name


class User(_Base):
    """See `domain.User`."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("tenant", "id"), UniqueConstraint("tenant", "username"), _INNODB)

    id: Mapped[_Id]
    tenant: Mapped[_Tenant]
    username: Mapped[str] = mapped_column(String(100))
    name: Mapped[str] = mapped_column(String(200))
    age: Mapped[int]
    created: Mapped[_Created]

    def read(self) -> domain.User:
        """The row as a value."""
        return domain.User(self.id, self.username, self.name, self.age, self.created)


class Account(_Base):
    """See `domain.Account`. The database itself refuses a balance below nothing."""

    __tablename__ = "accounts"
    __table_args__ = (
        UniqueConstraint("tenant", "id"),
        _refers("owner_id", "users"),
        Index(None, "tenant", "owner_id"),
        CheckConstraint("balance >= 0", name="accounts_balance_not_negative"),
        _INNODB,
    )

    id: Mapped[_Id]
    tenant: Mapped[_Tenant]
    owner_id: Mapped[_Other]
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
    __table_args__ = (
        UniqueConstraint("tenant", "id"),
        _refers("source_id", "accounts"),
        _refers("target_id", "accounts"),
        _INNODB,
    )

    id: Mapped[_Id]
    tenant: Mapped[_Tenant]
    source_id: Mapped[_Other]
    target_id: Mapped[_Other]
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
    __table_args__ = (
        _refers("transfer_id", "transfers"),
        _refers("account_id", "accounts"),
        Index(None, "tenant", "transfer_id"),
        Index(None, "tenant", "account_id"),
        _INNODB,
    )

    id: Mapped[_Id]
    tenant: Mapped[_Tenant]
    transfer_id: Mapped[_Other]
    account_id: Mapped[_Other]
    amount: Mapped[Decimal] = mapped_column(_Money)
    balance: Mapped[Decimal] = mapped_column(_Money)
    transfer: Mapped[Transfer] = relationship(back_populates="entries")

    def read(self) -> domain.Entry:
        """The row as a value; its transfer must be loaded."""
        transfer = self.transfer
        return domain.Entry(self.id, self.transfer_id, self.amount, self.balance, transfer.reference, transfer.created)


METADATA = _Base.metadata
"""All of them."""
