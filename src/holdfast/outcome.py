"""The words every other file speaks: what failed, where, what became of the work, and what to do next.

Nothing here decides. `dialects` says which `FailureClass` an error belongs to, `decision` what follows from it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Failure", "FailureClass", "Outcome", "Rejection", "Stage", "Verdict"]


class FailureClass(StrEnum):
    """What a failure means for the work it interrupted. Every decision is keyed on it."""

    CONTENTION = "contention"
    """The server picked this transaction to lose (deadlock, lock wait, serialization). Not committed."""
    UNSENT = "unsent"
    """Nothing reached the server: refused, no connection free, server still starting. Not committed."""
    LOST = "lost"
    """The connection broke before COMMIT was sent: the server rolls back. Not committed."""
    AMBIGUOUS = "ambiguous"
    """The work may or may not have been applied. Must be resolved before anything is rerun or reported."""
    ROLE_CHANGED = "role_changed"
    """The server no longer accepts writes: find the new writer. Not committed."""
    OVERLOAD = "overload"
    """The server ran out of something that comes back by itself. Not committed; back off slowly."""
    EXHAUSTED = "exhausted"
    """The server ran out of something that does not come back by itself (disk). Not committed; alert a person."""
    PERMANENT = "permanent"
    """The same call will fail the same way again. Not committed."""
    CANCELLED = "cancelled"
    """The caller or its deadline stopped the work. What became of it depends on the stage."""

    @property
    def counts_for_breaker(self) -> bool:
        """Whether a breaker counts it as a failure of the server (contention and bad data are not)."""
        return self in _SERVER_TROUBLE

    @property
    def budget_cost(self) -> float:
        """Tokens one retry takes from the retry budget.

        Contention is free: the server is up and answering, the loser only has to come again, and attempts and backoff
        already bound it. Everything that a struggling server produces costs one token.
        """
        return 0.0 if self is FailureClass.CONTENTION else 1.0

    @property
    def budget_refund(self) -> float:
        """Tokens that one retry gives back if it succeeds.

        All that it took, unless the server had too much to do: then a retry was load that it could have done without, and more
        of it is no better for having been served.
        """
        return 0.0 if self in _TOO_MUCH_TO_DO else self.budget_cost


_TOO_MUCH_TO_DO = frozenset({FailureClass.OVERLOAD, FailureClass.EXHAUSTED})

_SERVER_TROUBLE = _TOO_MUCH_TO_DO | {FailureClass.UNSENT, FailureClass.LOST, FailureClass.AMBIGUOUS}


class Stage(StrEnum):
    """Where in an attempt a failure happened."""

    CONNECT = "connect"
    """Getting a connection, from the pool or the server. Nothing was sent."""
    BEGIN = "begin"
    """Opening the transaction."""
    BODY = "body"
    """Any statement between BEGIN and COMMIT."""
    COMMIT = "commit"
    """COMMIT was handed to the driver: from here on only the server knows."""


class Outcome(StrEnum):
    """What became of an operation. There is no fourth answer."""

    COMMITTED = "committed"
    NOT_COMMITTED = "not_committed"
    UNKNOWN = "unknown"


class Verdict(StrEnum):
    """What to do after a failure."""

    RETRY = "retry"
    RESOLVE = "resolve"
    GIVE_UP = "give_up"


class Rejection(StrEnum):
    """Why a server refuses a statement for good: the kind of a `PERMANENT` failure. `STALE` only `save` says."""

    DUPLICATE = "duplicate"
    STALE = "stale"
    FOREIGN_KEY = "foreign_key"
    CHECK = "check"
    NOT_NULL = "not_null"
    TOO_LONG = "too_long"
    OUT_OF_RANGE = "out_of_range"
    INVALID_VALUE = "invalid_value"
    TOO_LARGE = "too_large"
    MISSING_TABLE = "missing_table"
    MISSING_COLUMN = "missing_column"
    MISSING_DATABASE = "missing_database"
    ACCESS_DENIED = "access_denied"
    WRONG_LOGIN = "wrong_login"
    SYNTAX = "syntax"
    OTHER = "other"


class Failure(NamedTuple):
    """One classified error: everything a decision or a report may know about it, and nothing secret.

    Attributes:
        failure_class: what it means.
        stage: where it happened.
        flavour: `mysql`, `mariadb`, `postgresql`, `sqlite`, or None for an error that no server raised.
        code: the server's or driver's own number or SQLSTATE, or None.
        name: the symbolic name of that code, or the exception's class name.
        connection_usable: whether the connection's protocol state is known. False: close it, never pool it.
        retry_after_s: a hint by the other side, in seconds, or None.
        rejection: for `PERMANENT`: why; otherwise None.
        constraint, table, columns: what the server named, never a value.
        server_in_doubt: whether the server itself may be gone, so that it is asked for a sign of life before anything else.
        server: the server or file that could not be reached: host and port, or a path. None for every other failure.
    """

    failure_class: FailureClass
    stage: Stage
    flavour: str | None = None
    code: int | str | None = None
    name: str = ""
    connection_usable: bool = True
    retry_after_s: float | None = None
    rejection: Rejection | None = None
    constraint: str | None = None
    table: str | None = None
    columns: tuple[str, ...] = ()
    server_in_doubt: bool = False
    server: str | None = None

    def __str__(self) -> str:
        where = f"{self.flavour} " if self.flavour else ""
        which = f"{self.code} {self.name}".strip() if self.code is not None else self.name
        to = f" to {self.server}" if self.server is not None else ""
        return f"{self.failure_class} at {self.stage}{to}: {where}{which}".rstrip(": ")
