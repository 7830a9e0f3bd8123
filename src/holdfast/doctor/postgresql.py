"""What is asked of PostgreSQL, and what its answers mean.

Sources: PostgreSQL's manual (Write Ahead Log, Client Connection Defaults, Replication); PgBouncer's for its pool modes.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..dialects import Flavour
from . import client
from .findings import Check, Evidence, Question, Severity, Symptom, Unseen, shown

__all__ = ["CHECKS", "questions"]

_SETTINGS = (
    "data_checksums",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "fsync",
    "full_page_writes",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "max_connections",
    "reserved_connections",
    "statement_timeout",
    "superuser_reserved_connections",
    "synchronous_commit",
    "synchronous_standby_names",
    "transaction_timeout",
    "wal_level",
)
_LEVELS = {"snapshot": "repeatable read", "serializable": "serializable", "read committed": "read committed"}

_NAME = "quote_ident(n.nspname) || '.' || quote_ident(c.relname)"
_PRIMARY_KEY = "SELECT 1 FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary"
_OF_USERS = (
    "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname NOT IN ('pg_catalog', "
    "'information_schema') AND left(n.nspname, 3) <> 'pg_' AND c.relkind IN ('r', 'p')"
)


def questions(_flavour: Flavour) -> tuple[Question, ...]:
    """What to ask a PostgreSQL server on a connection that Holdfast set up, each in a transaction of its own."""
    names = ", ".join(f"'{name}'" for name in _SETTINGS)
    return (
        Question("backend-before", "SELECT pg_backend_pid()"),
        Question("settings", f"SELECT name, setting, source FROM pg_settings WHERE name IN ({names})"),  # noqa: S608  # names of ours
        Question("recovery", "SELECT pg_is_in_recovery()"),
        Question(
            "limits",
            "SELECT 'role', r.rolconnlimit FROM pg_roles AS r WHERE r.rolname = current_user "
            "UNION ALL SELECT 'database', d.datconnlimit FROM pg_database AS d WHERE d.datname = current_database()",
        ),
        Question(
            "standbys",
            "SELECT pid, state, sync_state FROM pg_stat_replication",
            "GRANT pg_read_all_stats TO this role",
        ),
        Question(
            "keyless",
            f"SELECT {_NAME} {_OF_USERS} AND NOT c.relispartition AND NOT EXISTS ({_PRIMARY_KEY})",
        ),
        Question("unlogged", f"SELECT {_NAME} {_OF_USERS} AND c.relpersistence = 'u'"),
        Question("backend-after", "SELECT pg_backend_pid()"),
    )


def _seconds(seen: Evidence, name: str) -> float | None:
    milliseconds = seen.number("settings", name)
    return None if milliseconds is None else milliseconds / 1000


# -- durability ----------------------------------------------------------------------------------------------------------


def _fsync(seen: Evidence) -> Iterator[Symptom]:
    if seen.text("settings", "fsync") == "off":
        yield Symptom(
            Severity.ERROR,
            "fsync = off",
            "nothing is ever forced to the disk: a crash of the machine loses saves and may leave the database damaged",
            "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();",
        )


def _commit_wait(seen: Evidence) -> Iterator[Symptom]:
    value = seen.text("settings", "synchronous_commit")
    names = seen.text("settings", "synchronous_standby_names")
    if value == "off":
        reason = "COMMIT is answered before its log is on the disk: a crash loses the last saves"
    elif value == "local" and names:
        reason = "COMMIT does not wait for the synchronous standby: a failover loses the last saves"
    else:
        return
    yield Symptom(
        Severity.ERROR,
        f"synchronous_commit = {value}",
        reason,
        "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf(); and look for ALTER ROLE or ALTER DATABASE "
        "that set it",
    )


def _full_pages(seen: Evidence) -> Iterator[Symptom]:
    if seen.text("settings", "full_page_writes") == "off":
        yield Symptom(
            Severity.ERROR,
            "full_page_writes = off",
            "a page that was half written when the machine crashed cannot be repaired, and what it held is lost",
            "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf(); (leave it off only on a file system that writes "
            "pages atomically)",
        )


def _unlogged(seen: Evidence) -> Iterator[Symptom]:
    tables = [row[0] for row in seen.rows("unlogged")]
    if tables:
        yield Symptom(
            Severity.ERROR,
            f"unlogged tables: {shown(tables)}",
            "they are emptied after a crash, and standbys never have them",
            f"ALTER TABLE {min(tables)} SET LOGGED; and so for each",
        )


def _standbys(seen: Evidence) -> Iterator[Symptom]:
    names = seen.text("settings", "synchronous_standby_names")
    senders = seen.rows("standbys")
    if any(row[1] is None for row in senders):
        raise Unseen("standbys", "the state of standbys is shown to few")
    streaming = [row for row in senders if row[1] in ("streaming", "catchup")]
    if streaming and not names:
        yield Symptom(
            Severity.WARNING,
            f"{len(streaming)} standbys, none of them synchronous",
            "if a standby takes over after a crash, the last saves are still on the old primary alone",
            "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'; SELECT pg_reload_conf();",
        )
    elif names and not any(row[2] in ("sync", "quorum") for row in senders):
        yield Symptom(
            Severity.WARNING,
            "synchronous_standby_names is set, and no synchronous standby is connected",
            "every COMMIT waits for one until the deadline, and then nobody knows what became of it",
            "bring the standby back, or change synchronous_standby_names",
        )


def _wal_level(seen: Evidence) -> Iterator[Symptom]:
    if seen.text("settings", "wal_level") == "minimal":
        yield Symptom(
            Severity.NOTE,
            "wal_level = minimal",
            "neither a standby nor a backup to a point in time is possible: what the disk loses is lost",
            "ALTER SYSTEM SET wal_level = replica; and restart",
        )


def _checksums(seen: Evidence) -> Iterator[Symptom]:
    if seen.text("settings", "data_checksums") == "off":
        yield Symptom(
            Severity.NOTE,
            "data_checksums = off",
            "a disk that returns wrong data is not noticed",
            "stop the server, pg_checksums --enable, start it again",
        )


# -- correctness ---------------------------------------------------------------------------------------------------------


def _isolation(seen: Evidence) -> Iterator[Symptom]:
    wanted = _LEVELS[seen.client.isolation]
    level = seen.text("settings", "default_transaction_isolation")
    if level is not None and level != wanted:
        yield Symptom(
            Severity.ERROR,
            f"default_transaction_isolation of the session is {level}, asked for was {wanted}",
            "Holdfast set it with the login and something in between dropped it: updates may be lost without an error",
            "connect without the proxy, or have it keep session settings (PgBouncer: pool_mode = session, and no "
            "ignore_startup_parameters = options)",
        )
    elif seen.client.isolation == "read committed":
        yield Symptom(
            Severity.NOTE,
            "isolation 'read committed'",
            "whoever writes what it read before overwrites what others wrote in between: an update is lost, without any fault or "
            "error",
            "DatabaseSettings(isolation='snapshot'), db.lock or a version column",
        )


def _pooler(seen: Evidence) -> Iterator[Symptom]:
    before, after = seen.scalar("backend-before"), seen.scalar("backend-after")
    cure = "PgBouncer: pool_mode = session, and no ignore_startup_parameters = options; or connect to the server itself"
    if before != after:
        yield Symptom(
            Severity.ERROR,
            "one connection was served by two sessions of the server",
            "a proxy pools by transaction: settings and locks of a session go to whoever comes next, and a session that is to be "
            "ended may be somebody else's",
            cure,
        )
        return
    sources = {row[0]: row[2] for row in seen.rows("settings")}
    lost = [
        name for name in ("lock_timeout", "statement_timeout") if sources.get(name) not in ("client", "session", None)
    ]
    if lost:
        yield Symptom(
            Severity.WARNING,
            f"{' and '.join(lost)} are not what Holdfast set with the login",
            "a proxy dropped the login's options, so the deadline does not reach the server",
            cure,
        )


def _primary_keys(seen: Evidence) -> Iterator[Symptom]:
    tables = [row[0] for row in seen.rows("keyless")]
    if not tables:
        return
    logical = seen.text("settings", "wal_level") == "logical"
    yield Symptom(
        Severity.WARNING if logical else Severity.NOTE,
        f"tables without a primary key: {shown(tables)}",
        "with logical replication their UPDATE and DELETE fail"
        if logical
        else "their rows cannot be named to be changed once",
        f"ALTER TABLE {min(tables)} ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY; or name its own",
    )


# -- availability --------------------------------------------------------------------------------------------------------


def _writer(seen: Evidence) -> Iterator[Symptom]:
    if seen.scalar("recovery") in ("True", "t", "true"):
        yield Symptom(
            Severity.ERROR,
            "pg_is_in_recovery() is true",
            "this server is a standby and takes no writes",
            "point the URL at the primary, or promote this one: SELECT pg_promote();",
        )
    elif seen.text("settings", "default_transaction_read_only") == "on":
        yield Symptom(
            Severity.ERROR,
            "default_transaction_read_only = on",
            "every transaction is refused its first write",
            "ALTER SYSTEM SET default_transaction_read_only = off; SELECT pg_reload_conf(); and look for ALTER ROLE or ALTER "
            "DATABASE that set it",
        )


def _waits(seen: Evidence) -> Iterator[Symptom]:
    yield from client.lock_wait("lock_timeout", _seconds(seen, "lock_timeout"), seen.client)


def _statements(seen: Evidence) -> Iterator[Symptom]:
    yield from client.statement_limit("statement_timeout", _seconds(seen, "statement_timeout"), seen.client)
    longest = _seconds(seen, "transaction_timeout")
    if longest:  # from version 17; 0 is no limit, and Holdfast sets none
        yield from client.statement_limit("transaction_timeout", longest, seen.client)


def _silence(seen: Evidence) -> Iterator[Symptom]:
    name = "idle_in_transaction_session_timeout"
    yield from client.idle_limit(name, _seconds(seen, name), seen.client)


def _lifetime(seen: Evidence) -> Iterator[Symptom]:
    yield from client.session_lifetime("idle_session_timeout", _seconds(seen, "idle_session_timeout"), seen.client)


def _connections(seen: Evidence) -> Iterator[Symptom]:
    most = seen.number("settings", "max_connections")
    if most is not None:
        for name in ("superuser_reserved_connections", "reserved_connections"):
            most -= seen.number("settings", name) or 0
        yield from client.room_for_pools("max_connections", most, seen.client)
    for whose in ("role", "database"):
        yield from client.room_for_pools(f"CONNECTION LIMIT of the {whose}", seen.number("limits", whose), seen.client)


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

CHECKS: tuple[Check, ...] = (
    Check("fsync", "fsync", (_E,), _fsync),
    Check("commit-wait", "synchronous_commit", (_E,), _commit_wait),
    Check("torn-pages", "full_page_writes", (_E,), _full_pages),
    Check("unlogged-tables", "unlogged tables", (_E,), _unlogged),
    Check("standbys", "synchronous_standby_names, pg_stat_replication", (_W,), _standbys),
    Check("wal-level", "wal_level", (_N,), _wal_level),
    Check("checksums", "data_checksums", (_N,), _checksums),
    Check("isolation", "default_transaction_isolation of the session", (_E, _N), _isolation),
    Check("pooler", "signs of a proxy that pools transactions or drops settings", (_E, _W), _pooler),
    Check("primary-keys", "tables without a primary key", (_W, _N), _primary_keys),
    Check("writer", "pg_is_in_recovery(), default_transaction_read_only", (_E,), _writer),
    Check("lock-waits", "lock_timeout", (_W,), _waits),
    Check("statement-limit", "statement_timeout, transaction_timeout", (_W,), _statements),
    Check("silent-transactions", "idle_in_transaction_session_timeout", (_W,), _silence),
    Check("idle-connections", "idle_session_timeout", (_W,), _lifetime),
    Check("connections", "max_connections, connection limits of role and database", (_W,), _connections),
)
"""In the order in which they are shown."""
