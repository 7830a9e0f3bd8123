"""The bulkhead under any sequence of arrivals, releases, cancellations and time-outs."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.bulkhead import Bulkhead
from holdfast.errors import BulkheadFull
from holdfast.testing import ManualClock

PERMITS, QUEUE, MAX_WAIT_S = 2, 3, 5.0


class Tasks(RuleBasedStateMachine):
    """Tasks on an event loop that is turned by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.bulkhead = Bulkhead("x", permits=PERMITS, queue=QUEUE, max_wait=MAX_WAIT_S, clock=self.clock)
        self.waiting: list[tuple[asyncio.Task[None], float]] = []
        self.held = 0

    def teardown(self) -> None:
        for task, _ in self.waiting:
            task.cancel()
        self.turn()
        self.loop.close()

    def turn(self) -> None:
        for _ in range(4):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        for entry in list(self.waiting):
            task = entry[0]
            if task.done():
                self.waiting.remove(entry)
                if not task.cancelled() and task.exception() is None:
                    self.held += 1
                elif not task.cancelled():
                    assert isinstance(task.exception(), BulkheadFull)
                    assert self.clock.monotonic() - entry[1] >= MAX_WAIT_S

    @rule()
    def a_task_arrives(self) -> None:
        queue_was_full = len(self.waiting) >= QUEUE
        free = self.held < PERMITS
        task = self.loop.create_task(self.bulkhead.acquire_async())
        if not free and queue_was_full:
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            assert isinstance(task.exception(), BulkheadFull)
            return
        self.waiting.append((task, self.clock.monotonic()))
        self.turn()
        assert task.done() == free

    @precondition(lambda self: self.held > 0)
    @rule(cancel_who_is_woken=st.booleans())
    def a_permit_is_released(self, cancel_who_is_woken: bool) -> None:
        self.held -= 1
        self.bulkhead.release()
        if cancel_who_is_woken and self.waiting:
            self.waiting[-1][0].cancel()  # the newest was woken, and does not know it yet
        self.turn()

    @precondition(lambda self: bool(self.waiting))
    @rule(index=st.integers(0, QUEUE - 1))
    def a_waiter_is_cancelled(self, index: int) -> None:
        self.waiting[index % len(self.waiting)][0].cancel()
        self.turn()

    @rule(seconds=st.sampled_from([1.0, 2.5, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.turn()
        assert all(self.clock.monotonic() - since < MAX_WAIT_S for _, since in self.waiting)

    @invariant()
    def permits_are_those_of_the_model(self) -> None:
        assert self.bulkhead.in_use == self.held <= PERMITS
        assert self.bulkhead.waiting == len(self.waiting) <= QUEUE
        assert not self.waiting or self.held == PERMITS  # nobody waits beside a free permit


Tasks.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestBulkhead = Tasks.TestCase
