"""MariaDB, also with Galera: its own codes, on top of the family's. Measured on 10.11 and 11.8."""

from __future__ import annotations

from ..outcome import Rejection
from .mysql_family import CLIENT, PROXY, SERVER
from .rows import AMBIGUOUS, CANCELLED, CONTENTION, LOST, PERMANENT, Row, Table

__all__ = ["TABLE"]

_OWN = (
    Row(1020, "ER_CHECKREAD", CONTENTION, "the row changed after this snapshot was taken (innodb_snapshot_isolation)", aborts_commit=True),
    Row(1028, "ER_FILSORT_ABORT", CANCELLED, "the sort was stopped"),
    Row(1927, "ER_CONNECTION_KILLED", LOST, "KILL ended the connection"),
    Row(1964, "ER_PRIOR_COMMIT_FAILED", CONTENTION, "an earlier transaction of the same commit order failed"),
    Row(1969, "ER_STATEMENT_TIMEOUT", CANCELLED, "max_statement_time; limits every statement, also lock waits"),
    Row(4025, "ER_CONSTRAINT_FAILED", PERMANENT, "CHECK constraint", aborts_commit=True, rejection=Rejection.CHECK, details=r"^CONSTRAINT `(?P<constraint>[^`]+)` failed for `[^`]+`\.`(?P<table>[^`]+)`"),
    Row(4031, "ER_REFERENCED_TRG_DOES_NOT_EXIST", PERMANENT, "no such trigger; MySQL means an idle timeout by this number", rejection=Rejection.OTHER),
    Row(4151, "ER_ACCOUNT_HAS_BEEN_LOCKED", PERMANENT, "the account is locked", rejection=Rejection.WRONG_LOGIN, connection_usable=False),
    Row(4165, "ER_GALERA_REPLICATION_NOT_SUPPORTED", PERMANENT, "Galera does not replicate this", rejection=Rejection.OTHER),
    Row(4173, "ER_DATA_WAS_COMMITED_UNDER_ROLLBACK", AMBIGUOUS, "some data was committed although the transaction was rolled back"),
)  # fmt: skip

TABLE = Table(SERVER, CLIENT, PROXY, _OWN)
"""Every code Holdfast knows of a MariaDB server."""
