"""`Drain`: what is under way in a process, what has to be done at its end, and two shells that carry it through."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING

from ..callables import in_daemon_thread
from ..clock import SYSTEM_CLOCK, WaitingClock
from ..deadline import seconds
from ..traces import trace_of
from .phases import ORDER, DrainReport, DrainSettings, Phase, Stage, StepEnded, StepOutcome, due, next_phase

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Drain", "StepFunction", "Work"]

StepFunction = Callable[[], object]
"""A step to take: a function or a coroutine function, without arguments."""

_log = logging.getLogger("holdfast")

_LONG_S = 3600.0
"""How long a wait without an end lasts before it looks again."""

_EXCEEDED = TimeoutError("the step was still at it at its limit")

_numbers = count()
"""Of steps in the order of their registration, also between a drain and its parts."""


class Work:
    """Something under way that the end waits for. Subclass it to be able to cancel it.

    Args:
        name: what it is, in the report and in log lines: an operation or a route, never a value.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """What it is, for people."""
        return self._name

    def cancel(self) -> None:
        """Have it end soon; called at most once, from any thread. A thread cannot be cancelled: this does nothing."""


class _TaskWork(Work):
    __slots__ = ("_loop", "task")

    def __init__(self, name: str, task: asyncio.Task[None]) -> None:
        super().__init__(name)
        self.task = task
        self._loop = task.get_loop()

    def cancel(self) -> None:
        self._loop.call_soon_threadsafe(self.task.cancel)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    name: str
    call: StepFunction
    limit_s: float
    number: int = field(default_factory=_numbers.__next__)


class Drain:
    """The end of one process: what is under way, what has to be done, and how far it has come. Safe in threads and tasks.

    Its parts (`Part`) are applications that may end alone; what is theirs is the process's as well.

    Args:
        settings: the limits.
        clock: measures and waits.
    """

    def __init__(self, settings: DrainSettings | None = None, *, clock: WaitingClock = SYSTEM_CLOCK) -> None:
        self.settings = settings or DrainSettings()
        self._clock = clock
        self._lock = threading.Lock()
        self._stage = Stage(Phase.SERVING, clock.monotonic())
        self._work: dict[Work, None] = {}
        self._waiters: dict[object, Callable[[], object]] = {}
        self._steps: dict[Phase, list[_Step]] = {Phase.DRAINING: [], Phase.FLUSHING: [], Phase.CLOSING: []}
        self._tasks: set[asyncio.Task[None]] = set()
        self._parts: tuple[weakref.ref[Drain], ...] = ()
        self._forget()

    def _forget(self) -> None:
        self._taken: set[Phase] = set()
        self._phases: list[tuple[Phase, float]] = []
        self._cancelled: tuple[str, ...] = ()
        self._left_behind: tuple[str, ...] = ()
        self._ended: list[StepEnded] = []

    # -- what is known -------------------------------------------------------------------------------------------------

    @property
    def whole(self) -> Drain:
        """The end of the process: this one, unless it is a part."""
        return self

    @property
    def phase(self) -> Phase:
        """How far the end has come."""
        return self._stage.phase

    @property
    def is_draining(self) -> bool:
        """Whether the end has begun; true from then on."""
        return self._stage.phase is not Phase.SERVING

    def has_reached(self, phase: Phase) -> bool:
        """Whether the end has come as far as `phase`, or further."""
        return ORDER[self._stage.phase] >= ORDER[phase]

    @property
    def in_flight(self) -> int:
        """How much work is under way."""
        return len(self._under_way())

    def _under_way(self) -> list[Work]:
        return [work for drain in self._with_parts() for work in list(drain._work)]

    def _with_parts(self) -> Iterator[Drain]:
        """This drain, and its parts to the last."""
        yield self
        for part in self._parts:
            known = part()
            if known is not None:
                yield from known._with_parts()

    @property
    def report(self) -> DrainReport:
        """What the end was like so far."""
        return DrainReport(tuple(self._phases), self._cancelled, self._left_behind, tuple(self._ended))

    @property
    def steps_s(self) -> float:
        """The most seconds that flushing, the application's own shutdown and closing can take."""
        limits_s = (
            step.limit_s
            for drain in self._with_parts()
            for phase in (Phase.FLUSHING, Phase.CLOSING)
            for step in drain._steps[phase]
            if drain is self or phase not in drain._taken  # a part that is over
        )
        return seconds(self.settings.step) + sum(limits_s)

    @property
    def longest_s(self) -> float:
        """The most seconds the end can take, from `begin` to the last step: what a supervisor must allow, and a little more."""
        settings = self.settings
        return seconds(settings.lame_duck) + seconds(settings.finish) + seconds(settings.cancel) + self.steps_s

    # -- what has to be done -------------------------------------------------------------------------------------------

    def on_drain(self, name: str, step: StepFunction) -> Callable[[], None]:
        """Take `step` when the end begins: stop fetching work. All at once; each counts as work under way until it returns.

        Args:
            name: its name in the report.
            step: a function (called in a thread of its own) or a coroutine function.

        Returns:
            A function that takes the registration back.
        """
        return self._register(Phase.DRAINING, name, step, None)

    def on_flush(self, name: str, step: StepFunction, *, limit: float | timedelta | None = None) -> Callable[[], None]:
        """Take `step` when no work is under way any more and everything is still open: hand on what is buffered.

        One after the other, the last one registered first. `limit`: seconds (or `timedelta`); default: the settings' `step`.
        The other arguments are those of `on_drain`.
        """
        return self._register(Phase.FLUSHING, name, step, limit)

    def on_close(self, name: str, step: StepFunction, *, limit: float | timedelta | None = None) -> Callable[[], None]:
        """As `on_flush`, after all of those: close engines and clients."""
        return self._register(Phase.CLOSING, name, step, limit)

    def _register(
        self, phase: Phase, name: str, call: StepFunction, limit: float | timedelta | None
    ) -> Callable[[], None]:
        step = _Step(name, call, seconds(self.settings.step if limit is None else limit, name="limit"))
        steps = self._steps[phase]
        steps.append(step)

        def forget() -> None:
            with suppress(ValueError):
                steps.remove(step)

        return forget

    # -- what is under way ---------------------------------------------------------------------------------------------

    def enter(self, work: Work) -> None:
        """Count `work` as under way until `leave`."""
        self._work[work] = None

    def leave(self, work: Work) -> None:
        """`work` is over; harmless if it was not under way."""
        self._work.pop(work, None)
        if self._stage.phase is not Phase.SERVING:
            self._wake()

    @contextmanager
    def work(self, name: str) -> Iterator[None]:
        """Have the end wait for this block, which runs in a thread or a task; nothing cancels it."""
        work = Work(name)
        self.enter(work)
        try:
            yield
        finally:
            self.leave(work)

    # -- moving on -----------------------------------------------------------------------------------------------------

    def begin(self, *, lame_duck: bool = True) -> bool:
        """Begin the end: not ready from now on, and whoever waits for the drain wakes.

        Not from a signal handler, which may have interrupted the holder of a lock: `end_on_signals`, or an event loop's
        `call_soon_threadsafe`.

        Args:
            lame_duck: False skips (or ends) the lame duck.

        Returns:
            Whether this call began it.
        """
        began = self._advance(Phase.SERVING)
        if not lame_duck:
            self._advance(Phase.DRAINING)
        return began

    def stopped(self) -> None:
        """Nothing new is taken any more. Without effect but in the phase `stopping`."""
        self._advance(Phase.STOPPING)

    def restart(self) -> bool:
        """Serve again, if the end is over: for an application that is started again in the same process. Whether it does."""
        with self._lock:
            if self._stage.phase is not Phase.DONE:
                return False
            self._stage = Stage(Phase.SERVING, self._clock.monotonic())
            self._forget()
        return True

    def look(self) -> Phase:
        """Move on as far as time and work allow, and say where that is. For a server with a loop of its own."""
        while self._advance():
            pass
        return self._stage.phase

    def _advance(self, told: Phase | None = None) -> bool:
        """Move on by one phase if it is time, or if the present one is `told`."""
        with self._lock:
            stage, now, unfinished = self._stage, self._clock.monotonic(), self._under_way()
            is_told = told is stage.phase
            phase = next_phase(stage, self.settings, now=now, in_flight=len(unfinished), told=is_told)
            if phase is stage.phase:
                return False
            self._stage = Stage(phase, now)
            self._phases.append((stage.phase, now - stage.since))
        _log.info(
            "shutdown: %s, after %.1f s of %s; %d under way", phase, now - stage.since, stage.phase, len(unfinished)
        )
        names = tuple(work.name for work in unfinished)
        if phase is Phase.CANCELLING:
            self._cancelled = names
            _log.warning("shutdown: cancelling what took too long: %s", ", ".join(names))
            for work in [work for drain in self._first_for(phase) for work in list(drain._work)]:
                with suppress(RuntimeError):  # its event loop is closed: it is over
                    work.cancel()
        elif phase is Phase.FLUSHING and names:
            self._left_behind = names
            _log.error("shutdown: still under way, and left behind: %s", ", ".join(names))
        self._wake()
        return True

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        for wake in [wake for drain in self._with_parts() for wake in list(drain._waiters.values())]:
            with suppress(RuntimeError):  # its event loop is closed: nobody waits there
                wake()

    def _remaining_s(self) -> float:
        moment = due(self._stage, self.settings)
        return _LONG_S if moment is None else max(0.0, moment - self._clock.monotonic())

    def wait(self, timeout: float) -> bool:
        """Block the thread until the end begins, at most `timeout` seconds; whether it has begun."""
        event = threading.Event()
        self._waiters[event] = event.set
        try:
            if not self.is_draining:
                self._clock.wait(event, timeout)
        finally:
            del self._waiters[event]
        return self.is_draining

    async def wait_async(self, phase: Phase = Phase.DRAINING) -> None:
        """Suspend the task until the end has come as far as `phase`; default: until it begins."""
        while not self.has_reached(phase):
            event = asyncio.Event()
            self._waiters[event] = _waker(event)
            try:
                if not self.has_reached(phase):
                    await event.wait()
            finally:
                del self._waiters[event]

    def _stay_in(self, *phases: Phase) -> None:
        while True:
            event = threading.Event()
            self._waiters[event] = event.set
            try:
                if self.look() not in phases:
                    return
                self._clock.wait(event, self._remaining_s())
            finally:
                del self._waiters[event]

    async def _stay_in_async(self, *phases: Phase) -> None:
        while True:
            event = asyncio.Event()
            self._waiters[event] = _waker(event)
            try:
                if self.look() not in phases:
                    return
                await self._clock.wait_async(event, self._remaining_s())
            finally:
                del self._waiters[event]

    # -- the shell for threads -----------------------------------------------------------------------------------------

    def run(self, stop: StepFunction | None = None) -> DrainReport:
        """The whole end, in the calling thread.

        Args:
            stop: makes that nothing new is taken, after the lame duck; whatever it raises is logged.
        """
        self.lame_duck()
        if stop is not None:
            self._take(_Step("stop", stop, seconds(self.settings.step)), Phase.STOPPING)
        self.finish()
        self.flush()
        self.close()
        return self.report

    def lame_duck(self) -> None:
        """Begin, take the steps of `on_drain`, and go on serving until the lame duck is over."""
        self.begin()
        for step in self._claim(Phase.DRAINING):
            work = Work(step.name)
            self.enter(work)

            def take(step: _Step = step, work: Work = work) -> None:
                try:
                    self._take(step, Phase.DRAINING, self.settings.finish)
                finally:
                    self.leave(work)

            threading.Thread(target=take, name=f"holdfast-drain-{step.name}", daemon=True).start()
        self._stay_in(Phase.DRAINING)

    def finish(self) -> None:
        """Take nothing new, and wait for what is under way; at its limit cancel it, and wait for that."""
        self.begin(lame_duck=False)
        self.lame_duck()
        self.stopped()
        self._stay_in(Phase.FINISHING, Phase.CANCELLING)

    def flush(self) -> None:
        """Take the steps of `on_flush`. Without effect before its time or a second time."""
        self._take_all(Phase.FLUSHING)

    def close(self) -> None:
        """Take the steps of `on_close`. Without effect before its time or a second time."""
        self._take_all(Phase.CLOSING)

    def _take_all(self, phase: Phase) -> None:
        if self._stage.phase is phase and phase not in self._taken:
            for step in reversed(self._claim(phase)):
                self._take(step, phase)
            self._advance(phase)
        self._stay_in(phase)

    def _take(self, step: _Step, phase: Phase, limit: float | timedelta | None = None) -> None:
        began = self._clock.monotonic()
        done = threading.Event()
        future = in_daemon_thread(lambda: _called(step.call), name=f"holdfast-{step.name}")
        future.add_done_callback(lambda _: done.set())
        self._clock.wait(done, step.limit_s if limit is None else seconds(limit))
        self._note(step, phase, began, future.exception() if future.done() else _EXCEEDED)

    # -- the shell for asyncio -----------------------------------------------------------------------------------------

    async def run_async(self, stop: StepFunction | None = None) -> DrainReport:
        """As `run`, in the calling task."""
        await self.lame_duck_async()
        if stop is not None:
            await self._take_async(_Step("stop", stop, seconds(self.settings.step)), Phase.STOPPING)
        await self.finish_async()
        await self.flush_async()
        await self.close_async()
        return self.report

    async def lame_duck_async(self) -> None:
        """As `lame_duck`."""
        self.begin()
        for step in self._claim(Phase.DRAINING):
            task = asyncio.ensure_future(_called_async(step.call))
            work = _TaskWork(step.name, task)
            self.enter(work)
            self._tasks.add(task)
            began = self._clock.monotonic()

            def ended(task: asyncio.Task[None], step: _Step = step, work: Work = work, began: float = began) -> None:
                self._tasks.discard(task)
                self._note(step, Phase.DRAINING, began, _EXCEEDED if task.cancelled() else task.exception())
                self.leave(work)

            task.add_done_callback(ended)
        await self._stay_in_async(Phase.DRAINING)

    async def finish_async(self) -> None:
        """As `finish`."""
        self.begin(lame_duck=False)
        await self.lame_duck_async()
        self.stopped()
        await self._stay_in_async(Phase.FINISHING, Phase.CANCELLING)

    async def flush_async(self) -> None:
        """As `flush`."""
        await self._take_all_async(Phase.FLUSHING)

    async def close_async(self) -> None:
        """As `close`."""
        await self._take_all_async(Phase.CLOSING)

    async def _take_all_async(self, phase: Phase) -> None:
        if self._stage.phase is phase and phase not in self._taken:
            for step in reversed(self._claim(phase)):
                await self._take_async(step, phase)
            self._advance(phase)
        await self._stay_in_async(phase)

    async def _take_async(self, step: _Step, phase: Phase) -> None:
        began = self._clock.monotonic()
        done = asyncio.Event()
        task = asyncio.ensure_future(_called_async(step.call))
        task.add_done_callback(lambda _: done.set())
        try:
            await self._clock.wait_async(done, step.limit_s)
        finally:
            exceeded = not task.done()
            task.cancel()
        self._note(step, phase, began, _EXCEEDED if exceeded or task.cancelled() else task.exception())

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _claim(self, phase: Phase) -> list[_Step]:
        """The steps of a phase, those of parts among them, once: whoever asks again gets none."""
        steps = (step for drain in self._first_for(phase) for step in drain._steps[phase])
        return sorted(steps, key=attrgetter("number"))

    def _first_for(self, phase: Phase) -> list[Drain]:
        """Of this drain and its parts those that were not asked yet for what is done in `phase`; from now on they were."""
        with self.whole._lock:
            drains = [drain for drain in self._with_parts() if phase not in drain._taken]
            for drain in drains:
                drain._taken.add(phase)
        return drains

    def _note(self, step: _Step, phase: Phase, began: float, error: BaseException | None) -> None:
        elapsed_s = self._clock.monotonic() - began
        if error is None:
            outcome = StepOutcome.DONE
        elif error is _EXCEEDED:
            outcome = StepOutcome.EXCEEDED
            _log.error("shutdown: %s was still at it after %.1f s", step.name, elapsed_s)
        else:
            outcome = StepOutcome.FAILED
            _log.error("shutdown: %s failed\n%s", step.name, trace_of(error))
        self._ended.append(StepEnded(step.name, phase, outcome, elapsed_s))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.phase}, {self.in_flight} under way>"


def _waker(event: asyncio.Event) -> Callable[[], object]:
    loop = asyncio.get_running_loop()
    return lambda: loop.call_soon_threadsafe(event.set)


def _called(call: StepFunction) -> None:
    """Call a step in a thread of its own, which a coroutine gets a loop in."""
    result = call()
    if inspect.isawaitable(result):
        asyncio.run(_awaited(result))


async def _awaited(result: Awaitable[object]) -> None:
    await result


async def _called_async(call: StepFunction) -> None:
    result = call() if inspect.iscoroutinefunction(call) else await asyncio.wrap_future(in_daemon_thread(call))
    if inspect.isawaitable(result):
        await result
