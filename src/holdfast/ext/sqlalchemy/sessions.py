"""The sessions that transaction functions get: ordinary ones, except that only Holdfast may end their transaction."""

from __future__ import annotations

from sqlalchemy import event, orm
from sqlalchemy.ext.asyncio import AsyncSession

from ...errors import UsageError

__all__ = [
    "ReadAsyncSession",
    "ReadSession",
    "UnitAsyncSession",
    "UnitSession",
    "end_by_commit",
    "end_by_rollback",
    "was_acknowledged",
]

_ACKNOWLEDGED = "holdfast_acknowledged"


class UnitSession(orm.Session):
    """The session of one attempt. It begins with its transaction open and ends with it.

    `commit()` and `rollback()` are refused: Holdfast commits when the function returns and rolls back when it raises.
    `begin_nested()` (a savepoint) works as usual.
    """

    def commit(self) -> None:
        """Refused.

        Raises:
            UsageError: always.
        """
        raise UsageError("Holdfast commits when the transaction function returns; take session.commit() out of it")

    def rollback(self) -> None:
        """Refused.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "Holdfast rolls back when the transaction function raises; raise an exception instead of session.rollback(), "
            "or use session.begin_nested() for a part that may fail"
        )


class ReadSession(UnitSession):
    """The session of a read: what would be sent as a change is refused."""


class UnitAsyncSession(AsyncSession):
    """The asynchronous face of a `UnitSession`."""

    sync_session_class = UnitSession


class ReadAsyncSession(UnitAsyncSession):
    """The asynchronous face of a `ReadSession`."""

    sync_session_class = ReadSession


@event.listens_for(UnitSession, "after_commit")
def _remember_acknowledgement(session: orm.Session) -> None:
    # The first listener of the class, so it has run whatever another one raises.
    session.info[_ACKNOWLEDGED] = True


@event.listens_for(ReadSession, "before_flush")
def _refuse_a_write(_session: orm.Session, _context: object, _instances: object) -> None:
    raise UsageError("db.read() only reads; use a transaction function (db.run, db.transaction) to write")


def was_acknowledged(session: UnitSession) -> bool:
    """Whether the server has answered the session's COMMIT."""
    return _ACKNOWLEDGED in session.info


def end_by_commit(session: UnitSession) -> None:
    """Send COMMIT for `session`."""
    orm.Session.commit(session)


def end_by_rollback(session: UnitSession) -> None:
    """Roll `session` back."""
    orm.Session.rollback(session)
