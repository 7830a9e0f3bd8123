"""The adaptive limit: what moves it, who gets in, who waits, and that every permit comes back once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from holdfast.adaptive import AdaptiveLimit, Admission, Aimd
from holdfast.deadline import within
from holdfast.errors import (
    BlockTimedOut,
    ConfigurationError,
    Contended,
    DeadlineExceeded,
    LoadShed,
    Overloaded,
    UsageError,
)
from holdfast.events import CallShed, LimitChanged
from holdfast.pipeline import Pipeline
from holdfast.testing import ManualClock, RecordingHook, seeded_random


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def turns(number: int = 3) -> None:
    """Let other tasks run."""
    for _ in range(number):
        await asyncio.sleep(0)  # noqa: TID251 - a turn for the others, not a wait


def until(true: Callable[[], bool]) -> None:
    """Give other threads the processor until something holds."""
    pause = threading.Event()
    while not true():
        pause.wait(0.001)


def round_of(aimd: Aimd, latency_s: float = 1.0, in_flight: int | None = None) -> None:
    """One round of successes; by default with all of the limit in use."""
    limit = aimd.limit
    for _ in range(max(limit, 10)):
        aimd.succeeded(latency_s, limit if in_flight is None else in_flight)


def succeed(limit: AdaptiveLimit, clock: ManualClock, calls: int, latency_s: float = 0.1) -> None:
    """So many calls, one after the other."""
    for _ in range(calls):
        permit = limit.acquire()
        clock.advance(latency_s)
        permit.succeeded()


# -- the number ----------------------------------------------------------------------------------------------------------


def test_a_drop_takes_a_tenth_and_a_full_round_of_successes_adds_one() -> None:
    """From 20: 18 after a drop, 19 and 20 after two rounds; never more than at the beginning."""
    aimd = Aimd(20)
    aimd.dropped()
    assert aimd.limit == 18
    seen = []
    for _ in range(3):
        round_of(aimd)
        seen.append(aimd.limit)
    assert seen == [19, 20, 20]


def test_it_rises_only_if_half_of_it_was_in_use() -> None:
    """A limit that nobody needed has proven nothing."""
    aimd = Aimd(20)
    aimd.dropped()
    round_of(aimd, in_flight=8)
    assert aimd.limit == 18
    round_of(aimd, in_flight=9)
    assert aimd.limit == 19


def test_it_falls_by_one_at_least_and_never_below_its_least() -> None:
    """Nine tenths of a small number are rounded down; the lowest limit lets one call find out how things are."""
    aimd = Aimd(5)
    seen = []
    for _ in range(6):
        aimd.dropped()
        seen.append(aimd.limit)
    assert seen == [4, 3, 2, 1, 1, 1]
    floor = Aimd(5, least=4)
    floor.dropped()
    floor.dropped()
    assert floor.limit == 4


def test_without_a_tolerance_latency_counts_for_nothing() -> None:
    """A server that is slow for a reason of its own keeps its limit."""
    aimd = Aimd(20)
    for latency_s in (0.1, 100.0, 1000.0):
        round_of(aimd, latency_s)
    assert (aimd.limit, aimd.latency_s) == (20, 1000.0)


def test_with_a_tolerance_a_slow_round_is_a_drop() -> None:
    """Three times as long is borne, more is not."""
    aimd = Aimd(20, tolerance=3)
    round_of(aimd, 0.1)
    round_of(aimd, 0.29)
    assert aimd.limit == 20
    round_of(aimd, 0.31)
    assert (aimd.limit, aimd.generation) == (18, 1)


def test_load_does_not_teach_that_slow_is_normal() -> None:
    """The baseline stays under load, and follows when there is little to do."""
    aimd = Aimd(100, tolerance=3)
    round_of(aimd, 0.1, in_flight=1)
    for _ in range(50):
        round_of(aimd, 0.25)
    assert aimd.baseline_s == pytest.approx(0.1)
    for _ in range(50):
        round_of(aimd, 0.25, in_flight=1)
    assert aimd.baseline_s == pytest.approx(0.25, rel=0.01)


def test_a_lasting_slowness_does_not_hold_the_limit_down_for_ever() -> None:
    """What is slow even with the fewest calls is not the calls' doing: the baseline learns it, and the limit comes back."""
    aimd = Aimd(20, tolerance=3)
    round_of(aimd, 0.1)
    lowest = 20
    for _ in range(200):
        round_of(aimd, 1.0)
        lowest = min(lowest, aimd.limit)
    assert (lowest, aimd.limit) == (1, 20)


# -- what a call says ----------------------------------------------------------------------------------------------------


def test_a_burst_of_drops_counts_once(clock: ManualClock) -> None:
    """Twenty calls that time out together are one round trip, so one drop; the next call's drop is another."""
    limit = AdaptiveLimit("x", most=20, clock=clock)
    for permit in [limit.acquire() for _ in range(20)]:
        permit.dropped()
    assert (limit.limit, limit.in_flight) == (18, 0)
    limit.acquire().dropped()
    assert limit.limit == 16


def test_a_success_from_before_a_drop_says_nothing(clock: ManualClock) -> None:
    """It was answered under another limit."""
    limit = AdaptiveLimit("x", most=20, clock=clock)
    before = [limit.acquire() for _ in range(19)]
    limit.acquire().dropped()
    for permit in before:
        permit.succeeded()
    assert limit.limit == 18


def test_what_says_nothing_changes_nothing(clock: ManualClock) -> None:
    """A thousand failures that came fast neither lower the limit nor look like quick answers."""
    limit = AdaptiveLimit("x", most=20, clock=clock)
    limit.acquire().dropped()
    for _ in range(1000):
        limit.acquire().ignored()
    assert (limit.limit, limit.in_flight, limit._aimd.latency_s) == (18, 0, 0.0)


@pytest.mark.parametrize(
    "error, falls",
    [
        (TimeoutError(), True),
        (DeadlineExceeded("late"), True),
        (BlockTimedOut("late"), True),
        (Overloaded("busy"), True),
        (ConnectionRefusedError(), False),
        (ValueError(), False),
        (Contended("deadlock"), False),
        (LoadShed("by another"), False),
        (KeyboardInterrupt(), False),
        (asyncio.CancelledError(), False),
    ],
)
def test_of_errors_only_overload_and_timeouts_are_drops(clock: ManualClock, error: BaseException, falls: bool) -> None:
    """In every form; whatever happens, the permit comes back."""
    limit = AdaptiveLimit("x", most=10, clock=clock)

    def fail() -> None:
        assert limit.in_flight == 1
        raise error

    def fail_in_block() -> None:
        with limit.block():
            fail()

    async def fail_async() -> None:
        fail()

    async def fail_in_async_block() -> None:
        async with limit.block():
            fail()

    async def in_a_task(form: Callable[[], object]) -> None:
        with pytest.raises(type(error)):
            await form()  # type: ignore[misc]

    for form in (limit(fail), lambda: limit.call(fail), fail_in_block):
        with pytest.raises(type(error)):
            form()
    if not isinstance(error, KeyboardInterrupt):  # it ends an event loop
        for form_async in (limit(fail_async), lambda: limit.call_async(fail_async), fail_in_async_block):
            asyncio.run(in_a_task(form_async))
        assert limit.limit == (4 if falls else 10)
    assert limit.in_flight == 0


async def test_a_call_that_its_deadline_cancels_is_a_drop() -> None:
    """A cancelled task does not see why; the deadline knows."""
    limit = AdaptiveLimit("x", most=10)

    @Pipeline(limit, deadline=0.01)
    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(BlockTimedOut):
        await hang()
    assert (limit.limit, limit.in_flight) == (9, 0)


def test_the_author_can_say_what_a_drop_is(clock: ManualClock) -> None:
    """A type, or a callable that looks at the error."""
    for dropped in (OSError, (KeyError, OSError), lambda error: isinstance(error, OSError)):
        limit = AdaptiveLimit("x", most=10, dropped=dropped, clock=clock)
        for error in (TypeError(), OSError()):
            with pytest.raises(type(error)), limit.block():
                raise error
        assert limit.limit == 9


# -- who gets in ---------------------------------------------------------------------------------------------------------


def test_one_too_many_is_refused_and_told_when_to_come(clock: ManualClock) -> None:
    """Two run; the third is refused, and served once one has ended."""
    hook = RecordingHook()
    limit = AdaptiveLimit("x", most=2, clock=clock, random=lambda: 0.5, events=hook.stream)
    succeed(limit, clock, 10, latency_s=0.4)
    first, second = limit.acquire(), limit.acquire()
    with pytest.raises(LoadShed, match="the limit 'x' lets 2 calls run at a time now, and the queue is full") as caught:
        limit.acquire()
    retry_after_s = caught.value.retry_after_s
    assert retry_after_s is not None
    assert retry_after_s == pytest.approx(0.4 * 1.5)
    assert hook.events == [CallShed("x", 2, retry_after_s, dark=False)]
    first.succeeded()
    limit.acquire().ignored()
    second.ignored()
    assert limit.in_flight == 0


def test_those_who_are_refused_come_back_one_after_the_other(clock: ManualClock) -> None:
    """The n-th in the time of a call is told to come later than the first, within bounds, and the next time begins anew."""
    limit = AdaptiveLimit("x", most=1, clock=clock, random=lambda: 0.5)

    def refused() -> float:
        with pytest.raises(LoadShed) as caught:
            limit.acquire()
        assert caught.value.retry_after_s is not None
        return caught.value.retry_after_s

    permit = limit.acquire()
    assert refused() == 0.1  # nothing is known of the server yet
    permit.succeeded()
    succeed(limit, clock, 9, latency_s=1.0)
    limit.acquire()
    latency_s = limit._aimd.latency_s
    assert [refused() / latency_s for _ in range(4)] == pytest.approx([2, 3, 4, 5])
    assert max(refused() for _ in range(100)) == 30
    clock.advance(latency_s)
    assert refused() / latency_s == pytest.approx(2)


def test_who_is_refused_together_does_not_come_back_together(clock: ManualClock) -> None:
    """The same estimate is spread from half to one and a half of it."""
    draw = seeded_random(3)
    answers = []
    for _ in range(200):
        limit = AdaptiveLimit("x", most=1, clock=clock, random=draw)
        succeed(limit, clock, 10, latency_s=1.0)
        limit.acquire()
        with pytest.raises(LoadShed) as caught:
            limit.acquire()
        answers.append(caught.value.retry_after_s or 0)
    assert min(answers) < 1.1
    assert max(answers) > 2.9
    assert 1 <= min(answers) <= max(answers) <= 3


def test_changes_are_told(clock: ManualClock) -> None:
    """From which number to which, after the lock was given back: a hook may ask the limit."""
    limit = AdaptiveLimit("x", most=10, clock=clock, events=(hook := RecordingHook()).stream)
    inside: list[int] = []
    limit._events.subscribe(lambda event: limit.acquire().ignored() or inside.append(limit.limit))  # type: ignore[func-returns-value]
    limit.acquire().dropped()
    permits = [limit.acquire() for _ in range(9)]
    for permit in permits:
        permit.succeeded()
    limit.acquire().succeeded()
    assert hook.events == [LimitChanged("x", 10, 9), LimitChanged("x", 9, 10)]
    assert inside == [9, 10]


def test_dark_lets_everybody_in_and_tells_whom_it_would_not(clock: ManualClock) -> None:
    """It learns as if it were on."""
    hook = RecordingHook()
    limit = AdaptiveLimit("x", most=2, mode="dark", clock=clock, random=lambda: 0.5, events=hook.stream)
    permits = [limit.acquire() for _ in range(5)]
    assert limit.in_flight == 5
    assert hook.events == [CallShed("x", 2, 0.1, dark=True)] * 3
    permits[0].dropped()
    assert limit.limit == 1
    for permit in permits[1:]:
        permit.succeeded()
    assert limit.in_flight == 0


def test_off_does_nothing(clock: ManualClock) -> None:
    """Everybody gets in, nothing is counted, nothing is learned."""
    limit = AdaptiveLimit("x", most=1, mode="off", clock=clock, events=(hook := RecordingHook()).stream)
    permits = [limit.acquire() for _ in range(5)]
    for permit in permits:
        permit.dropped()
    permits[0].succeeded()
    permits[0].ignored()
    assert (limit.limit, limit.in_flight, hook.events) == (1, 0, [])
    assert limit.call(lambda: "done") == "done"


@pytest.mark.parametrize("settle", [Admission.succeeded, Admission.dropped, Admission.ignored])
def test_a_permit_is_given_back_once(clock: ManualClock, settle: Callable[[Admission], None]) -> None:
    """Twice would make room for one call too many."""
    limit = AdaptiveLimit("x", most=2, clock=clock)
    permit, _ = limit.acquire(), limit.acquire()
    settle(permit)
    for again in (Admission.succeeded, Admission.dropped, Admission.ignored):
        with pytest.raises(UsageError, match="'x' was given back twice"):
            again(permit)
    assert limit.in_flight == 1


# -- the queue -----------------------------------------------------------------------------------------------------------


def test_a_thread_waits_until_a_call_has_ended(clock: ManualClock) -> None:
    """The one who ends wakes the one who waits; no time needs to pass."""
    limit = AdaptiveLimit("x", most=1, queue=1, clock=clock)
    permit = limit.acquire()
    thread = threading.Thread(target=limit.acquire)
    thread.start()
    until(lambda: limit.waiting == 1)
    permit.succeeded()
    thread.join()
    assert (limit.in_flight, limit.waiting) == (1, 0)


@pytest.mark.parametrize("bound", ["max_wait", "deadline", "expires_at"])
def test_nobody_waits_longer_than_they_may(clock: ManualClock, bound: str) -> None:
    """The setting, the caller's deadline or a given one: whichever is first."""
    bounds = {"max_wait": 60.0, "deadline": 60.0, "expires_at": 60.0, bound: 0.5}
    limit = AdaptiveLimit("x", most=1, queue=1, max_wait=bounds["max_wait"], clock=clock)
    limit.acquire()
    errors: list[LoadShed] = []

    def work() -> None:
        with within(bounds["deadline"], clock=clock), pytest.raises(LoadShed, match=r"none ended in 0\.5 s") as caught:
            limit.acquire(expires_at=clock.monotonic() + bounds["expires_at"])
        errors.append(caught.value)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: clock.waiting == 1)
    clock.advance(0.4)
    assert limit.waiting == 1
    clock.advance(0.2)
    thread.join()
    assert (len(errors), limit.in_flight, limit.waiting) == (1, 1, 0)


def test_with_no_time_nobody_waits(clock: ManualClock) -> None:
    """The queue has room, and it would be of no use."""
    limit = AdaptiveLimit("x", most=1, queue=5, clock=clock)
    limit.acquire()
    with within(0, clock=clock), pytest.raises(LoadShed, match="no time to wait"):
        limit.acquire()
    with pytest.raises(LoadShed, match="no time to wait"):
        limit.acquire(expires_at=clock.monotonic() - 1)


async def test_the_newest_is_served_first_and_one_too_many_is_refused(clock: ManualClock) -> None:
    """Last in, first out; the queue is bounded."""
    limit = AdaptiveLimit("x", most=1, queue=3, max_wait=60, clock=clock)
    permit = await limit.acquire_async()
    served: list[int] = []

    async def work(index: int) -> Admission:
        mine = await limit.acquire_async()
        served.append(index)
        return mine

    tasks = [asyncio.create_task(work(index)) for index in range(3)]
    await turns()
    with pytest.raises(LoadShed, match="queue is full"):
        await limit.acquire_async()
    for index in (2, 1, 0):
        permit.succeeded()
        permit = await tasks[index]
    assert served == [2, 1, 0]


async def test_a_limit_that_has_risen_serves_two_at_once(clock: ManualClock) -> None:
    """One for the call that ended, one for the limit."""
    limit = AdaptiveLimit("x", most=2, queue=3, max_wait=60, clock=clock)
    limit.acquire().dropped()
    for _ in range(9):
        limit.acquire().succeeded()
    assert limit.limit == 1
    permit = limit.acquire()
    tasks = [asyncio.create_task(limit.acquire_async()) for _ in range(3)]
    await turns()
    permit.succeeded()
    await turns()
    assert (limit.limit, limit.in_flight, limit.waiting) == (2, 2, 1)
    (await tasks[2]).ignored()
    await asyncio.gather(*tasks)


async def test_a_limit_that_has_fallen_serves_nobody_until_it_is_kept(clock: ManualClock) -> None:
    """With three under way and room for two, the first that ends makes room for nobody."""
    limit = AdaptiveLimit("x", most=3, queue=3, max_wait=60, clock=clock)
    permits = [limit.acquire() for _ in range(3)]
    task = asyncio.create_task(limit.acquire_async())
    await turns()
    permits[0].dropped()
    await turns()
    assert (limit.limit, limit.in_flight, limit.waiting) == (2, 2, 1)
    permits[1].ignored()
    await task
    assert (limit.in_flight, limit.waiting) == (2, 0)


async def test_a_cancelled_waiter_leaks_nothing(clock: ManualClock) -> None:
    """Neither before it is served nor in the moment it is: then the next in the queue gets the permit."""
    limit = AdaptiveLimit("x", most=1, queue=5, max_wait=60, clock=clock)
    permit = await limit.acquire_async()
    older, newer, gone = [asyncio.create_task(limit.acquire_async()) for _ in range(3)]
    await turns()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert (limit.in_flight, limit.waiting) == (1, 2)
    permit.succeeded()
    newer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await newer
    (await older).succeeded()
    assert (limit.in_flight, limit.waiting, limit.limit) == (0, 0, 1)


def test_a_waiter_whose_loop_is_gone_does_not_keep_the_permit(clock: ManualClock) -> None:
    """An event loop that was closed with waiters in it costs no permit."""
    limit = AdaptiveLimit("x", most=1, queue=5, clock=clock)
    permit = limit.acquire()
    loop = asyncio.new_event_loop()
    waiting = limit.acquire_async()
    task = loop.create_task(waiting)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert limit.waiting == 1
    loop.close()
    permit.succeeded()
    assert (limit.in_flight, limit.waiting) == (0, 0)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    waiting.close()


class Racing(AdaptiveLimit):
    """A limit at which a call ends just after a caller found it reached."""

    __slots__ = ("last",)

    last: Admission

    def _try(self, now: float) -> Admission | None:
        permit = super()._try(now)
        if permit is None:
            self.last.ignored()
        return permit


def test_a_permit_that_comes_back_between_two_looks_is_not_missed(clock: ManualClock) -> None:
    """Nobody joins the queue beside a free permit."""
    limit = Racing("x", most=1, queue=1, clock=clock)
    limit.last = limit.acquire()
    limit.acquire()
    assert (limit.in_flight, limit.waiting) == (1, 0)


# -- many at once --------------------------------------------------------------------------------------------------------


def test_64_threads_never_exceed_the_limit() -> None:
    """Never more than the limit at a time, whatever it does meanwhile, and all permits back at the end."""
    limit = AdaptiveLimit("x", most=7, queue=64, max_wait=60)
    start = threading.Barrier(64)
    lock = threading.Lock()
    running = highest = calls = 0

    def call(index: int) -> None:
        nonlocal running, highest, calls
        with lock:
            running += 1
            calls += 1
            highest = max(highest, running)
        with lock:
            running -= 1
        if index % 50 == 49:
            raise TimeoutError

    def work() -> None:
        start.wait()
        for index in range(50):
            with suppress(TimeoutError):
                limit.call(call, index)

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (calls, limit.in_flight, limit.waiting) == (64 * 50, 0, 0)
    assert 0 < highest <= 7
    assert 1 <= limit.limit <= 7


async def test_10000_tasks_never_exceed_the_limit(clock: ManualClock) -> None:
    """With a third of them cancelled while they wait, the others are all served, seven at a time."""
    limit = AdaptiveLimit("x", most=7, queue=10_000, max_wait=60, clock=clock)
    running = highest = served = 0

    @limit
    async def call() -> None:
        nonlocal running, highest, served
        running += 1
        highest = max(highest, running)
        await turns(1)
        running -= 1
        served += 1

    tasks = [asyncio.create_task(call()) for _ in range(10_000)]
    await turns(1)
    for task in tasks[10::3]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = sum(isinstance(result, asyncio.CancelledError) for result in results)
    assert cancelled == len(tasks[10::3])
    assert (served, highest, limit.in_flight, limit.waiting) == (10_000 - cancelled, 7, 0, 0)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"most": 0}, "most"),
        ({"most": 2.5}, "most"),
        ({"least": 0}, "least"),
        ({"least": 11}, "least"),
        ({"queue": -1}, "queue"),
        ({"mode": "maybe"}, "mode"),
        ({"ratio": 1}, "ratio"),
        ({"ratio": 0}, "ratio"),
        ({"tolerance": 1}, "tolerance"),
        ({"max_wait": -1}, "max_wait"),
        ({"dropped": KeyboardInterrupt}, "dropped"),
        ({"dropped": "TimeoutError"}, "dropped"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, object], named: str) -> None:
    """A value outside its bounds names the setting."""
    with pytest.raises(ConfigurationError, match=f"AdaptiveLimit.{named}"):
        AdaptiveLimit("x", **{"most": 10, **settings})  # type: ignore[arg-type]
