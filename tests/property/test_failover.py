"""The failover gate under any order of arrivals, losses, proofs, cancellations and moments, by the invariants of Vitess' buffer.

Tasks wait at the gate on an event loop that the machine turns by hand, and the search is answered one command at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Part
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from holdfast.clock import SYSTEM_CLOCK
from holdfast.errors import NoWriter
from holdfast.failover import Ask, FailoverGate, FailoverSettings, Pause, Phase, Proof, Search, search
from holdfast.testing import ManualClock

WAITING_MAX = 2
SETTINGS = FailoverSettings(waiting_max=WAITING_MAX, release_first=1, release_pause=0.04)


@dataclass(eq=False)
class Caller:
    """Someone who came to the gate, and what was known when."""

    task: asyncio.Task[bool]
    urgent: bool
    expires_at: float
    proofs: int
    """How often a server had been proven or acquitted when the caller came, without the proof that it may go by."""


class Gate(RuleBasedStateMachine):
    """Operations come, lose their server, are cancelled or run out of time, while a search asks two hosts."""

    make: Callable[..., FailoverGate] = FailoverGate

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.wanted = False
        self.gate = type(self).make(waiting_max=WAITING_MAX, clock=self.clock, wake_search=self._wake)
        self.commands: Search[str] | None = None
        self.asked: Ask[str] | Pause | None = None
        self.callers: list[Caller] = []
        self.proofs = 0

    def _wake(self) -> None:
        self.wanted = True

    def turn(self) -> None:
        """Let every task run until it waits."""
        for _ in range(4):
            self.loop.run_until_complete(SYSTEM_CLOCK.sleep_async(0))

    def settle(self) -> None:
        """Run the tasks, and judge those that ended."""
        self.turn()
        for caller in [caller for caller in self.callers if caller.task.done()]:
            self.callers.remove(caller)
            if caller.task.cancelled() or caller.task.exception() is not None:
                continue
            in_time = self.clock.monotonic() < caller.expires_at
            assert not in_time or self.proofs > caller.proofs, "let through, and no server was there"

    # -- the operations ------------------------------------------------------------------------------------------------

    @rule(lost=st.booleans(), seconds=st.sampled_from([0.03, 1.0, 60.0]), crowd=st.integers(1, 3))
    def several_come(self, lost: bool, seconds: float, crowd: int) -> None:
        for _ in range(crowd):
            self.come(lost, False, seconds)

    @rule(lost=st.booleans(), seconds=st.sampled_from([0.03, 1.0, 60.0]))
    def one_comes_who_is_owed_the_truth(self, lost: bool, seconds: float) -> None:
        self.come(lost, True, seconds)

    def come(self, lost: bool, urgent: bool, seconds: float) -> None:
        phase = self.gate.phase
        before = self.gate.waiting
        if lost:
            self.gate.suspect()
            phase = self.gate.phase
        expires_at = self.clock.monotonic() + seconds
        waits = phase in {Phase.AWAY, Phase.RAMPING} or (phase is Phase.SUSPECT and lost)
        task = self.loop.create_task(
            self.gate.enter_async(expires_at, lost_at_outage=self.gate.outages if lost else None, urgent=urgent)
        )
        self.turn()
        if task.done():
            refused = task.exception() is not None
            assert refused == (waits and not urgent and before >= WAITING_MAX)
            assert refused or not waits, "somebody came in while everybody waits"
            assert not refused or isinstance(task.exception(), NoWriter)
            return
        self.callers.append(Caller(task, urgent, expires_at, self.proofs - (phase is Phase.RAMPING)))
        assert waits

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.callers)).task.cancel()
        self.settle()

    @rule()
    def get_an_answer(self) -> None:
        self.clock.advance(0.001)
        self.gate.answered(self.clock.monotonic())
        self.settle()

    @rule(role_changed=st.booleans())
    def suspect(self, role_changed: bool) -> None:
        self.gate.suspect(role_changed=role_changed)
        self.settle()

    @rule(seconds=st.sampled_from([0.01, 0.5, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    # -- the search, as a shell would carry it out -----------------------------------------------------------------------

    @precondition(lambda self: self.commands is None and self.wanted)
    @rule()
    def begin_search(self) -> None:
        self.wanted = False
        if self.gate.phase in {Phase.SUSPECT, Phase.AWAY}:
            self.commands = search(
                self.gate, ("a", "b"), "a", SETTINGS, random=lambda: 0.5, lost=lambda: None, found=lambda _: None
            )
            self.proceed(None)

    @precondition(lambda self: self.commands is not None)
    @rule(writable=st.booleans())
    def answer_search(self, writable: bool) -> None:
        if isinstance(self.asked, Pause):
            self.clock.advance(self.asked.seconds)
            self.settle()
            self.proceed(None)
        else:
            self.proceed(Proof(writable=writable))

    def proceed(self, answer: Proof | None) -> None:
        assert self.commands is not None
        proven, phase = self.gate.outages, self.gate.phase
        # Only a proof, or another operation's answer, may set anybody free in this step.
        founded = (answer is not None and answer.writable) or self.gate.is_cleared or phase is Phase.RAMPING
        try:
            self.asked = self.commands.send(answer)
        except StopIteration:
            self.commands = None
            self.wanted = self.wanted or self.gate.phase in {Phase.SUSPECT, Phase.AWAY}
        left = self.gate.phase not in {Phase.SUSPECT, Phase.AWAY} and phase in {Phase.SUSPECT, Phase.AWAY}
        assert founded or not left, "opened without proof"
        if left or self.gate.outages > proven:
            self.proofs += 1
        self.settle()

    @precondition(lambda self: self.commands is not None and not self.gate.waiting and isinstance(self.asked, Pause))
    @rule()
    def give_up(self) -> None:
        assert self.commands is not None
        self.commands.close()
        self.commands = None

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def closed_says_what_the_phase_is(self) -> None:
        assert self.gate.closed == (self.gate.phase in {Phase.AWAY, Phase.RAMPING})

    @invariant()
    def who_waits_is_counted_and_nobody_else(self) -> None:
        assert self.gate.waiting == len(self.callers)

    @invariant()
    def nobody_waits_while_it_flows(self) -> None:
        assert self.gate.phase is not Phase.FLOWING or not self.callers

    @invariant()
    def no_more_wait_than_may(self) -> None:
        assert sum(not caller.urgent for caller in self.callers) <= WAITING_MAX

    @invariant()
    def a_search_is_under_way_or_wanted_when_somebody_waits(self) -> None:
        assert not self.callers or self.commands is not None or self.wanted

    def teardown(self) -> None:
        """Whoever still waits is let through once there is a server: no wake-up was lost."""
        try:
            steps = 0
            while self.callers and steps < 200:
                steps += 1
                if self.commands is None:
                    self.begin_search()
                    continue
                if isinstance(self.asked, Pause):
                    self.gate.answered(self.clock.monotonic())
                self.answer_search(writable=True)
            assert not self.callers, "forgotten at the gate"
        finally:
            for caller in self.callers:
                caller.task.cancel()
            self.turn()
            self.loop.close()


TestGate = Gate.TestCase
TestGate.settings = settings(max_examples=150, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])


# -- planted bugs --------------------------------------------------------------------------------------------------------


class LosesWakeUps(FailoverGate):
    """Forgets to wake one of several who are let through."""

    def _release(self, number: int) -> None:
        waiters = list(self._waiters)
        if len(waiters[:number]) > 1:
            waiters[0].wake = lambda: None
        super()._release(number)


class LeaksPlaces(FailoverGate):
    """Counts who was cancelled for ever."""

    def _leave(self, waiter: object) -> None:
        if waiter not in self._waiters:
            super()._leave(waiter)  # type: ignore[arg-type]


class ReleasesWithoutProof(FailoverGate):
    """Lets everybody through as soon as an outage is certain."""

    def close(self) -> None:
        super().close()
        self._release(len(self._waiters))


class ForgetsToOpen(FailoverGate):
    """Flows again, and holds whoever reads `closed`."""

    def _open(self) -> None:
        self._phase = Phase.FLOWING


class CountsNobody(FailoverGate):
    """Has everybody wait who comes."""

    def __init__(self, *, waiting_max: int, **rest: object) -> None:
        super().__init__(waiting_max=waiting_max + 1, **rest)  # type: ignore[arg-type]


class SearchesNoMore(FailoverGate):
    """Does not ask for another search when the last one gave up."""

    def _join(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
        wake, self._wake_search = self._wake_search, lambda: None
        try:
            return super()._join(*arguments, **options)  # type: ignore[arg-type]
        finally:
            self._wake_search = wake


@pytest.mark.parametrize(
    "planted", [LosesWakeUps, LeaksPlaces, ReleasesWithoutProof, ForgetsToOpen, CountsNobody, SearchesNoMore]
)
def test_planted_bug_is_found(planted: type[FailoverGate]) -> None:
    """Each bug breaks an invariant within some sequence."""

    class Planted(Gate):
        make = planted

    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(
            Planted,
            settings=settings(
                max_examples=400,
                stateful_step_count=30,
                database=None,
                phases=[Part.generate],  # that it is found is enough: nobody needs the shortest way
                suppress_health_check=list(HealthCheck),
            ),
        )
