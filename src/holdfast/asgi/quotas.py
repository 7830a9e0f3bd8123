"""How many requests each subject may make: GCRA for many subjects, in bounded memory.

    quota = Quota("client", rate=10, per=1, burst=20)
    quotas = LocalQuotas()
    await quotas.take(quota, "c:192.0.2.7")                  # Decision(allowed=True, remaining=19, ...)

**The bound.** In any interval of `t` seconds a subject is let through at most `burst + rate / per * t` times, whatever other
subjects do. The algorithm and its arithmetic are those of `holdfast.ratelimit.decide`: one number a subject, the theoretical
arrival time, and nothing that runs in the background.

**In bounded memory.** When the table is full, whoever comes new takes the place of the subject whose time passed longest ago. If
all are still being counted, what is forgotten must not become a gift: an attacker with more addresses than the table has
places would come back to a full burst every time. So newcomers begin where those who were forgotten stood (the idea of
Space-Saving; Metwally, Agrawal and El Abbadi, 2005), which keeps the bound exact for everybody; the price is that a newcomer, in
such a moment, may find a part of its burst used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from ..clock import SYSTEM_CLOCK, Clock
from ..deadline import seconds
from ..errors import ConfigurationError
from ..ratelimit import decide
from .subjects import SubjectOf, by_client

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["ArrivalTable", "Decision", "LocalQuotas", "Quota", "QuotaStore"]

_NS = 1_000_000_000
_NAME_MAX = 40
_NAME_MARKS = str.maketrans("", "", "-_.")
_WHOLE_AFTER_MAX_S = 366 * 86_400
_TRIES = 8


class Decision(NamedTuple):
    """What became of one request.

    Attributes:
        allowed: whether it may go on.
        remaining: how many more could come at once.
        retry_after_s: seconds until the next one fits; 0 if this one did.
        full_after_s: seconds until the whole burst is there again, if nothing comes.
    """

    allowed: bool
    remaining: int
    retry_after_s: float
    full_after_s: float


@dataclass(frozen=True, slots=True)
class Quota:
    """A rate limit for each of many subjects. Immutable; share it freely.

    Attributes:
        name: what headers, events and stores call it: letters, digits and `-_.`, 40 at most.
        rate: requests per `per`; more than 0, at most 1,000,000 a second, and so many that the burst is back within a year.
        per: the unit of `rate`, seconds or `timedelta`, default 1 s; more than 0.
        burst: requests that may come at once after a quiet time, default 1; 1 or more.
        subject: who a request is counted for, default the client's network (`subjects`).
        interval_ns: the time between two requests on schedule.

    Raises:
        ConfigurationError: a value is outside its bounds.
    """

    name: str
    rate: float
    per: float | timedelta = 1.0
    burst: int = 1
    subject: SubjectOf = by_client
    interval_ns: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        plain = self.name.translate(_NAME_MARKS)
        if not 0 < len(self.name) <= _NAME_MAX or not plain.isascii() or not plain.isalnum():
            raise ConfigurationError(
                f"a quota's name has 1 to {_NAME_MAX} letters, digits and -_. and not {self.name!r}"
            )
        per_s = seconds(self.per, name="Quota.per")
        if not 0 < self.rate < math.inf or per_s == 0 or self.rate / per_s > 1_000_000:
            raise ConfigurationError(
                f"Quota.rate must be more than 0 and at most one in a microsecond, not {self.rate} in {per_s} s"
            )
        if not isinstance(self.burst, int) or self.burst < 1:
            raise ConfigurationError(f"Quota.burst must be a whole number, 1 or more, not {self.burst!r}")
        if self.burst * per_s / self.rate > _WHOLE_AFTER_MAX_S:
            raise ConfigurationError(f"the burst of the quota {self.name} must be back within a year; raise its rate")
        # Whole microseconds, since that is what Redis counts in; rounded up, so that the rate is never exceeded.
        object.__setattr__(self, "interval_ns", math.ceil(per_s * 1_000_000 / self.rate) * 1000)

    @property
    def tolerance_ns(self) -> int:
        """How far ahead of schedule a request may come."""
        return (self.burst - 1) * self.interval_ns

    def share(self, parts: int) -> Quota:
        """The same for one of `parts` processes that do not know of each other.

        Together they allow no more than the whole, but that each has a burst of 1 at least.
        """
        return Quota(self.name, self.rate / parts, self.per, max(1, self.burst // parts), self.subject)

    def decision(self, wait_ns: int, ahead_ns: int) -> Decision:
        """What GCRA's numbers mean; pure.

        Args:
            wait_ns: how long the request would have to wait; 0: it was let through.
            ahead_ns: how far the theoretical arrival time lies ahead of now, this request included if it was let through.
        """
        if wait_ns > 0:
            return Decision(False, 0, wait_ns / _NS, ahead_ns / _NS)
        return Decision(True, self.burst - -(-ahead_ns // self.interval_ns), 0.0, ahead_ns / _NS)


@runtime_checkable
class QuotaStore(Protocol):
    """Where subjects are counted."""

    async def take(self, quota: Quota, subject: str, /) -> Decision:
        """Count one request. Never fails: a store that cannot answer decides by itself."""


class ArrivalTable:
    """The theoretical arrival times of many subjects under one quota. Pure: it reads no clock. For one thread.

    Args:
        subjects_max: subjects that are remembered.
    """

    __slots__ = ("_arrivals_ns", "_floor_ns", "_heap", "_subjects_max")

    def __init__(self, subjects_max: int) -> None:
        self._subjects_max = subjects_max
        self._arrivals_ns: dict[str, int] = {}
        # One entry a subject, with the arrival time of the day it was put there: never later than the real one, so the top can be
        # brought up to date when somebody has to go, and a request of a known subject costs the heap nothing.
        self._heap: list[tuple[int, str]] = []
        self._floor_ns = 0

    def __len__(self) -> int:
        return len(self._arrivals_ns)

    def take(self, quota: Quota, subject: str, now_ns: int) -> Decision:
        """Count one request of `subject` at `now_ns`, if it fits. One that is refused changes nothing."""
        known_ns = self._arrivals_ns.get(subject)
        arrival_ns = self._floor_ns if known_ns is None else known_ns
        wait_ns, next_ns = decide(arrival_ns, now_ns, quota.interval_ns, quota.tolerance_ns)
        if wait_ns > 0:
            return quota.decision(wait_ns, arrival_ns - now_ns)
        if known_ns is None:
            if len(self._arrivals_ns) >= self._subjects_max:
                self._forget_one()
            heappush(self._heap, (next_ns, subject))
        self._arrivals_ns[subject] = next_ns
        return quota.decision(0, next_ns - now_ns)

    def _forget_one(self) -> None:
        """Make room: of the few that seem to have the earliest arrival times, the one that has."""
        heap, arrivals_ns = self._heap, self._arrivals_ns
        for _ in range(_TRIES):
            noted_ns, subject = heap[0]
            if arrivals_ns[subject] == noted_ns:
                break
            heapreplace(heap, (arrivals_ns[subject], subject))
        _, subject = heappop(heap)
        # Everybody who was forgotten stood here or earlier: who comes back finds no more than was left.
        self._floor_ns = max(self._floor_ns, arrivals_ns.pop(subject))


class LocalQuotas:
    """Counts in this process. Belongs to one event loop; exact, also for tasks at the same time, since nothing in it waits.

    Args:
        subjects_max: subjects remembered for each quota, default 20,000 (about 5 MB when full); 1 or more.
        clock: measures the time.

    Raises:
        ConfigurationError: `subjects_max` is below 1.
    """

    __slots__ = ("_monotonic", "_subjects_max", "_tables")

    def __init__(self, *, subjects_max: int = 20_000, clock: Clock = SYSTEM_CLOCK) -> None:
        if subjects_max < 1:
            raise ConfigurationError(f"subjects_max must be 1 or more, not {subjects_max}")
        self._subjects_max = subjects_max
        self._monotonic: Callable[[], float] = clock.monotonic
        self._tables: dict[str, ArrivalTable] = {}

    async def take(self, quota: Quota, subject: str, /) -> Decision:
        """Count one request of `subject`; at once."""
        return self.take_now(quota, subject)

    def take_now(self, quota: Quota, subject: str) -> Decision:
        """The same without `await`."""
        table = self._tables.get(quota.name)
        if table is None:
            table = self._tables[quota.name] = ArrivalTable(self._subjects_max)
        return table.take(quota, subject, int(self._monotonic() * _NS))

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))
