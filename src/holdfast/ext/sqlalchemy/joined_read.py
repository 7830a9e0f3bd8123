"""A read that joins the transaction around it: it changes nothing there either, though its session may."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from .sessions import ONLY_READS, refusing_changes, send_pending

if TYPE_CHECKING:
    from .options import OperationOptions
    from .sessions import UnitSession
    from .unit import Unit

__all__ = ["only_reading", "send_before_reading"]


def _is_other(session: UnitSession, options: OperationOptions) -> bool:
    return options.read_only and not session.only_reads


def send_before_reading(outer: Unit[Any], options: OperationOptions) -> None:
    """Send what the body around a read has left unsent: what is pending afterwards is the read's doing."""
    assert outer.session is not None
    if _is_other(outer.session, options):
        send_pending(outer.session)


@contextmanager
def only_reading(outer: Unit[Any], options: OperationOptions) -> Iterator[None]:
    """Refuse changes in what runs inside, if it is a read and `outer` is none.

    Raises:
        UsageError: it has left a change to be sent. The whole cannot be committed, as that would be sent with it.
    """
    session = outer.session
    assert session is not None
    if not _is_other(session, options):
        yield
        return
    had_pending = _has_pending(session)  # what could not be sent, as SQLAlchemy was told to wait
    try:
        with refusing_changes(session, outer.connected()):
            yield
    finally:
        if not had_pending and _has_pending(session):
            outer._refusal = UsageError(ONLY_READS)
    if outer._refusal is not None:
        raise outer._refusal


def _has_pending(session: UnitSession) -> bool:
    return bool(session.new or session.dirty or session.deleted)
