"""The rate limiter's stated bound, under any sequence of calls."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from holdfast.ratelimit import RateLimiter
from holdfast.testing import ManualClock


class Limiter(RuleBasedStateMachine):
    """Turns are taken, reserved and given back at any times; every interval is checked against the promise."""

    @initialize(rate=st.sampled_from([0.3, 1.0, 3.0, 7.0, 1000.0]), burst=st.sampled_from([1, 2, 5]))
    def limiter_is_made(self, rate: float, burst: int) -> None:
        self.clock = ManualClock()
        self.rate, self.burst = rate, burst
        self.limiter = RateLimiter("x", rate=rate, burst=burst, clock=self.clock)
        self.moments_ns: list[int] = []

    def now_ns(self) -> int:
        return int(self.clock.monotonic() * 1e9)

    @rule(intervals=st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 10.0]))
    def time_passes(self, intervals: float) -> None:
        self.clock.advance(intervals / self.rate)

    @rule(times=st.integers(1, 8))
    def turns_are_tried(self, times: int) -> None:
        for _ in range(times):
            wait_ns = self.limiter._reserve(math.inf)[0]
            self.limiter._give_back(self.limiter._arrival_ns)  # a look ahead, undone
            granted = self.limiter.try_acquire()
            assert granted == (wait_ns == 0)
            if granted:
                self.take(self.now_ns())

    @rule(times=st.integers(1, 4))
    def turns_are_waited_for(self, times: int) -> None:
        for _ in range(times):
            wait_ns, _ = self.limiter._reserve(math.inf)
            self.take(self.now_ns() + wait_ns)

    @rule()
    def a_waiter_is_cancelled(self) -> None:
        _, arrival_ns = self.limiter._reserve(math.inf)
        self.limiter._give_back(arrival_ns)

    def take(self, moment_ns: int) -> None:
        assert not self.moments_ns or moment_ns >= self.moments_ns[-1]  # nobody is served before who asked earlier
        self.moments_ns.append(moment_ns)
        for first in range(len(self.moments_ns)):
            elapsed_s = (moment_ns - self.moments_ns[first]) / 1e9
            assert len(self.moments_ns) - first <= self.burst + self.rate * elapsed_s + 1e-9


Limiter.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestLimiter = Limiter.TestCase
