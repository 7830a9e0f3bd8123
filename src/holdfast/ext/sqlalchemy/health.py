"""What a database says of its health: whether it can be read, and whether its pool is nearly used up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sqlalchemy import Integer, literal, select

from ...deadline import seconds, within
from ...errors import BulkheadFull, LoadShed, Overloaded
from ...health import Check, Finding, HealthCheck

if TYPE_CHECKING:
    from datetime import timedelta

    from .runtime import Runtime
    from .sessions import UnitAsyncSession, UnitSession

__all__ = ["database_checks", "reading", "reading_async"]

_ONE = select(literal(1, Integer))

_SHARE_OF_TIMEOUT = 0.8
"""The read ends by itself before the check is given up on, so that no connection is thrown away for it."""

# The server is there and has too much to do. Taking this replica out would hand its load to the others.
_BUSY = (LoadShed, BulkheadFull, Overloaded)


class _Look:
    """What is known besides the answer of the server."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._was_there = False

    def is_used_up(self) -> bool:
        """Whether there is no connection left: a probe does not stand in the queue for what callers wait for."""
        share = _share_in_use(self._runtime)
        return share is not None and share >= 1

    def answered(self) -> Finding:
        """The server answered."""
        self._was_there = True
        return Finding.OK

    def failed(self, error: Exception) -> Finding:
        """There was no answer, because of `error`."""
        failover = self._runtime.failover
        if isinstance(error, _BUSY):
            return Finding.DEGRADED
        # The read waited at the gate, held nothing, and keeps the search for a server going while nobody else needs one.
        is_searched = failover is not None and failover.gate.closed
        return Finding.DEGRADED if self._was_there and is_searched else Finding.FAILED


def reading(runtime: Runtime, read: Callable[[Callable[[UnitSession], int]], int], timeout_s: float) -> Check:
    """A check that reads from a `Database` within `timeout_s`."""
    look = _Look(runtime)

    def health_check(tx: UnitSession) -> int:
        return tx.scalars(_ONE).one()

    def check() -> Finding:
        if look.is_used_up():
            return Finding.DEGRADED
        try:
            with within(timeout_s, clock=runtime.clock):
                read(health_check)
        except Exception as error:
            return look.failed(error)
        return look.answered()

    return check


def reading_async(
    runtime: Runtime, read: Callable[[Callable[[UnitAsyncSession], Awaitable[int]]], Awaitable[int]], timeout_s: float
) -> Check:
    """As `reading`, for an `AsyncDatabase`."""
    look = _Look(runtime)

    async def health_check(tx: UnitAsyncSession) -> int:
        return (await tx.scalars(_ONE)).one()

    async def check() -> Finding:
        if look.is_used_up():
            return Finding.DEGRADED
        try:
            with within(timeout_s, clock=runtime.clock):
                await read(health_check)
        except Exception as error:
            return look.failed(error)
        return look.answered()

    return check


def database_checks(
    runtime: Runtime,
    check: Callable[[float], Check],
    *,
    name: str,
    timeout: float | timedelta,
    fail_open: bool,
    pool_high: float,
) -> tuple[HealthCheck, ...]:
    """The checks of a database; `Database.health_checks` says what for.

    Args:
        runtime: the database's.
        check: makes the check that reads, given its time in seconds.
        name, timeout, fail_open, pool_high: see `Database.health_checks`.
    """

    def look_at_pool() -> Finding:
        share = _share_in_use(runtime)
        return Finding.DEGRADED if share is not None and share >= pool_high else Finding.OK

    timeout_s = seconds(timeout, name="timeout")
    reads = HealthCheck(name, check(timeout_s * _SHARE_OF_TIMEOUT), timeout=timeout_s, fail_open=fail_open)
    if _share_in_use(runtime) is None:
        return (reads,)
    return (reads, HealthCheck(f"{name}-pool", look_at_pool, critical=False))


def _share_in_use(runtime: Runtime) -> float | None:
    """The share of the connections there may be that is in use; None for a pool that does not count (SQLite in memory)."""
    checked_out = getattr(runtime.engine.pool, "checkedout", None)
    return None if checked_out is None else float(checked_out()) / runtime.endpoint.pool.open_max
