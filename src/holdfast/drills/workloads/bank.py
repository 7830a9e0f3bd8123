"""`bank`: money moves between a few accounts; no read may ever see that some is missing.

Found by it: half a transfer (a lock wait that rolled back one statement), a transfer applied twice, a read that is not of one
moment. The workload is Jepsen's `bank`, with a ledger beside the balances, so that each transfer can be counted.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, MetaData, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from .workload import PREFIX, Call, Identity, Refused, TableWorkload, pick, whole

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ...clock import Random

__all__ = ["Bank"]

_ACCOUNTS = 8
_OPENING = 100
_AMOUNT_MAX = 5
_READS = 0.2
"""The share of operations that read every balance."""


class _Base(DeclarativeBase):
    metadata = MetaData()


class _Account(_Base):
    __tablename__ = f"{PREFIX}account"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    balance: Mapped[int] = mapped_column(Integer)


class _Transfer(_Base):
    __tablename__ = f"{PREFIX}transfer"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    operation: Mapped[str] = mapped_column(String(64), index=True)
    source: Mapped[int] = mapped_column(Integer)
    target: Mapped[int] = mapped_column(Integer)
    amount: Mapped[int] = mapped_column(Integer)


class Bank(TableWorkload):
    """Transfers of 1 to 5 between 8 accounts with 100 each, and reads of all balances."""

    name = "bank"
    metadata = _Base.metadata
    final_name = "bank"
    reading = frozenset({"read-bank"})
    # The row locks carry it. At PostgreSQL's REPEATABLE READ a transfer that waited for a lock would lose and begin again.
    isolation = MappingProxyType({"postgresql": "read committed"})

    def set_up(self, session: Session) -> None:
        """Open the accounts."""
        session.add_all(_Account(id=number, balance=_OPENING) for number in range(_ACCOUNTS))

    def next(self, random: Random, identity: Identity) -> Call:
        """A transfer, or now and then a read."""
        if random() < _READS:
            return Call("read-bank", {}, identity.text, reads=True)
        source = whole(random, 0, _ACCOUNTS - 1)
        target = pick(random, [number for number in range(_ACCOUNTS) if number != source])
        amount = whole(random, 1, _AMOUNT_MAX)
        return Call("transfer", {"from": source, "to": target, "amount": amount, "id": identity.text}, identity.text)

    def perform(self, session: Session, call: Call) -> dict[str, Any]:
        """Move money between two locked accounts, or read all of them at once."""
        if call.f == "read-bank":
            return {"balances": _balances(session)}
        # In a fixed order, so that two transfers cannot wait for each other.
        wanted = select(_Account).where(_Account.id.in_([call.v["from"], call.v["to"]])).order_by(_Account.id)
        accounts = {account.id: account for account in session.scalars(wanted.with_for_update())}
        source, target, amount = accounts[call.v["from"]], accounts[call.v["to"]], call.v["amount"]
        if source.balance < amount:
            raise Refused("the source has less than the amount")
        source.balance -= amount
        target.balance += amount
        session.add(_Transfer(operation=call.v["id"], source=source.id, target=target.id, amount=amount))
        session.flush()
        return dict(call.v)

    def final(self, session: Session) -> dict[str, Any]:
        """Balances, ledger, and what the accounts began with."""
        ledger = session.execute(
            select(_Transfer.operation, _Transfer.source, _Transfer.target, _Transfer.amount).order_by(_Transfer.id)
        )
        return {
            "balances": _balances(session),
            "ledger": [list(row) for row in ledger],
            "initial": {str(number): _OPENING for number in range(_ACCOUNTS)},
        }


def _balances(session: Session) -> dict[str, int]:
    rows = session.execute(select(_Account.id, _Account.balance).order_by(_Account.id))
    return {str(number): balance for number, balance in rows}
