"""The circuit breaker: when it trips, whom it lets through, and how it closes again."""

from __future__ import annotations

import asyncio
import re
import threading
import traceback
from collections.abc import Callable

import pytest

import holdfast.breaker
from holdfast.breaker import TRANSITIONS, BreakerState, CircuitBreaker, Permit, Trigger, next_state
from holdfast.errors import BreakerOpen, BulkheadFull, ConfigurationError, Conflict, Contended
from holdfast.events import BreakerChanged, CallRejected
from holdfast.outcome import FailureClass
from holdfast.testing import ManualClock, RecordingHook


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make(clock: ManualClock, **settings: object) -> CircuitBreaker:
    defaults: dict[str, object] = {"calls_min": 4, "clock": clock}
    return CircuitBreaker("db", **{**defaults, **settings})  # type: ignore[arg-type]


def trip(breaker: CircuitBreaker, failures: int = 4) -> None:
    for _ in range(failures):
        breaker.acquire().failed()
    assert breaker.state == "open"


def half_open(breaker: CircuitBreaker, clock: ManualClock) -> Permit:
    trip(breaker)
    clock.advance(5)
    return breaker.acquire()


def test_the_drawn_table_is_the_real_one() -> None:
    """Each transition stands in the module's docstring, and nothing else does."""
    rows = re.findall(r"^    (\*|[a-z_]+) {2,}([a-z_]+) {2,}([a-z_]+)$", holdfast.breaker.__doc__ or "", re.MULTILINE)
    drawn = {(None if state == "*" else BreakerState(state), Trigger(on)): BreakerState(to) for state, on, to in rows}
    assert drawn == TRANSITIONS


@pytest.mark.parametrize("state", BreakerState)
@pytest.mark.parametrize("trigger", Trigger)
def test_what_is_not_listed_changes_nothing(state: BreakerState, trigger: Trigger) -> None:
    """A trigger leads where the table says, and nowhere else."""
    expected = TRANSITIONS.get((state, trigger)) or TRANSITIONS.get((None, trigger)) or state
    assert next_state(state, trigger) is expected


def test_it_trips_on_the_ratio_of_enough_calls(clock: ManualClock) -> None:
    """Half of at least the least number of calls; the call that makes it so is the last one let through."""
    breaker = make(clock, calls_min=4, ratio=0.5)
    breaker.acquire().succeeded()
    breaker.acquire().succeeded()
    breaker.acquire().failed()
    assert breaker.state == "closed"
    assert breaker.counts() == (3, 1)
    breaker.acquire().failed()
    assert breaker.state == "open"
    with pytest.raises(BreakerOpen):
        breaker.acquire()


def test_few_calls_never_trip_it(clock: ManualClock) -> None:
    """Three failures of three say nothing when four calls are needed."""
    breaker = make(clock)
    for _ in range(3):
        breaker.acquire().failed()
    assert breaker.state == "closed"


def test_old_failures_are_forgotten(clock: ManualClock) -> None:
    """Failures outside the window do not count with those in it."""
    breaker = make(clock, window=10)
    for _ in range(3):
        breaker.acquire().failed()
    clock.advance(11)
    breaker.acquire().failed()
    assert (breaker.state, breaker.counts()) == (BreakerState.CLOSED, (1, 1))


def test_open_it_rejects_and_says_for_how_long(clock: ManualClock) -> None:
    """The rejection carries the seconds until the first probe."""
    breaker = make(clock, open_for=5)
    trip(breaker)
    clock.advance(1.5)
    with pytest.raises(BreakerOpen, match=r"'db' is open for 3\.5 s") as caught:
        breaker.acquire()
    assert caught.value.retry_after_s == pytest.approx(3.5)


def test_half_open_it_lends_no_more_than_the_probes(clock: ManualClock) -> None:
    """Of 50 that come at once three get through (others let all 50)."""
    breaker = make(clock, probes=3)
    trip(breaker)
    clock.advance(5)
    let_through = 0
    for _ in range(50):
        try:
            breaker.acquire()
            let_through += 1
        except BreakerOpen as error:
            assert error.retry_after_s == 10.0  # noqa: PT017 - until the first lease runs out
    assert let_through == 3


def test_it_closes_when_all_probes_succeed(clock: ManualClock) -> None:
    """Three successes close it, and the old failures are forgotten."""
    breaker = make(clock, probes=3)
    half_open(breaker, clock).succeeded()
    for _ in range(2):
        assert breaker.state == "half_open"
        breaker.acquire().succeeded()
    assert (breaker.state, breaker.counts()) == (BreakerState.CLOSED, (0, 0))


def test_one_failing_probe_opens_it_again_for_twice_as_long(clock: ManualClock) -> None:
    """5, 10, 20, 40, 60, 60 s; closing it starts over."""
    breaker = make(clock, probes=1)
    trip(breaker)
    waits = []
    for _ in range(6):
        with pytest.raises(BreakerOpen) as caught:
            breaker.acquire()
        waits.append(caught.value.retry_after_s)
        clock.advance(caught.value.retry_after_s or 0)
        breaker.acquire().failed()
    assert waits == [5, 10, 20, 40, 60, 60]
    clock.advance(60)
    breaker.acquire().succeeded()
    trip(breaker)
    with pytest.raises(BreakerOpen) as caught:
        breaker.acquire()
    assert caught.value.retry_after_s == 5


def test_a_probe_that_hangs_loses_its_lease(clock: ManualClock) -> None:
    """After the lease another call gets the place, and the late result of the first is ignored."""
    breaker = make(clock, probes=1, probe_lease=3)
    hung = half_open(breaker, clock)
    clock.advance(2.9)
    with pytest.raises(BreakerOpen) as caught:
        breaker.acquire()
    assert caught.value.retry_after_s == pytest.approx(0.1)
    clock.advance(0.2)
    second = breaker.acquire()
    hung.failed()
    assert breaker.state == "half_open"
    hung.succeeded()
    assert breaker.state == "half_open"
    second.succeeded()
    assert breaker.state == "closed"


def test_an_old_success_does_not_close_an_open_circuit(clock: ManualClock) -> None:
    """Results of calls from an older generation say nothing (circuitbreaker's close it)."""
    breaker = make(clock, probes=1)
    old = breaker.acquire()
    generation = breaker.generation
    probe = half_open(breaker, clock)
    assert breaker.generation == generation + 2
    old.succeeded()
    assert breaker.state == "half_open"
    probe.succeeded()
    assert breaker.state == "closed"
    for _ in range(10):
        old.failed()
        probe.failed()
    assert (breaker.state, breaker.counts()) == ("closed", (0, 0))


@pytest.mark.parametrize(
    "error",
    [
        Conflict("duplicate"),
        Contended("deadlock"),
        BulkheadFull("busy here"),
        KeyError("not named"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_the_servers_fault_counts_as_neither(clock: ManualClock, error: BaseException) -> None:
    """Excluded errors neither reset a count nor trip it, and give a probe back (pybreaker counts them as success)."""
    breaker = make(clock, calls_min=4, on=(ConnectionError, Conflict, Contended, BulkheadFull), probes=1)

    @breaker
    def call(raised: BaseException) -> None:
        raise raised

    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            call(ConnectionResetError())
        for _ in range(5):
            with pytest.raises(type(error)):
                call(error)
    assert (breaker.state, breaker.counts()) == (BreakerState.CLOSED, (3, 3))
    with pytest.raises(ConnectionResetError):
        call(ConnectionResetError())
    clock.advance(5)
    for _ in range(3):  # each gets the one probe and gives it back
        with pytest.raises(type(error)):
            call(error)
        assert breaker.state == "half_open"


def test_a_callable_can_say_what_counts(clock: ManualClock) -> None:
    """`on` may classify; only the server's classes count."""
    breaker = make(clock, calls_min=100, on=lambda error: FailureClass(str(error)))
    for failure_class in FailureClass:
        with pytest.raises(ValueError), breaker:
            raise ValueError(failure_class.value)
    assert breaker.counts() == (5, 5)


def _sync(breaker: CircuitBreaker, error: Exception | None) -> None:
    def function() -> None:
        if error is not None:
            raise error

    breaker(function)()


def _call(breaker: CircuitBreaker, error: Exception | None) -> None:
    def function() -> None:
        if error is not None:
            raise error

    breaker.call(function)


def _block(breaker: CircuitBreaker, error: Exception | None) -> None:
    with breaker:
        if error is not None:
            raise error


def _async(breaker: CircuitBreaker, error: Exception | None) -> None:
    async def function() -> None:
        if error is not None:
            raise error

    asyncio.run(_run(breaker(function)))


def _async_call(breaker: CircuitBreaker, error: Exception | None) -> None:
    async def function() -> None:
        if error is not None:
            raise error

    asyncio.run(breaker.call_async(function))


def _async_block(breaker: CircuitBreaker, error: Exception | None) -> None:
    async def function() -> None:
        async with breaker:
            if error is not None:
                raise error

    asyncio.run(function())


async def _run(function: Callable[[], object]) -> None:
    await function()  # type: ignore[misc]


@pytest.mark.parametrize("form", [_sync, _call, _block, _async, _async_call, _async_block])
def test_every_form_counts_and_rejects(
    clock: ManualClock, form: Callable[[CircuitBreaker, Exception | None], None]
) -> None:
    """Decorator, call and block, sync and async: the original error comes out, and open means the body does not run."""
    breaker = make(clock)
    form(breaker, None)
    error = ConnectionResetError()
    for _ in range(3):
        with pytest.raises(ConnectionResetError) as caught:
            form(breaker, error)
        assert caught.value is error
    assert breaker.state == "open"
    with pytest.raises(BreakerOpen):
        form(breaker, AssertionError("the body must not run while open"))


def test_blocks_nest_and_end_in_any_order(clock: ManualClock) -> None:
    """Blocks of the same and of other breakers settle their own permits, also when generators end them out of order."""
    one, two = make(clock), make(clock)
    with one, two, one:
        pass
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    two.__exit__(ValueError, ValueError(), None)
    assert (one.counts(), two.counts()) == ((3, 0), (2, 1))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_a_callable_is_not_asked_about_what_stops_a_program(clock: ManualClock, stop: type[BaseException]) -> None:
    """Cancellation and Ctrl-C count as neither, whatever `on` would answer."""
    breaker = make(clock, calls_min=1, on=lambda error: True)
    with pytest.raises(stop), breaker:
        raise stop
    assert (breaker.state, breaker.counts()) == ("closed", (0, 0))


def test_rejections_are_fresh_exceptions(clock: ManualClock) -> None:
    """A shared exception would collect a traceback entry for every call of an outage (purgatory's did)."""
    breaker = make(clock)
    trip(breaker)
    seen = []
    for _ in range(3):
        with pytest.raises(BreakerOpen) as caught:
            breaker.acquire()
        seen.append(caught.value)
    assert len({id(error) for error in seen}) == 3
    assert len({len(traceback.extract_tb(error.__traceback__)) for error in seen}) == 1


def test_it_can_be_forced_and_observed(clock: ManualClock) -> None:
    """Forced open it rejects without end; metrics-only it counts and never rejects; reset closes it."""
    hook = RecordingHook()
    breaker = make(clock, events=hook.stream)
    breaker.force_open()
    clock.advance(1e6)
    with pytest.raises(BreakerOpen, match="until it is reset") as caught:
        breaker.acquire()
    assert caught.value.retry_after_s is None
    breaker.observe()
    for _ in range(10):
        breaker.acquire().failed()
    assert (breaker.state, breaker.counts()) == (BreakerState.METRICS_ONLY, (10, 10))
    breaker.reset()
    assert (breaker.state, breaker.counts()) == (BreakerState.CLOSED, (0, 0))
    assert [(event.old, event.new) for event in hook.of(BreakerChanged)] == [
        ("closed", "forced_open"),
        ("forced_open", "metrics_only"),
        ("metrics_only", "closed"),
    ]
    assert hook.of(CallRejected) == [CallRejected("db", "breaker", None)]


def test_listeners_are_not_called_under_the_lock(clock: ManualClock) -> None:
    """A hook may use the breaker it hears about."""
    hook = RecordingHook()
    breaker = make(clock, events=hook.stream)
    states: list[BreakerState] = []

    def ask(event: object) -> None:
        breaker.counts()
        states.append(breaker.state)

    hook.stream.subscribe(ask)
    half_open(breaker, clock).failed()
    assert states == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.OPEN]


def test_64_threads_are_counted_exactly(clock: ManualClock) -> None:
    """No success and no failure is lost between threads."""
    breaker = make(clock, calls_min=10**9)
    start = threading.Barrier(64)

    def work() -> None:
        start.wait()
        for _ in range(100):
            breaker.acquire().succeeded()
            breaker.acquire().failed()

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.counts() == (12_800, 6_400)


def test_64_threads_get_the_probes_between_them_and_trip_once(clock: ManualClock) -> None:
    """However many come at once, three are let through and there is one change of state."""
    hook = RecordingHook()
    breaker = make(clock, probes=3, events=hook.stream)
    trip(breaker)
    clock.advance(5)
    start = threading.Barrier(64)
    permits: list[Permit] = []

    def work() -> None:
        start.wait()
        try:
            permits.append(breaker.acquire())
        except BreakerOpen:
            return

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(permits) == 3
    for permit in permits:
        permit.failed()
    assert [event.new for event in hook.of(BreakerChanged)] == ["open", "half_open", "open"]


async def test_10000_tasks_are_counted_exactly(clock: ManualClock) -> None:
    """Tasks that interleave inside the call are each counted once, the cancelled ones not at all."""
    breaker = make(clock, calls_min=10**9)
    gate = asyncio.Event()

    @breaker
    async def call(index: int) -> None:
        await gate.wait()
        if index % 4 == 1:
            raise ConnectionResetError

    tasks = [asyncio.create_task(call(index)) for index in range(10_000)]
    await asyncio.sleep(0)  # noqa: TID251 - lets the tasks begin
    for task in tasks[::2]:
        task.cancel()
    gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert breaker.counts() == (5_000, 2_500)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"ratio": 0}, "ratio"),
        ({"ratio": 1.1}, "ratio"),
        ({"calls_min": 0}, "calls_min"),
        ({"probes": 0}, "probes"),
        ({"window": 0}, "window"),
        ({"open_for": 0}, "open_for"),
        ({"open_for": 10, "open_for_max": 5}, "open_for_max"),
        ({"probe_lease": 0}, "probe_lease"),
    ],
)
def test_wrong_settings_are_refused_by_name(clock: ManualClock, settings: dict[str, object], named: str) -> None:
    """A value outside its bounds names the setting."""
    with pytest.raises(ConfigurationError, match=named):
        make(clock, **settings)


@pytest.mark.parametrize("form", ["call", "async", "block"])
def test_an_on_that_fails_keeps_no_probe(clock: ManualClock, form: str) -> None:
    """The author's mistake comes out, with the original error as its cause, and the probe is given back."""

    def broken(_error: Exception) -> bool:
        raise LookupError("a mistake in `on`")

    breaker = make(clock, on=broken, probes=1)
    half_open(breaker, clock).ignored()
    first = OSError("first")

    def fail() -> None:
        raise first

    async def fail_async() -> None:
        raise first

    with pytest.raises(LookupError) as caught:
        if form == "call":
            breaker.call(fail)
        elif form == "async":
            asyncio.run(breaker.call_async(fail_async))
        else:
            with breaker:
                fail()
    assert caught.value.__cause__ is first
    assert breaker.call(lambda: "served") == "served"
    assert breaker.state == "closed"
