"""What is sent and what it meets: all drawn from the seed, so all three services get the same."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from holdfast.ext.sqlalchemy.faults import Fault, SeededFaults

__all__ = ["ACCOUNTS", "KEY", "OPENING_BALANCE", "Request", "fate", "requests"]

KEY = "demo-"
"""What the keys of the traffic begin with. Faults are for these requests alone."""

ACCOUNTS = 20
OPENING_BALANCE = Decimal(1_000_000)
"""Enough that no transfer fails for want of money, applied twice or not."""


@dataclass(frozen=True, slots=True)
class Request:
    """One save to be made.

    Attributes:
        key: its `Idempotency-Key`; also the username or reference by which it is found in the database.
        due_s: when it is to be sent, seconds from the start, whatever became of those before it.
        path: where to.
        body: what is sent; its account numbers count from 0.
        amount: what a transfer moves, else nothing.
    """

    key: str
    due_s: float
    path: str
    body: dict[str, Any]
    amount: Decimal = Decimal(0)


def requests(seed: int, count: int, rate: float) -> list[Request]:
    """Saves of users and of transfers, half and half, arriving at random: `rate` a second on average."""
    draw = random.Random(f"traffic {seed}")
    made: list[Request] = []
    due_s = 0.0
    for number in range(count):
        due_s += draw.expovariate(rate)
        key = f"{KEY}{number:06d}"
        if draw.random() < 0.5:
            body: dict[str, Any] = {"username": key, "name": f"Customer {number}", "age": draw.randint(18, 99)}
            made.append(Request(key, due_s, "/api/v1/users", body))
        else:
            source, target = draw.sample(range(ACCOUNTS), 2)
            amount = Decimal(draw.randint(100, 50_000)).scaleb(-2)
            body = {"source_id": source, "target_id": target, "amount": str(amount), "reference": key}
            made.append(Request(key, due_s, "/api/v1/transfers", body, amount))
    return made


def fate(seed: int, key: str, attempt: int, share: float) -> Fault | None:
    """What happens to one attempt at a request, the same in every service."""
    return SeededFaults(random.Random(f"fate {seed} {key} {attempt}").getrandbits(64), share)()
