"""The sessions that transaction functions get: ordinary ones, except that only Holdfast may end their transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event, orm
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.visitors import iterate

from ...errors import UsageError

__all__ = [
    "ONLY_READS",
    "ReadAsyncSession",
    "ReadSession",
    "UnitAsyncSession",
    "UnitSession",
    "close",
    "end_by_commit",
    "end_by_rollback",
    "invalidate",
    "refusing_changes",
    "send_pending",
    "was_acknowledged",
]

_ACKNOWLEDGED = "holdfast_acknowledged"

ONLY_READS = "db.read() only reads; use a transaction function (db.run, db.transaction) to write"


class UnitSession(orm.Session):
    """The session of one attempt. It begins with its transaction open and ends with it.

    What would end the transaction is refused: Holdfast commits when the function returns and rolls back when it raises.
    `begin_nested()` (a savepoint) works as usual; hooks that were registered inside one that rolls back are forgotten with it.
    Once the function has ended it does nothing more: what a task in the background did with it would be nobody's transaction.

    Attributes:
        hooks: what the attempt wants called after COMMIT; the unit's own list.
        only_reads: whether it refuses changes now.
    """

    hooks: list[Any]
    only_reads = False
    _is_over = False
    _marks: dict[orm.SessionTransaction, int] | None = None

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

    def close(self) -> None:
        """Refused while the attempt lasts; `with session:` ends with it.

        Raises:
            UsageError: the attempt has not ended.
        """
        self._refuse_to_end("close()")
        super().close()

    def reset(self) -> None:
        """Refused while the attempt lasts.

        Raises:
            UsageError: the attempt has not ended.
        """
        self._refuse_to_end("reset()")
        super().reset()

    def invalidate(self) -> None:
        """Refused while the attempt lasts.

        Raises:
            UsageError: the attempt has not ended.
        """
        self._refuse_to_end("invalidate()")
        super().invalidate()

    def begin(self, nested: bool = False) -> orm.SessionTransaction:
        """As in SQLAlchemy: a savepoint where it is nested, also by way of `begin_nested()`; else refused, as one has begun."""
        began = super().begin(nested)
        if nested:
            # SAVEPOINT is sent with the first statement in it. Where none follows, `givings` hear of neither it nor its end.
            if self._marks is None:
                self._marks = {}
                event.listen(self, "after_soft_rollback", _forget_hooks)
            self._marks[began] = len(self.hooks)
        return began

    def _autobegin_t(self, begin: bool = False) -> orm.SessionTransaction:
        # Where every use of a session comes by that needs a transaction.
        if self._is_over:
            raise UsageError(
                "the transaction function has ended, and its session with it; do inside what needs the session, hand the "
                "results out, and give a background task an operation of its own (db.run)"
            )
        return super()._autobegin_t(begin)

    def _bulk_save_mappings(self, *args: Any, **kwargs: Any) -> None:
        # Where bulk_save_objects() and its like come by, which neither flush nor execute.
        if self.only_reads:
            raise UsageError(ONLY_READS)
        super()._bulk_save_mappings(*args, **kwargs)

    def _refuse_to_end(self, how: str) -> None:
        if not self._is_over:
            raise UsageError(
                f"Holdfast ends the session when the transaction function has ended; take session.{how} out of it, "
                "or the `with` block around the session"
            )


class ReadSession(UnitSession):
    """The session of a read: what would be sent as a change is refused."""

    only_reads = True


class UnitAsyncSession(AsyncSession):
    """The asynchronous face of a `UnitSession`."""

    sync_session_class = UnitSession


class ReadAsyncSession(UnitAsyncSession):
    """The asynchronous face of a `ReadSession`."""

    sync_session_class = ReadSession


@event.listens_for(UnitSession, "after_commit")
def _remember_acknowledgement(session: orm.Session) -> None:
    # The first listener of the class, so it has run whatever another one raises. It is called for a released savepoint, too.
    if not session.in_nested_transaction():
        session.info[_ACKNOWLEDGED] = True


@event.listens_for(ReadSession, "before_flush")
def _refuse_a_flush(_session: orm.Session, _context: object, _instances: object) -> None:
    raise UsageError(ONLY_READS)


@event.listens_for(ReadSession, "do_orm_execute")
def _refuse_a_change(state: orm.ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        raise UsageError(ONLY_READS)


def _refuse_a_changing_statement(_connection: Connection, statement: object, *_: object) -> None:
    # What goes past the session, and a SELECT that holds an INSERT. Of a text nobody knows what it does.
    if isinstance(statement, ClauseElement) and any(getattr(part, "is_dml", False) for part in iterate(statement)):
        raise UsageError(ONLY_READS)


@contextmanager
def refusing_changes(session: UnitSession, connection: Connection) -> Iterator[None]:
    """Have `session` refuse for a while what a `ReadSession` does, and its `connection` what changes something.

    The read ends with no ROLLBACK of its own, so here the connection is asked as well.
    """
    listeners: tuple[tuple[object, str, Callable[..., None]], ...] = (
        (session, "before_flush", _refuse_a_flush),
        (session, "do_orm_execute", _refuse_a_change),
        (connection, "before_execute", _refuse_a_changing_statement),
    )
    session.only_reads = True
    for target, name, listener in listeners:
        event.listen(target, name, listener)
    try:
        yield
    finally:
        for target, name, listener in listeners:
            event.remove(target, name, listener)
        session.only_reads = False


def send_pending(session: UnitSession) -> None:
    """Send what is pending, as a query would; not where the caller has told SQLAlchemy to wait, nor in the middle of a flush."""
    session._autoflush()


def _forget_hooks(session: orm.Session, ended: orm.SessionTransaction) -> None:
    assert isinstance(session, UnitSession)
    assert session._marks is not None
    hooks_before = session._marks.pop(ended, None)
    if hooks_before is not None:
        del session.hooks[hooks_before:]


def was_acknowledged(session: UnitSession) -> bool:
    """Whether the server has answered the session's COMMIT."""
    return _ACKNOWLEDGED in session.info


def end_by_commit(session: UnitSession) -> None:
    """Send COMMIT for `session`."""
    orm.Session.commit(session)


def end_by_rollback(session: UnitSession) -> None:
    """Roll `session` back."""
    orm.Session.rollback(session)


def close(session: UnitSession) -> None:
    """Let go of what `session` holds, and of the session."""
    session._is_over = True
    orm.Session.close(session)


def invalidate(session: UnitSession) -> None:
    """As `close`, and close the connection under it."""
    session._is_over = True
    orm.Session.invalidate(session)
