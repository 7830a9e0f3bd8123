"""What the ledger does. Each operation reads as if nothing could ever fail: no retry, no commit, no rollback.

Holdfast runs an operation from BEGIN to COMMIT, runs it again as a whole when the database says so, and returns when it is
known to be committed. A key makes it one operation however often it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from holdfast.ext.sqlalchemy import AsyncDatabase

from . import tables
from .domain import (
    Account,
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
        self._open_account_once = db.transaction(name="open_account")(self._open_account)
        self._transfer_once = db.transaction(name="transfer")(self._transfer)

    # -- users -------------------------------------------------------------------------------------------------------

    async def add_user(self, new: NewUser, key: str | None = None) -> User:
        """Save a user.

        Raises:
            Conflict: the name is taken.
        """
        user = tables.User(username=new.username, name=new.name, age=new.age)
        return (await self._db.save(user, key=key)).read()

    async def user(self, user_id: int) -> User:
        """One user.

        Raises:
            NotFound: there is none with this id.
        """
        return (await self._get(tables.User, user_id)).read()

    async def users(self, after: int, limit: int) -> list[User]:
        """Up to `limit` users in the order they joined, from the one behind `after`."""

        async def query(tx: AsyncSession) -> list[User]:
            page = select(tables.User).where(tables.User.id > after).order_by(tables.User.id).limit(limit)
            return [row.read() for row in await tx.scalars(page)]

        return await self._db.read(query)

    # -- accounts ----------------------------------------------------------------------------------------------------

    async def open_account(self, new: NewAccount, key: str | None = None) -> Account:
        """Open an account.

        Raises:
            NotFound: there is no such owner.
        """
        operation = self._open_account_once if key is None else self._open_account_once.keyed(key)
        return await operation(new)

    async def _open_account(self, tx: AsyncSession, new: NewAccount) -> Account:
        if await tx.get(tables.User, new.owner_id) is None:
            raise NotFound("there is no user with the id in owner_id")
        account = tables.Account(
            owner_id=new.owner_id,
            currency=new.currency,
            opening_balance=new.opening_balance,
            balance=new.opening_balance,
        )
        tx.add(account)
        await tx.flush()
        return account.read()

    async def account(self, account_id: int) -> Account:
        """One account with its balance.

        Raises:
            NotFound: there is none with this id.
        """
        return (await self._get(tables.Account, account_id)).read()

    async def history(self, account_id: int, before: int, limit: int) -> list[Entry]:
        """Up to `limit` entries of an account, the newest first, from the one before `before`.

        Raises:
            NotFound: there is no such account.
        """

        async def query(tx: AsyncSession) -> list[Entry]:
            if await tx.get(tables.Account, account_id) is None:
                raise NotFound("there is no account with this id")
            page = (
                select(tables.Entry)
                .where(tables.Entry.account_id == account_id, tables.Entry.id < before)
                .order_by(tables.Entry.id.desc())
                .limit(limit)
                .options(joinedload(tables.Entry.transfer))
            )
            return [row.read() for row in await tx.scalars(page)]

        return await self._db.read(query)

    # -- transfers ---------------------------------------------------------------------------------------------------

    async def transfer(self, order: Order, key: str) -> Transfer:
        """Move money, once for this key.

        Raises:
            NotFound: one of the accounts does not exist.
            CurrencyMismatch: they have different currencies.
            InsufficientFunds: the source has less than the amount.
        """
        return await self._transfer_once.keyed(key)(order)

    async def _transfer(self, tx: AsyncSession, order: Order) -> Transfer:
        accounts = await self._db.lock(tables.Account, [order.source_id, order.target_id])
        source = _found(accounts, order.source_id, "source_id")
        target = _found(accounts, order.target_id, "target_id")
        if source.currency != target.currency:
            raise CurrencyMismatch("the two accounts have different currencies")
        if source.balance < order.amount:
            raise InsufficientFunds("the source account has less than the amount")
        source.balance -= order.amount
        target.balance += order.amount
        transfer = tables.Transfer(
            source_id=source.id,
            target_id=target.id,
            currency=source.currency,
            amount=order.amount,
            reference=order.reference,
            entries=[
                tables.Entry(account_id=source.id, amount=-order.amount, balance=source.balance),
                tables.Entry(account_id=target.id, amount=order.amount, balance=target.balance),
            ],
        )
        tx.add(transfer)
        await tx.flush()
        return transfer.read()

    async def find_transfer(self, transfer_id: int) -> Transfer:
        """One transfer.

        Raises:
            NotFound: there is none with this id.
        """
        return (await self._get(tables.Transfer, transfer_id)).read()

    async def _get(self, table: type[_Row], row_id: int) -> _Row:
        async def query(tx: AsyncSession) -> _Row:
            row = await tx.get(table, row_id)
            if row is None:
                raise NotFound(f"there is no {table.__name__.lower()} with this id")
            return row

        return await self._db.read(query)


def _found(accounts: Mapping[int, tables.Account], account_id: int, field: str) -> tables.Account:
    if account_id not in accounts:
        raise NotFound(f"there is no account with the id in {field}")
    return accounts[account_id]
