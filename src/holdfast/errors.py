"""Every error Holdfast raises, drawn once.

    HoldfastError
    ├── ConfigurationError (ValueError)        a setting, address or argument that cannot work
    │   └── MissingExtra (ImportError)         the optional dependency is not installed
    ├── UsageError (RuntimeError)              the call is wrong where it stands
    │   └── ForeignTransaction                 inside a session that Holdfast did not open
    ├── DrillFailed (RuntimeError)             a drill broke off; it says nothing of what was drilled
    ├── NotCommitted                           certain: nothing was applied
    │   ├── Rejected                           refused here, before anything was sent
    │   │   ├── BreakerOpen
    │   │   ├── BulkheadFull
    │   │   ├── LoadShed
    │   │   ├── NoWriter                       no server takes writes, and enough callers wait for one
    │   │   └── RateLimited
    │   ├── DeadlineExceeded (TimeoutError)    the time was up
    │   ├── Contended                          lost against other transactions, too often
    │   ├── Unavailable                        no server took it
    │   ├── Overloaded                         the server is short of something that comes back
    │   ├── StorageExhausted                   the server is short of something that does not: call a person
    │   ├── InProgress                         the same key is still running elsewhere
    │   ├── KeyReused                          the same key with another payload
    │   ├── ResultNotSerializable              the result cannot be stored under its key
    │   └── StatementRejected                  the server refused the statement; it will again
    │       ├── DataRejected
    │       │   ├── Conflict                   a unique constraint, or a stale version
    │       │   ├── ForeignKeyViolation
    │       │   ├── CheckViolation
    │       │   └── InvalidData                null, too long, out of range, malformed
    │       ├── SchemaMismatch                 missing table or column
    │       └── AccessDenied                   login or privilege
    ├── OutcomeUnknown                         it may have been applied; the key settles it
    ├── NotLoaded                              it is committed; what was saved could not be loaded for the answer
    └── BlockTimedOut (TimeoutError)           a `within` block was cut; what it had finished stands

`NotCommitted` and `OutcomeUnknown` are two of the three answers an operation has; the third is a plain return.
Every error pickles, names the cure in its text, and never holds a parameter, a key or a password in `str()` or `repr()`.
What happened on the way (attempts, time, the reason for stopping) rides along on any exception as a `Report`:
`report_of(error)`.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from .forks import ProcessLock
from .outcome import Failure, FailureClass, Outcome, Rejection

__all__ = [
    "REPORTS",
    "AccessDenied",
    "BlockTimedOut",
    "BreakerOpen",
    "BulkheadFull",
    "CheckViolation",
    "ConfigurationError",
    "Conflict",
    "Contended",
    "DataRejected",
    "DeadlineExceeded",
    "DrillFailed",
    "ForeignKeyViolation",
    "ForeignTransaction",
    "HoldfastError",
    "InProgress",
    "InvalidData",
    "KeyReused",
    "LoadShed",
    "MissingExtra",
    "NoWriter",
    "NotCommitted",
    "NotLoaded",
    "OutcomeUnknown",
    "Overloaded",
    "RateLimited",
    "Rejected",
    "Report",
    "ResultNotSerializable",
    "SchemaMismatch",
    "StatementRejected",
    "StorageExhausted",
    "Unavailable",
    "UsageError",
    "attach_report",
    "error_for",
    "report_of",
    "report_since",
    "unreachable",
]


class HoldfastError(Exception):
    """The root of the tree.

    Attributes:
        code: a stable word for this kind of error, the anchor of its section in `docs/errors.md`.
        outcome: what became of the operation, or None where there was none.
        retry_after_s: seconds after which another try may succeed, or None.
        failure: the classified cause, or None.
    """

    code: ClassVar[str] = "error"
    outcome: Outcome | None = None
    retry_after_s: float | None = None
    failure: Failure | None = None

    def __init__(
        self, message: str = "", *, retry_after_s: float | None = None, failure: Failure | None = None
    ) -> None:
        super().__init__(message)
        # Set only when given: the class holds the defaults, and pickling carries what stands in __dict__.
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s
        if failure is not None:
            self.failure = failure


class ConfigurationError(HoldfastError, ValueError):
    """A setting, address or argument that cannot work; raised where it is given, before anything runs."""

    code = "configuration"


class MissingExtra(ConfigurationError, ImportError):
    """An optional dependency is not installed; the text gives the command that installs it."""

    code = "missing-extra"


class UsageError(HoldfastError, RuntimeError):
    """The call is right in itself but wrong where it stands."""

    code = "usage"


class ForeignTransaction(UsageError):
    """A protected call inside a session or transaction that Holdfast did not open.

    Holdfast reruns the whole unit of work from BEGIN; it cannot rerun the half that the caller already did.
    """

    code = "foreign-transaction"


class DrillFailed(HoldfastError, RuntimeError):
    """A drill broke off: a client process went down by itself, or the database did not come to rest."""

    code = "drill-failed"


class NotCommitted(HoldfastError):
    """Certain: nothing of this operation was applied."""

    code = "not-committed"
    outcome = Outcome.NOT_COMMITTED


class Rejected(NotCommitted):
    """Refused here, before anything was sent, to keep the rest working."""

    code = "rejected"


class BreakerOpen(Rejected):
    """The circuit breaker is open: the server behind it failed too often lately."""

    code = "breaker-open"


class BulkheadFull(Rejected):
    """Every permit is taken and the queue is full, or the wait for one was too long."""

    code = "bulkhead-full"


class LoadShed(Rejected):
    """More calls are under way than the server bears; `retry_after_s` says when it may have time for this one."""

    code = "load-shed"


class NoWriter(Rejected):
    """No server takes writes now, and as many callers as may wait for one do already."""

    code = "no-writer"


class RateLimited(Rejected):
    """The rate limit is used up; `retry_after_s` says when the next call fits."""

    code = "rate-limited"


class DeadlineExceeded(NotCommitted, TimeoutError):
    """The deadline passed before COMMIT was sent."""

    code = "deadline-exceeded"


class Contended(NotCommitted):
    """The transaction lost against others at every attempt (deadlock, lock wait, serialization conflict)."""

    code = "contended"


class Unavailable(NotCommitted):
    """No server took the operation: refused, lost before COMMIT, or not writable."""

    code = "unavailable"


class Overloaded(NotCommitted):
    """The server has too much to do; come back later."""

    code = "overloaded"


class StorageExhausted(NotCommitted):
    """The server ran out of space. Retrying does not help; a person must."""

    code = "storage-exhausted"


class InProgress(NotCommitted):
    """Another caller is still running the operation with this key; its result can be asked for later."""

    code = "in-progress"


class KeyReused(NotCommitted):
    """The key already belongs to an operation with another payload."""

    code = "key-reused"


class ResultNotSerializable(NotCommitted):
    """The operation's result cannot be stored under its key, so a replay could not return it; rolled back."""

    code = "result-not-serializable"


class StatementRejected(NotCommitted):
    """The server refused a statement, and will refuse it again.

    Attributes:
        rejection: the kind, as a `Rejection`.
        constraint, table, columns: what the server named; never a value.
    """

    code = "statement-rejected"

    @property
    def rejection(self) -> Rejection:
        """The kind of refusal."""
        return (self.failure.rejection if self.failure else None) or Rejection.OTHER

    @property
    def constraint(self) -> str | None:
        """The constraint or index the server named, or None."""
        return self.failure.constraint if self.failure else None

    @property
    def table(self) -> str | None:
        """The table the server named, or None."""
        return self.failure.table if self.failure else None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns the server named, possibly none."""
        return self.failure.columns if self.failure else ()


class DataRejected(StatementRejected):
    """The data breaks a rule of the schema."""

    code = "data-rejected"


class Conflict(DataRejected):
    """A unique constraint: the row exists already. Or a version column: the row was changed after the object was loaded."""

    code = "conflict"


class ForeignKeyViolation(DataRejected):
    """A foreign key: the row it points to is missing, or rows still point to it."""

    code = "foreign-key"


class CheckViolation(DataRejected):
    """A CHECK or exclusion constraint."""

    code = "check"


class InvalidData(DataRejected):
    """A value is null where it must not be, too long, out of range or malformed."""

    code = "invalid-data"


class SchemaMismatch(StatementRejected):
    """A table or column is missing; `db.migrate(metadata)` adds what a model has and the database lacks."""

    code = "schema-mismatch"


class AccessDenied(StatementRejected):
    """The login failed or the user lacks a privilege."""

    code = "access-denied"


class OutcomeUnknown(HoldfastError):
    """The operation may or may not have been applied, and the deadline forbade finding out.

    Running it again with the same key is safe and settles it; so does asking `db.outcome_of(error)`, also where the key was
    an automatic one. `operation_scope` and `operation_key` hold the key, or None where there was none;
    it stands in no text.
    """

    code = "outcome-unknown"
    outcome = Outcome.UNKNOWN
    operation_scope: str | None = None
    operation_key: str | None = None


class NotLoaded(HoldfastError):
    """A keyed save was asked for again: it is committed, but what was saved could not be loaded. Ask again with the same key."""

    code = "not-loaded"
    outcome = Outcome.COMMITTED


class BlockTimedOut(HoldfastError, TimeoutError):
    """An `async with within(...)` block did not end in time and was cancelled.

    Operations that had ended inside it stand. A Holdfast operation that was under way was not committed (if that is not
    certain, `OutcomeUnknown` is raised instead), unless only its after-commit hooks were cut: then `outcome` is `COMMITTED`.
    What a plain call was doing may or may not have been done.
    """

    code = "block-timed-out"


_BY_CLASS: dict[FailureClass, type[HoldfastError]] = {
    FailureClass.CONTENTION: Contended,
    FailureClass.UNSENT: Unavailable,
    FailureClass.LOST: Unavailable,
    FailureClass.ROLE_CHANGED: Unavailable,
    FailureClass.OVERLOAD: Overloaded,
    FailureClass.EXHAUSTED: StorageExhausted,
    FailureClass.AMBIGUOUS: OutcomeUnknown,
    FailureClass.CANCELLED: DeadlineExceeded,
    FailureClass.PERMANENT: StatementRejected,
}

_BY_REJECTION: dict[Rejection, type[StatementRejected]] = {
    Rejection.DUPLICATE: Conflict,
    Rejection.STALE: Conflict,
    Rejection.FOREIGN_KEY: ForeignKeyViolation,
    Rejection.CHECK: CheckViolation,
    Rejection.NOT_NULL: InvalidData,
    Rejection.TOO_LONG: InvalidData,
    Rejection.OUT_OF_RANGE: InvalidData,
    Rejection.INVALID_VALUE: InvalidData,
    Rejection.TOO_LARGE: InvalidData,
    Rejection.MISSING_TABLE: SchemaMismatch,
    Rejection.MISSING_COLUMN: SchemaMismatch,
    Rejection.MISSING_DATABASE: SchemaMismatch,
    Rejection.ACCESS_DENIED: AccessDenied,
    Rejection.WRONG_LOGIN: AccessDenied,
}

_CURES: dict[Rejection, str] = {
    Rejection.DUPLICATE: "a row with this value exists already",
    Rejection.STALE: "the row was changed after the object was loaded; load it again",
    Rejection.FOREIGN_KEY: "the row it refers to is missing, or other rows still refer to it",
    Rejection.CHECK: "the values break a CHECK constraint",
    Rejection.NOT_NULL: "a value is missing where the column needs one",
    Rejection.TOO_LONG: "a value is longer than its column",
    Rejection.OUT_OF_RANGE: "a number is outside the range of its column",
    Rejection.INVALID_VALUE: "a value does not fit the type of its column",
    Rejection.TOO_LARGE: "the statement is larger than the server accepts",
    Rejection.MISSING_TABLE: "the table does not exist; create it, for instance with db.migrate(metadata)",
    Rejection.MISSING_COLUMN: "the column does not exist; add it, for instance with db.migrate(metadata)",
    Rejection.MISSING_DATABASE: "the database does not exist; create it, or correct the name in the URL",
    Rejection.ACCESS_DENIED: "the database user lacks a privilege; grant it",
    Rejection.WRONG_LOGIN: "the server refused the login; check user name and password",
    Rejection.SYNTAX: "the server does not understand the statement",
    Rejection.OTHER: "the server refuses the statement and will again",
}

_ADVICE: dict[FailureClass, str] = {
    FailureClass.CONTENTION: "lost against other transactions at every attempt; nothing was applied",
    FailureClass.UNSENT: "the server could not be reached; nothing was applied",
    FailureClass.LOST: "the connection was lost before COMMIT; nothing was applied",
    FailureClass.ROLE_CHANGED: "the server does not accept writes; nothing was applied",
    FailureClass.OVERLOAD: "the server is overloaded; nothing was applied, come back later",
    FailureClass.EXHAUSTED: "the server ran out of space; nothing was applied, and retrying will not help",
    FailureClass.AMBIGUOUS: (
        "the connection failed while COMMIT was under way and the time was too short to find out; "
        "run it again with the same key to settle it"
    ),
    FailureClass.CANCELLED: "the deadline passed before COMMIT; nothing was applied",
}


_NO_DATABASE_FILE = "the file is no SQLite database, or an encrypted one; correct the path in the URL"
_NO_FILE = "the database file could not be opened; see that its folder exists and that this user may write there"
_NO_SERVER = "the server could not be reached; see that it runs, and that host and port in the URL are its own"


def unreachable(failure: Failure) -> str:
    """What to do about a server, or a file, that could not be reached; empty for every other failure."""
    if failure.server is None:
        return ""
    return _NO_FILE if failure.flavour == "sqlite" else _NO_SERVER


def _sentence_for(failure: Failure, rejection: Rejection | None) -> str:
    if rejection is Rejection.MISSING_DATABASE and failure.flavour == "sqlite":
        return _NO_DATABASE_FILE  # a file that is missing is made
    if rejection is not None:
        return _CURES[rejection]
    cure = unreachable(failure)
    return f"{cure}; nothing was applied" if cure else _ADVICE[failure.failure_class]


def error_for(failure: Failure, *, operation: str = "", advice: str = "") -> HoldfastError:
    """The typed error that tells a caller what `failure` means.

    Args:
        failure: the classified cause.
        operation: the operation's name, put in front of the text.
        advice: replaces the standard sentence.

    Returns:
        An instance of the class the tree assigns; its text holds names and numbers, never a value.
    """
    if failure.failure_class is FailureClass.PERMANENT:
        rejection = failure.rejection or Rejection.OTHER
        error_class: type[HoldfastError] = _BY_REJECTION.get(rejection, StatementRejected)
        sentence = advice or _sentence_for(failure, rejection)
        named = [f"constraint {failure.constraint}" if failure.constraint else ""]
        named.append(f"table {failure.table}" if failure.table else "")
        named.append(f"columns {', '.join(failure.columns)}" if failure.columns else "")
        details = ", ".join(part for part in named if part)
        if details:
            sentence = f"{sentence} ({details})"
    else:
        error_class = _BY_CLASS[failure.failure_class]
        sentence = advice or _sentence_for(failure, None)
    prefix = f"{operation}: " if operation else ""
    return error_class(f"{prefix}{sentence} [{failure}]", failure=failure, retry_after_s=failure.retry_after_s)


class Report(NamedTuple):
    """What happened on the way to an exception; attached to it by the layer that stopped trying.

    Attributes:
        operation: the name of the operation or function.
        attempts: how many attempts were begun.
        elapsed_s: seconds from the first attempt to the end.
        reason: why there was no further attempt, as a `decision.StopReason` value.
        outcome: what became of the work, or None for a plain function.
        explanation: the decision spelled out, one check a line.
        exhausted: True once a retry layer has used up its attempts: layers around it pass the error through.
    """

    operation: str
    attempts: int
    elapsed_s: float
    reason: str
    outcome: Outcome | None = None
    explanation: str = ""
    exhausted: bool = False


REPORTS = [0]
"""How many reports were attached in this process. Whoever keeps the number can tell later which ones came after it."""

_REPORT = "__holdfast_report__"
_NUMBER = "__holdfast_report_number__"

_numbering = ProcessLock()


class _Number(int):
    """A report's place among all that were attached here. One that comes from another process is attached on its arrival."""

    __slots__ = ()

    def __reduce__(self) -> tuple[object, ...]:
        return _next_number, ()


def _next_number() -> _Number:
    with _numbering:
        REPORTS[0] += 1
        return _Number(REPORTS[0])


def attach_report(error: BaseException, report: Report, *, since: int = 0) -> None:
    """Put `report` on `error`, unless it holds one that says exhausted. Errors without a `__dict__` go without.

    The layer that used up its attempts has the last word; the report of one that only let the error through is replaced.

    Args:
        error: the exception.
        report: what happened on the way to it.
        since: what `REPORTS[0]` was when the call began. An exception object may be raised again, by a mock or out of a cache: a
            report from before the call is about another one, and replaced.
    """
    attributes = getattr(error, "__dict__", None)
    if attributes is not None:
        known = attributes.get(_REPORT)
        if known is None or not known.exhausted or attributes.get(_NUMBER, 0) <= since:
            attributes[_REPORT] = report
            attributes[_NUMBER] = _next_number()


def report_of(error: BaseException) -> Report | None:
    """The report attached to `error` or to what caused it, or None."""
    return report_since(error, -1)


def report_since(error: BaseException, since: int) -> Report | None:
    """As `report_of`, but only a report that was attached after `REPORTS[0]` was `since`."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        attributes = getattr(current, "__dict__", {})
        report = attributes.get(_REPORT)
        if isinstance(report, Report) and attributes.get(_NUMBER, 0) > since:
            return report
        seen.add(id(current))
        current = current.__cause__
    return None
