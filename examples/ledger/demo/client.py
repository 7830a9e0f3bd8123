"""Drives a service over HTTP, as many clients would: each request is sent when it is due, whether or not others hang."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx2

from .traffic import ACCOUNTS, OPENING_BALANCE, Request

__all__ = ["Answer", "drive", "open_accounts"]

PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request ended for its client.

    Attributes:
        status: the HTTP status, or None when no answer came.
        latency_s: from the moment it was due, so a service that falls behind cannot hide it.
    """

    status: int | None
    latency_s: float

    @property
    def acknowledged(self) -> bool:
        """Whether the client was told that it is saved."""
        return self.status is not None and 200 <= self.status < 300


def client(port: int) -> httpx2.AsyncClient:
    """A client of the service on a port of this machine."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, limits=limits, trust_env=False)


async def open_accounts(port: int) -> list[int]:
    """Open the accounts that the transfers move money between; their ids."""
    async with client(port) as session:
        owner = await _created(session, "/api/v1/users", {"username": "bank", "name": "Bank", "age": 100}, "bank")
        account = {"owner_id": owner, "currency": "EUR", "opening_balance": str(OPENING_BALANCE)}
        return [await _created(session, "/api/v1/accounts", account, f"account-{number}") for number in range(ACCOUNTS)]


async def _created(session: httpx2.AsyncClient, path: str, body: dict[str, object], key: str) -> int:
    # With a key: the first one of a tenant has the service count its keys, which must not meet a request's fate.
    answer = await session.post(path, json=body, headers={"Idempotency-Key": key})
    answer.raise_for_status()
    return int(answer.json()["id"])


async def drive(
    port: int, requests: Sequence[Request], accounts: Sequence[int], on_answer: Callable[[Answer], object]
) -> list[Answer]:
    """Send every request once when it is due, and wait for all answers; they are in the order of the requests."""
    now = asyncio.get_running_loop().time

    async def send(session: httpx2.AsyncClient, request: Request, due_at: float) -> Answer:
        await asyncio.sleep(due_at - now())
        body = request.body
        if request.amount:
            body = {**body, "source_id": accounts[body["source_id"]], "target_id": accounts[body["target_id"]]}
        status: int | None
        try:
            status = (await session.post(request.path, json=body, headers={"Idempotency-Key": request.key})).status_code
        except httpx2.TransportError:
            status = None
        answer = Answer(status, now() - due_at)
        on_answer(answer)
        return answer

    async with client(port) as session, asyncio.TaskGroup() as group:
        start = now() + 0.1
        tasks = [group.create_task(send(session, request, start + request.due_s)) for request in requests]
    return [task.result() for task in tasks]
