"""The port for tasks: a `Unit` whose body is a coroutine function; what talks to the database runs in a greenlet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from sqlalchemy.util import greenlet_spawn

from .current import body_of
from .failover import TurnedAway
from .unit import Ran, Unit

if TYPE_CHECKING:
    from ...operation import Record
    from ...outcome import Failure
    from ...transaction import Do, ProbeAnswer
    from .sessions import UnitAsyncSession

__all__ = ["AsyncUnit"]

T = TypeVar("T")


class AsyncUnit(Generic[T]):
    """A `Unit` whose body is a coroutine function; what talks to the database runs in a greenlet.

    Args:
        unit: what it is for tasks.
        body: called with the attempt's session.
        on_waiting: told whether it waits for the key from now on, or for a connection; None: nobody wants to know.
    """

    def __init__(
        self,
        unit: Unit[T],
        body: Callable[[UnitAsyncSession], Awaitable[T]],
        on_waiting: Callable[[bool], None] | None = None,
    ) -> None:
        self.unit = unit
        self.session: UnitAsyncSession | None = None
        self._body = body
        self._on_waiting = on_waiting

    async def begin(self) -> None:
        """As in `Unit`."""
        if self._on_waiting is not None:
            self._on_waiting(False)
        unit, runtime = self.unit, self.unit.runtime
        unit.forget_attempt()
        failover = runtime.failover
        if failover is not None and failover.gate.closed and not failover.gate.has_let_through(unit.outages):
            await failover.gate.enter_async(unit.expires_at, urgent=unit.has_doubt)
            unit.check_time()
        while True:
            limit = None if unit.has_doubt else runtime.limit
            admission = await limit.acquire_async(expires_at=unit.expires_at) if limit is not None else None
            self.session = unit.async_session = session = runtime.new_async_session(unit.read_only)
            try:
                await greenlet_spawn(unit.begin_on, session.sync_session, admission)
            except TurnedAway as turned:
                await turned.gate.enter_async(
                    unit.expires_at, lost_at_outage=unit.outages, turned_away=True, urgent=unit.has_doubt
                )
                unit.check_time()
            else:
                return

    @property
    def in_cluster(self) -> bool:
        """As in `Unit`."""
        return self.unit.in_cluster

    async def claim(self, attempt: int, *, settling: bool) -> Record | None:
        """As in `Unit`."""
        if self._on_waiting is not None:
            self._on_waiting(True)
        return await greenlet_spawn(lambda: self.unit.claim(attempt, settling=settling))

    async def run(self) -> Ran[T]:
        """As in `Unit`."""
        assert self.session is not None
        with body_of(self.unit):
            result = await self._body(self.session)
        await greenlet_spawn(self.unit.finish_body)
        return Ran(result, self.unit.hooks)

    async def store(self, result: Ran[T]) -> None:
        """As in `Unit`."""
        if self.unit.runtime.key_rows.writes_with_commit:
            self.unit.store(result)  # talks to nobody yet
        else:
            await greenlet_spawn(self.unit.store, result)

    async def commit(self, *, claiming: int | None = None) -> None:
        """As in `Unit`."""
        await greenlet_spawn(lambda: self.unit.commit(claiming=claiming))

    async def roll_back(self) -> None:
        """As in `Unit`."""
        await greenlet_spawn(self.unit.roll_back)

    async def discard(self, *, kill: bool) -> None:
        """As in `Unit`."""
        await greenlet_spawn(lambda: self.unit.discard(kill=kill))

    async def await_server(self) -> bool:
        """As in `Unit`."""
        if self._on_waiting is not None:
            self._on_waiting(False)
        unit = self.unit
        unit.suspect()
        failover = unit.runtime.failover
        assert failover is not None
        gate = failover.gate
        was_away = await gate.enter_async(unit.expires_at, lost_at_outage=unit.outages, urgent=unit.has_doubt)
        unit.outages = gate.outages
        return was_away

    async def probe(self) -> ProbeAnswer:
        """As in `Unit`."""
        return await greenlet_spawn(self.unit.probe)

    def stored_result(self, record: Record) -> Ran[T]:
        """As in `Unit`."""
        return self.unit.stored_result(record)

    def classify(self, error: BaseException, doing: Do) -> Failure:
        """As in `Unit`."""
        return self.unit.classify(error, doing)
