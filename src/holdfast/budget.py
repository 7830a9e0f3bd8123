"""The retry budget: how much load retries may add, in all, whatever fails.

Every success puts a fraction of a token in, every retry takes tokens out, and a small floor keeps quiet services able to
retry at all. In an outage there are no successes, so the retries die down to the floor within one window instead of
multiplying the load (four attempts without a budget: 4.0 times; with this one: at most 1.1 times and the floor).

**The bound.** In any interval of `window` seconds that ends with a granted retry, tokens spent less tokens refunded are at most
`floor_per_s * window` plus `ratio` times the successes in that interval and the slot (a tenth of the window) before it.

The arithmetic is that of Finagle's `RetryBudget` and tower's `TpsBudget` with a floor of 1 a second instead of 10: a floor
is multiplied by the number of processes. The refund for a retry that succeeded is the AWS SDKs': a service in which
something always fails once, and then works, is not in an outage. A server that had too much to do is
(`outcome.FailureClass.budget_refund`).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .bounds import instance_of, number
from .clock import SYSTEM_CLOCK, Clock
from .deadline import seconds
from .errors import ConfigurationError
from .forks import after_fork
from .window import SlotWindow

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["BudgetOfOthers", "RetryBudget", "budget_on", "default_budget"]

_PER_TOKEN = 1_000_000  # counted in whole millionths: ten deposits of a tenth make exactly one token

_MOST = 1e12  # of each setting: far beyond any use, and what they come to can still be counted


class RetryBudget:
    """Tokens for retries, shared by all that should slow down together. Exact and safe in threads and tasks.

    Every method takes `now`, seconds on a monotonic clock; None reads the budget's own.

    Args:
        ratio: tokens per success, default 0.1 (retries add at most a tenth to the load); 0 or more.
        floor_per_s: tokens per second that need no success, default 1; 0 or more. All of `floor_per_s * window` can be
            spent at once.
        window: how long a success counts, seconds or `timedelta`, default 10 s; more than 0.
        clock: read when a method is not given `now`.
        name: what events and metrics call it.

    Raises:
        ConfigurationError: a value is outside its bounds.
    """

    __slots__ = ("__weakref__", "_clock", "_deposit", "_lock", "_reserve", "_window", "name")

    def __init__(
        self,
        ratio: float = 0.1,
        floor_per_s: float = 1.0,
        window: float | timedelta = 10.0,
        *,
        clock: Clock = SYSTEM_CLOCK,
        name: str = "",
    ) -> None:
        window_s = seconds(window, name="RetryBudget.window")
        if window_s <= 0:
            raise ConfigurationError("RetryBudget.window must be more than 0 s")
        number(ratio, "RetryBudget.ratio", least=0, most=_MOST)
        number(floor_per_s, "RetryBudget.floor_per_s", least=0, most=_MOST)
        if window_s > _MOST:
            raise ConfigurationError(f"RetryBudget.window must be at most {_MOST:g} s")
        self.name = instance_of(name, str, "RetryBudget.name")
        self._clock = clock
        self._deposit = round(ratio * _PER_TOKEN)
        self._reserve = round(floor_per_s * window_s * _PER_TOKEN)
        self._window = SlotWindow(window_s)  # ticks: successes; amounts: spent less refunded
        self._lock = threading.Lock()
        after_fork(self, RetryBudget._start_over)

    def _start_over(self) -> None:
        """In a forked child: another thread may just have been counting."""
        self._lock = threading.Lock()
        self._window.clear()

    def deposit(self, now: float | None = None) -> None:
        """Put in what one success earns. Takes no lock: it is on the path of every call that succeeds."""
        if now is None:
            now = self._clock.monotonic()
        window = self._window
        if now >= window.slot_ends:
            with self._lock:
                window.advance(now)
        window.tick()

    def try_spend(self, cost: float = 1.0, now: float | None = None) -> bool:
        """Take `cost` tokens (0 or more) if they are there; whether they were."""
        price = _price(cost)
        with self._lock:
            if self._tokens(now) < price:
                return False
            self._window.add(price)
            return True

    def refund(self, cost: float = 1.0, now: float | None = None) -> None:
        """Give `cost` tokens back, because the retry they paid for succeeded."""
        price = _price(cost)
        with self._lock:
            self._tokens(now)
            self._window.add(-price)

    def balance(self, now: float | None = None) -> float:
        """The tokens that could be spent."""
        with self._lock:
            return max(0, self._tokens(now)) / _PER_TOKEN

    def __repr__(self) -> str:
        return f"<RetryBudget {self.name!r}: {self.balance():.1f} tokens>"

    def _tokens(self, now: float | None) -> int:
        self._window.advance(self._clock.monotonic() if now is None else now)
        return self._reserve + self._deposit * self._window.ticks() - self._window.amount()


class BudgetOfOthers:
    """A budget in the hands of somebody on another clock, whose moments mean nothing to it: it reads its own clock."""

    __slots__ = ("_budget", "_window")

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget
        self._window = SlotWindow(1.0)  # never begun: who would tick by hand finds its slot over, and calls `deposit`

    def deposit(self, now: float | None = None) -> None:
        """Put in what one success earns."""
        del now
        self._budget.deposit()

    def try_spend(self, cost: float = 1.0, now: float | None = None) -> bool:
        """Take `cost` tokens if they are there; whether they were."""
        del now
        return self._budget.try_spend(cost)

    def refund(self, cost: float = 1.0, now: float | None = None) -> None:
        """Give `cost` tokens back."""
        del now
        self._budget.refund(cost)


def _price(cost: float) -> int:
    if not 0 <= cost < float("inf"):
        raise ConfigurationError(f"a cost must be a finite number of tokens, 0 or more, not {cost}")
    return round(cost * _PER_TOKEN)


_default = RetryBudget(name="default")


def default_budget() -> RetryBudget:
    """The process-wide budget, used by everything that was given neither another nor a clock of its own."""
    return _default


def budget_on(clock: Clock, budget: RetryBudget | None) -> RetryBudget | BudgetOfOthers | None:
    """`budget` for somebody who tells it the time by `clock`; for the process's budget on another clock: a new one on that.

    A moment of another clock would move the window to where nobody else is, for everybody who shares it.
    """
    if budget is None or budget._clock is clock:
        return budget
    return RetryBudget(clock=clock) if budget is _default else BudgetOfOthers(budget)
