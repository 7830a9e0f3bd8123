"""From values to positions: linear and logarithmic scales, and ticks that a person can read. Pure.

The steps of 1, 2 and 5 times a power of ten are Heckbert's ("Nice numbers for graph labels", Graphics Gems, 1990).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Linear", "Logarithmic", "clock_label", "decades", "nice_ceiling", "nice_step", "nice_ticks", "time_ticks"]

_TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)


@dataclass(frozen=True, slots=True)
class Linear:
    """Values from `low` to `high` on positions from `start` to `end`; values outside are drawn at the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of `value`."""
        width = self.high - self.low
        share = (value - self.low) / width if width > 0 else 0.0
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Logarithmic:
    """As `Linear`, by the logarithm; `low` must be more than 0, and what is below it is drawn at the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of `value`."""
        inner = Linear(math.log10(self.low), math.log10(self.high), self.start, self.end)
        return inner(math.log10(max(value, self.low)))


def nice_step(span: float, count: int) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that cuts `span` (more than 0) into at most `count` parts."""
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    # The tolerance keeps 0.2 / 0.1, which is a little more than 2, from becoming 5.
    factor = next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return factor * power


def nice_ceiling(value: float, *, count: int = 4) -> float:
    """The first tick at or above `value`: where an axis that begins at 0 may end. At least 1 for 0 or less."""
    if value <= 0:
        return 1.0
    step = nice_step(value, count)
    return round(math.ceil(value / step - 1e-9) * step, 12)


def nice_ticks(high: float, *, count: int = 4) -> tuple[float, ...]:
    """Ticks from 0 to at most `high` (more than 0): at most `count` steps of 1, 2 or 5 times a power of ten."""
    step = nice_step(high, count)
    return tuple(round(number * step, 12) for number in range(math.floor(high / step + 1e-9) + 1))


def decades(low: float, high: float) -> tuple[float, ...]:
    """The powers of ten from the one at or below `low` (more than 0) to the one at or above `high`; at least two."""
    first = math.floor(math.log10(low) + 1e-9)
    last = max(math.ceil(math.log10(high) - 1e-9), first + 1)
    return tuple(10.0**power for power in range(first, last + 1))


def time_ticks(length_s: float, *, count: int = 10) -> tuple[float, ...]:
    """Moments to mark on an axis of `length_s` seconds (0 or more): at most `count` steps of a length that clocks have."""
    fitting = (step for step in _TIME_STEPS_S if length_s / step <= count)
    step = next(fitting, math.ceil(length_s / count / 86400) * 86400)
    return tuple(float(number * step) for number in range(math.floor(length_s / step) + 1))


def clock_label(moment_s: float) -> str:
    """A moment as a clock of the run shows it: `0:05`, `12:30`, `1:02:03`."""
    minutes, seconds = divmod(round(moment_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
