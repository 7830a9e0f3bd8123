"""Answers of well set-up servers, as recorded, and one change for everything that a check looks for.

The MariaDB, MySQL and PostgreSQL answers were taken from sessions that Holdfast had set up, Galera's from a node of three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.dialects import Flavour
from holdfast.doctor import Answer, Refused, Severity

__all__ = ["CASES", "GALERA", "GOOD", "ROOMY", "Case", "good_answers"]

Pairs = Mapping[str, object]

_MYSQL_FAMILY: dict[str, dict[str, object]] = {
    "globals": {
        "autocommit": "ON",
        "binlog_format": "ROW",
        "innodb_doublewrite": "ON",
        "innodb_flush_log_at_trx_commit": "1",
        "innodb_force_recovery": "0",
        "innodb_read_only": "OFF",
        "innodb_rollback_on_timeout": "ON",
        "log_bin": "ON",
        "max_connections": "500",
        "offline_mode": "OFF",
        "read_only": "OFF",
        "sql_mode": "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION",
        "super_read_only": "OFF",
        "sync_binlog": "1",
        "wsrep_on": "OFF",
        "wsrep_provider": "none",
    },
    "session": {
        "innodb_lock_wait_timeout": "9",
        "lock_wait_timeout": "9",
        "max_user_connections": "0",
        "sql_mode": "STRICT_TRANS_TABLES,STRICT_ALL_TABLES",
        "wait_timeout": "28800",
    },
    "status": {"Rpl_semi_sync_master_status": "OFF"},
}
_OTHERS: dict[str, Answer] = {
    "database": [("shop",)],
    "grants": [("GRANT USAGE ON *.* TO `app`@`%`",), ("GRANT ALL PRIVILEGES ON `shop`.* TO `app`@`%`",)],
    "tables": [("orders", "InnoDB"), ("holdfast_operations", "InnoDB")],
    "keyless": [],
    "replicas": [],
}
_MARIADB_SESSION = {
    "idle_transaction_timeout": "12",
    "innodb_snapshot_isolation": "ON",
    "max_statement_time": "10.250000",
    "tx_isolation": "REPEATABLE-READ",
}
_MYSQL_SESSION = {"max_execution_time": "9900", "transaction_isolation": "SERIALIZABLE", "wait_timeout": "370"}
_GALERA = {
    "globals": {
        "innodb_autoinc_lock_mode": "2",
        "wsrep_certify_nonpk": "ON",
        "wsrep_on": "ON",
        "wsrep_osu_method": "TOI",
        "wsrep_provider": "/usr/lib/galera/libgalera_smm.so",
        "wsrep_provider_options": "base_port = 4567; evs.send_window = 4; evs.suspect_timeout = PT5S; gcs.fc_limit = 16;",
        "wsrep_retry_autocommit": "1",
    },
    "session": {"wsrep_sync_wait": "1"},
    "status": {
        "wsrep_cluster_size": "3",
        "wsrep_cluster_status": "Primary",
        "wsrep_local_state": "4",
        "wsrep_local_state_comment": "Synced",
        "wsrep_ready": "ON",
    },
}
_POSTGRESQL = {
    "data_checksums": ("on", "default"),
    "default_transaction_isolation": ("repeatable read", "client"),
    "default_transaction_read_only": ("off", "default"),
    "fsync": ("on", "default"),
    "full_page_writes": ("on", "default"),
    "idle_in_transaction_session_timeout": ("11000", "client"),
    "idle_session_timeout": ("0", "default"),
    "lock_timeout": ("9900", "client"),
    "max_connections": ("200", "configuration file"),
    "reserved_connections": ("0", "default"),
    "statement_timeout": ("10250", "client"),
    "superuser_reserved_connections": ("3", "default"),
    "synchronous_commit": ("on", "default"),
    "synchronous_standby_names": ("", "default"),
    "transaction_timeout": ("0", "default"),
    "wal_level": ("replica", "default"),
}
_SQLITE: dict[str, Answer] = {
    "file": [("/srv/app.db",)],
    "journal_mode": [("wal",)],
    "synchronous": [(2,)],
    "foreign_keys": [(1,)],
    "busy_timeout": [(9900,)],
    "locking_mode": [("normal",)],
    "query_only": [(0,)],
    "quick_check": [("ok",)],
    "keyless": [],
}

ROOMY: dict[str, Any] = {"pool_open": 20, "file_system": "ext4"}
"""What is true of the clients unless a case says otherwise. (MySQL's are told `serializable`.)"""

GALERA = "galera"
"""A MariaDB that is a node of a cluster."""
GOOD = [*Flavour, GALERA]


def _answers(value: object) -> Answer:
    assert isinstance(value, list | Refused)
    return value


def good_answers(kind: str, changes: Mapping[str, Pairs] | None = None) -> dict[str, Answer]:
    """What a well set-up server of `kind` answers, with some settings changed; None takes a setting away.

    Args:
        kind: a flavour, or `GALERA`.
        changes: question to setting to value; for a question of rows and not of settings, `{"": rows}`.
    """
    changes = changes or {}
    if kind == Flavour.SQLITE:
        return {**_SQLITE, **{question: _answers(new[""]) for question, new in changes.items()}}
    settings: dict[str, dict[str, Any]]
    if kind == Flavour.POSTGRESQL:
        others: dict[str, Answer] = {
            "backend-before": [(71,)],
            "recovery": [(False,)],
            "limits": [("role", -1), ("database", -1)],
            "standbys": [],
            "keyless": [],
            "unlogged": [],
            "backend-after": [(71,)],
        }
        settings = {"settings": dict(_POSTGRESQL)}
    else:
        others = dict(_OTHERS)
        settings = {question: dict(values) for question, values in _MYSQL_FAMILY.items()}
        settings["session"].update(_MYSQL_SESSION if kind == Flavour.MYSQL else _MARIADB_SESSION)
        for question, values in _GALERA.items() if kind == GALERA else ():
            settings[question].update(values)
    for question, new in changes.items():
        if "" in new:
            others[question] = _answers(new[""])
        else:
            settings[question].update(new)
    pairs = {
        question: [
            (name, *(value if isinstance(value, tuple) else (value,)))
            for name, value in values.items()
            if value is not None
        ]
        for question, values in settings.items()
    }
    return {**others, **pairs}


@dataclass(frozen=True)
class Case:
    """One thing that is wrong, and what has to be found.

    Attributes:
        kind: a flavour, or `GALERA`.
        check: the check that finds it.
        severity: how much it matters.
        changes: as `good_answers` takes them.
        client: what differs on the clients' side.
        says: what the finding must name.
    """

    kind: str
    check: str
    severity: Severity
    changes: Mapping[str, Pairs] = field(default_factory=dict)
    client: Mapping[str, Any] = field(default_factory=dict)
    says: str = ""


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_MA, _MY, _PG, _SL = Flavour.MARIADB, Flavour.MYSQL, Flavour.POSTGRESQL, Flavour.SQLITE


def _globals(**values: object) -> dict[str, Pairs]:
    return {"globals": values}


def _session(**values: object) -> dict[str, Pairs]:
    return {"session": values}


def _status(**values: object) -> dict[str, Pairs]:
    return {"status": values}


def _set(**values: object) -> dict[str, Pairs]:
    """PostgreSQL's settings; by the login, unless a pair says otherwise."""
    return {"settings": {k: v if isinstance(v, tuple) else (v, "client") for k, v in values.items()}}


def _answer(question: str, *rows: tuple[object, ...]) -> dict[str, Pairs]:
    return {question: {"": list(rows)}}


_FLUSH = "innodb_flush_log_at_trx_commit"

_FAMILY_CASES = [
    Case(_MA, "redo-log-flush", _E, _globals(**{_FLUSH: "0"}), says="crash of the process"),
    Case(_MY, "redo-log-flush", _E, _globals(**{_FLUSH: "2"}), says="crash of the machine"),
    Case(GALERA, "redo-log-flush", _E, _globals(**{_FLUSH: "0"}), says="794 of 7,513"),
    Case(GALERA, "redo-log-flush", _W, _globals(**{_FLUSH: "2"})),
    Case(_MY, "binlog-flush", _E, _globals(sync_binlog="0")),
    Case(_MA, "binlog-flush", _E, _globals(sync_binlog="100")),
    Case(_MA, "torn-pages", _E, _globals(innodb_doublewrite="OFF")),
    Case(_MY, "torn-pages", _E, _globals(innodb_doublewrite="DETECT_ONLY")),
    Case(_MY, "force-recovery", _E, _globals(innodb_force_recovery="1")),
    Case(_MA, "replicas", _W, _answer("replicas", (2, "db2", 3306, 1)), says="1 replicas"),
    Case(
        _MY,
        "replicas",
        _W,
        {**_globals(rpl_semi_sync_source_wait_point="AFTER_COMMIT"), **_status(Rpl_semi_sync_source_status="ON")},
        says="AFTER_COMMIT",
    ),
    Case(_MA, "isolation", _E, _session(tx_isolation="READ-COMMITTED")),
    Case(_MY, "isolation", _E, _session(transaction_isolation="REPEATABLE-READ")),
    Case(_MY, "isolation", _W, _session(transaction_isolation="REPEATABLE-READ"), {"isolation": "snapshot"}),
    Case(_MA, "isolation", _N, _session(tx_isolation="READ-COMMITTED"), {"isolation": "read committed"}),
    Case(_MA, "snapshot-conflicts", _E, _session(innodb_snapshot_isolation="OFF")),
    Case(_MA, "snapshot-conflicts", _W, _session(innodb_snapshot_isolation=None), says="10.11.8"),
    Case(_MA, "strict-mode", _E, _session(sql_mode="")),
    Case(_MY, "strict-mode", _N, _globals(sql_mode="ANSI_QUOTES")),
    Case(
        _MA,
        "engines",
        _E,
        _answer("tables", ("orders", "InnoDB"), ("log", "Aria"), ("cache", "MEMORY")),
        says="cache (MEMORY), log (Aria)",
    ),
    Case(_MY, "engines", _E, _answer("tables", ("log", "MyISAM"), ("view", None)), says="`log` ENGINE"),
    Case(_MA, "primary-keys", _W, _answer("keyless", ("log",))),
    Case(GALERA, "primary-keys", _E, _answer("keyless", ("log",)), says="DELETE"),
    Case(_MY, "rollback-on-timeout", _N, _globals(innodb_rollback_on_timeout="OFF")),
    Case(_MA, "autocommit", _N, _globals(autocommit="OFF")),
    Case(_MA, "binlog-format", _W, _globals(binlog_format="STATEMENT")),
    Case(GALERA, "binlog-format", _E, _globals(binlog_format="MIXED")),
    Case(_MA, "writer", _E, _globals(read_only="ON")),
    Case(_MA, "writer", _E, _globals(read_only="NO_LOCK_NO_ADMIN")),
    Case(_MY, "writer", _E, _globals(read_only="ON", super_read_only="ON"), says="super_read_only"),
    Case(_MY, "writer", _E, _globals(offline_mode="ON")),
    Case(_MA, "lock-waits", _W, _session(innodb_lock_wait_timeout="50"), says="50 s"),
    Case(_MY, "lock-waits", _W, _session(lock_wait_timeout="31536000")),
    Case(_MA, "lock-waits", _W, _session(lock_wait_timeout="4"), {"deadline_s": 5.0}, "9 s"),
    Case(_MA, "statement-limit", _W, _session(max_statement_time="0.000000"), says="0 (none)"),
    Case(_MA, "statement-limit", _W, _session(max_statement_time="2.000000"), says="COMMIT"),
    Case(_MY, "statement-limit", _W, _session(max_execution_time="0")),
    Case(_MA, "silent-transactions", _W, _session(idle_transaction_timeout="0"), says="0 (no limit)"),
    Case(_MA, "silent-transactions", _W, _session(idle_transaction_timeout="3")),
    Case(_MA, "idle-connections", _W, _session(wait_timeout="60"), says="recycle"),
    Case(_MY, "idle-connections", _W, client={"recycle_s": None}, says="for good"),
    Case(_MY, "connections", _W, _globals(max_connections="151"), {"pool_open": 100, "processes": 4}, "open_max=36"),
    Case(_MA, "connections", _W, _session(max_user_connections="10"), says="max_user_connections"),
]

_GALERA_CASES = [
    Case(GALERA, "galera-replicating", _E, _globals(wsrep_on="OFF")),
    Case(GALERA, "galera-member", _E, _status(wsrep_cluster_status="non-Primary"), says="1047"),
    Case(
        GALERA,
        "galera-member",
        _E,
        _status(wsrep_local_state="2", wsrep_local_state_comment="Donor/Desynced"),
        says="Donor",
    ),
    Case(GALERA, "galera-member", _E, _status(wsrep_ready="OFF")),
    Case(GALERA, "galera-size", _W, _status(wsrep_cluster_size="1")),
    Case(GALERA, "galera-size", _W, _status(wsrep_cluster_size="2"), says="no majority"),
    Case(GALERA, "galera-size", _W, _status(wsrep_cluster_size="4"), says="halves"),
    Case(GALERA, "galera-causal-reads", _W, _session(wsrep_sync_wait="0")),
    Case(GALERA, "galera-causal-reads", _W, _session(wsrep_sync_wait="6")),
    Case(
        GALERA,
        "galera-deadline",
        _W,
        _session(innodb_lock_wait_timeout="6", lock_wait_timeout="6"),
        {"deadline_s": 6.9},
        "deadline=7",
    ),
    Case(
        GALERA,
        "galera-deadline",
        _W,
        _globals(wsrep_provider_options="evs.suspect_timeout = PT15S"),
        says="deadline=17",
    ),
    Case(GALERA, "galera-autoincrement", _E, _globals(innodb_autoinc_lock_mode="1")),
    Case(GALERA, "galera-certification", _E, _globals(wsrep_certify_nonpk="OFF")),
    Case(GALERA, "galera-schema-changes", _W, _globals(wsrep_osu_method="RSU")),
    Case(GALERA, "galera-server-retries", _N, _globals(wsrep_retry_autocommit="8")),
]

_SENDER = (4711, "streaming", "async")

_POSTGRESQL_CASES = [
    Case(_PG, "fsync", _E, _set(fsync="off")),
    Case(_PG, "commit-wait", _E, _set(synchronous_commit="off")),
    Case(
        _PG,
        "commit-wait",
        _E,
        {
            **_set(synchronous_commit="local", synchronous_standby_names="a"),
            **_answer("standbys", (1, "streaming", "sync")),
        },
    ),
    Case(_PG, "torn-pages", _E, _set(full_page_writes="off")),
    Case(_PG, "unlogged-tables", _E, _answer("unlogged", ("public.cache",)), says="public.cache SET LOGGED"),
    Case(_PG, "standbys", _W, _answer("standbys", _SENDER), says="none of them synchronous"),
    Case(_PG, "standbys", _W, {**_set(synchronous_standby_names="a"), **_answer("standbys", _SENDER)}, says="waits"),
    Case(_PG, "wal-level", _N, _set(wal_level="minimal")),
    Case(_PG, "checksums", _N, _set(data_checksums="off")),
    Case(_PG, "isolation", _E, _set(default_transaction_isolation=("read committed", "default"))),
    Case(_PG, "isolation", _N, _set(default_transaction_isolation="read committed"), {"isolation": "read committed"}),
    Case(_PG, "pooler", _E, _answer("backend-after", (72,))),
    Case(_PG, "pooler", _W, _set(lock_timeout=("9900", "database")), says="lock_timeout"),
    Case(_PG, "primary-keys", _N, _answer("keyless", ("public.log",))),
    Case(_PG, "primary-keys", _W, {**_answer("keyless", ("public.log",)), **_set(wal_level="logical")}),
    Case(_PG, "writer", _E, _answer("recovery", (True,)), says="standby"),
    Case(_PG, "writer", _E, _set(default_transaction_read_only="on")),
    Case(_PG, "lock-waits", _W, _set(lock_timeout="0")),
    Case(_PG, "lock-waits", _W, _set(lock_timeout="60000")),
    Case(_PG, "statement-limit", _W, _set(statement_timeout="0")),
    Case(_PG, "statement-limit", _W, _set(statement_timeout="5000")),
    Case(_PG, "statement-limit", _W, _set(transaction_timeout="5000"), says="transaction_timeout"),
    Case(_PG, "silent-transactions", _W, _set(idle_in_transaction_session_timeout="0")),
    Case(_PG, "idle-connections", _W, _set(idle_session_timeout="60000")),
    Case(_PG, "connections", _W, _set(max_connections="100"), {"pool_open": 100}, "97 connections"),
    Case(_PG, "connections", _W, _answer("limits", ("role", 5), ("database", -1)), says="LIMIT of the role"),
    Case(_PG, "connections", _W, _answer("limits", ("role", -1), ("database", 0)), says="LIMIT of the database"),
]

_SQLITE_CASES = [
    Case(_SL, "journal", _E, _answer("journal_mode", ("memory",))),
    Case(_SL, "journal", _E, _answer("journal_mode", ("off",))),
    Case(_SL, "journal", _W, _answer("journal_mode", ("delete",))),
    Case(_SL, "flush", _E, _answer("synchronous", (0,)), says="damage"),
    Case(_SL, "flush", _E, _answer("synchronous", (1,)), says="NORMAL"),
    Case(_SL, "file-system", _E, client={"file_system": "nfs4"}),
    Case(_SL, "file-system", _W, client={"file_system": "tmpfs"}),
    Case(_SL, "file-system", _W, _answer("file", ("",)), says="in memory"),
    Case(_SL, "integrity", _E, _answer("quick_check", ("*** in database main ***",))),
    Case(_SL, "foreign-keys", _W, _answer("foreign_keys", (0,))),
    Case(_SL, "lock-waits", _W, _answer("busy_timeout", (0,))),
    Case(_SL, "lock-waits", _W, _answer("busy_timeout", (60000,))),
    Case(_SL, "locking", _W, _answer("locking_mode", ("exclusive",))),
    Case(_SL, "writer", _E, _answer("query_only", (1,))),
    Case(_SL, "primary-keys", _N, _answer("keyless", ("log",))),
]

_UNSEEN_CASES = [
    Case(
        _MA,
        "engines",
        Severity.UNSEEN,
        _answer("grants", ("GRANT SELECT ON `shop`.`orders` TO `app`@`%`",)),
        says="GRANT SELECT",
    ),
    Case(_MY, "primary-keys", Severity.UNSEEN, _answer("grants", ("GRANT `teller`@`%` TO `app`@`%`",))),
    Case(
        _MA,
        "replicas",
        Severity.UNSEEN,
        {"replicas": {"": Refused("1227 ER_SPECIFIC_ACCESS_DENIED_ERROR")}},
        says="REPLICATION MASTER ADMIN",
    ),
    Case(
        _MY,
        "replicas",
        Severity.UNSEEN,
        {"replicas": {"": Refused("1227 ER_SPECIFIC_ACCESS_DENIED_ERROR")}},
        says="REPLICATION SLAVE",
    ),
    Case(_PG, "standbys", Severity.UNSEEN, _answer("standbys", (4711, None, None)), says="pg_read_all_stats"),
    Case(_SL, "file-system", Severity.UNSEEN, client={"file_system": None}),
]

CASES = [*_FAMILY_CASES, *_GALERA_CASES, *_POSTGRESQL_CASES, *_SQLITE_CASES, *_UNSEEN_CASES]
"""At least one for every severity of every check."""
