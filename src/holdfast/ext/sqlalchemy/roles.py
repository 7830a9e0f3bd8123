"""Does this server take writes? The question for each flavour, and what the answers mean. Pure: `failover` asks.

Sources: MariaDB and MySQL show their variables and status to every user, also on a Galera node without a quorum, where any SELECT
is refused. `wsrep_local_state` 4 is "synced"; a donor (2) serves writes as long as `wsrep_ready` is ON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...dialects import Flavour
from ...failover import Proof

__all__ = ["CATCH_UP", "proof_from", "questions"]

_VARIABLES = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'super_read_only', 'offline_mode', 'wsrep_on')"
_STATUS = (
    "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_ready', 'wsrep_cluster_status', 'wsrep_local_state_comment')"
)

CATCH_UP = ("SET SESSION wsrep_sync_wait = 1", "SELECT 1")
"""A Galera node answers the SELECT after it has applied all that its cluster had acknowledged before."""


def questions(flavour: Flavour) -> tuple[str, ...]:
    """The statements to ask; each returns rows for `proof_from`."""
    if flavour is Flavour.POSTGRESQL:
        return ("SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')",)
    if flavour is Flavour.MARIADB:
        return (_VARIABLES, _STATUS)
    return (_VARIABLES,)


def proof_from(flavour: Flavour, answers: Sequence[Sequence[Sequence[Any]]]) -> Proof:
    """What the rows of each question, in order, say about the server."""
    if flavour is Flavour.POSTGRESQL:
        in_recovery, read_only = answers[0][0]
        if in_recovery:
            return Proof(writable=False, reason="it is a standby (pg_is_in_recovery)")
        if read_only == "on":
            return Proof(writable=False, reason="it is read-only (default_transaction_read_only)")
        return Proof(writable=True)
    shown = {str(row[0]).lower(): str(row[1]) for rows in answers for row in rows}
    clustered = shown.get("wsrep_on") == "ON"
    for variable in ("read_only", "super_read_only", "offline_mode"):
        # MariaDB 12 knows kinds of read-only beside ON.
        if shown.get(variable, "OFF") not in {"OFF", "0"}:
            return Proof(writable=False, clustered=clustered, reason=f"it has {variable}={shown[variable]}")
    if clustered and shown.get("wsrep_ready") != "ON":
        state = f"{shown.get('wsrep_cluster_status')}, {shown.get('wsrep_local_state_comment')}"
        return Proof(writable=False, clustered=True, reason=f"its cluster does not serve it ({state})")
    return Proof(writable=True, clustered=clustered)
