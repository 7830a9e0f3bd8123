"""How a client's calls are made: what is tried again, what bounds it, what is sent along."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...backoff import Backoff
from ...breaker import CircuitBreaker
from ...budget import RetryBudget, default_budget
from ...deadline import seconds
from ...decision import Allowance, RetryPolicy
from ...errors import ConfigurationError
from ...outcome import FailureClass
from .failures import PATIENCE_MAX_S

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["OUTGOING", "CallRules"]

_BROKEN = Allowance(3, Backoff(base=0.05, cap=1.0))
_REFUSED = Allowance(3, Backoff(base=0.25, cap=2.0))
_IN_PROGRESS = Allowance(4, Backoff(base=0.1, cap=1.0))

OUTGOING = RetryPolicy(
    {
        FailureClass.UNSENT: _BROKEN,
        FailureClass.AMBIGUOUS: _BROKEN,
        FailureClass.OVERLOAD: _REFUSED,
        FailureClass.CONTENTION: _IN_PROGRESS,
    }
)
"""Three attempts at most against each kind of trouble (three a request: Site Reliability Engineering, "Handling Overload")."""

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRules:
    """The rules for the calls of one client. Immutable; may be shared by clients, threads and tasks.

    Attributes:
        policy: which failures are tried again, how often and at what pace; default `OUTGOING`. `RetryPolicy.never()`: none.
        budget: what retries and hedges may add to the load; default the process-wide budget, for a client on another clock a
            private one on that; None: no limit.
        breaker: makes the breaker of one host from its name (`host` or `host:port`); default a `CircuitBreaker` of that name with
            its defaults; None: no breakers.
        hosts_max: how many hosts have a breaker at once, default 256, at least 1. Beyond, the one that was not called for
            the longest time is forgotten, a closed one first.
        keyed: methods whose requests get an `Idempotency-Key` of their own unless they bring one, such as `("POST", "PATCH")`.
            Only for services that honour it: a request with a key is sent again after a timeout. Default none.
        timeout_header: in which the remaining time is sent, in whole milliseconds, default `X-Request-Timeout-Ms`; None: nowhere.
        margin: taken off what is sent, for the answer's way back; seconds or `timedelta`, default 20 ms. With no more than this
            left, nothing is sent.
        retry_after_max: the longest `Retry-After` to wait for, seconds or `timedelta`, default and bound 4 s. An answer that
            asks for more is given to the caller.
        send_context: whether `traceparent`, `tracestate` and `X-Request-Id` of the current request are sent on, default True.
            False for services of others.
        hedge_after: send a safe read once more if it has no answer after this long (its 95th percentile, say), and take the first
            answer; seconds or `timedelta`, more than 0. Default None: never. Async clients only.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    policy: RetryPolicy = OUTGOING
    budget: RetryBudget | None = field(default_factory=default_budget)
    breaker: Callable[[str], CircuitBreaker] | None = CircuitBreaker
    hosts_max: int = 256
    keyed: Collection[str] = ()
    timeout_header: str | None = "X-Request-Timeout-Ms"
    margin: float | timedelta = 0.02
    retry_after_max: float | timedelta = PATIENCE_MAX_S
    send_context: bool = True
    hedge_after: float | timedelta | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.hosts_max, int) or self.hosts_max < 1:
            raise ConfigurationError(f"CallRules.hosts_max must be a whole number, 1 or more, not {self.hosts_max!r}")
        if isinstance(self.keyed, str) or any(method != method.upper() for method in self.keyed):
            raise ConfigurationError('CallRules.keyed must be several methods in upper case, such as ("POST",)')
        if self.timeout_header is not None and not (self.timeout_header and _TOKEN.issuperset(self.timeout_header)):
            raise ConfigurationError("CallRules.timeout_header must be the name of a header, or None")
        seconds(self.margin, name="CallRules.margin")
        if seconds(self.retry_after_max, name="CallRules.retry_after_max") > PATIENCE_MAX_S:
            raise ConfigurationError(f"CallRules.retry_after_max must be at most {PATIENCE_MAX_S:g} s")
        if self.hedge_after is not None and seconds(self.hedge_after, name="CallRules.hedge_after") == 0:
            raise ConfigurationError("CallRules.hedge_after must be more than 0 s, or None")
