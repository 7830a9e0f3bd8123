"""The ledger over HTTP: what to read from a request, which operation to call, what to answer.

A handler awaits its operation, and the operation returns when it is committed. So no answer leaves before its COMMIT. (A
session from a dependency with `yield` commits after the answer has been sent: FastAPI's default scope.)
"""

from __future__ import annotations

import re
from typing import Annotated, Generic, TypeVar, cast

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel

from . import problems
from .domain import Account, Entry, NewAccount, NewUser, Order, Transfer, User
from .service import Ledger

__all__ = ["Page", "router"]

T = TypeVar("T")

router = APIRouter(prefix="/api/v1", responses=problems.DOCUMENTED)


class Page(BaseModel, Generic[T]):
    """Some of a list, and the address of what follows; null at the end."""

    items: list[T]
    next: str | None


def _ledger(request: Request) -> Ledger:
    return cast("Ledger", request.app.state.ledger)


_KEY = re.compile(r'"(?P<quoted>[!#-\[\]-~]{1,255})"|(?P<bare>[!#-~]{1,255})')


def _optional_key(idempotency_key: Annotated[str | None, Header()] = None) -> str | None:
    """The key, written as a structured field (`"8e03..."`, the draft standard) or bare (as Stripe's clients do)."""
    if idempotency_key is None:
        return None
    found = _KEY.fullmatch(idempotency_key.strip())
    if found is None:
        raise problems.KeyMissing("an Idempotency-Key has 1 to 255 visible ASCII characters, in double quotes or bare")
    return found["quoted"] or found["bare"]


def _required_key(key: Annotated[str | None, Depends(_optional_key)]) -> str:
    if key is None:
        raise problems.KeyMissing("this request needs the header Idempotency-Key, so that money cannot move twice")
    return key


OptionalKey = Annotated[str | None, Depends(_optional_key)]
RequiredKey = Annotated[str, Depends(_required_key)]
TheLedger = Annotated[Ledger, Depends(_ledger)]
RowId = Annotated[int, Path(ge=1, lt=2**63)]
Limit = Annotated[int, Query(ge=1, le=100)]
After = Annotated[int, Query(ge=0, lt=2**63)]
Before = Annotated[int, Query(ge=1, lt=2**63)]


@router.post("/users", status_code=201)
async def add_user(new: NewUser, key: OptionalKey, ledger: TheLedger, response: Response) -> User:
    """Add a user. With a key it happens once, however often it is asked for."""
    user = await ledger.add_user(new, key)
    response.headers["Location"] = f"{router.prefix}/users/{user.id}"
    return user


@router.get("/users")
async def list_users(ledger: TheLedger, after: After = 0, limit: Limit = 50) -> Page[User]:
    """The users, in the order they joined."""
    users = await ledger.users(after, limit)
    following = f"{router.prefix}/users?after={users[-1].id}&limit={limit}" if len(users) == limit else None
    return Page(items=users, next=following)


@router.get("/users/{user_id}")
async def get_user(user_id: RowId, ledger: TheLedger) -> User:
    """One user."""
    return await ledger.user(user_id)


@router.post("/accounts", status_code=201)
async def open_account(new: NewAccount, key: OptionalKey, ledger: TheLedger, response: Response) -> Account:
    """Open an account."""
    account = await ledger.open_account(new, key)
    response.headers["Location"] = f"{router.prefix}/accounts/{account.id}"
    return account


@router.get("/accounts/{account_id}")
async def get_account(account_id: RowId, ledger: TheLedger) -> Account:
    """One account, with its balance."""
    return await ledger.account(account_id)


@router.get("/accounts/{account_id}/history")
async def get_history(
    account_id: RowId, ledger: TheLedger, before: Before = 2**63 - 1, limit: Limit = 50
) -> Page[Entry]:
    """What moved on an account, the newest first."""
    entries = await ledger.history(account_id, before, limit)
    path = f"{router.prefix}/accounts/{account_id}/history"
    following = f"{path}?before={entries[-1].id}&limit={limit}" if len(entries) == limit else None
    return Page(items=entries, next=following)


@router.post("/transfers", status_code=201)
async def transfer(order: Order, key: RequiredKey, ledger: TheLedger, response: Response) -> Transfer:
    """Move money, once for this key: the same request again gets the same answer."""
    moved = await ledger.transfer(order, key)
    response.headers["Location"] = f"{router.prefix}/transfers/{moved.id}"
    return moved


@router.get("/transfers/{transfer_id}")
async def get_transfer(transfer_id: RowId, ledger: TheLedger) -> Transfer:
    """One transfer."""
    return await ledger.find_transfer(transfer_id)
