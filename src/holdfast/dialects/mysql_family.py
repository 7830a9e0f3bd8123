"""What MySQL and MariaDB share: server codes with one meaning in both, the client library's codes, ProxySQL's.

Numbers and names are the vendors'; which class each belongs to was measured on live servers where that was possible.
Only what differs stands in `mysql` and `mariadb`.
"""

from __future__ import annotations

from ..outcome import Rejection
from .rows import AMBIGUOUS, CANCELLED, CONTENTION, EXHAUSTED, LOST, OVERLOAD, PERMANENT, ROLE_CHANGED, UNSENT, Row

__all__ = ["CLIENT", "PROXY", "SERVER"]

# The value stands before the name in these texts, so each pattern is tied to the end of the message.
_KEY = r"for key '(?:(?P<table>[^'.]+)\.)?(?P<constraint>[^'.]+)'\s*$"
_COLUMN_AT_ROW = r"column (?:`[^`]*`\.`(?P<table>[^`]*)`\.)?['`](?P<columns>[^'`]+)['`] at row \d+\s*$"
_FOREIGN_KEY = (
    r"constraint fails \(`(?:[^`]+`\.`)?(?P<table>[^`]+)`, CONSTRAINT `(?P<constraint>[^`]+)` "
    r"FOREIGN KEY \((?P<columns>[^)]*)\)"
)
_TABLE_AT_END = r"(?:in|to) table '(?P<table>[^']+)'\s*$"
_FOREIGN_DUPLICATE = r"in table '(?P<table>[^']+)', key '(?P<constraint>[^']+)'\s*$"
_DENIED_TABLE = r"for table (?:`[^`]*`\.)?['`](?P<table>[^'`]+)['`]\s*$"
_DENIED_COLUMN = r"for column '(?P<columns>[^']+)' in table '(?P<table>[^']+)'\s*$"
_NO_TABLE = r"^(?:T|Unknown t)able '(?:[^'.]+\.)?(?P<table>[^'.]+)'"
_NO_COLUMN = r"^Unknown column '(?:(?:[^'.]+\.)?(?P<table>[^'.]+)\.)?(?P<columns>[^'.]+)' in "
_NULL_COLUMN = r"^Column '(?P<columns>[^']+)' cannot be null"
_NO_DEFAULT = r"^Field '(?P<columns>[^']+)' doesn't have a default"

_CONTENTION = (
    Row(1205, "ER_LOCK_WAIT_TIMEOUT", CONTENTION, "waited too long for a lock; rolls back one statement or all of them, so roll back explicitly", aborts_commit=True),
    Row(1213, "ER_LOCK_DEADLOCK", CONTENTION, "deadlock victim; on Galera also a certification conflict", aborts_commit=True),
    Row(1297, "ER_GET_TEMPORARY_ERRMSG", CONTENTION, "the storage engine says the trouble is temporary (NDB)"),
    Row(1402, "ER_XA_RBROLLBACK", CONTENTION, "the XA branch was rolled back"),
    Row(1412, "ER_TABLE_DEF_CHANGED", CONTENTION, "the table changed after this snapshot was taken; a new transaction sees it"),
    Row(1613, "ER_XA_RBTIMEOUT", CONTENTION, "the XA branch was rolled back for taking too long"),
    Row(1614, "ER_XA_RBDEADLOCK", CONTENTION, "the XA branch was rolled back for a deadlock"),
    Row(1615, "ER_NEED_REPREPARE", CONTENTION, "the prepared statement must be prepared again"),
    Row(1622, "ER_WARN_ENGINE_TRANSACTION_ROLLBACK", CONTENTION, "the engine rolled the transaction back and asks for a restart"),
    Row(1689, "ER_LOCK_ABORTED", CONTENTION, "the wait gave way to a pending exclusive lock"),
)  # fmt: skip

_REFUSED_AT_CONNECT = (
    Row(1040, "ER_CON_COUNT_ERROR", UNSENT, "the server has max_connections clients already"),
    Row(1042, "ER_BAD_HOST_ERROR", UNSENT, "the server cannot resolve this client's host name"),
    Row(1043, "ER_HANDSHAKE_ERROR", UNSENT, "the handshake failed"),
    Row(1129, "ER_HOST_IS_BLOCKED", UNSENT, "this client's host is blocked until FLUSH HOSTS; tell a person"),
)

_LOST = (
    Row(1152, "ER_ABORTING_CONNECTION", LOST, "the server aborted the connection"),
    Row(1156, "ER_NET_PACKETS_OUT_OF_ORDER", LOST, "packets came out of order"),
    Row(1157, "ER_NET_UNCOMPRESS_ERROR", LOST, "a compressed packet could not be read"),
    Row(1158, "ER_NET_READ_ERROR", LOST, "the server could not read from the connection"),
    Row(1159, "ER_NET_READ_INTERRUPTED", LOST, "the server waited too long for the client"),
    Row(1160, "ER_NET_ERROR_ON_WRITE", LOST, "the server could not write to the connection"),
    Row(1161, "ER_NET_WRITE_INTERRUPTED", LOST, "the server waited too long while writing"),
    Row(1181, "ER_ERROR_DURING_ROLLBACK", LOST, "ROLLBACK failed; closing the connection rolls back"),
    Row(1184, "ER_NEW_ABORTING_CONNECTION", LOST, "the server aborted the connection"),
)

_AMBIGUOUS = (
    Row(1180, "ER_ERROR_DURING_COMMIT", CONTENTION, "the group certified another transaction first; certainly rolled back", aborts_commit=True, text=r"error 149"),
    Row(1180, "ER_ERROR_DURING_COMMIT", AMBIGUOUS, "COMMIT failed half-way; on a partitioned Galera cluster some of these were committed"),
)  # fmt: skip

_ROLE_CHANGED = (
    Row(1036, "ER_OPEN_AS_READONLY", ROLE_CHANGED, "the table is open for reading only"),
    Row(1047, "ER_UNKNOWN_COM_ERROR", ROLE_CHANGED, "this Galera node is not in the primary component", aborts_commit=True, connection_usable=False, text=r"WSREP"),
    Row(1047, "ER_UNKNOWN_COM_ERROR", PERMANENT, "the server does not know this protocol command", rejection=Rejection.OTHER, connection_usable=False),
    Row(1053, "ER_SERVER_SHUTDOWN", ROLE_CHANGED, "the server is shutting down", connection_usable=False),
    Row(1290, "ER_OPTION_PREVENTS_STATEMENT", ROLE_CHANGED, "the server runs with a read-only option", aborts_commit=True, text=r"--(super[-_])?read[-_]only|--innodb[-_]read[-_]only"),
    Row(1290, "ER_OPTION_PREVENTS_STATEMENT", PERMANENT, "an option of the server forbids this statement", rejection=Rejection.ACCESS_DENIED),
    Row(1836, "ER_READ_ONLY_MODE", ROLE_CHANGED, "the server is in read-only mode"),
    Row(1874, "ER_INNODB_READ_ONLY", ROLE_CHANGED, "InnoDB is in read-only mode"),
)  # fmt: skip

_OVERLOAD = (
    Row(1037, "ER_OUTOFMEMORY", OVERLOAD, "the server is out of memory"),
    Row(1038, "ER_OUT_OF_SORTMEMORY", OVERLOAD, "sort_buffer_size is too small for this query"),
    Row(1041, "ER_OUT_OF_RESOURCES", OVERLOAD, "the server is out of memory or file handles"),
    Row(1135, "ER_CANT_CREATE_THREAD", OVERLOAD, "the server cannot create a thread for the connection", connection_usable=False),
    Row(1203, "ER_TOO_MANY_USER_CONNECTIONS", OVERLOAD, "the user has max_user_connections already", connection_usable=False),
    Row(1206, "ER_LOCK_TABLE_FULL", OVERLOAD, "too many row locks for the buffer pool; use smaller batches"),
    Row(1226, "ER_USER_LIMIT_REACHED", OVERLOAD, "the user reached a resource limit of the account", connection_usable=False),
    Row(1461, "ER_MAX_PREPARED_STMT_COUNT_REACHED", OVERLOAD, "the server holds max_prepared_stmt_count statements; look for a leak"),
    Row(1637, "ER_TOO_MANY_CONCURRENT_TRXS", OVERLOAD, "no undo slot is free"),
)  # fmt: skip

_EXHAUSTED = (
    Row(1021, "ER_DISK_FULL", EXHAUSTED, "the disk is full"),
    Row(1026, "ER_ERROR_ON_WRITE", EXHAUSTED, "the server could not write a file"),
    Row(1030, "ER_GET_ERRNO", EXHAUSTED, "the storage engine has no space left", text=r"\b28\b|No space"),
    Row(1030, "ER_GET_ERRNO", PERMANENT, "the storage engine failed", rejection=Rejection.OTHER),
    Row(1114, "ER_RECORD_FILE_FULL", EXHAUSTED, "the table, or a temporary one, has no room left"),
    Row(1598, "ER_BINLOG_LOGGING_IMPOSSIBLE", EXHAUSTED, "the binary log cannot be written"),
)

_CANCELLED = (Row(1317, "ER_QUERY_INTERRUPTED", CANCELLED, "KILL QUERY stopped the statement"),)

_DATA_REJECTED = (
    Row(1022, "ER_DUP_KEY", PERMANENT, "duplicate key", aborts_commit=True, rejection=Rejection.DUPLICATE, details=_TABLE_AT_END),
    Row(1048, "ER_BAD_NULL_ERROR", PERMANENT, "null in a NOT NULL column", aborts_commit=True, rejection=Rejection.NOT_NULL, details=_NULL_COLUMN),
    Row(1062, "ER_DUP_ENTRY", PERMANENT, "duplicate key; for a key row it proves that the first attempt was committed", aborts_commit=True, rejection=Rejection.DUPLICATE, details=_KEY),
    Row(1169, "ER_DUP_UNIQUE", PERMANENT, "duplicate key", aborts_commit=True, rejection=Rejection.DUPLICATE, details=_TABLE_AT_END),
    Row(1216, "ER_NO_REFERENCED_ROW", PERMANENT, "the parent row is missing", aborts_commit=True, rejection=Rejection.FOREIGN_KEY),
    Row(1217, "ER_ROW_IS_REFERENCED", PERMANENT, "child rows still refer to it", aborts_commit=True, rejection=Rejection.FOREIGN_KEY),
    Row(1264, "ER_WARN_DATA_OUT_OF_RANGE", PERMANENT, "number outside the column's range", rejection=Rejection.OUT_OF_RANGE, details=_COLUMN_AT_ROW),
    Row(1265, "WARN_DATA_TRUNCATED", PERMANENT, "value would be cut off", rejection=Rejection.INVALID_VALUE, details=_COLUMN_AT_ROW),
    Row(1292, "ER_TRUNCATED_WRONG_VALUE", PERMANENT, "malformed value", rejection=Rejection.INVALID_VALUE, details=_COLUMN_AT_ROW),
    Row(1364, "ER_NO_DEFAULT_FOR_FIELD", PERMANENT, "no value for a column without a default", rejection=Rejection.NOT_NULL, details=_NO_DEFAULT),
    Row(1366, "ER_TRUNCATED_WRONG_VALUE_FOR_FIELD", PERMANENT, "malformed value", rejection=Rejection.INVALID_VALUE, details=_COLUMN_AT_ROW),
    Row(1406, "ER_DATA_TOO_LONG", PERMANENT, "value longer than its column", rejection=Rejection.TOO_LONG, details=_COLUMN_AT_ROW),
    Row(1411, "ER_WRONG_VALUE_FOR_TYPE", PERMANENT, "malformed value for a function", rejection=Rejection.INVALID_VALUE),
    Row(1451, "ER_ROW_IS_REFERENCED_2", PERMANENT, "child rows still refer to it", aborts_commit=True, rejection=Rejection.FOREIGN_KEY, details=_FOREIGN_KEY),
    Row(1452, "ER_NO_REFERENCED_ROW_2", PERMANENT, "the parent row is missing, or not yet visible", aborts_commit=True, rejection=Rejection.FOREIGN_KEY, details=_FOREIGN_KEY),
    Row(1586, "ER_DUP_ENTRY_WITH_KEY_NAME", PERMANENT, "duplicate key", aborts_commit=True, rejection=Rejection.DUPLICATE, details=_KEY),
    Row(1690, "ER_DATA_OUT_OF_RANGE", PERMANENT, "result outside the type's range", rejection=Rejection.OUT_OF_RANGE),
    Row(1761, "ER_FOREIGN_DUPLICATE_KEY_WITH_CHILD_INFO", PERMANENT, "a cascade would create a duplicate", aborts_commit=True, rejection=Rejection.DUPLICATE, details=_FOREIGN_DUPLICATE),
    Row(1762, "ER_FOREIGN_DUPLICATE_KEY_WITHOUT_CHILD_INFO", PERMANENT, "a cascade would create a duplicate in a child table", aborts_commit=True, rejection=Rejection.DUPLICATE),
)  # fmt: skip

_SCHEMA_OR_LOGIN = (
    Row(1044, "ER_DBACCESS_DENIED_ERROR", PERMANENT, "the user may not use this database", rejection=Rejection.ACCESS_DENIED, connection_usable=False),
    Row(1045, "ER_ACCESS_DENIED_ERROR", PERMANENT, "wrong user or password; passes by itself only while a secret is rotated", rejection=Rejection.WRONG_LOGIN, connection_usable=False),
    Row(1046, "ER_NO_DB_ERROR", PERMANENT, "no database is selected; the session lost its state", rejection=Rejection.MISSING_DATABASE),
    Row(1049, "ER_BAD_DB_ERROR", PERMANENT, "no such database", rejection=Rejection.MISSING_DATABASE, connection_usable=False),
    Row(1051, "ER_BAD_TABLE_ERROR", PERMANENT, "no such table", rejection=Rejection.MISSING_TABLE, details=_NO_TABLE),
    Row(1054, "ER_BAD_FIELD_ERROR", PERMANENT, "no such column", rejection=Rejection.MISSING_COLUMN, details=_NO_COLUMN),
    Row(1064, "ER_PARSE_ERROR", PERMANENT, "syntax error", rejection=Rejection.SYNTAX),
    Row(1109, "ER_UNKNOWN_TABLE", PERMANENT, "no such table", rejection=Rejection.MISSING_TABLE, details=_NO_TABLE),
    Row(1130, "ER_HOST_NOT_PRIVILEGED", PERMANENT, "this client's host may not connect", rejection=Rejection.WRONG_LOGIN, connection_usable=False),
    Row(1142, "ER_TABLEACCESS_DENIED_ERROR", PERMANENT, "the user lacks a privilege on the table", rejection=Rejection.ACCESS_DENIED, details=_DENIED_TABLE),
    Row(1143, "ER_COLUMNACCESS_DENIED_ERROR", PERMANENT, "the user lacks a privilege on the column", rejection=Rejection.ACCESS_DENIED, details=_DENIED_COLUMN),
    Row(1146, "ER_NO_SUCH_TABLE", PERMANENT, "no such table", rejection=Rejection.MISSING_TABLE, details=_NO_TABLE),
    Row(1149, "ER_SYNTAX_ERROR", PERMANENT, "syntax error", rejection=Rejection.SYNTAX),
    Row(1227, "ER_SPECIFIC_ACCESS_DENIED_ERROR", PERMANENT, "the user lacks a global privilege", rejection=Rejection.ACCESS_DENIED),
    Row(1698, "ER_ACCESS_DENIED_NO_PASSWORD_ERROR", PERMANENT, "wrong user or password", rejection=Rejection.WRONG_LOGIN, connection_usable=False),
    Row(3159, "ER_SECURE_TRANSPORT_REQUIRED", PERMANENT, "the server demands TLS", rejection=Rejection.WRONG_LOGIN, connection_usable=False),
)  # fmt: skip

_OTHERWISE_REFUSED = (
    Row(1105, "ER_UNKNOWN_ERROR", PERMANENT, "the transaction is larger than Galera replicates", aborts_commit=True, rejection=Rejection.TOO_LARGE, text=r"Maximum writeset size exceeded"),
    Row(1105, "ER_UNKNOWN_ERROR", PERMANENT, "unnamed error", rejection=Rejection.OTHER),
    Row(1153, "ER_NET_PACKET_TOO_LARGE", PERMANENT, "larger than max_allowed_packet; the server closes the connection", rejection=Rejection.TOO_LARGE, connection_usable=False),
    Row(1179, "ER_CANT_DO_THIS_DURING_AN_TRANSACTION", PERMANENT, "not inside a transaction", rejection=Rejection.OTHER),
    Row(1197, "ER_TRANS_CACHE_FULL", PERMANENT, "the transaction is larger than max_binlog_cache_size", rejection=Rejection.TOO_LARGE),
    Row(1207, "ER_READ_ONLY_TRANSACTION", PERMANENT, "locks cannot be taken in this transaction", rejection=Rejection.OTHER),
    Row(1223, "ER_CANT_UPDATE_WITH_READLOCK", PERMANENT, "this session holds a conflicting read lock itself", rejection=Rejection.OTHER),
    Row(1235, "ER_NOT_SUPPORTED_YET", PERMANENT, "not supported by this version", rejection=Rejection.OTHER),
    Row(1305, "ER_SP_DOES_NOT_EXIST", PERMANENT, "the savepoint went with the transaction: an earlier error is the real one", rejection=Rejection.OTHER, text=r"SAVEPOINT .* does not exist", hides_cause=True),
    Row(1305, "ER_SP_DOES_NOT_EXIST", PERMANENT, "no such procedure or function", rejection=Rejection.OTHER),
    Row(1399, "ER_XAER_RMFAIL", PERMANENT, "not possible in this state of the XA transaction", rejection=Rejection.OTHER),
    Row(1467, "ER_AUTOINC_READ_FAILED", PERMANENT, "the AUTO_INCREMENT counter is used up or unreadable", rejection=Rejection.OUT_OF_RANGE),
    Row(1568, "ER_CANT_CHANGE_TX_CHARACTERISTICS", PERMANENT, "the isolation level cannot change inside a transaction", rejection=Rejection.OTHER),
    Row(1705, "ER_STMT_CACHE_FULL", PERMANENT, "the statement is larger than max_binlog_stmt_cache_size", rejection=Rejection.TOO_LARGE),
    Row(1792, "ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION", PERMANENT, "the transaction was opened READ ONLY", aborts_commit=True, rejection=Rejection.OTHER),
    Row(1815, "ER_INTERNAL_ERROR", PERMANENT, "internal error of the server", rejection=Rejection.OTHER),
)  # fmt: skip

SERVER: tuple[Row, ...] = (
    *_CONTENTION,
    *_REFUSED_AT_CONNECT,
    *_LOST,
    *_AMBIGUOUS,
    *_ROLE_CHANGED,
    *_OVERLOAD,
    *_EXHAUSTED,
    *_CANCELLED,
    *_DATA_REJECTED,
    *_SCHEMA_OR_LOGIN,
    *_OTHERWISE_REFUSED,
)
"""Codes that a server of either flavour sends."""

CLIENT: tuple[Row, ...] = (
    Row(-1, "CLIENT_NOT_CONNECTED", LOST, "mysql-connector-python: the connection is closed"),
    Row(0, "CLIENT_CLOSED", LOST, "PyMySQL and its relatives: the connection is closed already"),
    Row(2000, "CR_UNKNOWN_ERROR", LOST, "unnamed error of the client library"),
    Row(2001, "CR_SOCKET_CREATE_ERROR", UNSENT, "no socket could be created"),
    Row(2002, "CR_CONNECTION_ERROR", UNSENT, "nobody listens there"),
    Row(2003, "CR_CONN_HOST_ERROR", UNSENT, "the host cannot be reached"),
    Row(2005, "CR_UNKNOWN_HOST", UNSENT, "the host name does not resolve"),
    Row(2006, "CR_SERVER_GONE_ERROR", LOST, "the request could not be sent; also after a packet that was too large"),
    Row(2008, "CR_OUT_OF_MEMORY", PERMANENT, "the client is out of memory", rejection=Rejection.TOO_LARGE, connection_usable=False),
    Row(2012, "CR_SERVER_HANDSHAKE_ERR", UNSENT, "the handshake failed"),
    Row(2013, "CR_SERVER_LOST", LOST, "the connection broke while waiting for the answer; also read timeout, KILL and shutdown"),
    Row(2014, "CR_COMMANDS_OUT_OF_SYNC", LOST, "the protocol state is broken: a connection was used twice at a time"),
    Row(2020, "CR_NET_PACKET_TOO_LARGE", PERMANENT, "larger than the client's max_allowed_packet", rejection=Rejection.TOO_LARGE),
    Row(2026, "CR_SSL_CONNECTION_ERROR", LOST, "TLS failed"),
    Row(2027, "CR_MALFORMED_PACKET", LOST, "a packet made no sense"),
    Row(2045, "CR_SHARED_MEMORY_CONNECT_ABANDONED_ERROR", UNSENT, "shared memory (Windows): the server did not answer"),
    Row(2048, "CR_INVALID_CONN_HANDLE", LOST, "the connection handle is no longer valid"),
    Row(2055, "CR_SERVER_LOST_EXTENDED", LOST, "mysql-connector-python: the connection broke while sending"),
    Row(2057, "CR_NEW_STMT_METADATA", CONTENTION, "the prepared statement's columns changed; prepare it again"),
    Row(2061, "CR_AUTH_PLUGIN_ERR", PERMANENT, "the authentication plugin failed", rejection=Rejection.WRONG_LOGIN, connection_usable=False),
)  # fmt: skip
"""Codes that the client library makes up itself."""

PROXY: tuple[Row, ...] = (
    Row(9001, "ProxySQL: connect timeout", LOST, "no server of the hostgroup answered in time"),
    Row(9002, "ProxySQL: connect failure", LOST, "no server of the hostgroup could be reached"),
    Row(9003, "ProxySQL: command not supported", PERMANENT, "ProxySQL does not forward this command", rejection=Rejection.OTHER),
    Row(9004, "ProxySQL: backend offline", LOST, "the server behind the proxy went offline"),
    Row(9006, "ProxySQL: locked to another hostgroup", PERMANENT, "the session is pinned to another hostgroup", rejection=Rejection.OTHER),
)  # fmt: skip
"""Codes that ProxySQL answers in the server's place; behind it, the connection to the server may be gone."""
