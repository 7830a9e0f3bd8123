"""The deadline, told to the server: how long its sessions wait for locks and let statements run.

Every session is set up for the database's default deadline when it connects, so an operation with that deadline costs no round
trip. One with a deadline that differs materially sends one statement more: on MySQL and MariaDB for the session (remembered,
and set back when an operation needs it), on PostgreSQL for its own transaction, on SQLite inside the process.

What the numbers mean, from a deadline of D seconds:

- **Waits for locks end 0.1 s before D**, so that the loser gets the server's own clean error, can still roll back, and keeps
  its connection. InnoDB counts in whole seconds from 1 up: D of 10 s gives 9, D below 2.1 s gives 1 (and the caller's own
  deadline then cuts first). Metadata locks (`lock_wait_timeout`), which default to a day and more, get the same.
- **Statements end 0.25 s after D.** The caller's side always ends them first (`watchdog`, a cancelled task); the server's limit
  is for a caller who has died or whose network has. It must not be shorter, because it holds for COMMIT as well: PostgreSQL
  answers a COMMIT whose wait for the standby it cut short with success. MySQL limits SELECT alone, so there it may end early.
- **A transaction whose caller stays silent is ended 1 s after D** (PostgreSQL, MariaDB), so that a lost client's locks go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...dialects import Flavour

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["DEADLINE_MAX_S", "LimitsSet", "PushDown", "limits_for", "push_down", "statement_for", "statements_for"]

LOCK_MARGIN_S = 0.1
STATEMENT_SLACK_S = 0.25
IDLE_SLACK_S = 1.0

DEADLINE_MAX_S = 86_400.0
"""No limit is set beyond a day; the servers count in 32-bit milliseconds."""

_TOO_LONG_FACTOR = 2.0
_BUSY_SLACK_S = 0.15
"""SQLite's wait for the file lock cannot be cut from outside (`sqlite3_interrupt` does not reach it), so it keeps closer."""


@dataclass(frozen=True, slots=True)
class PushDown:
    """A change of one session's limits.

    Attributes:
        statement: the SQL that makes it.
        limits_s: the deadline, in seconds, that the session is set up for afterwards.
    """

    statement: str
    limits_s: float


class LimitsSet:
    """What Holdfast knows of the limits of one session: the deadline they were made for, and the default to return to.

    Attributes:
        flavour: the server's.
        default_s: the database's default deadline, seconds.
        current_s: the deadline the session is set up for, seconds.
    """

    __slots__ = ("current_s", "default_s", "flavour")

    def __init__(self, flavour: Flavour, default_s: float) -> None:
        self.flavour = flavour
        self.default_s = default_s
        self.current_s = default_s


def limits_for(flavour: Flavour, deadline_s: float) -> dict[str, str]:
    """The server's settings, as SQL literals by name, that fit a deadline of `deadline_s` seconds."""
    deadline_s = min(max(deadline_s, 0.0), DEADLINE_MAX_S)
    lock_ms = max(1, round((deadline_s - LOCK_MARGIN_S) * 1000))
    statement_s = deadline_s + STATEMENT_SLACK_S
    idle_s = statement_s + IDLE_SLACK_S - STATEMENT_SLACK_S
    if flavour is Flavour.POSTGRESQL:
        return {
            "lock_timeout": f"'{lock_ms}ms'",
            "statement_timeout": f"'{round(statement_s * 1000)}ms'",
            "idle_in_transaction_session_timeout": f"'{round(idle_s * 1000)}ms'",
        }
    if flavour is Flavour.SQLITE:
        return {"busy_timeout": str(lock_ms)}
    lock_s = str(max(1, lock_ms // 1000))
    limits = {"innodb_lock_wait_timeout": lock_s, "lock_wait_timeout": lock_s}
    if flavour is Flavour.MARIADB:
        limits["max_statement_time"] = f"{statement_s:.3f}"
        limits["idle_transaction_timeout"] = str(math.ceil(idle_s))
    else:
        limits["max_execution_time"] = str(lock_ms)
    return limits


def statement_for(flavour: Flavour, deadline_s: float) -> str:
    """The one statement that sets the limits for `deadline_s` seconds (PostgreSQL: for the current transaction)."""
    limits = limits_for(flavour, deadline_s)
    if flavour is Flavour.POSTGRESQL:
        return "SELECT " + ", ".join(f"set_config('{name}', {value}, true)" for name, value in limits.items())
    if flavour is Flavour.SQLITE:
        return f"PRAGMA busy_timeout={limits['busy_timeout']}"
    return "SET " + ", ".join(f"SESSION {name}={value}" for name, value in limits.items())


def statements_for(flavour: Flavour, remaining_s: float, current_s: float, default_s: float) -> PushDown | None:
    """Whether a transaction with `remaining_s` seconds left needs other limits than its session has.

    Not while the session's are at most twice as long (the caller's side cuts first anyway) and not shorter than needed. So an
    operation that starts with the default deadline, or loses some of it to waiting and to earlier attempts, sends nothing.

    Args:
        flavour: the server's.
        remaining_s: seconds until the operation's deadline.
        current_s: the deadline the session is set up for.
        default_s: the database's default deadline; chosen over the exact value where it fits, so that sessions return to it.

    Returns:
        The change to make first, or None.
    """
    remaining_s = min(max(remaining_s, 0.0), DEADLINE_MAX_S)
    if _fits(flavour, remaining_s, current_s):
        return None
    limits_s = default_s if _fits(flavour, remaining_s, default_s) else remaining_s
    # SET LOCAL ends with its transaction, so PostgreSQL's sessions never leave the default.
    after_s = default_s if flavour is Flavour.POSTGRESQL else limits_s
    return PushDown(statement_for(flavour, limits_s), after_s)


def _fits(flavour: Flavour, remaining_s: float, limits_s: float) -> bool:
    if limits_s + STATEMENT_SLACK_S < remaining_s:
        return False
    if flavour is Flavour.SQLITE:
        return limits_s <= remaining_s + _BUSY_SLACK_S
    return limits_s <= remaining_s * _TOO_LONG_FACTOR


def push_down(connection: Connection, limits: LimitsSet, remaining_s: float) -> bool:
    """Give the transaction on `connection` the limits that fit `remaining_s` seconds.

    Call it after the transaction began and before its first statement. In a greenlet it serves asynchronous connections too.

    Args:
        connection: where to.
        limits: what is known of its session (`engines.session_of(connection).limits`).
        remaining_s: seconds until the operation's deadline.

    Returns:
        Whether a statement was sent (one round trip; none on SQLite).

    Raises:
        sqlalchemy.exc.DBAPIError: the statement failed; what the session's limits are is then unknown, discard it.
    """
    change = statements_for(limits.flavour, remaining_s, limits.current_s, limits.default_s)
    if change is None:
        return False
    connection.exec_driver_sql(change.statement)
    limits.current_s = change.limits_s
    return True
