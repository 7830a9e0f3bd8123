"""The adaptive limit under any sequence of arrivals, outcomes, cancellations and time-outs."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast.adaptive import AdaptiveLimit, Admission, Mode
from holdfast.errors import LoadShed
from holdfast.events import CallShed, LimitChanged
from holdfast.testing import ManualClock, RecordingHook

QUEUE, MAX_WAIT_S = 3, 5.0


class Tasks(RuleBasedStateMachine):
    """Tasks on an event loop that is turned by hand."""

    @initialize(
        mode=st.sampled_from(["dark", "on"]),
        most=st.integers(1, 6),
        least=st.integers(1, 6),
        tolerance=st.none() | st.just(2.0),
    )
    def begin(self, mode: Mode, most: int, least: int, tolerance: float | None) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.hook = RecordingHook()
        self.mode, self.most, self.least = mode, most, min(least, most)
        self.limit = AdaptiveLimit(
            "x",
            most=most,
            least=self.least,
            mode=mode,
            tolerance=tolerance,
            queue=QUEUE,
            max_wait=MAX_WAIT_S,
            clock=self.clock,
            random=lambda: 0.5,
            events=self.hook.stream,
        )
        self.waiting: list[tuple[asyncio.Task[Admission], float]] = []
        self.held: list[Admission] = []
        self.refused = 0

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            for task, _ in self.waiting:
                task.cancel()
            self.turn()
            for permit in self.held:
                permit.ignored()
            assert (self.limit.in_flight, self.limit.waiting) == (0, 0)
            self.loop.close()

    def turn(self) -> None:
        for _ in range(4):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        for entry in list(self.waiting):
            task, since = entry
            if not task.done():
                continue
            self.waiting.remove(entry)
            if task.cancelled():
                continue
            if task.exception() is None:
                self.held.append(task.result())
            else:
                error = task.exception()
                assert isinstance(error, LoadShed)
                assert error.retry_after_s is not None
                assert 0.1 <= error.retry_after_s <= 30
                assert self.clock.monotonic() - since >= MAX_WAIT_S or self.queue_was_full
                self.refused += 1

    queue_was_full = False

    @rule()
    def a_task_arrives(self) -> None:
        free = len(self.held) < self.limit.limit or self.mode == "dark"
        self.queue_was_full = not free and len(self.waiting) >= QUEUE
        task = self.loop.create_task(self.limit.acquire_async())
        self.waiting.append((task, self.clock.monotonic()))
        self.turn()
        assert task.done() == (free or self.queue_was_full)
        assert len(self.held) <= self.limit.limit or self.mode == "dark" or not free
        self.queue_was_full = False

    @precondition(lambda self: self.held)
    @rule(index=st.integers(0, 5), outcome=st.sampled_from(["succeeded", "succeeded", "dropped", "ignored"]))
    def a_call_ends(self, index: int, outcome: str) -> None:
        permit = self.held.pop(index % len(self.held))
        before, generation = self.limit.limit, self.limit._aimd.generation
        getattr(permit, outcome)()
        assert self.limit._aimd.generation - generation <= 1
        if outcome == "ignored":
            assert self.limit.limit == before
        self.turn()

    @rule(seconds=st.sampled_from([0.01, 0.2, 2.0]))
    def many_calls_succeed(self, seconds: float) -> None:
        for _ in range(10):
            if len(self.held) < self.limit.limit:
                permit = self.limit.acquire()
                self.clock.advance(seconds / 10)
                permit.succeeded()
                self.turn()

    @precondition(lambda self: self.held and self.waiting)
    @rule()
    def who_is_served_is_cancelled(self) -> None:
        self.held.pop().ignored()
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
        if not hasattr(self, "limit"):
            return
        limit = self.limit
        assert self.least <= limit.limit <= self.most
        assert limit.in_flight == len(self.held)
        assert limit.waiting == len(self.waiting) <= QUEUE
        assert not self.waiting or limit.in_flight >= limit.limit  # nobody waits beside a free permit

    @invariant()
    def dark_refuses_nobody(self) -> None:
        if not hasattr(self, "limit"):
            return
        shed = [event for event in self.hook.events if isinstance(event, CallShed)]
        assert all(event.dark == (self.mode == "dark") for event in shed)
        assert self.refused == (0 if self.mode == "dark" else len(shed))
        assert self.mode == "on" or not self.waiting
        changes = [event for event in self.hook.events if isinstance(event, LimitChanged)]
        assert [change.new for change in changes[:-1]] == [change.old for change in changes[1:]]


Tasks.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestAdaptiveLimit = Tasks.TestCase
