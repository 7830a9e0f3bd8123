"""How long to wait before another attempt: exponential ceilings with full jitter.

The ceiling is capped first and the delay is drawn below it, `U(0, min(cap, base * factor**n))`. Capping after the draw, as
many libraries do, makes every client sleep exactly the cap in a long outage, and they all come back together. Full jitter
costs the fewest calls of the usual variants (AWS Architecture Blog, "Exponential Backoff And Jitter").

Pure: the draw comes in as a value. Immutable, so safe to share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

from .bounds import number
from .deadline import seconds
from .errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["HINT_SLACK_S", "Backoff", "come_again_s"]

HINT_SLACK_S = 5.0
"""How far a retry-after hint may stretch a delay, in seconds (as in the AWS SDKs' retry mode of 2026)."""

_COME_AGAIN_LEAST_S, _COME_AGAIN_MOST_S = 0.1, 30.0

_LARGEST_EXPONENT = 64  # beyond it every ceiling is the cap, and the power only grows toward overflow


def come_again_s(turn_s: float, *, least_s: float = _COME_AGAIN_LEAST_S) -> float:
    """What to tell a caller that is refused: the seconds after which to come again; pure.

    Bounded, because `turn_s` is an estimate from a mean. A caller that comes back at once finds nothing changed; and one that was
    told a time from the middle of an overload must not stay away for minutes after it.

    Args:
        turn_s: when it would be this caller's turn, in seconds.
        least_s: the least that is told, default 0.1 s. The most is 30 s.
    """
    return min(max(turn_s, least_s), _COME_AGAIN_MOST_S)


class _Backoff(NamedTuple):
    base: float | timedelta
    cap: float | timedelta
    factor: float


class Backoff(_Backoff):
    """Delays that grow with the number of failures.

    Attributes:
        base: ceiling of the first delay; seconds or `timedelta`, default 0.05 s, 0 or more.
        cap: the highest ceiling; seconds or `timedelta`, default 5 s, at least `base`.
        factor: growth from one ceiling to the next, default 2, at least 1.

    Raises:
        ConfigurationError: a value is outside its bounds.
    """

    __slots__ = ()

    def __new__(cls, base: float | timedelta = 0.05, cap: float | timedelta = 5.0, factor: float = 2.0) -> Self:
        """The delays, once the settings are checked."""
        base_s = seconds(base, name="Backoff.base")
        cap_s = seconds(cap, name="Backoff.cap")
        if cap_s < base_s:
            raise ConfigurationError(f"Backoff.cap ({cap_s:g} s) must be at least Backoff.base ({base_s:g} s)")
        number(factor, "Backoff.factor", least=1)
        return super().__new__(cls, base, cap, factor)

    def ceiling_s(self, failures: int) -> float:
        """The longest delay after the `failures`-th failure (1 or more), in seconds."""
        exponent = min(failures - 1, _LARGEST_EXPONENT)
        return min(seconds(self.cap), seconds(self.base) * self.factor**exponent)

    def delay_s(self, failures: int, draw: float, retry_after_s: float | None = None) -> float:
        """The delay after the `failures`-th failure.

        Args:
            failures: how many attempts have failed, 1 or more.
            draw: a number from [0, 1).
            retry_after_s: what the other side asked for, in seconds, or None. It can lengthen the delay by at most
                `HINT_SLACK_S` and never shortens it.

        Returns:
            Seconds, 0 or more.
        """
        delay_s = self.ceiling_s(failures) * draw
        if retry_after_s is None:
            return delay_s
        return max(delay_s, min(retry_after_s, delay_s + HINT_SLACK_S))
