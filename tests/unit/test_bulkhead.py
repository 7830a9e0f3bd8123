"""The bulkhead: exactly so many at a time, a bounded wait, and no permit lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from holdfast.bulkhead import Bulkhead
from holdfast.deadline import within
from holdfast.errors import BulkheadFull, ConfigurationError, UsageError
from holdfast.events import CallRejected
from holdfast.testing import ManualClock, RecordingHook


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


def test_without_a_queue_the_next_is_rejected(clock: ManualClock) -> None:
    """Two permits serve two; the third is told at once, and served once one is back."""
    hook = RecordingHook()
    bulkhead = Bulkhead("x", permits=2, clock=clock, events=hook.stream)
    bulkhead.acquire()
    assert bulkhead.try_acquire()
    assert not bulkhead.try_acquire()
    with pytest.raises(BulkheadFull, match="all 2 permits of the bulkhead 'x' are taken"):
        bulkhead.acquire()
    assert hook.events == [CallRejected("x", "bulkhead")]
    bulkhead.release()
    with bulkhead:
        assert bulkhead.in_use == 2
    assert bulkhead.in_use == 1


def test_a_permit_comes_back_whatever_happens(clock: ManualClock) -> None:
    """Return, error and Ctrl-C give the permit back, in every form."""
    bulkhead = Bulkhead("x", permits=1, clock=clock)

    def fail(error: BaseException) -> None:
        assert bulkhead.in_use == 1
        raise error

    async def fail_async(error: BaseException) -> None:
        fail(error)

    async def fail_in_block(error: BaseException) -> None:
        async with bulkhead:
            fail(error)

    for error in (ValueError(), KeyboardInterrupt(), asyncio.CancelledError()):
        for form in (bulkhead(fail), lambda error: bulkhead.call(fail, error)):
            with pytest.raises(type(error)):
                form(error)
        with pytest.raises(type(error)), bulkhead:
            fail(error)
    for form_async in (bulkhead(fail_async), fail_in_block, lambda error: bulkhead.call_async(fail_async, error)):
        with pytest.raises(ValueError):
            asyncio.run(form_async(ValueError()))
    assert bulkhead.in_use == 0


def test_a_thread_waits_until_a_permit_is_free(clock: ManualClock) -> None:
    """The one who releases wakes the one who waits; no time needs to pass."""
    bulkhead = Bulkhead("x", permits=1, queue=1, clock=clock)
    bulkhead.acquire()
    thread = threading.Thread(target=bulkhead.acquire)
    thread.start()
    until(lambda: bulkhead.waiting == 1)
    bulkhead.release()
    thread.join()
    assert (bulkhead.in_use, bulkhead.waiting) == (1, 0)


class Racing(Bulkhead):
    """A bulkhead in which a permit comes back just after a caller found none."""

    __slots__ = ()

    def try_acquire(self) -> bool:
        taken = super().try_acquire()
        if not taken:
            self.release()
        return taken


def test_a_permit_that_comes_back_between_two_looks_is_not_missed(clock: ManualClock) -> None:
    """Nobody joins the queue beside a free permit."""
    bulkhead = Racing("x", permits=1, queue=1, clock=clock)
    bulkhead.acquire()
    bulkhead.acquire()
    assert (bulkhead.in_use, bulkhead.waiting) == (1, 0)


def test_a_thread_waits_no_longer_than_it_may(clock: ManualClock) -> None:
    """After `max_wait` by the given clock it is rejected and leaves the queue."""
    bulkhead = Bulkhead("x", permits=1, queue=1, max_wait=2.0, clock=clock)
    bulkhead.acquire()
    errors: list[BulkheadFull] = []

    def work() -> None:
        with pytest.raises(BulkheadFull, match="none came free in 2 s") as caught:
            bulkhead.acquire()
        errors.append(caught.value)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: clock.waiting == 1)
    clock.advance(1.9)
    assert bulkhead.waiting == 1
    clock.advance(0.2)
    thread.join()
    assert (len(errors), bulkhead.in_use, bulkhead.waiting) == (1, 1, 0)


async def test_the_deadline_shortens_the_wait(clock: ManualClock) -> None:
    """A caller with half a second left waits half a second; one with nothing left does not wait."""
    bulkhead = Bulkhead("x", permits=1, queue=5, max_wait=60, clock=clock)
    await bulkhead.acquire_async()

    async def work() -> None:
        with within(0.5, clock=clock):
            await bulkhead.acquire_async()

    task = asyncio.create_task(work())
    await turns()
    clock.advance(0.5)
    with pytest.raises(BulkheadFull, match=r"0\.5 s"):
        await task
    with within(0, clock=clock), pytest.raises(BulkheadFull, match="no time to wait"):
        await bulkhead.acquire_async()
    assert bulkhead.waiting == 0


async def test_the_queue_is_bounded_and_the_newest_is_served_first(clock: ManualClock) -> None:
    """Last in, first out; one too many is told at once."""
    bulkhead = Bulkhead("x", permits=1, queue=3, clock=clock)
    await bulkhead.acquire_async()
    served: list[int] = []

    async def work(index: int) -> None:
        await bulkhead.acquire_async()
        served.append(index)

    tasks = [asyncio.create_task(work(index)) for index in range(3)]
    await turns()
    with pytest.raises(BulkheadFull, match="queue is full"):
        await bulkhead.acquire_async()
    for _ in range(3):
        bulkhead.release()
        await turns()
    await asyncio.gather(*tasks)
    assert served == [2, 1, 0]


async def test_a_cancelled_waiter_leaks_nothing(clock: ManualClock) -> None:
    """A client that hangs up in the queue leaves no trace (hyx lost a permit each time)."""
    bulkhead = Bulkhead("x", permits=1, queue=5, clock=clock)
    await bulkhead.acquire_async()
    task = asyncio.create_task(bulkhead.acquire_async())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (bulkhead.in_use, bulkhead.waiting, clock.waiting) == (1, 0, 0)
    bulkhead.release()
    assert bulkhead.in_use == 0


async def test_a_waiter_cancelled_while_it_is_handed_the_permit_passes_it_on(clock: ManualClock) -> None:
    """Cancelled between the release and its wake-up, it gives the permit to the next in the queue."""
    bulkhead = Bulkhead("x", permits=1, queue=5, clock=clock)
    await bulkhead.acquire_async()
    older = asyncio.create_task(bulkhead.acquire_async())
    await turns()
    newer = asyncio.create_task(bulkhead.acquire_async())
    await turns()
    bulkhead.release()
    newer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await newer
    await older
    assert (bulkhead.in_use, bulkhead.waiting) == (1, 0)


def test_a_waiter_whose_loop_is_gone_does_not_keep_the_permit(clock: ManualClock) -> None:
    """An event loop that was closed with waiters in it costs no permit."""
    bulkhead = Bulkhead("x", permits=1, queue=5, clock=clock)
    bulkhead.acquire()
    loop = asyncio.new_event_loop()
    waiting = bulkhead.acquire_async()
    task = loop.create_task(waiting)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert bulkhead.waiting == 1
    loop.close()
    bulkhead.release()
    assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    waiting.close()


def test_a_loop_that_is_gone_may_have_left_thousands(clock: ManualClock) -> None:
    """Each passes the permit on to the next: that is no recursion."""
    bulkhead = Bulkhead("x", permits=1, queue=2000, clock=clock)
    bulkhead.acquire()
    loop = asyncio.new_event_loop()
    waiting = [bulkhead.acquire_async() for _ in range(2000)]
    tasks = [loop.create_task(one) for one in waiting]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert bulkhead.waiting == 2000
    loop.close()
    bulkhead.release()
    assert (bulkhead.in_use, bulkhead.waiting) == (0, 0)
    for task, one in zip(tasks, waiting, strict=True):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        one.close()


async def test_threads_and_tasks_share_one_bulkhead(clock: ManualClock) -> None:
    """A task that waits is woken by a thread that releases."""
    bulkhead = Bulkhead("x", permits=1, queue=1, clock=clock)
    bulkhead.acquire()
    task = asyncio.create_task(bulkhead.acquire_async())
    await turns()
    await asyncio.to_thread(bulkhead.release)
    await task
    assert bulkhead.in_use == 1


def test_giving_back_what_was_not_taken_is_an_error(clock: ManualClock) -> None:
    """A release too many would add a permit."""
    with pytest.raises(UsageError, match="'x'"):
        Bulkhead("x", permits=1, clock=clock).release()


def test_64_threads_never_exceed_the_permits() -> None:
    """Never more than the permits at a time, and all of them back at the end."""
    bulkhead = Bulkhead("x", permits=7, queue=64, max_wait=60)
    start = threading.Barrier(64)
    lock = threading.Lock()
    running = highest = calls = 0

    @bulkhead
    def call() -> None:
        nonlocal running, highest, calls
        with lock:
            running += 1
            calls += 1
            highest = max(highest, running)
        with lock:
            running -= 1

    def work() -> None:
        start.wait()
        for _ in range(50):
            call()

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (calls, bulkhead.in_use, bulkhead.waiting) == (64 * 50, 0, 0)
    assert 0 < highest <= 7


async def test_10000_tasks_never_exceed_the_permits(clock: ManualClock) -> None:
    """With a third of them cancelled while they wait, the others are all served, seven at a time."""
    bulkhead = Bulkhead("x", permits=7, queue=10_000, max_wait=60, clock=clock)
    running = highest = served = 0

    @bulkhead
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
    assert (served, highest, bulkhead.in_use, bulkhead.waiting) == (10_000 - cancelled, 7, 0, 0)


@pytest.mark.parametrize("settings, named", [({"permits": 0}, "permits"), ({"permits": 1, "queue": -1}, "queue")])
def test_wrong_settings_are_refused_by_name(settings: dict[str, int], named: str) -> None:
    """A value outside its bounds names the setting."""
    with pytest.raises(ConfigurationError, match=named):
        Bulkhead("x", **settings)  # type: ignore[arg-type]
