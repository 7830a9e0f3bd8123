"""The circuit breaker under any sequence of calls, results and pauses, against a naive model."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, consumes, invariant, multiple, rule

from holdfast.breaker import CircuitBreaker, Permit
from holdfast.errors import BreakerOpen
from holdfast.events import BreakerChanged
from holdfast.testing import ManualClock, RecordingHook

Begun = tuple[Permit, int, float, str]
"""A permit, and the generation, moment and state it was taken in."""

CALLS_MIN, PROBES, LEASE_S, OPEN_S, OPEN_MAX_S = 4, 2, 3.0, 5.0, 20.0


class Breaker(RuleBasedStateMachine):
    """Permits are taken and settled in any order and at any time, also long after their generation."""

    permits: Bundle[Begun] = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.hook = RecordingHook()
        self.breaker = CircuitBreaker(
            "x",
            calls_min=CALLS_MIN,
            ratio=0.5,
            window=1e9,  # forgetting is the window's own test
            probes=PROBES,
            probe_lease=LEASE_S,
            open_for=OPEN_S,
            open_for_max=OPEN_MAX_S,
            clock=self.clock,
            events=self.hook.stream,
        )
        self.successes = self.failures = self.passed = 0
        self.leases: dict[Permit, float] = {}
        self.opened_at = 0.0
        self.openings = 0

    @rule(seconds=st.sampled_from([0.0, 1.0, 2.9, 3.0, 5.0, 10.0, 20.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(target=permits, times=st.integers(1, 4))
    def calls_begin(self, times: int) -> MultipleResults[Begun]:
        return multiple(*(permit for _ in range(times) for permit in self.begin()))

    def begin(self) -> list[Begun]:
        now, before = self.clock.monotonic(), self.breaker.state
        retry_after_s = 0.0
        free = PROBES - self.passed - sum(expires_at > now for expires_at in self.leases.values())
        try:
            permit: Permit | None = self.breaker.acquire()
        except BreakerOpen as error:
            retry_after_s = error.retry_after_s or 0.0
            permit = None
        if permit is None:
            assert retry_after_s > 0
            if before == "open":
                assert retry_after_s == self.opens_again_at() - now
            else:
                assert (before, free) == ("half_open", 0)
            return []
        if before == "open":
            assert now >= self.opens_again_at()
            self.leases, self.passed = {}, 0
        elif before == "half_open":
            assert free > 0
        if self.breaker.state == "half_open":
            self.leases[permit] = now + LEASE_S
        return [(permit, self.breaker.generation, now, self.breaker.state.value)]

    def opens_again_at(self) -> float:
        return self.opened_at + min(OPEN_S * 2.0 ** (self.openings - 1), OPEN_MAX_S)

    @rule(begun=consumes(permits))
    def a_call_succeeds(self, begun: Begun) -> None:
        permit, generation, _, state = begun
        current = generation == self.breaker.generation
        valid = self.leases.get(permit, 0.0) > self.clock.monotonic()
        permit.succeeded()
        if current and state == "closed":
            self.successes += 1
            assert self.breaker.state == "closed"
        elif current and valid:
            self.passed += 1
            del self.leases[permit]
            if self.passed == PROBES:
                self.successes = self.failures = self.openings = 0
                assert self.breaker.state == "closed"
        else:
            assert self.breaker.generation >= generation

    @rule(begun=consumes(permits))
    def a_call_fails(self, begun: Begun) -> None:
        permit, generation, _, state = begun
        now, before = self.clock.monotonic(), self.breaker.generation
        current = generation == before
        valid = self.leases.get(permit, 0.0) > now
        permit.failed()
        if current and state == "closed":
            self.failures += 1
            calls = self.successes + self.failures
            opens = calls >= CALLS_MIN and self.failures * 2 >= calls
        else:
            opens = current and valid
        if opens:
            self.opened_at, self.openings = now, self.openings + 1
            self.successes = self.failures = 0
        assert (self.breaker.generation == before + 1) == opens
        assert not opens or self.breaker.state == "open"

    @rule(begun=consumes(permits))
    def a_call_says_nothing(self, begun: Begun) -> None:
        before = (self.breaker.generation, self.breaker.counts())
        begun[0].ignored()
        self.leases.pop(begun[0], None)
        assert (self.breaker.generation, self.breaker.counts()) == before

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        if self.breaker.state == "closed":
            assert self.breaker.counts() == (self.successes + self.failures, self.failures)
        else:
            assert self.breaker.counts() == (0, 0)

    @invariant()
    def every_change_is_told_and_follows_the_last(self) -> None:
        states = [event.new for event in self.hook.of(BreakerChanged)]
        assert [event.old for event in self.hook.of(BreakerChanged)] == ["closed", *states][:-1]
        assert ["closed", *states][-1] == self.breaker.state
        assert self.breaker.generation == 1 + len(states)


Breaker.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestBreaker = Breaker.TestCase
