"""The test tools: a clock that moves when told, draws that repeat, a hook that remembers."""

from __future__ import annotations

import asyncio
import threading

import pytest

from holdfast.clock import SYSTEM_CLOCK
from holdfast.errors import ConfigurationError
from holdfast.events import CallRejected, HookFailed
from holdfast.stream import subscribe
from holdfast.testing import ManualClock, RecordingHook, seeded_random


def test_sleeping_moves_the_clock_at_once() -> None:
    """A sleep takes no time, and is remembered."""
    clock = ManualClock(start=5)
    clock.sleep(2.5)
    asyncio.run(clock.sleep_async(0.5))
    clock.advance(1)
    assert (clock.monotonic(), clock.sleeps) == (9.0, [2.5, 0.5])


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_time_only_goes_ahead(seconds: float) -> None:
    """Neither backwards nor to the end of time."""
    clock = ManualClock()
    with pytest.raises(ConfigurationError):
        clock.advance(seconds)
    assert clock.monotonic() == 1000.0


def test_a_waiting_thread_wakes_when_its_time_has_come() -> None:
    """Moving the clock by too little wakes nobody; moving it far enough wakes whoever waited for it."""
    clock = ManualClock()
    event = threading.Event()
    thread = threading.Thread(target=clock.wait, args=(event, 2.0))
    thread.start()
    while clock.waiting == 0:
        threading.Event().wait(0.001)
    clock.advance(1.9)
    assert not event.is_set()
    clock.advance(0.1)
    thread.join()
    assert clock.waiting == 0


async def test_a_waiting_task_wakes_when_its_time_or_its_event_has_come() -> None:
    """Both ends of a wait, and neither leaves anything behind."""
    clock = ManualClock()
    for wake in ("time", "event"):
        event = asyncio.Event()
        task = asyncio.create_task(clock.wait_async(event, 2.0))
        await asyncio.sleep(0)  # noqa: TID251 - lets the task begin
        assert clock.waiting == 1
        if wake == "time":
            clock.advance(2)
        else:
            event.set()
        await task
        assert clock.waiting == 0


async def test_the_system_clock_keeps_the_same_contract() -> None:
    """A wait on the machine's clock ends by time or by event, without an error."""
    event = asyncio.Event()
    await SYSTEM_CLOCK.wait_async(event, 0.001)
    assert not event.is_set()
    event.set()
    await SYSTEM_CLOCK.wait_async(event, 60)
    thread_event = threading.Event()
    SYSTEM_CLOCK.wait(thread_event, 0.001)
    assert not thread_event.is_set()
    thread_event.set()
    SYSTEM_CLOCK.wait(thread_event, 60)
    await SYSTEM_CLOCK.sleep_async(0)


def test_a_seed_repeats_its_draws() -> None:
    """Equal seeds draw equal numbers from [0, 1), other seeds others."""
    one, same, other = seeded_random(7), seeded_random(7), seeded_random(8)
    draws = [one() for _ in range(100)]
    assert draws == [same() for _ in range(100)]
    assert draws != [other() for _ in range(100)]
    assert all(0 <= draw < 1 for draw in draws)


def test_a_recording_hook_keeps_events_in_order() -> None:
    """On its own stream or on another, all events or those of a kind."""
    hook = RecordingHook()
    first, second = CallRejected("a", "breaker"), HookFailed("b", "h", "E")
    hook.stream.emit(first)
    hook.stream.emit(second)
    assert hook.events == [first, second]
    assert hook.of(HookFailed) == [second]
    hook.clear()
    with subscribe(hook):
        pass
    assert hook.events == []
