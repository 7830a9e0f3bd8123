"""How sure one may be of a share, and what most values do not exceed.

What was not seen in n trials may still happen: with 95 % certainty at most 3 times in n (the rule of three: Hanley and
Lippman-Hand, JAMA 1983). For what was seen, the exact bound of Clopper and Pearson (Biometrika 1934).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["percentile", "upper_bound"]


def upper_bound(events: int, trials: int, confidence: float = 0.95) -> float:
    """The largest share that could still have shown so few events.

    Args:
        events: how many were seen, from 0 to `trials`.
        trials: in how many, at least 1.
        confidence: one-sided, between 0 and 1, default 0.95.

    Returns:
        For no event and 95 %, three in `trials` (at most 1); else the upper bound of Clopper and Pearson.

    Raises:
        ValueError: an argument is outside its bounds.
    """
    if trials < 1 or not 0 <= events <= trials or not 0 < confidence < 1:
        raise ValueError("events must be from 0 to trials, trials at least 1, confidence between 0 and 1")
    if events == trials:
        return 1.0
    if events == 0 and confidence == 0.95:
        return min(1.0, 3.0 / trials)
    low, high = events / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(events, trials, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(events: int, trials: int, share: float) -> float:
    """The probability of at most `events` in `trials`, each with the probability `share`."""
    if share >= 1.0:
        return 0.0
    log_share, log_rest = math.log(share), math.log1p(-share)
    log_choose = math.lgamma(trials + 1)
    return math.fsum(
        math.exp(
            log_choose - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * log_share + (trials - k) * log_rest
        )
        for k in range(events + 1)
    )


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of `values` that at least `percent` % of them do not exceed (nearest rank).

    Raises:
        ValueError: there is no value, or `percent` is not from 0 to 100.
    """
    ordered = sorted(values)
    if not ordered or not 0 <= percent <= 100:
        raise ValueError("a percentile needs a value, and is from 0 to 100")
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
