"""Checks of a Galera cluster, through one of its nodes. They find nothing on a server that has no wsrep provider.

Sources: MariaDB's and Codership's documentation; figures measured on three nodes of MariaDB 10.11 (docs/servers.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .findings import Check, Evidence, Severity, Symptom

__all__ = ["CHECKS", "GLOBALS", "SESSION", "STATUS", "is_galera", "suspect_timeout_s"]

GLOBALS = (
    "innodb_autoinc_lock_mode",
    "wsrep_certify_nonpk",
    "wsrep_on",
    "wsrep_osu_method",
    "wsrep_provider",
    "wsrep_provider_options",
    "wsrep_retry_autocommit",
)
"""The global variables that `CHECKS` look at."""
SESSION = ("wsrep_sync_wait",)
"""The session's variables that `CHECKS` look at."""
STATUS = (
    "wsrep_cluster_size",
    "wsrep_cluster_status",
    "wsrep_local_state",
    "wsrep_local_state_comment",
    "wsrep_ready",
)
"""The status variables that `CHECKS` look at."""

_SUSPECT_DEFAULT_S = 5.0
_STALL_BEYOND_SUSPECT_S = 2.0
"""Survivors of a node loss stood still for 6.0 to 6.35 s with the default of 5 s: this much longer a deadline must be."""
_SYNCED = "4"


def is_galera(seen: Evidence) -> bool:
    """Whether the server was started with a wsrep provider."""
    provider = seen.text("globals", "wsrep_provider")
    return provider is not None and provider.lower() not in ("", "none")


def suspect_timeout_s(options: str) -> float:
    """`evs.suspect_timeout` out of `wsrep_provider_options`, in seconds; the default of 5 s where it is not there.

    Galera writes periods by ISO 8601: `PT5S`, `PT1M30S`.
    """
    found = re.search(r"(?:^|[; ])evs\.suspect_timeout *= *PT(?:(\d{1,6})M)?(?:(\d{1,6}(?:\.\d{1,9})?)S)?", options)
    if found is None or not (found[1] or found[2]):
        return _SUSPECT_DEFAULT_S
    return 60.0 * int(found[1] or 0) + float(found[2] or 0)


def _replicating(seen: Evidence) -> Iterator[Symptom]:
    if is_galera(seen) and (seen.text("globals", "wsrep_on") or "").upper() not in ("ON", "1"):
        yield Symptom(
            Severity.ERROR,
            "wsrep_on = OFF on a node of a cluster",
            "what is written here stays on this node, and is lost when it joins the cluster again",
            "wsrep_on = ON in the configuration file, and restart the node",
        )


def _member(seen: Evidence) -> Iterator[Symptom]:
    if not is_galera(seen):
        return
    status = seen.text("status", "wsrep_cluster_status") or "unknown"
    if status.lower() != "primary":
        yield Symptom(
            Severity.ERROR,
            f"wsrep_cluster_status = {status}",
            "this node is cut off from the majority and refuses every statement with error 1047",
            "point the URL at a node of the primary component, or bring back the majority",
        )
        return
    state = seen.text("status", "wsrep_local_state")
    ready = (seen.text("status", "wsrep_ready") or "ON").upper()
    if state != _SYNCED or ready != "ON":
        comment = seen.text("status", "wsrep_local_state_comment") or "unknown"
        yield Symptom(
            Severity.ERROR,
            f"wsrep_local_state = {state} ({comment}), wsrep_ready = {ready}",
            "the node is joining, giving its data to another one, or desynchronised: its data may be old, or it takes no "
            "statements",
            "point the URL at a node whose wsrep_local_state is 4 (Synced)",
        )


def _size(seen: Evidence) -> Iterator[Symptom]:
    size = seen.number("status", "wsrep_cluster_size") if is_galera(seen) else None
    if size is None or (size >= 3 and size % 2 == 1):
        return
    if size < 3:
        reason = (
            "when one node is lost the other has no majority and stops, too" if size == 2 else "there is no second node"
        )
    else:
        reason = "when the network splits it in halves, neither has a majority and both stop"
    yield Symptom(
        Severity.WARNING,
        f"wsrep_cluster_size = {size:g}",
        reason,
        "run 3, 5 or 7 nodes, or add an arbitrator (garbd), which counts for the majority",
    )


def _causal_reads(seen: Evidence) -> Iterator[Symptom]:
    value = seen.number("session", "wsrep_sync_wait") if is_galera(seen) else None
    if value is not None and not int(value) & 1:
        yield Symptom(
            Severity.WARNING,
            f"wsrep_sync_wait = {value:g}",
            "a read on another node may miss what was acknowledged just before: 158 of 1,000 did, on an idle cluster",
            "SET GLOBAL wsrep_sync_wait = 1, or in the session that reads after a failover; a read then waits about 0.2 ms "
            "longer",
        )


def _deadline(seen: Evidence) -> Iterator[Symptom]:
    if not is_galera(seen):
        return
    suspect_s = suspect_timeout_s(seen.text("globals", "wsrep_provider_options") or "")
    needed_s = suspect_s + _STALL_BEYOND_SUSPECT_S
    if seen.client.deadline_s < needed_s:
        yield Symptom(
            Severity.WARNING,
            f"evs.suspect_timeout = {suspect_s:g} s, the deadline is {seen.client.deadline_s:g} s",
            f"whenever a node is lost the others stand still for about {suspect_s + 1:g} s, and what has less time fails",
            f"DatabaseSettings(deadline={needed_s:g}) or more, or a shorter evs.suspect_timeout in wsrep_provider_options "
            f"of every node",
        )


def _autoincrement(seen: Evidence) -> Iterator[Symptom]:
    value = seen.text("globals", "innodb_autoinc_lock_mode") if is_galera(seen) else None
    if value not in (None, "2"):
        yield Symptom(
            Severity.ERROR,
            f"innodb_autoinc_lock_mode = {value}",
            "Galera needs 2: the table's lock of the other modes cannot be taken back from a transaction that lost, and inserts "
            "hang",
            "innodb_autoinc_lock_mode = 2 in the configuration file of every node, and restart them one by one",
        )


def _certification(seen: Evidence) -> Iterator[Symptom]:
    value = seen.text("globals", "wsrep_certify_nonpk") if is_galera(seen) else None
    if value is not None and value.upper() not in ("ON", "1"):
        yield Symptom(
            Severity.ERROR,
            "wsrep_certify_nonpk = OFF",
            "two nodes may both commit changes of the same row of a table without a primary key, and then differ",
            "SET GLOBAL wsrep_certify_nonpk = ON; and the same in the configuration file of every node",
        )


def _schema_changes(seen: Evidence) -> Iterator[Symptom]:
    value = (seen.text("globals", "wsrep_osu_method") or "").upper() if is_galera(seen) else ""
    if value == "RSU":
        yield Symptom(
            Severity.WARNING,
            "wsrep_osu_method = RSU",
            "a schema change runs on one node alone, so db.migrate leaves the others without its tables and columns",
            "SET GLOBAL wsrep_osu_method = TOI; and RSU only in the session that needs it",
        )


def _server_retries(seen: Evidence) -> Iterator[Symptom]:
    value = seen.number("globals", "wsrep_retry_autocommit") if is_galera(seen) else None
    if value is not None and value > 1:
        yield Symptom(
            Severity.NOTE,
            f"wsrep_retry_autocommit = {value:g}",
            "the server repeats single statements by itself, without deadline or budget; transactions gain nothing from it",
            "SET GLOBAL wsrep_retry_autocommit = 1 (the default)",
        )


CHECKS: tuple[Check, ...] = (
    Check("galera-replicating", "wsrep_on", (Severity.ERROR,), _replicating),
    Check("galera-member", "wsrep_cluster_status, wsrep_local_state, wsrep_ready", (Severity.ERROR,), _member),
    Check("galera-size", "wsrep_cluster_size", (Severity.WARNING,), _size),
    Check("galera-causal-reads", "wsrep_sync_wait", (Severity.WARNING,), _causal_reads),
    Check("galera-deadline", "evs.suspect_timeout", (Severity.WARNING,), _deadline),
    Check("galera-autoincrement", "innodb_autoinc_lock_mode", (Severity.ERROR,), _autoincrement),
    Check("galera-certification", "wsrep_certify_nonpk", (Severity.ERROR,), _certification),
    Check("galera-schema-changes", "wsrep_osu_method", (Severity.WARNING,), _schema_changes),
    Check("galera-server-retries", "wsrep_retry_autocommit", (Severity.NOTE,), _server_retries),
)
"""In the order in which they are shown."""
