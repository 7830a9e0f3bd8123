"""The ledger over HTTP: what to read from a request, which operation to call, what to answer.

A handler awaits its operation, and the operation returns when it is committed. So no answer leaves before its COMMIT. (A
session from a dependency with `yield` commits after the answer has been sent: FastAPI's default scope.) What an Idempotency-Key
means to a route, its deadline and the permission it needs stand beside its path; the edge sees to them before a handler runs.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar, cast

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel

from holdfast.asgi.quotas import Quota
from holdfast.asgi.subjects import by_tenant
from holdfast.ext.fastapi import edge

from . import access
from .access import Tenant
from .domain import Account, Books, Entry, NewAccount, NewUser, Order, Transfer, User
from .service import Ledger

__all__ = ["Page", "router"]

T = TypeVar("T")

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is none of this tenant's.", "content": {"application/problem+json": {}}}
}

router = APIRouter(prefix="/api/v1")


class Page(BaseModel, Generic[T]):
    """Some of a list, and the address of what follows; null at the end."""

    items: list[T]
    next: str | None


def _ledger(request: Request) -> Ledger:
    return cast("Ledger", request.app.state.ledger)


READS = edge(permission=access.READ)
WRITES = edge(permission=access.WRITE)
MOVES_MONEY = edge(permission=access.WRITE, key="required", priority="critical")
AUDITS = edge(
    permission=access.AUDIT,
    allowlist="operators",
    priority="batch",
    deadline=30,
    retry=False,
    quota=Quota("books", rate=30, per=60, burst=30, subject=by_tenant),
)

TheLedger = Annotated[Ledger, Depends(_ledger)]
RowId = Annotated[int, Path(ge=1, lt=2**63)]
Limit = Annotated[int, Query(ge=1, le=100)]
After = Annotated[int, Query(ge=0, lt=2**63)]
Before = Annotated[int, Query(ge=1, lt=2**63)]


@router.post("/users", status_code=201, **WRITES)
async def add_user(new: NewUser, tenant: Tenant, ledger: TheLedger, response: Response) -> User:
    """Add a user. With a key it happens once, however often it is asked for."""
    user = await ledger.add_user(tenant, new)
    response.headers["Location"] = f"{router.prefix}/users/{user.id}"
    return user


@router.get("/users", **READS)
async def list_users(tenant: Tenant, ledger: TheLedger, after: After = 0, limit: Limit = 50) -> Page[User]:
    """The users, in the order they joined."""
    users = await ledger.users(tenant, after, limit)
    following = f"{router.prefix}/users?after={users[-1].id}&limit={limit}" if len(users) == limit else None
    return Page(items=users, next=following)


@router.get("/users/{user_id}", responses=_NOT_FOUND, **READS)
async def get_user(user_id: RowId, tenant: Tenant, ledger: TheLedger) -> User:
    """One user."""
    return await ledger.user(tenant, user_id)


@router.post("/accounts", status_code=201, responses=_NOT_FOUND, **WRITES)
async def open_account(new: NewAccount, tenant: Tenant, ledger: TheLedger, response: Response) -> Account:
    """Open an account."""
    account = await ledger.open_account(tenant, new)
    response.headers["Location"] = f"{router.prefix}/accounts/{account.id}"
    return account


@router.get("/accounts/{account_id}", responses=_NOT_FOUND, **READS)
async def get_account(account_id: RowId, tenant: Tenant, ledger: TheLedger) -> Account:
    """One account, with its balance."""
    return await ledger.account(tenant, account_id)


@router.get("/accounts/{account_id}/history", responses=_NOT_FOUND, **READS)
async def get_history(
    account_id: RowId, tenant: Tenant, ledger: TheLedger, before: Before = 2**63 - 1, limit: Limit = 50
) -> Page[Entry]:
    """What moved on an account, the newest first."""
    entries = await ledger.history(tenant, account_id, before, limit)
    path = f"{router.prefix}/accounts/{account_id}/history"
    following = f"{path}?before={entries[-1].id}&limit={limit}" if len(entries) == limit else None
    return Page(items=entries, next=following)


@router.post("/transfers", status_code=201, responses=_NOT_FOUND, **MOVES_MONEY)
async def transfer(order: Order, tenant: Tenant, ledger: TheLedger, response: Response) -> Transfer:
    """Move money, once for this key: the same request again gets the same answer."""
    moved = await ledger.transfer(tenant, order)
    response.headers["Location"] = f"{router.prefix}/transfers/{moved.id}"
    return moved


@router.get("/transfers/{transfer_id}", responses=_NOT_FOUND, **READS)
async def get_transfer(transfer_id: RowId, tenant: Tenant, ledger: TheLedger) -> Transfer:
    """One transfer."""
    return await ledger.find_transfer(tenant, transfer_id)


@router.get("/books", **AUDITS)
async def get_books(tenant: Tenant, ledger: TheLedger) -> Books:
    """Whether the tenant's books balance."""
    return await ledger.books(tenant)
