"""What a forked child does not inherit: calls under way, waiting callers, leases of probes, and locks that nobody gives back."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from holdfast import AdaptiveLimit, Bulkhead, CircuitBreaker, RateLimiter, errors
from holdfast.breaker import BreakerState
from holdfast.budget import RetryBudget
from holdfast.forks import ProcessLock, after_fork
from holdfast.stream import EventStream
from holdfast.testing import ManualClock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

PATIENCE_S = 10
"""How long a child may take: only one that hangs does."""


def holds_in_child(check: Callable[[], object]) -> bool:
    """Whether `check` is true in a forked child."""
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE_S)
        try:
            os._exit(0 if check() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def limit() -> AdaptiveLimit:
    return AdaptiveLimit("forked", most=2)


MADE: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "AdaptiveLimit": (limit, lambda made: made.acquire().succeeded() is None),
    "Bulkhead": (lambda: Bulkhead("forked", permits=1), lambda made: made.try_acquire()),
    "CircuitBreaker": (lambda: CircuitBreaker("forked"), lambda made: made.counts() == (0, 0)),
    "RateLimiter": (lambda: RateLimiter("forked", rate=1), lambda made: made.try_acquire()),
    "RetryBudget": (RetryBudget, lambda made: made.try_spend()),
    "EventStream": (EventStream, lambda made: made.subscribe(print)),
}


@pytest.mark.parametrize(("make", "use"), MADE.values(), ids=MADE)
def test_a_lock_that_was_held_is_free(make: Callable[[], Any], use: Callable[[Any], object]) -> None:
    """A thread that the child does not have was just counting."""
    made = make()
    with made._lock:
        assert holds_in_child(lambda: use(made))


def taken(lock: ProcessLock) -> bool:
    """Whether `lock` could be taken, twice in turn."""
    with lock:
        pass
    with lock:
        return True


def test_a_lock_of_the_process_is_free() -> None:
    """And stays the parent's there."""
    lock = ProcessLock()
    with lock:
        assert holds_in_child(lambda: taken(lock))
        assert not lock._lock.acquire(blocking=False)
    assert taken(lock)


def test_an_error_may_be_raised() -> None:
    """Each is numbered, by threads in turn."""
    with errors._numbering:
        assert holds_in_child(lambda: errors._next_number() > 0)


def test_nothing_is_in_flight() -> None:
    """What others have under way they end in the parent; what the forking thread had, it ends in both, and is counted once."""
    limited = limit()
    permits = [limited.acquire(), limited.acquire()]

    def check() -> bool:
        fresh = limited.in_flight == 0
        permits[0].dropped()
        own = limited.acquire()
        permits[1].succeeded()
        counted = limited.in_flight
        own.succeeded()
        return (fresh, counted, limited.in_flight, limited.limit) == (True, 1, 0, 2)

    assert holds_in_child(check)
    assert limited.in_flight == 2


def test_all_permits_of_a_bulkhead_are_free() -> None:
    """Who gives back one that the parent had taken is not told that it was none, and makes no more of them."""
    bulkhead = Bulkhead("forked", permits=2)

    def check() -> bool:
        fresh = bulkhead.in_use
        bulkhead.release()
        return (fresh, bulkhead.try_acquire(), bulkhead.try_acquire(), bulkhead.try_acquire()) == (0, True, True, False)

    with bulkhead:
        assert holds_in_child(check)
        assert bulkhead.in_use == 1


def test_nobody_waits_in_a_queue() -> None:
    """Who waited in the parent would be given the child's permits, and never come for them."""
    bulkhead = Bulkhead("forked", permits=1, queue=1, max_wait=PATIENCE_S)
    limited = AdaptiveLimit("forked", most=1, queue=1, max_wait=PATIENCE_S)
    permit = limited.acquire()
    with bulkhead:
        waiting = [
            threading.Thread(target=lambda: bulkhead.call(int)),
            threading.Thread(target=lambda: limited.call(int)),
        ]
        for thread in waiting:
            thread.start()
        while not (bulkhead.waiting and limited.waiting):
            pass
        assert holds_in_child(lambda: (bulkhead.waiting, limited.waiting) == (0, 0))
    permit.succeeded()
    for thread in waiting:
        thread.join()


def half_open(clock: ManualClock) -> CircuitBreaker:
    """A breaker that lends one probe."""
    breaker = CircuitBreaker("forked", calls_min=1, open_for=1.0, probes=1, probe_lease=1e6, clock=clock)
    breaker.acquire().failed()
    clock.advance(2.0)
    return breaker


def test_a_probe_that_the_parent_has_lent_is_the_parents() -> None:
    """The child lends its own, and hears nothing of the other."""
    breaker = half_open(ManualClock())
    lent = breaker.acquire()

    def check() -> bool:
        lent.failed()
        unheard = breaker.state is BreakerState.HALF_OPEN
        breaker.acquire().succeeded()
        return unheard and breaker.state is BreakerState.CLOSED

    assert holds_in_child(check)
    lent.succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_an_open_circuit_stays_open() -> None:
    """The server is no better for a process more."""
    clock = ManualClock()
    breaker = CircuitBreaker("forked", calls_min=1, open_for=1.0, clock=clock)
    breaker.acquire().failed()
    assert holds_in_child(lambda: breaker.state is BreakerState.OPEN)


def test_turns_that_others_wait_for_are_not_waited_for() -> None:
    """They are taken in the parent: the child's first comes within one interval."""
    clock = ManualClock()
    limiter = RateLimiter("forked", rate=1, clock=clock)
    for _ in range(100):
        limiter._reserve(float("inf"))

    def check() -> bool:
        clock.advance(1.0)
        return limiter.try_acquire() and not limiter.try_acquire()

    assert holds_in_child(check)
    clock.advance(1.0)
    assert not limiter.try_acquire()


def test_what_starts_over_is_not_kept_alive() -> None:
    """A service may make and drop as many as it likes."""

    class Thing:
        """Anything."""

    thing = Thing()
    after_fork(thing, lambda _: None)
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None
