"""The shells: they do what the engine asks, tell it what came of it, and decide nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from ..effects import note_applied
from ..errors import Report, attach_report
from ..outcome import Outcome
from .actions import (
    ACKNOWLEDGED,
    BEGAN,
    CLAIMED,
    CLAIMED_IN_CLUSTER,
    DISCARDED,
    DRAWS,
    RETURNED,
    ROLLED_BACK,
    RUN,
    SLEPT,
    STARTED,
    STORED,
    Action,
    Do,
    Happening,
    Plan,
    What,
)
from .engine import Engine
from .port import ROLLBACK_GRACE_S, AsyncPort, Port

if TYPE_CHECKING:
    from ..clock import Clock, Random
    from ..operation import Record
    from ..outcome import Failure
    from ..stream import EventStream

__all__ = ["AsyncShell", "Shell"]

T = TypeVar("T")

_TERMINAL = frozenset({Do.RETURN, Do.RAISE})
_CLEANING = frozenset({Do.ROLL_BACK, Do.DISCARD})
_UNDER_DEADLINE = frozenset({Do.BEGIN, Do.CLAIM, Do.RUN, Do.STORE, Do.COMMIT, Do.PROBE})


class _Memory(Generic[T]):
    """What both shells keep of one operation: the engine, the results by attempt, and the exception that counts."""

    __slots__ = ("_clock", "_engine", "_error", "_events", "_expires_at", "_random", "_results")

    def __init__(self, plan: Plan, *, clock: Clock, random: Random, events: EventStream) -> None:
        self._engine = Engine(plan, narrate=bool(events.subscriptions))
        self._expires_at = plan.expires_at
        self._clock = clock
        self._random = random
        self._events = events
        self._results: dict[int, T] = {}
        self._error: BaseException | None = None

    def _step(self, happened: Happening) -> Action:
        engine = self._engine
        draw = self._random() if happened.what in DRAWS else 0.0
        action = engine.step(happened, self._clock.monotonic(), draw)
        if engine.notes:
            notes, engine.notes = engine.notes, []
            for note in notes:
                self._events.emit(note)
        return action

    def _remember(self, error: BaseException, doing: Do, failure: Failure) -> Happening:
        interrupted = not isinstance(error, Exception)
        if interrupted or doing not in _CLEANING:
            self._error = error
        return Happening(What.FAILED, failure=failure, interrupted=interrupted)

    def _claimed(self, record: Record | None, *, in_cluster: bool) -> Happening:
        if record is not None:
            return Happening(What.FOUND, record=record)
        return CLAIMED_IN_CLUSTER if in_cluster else CLAIMED

    def report(self) -> Report:
        """What happened so far."""
        return self._engine.report(self._clock.monotonic())

    def _raise(self, action: Action) -> NoReturn:
        report = self.report()
        if report.outcome is Outcome.UNKNOWN:
            note_applied()  # it may have been; whoever swallows the error must not forget it
        caught = self._error
        if action.error is None:
            assert caught is not None
            attach_report(caught, report)
            raise caught
        attach_report(action.error, report)
        raise action.error from caught


class Shell(_Memory[T]):
    """Acts for one operation in the calling thread."""

    __slots__ = ("_port",)

    def __init__(self, plan: Plan, port: Port[T], *, clock: Clock, random: Random, events: EventStream) -> None:
        super().__init__(plan, clock=clock, random=random, events=events)
        self._port = port

    def run(self) -> T:
        """The whole life of the operation.

        Returns:
            The body's result, or the one stored under the key.

        Raises:
            NotCommitted, OutcomeUnknown: as the module `errors` draws them.
            BaseException: what the body raised, after everything was rolled back.
        """
        return self._end(self._proceed(STARTED))

    def enter(self) -> None:
        """The first half, for a `with` block: up to the point where the body runs."""
        action = self._proceed(STARTED, stop_at_body=True)
        if action.do is Do.RAISE:
            self._raise(action)

    def leave(self, error: BaseException | None) -> T:
        """The second half: what follows after the block returned, or raised `error`."""
        if error is not None:
            return self._end(self._proceed(self._failed(error, Do.RUN)))
        return self._end(self._proceed(self._act(RUN)))

    def _proceed(self, happened: Happening, *, stop_at_body: bool = False) -> Action:
        while True:
            action = self._step(happened)
            if action.do in _TERMINAL or (stop_at_body and action.do is Do.RUN):
                return action
            happened = self._act(action)

    def _act(self, action: Action) -> Happening:
        port = self._port
        doing = action.do
        try:
            if doing is Do.BEGIN:
                port.begin()
                return BEGAN
            if doing is Do.CLAIM:
                record = port.claim(self._engine.attempts, settling=action.settling)
                return self._claimed(record, in_cluster=port.in_cluster)
            if doing is Do.RUN:
                self._results[self._engine.attempts] = port.run()
                return RETURNED
            if doing is Do.STORE:
                port.store(self._results[self._engine.attempts])
                return STORED
            if doing is Do.COMMIT:
                port.commit(claiming=self._engine.attempts if action.claiming else None)
                return ACKNOWLEDGED
            if doing is Do.ROLL_BACK:
                port.roll_back()
                return ROLLED_BACK
            if doing is Do.DISCARD:
                port.discard(kill=action.kill)
                return DISCARDED
            if doing is Do.SLEEP:
                self._clock.sleep(action.delay_s)
                return SLEPT
            if doing is Do.AWAIT_SERVER:
                return Happening(What.AWAITED, server_was_away=port.await_server())
            return Happening(What.ANSWERED, answer=port.probe())
        except BaseException as error:
            return self._failed(error, doing)

    def _failed(self, error: BaseException, doing: Do) -> Happening:
        return self._remember(error, doing, self._port.classify(error, doing))

    def _end(self, action: Action) -> T:
        if action.do is Do.RAISE:
            self._raise(action)
        return self._results[action.attempt] if action.record is None else self._port.stored_result(action.record)


class AsyncShell(_Memory[T]):
    """Acts for one operation in the calling task, and cancels its own calls at the deadline."""

    __slots__ = ("_cancellations", "_port", "_task")

    def __init__(self, plan: Plan, port: AsyncPort[T], *, clock: Clock, random: Random, events: EventStream) -> None:
        super().__init__(plan, clock=clock, random=random, events=events)
        self._port = port

    async def run(self) -> T:
        """As `Shell.run`."""
        self._note_task()
        return self._end(await self._perform_until(self._step(STARTED), stop_at_body=False))

    async def enter(self) -> None:
        """As `Shell.enter`."""
        self._note_task()
        action = await self._perform_until(self._step(STARTED), stop_at_body=True)
        if action.do is Do.RAISE:
            self._raise(action)

    async def leave(self, error: BaseException | None) -> T:
        """As `Shell.leave`."""
        if error is not None:
            return self._end(await self._perform_until(self._step(self._failed(error, Do.RUN)), stop_at_body=False))
        return self._end(await self._perform_until(RUN, stop_at_body=False))

    def _note_task(self) -> None:
        import asyncio

        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancellations = task.cancelling()

    async def _perform_until(self, action: Action, *, stop_at_body: bool) -> Action:
        while action.do not in _TERMINAL and not (stop_at_body and action.do is Do.RUN):
            if action.do in _UNDER_DEADLINE:
                action = await self._work(action, stop_at_body=stop_at_body)
            else:
                action = self._step(await self._clean_or_sleep(action))
        return action

    async def _work(self, action: Action, *, stop_at_body: bool) -> Action:
        """Everything from BEGIN to COMMIT under one timer: a timer a call would cost more than the engine does."""
        import asyncio

        doing = action.do
        try:
            async with asyncio.timeout(self._expires_at - self._clock.monotonic()) as timer:
                while action.do in _UNDER_DEADLINE and not (stop_at_body and action.do is Do.RUN):
                    doing = action.do
                    try:
                        happened = await self._act(action)
                    except Exception as error:
                        happened = self._failed(error, doing, own_cancellations=timer.expired())
                    action = self._step(happened)
            return action
        except BaseException as error:
            # Cancelled, out of time, or a body that calls sys.exit(): each leaves a transaction behind.
            return self._step(self._failed(error, doing))

    async def _act(self, action: Action) -> Happening:
        port = self._port
        doing = action.do
        if doing is Do.BEGIN:
            await port.begin()
            return BEGAN
        if doing is Do.CLAIM:
            record = await port.claim(self._engine.attempts, settling=action.settling)
            return self._claimed(record, in_cluster=port.in_cluster)
        if doing is Do.RUN:
            self._results[self._engine.attempts] = await port.run()
            return RETURNED
        if doing is Do.STORE:
            await port.store(self._results[self._engine.attempts])
            return STORED
        if doing is Do.COMMIT:
            await port.commit(claiming=self._engine.attempts if action.claiming else None)
            return ACKNOWLEDGED
        return Happening(What.ANSWERED, answer=await port.probe())

    async def _clean_or_sleep(self, action: Action) -> Happening:
        import asyncio

        doing = action.do
        try:
            if doing is Do.SLEEP:
                await self._clock.sleep_async(action.delay_s)
                return SLEPT
            if doing is Do.AWAIT_SERVER:
                return Happening(What.AWAITED, server_was_away=await self._port.await_server())
            if doing is Do.DISCARD:
                await self._port.discard(kill=action.kill)
                return DISCARDED
            left_s = max(0.0, self._expires_at - self._clock.monotonic())
            async with asyncio.timeout(left_s + ROLLBACK_GRACE_S):
                await self._port.roll_back()
            return ROLLED_BACK
        except BaseException as error:
            return self._failed(error, doing)

    def _failed(self, error: BaseException, doing: Do, *, own_cancellations: int = 0) -> Happening:
        if isinstance(error, Exception) and self._task.cancelling() - own_cancellations > self._cancellations:
            # A driver made an error of its own out of the cancellation, which would be lost with it.
            import asyncio

            cancelled = asyncio.CancelledError()
            cancelled.__cause__ = error
            error = cancelled
        return self._remember(error, doing, self._port.classify(error, doing))

    def _end(self, action: Action) -> T:
        if action.do is Do.RAISE:
            self._raise(action)
        return self._results[action.attempt] if action.record is None else self._port.stored_result(action.record)
