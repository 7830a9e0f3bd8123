"""What happened, as frozen dataclasses. `stream` says how they reach a hook.

Events carry names, numbers and classes, never a parameter, a key or an exception's text.
"""

from __future__ import annotations

from dataclasses import dataclass

from .outcome import FailureClass, Outcome, Stage
from .stream import Event

__all__ = [
    "AttemptFailed",
    "BreakerChanged",
    "CallEnded",
    "CallRejected",
    "CallShed",
    "CommitResolved",
    "ConnectionDiscarded",
    "FailoverEnded",
    "FailoverStarted",
    "HookFailed",
    "KeysPurged",
    "LimitChanged",
    "LocalShareApplied",
    "OperationEnded",
    "PoolRetired",
    "RetryDenied",
    "RetryScheduled",
]


@dataclass(frozen=True, slots=True)
class _Event(Event):
    name: str


@dataclass(frozen=True, slots=True)
class AttemptFailed(_Event):
    """An attempt failed; what follows is told by the next event."""

    attempt: int
    failure_class: FailureClass
    stage: Stage | None = None
    code: int | str | None = None


@dataclass(frozen=True, slots=True)
class RetryScheduled(_Event):
    """Another attempt will begin in `delay_s` seconds."""

    attempt: int
    failure_class: FailureClass
    delay_s: float


@dataclass(frozen=True, slots=True)
class RetryDenied(_Event):
    """There will be no further attempt, although the failure could have been retried."""

    attempt: int
    failure_class: FailureClass
    reason: str


@dataclass(frozen=True, slots=True)
class CallEnded(_Event):
    """A retried function returned (`succeeded`), raised, or was cancelled or interrupted."""

    attempts: int
    elapsed_s: float
    succeeded: bool


@dataclass(frozen=True, slots=True)
class CallRejected(_Event):
    """A breaker, bulkhead or rate limiter (`policy`) refused a call."""

    policy: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class CallShed(_Event):
    """An adaptive limit that stood at `limit` refused a call; `dark`: it would have, but let it pass."""

    limit: int
    retry_after_s: float
    dark: bool


@dataclass(frozen=True, slots=True)
class LimitChanged(_Event):
    """An adaptive limit went from one number of calls to another."""

    old: int
    new: int


@dataclass(frozen=True, slots=True)
class BreakerChanged(_Event):
    """A circuit breaker went from one state to another."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class OperationEnded(_Event):
    """An operation has its answer. `replayed`: the stored result was returned and the body did not run."""

    outcome: Outcome
    attempts: int
    elapsed_s: float
    replayed: bool = False
    failure_class: FailureClass | None = None


@dataclass(frozen=True, slots=True)
class CommitResolved(_Event):
    """An ambiguous commit was found out (or, with `UNKNOWN`, the deadline came first)."""

    outcome: Outcome
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class ConnectionDiscarded(_Event):
    """A connection was closed instead of pooled; `killed`: its work on the server was ended as well."""

    reason: str
    killed: bool


@dataclass(frozen=True, slots=True)
class PoolRetired(_Event):
    """Every pooled connection of an endpoint was retired."""

    failure_class: FailureClass


@dataclass(frozen=True, slots=True)
class FailoverStarted(_Event):
    """No server takes writes: operations wait at the failover gate from now on."""


@dataclass(frozen=True, slots=True)
class FailoverEnded(_Event):
    """A server that takes writes was proven after `elapsed_s`; `moved`: it is another one. `waiting` operations go on."""

    moved: bool
    waiting: int
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class HookFailed(_Event):
    """An after-commit hook raised, was cut by a cancellation, or was left out after one that was; the save stands."""

    hook: str
    error: str


@dataclass(frozen=True, slots=True)
class KeysPurged(_Event):
    """Expired key rows were removed."""

    rows: int


@dataclass(frozen=True, slots=True)
class LocalShareApplied(_Event):
    """A limit that processes share could not be asked (`reason`), and this process decided by its own share of it."""

    reason: str
