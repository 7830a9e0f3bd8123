"""What really happened, counted in the database itself and compared with what the clients were told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ..tables import Account, Entry, Transfer, User
from .client import Answer
from .traffic import Request

__all__ = ["Applied", "Result", "compare", "count"]


@dataclass(frozen=True, slots=True)
class Applied:
    """What the database holds.

    Attributes:
        times: how often each request was applied, by its key.
        balanced: no money came or went: balances and opening balances have the same sum, every transfer's entries add up to
            nothing, and every balance is what its account's entries make of its opening balance.
    """

    times: Counter[str]
    balanced: bool


async def count(connection: AsyncConnection) -> Applied:
    """Count every request's rows, and check the books."""
    times: Counter[str] = Counter()
    for named in (User.username, Transfer.reference):
        rows = await connection.execute(select(named, func.count()).group_by(named))
        times.update({row[0]: row[1] for row in rows})
    opened, held = (
        await connection.execute(select(func.sum(Account.opening_balance), func.sum(Account.balance)))
    ).one()
    moved = select(Entry.account_id, func.sum(Entry.amount).label("amount")).group_by(Entry.account_id).subquery()
    wrong_balance = (
        select(Account.id)
        .outerjoin(moved, moved.c.account_id == Account.id)
        .where(Account.balance != Account.opening_balance + func.coalesce(moved.c.amount, Decimal(0)))
    )
    one_sided = select(Entry.transfer_id).group_by(Entry.transfer_id).having(func.sum(Entry.amount) != Decimal(0))
    wrong = [*await connection.execute(wrong_balance), *await connection.execute(one_sided)]
    return Applied(times, balanced=opened == held and not wrong)


@dataclass(frozen=True, slots=True)
class Result:
    """How one service did.

    Attributes:
        requests: how many there were.
        acknowledged: how many were told that they are saved.
        lost: of these, how many are not there.
        doubled: how many were applied more than once.
        denied: how many were told that it failed, and were applied.
        excess: money that was moved beyond what was acknowledged.
        mean_s, p99_s: latency from when a request was due, over all answers.
        balanced: as in `Applied`.
    """

    requests: int
    acknowledged: int
    lost: int
    doubled: int
    denied: int
    excess: Decimal
    mean_s: float
    p99_s: float
    balanced: bool

    @property
    def success(self) -> float:
        """The share of requests that were acknowledged."""
        return self.acknowledged / self.requests


def compare(requests: Sequence[Request], answers: Sequence[Answer], applied: Applied) -> Result:
    """Set what the clients were told against what is there."""
    told = [
        (request, answer.acknowledged, applied.times[request.key])
        for request, answer in zip(requests, answers, strict=True)
    ]
    latencies = sorted(answer.latency_s for answer in answers)
    return Result(
        requests=len(told),
        acknowledged=sum(acknowledged for _, acknowledged, _ in told),
        lost=sum(acknowledged and times == 0 for _, acknowledged, times in told),
        doubled=sum(times > 1 for _, _, times in told),
        denied=sum(not acknowledged and times > 0 for _, acknowledged, times in told),
        excess=sum(
            (request.amount * max(0, times - acknowledged) for request, acknowledged, times in told), Decimal(0)
        ),
        mean_s=sum(latencies) / len(latencies),
        p99_s=latencies[math.ceil(0.99 * len(latencies)) - 1],
        balanced=applied.balanced,
    )
