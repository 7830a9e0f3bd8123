"""Proofs that do not hold, counted by client: who sends too many waits before another one of his is looked at.

    failures = FailedProofs(Quota("failed-proofs", rate=10, per=60, burst=20))
    app = Authentication(api, authenticators=[tokens], failures=failures)

The rate limit stands inside authentication, where it can tell tenants and principals apart; so it never sees a flood of bad
tokens, and each of those costs a signature check. Counted are failures alone: a client whose proofs hold costs no more than a
look at an empty table. Who has used up his burst is refused with 429 whatever comes from his address, until the next one fits.

In bounded memory, as `holdfast.asgi.quotas` has it. Counted in this process alone.
"""

from __future__ import annotations

from ..clock import SYSTEM_CLOCK, Clock
from .context import RequestContext
from .interface import Scope
from .problems import Problem
from .quotas import ArrivalTable, Quota
from .subjects import by_client

__all__ = ["FailedProofs"]

_NS = 1_000_000_000
_TOO_MANY = "Too many proofs from here did not hold. Nothing was applied. Come again later, with one that does."


class FailedProofs:
    """Counts failures. Belongs to one event loop.

    Args:
        quota: how many failures a client has; its `subject` is not asked, since nobody is proven: clients are counted.
        clients_max: clients that are remembered, default 20,000; 1 or more.
        clock: measures the time.
    """

    __slots__ = ("_clients_max", "_clock", "_quota", "_table", "_waiting_ns")

    def __init__(self, quota: Quota, *, clients_max: int = 20_000, clock: Clock = SYSTEM_CLOCK) -> None:
        self._quota = quota
        self._clients_max = clients_max
        self._clock = clock
        self._table = ArrivalTable(clients_max)
        self._waiting_ns: dict[str, int] = {}

    def refusal(self, scope: Scope, context: RequestContext) -> Problem | None:
        """What a client is told that has to wait; None: its proof may be looked at."""
        if not self._waiting_ns:
            return None
        client = by_client(scope, context)
        until_ns = self._waiting_ns.get(client)
        if until_ns is None:
            return None
        left_ns = until_ns - self._now_ns()
        if left_ns <= 0:
            del self._waiting_ns[client]
            return None
        extensions = {"outcome": "not_committed"}
        return Problem(429, "too-many-failed-proofs", "", _TOO_MANY, left_ns / _NS, extensions)

    def count(self, scope: Scope, context: RequestContext) -> None:
        """One more proof of this client did not hold."""
        client, now_ns = by_client(scope, context), self._now_ns()
        decision = self._table.take(self._quota, client, now_ns)
        if decision.remaining:
            return
        if len(self._waiting_ns) >= self._clients_max:
            del self._waiting_ns[next(iter(self._waiting_ns))]  # who has waited longest
        # The next one fits when the schedule is no further ahead than the burst allows.
        until_ns = now_ns + int(decision.full_after_s * _NS) - self._quota.tolerance_ns
        self._waiting_ns[client] = until_ns

    def _now_ns(self) -> int:
        return int(self._clock.monotonic() * _NS)
