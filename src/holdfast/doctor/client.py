"""Checks where both sides meet: limits of the session against the deadline, and room for the pools.

The numbers a session should have are those of `holdfast.ext.sqlalchemy.pushdown`: waits for locks end before the deadline,
statements after it, and a silent transaction later still. Holdfast sets them when it connects. What is found here did not arrive
(a proxy in between) or is set for longer or shorter than the deadline by somebody else.
"""

from __future__ import annotations

from collections.abc import Iterator

from .findings import ClientFacts, Severity, Symptom

__all__ = ["SIDE_CONNECTIONS", "idle_limit", "lock_wait", "room_for_pools", "session_lifetime", "statement_limit"]

SIDE_CONNECTIONS = 1
"""A process opens this many beside its pool, to end its own sessions on the server."""


def lock_wait(name: str, seconds: float | None, client: ClientFacts) -> Iterator[Symptom]:
    """A wait for locks that lasts longer than the caller does.

    Args:
        name: the setting.
        seconds: its value in the session; 0 is without end, None where the server has none such.
        client: the deadline.
    """
    if seconds is None or 0 < seconds < client.deadline_s:
        return
    yield Symptom(
        Severity.WARNING,
        f"{name} = {_said(seconds)}, the deadline is {client.deadline_s:g} s",
        "the caller gives up first: it gets a cut connection instead of the server's clean error, and a new one must be made",
        f"set {name} below the deadline, or raise the deadline: {_WHY_NOT_OURS}",
    )


def statement_limit(name: str, seconds: float | None, client: ClientFacts) -> Iterator[Symptom]:
    """A limit for statements that is missing, or ends them before the caller would.

    Args: as `lock_wait`.
    """
    if seconds is None or seconds >= client.deadline_s:
        return
    if seconds <= 0:
        yield Symptom(
            Severity.WARNING,
            f"{name} = 0 (none)",
            "what a caller who died was running goes on until it is done, and holds its locks",
            f"set {name} a little above the deadline: {_WHY_NOT_OURS}",
        )
        return
    yield Symptom(
        Severity.WARNING,
        f"{name} = {seconds:g} s, the deadline is {client.deadline_s:g} s",
        "it holds for COMMIT as well, which it can cut short while the outcome is still open",
        f"set {name} a little above the deadline: {_WHY_NOT_OURS}",
    )


def idle_limit(name: str, seconds: float | None, client: ClientFacts) -> Iterator[Symptom]:
    """A limit for silent transactions that is missing, or shorter than a transaction may take.

    Args: as `lock_wait`.
    """
    if seconds is None or seconds >= client.deadline_s:
        return
    if seconds <= 0:
        reason = "the locks of a caller whose network broke stay until the server's keepalive finds out, hours later"
    else:
        reason = "the server ends transactions whose callers still have time"
    yield Symptom(
        Severity.WARNING,
        f"{name} = {_said(seconds)}, the deadline is {client.deadline_s:g} s",
        reason,
        f"set {name} a second above the deadline: {_WHY_NOT_OURS}",
    )


def session_lifetime(name: str, seconds: float | None, client: ClientFacts) -> Iterator[Symptom]:
    """A server that closes idle connections before the pool replaces them.

    Args: as `lock_wait`.
    """
    if not seconds or (client.recycle_s is not None and seconds > client.recycle_s):
        return
    kept = "for good" if client.recycle_s is None else f"for {client.recycle_s:g} s"
    yield Symptom(
        Severity.WARNING,
        f"{name} = {seconds:g} s, the pool keeps connections {kept}",
        "idle connections are dead when the pool hands them out: each costs a ping and a new connection, or an attempt",
        f"raise {name} above the pool's recycle, or set PoolSettings(recycle=...) below {seconds:g} s",
    )


def room_for_pools(name: str, limit: float | None, client: ClientFacts) -> Iterator[Symptom]:
    """Fewer connections than the pools may open together.

    Args:
        name: the setting.
        limit: how many this user may have, reserved ones left out; None or below 0 where there is no limit.
        client: processes and pools.
    """
    each = client.pool_open + SIDE_CONNECTIONS
    wanted = client.processes * each
    if limit is None or limit < 0 or limit >= wanted:
        return
    per_process = int(limit) // client.processes - SIDE_CONNECTIONS
    cure = f"raise {name} to {wanted} or more"
    if per_process >= 1:
        cure += f", or set PoolSettings(open_max={per_process})"
    yield Symptom(
        Severity.WARNING,
        f"{name} leaves room for {limit:g} connections, {client.processes} x ({client.pool_open} + {SIDE_CONNECTIONS}) "
        f"may be opened",
        "under load the server refuses connections, which costs attempts just when there is no time for them; a pool of the "
        "right size lets callers queue instead",
        cure,
    )


def _said(seconds: float) -> str:
    return "0 (no limit)" if seconds <= 0 else f"{seconds:g} s"


_WHY_NOT_OURS = "Holdfast does so when it connects, so something between here and the server took it back"
