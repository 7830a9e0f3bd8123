"""What is asked of MySQL and MariaDB, and what their answers mean. Galera's own checks stand in `galera`.

Sources: the vendors' manuals for what a setting means; what was measured stands in docs/servers.md and docs/unknown-commit.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..dialects import Flavour
from . import client
from .findings import Check, Evidence, Question, Severity, Symptom, Unseen, shown
from .galera import GLOBALS, SESSION, STATUS, is_galera

__all__ = ["CHECKS", "questions"]

_GLOBALS = (
    "autocommit",
    "binlog_format",
    "innodb_doublewrite",
    "innodb_flush_log_at_trx_commit",
    "innodb_force_recovery",
    "innodb_read_only",
    "innodb_rollback_on_timeout",
    "log_bin",
    "max_connections",
    "offline_mode",
    "read_only",
    "rpl_semi_sync_master_wait_point",
    "rpl_semi_sync_source_wait_point",
    "sql_mode",
    "super_read_only",
    "sync_binlog",
    *GLOBALS,
)
_SESSION = (
    "idle_transaction_timeout",
    "innodb_lock_wait_timeout",
    "innodb_snapshot_isolation",
    "lock_wait_timeout",
    "max_execution_time",
    "max_statement_time",
    "max_user_connections",
    "sql_mode",
    "transaction_isolation",
    "tx_isolation",
    "wait_timeout",
    *SESSION,
)
_STATUS = ("Rpl_semi_sync_master_status", "Rpl_semi_sync_source_status", *STATUS)

_ON = ("ON", "1", "YES", "TRUE")
_TRANSACTIONAL = frozenset({"innodb", "rocksdb", "tokudb", "ndb", "ndbcluster"})
_LEVELS = {"snapshot": "REPEATABLE-READ", "serializable": "SERIALIZABLE", "read committed": "READ-COMMITTED"}

_TABLES = "FROM information_schema.tables AS t WHERE t.table_schema = DATABASE() AND t.table_type = 'BASE TABLE'"
_PRIMARY_KEY = (
    "SELECT 1 FROM information_schema.statistics AS s "
    "WHERE s.table_schema = t.table_schema AND s.table_name = t.table_name AND s.index_name = 'PRIMARY'"
)
_EVERY_TABLE = "GRANT SELECT ON the database to this user, or ask as the owner of the tables"


def questions(flavour: Flavour) -> tuple[Question, ...]:
    """What to ask a server of `flavour`, MySQL or MariaDB, on a connection that Holdfast set up."""
    if flavour is Flavour.MARIADB:
        replicas = Question("replicas", "SHOW SLAVE HOSTS", "GRANT REPLICATION MASTER ADMIN ON *.* to this user")
    else:
        replicas = Question("replicas", "SHOW REPLICAS", "GRANT REPLICATION SLAVE ON *.* to this user")
    return (
        Question("globals", f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({_quoted(_GLOBALS)})"),
        Question("session", f"SHOW SESSION VARIABLES WHERE Variable_name IN ({_quoted(_SESSION)})"),
        Question("status", f"SHOW GLOBAL STATUS WHERE Variable_name IN ({_quoted(_STATUS)})"),
        Question("database", "SELECT DATABASE()"),
        Question("grants", "SHOW GRANTS", _EVERY_TABLE),
        Question("tables", f"SELECT t.table_name, t.engine {_TABLES}", _EVERY_TABLE),
        Question(
            "keyless",
            f"SELECT t.table_name {_TABLES} AND NOT EXISTS ({_PRIMARY_KEY})",
            _EVERY_TABLE,
        ),
        replicas,
    )


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _is_on(value: str | None) -> bool:
    return value is not None and value.upper() in _ON


# -- durability ----------------------------------------------------------------------------------------------------------


def _redo_log_flush(seen: Evidence) -> Iterator[Symptom]:
    value = seen.text("globals", "innodb_flush_log_at_trx_commit")
    if value in (None, "1"):
        return
    found = f"innodb_flush_log_at_trx_commit = {value}"
    cure = "SET GLOBAL innodb_flush_log_at_trx_commit = 1; and the same in the server's configuration file"
    if value == "0":
        reason = "COMMIT is answered before its log is written: a crash of the process loses up to a second of saves"
        if is_galera(seen):
            reason = (
                "COMMIT is answered before its log is written. When all nodes crashed at once a Galera cluster lost 794 of 7,513 "
                "acknowledged inserts with 0, none with 1"
            )
        yield Symptom(Severity.ERROR, found, reason, cure)
    elif is_galera(seen):
        reason = "the other nodes keep what one loses, but if all machines lose power at once, up to a second of saves is gone"
        yield Symptom(Severity.WARNING, found, reason, cure)
    else:
        reason = (
            "COMMIT is answered before its log is on the disk: a crash of the machine loses up to a second of saves"
        )
        yield Symptom(Severity.ERROR, found, reason, cure)


def _binlog_flush(seen: Evidence) -> Iterator[Symptom]:
    value = seen.text("globals", "sync_binlog")
    if _is_on(seen.text("globals", "log_bin")) and value not in (None, "1"):
        yield Symptom(
            Severity.ERROR,
            f"sync_binlog = {value} with log_bin = ON",
            "after a crash of the machine the server rolls back what is missing at the end of the binary log, though it was "
            "acknowledged, and replicas may have it",
            "SET GLOBAL sync_binlog = 1; and the same in the server's configuration file",
        )


def _doublewrite(seen: Evidence) -> Iterator[Symptom]:
    value = seen.text("globals", "innodb_doublewrite")
    if value is not None and value.upper() in ("OFF", "0", "FALSE", "DETECT_ONLY"):
        yield Symptom(
            Severity.ERROR,
            f"innodb_doublewrite = {value}",
            "a page that was half written when the machine crashed cannot be repaired, and what it held is lost",
            "innodb_doublewrite = ON in the server's configuration file, and restart (leave it OFF only on a file system that "
            "writes pages atomically)",
        )


def _force_recovery(seen: Evidence) -> Iterator[Symptom]:
    value = seen.number("globals", "innodb_force_recovery")
    if value:
        yield Symptom(
            Severity.ERROR,
            f"innodb_force_recovery = {value:g}",
            "the server runs in a mode for rescuing data: background work is off, writes are refused or not safe",
            "restore the data, then remove innodb_force_recovery from the configuration file and restart",
        )


def _replicas(seen: Evidence) -> Iterator[Symptom]:
    if not _is_on(seen.text("globals", "log_bin")) or is_galera(seen):
        return
    status = seen.text("status", "Rpl_semi_sync_source_status") or seen.text("status", "Rpl_semi_sync_master_status")
    if not _is_on(status):
        replicas = len(seen.rows("replicas"))
        if replicas:
            yield Symptom(
                Severity.WARNING,
                f"{replicas} replicas, semi-synchronous replication is off",
                "if a replica takes over after a crash, the last saves are still on the old primary alone",
                "turn on semi-synchronous replication with AFTER_SYNC, and fail over only to a replica that has everything",
            )
        return
    for name in ("rpl_semi_sync_source_wait_point", "rpl_semi_sync_master_wait_point"):
        value = seen.text("globals", name)
        if value is not None and value.upper() != "AFTER_SYNC":
            yield Symptom(
                Severity.WARNING,
                f"{name} = {value}",
                "others read what a crash can still take back: the primary commits before a replica has it",
                f"SET GLOBAL {name} = AFTER_SYNC; and the same in the server's configuration file",
            )


# -- correctness ---------------------------------------------------------------------------------------------------------


def _isolation(seen: Evidence) -> Iterator[Symptom]:
    wanted = _LEVELS[seen.client.isolation]
    level = seen.text("session", "transaction_isolation") or seen.text("session", "tx_isolation")
    if level is not None and level.upper() != wanted:
        yield Symptom(
            Severity.ERROR,
            f"the session's isolation is {level}, asked for was {wanted}",
            "Holdfast set it when it connected and something in between took it back: updates may be lost without an error",
            "connect without the proxy, or have it keep session settings",
        )
        return
    if seen.client.isolation == "read committed":
        yield _overwrites(
            Severity.NOTE,
            "isolation 'read committed'",
            "DatabaseSettings(isolation='serializable'), db.lock or a version column",
        )
    elif seen.client.isolation == "snapshot" and seen.flavour is Flavour.MYSQL:
        yield _overwrites(
            Severity.WARNING,
            "isolation 'snapshot' is REPEATABLE READ on MySQL, which has no snapshot isolation",
            "DatabaseSettings(isolation='serializable'), db.lock or a version column wherever a value is read, changed and "
            "written; then tell the doctor --isolation serializable",
        )


def _overwrites(severity: Severity, found: str, cure: str) -> Symptom:
    return Symptom(
        severity,
        found,
        "whoever writes what it read before overwrites what others wrote in between: an update is lost, without any fault or "
        "error",
        cure,
    )


def _snapshot_conflicts(seen: Evidence) -> Iterator[Symptom]:
    if seen.flavour is not Flavour.MARIADB or seen.client.isolation != "snapshot":
        return
    value = seen.text("session", "innodb_snapshot_isolation")
    if value is None:
        cure = "upgrade to 10.6.18, 10.11.8, 11.4.2 or later; until then serializable, db.lock or a version column"
        yield _overwrites(Severity.WARNING, "this MariaDB has no innodb_snapshot_isolation", cure)
    elif not _is_on(value):
        yield _overwrites(
            Severity.ERROR,
            "innodb_snapshot_isolation = OFF in the session, though Holdfast turned it on",
            "connect without the proxy that took it back, or SET GLOBAL innodb_snapshot_isolation = ON",
        )


def _strict_mode(seen: Evidence) -> Iterator[Symptom]:
    reason = "a value that does not fit is cut off or replaced, with a warning that nobody reads, and acknowledged"
    if not _is_strict(seen.text("session", "sql_mode")):
        yield Symptom(
            Severity.ERROR,
            "sql_mode of the session has neither STRICT_TRANS_TABLES nor STRICT_ALL_TABLES, though Holdfast added it",
            reason,
            "connect without the proxy that took it back, and add STRICT_TRANS_TABLES to sql_mode in the configuration file",
        )
    elif not _is_strict(seen.text("globals", "sql_mode")):
        yield Symptom(
            Severity.NOTE,
            "sql_mode of the server is not strict; Holdfast's sessions are",
            f"for programs that connect without Holdfast: {reason}",
            "SET GLOBAL sql_mode = CONCAT(@@GLOBAL.sql_mode, ',STRICT_TRANS_TABLES'); and the same in the configuration file",
        )


def _is_strict(modes: str | None) -> bool:
    return modes is None or not {"STRICT_TRANS_TABLES", "STRICT_ALL_TABLES"}.isdisjoint(modes.upper().split(","))


def _engines(seen: Evidence) -> Iterator[Symptom]:
    wrong = {row[0]: row[1] for row in seen.rows("tables") if row[1] and row[1].lower() not in _TRANSACTIONAL}
    if wrong:
        first = min(wrong)
        yield Symptom(
            Severity.ERROR,
            f"tables without transactions: {shown([f'{name} ({engine})' for name, engine in wrong.items()])}",
            "ROLLBACK does not take back what was written to them, so a rerun writes it twice",
            f"ALTER TABLE `{first}` ENGINE = InnoDB; and so for each",
        )
    _complete(seen)


def _primary_keys(seen: Evidence) -> Iterator[Symptom]:
    tables = [row[0] for row in seen.rows("keyless")]
    if tables:
        reason = (
            "replicas look for each changed row by reading the whole table; a row cannot be named to be changed once"
        )
        if is_galera(seen):
            reason = "Galera does not support DELETE on them, and their rows may stand in another order on each node"
        yield Symptom(
            Severity.ERROR if is_galera(seen) else Severity.WARNING,
            f"tables without a primary key: {shown(tables)}",
            reason,
            f"ALTER TABLE `{min(tables)}` ADD COLUMN id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY; or name its own",
        )
    _complete(seen)


def _complete(seen: Evidence) -> None:
    """Whether the user sees every table: only what it has a privilege on is listed, and the rest is missing without a word.

    Raises:
        Unseen: it may be that there are more.
    """
    database = seen.scalar("database") or ""
    for grant, *_ in seen.rows("grants"):
        match = re.match(r"GRANT (.{1,2000}?) ON (\S{1,200}) TO ", str(grant))
        if match is None or match[1] == "USAGE":
            continue
        place = match[2].replace("`", "").replace("\\_", "_")
        if place == "*.*" and re.search(r"\b(?:ALL PRIVILEGES|SELECT|INSERT|UPDATE|DELETE)\b", match[1]):
            return
        if place in (f"{database}.*", "%.*"):
            return
    raise Unseen("tables", "only tables this user has a privilege on are listed")


def _rollback_on_timeout(seen: Evidence) -> Iterator[Symptom]:
    value = seen.text("globals", "innodb_rollback_on_timeout")
    if value is not None and not _is_on(value):
        yield Symptom(
            Severity.NOTE,
            "innodb_rollback_on_timeout = OFF",
            "after error 1205 only one statement is undone. Holdfast rolls back and reruns the whole; a program beside it that "
            "goes on commits half",
            "nothing for Holdfast; innodb_rollback_on_timeout = ON in the configuration file protects the others",
        )


def _autocommit(seen: Evidence) -> Iterator[Symptom]:
    value = seen.text("globals", "autocommit")
    if value is not None and not _is_on(value):
        yield Symptom(
            Severity.NOTE,
            "autocommit = OFF for new sessions",
            "a console or script that only reads holds a transaction open, and with it locks and old row versions",
            "SET GLOBAL autocommit = ON; and the same in the server's configuration file",
        )


def _binlog_format(seen: Evidence) -> Iterator[Symptom]:
    value = (seen.text("globals", "binlog_format") or "").upper()
    if is_galera(seen) and value not in ("", "ROW"):
        yield Symptom(
            Severity.ERROR,
            f"binlog_format = {value}",
            "Galera supports ROW alone: with anything else nodes may end up with different data",
            "SET GLOBAL binlog_format = ROW; and the same in the configuration file of every node",
        )
    elif value == "STATEMENT" and _is_on(seen.text("globals", "log_bin")):
        yield Symptom(
            Severity.WARNING,
            "binlog_format = STATEMENT",
            "a statement may give another result on a replica, so a failover can change what was acknowledged",
            "SET GLOBAL binlog_format = ROW; and the same in the server's configuration file",
        )


# -- availability --------------------------------------------------------------------------------------------------------


def _writer(seen: Evidence) -> Iterator[Symptom]:
    names = ("read_only", "super_read_only", "innodb_read_only", "offline_mode")
    values = {name: seen.text("globals", name) for name in names}
    # MariaDB's read_only is also said to be NO_LOCK and NO_LOCK_NO_ADMIN since 12.0.
    on = [name for name, value in values.items() if value is not None and value.upper() not in ("OFF", "0", "FALSE")]
    if on:
        yield Symptom(
            Severity.ERROR,
            f"{' and '.join(on)} of this server is on",
            "it takes no writes (only those of administrators): it is a replica, or was made read-only for a switch of roles",
            f"point the URL at the writer, or SET GLOBAL {on[-1]} = OFF where this is it",
        )


def _waits(seen: Evidence) -> Iterator[Symptom]:
    for name in ("innodb_lock_wait_timeout", "lock_wait_timeout"):
        # 0 means not to wait at all here.
        yield from client.lock_wait(name, seen.number("session", name) or None, seen.client)


def _statements(seen: Evidence) -> Iterator[Symptom]:
    if seen.flavour is Flavour.MARIADB:
        yield from client.statement_limit(
            "max_statement_time", seen.number("session", "max_statement_time"), seen.client
        )
    elif seen.number("session", "max_execution_time") == 0:
        yield from client.statement_limit("max_execution_time", 0.0, seen.client)


def _silence(seen: Evidence) -> Iterator[Symptom]:
    if seen.flavour is Flavour.MARIADB:
        name = "idle_transaction_timeout"
        yield from client.idle_limit(name, seen.number("session", name), seen.client)


def _lifetime(seen: Evidence) -> Iterator[Symptom]:
    yield from client.session_lifetime("wait_timeout", seen.number("session", "wait_timeout"), seen.client)


def _connections(seen: Evidence) -> Iterator[Symptom]:
    yield from client.room_for_pools("max_connections", seen.number("globals", "max_connections"), seen.client)
    yield from client.room_for_pools(
        "max_user_connections", seen.number("session", "max_user_connections") or None, seen.client
    )


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

CHECKS: tuple[Check, ...] = (
    Check("redo-log-flush", "innodb_flush_log_at_trx_commit", (_E, _W), _redo_log_flush),
    Check("binlog-flush", "sync_binlog", (_E,), _binlog_flush),
    Check("torn-pages", "innodb_doublewrite", (_E,), _doublewrite),
    Check("force-recovery", "innodb_force_recovery", (_E,), _force_recovery),
    Check("replicas", "semi-synchronous replication", (_W,), _replicas),
    Check("isolation", "transaction_isolation of the session", (_E, _W, _N), _isolation),
    Check("snapshot-conflicts", "innodb_snapshot_isolation (MariaDB)", (_E, _W), _snapshot_conflicts),
    Check("strict-mode", "sql_mode", (_E, _N), _strict_mode),
    Check("engines", "the storage engine of each table", (_E,), _engines),
    Check("primary-keys", "tables without a primary key", (_E, _W), _primary_keys),
    Check("rollback-on-timeout", "innodb_rollback_on_timeout", (_N,), _rollback_on_timeout),
    Check("autocommit", "autocommit", (_N,), _autocommit),
    Check("binlog-format", "binlog_format", (_E, _W), _binlog_format),
    Check("writer", "read_only, super_read_only, innodb_read_only, offline_mode", (_E,), _writer),
    Check("lock-waits", "innodb_lock_wait_timeout, lock_wait_timeout", (_W,), _waits),
    Check("statement-limit", "max_statement_time (MariaDB), max_execution_time (MySQL)", (_W,), _statements),
    Check("silent-transactions", "idle_transaction_timeout (MariaDB)", (_W,), _silence),
    Check("idle-connections", "wait_timeout", (_W,), _lifetime),
    Check("connections", "max_connections, max_user_connections", (_W,), _connections),
)
"""In the order in which they are shown."""
