"""A breaker for each host that is called, and no more than a bound: hosts can come from outside (redirects, callbacks)."""

from __future__ import annotations

from collections.abc import Callable

from ...breaker import BreakerState, CircuitBreaker
from ...forks import ProcessLock

__all__ = ["HostBreakers"]


class HostBreakers:
    """Breakers by host, made when a host is first called. Safe in threads and tasks.

    Args:
        make: makes the breaker of a host.
        hosts_max: how many there are at once. Beyond, the least recently used is forgotten: a closed one if there is any,
            since an open one that is forgotten would let calls through.
    """

    __slots__ = ("__weakref__", "_breakers", "_hosts_max", "_lock", "_make")

    def __init__(self, make: Callable[[str], CircuitBreaker], hosts_max: int) -> None:
        self._make = make
        self._hosts_max = hosts_max
        self._lock = ProcessLock()
        self._breakers: dict[str, CircuitBreaker] = {}  # least recently used first

    def of(self, host: str) -> CircuitBreaker:
        """The breaker of `host`."""
        with self._lock:
            breaker = self._breakers.pop(host, None)
            if breaker is None:
                if len(self._breakers) >= self._hosts_max:
                    self._forget_one()
                breaker = self._make(host)
            self._breakers[host] = breaker
            return breaker

    def _forget_one(self) -> None:
        closed = (host for host, breaker in self._breakers.items() if breaker.state is BreakerState.CLOSED)
        del self._breakers[next(closed, next(iter(self._breakers)))]

    def __len__(self) -> int:
        return len(self._breakers)
