"""Idempotency-Keys in the database: the key's row, the effect and the answer are one transaction.

    app = Idempotency(app, SqlIdempotency(db))

The whole handler is the body of one keyed operation. The key is claimed before it runs; every `db.transaction`, `db.save` and
`db.read` of the same database in it joins; its answer is written into the key's row, and all of it becomes durable with one
COMMIT, or none of it does. So there is no lease, nothing to take over and no request stuck "in progress": when a process is
killed, the server rolls back, and the next request with the key runs. When only the answer was lost, it is in the row.

What follows from that:

- After a deadlock, a lost connection or a failover the *request* is run again, with the same body, as an operation would be:
  also if the application has turned the error into an answer of its own, as frameworks do.
- A transaction is open while the handler runs. What waits long for something else belongs before it, or behind `after_commit`.
- What the application does after its answer (background tasks) comes after COMMIT, and is not part of the transaction.
- The handler must run in the task that called the application. A middleware that starts another one (`BaseHTTPMiddleware`) has
  the database refuse, with a `UsageError`.
- Connections that the handler takes past `db`, and other databases, are not part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...asgi.answers import Answer, AnswerCodec, StoredAnswer
from ...asgi.keyed_request import Fate
from ...bounds import instance_of
from ...errors import NotCommitted, OutcomeUnknown
from ...operation import OperationKey, ResultCodec
from .async_database import AsyncDatabase
from .current import running_unit
from .keyrows import live_keys
from .operations import run_async
from .options import OperationOptions

if TYPE_CHECKING:
    from ...asgi.idempotency import KeyedRun
    from ...asgi.keyed_request import KeyIdentity
    from .sessions import UnitAsyncSession

__all__ = ["SqlIdempotency"]

_NAME = "request"


class SqlIdempotency:
    """An `IdempotencyStore` in the key rows of a database. Safe to share between the tasks of one event loop.

    A key lives as long as `DatabaseSettings.key_ttl` says (72 hours), from its COMMIT; expired rows are purged by the database.
    A keyed request has the deadline of the request, at most that of the database's operations.

    Args:
        db: the database that the handlers write to; its `migrate` makes the table.
        codec: turns a `StoredAnswer` into text and back; default `AnswerCodec()`. Wrap it to encrypt.

    Raises:
        ConfigurationError: `db` is no `AsyncDatabase`.
    """

    belongs_to_task = True

    def __init__(self, db: AsyncDatabase, *, codec: ResultCodec | None = None) -> None:
        self._db = instance_of(db, AsyncDatabase, "SqlIdempotency.db")
        self._runtime = db._runtime
        self._codec = codec or AnswerCodec()

    async def answer(self, identity: KeyIdentity, run: KeyedRun) -> Answer | StoredAnswer:
        """As in `IdempotencyStore`."""

        async def body(_session: UnitAsyncSession) -> Answer | StoredAnswer:
            answer = await run()
            fate = run.fate_of(answer)
            if fate is not Fate.APPLIED:
                running_unit(self._runtime, _NAME).raise_mendable()
                raise _RolledBack(answer, kept=fate is Fate.REFUSED)
            return answer

        async def refused(_session: UnitAsyncSession) -> Answer | StoredAnswer:
            return undone.answer

        key = OperationKey(identity.scope, identity.key)
        options = OperationOptions(_NAME, codec=_Keeping(run, self._codec))
        try:
            return await run_async(
                self._runtime, options, key, identity.fingerprint, body, on_waiting=run.waits_for_key
            )
        except _RolledBack as caught:
            undone = caught
        if undone.kept:
            try:
                # There is no effect to be torn from it. If another request was faster, its answer is the one that counts.
                return await run_async(self._runtime, options, key, identity.fingerprint, refused)
            except (NotCommitted, OutcomeUnknown):
                run.give_back()
        return undone.answer

    async def live_keys(self, scope: str, most: int) -> int:
        """As in `IdempotencyStore`."""

        async def count(session: UnitAsyncSession) -> int:
            live: int = (await session.execute(live_keys(self._runtime.flavour, scope, most))).scalar_one()
            return live

        return await self._db.read(count)


class _RolledBack(Exception):
    """The application refused the request: what it wrote goes, and its answer is carried out past the rollback."""

    def __init__(self, answer: Answer, *, kept: bool) -> None:
        super().__init__(f"answered {answer.status}: rolled back")
        self.answer = answer
        self.kept = kept


class _Keeping:
    """The codec of one request: what is encoded is what its rules keep."""

    __slots__ = ("_codec", "_run")

    def __init__(self, run: KeyedRun, codec: ResultCodec) -> None:
        self._run = run
        self._codec = codec

    def encode(self, result: Answer) -> str:
        return self._codec.encode(self._run.to_keep(result))

    def decode(self, text: str) -> StoredAnswer:
        answer: StoredAnswer = self._codec.decode(text)
        return answer
