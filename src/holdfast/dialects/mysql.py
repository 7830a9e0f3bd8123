"""MySQL: its own codes, on top of the family's. Measured on 9.7; names are those of 8.0 and later."""

from __future__ import annotations

from ..outcome import Rejection
from .mysql_family import CLIENT, PROXY, SERVER
from .rows import AMBIGUOUS, CANCELLED, CONTENTION, EXHAUSTED, LOST, OVERLOAD, PERMANENT, ROLE_CHANGED, Row, Table

__all__ = ["TABLE"]

_OWN = (
    Row(1020, "ER_CHECKREAD", CONTENTION, "the row changed since it was read (MEMORY, MyISAM and NDB tables only)"),
    Row(3024, "ER_QUERY_TIMEOUT", CANCELLED, "max_execution_time; limits SELECT only"),
    Row(3032, "ER_SERVER_OFFLINE_MODE", ROLE_CHANGED, "offline_mode is on", connection_usable=False),
    Row(3058, "ER_USER_LOCK_DEADLOCK", CONTENTION, "deadlock between GET_LOCK calls; the transaction is still open"),
    Row(3098, "ER_BEFORE_DML_VALIDATION_ERROR", PERMANENT, "Group Replication refuses this table", rejection=Rejection.OTHER),
    Row(3100, "ER_RUN_HOOK_ERROR", AMBIGUOUS, "Group Replication failed at COMMIT; after a lost majority the others may have committed it"),
    Row(3101, "ER_TRANSACTION_ROLLBACK_DURING_COMMIT", CONTENTION, "the group certified another transaction first", aborts_commit=True),
    Row(3118, "ER_ACCOUNT_HAS_BEEN_LOCKED", PERMANENT, "the account is locked", rejection=Rejection.WRONG_LOGIN, connection_usable=False),
    Row(3132, "ER_LOCKING_SERVICE_DEADLOCK", CONTENTION, "deadlock in the locking service"),
    Row(3133, "ER_LOCKING_SERVICE_TIMEOUT", CONTENTION, "waited too long for the locking service"),
    Row(3140, "ER_INVALID_JSON_TEXT", PERMANENT, "malformed JSON", rejection=Rejection.INVALID_VALUE, details=r"for column '(?:(?P<table>[^'.]+)\.)?(?P<columns>[^'.]+)'\.\s*$"),
    Row(3168, "ER_SERVER_ISNT_AVAILABLE", ROLE_CHANGED, "the server does not take part yet or any more", connection_usable=False),
    Row(3169, "ER_SESSION_WAS_KILLED", LOST, "KILL ended the session"),
    Row(3170, "ER_CAPACITY_EXCEEDED", PERMANENT, "the optimizer's memory limit", rejection=Rejection.TOO_LARGE),
    Row(3572, "ER_LOCK_NOWAIT", CONTENTION, "NOWAIT met a lock; the transaction is still open"),
    Row(3675, "ER_DISK_FULL_NOWAIT", EXHAUSTED, "the disk is full"),
    Row(3781, "ER_GR_HOLD_WAIT_TIMEOUT", OVERLOAD, "the new primary is still applying its backlog"),
    Row(3782, "ER_GR_HOLD_KILLED", CANCELLED, "stopped while the new primary was applying its backlog"),
    Row(3796, "ER_GRP_TRX_CONSISTENCY_NOT_ALLOWED", PERMANENT, "this consistency level is not allowed here", rejection=Rejection.OTHER),
    Row(3797, "ER_GRP_TRX_CONSISTENCY_BEFORE", ROLE_CHANGED, "the member could not catch up in time; the statement did not run"),
    Row(3798, "ER_GRP_TRX_CONSISTENCY_AFTER_ON_TRX_BEGIN", ROLE_CHANGED, "earlier transactions of the group did not finish in time"),
    Row(3799, "ER_GRP_TRX_CONSISTENCY_BEGIN_NOT_ALLOWED", ROLE_CHANGED, "the member is not online"),
    Row(3819, "ER_CHECK_CONSTRAINT_VIOLATED", PERMANENT, "CHECK constraint", aborts_commit=True, rejection=Rejection.CHECK, details=r"^Check constraint '(?P<constraint>[^']+)' is violated"),
    Row(3985, "ER_MDL_OUT_OF_RESOURCES", OVERLOAD, "no memory for metadata locks"),
    Row(3989, "ER_SCHEMA_READ_ONLY", PERMANENT, "the schema is read-only", rejection=Rejection.ACCESS_DENIED),
    Row(4025, "ER_INNODB_AUTOEXTEND_SIZE_OUT_OF_RANGE", PERMANENT, "AUTOEXTEND_SIZE is out of range; MariaDB means CHECK by this number", rejection=Rejection.OTHER),
    Row(4031, "ER_CLIENT_INTERACTION_TIMEOUT", LOST, "idle longer than wait_timeout; MariaDB means something else by this number"),
)  # fmt: skip

TABLE = Table(SERVER, CLIENT, PROXY, _OWN)
"""Every code Holdfast knows of a MySQL server."""
