"""Saves that hold: policies for calls that can fail, and database writes that are applied exactly once.

Importing this package loads the standard library alone. What needs more stands under `holdfast.ext`.
"""

from __future__ import annotations

from .backoff import Backoff
from .breaker import BreakerState, CircuitBreaker
from .budget import RetryBudget, default_budget
from .bulkhead import Bulkhead
from .deadline import Deadline, current_deadline, within
from .errors import (
    BlockTimedOut,
    BreakerOpen,
    BulkheadFull,
    ConfigurationError,
    DeadlineExceeded,
    HoldfastError,
    NotCommitted,
    OutcomeUnknown,
    RateLimited,
    Rejected,
    Report,
    UsageError,
    report_of,
)
from .events import Event, subscribe
from .outcome import Failure, FailureClass, Outcome
from .pipeline import Pipeline
from .ratelimit import RateLimiter
from .retry import retry

__all__ = [
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
    "within",
]
