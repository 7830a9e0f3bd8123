"""`echo`: a number goes to the server and must come back, while callers cancel in the middle of it.

A connection that goes back to the pool with an answer still on its way gives it to the next caller: another request's rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, MetaData, cast, literal, select

from .workload import Call, Identity, TableWorkload

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ...clock import Random

__all__ = ["Echo"]

_CANCELLED = 0.1
_PATIENCE_S = 0.004
"""The longest a caller waits before it cancels: about what an echo takes, so that every moment of it is met."""


class Echo(TableWorkload):
    """`SELECT :nonce`, one in ten cancelled."""

    name = "echo"
    metadata = MetaData()
    final_name = "echo"
    reading = frozenset({"echo"})

    def next(self, random: Random, identity: Identity) -> Call:
        """A nonce of its own, and perhaps an impatient caller."""
        patience = random() * _PATIENCE_S if random() < _CANCELLED else None
        return Call("echo", {"nonce": identity.number}, identity.text, reads=True, cancel_after=patience)

    def perform(self, session: Session, call: Call) -> dict[str, Any]:
        """There and back, in a statement that also takes the server a moment."""
        return {"nonce": session.scalar(select(cast(literal(call.v["nonce"]), Integer)))}

    def final(self, session: Session) -> dict[str, Any]:  # noqa: ARG002 - nothing was written
        """Nothing is left behind."""
        return {}
