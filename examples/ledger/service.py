"""What the ledger does. Each operation reads as if nothing could ever fail: no retry, no commit, no rollback.

Holdfast runs an operation from BEGIN to COMMIT, runs it again as a whole when the database says so, and returns when it is
known to be committed. A request with an Idempotency-Key is one transaction altogether: the operation joins it.

Each works for one tenant. What belongs to another one is not there: `tables.py` makes the tenant a part of every row's identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from holdfast.ext.sqlalchemy import AsyncDatabase

from . import tables
from .domain import (
    Account,
    Books,
    CurrencyMismatch,
    Entry,
    InsufficientFunds,
    NewAccount,
    NewUser,
    NotFound,
    Order,
    Transfer,
    User,
)

__all__ = ["Ledger"]

_Row = TypeVar("_Row", tables.User, tables.Account, tables.Transfer)


class Ledger:
    """The ledger on one database. Safe to share between tasks.

    Every method raises what Holdfast raises when the database does not do its part (`holdfast.errors`).
    """

    def __init__(self, db: AsyncDatabase) -> None:
        self._db = db
        self.open_account = db.transaction(name="open_account")(self._open_account)
        self.transfer = db.transaction(name="transfer")(self._transfer)

    # -- users -------------------------------------------------------------------------------------------------------

    async def add_user(self, tenant: str, new: NewUser) -> User:
        """Save a user.

        Raises:
            Conflict: the name is taken.
        """
        user = tables.User(tenant=tenant, username=new.username, name=new.name, age=new.age)
        return (await self._db.save(user)).read()

    async def user(self, tenant: str, user_id: int) -> User:
        """One user.

        Raises:
            NotFound: there is none with this id.
        """
        return (await self._get(tables.User, tenant, user_id)).read()

    async def users(self, tenant: str, after: int, limit: int) -> list[User]:
        """Up to `limit` users in the order they joined, from the one behind `after`."""

        async def query(tx: AsyncSession) -> list[User]:
            page = (
                select(tables.User)
                .where(tables.User.tenant == tenant, tables.User.id > after)
                .order_by(tables.User.id)
                .limit(limit)
            )
            return [row.read() for row in await tx.scalars(page)]

        return await self._db.read(query)

    # -- accounts ----------------------------------------------------------------------------------------------------

    async def _open_account(self, tx: AsyncSession, tenant: str, new: NewAccount) -> Account:
        """Open an account.

        Raises:
            NotFound: there is no such owner.
        """
        if await tx.get(tables.User, (tenant, new.owner_id)) is None:
            raise NotFound("there is no user with the id in owner_id")
        account = tables.Account(
            tenant=tenant,
            owner_id=new.owner_id,
            currency=new.currency,
            opening_balance=new.opening_balance,
            balance=new.opening_balance,
        )
        tx.add(account)
        await tx.flush()
        return account.read()

    async def account(self, tenant: str, account_id: int) -> Account:
        """One account with its balance.

        Raises:
            NotFound: there is none with this id.
        """
        return (await self._get(tables.Account, tenant, account_id)).read()

    async def history(self, tenant: str, account_id: int, before: int, limit: int) -> list[Entry]:
        """Up to `limit` entries of an account, the newest first, from the one before `before`.

        Raises:
            NotFound: there is no such account.
        """

        async def query(tx: AsyncSession) -> list[Entry]:
            if await tx.get(tables.Account, (tenant, account_id)) is None:
                raise NotFound("there is no account with this id")
            page = (
                select(tables.Entry)
                .where(tables.Entry.tenant == tenant, tables.Entry.account_id == account_id, tables.Entry.id < before)
                .order_by(tables.Entry.id.desc())
                .limit(limit)
                .options(joinedload(tables.Entry.transfer))
            )
            return [row.read() for row in await tx.scalars(page)]

        return await self._db.read(query)

    # -- transfers ---------------------------------------------------------------------------------------------------

    async def _transfer(self, tx: AsyncSession, tenant: str, order: Order) -> Transfer:
        """Move money.

        Raises:
            NotFound: one of the accounts does not exist.
            CurrencyMismatch: they have different currencies.
            InsufficientFunds: the source has less than the amount.
        """
        accounts = await self._db.lock(tables.Account, [(tenant, order.source_id), (tenant, order.target_id)])
        source = _found(accounts, (tenant, order.source_id), "source_id")
        target = _found(accounts, (tenant, order.target_id), "target_id")
        if source.currency != target.currency:
            raise CurrencyMismatch("the two accounts have different currencies")
        if source.balance < order.amount:
            raise InsufficientFunds("the source account has less than the amount")
        source.balance -= order.amount
        target.balance += order.amount
        transfer = tables.Transfer(
            tenant=tenant,
            source_id=source.id,
            target_id=target.id,
            currency=source.currency,
            amount=order.amount,
            reference=order.reference,
            entries=[
                tables.Entry(tenant=tenant, account_id=source.id, amount=-order.amount, balance=source.balance),
                tables.Entry(tenant=tenant, account_id=target.id, amount=order.amount, balance=target.balance),
            ],
        )
        tx.add(transfer)
        await tx.flush()
        return transfer.read()

    async def find_transfer(self, tenant: str, transfer_id: int) -> Transfer:
        """One transfer.

        Raises:
            NotFound: there is none with this id.
        """
        return (await self._get(tables.Transfer, tenant, transfer_id)).read()

    # -- the whole ---------------------------------------------------------------------------------------------------

    async def books(self, tenant: str) -> Books:
        """What all accounts of a tenant hold, in each currency, against what was brought in."""

        async def query(tx: AsyncSession) -> Books:
            sums = (
                select(
                    tables.Account.currency,
                    func.sum(tables.Account.opening_balance),
                    func.sum(tables.Account.balance),
                )
                .where(tables.Account.tenant == tenant)
                .group_by(tables.Account.currency)
                .order_by(tables.Account.currency)
            )
            return Books.of(await tx.execute(sums))

        return await self._db.read(query)

    async def _get(self, table: type[_Row], tenant: str, row_id: int) -> _Row:
        async def query(tx: AsyncSession) -> _Row:
            row = await tx.get(table, (tenant, row_id))
            if row is None:
                raise NotFound(f"there is no {table.__name__.lower()} with this id")
            return row

        return await self._db.read(query)


def _found(accounts: Mapping[tuple[str, int], tables.Account], identity: tuple[str, int], field: str) -> tables.Account:
    if identity not in accounts:
        raise NotFound(f"there is no account with the id in {field}")
    return accounts[identity]
