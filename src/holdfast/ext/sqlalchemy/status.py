"""PostgreSQL's own record of what became of a transaction.

It keeps the fate of a transaction by its number, for as long as the number is not frozen away (two billion transactions). After a
promotion the numbers go on from where the new primary was, so that one the old primary had used may be another transaction: the
name of the timeline is remembered with the number, and on another timeline nothing is answered.

Source: PostgreSQL's documentation, "Transaction ID and Snapshot Information Functions" and "Backup Control Functions".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from ...transaction import ProbeAnswer

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["fate_of", "transaction_of"]

_TIMELINE = "LEFT(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"

_OWN = text(
    f"SELECT CASE WHEN own IS NOT NULL THEN {_TIMELINE} || '/' || CAST(own AS TEXT) END "
    "FROM (SELECT pg_current_xact_id_if_assigned() AS own) AS mine"
)
_FATE = text(
    "SELECT CASE WHEN pg_is_in_recovery() THEN 'in progress' "
    f"WHEN {_TIMELINE} <> :timeline THEN 'elsewhere' "
    "ELSE pg_xact_status(CAST(CAST(:number AS TEXT) AS xid8)) END"
)
_ANSWERS = {
    "committed": ProbeAnswer.COMMITTED,
    "aborted": ProbeAnswer.ABORTED,
    "in progress": ProbeAnswer.IN_PROGRESS,
}


def transaction_of(connection: Connection) -> str | None:
    """What names the transaction that is open on `connection`; None while it has written nothing."""
    name: str | None = connection.scalar(_OWN)
    return name


def fate_of(connection: Connection, transaction: str) -> ProbeAnswer:
    """What became of a transaction that `transaction_of` named."""
    timeline, _, number = transaction.partition("/")
    status = connection.scalar(_FATE, {"timeline": timeline, "number": number})
    return _ANSWERS.get(str(status), ProbeAnswer.UNKNOWN)
