"""PostgreSQL's own record of what became of a transaction.

It keeps the fate of a transaction by its number, for as long as the number is not frozen away (two billion transactions). Twice a
number may come to mean another transaction, and both are looked for:

- After a promotion the numbers go on from where the new primary was. The name of the timeline is remembered with the number, and
  on another timeline nothing is answered.
- A crash forgets the numbers that no flushed record of the log mentions, and they are given out again: that is what a COMMIT
  that never arrived leaves behind. It also resets the statistics, so the moment of their reset is remembered. After a crash a
  number that is free, aborted or in use again says that nothing was committed; one that is committed may be another's, and is no
  answer.

Source: PostgreSQL's documentation, "Transaction ID and Snapshot Information Functions", "Backup Control Functions" and "The
Cumulative Statistics System" (discarded in crash recovery); the reuse was seen on PostgreSQL 15.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from ...transaction import ProbeAnswer

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["fate_of", "refuse_aborted", "transaction_of"]

_TIMELINE = "LEFT(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"

# Readable by everybody; NULL where there has been no reset.
_CRASH = "COALESCE(CAST(EXTRACT(EPOCH FROM pg_stat_get_bgwriter_stat_reset_time()) AS TEXT), '')"

_OWN = text(
    f"SELECT CASE WHEN own IS NOT NULL THEN {_TIMELINE} || '/' || {_CRASH} || '/' || CAST(own AS TEXT) END "
    "FROM (SELECT pg_current_xact_id_if_assigned() AS own) AS mine"
)
_NUMBER = "CAST(CAST(:number AS TEXT) AS xid8)"
_FATE = text(
    "SELECT CASE WHEN pg_is_in_recovery() THEN 'in progress' "
    f"WHEN {_TIMELINE} <> :timeline THEN 'elsewhere' "
    f"WHEN {_CRASH} = :crash THEN pg_xact_status({_NUMBER}) "
    f"WHEN {_NUMBER} >= pg_snapshot_xmax(pg_current_snapshot()) THEN 'aborted' "
    f"WHEN pg_xact_status({_NUMBER}) IN ('aborted', 'in progress') THEN 'aborted' "
    "ELSE 'maybe another' END"
)
_NOTHING = text("SELECT 1")
_ANSWERS = {
    "committed": ProbeAnswer.COMMITTED,
    "aborted": ProbeAnswer.ABORTED,
    "in progress": ProbeAnswer.IN_PROGRESS,
}


_IN_TRANSACTION = 2
"""libpq's PQTRANS_INTRANS: a transaction is open, and nothing in it has failed."""


def refuse_aborted(connection: Connection) -> None:
    """Make sure that COMMIT would commit: PostgreSQL answers that of a transaction in which something failed with ROLLBACK.

    For where no statement of ours comes before COMMIT that would fail. SQLAlchemy tells of its own statements only; a COPY goes
    through the driver's. psycopg and psycopg2 know how the transaction stands; asyncpg tells nobody, so the server is asked.
    Other servers' connections are left alone.

    Raises:
        DBAPIError: the server's refusal to go on (25P02).
    """
    if connection.dialect.name != "postgresql":
        return
    info = getattr(connection.connection.driver_connection, "info", None)
    if getattr(info, "transaction_status", None) != _IN_TRANSACTION:
        connection.scalar(_NOTHING)


def transaction_of(connection: Connection) -> str | None:
    """What names the transaction that is open on `connection`; None while it has written nothing."""
    name: str | None = connection.scalar(_OWN)
    return name


def fate_of(connection: Connection, transaction: str) -> ProbeAnswer:
    """What became of a transaction that `transaction_of` named."""
    timeline, crash, number = transaction.split("/")
    status = connection.scalar(_FATE, {"timeline": timeline, "crash": crash, "number": number})
    return _ANSWERS.get(str(status), ProbeAnswer.UNKNOWN)
