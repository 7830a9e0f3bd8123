"""The settings of a database's pool and sessions, and what each flavour is told for them when a connection is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...bounds import whole_number
from ...deadline import seconds
from ...dialects import Flavour
from ...errors import ConfigurationError
from .isolation import check_isolation, level_of
from .pushdown import DEADLINE_MAX_S, limits_for

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["PoolSettings", "SessionSettings", "client_check", "login_settings", "pragmas", "session_statement"]

_STRICT = "STRICT_ALL_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
_IDLE_BEYOND_RECYCLE_S = 60.0
_CLIENT_CHECK_S = 1


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How many connections there are, and how long one lives.

    Attributes:
        size: connections kept open while idle; 1 or more. Where more callers than this are busy all the time, raise it:
            connections beyond it are opened and closed with every use.
        open_max: connections open at once; at least `size`. Further callers wait, as long as what is then left of their
            deadline would do for the work (three times as long as connections are in use on average, but no more than half of the
            time they had), and get a `BulkheadFull` that says when to come again.
        ping_after: seconds (or `timedelta`) a connection may have been idle before it is asked for a sign of life on its way
            out of the pool, one round trip; 0: always, None: never. 0.5 s as in HikariCP (`aliveBypassWindowMs`): a busy pool
            pays nothing, and a connection that died unused costs no attempt.
        recycle: seconds (or `timedelta`) after which a connection is replaced, so that load finds a server that has come
            (back); None: never.
        connect_timeout: seconds (or `timedelta`) for opening a connection; less where the caller's deadline is nearer.
            3 s hold two retransmissions of a lost SYN (after 1 and 3 s). Drivers that count whole seconds round up (psycopg:
            2 s at least).

    Raises:
        ConfigurationError: a value outside these bounds.
    """

    size: int = 10
    open_max: int = 100
    ping_after: float | timedelta | None = 0.5
    recycle: float | timedelta | None = 300.0
    connect_timeout: float | timedelta = 3.0

    def __post_init__(self) -> None:
        whole_number(self.size, "size", 1)
        whole_number(self.open_max, "open_max", 1)
        if self.open_max < self.size:
            raise ConfigurationError(
                f"open_max must be at least size ({self.size}), not {self.open_max}: raise open_max or lower size"
            )
        if self.ping_after is not None:
            seconds(self.ping_after, name="ping_after")
        if self.recycle is not None and seconds(self.recycle, name="recycle") <= 0:
            raise ConfigurationError("recycle must be more than 0 seconds; None keeps connections for good")
        if seconds(self.connect_timeout, name="connect_timeout") <= 0:
            raise ConfigurationError("connect_timeout must be more than 0 seconds")


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What every session is set up for.

    Attributes:
        isolation: `snapshot`, `serializable` or `read committed` (`isolation.ISOLATIONS` says what they promise).
        deadline: seconds (or `timedelta`) an operation has unless it brings its own; above 0, a day at most. The server's
            limits are made for it (`pushdown`).

    Raises:
        ConfigurationError: a value outside these bounds.
    """

    isolation: str = "snapshot"
    deadline: float | timedelta = 10.0

    def __post_init__(self) -> None:
        check_isolation(self.isolation)
        if not 0 < seconds(self.deadline, name="deadline") <= DEADLINE_MAX_S:
            raise ConfigurationError(
                f"deadline must be above 0 and at most {DEADLINE_MAX_S:g} seconds, not {self.deadline}"
            )

    @property
    def deadline_s(self) -> float:
        """The deadline in seconds."""
        return seconds(self.deadline)


def session_statement(
    flavour: Flavour, settings: SessionSettings, *, detect_conflicts: bool, recycle_s: float | None
) -> str:
    """The one statement that sets up a session of MySQL or MariaDB.

    Args:
        flavour: which of the two.
        settings: what for.
        detect_conflicts: whether the server knows `innodb_snapshot_isolation` (MariaDB 10.6.18, 10.11.8, 11.4.2 and later).
        recycle_s: when the pool replaces a connection. MySQL cannot end a silent transaction, only a silent session
            (`wait_timeout`, 8 hours), so it is told to end one that the pool would not use again.
    """
    level = level_of(flavour, settings.isolation).replace(" ", "-")
    assignments = {
        "tx_isolation" if flavour is Flavour.MARIADB else "transaction_isolation": f"'{level}'",
        # Added to the server's own modes: replacing them could take away what the application relies on.
        "sql_mode": f"CONCAT_WS(',', NULLIF(@@SESSION.sql_mode, ''), '{_STRICT}')",
        "time_zone": "'+00:00'",
        **limits_for(flavour, settings.deadline_s),
    }
    if flavour is Flavour.MARIADB:
        if detect_conflicts:
            assignments["innodb_snapshot_isolation"] = "ON"
    elif recycle_s is not None:
        assignments["wait_timeout"] = str(max(1, round(recycle_s + settings.deadline_s + _IDLE_BEYOND_RECYCLE_S)))
    return "SET " + ", ".join(f"SESSION {name}={value}" for name, value in assignments.items())


def login_settings(settings: SessionSettings) -> dict[str, str]:
    """What PostgreSQL is told while logging in, which costs no round trip."""
    limits = {name: value.strip("'") for name, value in limits_for(Flavour.POSTGRESQL, settings.deadline_s).items()}
    level = level_of(Flavour.POSTGRESQL, settings.isolation).lower()
    return {"default_transaction_isolation": level, "TimeZone": "UTC", **limits}


def client_check(version: tuple[int | str, ...]) -> str | None:
    """Has PostgreSQL look once a second, while a statement runs, whether its client is still there; from version 14 on.

    Without, a session whose client is gone goes on waiting for its lock until its limit, takes the lock, and counts against
    `max_connections`. It cannot come with the login: an older server would refuse that.
    """
    return f"SET client_connection_check_interval = '{_CLIENT_CHECK_S}s'" if version and int(version[0]) >= 14 else None


def pragmas() -> tuple[str, ...]:
    """What SQLite is told on a new connection; the wait for its lock comes with the driver's `timeout`.

    With WAL readers and the writer do not block each other. `synchronous=FULL` makes COMMIT wait for the disk: SQLite's
    documentation recommends NORMAL for WAL, but NORMAL may lose the last commits when the machine loses power, and what Holdfast
    acknowledged must not be lost.
    """
    return ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON")
