"""SQLAlchemy's queue pools, for callers with a deadline and servers with a limit.

- A caller waits for a connection as long as what is left of its deadline would do for the work, and no longer. One that gets its
  connection too late is cut off in the middle of its work, and its connection with it; the next one has to open another, has
  less time left for that, and is cut off as well. So more work than can be done would leave less and less of it done.
- A server that has no connection left for us (1040, 53300) is not asked again for a while, and then by one caller at a time
  (`openings`): the others wait for one that comes back. Only when none of ours is out does the one that asked raise the error.
- Who is cancelled while a connection is cleaned up knows, and the connection is thrown away: that is not logged as an error.

The pool's own queue is used as it is. What is replaced is how one gets a connection out of it (`_do_get`), which in SQLAlchemy
waits once, for the whole time, and looks neither at a limit that has moved nor at a server that has room again.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import exc
from sqlalchemy import pool as sa_pool
from sqlalchemy.util import queue

from ...backoff import come_again_s
from ...clock import SYSTEM_CLOCK
from ...deadline import current_deadline
from ...dialects import classify
from ...errors import BulkheadFull, HoldfastError
from ...outcome import Stage
from .openings import Openings
from .origin import NO_CONNECTION_LEFT

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

__all__ = ["AsyncDeadlinePool", "DeadlinePool", "shortened"]

_LOOK_EVERY_S = 0.25
"""How long somebody waits for a connection that comes back before looking whether one may be opened."""

_RETIRED_MAX = 10
"""How often connections may be retired in a row while one is made; far above what servers can do in that time."""

_TAKEN = "holdfast_taken"

_WEIGHT = 0.05
"""Of each return in the average of how long connections are in use: it follows the last twenty or so."""

_RESERVE = 3.0
"""How many such times an operation needs once it has a connection: few take three times as long as the average."""

_RESERVE_SHARE_MAX = 0.5
"""Of all that an operation can wait. Whatever the average says, one that has just come waits for half of its time."""


def shortened(longest_s: float) -> float:
    """`longest_s`, or what the caller's deadline leaves of it."""
    deadline = current_deadline()
    return longest_s if deadline is None else min(longest_s, deadline.remaining_s())


class _WaitsUntilTheDeadline(sa_pool.QueuePool):
    """The part that both kinds share."""

    _longest_wait_s: float
    _held_s = 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._openings = Openings()

    @property
    def _timeout(self) -> float:
        return shortened(self._longest_wait_s)

    @_timeout.setter
    def _timeout(self, timeout_s: float) -> None:
        self._longest_wait_s = timeout_s

    def recreate(self) -> Any:
        made: Any = super().recreate()
        made._longest_wait_s = self._longest_wait_s
        return made

    def connect(self) -> PoolProxiedConnection:
        retired = 0
        while True:
            try:
                return super().connect()
            except exc.InvalidRequestError:
                # SQLAlchemy gives up on a connection that was retired twice while it was made, as in a failover.
                retired += 1
                if retired == _RETIRED_MAX:
                    raise
            except Exception as error:
                # A connection that was dead in the pool is opened anew outside of `_do_get`.
                if not self._has_to_wait(error):
                    raise

    def _do_get(self) -> ConnectionPoolEntry:
        began = SYSTEM_CLOCK.monotonic()
        try:
            record = self._pool.get(block=False)
        except queue.Empty:
            record, began = self._wait_or_open(began)
        record.record_info[_TAKEN] = began  # type: ignore[index]  # a record always has it
        return record

    def _wait_or_open(self, began: float) -> tuple[ConnectionPoolEntry, float]:
        """A connection, and since when it is in use: its opening counts."""
        timeout_s = self._timeout
        give_up_at = began + timeout_s
        now = began
        while True:
            opened = self._open(now)
            if opened is not None:
                return opened, now
            if now >= give_up_at:
                raise self._too_late()
            hopeless_at = give_up_at - min(_RESERVE * self._held_s, _RESERVE_SHARE_MAX * timeout_s)
            if now >= hopeless_at and self.checkedout() > 0:
                raise self._hopeless(give_up_at - now)
            with suppress(queue.Empty):
                came_back = self._pool.get(timeout=min(_LOOK_EVERY_S, max(hopeless_at - now, 0.01)))
                if self._timeout > 0:
                    return came_back, SYSTEM_CLOCK.monotonic()
                # Too late. A task had been cancelled for it, but `asyncio.wait_for` up to Python 3.11 drops a cancellation that
                # comes together with what was waited for, and nobody would cancel what it did with the connection.
                # Others may have come back meanwhile, and left no room for this one.
                self._do_return_conn(came_back)
                raise self._too_late()
            now = SYSTEM_CLOCK.monotonic()

    def _hopeless(self, left_s: float) -> BulkheadFull:
        return BulkheadFull(
            f"all {self.checkedout()} connections to the database are in use, and the {left_s:.1f} s that are left would not do "
            f"for work that takes {self._held_s:.1f} s on average",
            retry_after_s=come_again_s(self._held_s),
        )

    def _too_late(self) -> exc.TimeoutError:
        return exc.TimeoutError(
            f"no connection came free in time; {self.checkedout()} are in use, and no more may be opened", code="3o7r"
        )

    def _open(self, now: float) -> ConnectionPoolEntry | None:
        """A new connection; None when none may be opened, or the server has none left and another one can be waited for."""
        if not self._openings.may_open(now):
            return None
        try:
            if not self._inc_overflow():
                return None
            try:
                opened = self._create_connection()
            except BaseException as error:
                self._dec_overflow()
                if not self._has_to_wait(error):
                    raise
                return None
            self._openings.opened()
            return opened
        finally:
            self._openings.ended()

    def _has_to_wait(self, error: BaseException) -> bool:
        """Whether the server has no connection left for us while others of ours are in use, one of which will come back."""
        if not isinstance(error, Exception) or isinstance(error, HoldfastError):
            return False  # a refusal of ours, whatever of the server's hangs behind it
        if classify(error, stage=Stage.CONNECT).code not in NO_CONNECTION_LEFT:
            return False
        self._openings.refused(SYSTEM_CLOCK.monotonic())
        return self.checkedout() > 0 and self._timeout > 0

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        taken = record.record_info.pop(_TAKEN, None)  # type: ignore[union-attr]
        if taken is not None and record.dbapi_connection is not None:  # what was cut off says nothing of the work
            held_s = min(SYSTEM_CLOCK.monotonic() - taken, self._longest_wait_s)  # no operation has more: others may
            self._held_s += _WEIGHT * (held_s - self._held_s)
        if record.dbapi_connection is None and self._openings.are_bounded:
            # Whoever got it next would connect, and nobody would have asked `openings`.
            self._dec_overflow()
        else:
            super()._do_return_conn(record)


class DeadlinePool(_WaitsUntilTheDeadline):
    """For threads."""


def _is_worth_logging(record: logging.LogRecord) -> bool:
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


class AsyncDeadlinePool(_WaitsUntilTheDeadline, sa_pool.AsyncAdaptedQueuePool):
    """For tasks: waiting happens in SQLAlchemy's greenlets."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # With `echo_pool` the pool's own only wraps a logger.
        logger = self.logger if isinstance(self.logger, logging.Logger) else self.logger.logger
        logger.addFilter(_is_worth_logging)
