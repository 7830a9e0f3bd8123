"""Saves that hold: policies for calls that can fail, and database writes that are applied exactly once.

Importing this package loads the standard library alone. What needs more stands under `holdfast.ext`. The policies that not
every program uses are loaded when they are first named, which halves what an import costs beyond the standard library's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .backoff import Backoff
from .budget import RetryBudget, default_budget
from .deadline import Deadline, current_deadline, within
from .errors import (
    BlockTimedOut,
    BreakerOpen,
    BulkheadFull,
    ConfigurationError,
    DeadlineExceeded,
    HoldfastError,
    LoadShed,
    NotCommitted,
    OutcomeUnknown,
    RateLimited,
    Rejected,
    Report,
    UsageError,
    report_of,
)
from .outcome import Failure, FailureClass, Outcome
from .retry import retry
from .stream import Event, subscribe

if TYPE_CHECKING:
    from .adaptive import AdaptiveLimit
    from .breaker import BreakerState, CircuitBreaker
    from .bulkhead import Bulkhead
    from .gather import together
    from .pipeline import Pipeline
    from .ratelimit import RateLimiter

__all__ = [
    "AdaptiveLimit",
    "Backoff",
    "BlockTimedOut",
    "BreakerOpen",
    "BreakerState",
    "Bulkhead",
    "BulkheadFull",
    "CircuitBreaker",
    "ConfigurationError",
    "Deadline",
    "DeadlineExceeded",
    "Event",
    "Failure",
    "FailureClass",
    "HoldfastError",
    "LoadShed",
    "NotCommitted",
    "Outcome",
    "OutcomeUnknown",
    "Pipeline",
    "RateLimited",
    "RateLimiter",
    "Rejected",
    "Report",
    "RetryBudget",
    "UsageError",
    "current_deadline",
    "default_budget",
    "report_of",
    "retry",
    "subscribe",
    "together",
    "within",
]

_LOADED_WHEN_NAMED = {
    "AdaptiveLimit": ".adaptive",
    "BreakerState": ".breaker",
    "Bulkhead": ".bulkhead",
    "CircuitBreaker": ".breaker",
    "Pipeline": ".pipeline",
    "RateLimiter": ".ratelimit",
    "together": ".gather",
}


def __getattr__(name: str) -> Any:
    module = _LOADED_WHEN_NAMED.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module, __name__), name)
    globals()[name] = value  # found without this function from now on
    return value
