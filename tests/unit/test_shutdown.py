"""The end of a process: its order, its limits, and that no step holds it up."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from holdfast.errors import ConfigurationError
from holdfast.shutdown import (
    DRAIN,
    Drain,
    DrainReport,
    DrainSettings,
    Part,
    Phase,
    Stage,
    StepOutcome,
    Work,
    current_drain,
    draining,
    due,
    is_draining,
    next_phase,
    until_draining,
    use_drain,
)
from holdfast.testing import ManualClock

SETTINGS = DrainSettings(lame_duck=5, finish=15, cancel=2, step=3)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def drain(clock: ManualClock) -> Drain:
    return Drain(SETTINGS, clock=clock)


async def turns(until: Callable[[], bool]) -> None:
    """Let other tasks run until something holds."""
    while not until():  # noqa: ASYNC110 - of somebody else's state
        await asyncio.sleep(0)  # noqa: TID251 - a turn for the others, not a wait


def wait_for(true: Callable[[], bool]) -> None:
    """Give other threads the processor until something holds."""
    pause = threading.Event()
    while not true():
        pause.wait(0.001)


class Cancelled(Work):
    """Work that ends when it is told to."""

    __slots__ = ("drain", "told")

    def __init__(self, drain: Drain, name: str = "job", *, ends: bool = True) -> None:
        super().__init__(name)
        self.drain = drain if ends else None
        self.told = 0

    def cancel(self) -> None:
        self.told += 1
        if self.drain is not None:
            self.drain.leave(self)


# -- the core ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "after", "in_flight", "told", "follows"),
    [
        (Phase.SERVING, 1e9, 0, False, Phase.SERVING),
        (Phase.SERVING, 0, 3, True, Phase.DRAINING),
        (Phase.DRAINING, 4.9, 0, False, Phase.DRAINING),
        (Phase.DRAINING, 5, 3, False, Phase.STOPPING),
        (Phase.DRAINING, 0, 3, True, Phase.STOPPING),
        (Phase.STOPPING, 1e9, 0, False, Phase.STOPPING),
        (Phase.STOPPING, 0, 0, True, Phase.FINISHING),
        (Phase.FINISHING, 14.9, 1, False, Phase.FINISHING),
        (Phase.FINISHING, 0, 0, False, Phase.FLUSHING),
        (Phase.FINISHING, 15, 1, False, Phase.CANCELLING),
        (Phase.CANCELLING, 1.9, 1, False, Phase.CANCELLING),
        (Phase.CANCELLING, 0, 0, False, Phase.FLUSHING),
        (Phase.CANCELLING, 2, 1, False, Phase.FLUSHING),
        (Phase.FLUSHING, 1e9, 0, False, Phase.FLUSHING),
        (Phase.FLUSHING, 0, 0, True, Phase.CLOSING),
        (Phase.CLOSING, 0, 0, True, Phase.DONE),
        (Phase.DONE, 1e9, 0, True, Phase.DONE),
    ],
)
def test_what_follows_what(phase: Phase, after: float, in_flight: int, told: bool, follows: Phase) -> None:
    """Each phase ends by its own condition and no other."""
    stage = Stage(phase, 100.0)
    assert next_phase(stage, SETTINGS, now=100.0 + after, in_flight=in_flight, told=told) is follows


def test_time_alone_moves_three_phases_on() -> None:
    """Waiting for a moment makes sense while draining, finishing and cancelling."""
    moments = {phase: due(Stage(phase, 100.0), SETTINGS) for phase in Phase}
    assert {phase: moment for phase, moment in moments.items() if moment is not None} == {
        Phase.DRAINING: 105.0,
        Phase.FINISHING: 115.0,
        Phase.CANCELLING: 102.0,
    }


@pytest.mark.parametrize("name", ["lame_duck", "finish", "cancel", "step"])
def test_a_limit_is_a_duration(name: str) -> None:
    """Negative limits are refused where they are given."""
    with pytest.raises(ConfigurationError, match=name):
        DrainSettings(**{name: -1})


def test_defaults_fit_thirty_seconds() -> None:
    """With a step of flushing and one of closing the end takes less than Kubernetes allows, and 5 s are left."""
    drain = Drain()
    drain.on_flush("outbox", lambda: None)
    drain.on_close("database", lambda: None)
    assert drain.longest_s == 5 + 12 + 2 + 2 * 3
    assert drain.longest_s + 5 <= 30


# -- both shells -------------------------------------------------------------------------------------------------------

Run = Callable[[Drain, Callable[[], object] | None], DrainReport]


def run_async(drain: Drain, stop: Callable[[], object] | None) -> DrainReport:
    """The shell for asyncio."""
    return asyncio.run(drain.run_async(stop))


@pytest.fixture(params=["threads", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    return Drain.run if request.param == "threads" else run_async


def test_steps_are_taken_in_order(run: Run, drain: Drain, clock: ManualClock) -> None:
    """Told first, then nothing new is taken, then flushed, then closed; the last one registered first."""
    said: list[str] = []
    drain.on_close("database", lambda: said.append("database"))
    drain.on_close("redis", lambda: said.append("redis"))
    drain.on_flush("logs", lambda: said.append("logs"))
    drain.on_flush("outbox", lambda: said.append("outbox"))
    drain.on_drain("consumer", lambda: said.append("consumer") or clock.advance(5))  # type: ignore[func-returns-value]
    run(drain, lambda: said.append("stop"))
    assert said == ["consumer", "stop", "outbox", "logs", "redis", "database"]
    assert drain.phase is Phase.DONE
    assert drain.report.is_clean
    assert [phase for phase, _ in drain.report.phases] == [
        Phase.SERVING,
        Phase.DRAINING,
        Phase.STOPPING,
        Phase.FINISHING,
        Phase.FLUSHING,
        Phase.CLOSING,
    ]


def test_a_failing_step_does_not_stop_the_others(run: Run, drain: Drain, clock: ManualClock) -> None:
    """An error is logged and reported, and the rest is done."""
    said: list[str] = []

    async def flush() -> None:
        said.append("flushed")

    def fail() -> None:
        raise RuntimeError("no")

    drain.on_close("database", lambda: said.append("closed"))
    drain.on_close("redis", fail)
    drain.on_flush("outbox", flush)
    drain.on_drain("hurry", lambda: clock.advance(5))
    run(drain, None)
    assert said == ["flushed", "closed"]
    assert {step.name: step.outcome for step in drain.report.steps} == {
        "hurry": StepOutcome.DONE,
        "outbox": StepOutcome.DONE,
        "redis": StepOutcome.FAILED,
        "database": StepOutcome.DONE,
    }
    assert not drain.report.is_clean


def test_a_hung_step_is_left_at_its_limit(run: Run, drain: Drain, clock: ManualClock) -> None:
    """What hangs holds nothing up longer than its limit, and the report names it."""
    never = threading.Event()

    def hang() -> None:
        wait_for(lambda: clock.waiting == 1)
        clock.advance(7)
        never.wait()

    said: list[str] = []
    drain.on_close("database", lambda: said.append("closed"))
    drain.on_close("redis", hang, limit=7)
    drain.on_drain("hurry", lambda: clock.advance(5))
    run(drain, None)
    never.set()
    assert said == ["closed"]
    assert [step.name for step in drain.report.steps if step.outcome is StepOutcome.EXCEEDED] == ["redis"]


def test_work_is_waited_for(run: Run, drain: Drain, clock: ManualClock) -> None:
    """Nothing is flushed while something is under way; what ends within its time is not cancelled."""
    work = Cancelled(drain)
    drain.enter(work)
    seen: list[int] = []

    def end() -> None:
        wait_for(lambda: drain.phase is Phase.FINISHING)
        clock.advance(14.9)
        drain.leave(work)

    drain.on_drain("hurry", lambda: clock.advance(5))
    drain.on_flush("outbox", lambda: seen.append(drain.in_flight))
    ender = threading.Thread(target=end)
    ender.start()
    run(drain, None)
    ender.join()
    assert seen == [0]
    assert work.told == 0
    assert drain.report.is_clean


@pytest.mark.parametrize("ends", [True, False])
def test_what_takes_too_long_is_cancelled_once_and_waited_for(
    run: Run, drain: Drain, clock: ManualClock, ends: bool
) -> None:
    """At its limit work is told once; what does not even end then is left behind, by name."""
    work = Cancelled(drain, "POST /transfers", ends=ends)
    drain.enter(work)

    def pass_time() -> None:
        wait_for(lambda: drain.phase is Phase.DRAINING)
        clock.advance(5)
        wait_for(lambda: drain.phase is Phase.FINISHING)
        clock.advance(15)
        if not ends:
            wait_for(lambda: drain.phase is Phase.CANCELLING)
            clock.advance(2)

    passing = threading.Thread(target=pass_time)
    passing.start()
    run(drain, None)
    passing.join()
    assert work.told == 1
    assert drain.report.cancelled == ("POST /transfers",)
    assert drain.report.left_behind == (() if ends else ("POST /transfers",))
    assert drain.phase is Phase.DONE


def test_every_call_is_idempotent(run: Run, drain: Drain, clock: ManualClock) -> None:
    """Ending twice takes each step once."""
    said: list[str] = []
    drain.on_drain("hurry", lambda: said.append("told") or clock.advance(5))  # type: ignore[func-returns-value]
    drain.on_flush("outbox", lambda: said.append("flushed"))
    drain.on_close("database", lambda: said.append("closed"))
    assert drain.begin()
    assert not drain.begin()
    run(drain, None)
    run(drain, None)
    assert said == ["told", "flushed", "closed"]
    assert drain.restart()
    assert not drain.restart()
    assert drain.phase is Phase.SERVING
    assert drain.report.phases == ()


def test_a_registration_can_be_taken_back(drain: Drain) -> None:
    """What was closed elsewhere is not closed again."""
    said: list[str] = []
    forget = drain.on_close("database", lambda: said.append("closed"))
    forget()
    forget()
    drain.begin(lame_duck=False)
    drain.run()
    assert said == []


# -- parts -------------------------------------------------------------------------------------------------------------


def test_a_part_ends_alone(run: Run, drain: Drain, clock: ManualClock) -> None:
    """Its work is waited for and its steps are taken; the process serves on, and so do the other parts."""
    said: list[str] = []
    parts = [Part(drain), Part(drain)]
    drain.on_close("database", lambda: said.append("database"))
    for number, part in enumerate(parts):
        part.on_drain("hurry", lambda: clock.advance(5))
        part.on_close("redis", lambda number=number: said.append(f"redis {number}"))  # type: ignore[misc]
        part.enter(Cancelled(part))
    drain.enter(Cancelled(drain))
    assert (parts[0].in_flight, drain.in_flight) == (1, 3)
    parts[0].leave(next(iter(parts[0]._work)))
    report = run(parts[0], None)
    assert said == ["redis 0"]
    assert report.is_clean
    assert [one.phase for one in (*parts, drain)] == [Phase.DONE, Phase.SERVING, Phase.SERVING]
    assert drain.in_flight == 2


def test_a_part_ends_with_the_whole(run: Run, drain: Drain, clock: ManualClock) -> None:
    """As if all had been registered in one place; what a part has done already is not done again."""
    said: list[str] = []
    early, late = Part(drain), Part(drain)
    early.on_close("early", lambda: said.append("early"))
    early.begin(lame_duck=False)
    run(early, None)
    late.on_close("first", lambda: said.append("first"))
    drain.on_close("second", lambda: said.append("second"))
    late.on_close("third", lambda: said.append("third"))
    drain.on_drain("hurry", lambda: clock.advance(5))
    work = Cancelled(drain)
    late.enter(work)
    drain.on_drain("end", lambda: late.leave(work))
    assert drain.longest_s == 5 + 15 + 2 + 4 * 3
    run(drain, None)
    assert said == ["early", "third", "second", "first"]
    assert (late.phase, late.is_draining, late.has_reached(Phase.DONE)) == (Phase.DONE, True, True)
    late.start()
    assert (drain.phase, late.phase, early.phase) == (Phase.SERVING, Phase.SERVING, Phase.DONE)


def test_work_is_told_once_by_a_part_and_the_whole(drain: Drain, clock: ManualClock) -> None:
    """Whichever comes to its limit first."""
    part = Part(drain)
    own, other = Cancelled(part, ends=False), Cancelled(drain, ends=False)
    part.enter(own)
    drain.enter(other)
    for one in (part, drain, part):
        one.begin(lame_duck=False)
        one.stopped()
        one.look()
        clock.advance(15)
        one.look()
    assert (own.told, other.told) == (1, 1)


async def test_who_waits_for_a_part_hears_of_the_whole(drain: Drain) -> None:
    """A handler asks for its application's end, and that of the process is that."""
    part = Part(drain)
    inner = Part(part)
    waiting = [asyncio.create_task(one.wait_async()) for one in (inner, part)]
    await turns(lambda: bool(inner._waiters and part._waiters))
    drain.begin()
    await asyncio.gather(*waiting)
    assert inner.is_draining


def test_two_parts_cannot_be_in_each_other(drain: Drain) -> None:
    """Two applications may be mounted in each other; who came second stays where it is."""
    one, other = Part(drain), Part(drain)
    one.join(other)
    other.join(one)
    one.join(one)
    assert (one.whole, other.whole) == (drain, drain)
    other.begin()
    assert one.is_draining
    assert not drain.is_draining


def test_settings_are_those_of_the_whole(drain: Drain) -> None:
    """Also where they are set later, as a server does."""
    part = Part(Part(drain))
    drain.settings = DrainSettings(finish=77)
    assert part.settings.finish == 77


# -- threads -----------------------------------------------------------------------------------------------------------


def test_a_worker_stops_between_two_jobs(drain: Drain, clock: ManualClock) -> None:
    """`wait` wakes at once when the end begins, and the job under way is waited for."""
    jobs: list[Phase] = []

    def worker() -> None:
        while not drain.wait(1.0):
            with drain.work("job"):
                jobs.append(drain.phase)

    running = threading.Thread(target=worker)
    running.start()
    wait_for(lambda: clock.waiting == 1)
    clock.advance(1)
    wait_for(lambda: len(jobs) == 1 and clock.waiting == 1)
    drain.begin(lame_duck=False)
    running.join()
    drain.run()
    assert jobs == [Phase.SERVING]
    assert drain.report.is_clean


WORKER = """
import sys, threading
from holdfast.shutdown import Drain, DrainSettings, end_on_signals
drain = Drain(DrainSettings(lame_duck=0, finish={finish}))
drain.on_close("last", lambda: print("closed", flush=True))
end_on_signals(drain)
print("ready", flush=True)
while not drain.wait(30):
    pass
print("told", flush=True)
if {hang}:
    drain.enter(__import__("holdfast.shutdown").shutdown.Work("hung"))
drain.run()
"""


def test_a_worker_process_ends_on_the_first_signal() -> None:
    """SIGTERM begins the end, everything is closed, and the process exits with 0."""
    command = [sys.executable, "-c", WORKER.format(finish=5, hang=False)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert said == "told\nclosed\n"
    assert process.returncode == 0


def test_a_worker_process_ends_at_once_on_the_second_signal() -> None:
    """Who asks twice does not want to wait: no step is taken any more."""
    command = [sys.executable, "-c", WORKER.format(finish=600, hang=True)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "told\n"
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert said == ""
    assert process.returncode == -signal.SIGINT


# -- handlers ----------------------------------------------------------------------------------------------------------


async def test_handlers_are_told(drain: Drain) -> None:
    """Whoever awaits the end wakes when it begins, also from another thread; afterwards nobody waits at all."""
    use_drain(drain)
    waiting = [asyncio.create_task(draining()) for _ in range(3)]
    await turns(lambda: len(drain._waiters) == 3)
    assert not is_draining()
    await asyncio.to_thread(drain.begin)
    await asyncio.gather(*waiting)
    await draining()
    assert is_draining()
    assert drain._waiters == {}


async def test_a_handler_that_goes_away_is_forgotten(drain: Drain) -> None:
    """Cancelling the wait leaves nothing behind."""
    waiting = asyncio.create_task(drain.wait_async())
    await turns(lambda: len(drain._waiters) == 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert drain._waiters == {}


def test_the_process_has_one_of_its_own() -> None:
    """Without a middleware the drain is the process's."""
    assert current_drain() is DRAIN
    assert not is_draining()


async def test_an_endless_answer_ends(drain: Drain) -> None:
    """What was yielded stays; the source is closed, wherever it stood."""
    use_drain(drain)
    closed: list[str] = []

    async def feed() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
            await asyncio.Event().wait()
        finally:
            closed.append("closed")

    items: list[int] = []
    async for item in until_draining(feed()):
        items.append(item)
        if item == 2:
            drain.begin()
    assert items == [1, 2]
    assert closed == ["closed"]
    drain.begin(lame_duck=False)


async def test_an_answer_with_an_end_is_left_alone(drain: Drain) -> None:
    """A source that ends by itself ends as always, and its error comes through."""
    use_drain(drain)

    async def feed(fail: bool) -> AsyncIterator[int]:
        yield 1
        if fail:
            raise ValueError("no")

    assert [item async for item in until_draining(feed(fail=False))] == [1]
    with pytest.raises(ValueError, match="no"):
        [item async for item in until_draining(feed(fail=True))]
    assert drain._waiters == {}


async def test_a_cancelled_step_of_the_beginning_is_reported(drain: Drain, clock: ManualClock) -> None:
    """What is told to stop fetching and hangs is cancelled with the rest of the work, and cleans up."""
    cleaned: list[str] = []

    async def stop_fetching() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("cleaned")

    drain.on_drain("consumer", stop_fetching)
    ending = asyncio.create_task(drain.run_async())
    for limit_s in (5, 15):
        await turns(lambda: clock.waiting == 1)
        clock.advance(limit_s)
    report = await ending
    assert cleaned == ["cleaned"]
    assert report.cancelled == ("consumer",)
    assert report.left_behind == ()
    assert [(step.name, step.outcome) for step in report.steps] == [("consumer", StepOutcome.EXCEEDED)]
