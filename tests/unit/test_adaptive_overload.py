"""A server with too much to do, simulated: with the adaptive limit it gets its work done, without it does not."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable

import pytest

from holdfast.adaptive import AdaptiveLimit, Admission, Mode
from holdfast.errors import LoadShed
from holdfast.testing import ManualClock, seeded_random

SEEDS = [1, 2, 3]


class Call:
    """One call: when it began, and its permit until it is settled."""

    def __init__(self, permit: Admission, began: float) -> None:
        self.permit: Admission | None = permit
        self.began = began


class Overload:
    """Callers that come at random moments, and a server of ten workers that serves them in the order they came.

    A caller waits for `patience_s` and goes. The server does not learn of it and does the work for nobody, as databases do: that
    is what makes an overload last.
    """

    WORKERS = 10

    def __init__(
        self,
        seed: int,
        *,
        most: int,
        patience_s: float,
        offered: Callable[[float], float],
        service_s: Callable[[float], float],
        tolerance: float | None = None,
        mode: Mode = "on",
    ) -> None:
        self.clock = ManualClock(start=0)
        self.random = seeded_random(seed)
        self.limit = AdaptiveLimit("x", most=most, mode=mode, tolerance=tolerance, clock=self.clock, random=self.random)
        self.patience_s, self.offered, self.service_s = patience_s, offered, service_s
        self.queue: deque[Call] = deque()
        self.busy = 0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.queues: list[tuple[float, int]] = []
        self.done: list[tuple[float, float]] = []
        self.limits: list[tuple[float, int]] = []
        self.at(0, self.arrive)

    def at(self, delay_s: float, what: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.clock.monotonic() + delay_s, self.count, what))

    def run_until(self, end: float) -> None:
        while self.events[0][0] <= end:
            moment, _, what = heapq.heappop(self.events)
            self.clock.advance(moment - self.clock.monotonic())
            what()

    def arrive(self) -> None:
        self.at(-math.log(1 - self.random()) / self.offered(self.clock.monotonic()), self.arrive)
        self.limits.append((self.clock.monotonic(), self.limit.limit))
        self.queues.append((self.clock.monotonic(), len(self.queue)))
        try:
            call = Call(self.limit.acquire(), self.clock.monotonic())
        except LoadShed:
            return
        self.at(self.patience_s, lambda: self.give_up(call))
        self.queue.append(call)
        self.serve()

    def serve(self) -> None:
        if self.queue and self.busy < self.WORKERS:
            self.busy += 1
            call = self.queue.popleft()
            self.at(self.service_s(self.clock.monotonic()) * (0.5 + self.random()), lambda: self.finish(call))

    def finish(self, call: Call) -> None:
        self.busy -= 1
        if call.permit is not None:
            call.permit.succeeded()
            call.permit = None
            self.done.append((self.clock.monotonic(), self.clock.monotonic() - call.began))
        self.serve()

    def give_up(self, call: Call) -> None:
        if call.permit is not None:
            call.permit.dropped()
            call.permit = None

    def goodput(self, begin: float, end: float) -> float:
        """Calls a second that were served while somebody waited for them."""
        return sum(begin <= moment < end for moment, _ in self.done) / (end - begin)

    def latency_s(self, begin: float, end: float) -> float:
        """The mean time such a call took."""
        times = [latency_s for moment, latency_s in self.done if begin <= moment < end]
        return sum(times) / len(times)

    def longest_queue(self, begin: float = 0) -> int:
        """The most calls that waited in the server, those included for which nobody waits any more."""
        return max(length for moment, length in self.queues if moment >= begin)


def twice_as_much_as_it_can(seed: int, *, tolerance: float | None = None, mode: Mode = "on") -> Overload:
    """100 calls a second can be served; after ten seconds 200 come, and each caller waits half a second."""
    overload = Overload(
        seed,
        most=100,
        patience_s=0.5,
        offered=lambda now: 50 if now < 10 else 200,
        service_s=lambda _: 0.1,
        tolerance=tolerance,
        mode=mode,
    )
    overload.run_until(70)
    return overload


@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_limit_nearly_nothing_gets_done(seed: int) -> None:
    """The simulation is hard enough: the queue grows, and the server works for callers who have gone."""
    overload = twice_as_much_as_it_can(seed, mode="dark")
    assert overload.goodput(20, 70) < 10
    assert overload.longest_queue() > 1000


@pytest.mark.parametrize("seed", SEEDS)
def test_with_it_the_server_does_what_it_can(seed: int) -> None:
    """At least nine tenths, learned from time-outs alone. The queue is bounded: by twice the limit at first, soon by less."""
    overload = twice_as_much_as_it_can(seed)
    assert overload.goodput(20, 70) >= 90
    assert overload.latency_s(20, 70) < 0.5
    assert overload.longest_queue() <= 200
    assert overload.longest_queue(20) <= 60
    assert all(25 <= limit <= 60 for moment, limit in overload.limits if moment >= 20)


@pytest.mark.parametrize("seed", SEEDS)
def test_with_a_tolerance_calls_stay_quick_as_well(seed: int) -> None:
    """The server does the same, and calls take about as much longer as the tolerance says."""
    overload = twice_as_much_as_it_can(seed, tolerance=2)
    assert overload.goodput(20, 70) >= 90
    assert overload.latency_s(20, 70) < 0.25
    assert overload.longest_queue(20) <= 20


@pytest.mark.parametrize("tolerance", [None, 2.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_after_the_overload_it_comes_back(seed: int, tolerance: float | None) -> None:
    """A server that works at half its speed for a minute: the limit falls, nine tenths are done, and then it is as before."""
    overload = Overload(
        seed,
        most=30,
        patience_s=0.4,
        offered=lambda _: 100,
        service_s=lambda now: 0.2 if 20 <= now < 80 else 0.1,
        tolerance=tolerance,
    )
    overload.run_until(120)
    assert overload.goodput(30, 80) >= 45
    assert min(limit for moment, limit in overload.limits if 30 <= moment < 80) < 22
    assert max(limit for moment, limit in overload.limits if moment >= 100) == 30
    assert overload.goodput(85, 120) >= 85
