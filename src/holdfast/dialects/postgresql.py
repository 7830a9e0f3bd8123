"""PostgreSQL: SQLSTATEs. One without a row of its own means what its class, the first two characters, means."""

from __future__ import annotations

import re

from ..outcome import Rejection
from .rows import (
    AMBIGUOUS,
    CANCELLED,
    CONTENTION,
    EXHAUSTED,
    LOST,
    OVERLOAD,
    PERMANENT,
    ROLE_CHANGED,
    UNSENT,
    Row,
    Table,
)

__all__ = ["TABLE", "find", "find_refusal"]

# The primary message names constraints and columns; values stand in DETAIL, which these patterns never see.
_UNIQUE = r'^duplicate key value violates unique constraint "(?P<constraint>[^"]+)"'
_FOREIGN_KEY = (
    r'^(?:insert or update|update or delete) on table "(?P<table>[^"]+)" '
    r'violates (?:RESTRICT setting of )?foreign key constraint "(?P<constraint>[^"]+)"'
)
_NOT_NULL = r'^null value in column "(?P<columns>[^"]+)"(?: of relation "(?P<table>[^"]+)")?'
_CHECK = (
    r'^(?:new row for relation "(?P<table>[^"]+)"|value for domain \S+) '
    r'violates check constraint "(?P<constraint>[^"]+)"'
)
_EXCLUSION = r'^conflicting key value violates exclusion constraint "(?P<constraint>[^"]+)"'
_NO_TABLE = r'^relation "(?:[^".]+\.)?(?P<table>[^".]+)" does not exist'
_NO_COLUMN = r'^column (?:\w+\.)?"?(?P<columns>[^"\s.]+)"?(?: of relation "(?P<table>[^"]+)")? does not exist'
_DENIED = r'^permission denied for (?:table|relation|view) "?(?P<table>[^"\s]+)"?'

_CONTENTION = (
    Row("0A000", "feature_not_supported", CONTENTION, "the cached plan no longer fits the table; a new connection has none", text=r"cached plan must not change result type", connection_usable=False),
    Row("40000", "transaction_rollback", CONTENTION, "rolled back by the server"),
    Row("40001", "serialization_failure", CONTENTION, "a concurrent transaction changed what this one read", aborts_commit=True),
    Row("40P01", "deadlock_detected", CONTENTION, "deadlock victim", aborts_commit=True),
    Row("55006", "object_in_use", CONTENTION, "another session uses the object"),
    Row("55P03", "lock_not_available", CONTENTION, "lock_timeout, or NOWAIT met a lock"),
    Row("72000", "snapshot_too_old", CONTENTION, "the snapshot is too old (until version 16)"),
)  # fmt: skip

_CONNECTION = (
    Row("08", "connection_exception", LOST, "the connection broke"),
    Row("08000", "connection_exception", LOST, "the connection broke"),
    Row("08001", "sqlclient_unable_to_establish_sqlconnection", UNSENT, "no connection could be made"),
    Row("08003", "connection_does_not_exist", LOST, "the connection is gone; asyncpg says so for every loss"),
    Row("08004", "sqlserver_rejected_establishment_of_sqlconnection", UNSENT, "the server refused the connection"),
    Row("08006", "connection_failure", LOST, "the connection broke"),
    Row("08P01", "protocol_violation", LOST, "the protocol state is broken; PgBouncer also says so"),
    Row("25P03", "idle_in_transaction_session_timeout", LOST, "the transaction was idle for too long"),
    Row("26000", "invalid_sql_statement_name", LOST, "the prepared statement is on another connection (PgBouncer)"),
    Row("57P01", "admin_shutdown", LOST, "an administrator ended the session, or the server shuts down"),
    Row("57P02", "crash_shutdown", LOST, "the server restarts after a crash"),
    Row("57P03", "cannot_connect_now", UNSENT, "the server is starting, stopping or recovering"),
    Row("57P05", "idle_session_timeout", LOST, "the session was idle for too long"),
)

_AMBIGUOUS = (
    Row("08007", "transaction_resolution_unknown", AMBIGUOUS, "the server does not know how the transaction ended"),
    Row("40003", "statement_completion_unknown", AMBIGUOUS, "the server does not know whether the statement ended"),
)

_SERVER_STATE = (
    Row("25006", "read_only_sql_transaction", ROLE_CHANGED, "the server is a standby, or the transaction was opened READ ONLY"),
    Row("53", "insufficient_resources", OVERLOAD, "the server is short of something"),
    Row("53000", "insufficient_resources", OVERLOAD, "the server is short of something"),
    Row("53100", "disk_full", EXHAUSTED, "the disk is full"),
    Row("53200", "out_of_memory", OVERLOAD, "the server is out of memory"),
    Row("53300", "too_many_connections", UNSENT, "the server, role or database has all the connections it may"),
    Row("53400", "configuration_limit_exceeded", OVERLOAD, "a configured limit is reached"),
    Row("58000", "system_error", EXHAUSTED, "the operating system failed the server"),
    Row("58030", "io_error", EXHAUSTED, "the disk failed the server"),
    Row("XX001", "data_corrupted", EXHAUSTED, "data is damaged; tell a person"),
    Row("XX002", "index_corrupted", EXHAUSTED, "an index is damaged; tell a person"),
)  # fmt: skip

_CANCELLED = (
    Row("25P04", "transaction_timeout", CANCELLED, "transaction_timeout (from version 17); ends the session", connection_usable=False),
    Row("57014", "query_canceled", CANCELLED, "statement_timeout, or somebody cancelled the query"),
)  # fmt: skip

_DATA_REJECTED = (
    Row("22", "data_exception", PERMANENT, "a value does not fit", rejection=Rejection.INVALID_VALUE),
    Row("22001", "string_data_right_truncation", PERMANENT, "value longer than its column", rejection=Rejection.TOO_LONG),
    Row("22003", "numeric_value_out_of_range", PERMANENT, "number outside the type's range", rejection=Rejection.OUT_OF_RANGE),
    Row("22008", "datetime_field_overflow", PERMANENT, "date or time outside the range", rejection=Rejection.OUT_OF_RANGE),
    Row("23", "integrity_constraint_violation", PERMANENT, "a constraint", aborts_commit=True, rejection=Rejection.OTHER),
    Row("23001", "restrict_violation", PERMANENT, "child rows still refer to it", aborts_commit=True, rejection=Rejection.FOREIGN_KEY, details=_FOREIGN_KEY),
    Row("23502", "not_null_violation", PERMANENT, "null in a NOT NULL column", aborts_commit=True, rejection=Rejection.NOT_NULL, details=_NOT_NULL),
    Row("23503", "foreign_key_violation", PERMANENT, "the parent row is missing, or child rows still refer to it", aborts_commit=True, rejection=Rejection.FOREIGN_KEY, details=_FOREIGN_KEY),
    Row("23505", "unique_violation", PERMANENT, "duplicate key; for a key row it proves that the first attempt was committed", aborts_commit=True, rejection=Rejection.DUPLICATE, details=_UNIQUE),
    Row("23514", "check_violation", PERMANENT, "CHECK constraint", aborts_commit=True, rejection=Rejection.CHECK, details=_CHECK),
    Row("23P01", "exclusion_violation", PERMANENT, "exclusion constraint", aborts_commit=True, rejection=Rejection.CHECK, details=_EXCLUSION),
    Row("40002", "transaction_integrity_constraint_violation", PERMANENT, "a constraint ended the transaction", rejection=Rejection.OTHER),
    Row("54000", "program_limit_exceeded", PERMANENT, "larger or more complex than the server allows", rejection=Rejection.TOO_LARGE),
)  # fmt: skip

_SCHEMA_OR_LOGIN = (
    Row("28", "invalid_authorization_specification", PERMANENT, "the login was refused", rejection=Rejection.WRONG_LOGIN, connection_usable=False),
    Row("28000", "invalid_authorization_specification", PERMANENT, "the role or host may not connect", rejection=Rejection.WRONG_LOGIN, connection_usable=False),
    Row("28P01", "invalid_password", PERMANENT, "wrong password", rejection=Rejection.WRONG_LOGIN, connection_usable=False),
    Row("3D000", "invalid_catalog_name", PERMANENT, "no such database", rejection=Rejection.MISSING_DATABASE, connection_usable=False),
    Row("42", "syntax_error_or_access_rule_violation", PERMANENT, "the statement is wrong", rejection=Rejection.OTHER),
    Row("42501", "insufficient_privilege", PERMANENT, "the role lacks a privilege", rejection=Rejection.ACCESS_DENIED, details=_DENIED),
    Row("42601", "syntax_error", PERMANENT, "syntax error", rejection=Rejection.SYNTAX),
    Row("42703", "undefined_column", PERMANENT, "no such column", rejection=Rejection.MISSING_COLUMN, details=_NO_COLUMN),
    Row("42P01", "undefined_table", PERMANENT, "no such table", rejection=Rejection.MISSING_TABLE, details=_NO_TABLE),
    Row("57P04", "database_dropped", PERMANENT, "the database was dropped", rejection=Rejection.MISSING_DATABASE, connection_usable=False),
)  # fmt: skip

_OTHERWISE_REFUSED = (
    Row("0A000", "feature_not_supported", PERMANENT, "not supported by this version", rejection=Rejection.OTHER),
    Row("25P02", "in_failed_sql_transaction", PERMANENT, "an earlier error was swallowed: that one is the real one", rejection=Rejection.OTHER, hides_cause=True),
    Row("55000", "object_not_in_prerequisite_state", PERMANENT, "not possible in this state of the object", rejection=Rejection.OTHER),
    Row("XX000", "internal_error", PERMANENT, "internal error of the server", rejection=Rejection.OTHER),
)  # fmt: skip

TABLE = Table(
    _CONTENTION,
    _CONNECTION,
    _AMBIGUOUS,
    _SERVER_STATE,
    _CANCELLED,
    _DATA_REJECTED,
    _SCHEMA_OR_LOGIN,
    _OTHERWISE_REFUSED,
)
"""Every SQLSTATE Holdfast knows of PostgreSQL."""

# libpq keeps no SQLSTATE of a connection that never came to be, so here, and only at connect, the text must do.
# A server in another language falls to 08001: retried, which is the safe side where nothing was sent.
_REFUSALS = (
    (r"too many clients already|remaining connection slots|too many connections for", "53300"),
    (r"the database system is (?:starting up|shutting down|in recovery|not (?:yet )?accepting)", "57P03"),
    (r"session is (?:not )?read-only|server is (?:not )?in hot standby|hosts match the target attribute", "25006"),
    (r"password authentication failed|no password supplied", "28P01"),
    (r"no pg_hba\.conf entry|role \"[^\"]*\" does not exist|is not permitted to log in", "28000"),
    (r"database \"[^\"]*\" does not exist", "3D000"),
    (r"permission denied for database", "42501"),
)


def find(sqlstate: str, message: str) -> Row | None:
    """The row of `sqlstate`, or else of its class."""
    return TABLE.find(sqlstate, message) or TABLE.find(sqlstate[:2], message)


def find_refusal(message: str) -> Row:
    """The row of a connection attempt that failed without an SQLSTATE."""
    sqlstate = next((state for text, state in _REFUSALS if re.search(text, message)), "08001")
    return TABLE.rows_for(sqlstate)[-1]
