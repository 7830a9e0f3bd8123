"""The deadline of an operation that joins the transaction around it: it ends that part, and so the whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import DeadlineExceeded
from .engines import session_of

if TYPE_CHECKING:
    from .options import OperationOptions
    from .unit import Unit

__all__ = ["own_deadline", "own_deadline_async"]


def _has_one(outer: Unit[Any], options: OperationOptions) -> bool:
    given_s = options.deadline_s
    return given_s is not None and outer.runtime.clock.monotonic() + given_s < outer.expires_at


def _too_late(outer: Unit[Any], options: OperationOptions) -> DeadlineExceeded:
    late = DeadlineExceeded(f"{options.name}: its deadline passed inside {outer.name}; nothing was applied")
    outer.late = outer._swallowed = late  # though the body may catch it, what was cut is not committed
    return late


@contextmanager
def own_deadline(outer: Unit[Any], options: OperationOptions) -> Iterator[None]:
    """Cut what runs inside at its own deadline, if it was given one that ends before that of `outer`.

    Raises:
        DeadlineExceeded: it passed. The transaction is not good for anything any more.
    """
    if not _has_one(outer, options):
        yield
        return
    runtime = outer.runtime
    with runtime.within(options) as until:
        guard = runtime.watch(session_of(outer.connected()).driver_connection, until.expires_at)
        assert guard is not None
        try:
            with guard:
                yield
        except Exception as error:
            if guard.fired:
                raise _too_late(outer, options) from error
            raise
        if guard.fired:
            raise _too_late(outer, options)


@asynccontextmanager
async def own_deadline_async(outer: Unit[Any], options: OperationOptions) -> AsyncIterator[None]:
    """As `own_deadline`, by a cancellation."""
    if not _has_one(outer, options):
        yield
        return
    import asyncio

    with outer.runtime.within(options) as until:
        timer = asyncio.timeout(until.remaining_s())
        try:
            async with timer:
                yield
        except Exception as error:
            if timer.expired():
                raise _too_late(outer, options) from error
            raise
