"""Deadlines: one absolute moment that everything inside obeys.

    with within(2.0):              # everything in here that asks sees at most two seconds
        transfer(1, 2, amount)

    async with within(2.0):        # the same, and the block itself is cancelled when the time is up
        await transfer(1, 2, amount)

Deadlines nest: an inner one can shorten the outer, never lengthen it. The current one lives in a context variable, so it
follows tasks that a task starts and stays out of other threads. Safe in threads and tasks; a `Deadline` is immutable.
"""

from __future__ import annotations

from contextvars import ContextVar
from sys import float_info
from types import TracebackType
from typing import TYPE_CHECKING

from .clock import SYSTEM_CLOCK, Clock
from .errors import BlockTimedOut, ConfigurationError, OutcomeUnknown, attach_report, report_of
from .outcome import Outcome

if TYPE_CHECKING:
    from asyncio import Timeout
    from datetime import timedelta

__all__ = ["Deadline", "current_deadline", "reschedule", "seconds", "within"]


_NEVER = float("inf")


def seconds(duration: float | timedelta, *, name: str = "duration") -> float:
    """`duration` in seconds.

    Args:
        duration: seconds, or a `timedelta`.
        name: what to call it in the error.

    Raises:
        ConfigurationError: it is not a number, not finite, or negative.
    """
    if type(duration) is float and 0 <= duration < _NEVER:
        return duration
    # Asked for by its method, not by its class: importing datetime would cost `import holdfast` a millisecond.
    measure = getattr(duration, "total_seconds", None)
    total: object = duration if measure is None else measure()
    if not isinstance(total, (int, float)) or isinstance(total, bool):
        raise ConfigurationError(f"{name} must be seconds or a timedelta, not {type(duration).__name__}")
    if not 0 <= total <= float_info.max:
        shown = total if isinstance(total, float) or total < 0 else "one that no float can hold"
        raise ConfigurationError(f"{name} must be a finite number of seconds, 0 or more, not {shown}")
    return float(total)


class Deadline:
    """A moment on a monotonic clock after which an answer is worth nothing.

    Attributes:
        expires_at: the moment, in the seconds of `clock.monotonic()`.
    """

    __slots__ = ("_clock", "expires_at")

    def __init__(self, expires_at: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self.expires_at = expires_at
        self._clock = clock

    @classmethod
    def after(cls, duration: float | timedelta, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """The deadline `duration` (seconds or `timedelta`, 0 or more) from now."""
        return cls(clock.monotonic() + seconds(duration), clock)

    def remaining_s(self) -> float:
        """Seconds left; 0.0 when it has passed."""
        return max(0.0, self.expires_at - self._clock.monotonic())

    def has_passed(self) -> bool:
        """Whether no time is left."""
        return self._clock.monotonic() >= self.expires_at

    def __repr__(self) -> str:
        return f"<Deadline in {self.expires_at - self._clock.monotonic():.3f} s>"


CURRENT: ContextVar[Deadline | None] = ContextVar("holdfast_deadline", default=None)
"""Where the deadline in force lives. For hot paths; others use `current_deadline` and `within`."""

current_deadline = CURRENT.get
"""The deadline of the calling context, or None."""


def reschedule(timer: Timeout, when: float | None) -> None:
    """Move an `asyncio.timeout` to `when` (the loop's time; None: never), unless it is too late: its cancellation comes then."""
    if not timer.expired():
        timer.reschedule(when)


class within:
    """Give everything inside a deadline, `duration` (seconds or `timedelta`) from entering.

    `with` sets it for all that asks (retries, pools, statements); `async with` cancels the block as well when it passes and
    raises `BlockTimedOut`. One instance serves one block.

    Raises:
        ConfigurationError: the duration is negative, not finite or not a number.
        BlockTimedOut: (`async with` only) the time was up before the block ended. Its `outcome` is `COMMITTED` where an operation
            inside was committed and only its after-commit hooks were cut.
        OutcomeUnknown: the same, while an operation inside waited for the answer to its COMMIT.
    """

    __slots__ = ("_clock", "_duration_s", "_outer", "_timeout", "deadline")

    deadline: Deadline
    """The deadline in force inside, set on entering."""

    def __init__(self, duration: float | timedelta, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._duration_s = seconds(duration)
        self._clock = clock
        self._timeout: Timeout | None = None

    def __enter__(self) -> Deadline:
        own = Deadline(self._clock.monotonic() + self._duration_s, self._clock)
        self._outer = outer = CURRENT.get()
        if outer is not None and outer._clock is not self._clock:
            # Moments of two clocks cannot be compared, times left can.
            self.deadline = outer if outer.remaining_s() <= self._duration_s else own
        else:
            self.deadline = outer if outer is not None and outer.expires_at <= own.expires_at else own
        CURRENT.set(self.deadline)
        return self.deadline

    def __exit__(self, *_: object) -> None:
        if CURRENT.get() is self.deadline:  # not a token: a generator may leave the block in another context
            CURRENT.set(self._outer)

    async def __aenter__(self) -> Deadline:
        import asyncio

        deadline = self.__enter__()
        self._timeout = asyncio.timeout(deadline.remaining_s())
        await self._timeout.__aenter__()
        return deadline

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        timeout, self._timeout = self._timeout, None
        self.__exit__()
        if timeout is None:
            return
        try:
            await timeout.__aexit__(exc_type, exc, tb)
        except TimeoutError as error:
            text = f"the block did not end within {self._duration_s:g} s"
            report = report_of(exc) if exc is not None else None
            if report is not None and report.outcome is Outcome.UNKNOWN:
                raise OutcomeUnknown(f"{text}; {report.operation} may or may not have been applied") from exc
            if report is None:
                raise BlockTimedOut(text) from error
            committed = report.outcome is Outcome.COMMITTED
            late = BlockTimedOut(f"{text}; {report.operation} is committed, its hooks were cut" if committed else text)
            if committed:
                late.outcome = Outcome.COMMITTED
            attach_report(late, report)
            raise late from error
