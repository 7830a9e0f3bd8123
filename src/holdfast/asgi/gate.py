"""Who gets in while there is less room than requests: classes with guaranteed shares, tenants that leave room for others.

    gate = Gate(limit=100, queue=20, shares={Priority.CRITICAL: 0.2, Priority.NORMAL: 0.3})
    ticket = Ticket(Priority.BATCH, "tenant")
    if gate.enter(ticket, now) or gate.join(ticket, now): ...    # in, or in the queue
    for woken in gate.leave(ticket, now): ...                    # who got in by it

Pure: no clock, no lock, no waiting; for one event loop. Three rules decide, and a newcomer and a waiter are judged alike:

- **The limit.** Never more than `limit` are in.
- **Classes.** What a class is guaranteed and does not use is kept free for it. So batch is shed first, when half of the room is
  still there, and critical requests find some at any time; and nobody starves, since batch keeps what it is guaranteed as well.
  (Netflix's partitioned limiter has the same shares, but lets a class within its share in above the limit.)
- **Tenants.** While others are about (they came within the last 10 s), a tenant has at most `tenant_share` of the limit, and of
  the queue. Alone it may have everything.

Of those who wait and may get in, the more important class goes first; in a class the tenant that has the fewest requests in; of
one tenant the newest request, for the reason that `holdfast.bulkhead` gives. A full queue lets the more important, and tenants
with fewer waiters, take the place of somebody's oldest. What is remembered are those who are in or wait, and nobody else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import IntEnum

from ..errors import ConfigurationError

__all__ = ["Gate", "Priority", "Ticket"]

_ABOUT_S = 10.0
"""Seconds for which a tenant that came is about."""


class Priority(IntEnum):
    """How much a request matters when not all can be served. The smaller the more."""

    CRITICAL = 0
    """Somebody pays, logs in, or a part of the system stands still."""
    NORMAL = 1
    BATCH = 2
    """Nobody waits for it: exports, crawlers, prefetching."""


class Ticket:
    """One request at the gate.

    Attributes:
        priority, tenant: who asks; without a tenant (None) no tenant's share is counted.
        began_s, generation: for the owner of the gate.
    """

    __slots__ = ("_is_in", "_number", "began_s", "generation", "priority", "tenant")

    def __init__(self, priority: Priority, tenant: str | None) -> None:
        self.priority = priority
        self.tenant = tenant
        self.began_s = 0.0
        self.generation = 0
        self._is_in = False
        self._number = 0

    @property
    def is_in(self) -> bool:
        """Whether it got in and has not left."""
        return self._is_in


class Gate:
    """Who gets in.

    Args:
        limit: requests that may be in at a time; 1 or more. `resize` changes it.
        queue: requests that may wait; 0 or more.
        shares: what each class is guaranteed of the limit, 0 to 1, together below 1; default none. Rounded down, and up for
            critical requests; at least one place is always for whoever comes.
        tenant_share: what a tenant may have while others are about, more than 0 and at most 1 (1: everything), default 0.5.

    Raises:
        ConfigurationError: a value is outside its bounds.
    """

    __slots__ = (
        "_came", "_guaranteed", "_in_class", "_in_flight", "_kept", "_limit", "_number", "_others_came", "_queue", "_shares",
        "_tenant_max", "_tenant_share", "_tenant_waiting_max", "_tenants", "_waiting", "_waiting_now",
    )  # fmt: skip

    def __init__(
        self, *, limit: int, queue: int = 0, shares: Mapping[Priority, float] | None = None, tenant_share: float = 0.5
    ) -> None:
        for setting, value, least in (("limit", limit, 1), ("queue", queue, 0)):
            if not isinstance(value, int) or value < least:
                raise ConfigurationError(f"the {setting} must be a whole number, {least} or more, not {value!r}")
        self._shares = tuple((shares or {}).get(priority, 0.0) for priority in Priority)
        if not all(0 <= share < 1 for share in self._shares) or sum(self._shares) >= 1:
            raise ConfigurationError("the shares of the classes must be 0 or more, and below 1 together")
        if not 0 < tenant_share <= 1:
            raise ConfigurationError(f"tenant_share must be more than 0 and at most 1, not {tenant_share}")
        self._queue = queue
        self._tenant_share = tenant_share
        self._tenant_waiting_max = math.ceil(queue * tenant_share)
        self._in_flight = 0
        self._in_class = [0 for _ in Priority]
        self._tenants: dict[str, int] = {}  # requests that are in
        self._waiting: tuple[dict[str | None, list[Ticket]], ...] = tuple({} for _ in Priority)
        self._waiting_now = 0
        self._number = 0
        # The last tenant that came and when, and when last one came that was not it: all it takes to know if others are about.
        self._came: tuple[str, float] = ("", -math.inf)
        self._others_came = -math.inf
        self._limit = 0
        self._guaranteed: list[int] = []
        self.resize(limit)

    @property
    def limit(self) -> int:
        """Requests that may be in."""
        return self._limit

    @property
    def in_flight(self) -> int:
        """Requests that are in; more than the limit after it fell, or after `force`."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting_now

    @property
    def tenants(self) -> int:
        """Tenants that are remembered: those with a request inside."""
        return len(self._tenants)

    def resize(self, limit: int) -> None:
        """Another limit from now on; who is in stays in."""
        self._limit = limit
        self._tenant_max = math.ceil(limit * self._tenant_share)
        left = limit - 1
        self._guaranteed = []
        for priority, share in zip(Priority, self._shares, strict=True):
            wanted = share * limit
            kept = min(left, math.ceil(wanted) if priority is Priority.CRITICAL else int(wanted))
            self._guaranteed.append(kept)
            left -= kept
        self._kept = limit - 1 - left

    def enter(self, ticket: Ticket, now: float) -> bool:
        """Get in at once, if the rules allow it; whether it did.

        Args:
            ticket: a new one.
            now: seconds, on any clock that never goes back.
        """
        tenant = ticket.tenant
        if tenant is not None:
            last, came = self._came
            if tenant != last:
                self._others_came = came
            self._came = (tenant, now)
        # Most come while there is room for everybody, and need not be compared with others.
        plenty = self._limit - self._in_flight > self._kept
        if (plenty or self._has_room(ticket.priority)) and self._tenant_has_room(tenant, now):
            self.force(ticket)
            return True
        return False

    def force(self, ticket: Ticket) -> None:
        """Get in whatever the rules say."""
        tenant = ticket.tenant
        ticket._is_in = True
        self._in_flight += 1
        self._in_class[ticket.priority] += 1
        if tenant is not None:
            self._tenants[tenant] = self._tenants.get(tenant, 0) + 1

    def join(self, ticket: Ticket, now: float) -> tuple[bool, Ticket | None]:
        """Wait in the queue: whether there was a place, and who lost it."""
        mine = self._waiting[ticket.priority].get(ticket.tenant)
        others_about = ticket.tenant is not None and self._others_are_about(ticket.tenant, now)
        if mine is not None and others_about and len(mine) >= self._tenant_waiting_max:
            return False, None
        displaced = None
        if self._waiting_now >= self._queue:
            displaced = self._weakest(ticket, 0 if mine is None else len(mine))
            if displaced is None:
                return False, None
            self.withdraw(displaced)
        self._number += 1
        ticket._number = self._number
        self._waiting[ticket.priority].setdefault(ticket.tenant, []).append(ticket)
        self._waiting_now += 1
        return True, displaced

    def withdraw(self, ticket: Ticket) -> None:
        """Wait no more; harmless if it does not wait."""
        tenants = self._waiting[ticket.priority]
        line = tenants.get(ticket.tenant)
        if line is not None and ticket in line:
            line.remove(ticket)
            self._waiting_now -= 1
            if not line:
                del tenants[ticket.tenant]

    def leave(self, ticket: Ticket, now: float) -> list[Ticket]:
        """Go out; who of the queue is in by that."""
        ticket._is_in = False
        self._in_flight -= 1
        self._in_class[ticket.priority] -= 1
        tenant = ticket.tenant
        if tenant is not None:
            left = self._tenants[tenant] - 1
            if left:
                self._tenants[tenant] = left
            else:
                del self._tenants[tenant]
        served: list[Ticket] = []
        while self._waiting_now:
            best = self._next(now)
            if best is None:
                break
            self.withdraw(best)
            self.force(best)
            served.append(best)
        return served

    def _has_room(self, priority: Priority) -> bool:
        free = self._limit - self._in_flight
        if free <= 0:
            return False
        if self._in_class[priority] < self._guaranteed[priority]:
            return True
        for other, kept in enumerate(self._guaranteed):
            if other != priority:
                free -= max(0, kept - self._in_class[other])
        return free > 0

    def _tenant_has_room(self, tenant: str | None, now: float) -> bool:
        if tenant is None or self._tenants.get(tenant, 0) < self._tenant_max:
            return True
        return self._in_flight < self._limit and not self._others_are_about(tenant, now)

    def _others_are_about(self, tenant: str, now: float) -> bool:
        last, came = self._came
        return now - (self._others_came if tenant == last else came) < _ABOUT_S

    def _next(self, now: float) -> Ticket | None:
        """Who of the queue goes first, of those who may get in."""
        for priority in Priority:
            lines = self._waiting[priority]
            if not lines or not self._has_room(priority):
                continue
            best: Ticket | None = None
            best_has = 0
            for tenant, line in lines.items():
                if self._tenant_has_room(tenant, now):
                    has = 0 if tenant is None else self._tenants.get(tenant, 0)
                    newest = line[-1]
                    if best is None or has < best_has or (has == best_has and newest._number > best._number):
                        best, best_has = newest, has
            if best is not None:
                return best
        return None

    def _weakest(self, ticket: Ticket, has: int) -> Ticket | None:
        """Who gives up a place in the full queue for `ticket`, whose tenant has so many there already; None: nobody."""
        for priority in reversed(Priority):
            lines = self._waiting[priority]
            if not lines or priority < ticket.priority:
                continue
            line = max(lines.values(), key=len)
            if priority > ticket.priority or len(line) > has + 1:
                return line[0]
        return None
