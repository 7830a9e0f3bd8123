"""What the body of an attempt swallows: an error after which the transaction may be gone must not be committed over.

Most servers undo the one statement that failed, and the body may go on. Some errors take the whole transaction with them, and
what the body sends after that would be all that is saved:

- a deadlock, a lost connection and whatever else is no fault of the statement (`FailureClass`);
- on PostgreSQL any, until a savepoint that was there before is rolled back;
- on SQLite what ends the transaction itself: `RAISE(ROLLBACK)`, `ON CONFLICT ROLLBACK`, a full disk. What comes after would be
  saved at once, statement by statement. So a transaction is begun anew on the spot, for the attempt's rollback to undo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import exc

from ...dialects import Flavour, classify
from ...errors import HoldfastError
from ...outcome import Failure, FailureClass, Stage

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, ExceptionContext

    from .given import Givings
    from .runtime import Runtime

__all__ = ["NoticesErrors"]

_LOCK_WAIT = 1205


class NoticesErrors:
    """The part of a unit that hears of failed statements; what it keeps is forgotten with each attempt."""

    runtime: Runtime
    connection: Connection | None
    givings: Givings | None
    _handled: BaseException | None
    _commit_sent: bool
    _swallowed: BaseException | None
    _swallowed_failure: Failure | None
    _swallowed_inside: frozenset[str]
    _last_error: BaseException | None

    def on_error(self, context: ExceptionContext) -> None:
        """A statement failed. If the body swallows it, the transaction may be gone and must not be committed."""
        if isinstance(context.original_exception, HoldfastError):
            return  # a refusal of ours: nothing was sent
        error = context.sqlalchemy_exception or context.original_exception
        failure = self.note(error)
        if self.runtime.flavour is Flavour.SQLITE and not self._commit_sent and self._begins_anew():
            self._keep(error, failure, frozenset())

    def note(self, error: BaseException) -> Failure:
        """A statement of the body failed with `error`; what that means."""
        self._last_error = error
        failure = classify(error, stage=Stage.BODY, flavour=self.runtime.flavour_or_none, handled=self._handled)
        ruined = failure.failure_class is not FailureClass.PERMANENT or self.runtime.flavour is Flavour.POSTGRESQL
        if ruined and self._swallowed is None:
            self._keep(error, failure, frozenset() if self.givings is None else self.givings.savepoints())
        return failure

    def on_savepoint_rollback(self, name: str) -> None:
        """A savepoint undid the statement that failed, where the server still had it and the statement came after it."""
        self._last_error, failure = None, self._swallowed_failure
        if failure is None or not failure.connection_usable or name not in self._swallowed_inside:
            return
        undone = failure.failure_class is FailureClass.PERMANENT or self.runtime.flavour is Flavour.POSTGRESQL
        if undone or failure.code == _LOCK_WAIT:
            self._swallowed = self._swallowed_failure = None

    def raise_mendable(self) -> None:
        """Raise what the body swallowed, if another attempt could mend it. For a body that answers errors instead of raising."""
        swallowed, failure = self._swallowed, self._swallowed_failure
        if swallowed is not None and failure is not None and failure.failure_class is not FailureClass.PERMANENT:
            self._raise_swallowed(swallowed)

    def _raise_swallowed(self, swallowed: BaseException) -> NoReturn:
        # The body's own timeout cut a statement off. Nobody has cancelled the operation, so it must not look as if.
        cut = exc.DisconnectionError("a statement was cut off, and its connection closed")
        raise swallowed if isinstance(swallowed, Exception) else cut

    def _keep(self, error: BaseException, failure: Failure, inside: frozenset[str]) -> None:
        self._swallowed, self._swallowed_failure, self._swallowed_inside = error, failure, inside

    def _begins_anew(self) -> bool:
        """Whether SQLite has ended the transaction; then another one is open now, or the connection is closed."""
        connection = self.connection
        if connection is None or connection.invalidated:
            return False
        driver: Any = connection.connection.driver_connection
        try:
            if driver.in_transaction:
                return False
            cursor = connection.connection.cursor()
            cursor.execute("BEGIN")  # without a lock, as nothing of it is going to stay
            cursor.close()
        except (connection.dialect.loaded_dbapi.Error, ValueError) as error:  # the latter: aiosqlite, closed
            connection.invalidate(error)
        return True
