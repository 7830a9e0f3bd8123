"""Retries: what is tried again, when, how often, and what the caller is told."""

from __future__ import annotations

import asyncio
import pickle
import socket
import ssl
import subprocess
import threading
import traceback
from contextlib import suppress
from datetime import timedelta

import httpx2
import pytest
import sqlalchemy.exc

from holdfast.backoff import Backoff
from holdfast.budget import RetryBudget
from holdfast.classification import On
from holdfast.deadline import current_deadline, within
from holdfast.errors import (
    BlockTimedOut,
    BreakerOpen,
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    OutcomeUnknown,
    UsageError,
    report_of,
)
from holdfast.events import AttemptFailed, CallEnded, RetryDenied, RetryScheduled
from holdfast.layer import retry_is_active
from holdfast.outcome import Failure, FailureClass, Stage
from holdfast.retry import retry
from holdfast.testing import ManualClock, RecordingHook, seeded_random
from tests.unit.forms import FORMS, SYNC_FORMS, Flaky, Run, always

REFUSED = ConnectionRefusedError


@pytest.fixture(params=FORMS, ids=lambda form: form.__name__.removeprefix("by_"))
def run(request: pytest.FixtureRequest) -> Run:
    form: Run = request.param
    return form


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def make(clock: ManualClock, on: On = REFUSED, **settings: object) -> retry:
    defaults: dict[str, object] = {"budget": None, "random": always(0.5)}
    return retry(on=on, clock=clock, **{**defaults, **settings})  # type: ignore[arg-type]


def test_what_succeeds_is_called_once(run: Run, clock: ManualClock) -> None:
    """Without a failure there is one call and no sleep."""
    function = Flaky()
    assert run(make(clock), function) == "done"
    assert (function.calls, clock.sleeps) == (1, [])


def test_a_named_failure_is_tried_again(run: Run, clock: ManualClock) -> None:
    """Delays follow the backoff, half of each ceiling for a draw of one half."""
    function = Flaky(REFUSED(), REFUSED(), REFUSED())
    assert run(make(clock, backoff=Backoff(base=1, cap=3)), function) == "done"
    assert (function.calls, clock.sleeps) == (4, [0.5, 1.0, 1.5])


def test_what_is_not_named_is_raised_at_once(run: Run, clock: ManualClock) -> None:
    """An error outside `on` costs no second call, and its report says why."""
    function = Flaky(KeyError("x"))
    with pytest.raises(KeyError) as caught:
        run(make(clock), function)
    report = report_of(caught.value)
    assert report is not None
    assert (function.calls, report.reason, report.attempts, report.exhausted) == (1, "not_retryable", 1, False)


def test_attempts_are_bounded_and_the_last_error_is_raised_itself(run: Run, clock: ManualClock) -> None:
    """After the last attempt the error of that attempt comes out, with the story attached."""
    errors = [REFUSED(str(number)) for number in range(9)]
    function = Flaky(*errors)
    with pytest.raises(REFUSED) as caught:
        run(make(clock, attempts=3, name="fetch", backoff=Backoff(base=1, cap=9)), function)
    assert caught.value is errors[2]
    report = report_of(caught.value)
    assert report is not None
    assert (report.operation, report.attempts, report.reason, report.exhausted) == ("fetch", 3, "attempts", True)
    assert report.elapsed_s == pytest.approx(0.5 + 1.0)
    assert "3 of 3 used" in report.explanation


def test_an_exception_object_that_is_raised_again_is_tried_again(run: Run, clock: ManualClock) -> None:
    """A mock, a cache and a future raise one object every time: what an earlier call reported on it is not about this one."""
    error = REFUSED("the same")
    for number in (1, 2):
        function = Flaky(*[error] * 9)
        with pytest.raises(REFUSED) as caught:
            run(make(clock, attempts=3, name=f"call {number}"), function)
        report = report_of(caught.value)
        assert report is not None
        assert (function.calls, report.operation, report.attempts) == (3, f"call {number}", 3)
    assert run(make(clock, attempts=3), Flaky(error)) == "done"


def test_a_cause_that_is_raised_again_is_tried_again(run: Run, clock: ManualClock) -> None:
    """The same, where the object with the old report is only the cause."""
    with pytest.raises(REFUSED) as caught:
        run(make(clock, attempts=2), Flaky(*[REFUSED()] * 2))
    wrapper = OSError()
    wrapper.__cause__ = caught.value
    assert run(make(clock, on=OSError), Flaky(wrapper)) == "done"


def test_a_report_from_another_process_counts_from_its_arrival(run: Run, clock: ManualClock) -> None:
    """A retry in a worker process that used up its attempts is honoured, however many reports there were here or there."""
    with pytest.raises(REFUSED) as caught:
        run(make(clock, attempts=2), Flaky(REFUSED(), REFUSED()))
    sent, calls = pickle.dumps(caught.value), 0

    def function(_value: str) -> str:
        nonlocal calls
        calls += 1
        raise pickle.loads(sent)

    with pytest.raises(REFUSED):
        run(make(clock), function)
    assert calls == 1


def test_an_error_keeps_its_report_when_pickled(run: Run, clock: ManualClock) -> None:
    """What happened survives the way to another process."""
    with pytest.raises(REFUSED) as caught:
        run(make(clock, attempts=2), Flaky(REFUSED("a", 1), REFUSED("b", 2)))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.args == ("b", 2)
    assert report_of(copy) == report_of(caught.value)


@pytest.mark.parametrize(
    "error",
    [TimeoutError(), ConnectionResetError(), BrokenPipeError(), EOFError(), ConnectionError(), BlockTimedOut("x")],
)
def test_what_may_have_been_done_is_retried_only_on_a_promise(run: Run, clock: ManualClock, error: Exception) -> None:
    """After a timeout or a reset the other side may have done the work: only `idempotent=True` allows doing it again."""
    function = Flaky(error)
    with pytest.raises(type(error)) as caught:
        run(make(clock, on=Exception), function)
    report = report_of(caught.value)
    assert report is not None
    assert (function.calls, report.reason) == (1, "may_be_applied")
    assert "idempotent" in report.explanation
    again = Flaky(type(error)("x"))
    assert run(make(clock, on=Exception, idempotent=True), again) == "done"
    assert again.calls == 2


def library_error(module: str, *names: str) -> Exception:
    """An instance of a library's class: the last name is its own, those before are its bases'."""
    kind: type[Exception] = Exception
    for name in names:
        kind = type(name, (kind,), {"__module__": module})
    return kind()


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ReadTimeout("x"),
        httpx2.ReadError("x"),
        httpx2.RemoteProtocolError("x"),
        subprocess.TimeoutExpired("x", 1),
        ssl.SSLError(),
        library_error("redis.exceptions", "RedisError", "TimeoutError"),
        library_error("requests.exceptions", "RequestException", "ConnectionError"),
        library_error("requests.exceptions", "Timeout", "Slow"),
        library_error("mail.errors", "ServerDisconnected"),
    ],
    ids=lambda error: f"{type(error).__module__}.{type(error).__name__}",
)
def test_timeouts_and_losses_of_libraries_need_the_promise_too(run: Run, clock: ManualClock, error: Exception) -> None:
    """Whatever a library calls it and derives it from, a request may have arrived before the answer was missing."""
    for on in (type(error), lambda _: True):
        function = Flaky(error)
        with pytest.raises(type(error)):
            run(make(clock, on=on), function)
        assert function.calls == 1
    assert run(make(clock, on=type(error), idempotent=True), Flaky(error)) == "done"


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError("x"),
        httpx2.ConnectTimeout("x"),
        httpx2.PoolTimeout("x"),
        sqlalchemy.exc.TimeoutError(),
        library_error("requests.exceptions", "ConnectionError", "ConnectTimeout"),
        library_error("urllib3.exceptions", "HTTPError", "NewConnectionError", "NameResolutionError"),
        library_error("aiohttp.client_exceptions", "ClientConnectionError", "ClientConnectorError"),
    ],
    ids=lambda error: f"{type(error).__module__}.{type(error).__name__}",
)
def test_what_a_library_never_sent_needs_no_promise(run: Run, clock: ManualClock, error: Exception) -> None:
    """No connection, or none free in the pool: nothing can have arrived."""
    assert run(make(clock, on=Exception), Flaky(error)) == "done"


@pytest.mark.parametrize("error", [ConnectionRefusedError(), socket.gaierror(), OSError(), ValueError()])
def test_what_was_not_done_needs_no_promise(run: Run, clock: ManualClock, error: Exception) -> None:
    """A refusal never reached the other side, and what the author names otherwise is the author's word."""
    assert run(make(clock, on=Exception), Flaky(error)) == "done"


@pytest.mark.parametrize(
    "error",
    [ConfigurationError("x"), UsageError("x"), DeadlineExceeded("x"), Conflict("x")],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "on", [Exception, lambda error: True, lambda error: FailureClass.LOST], ids=["type", "callable", "class"]
)
def test_final_errors_are_never_retried(run: Run, clock: ManualClock, error: Exception, on: On) -> None:
    """An error of Holdfast that says no other attempt can help is believed, whatever `on` says."""
    function = Flaky(error)
    with pytest.raises(type(error)):
        run(make(clock, on=on, idempotent=True), function)
    assert function.calls == 1


def test_an_unknown_outcome_needs_the_promise(run: Run, clock: ManualClock) -> None:
    """`OutcomeUnknown` may have been applied, so it is ambiguous like a timeout."""
    with pytest.raises(OutcomeUnknown):
        run(make(clock, on=OutcomeUnknown), Flaky(OutcomeUnknown("x")))
    assert run(make(clock, on=OutcomeUnknown, idempotent=True), Flaky(OutcomeUnknown("x"))) == "done"


def test_a_rejection_is_waited_for_as_long_as_it_asks(run: Run, clock: ManualClock) -> None:
    """A rejection that says when to come back is retried then."""
    assert run(make(clock, on=BreakerOpen), Flaky(BreakerOpen("x", retry_after_s=2.0))) == "done"
    assert clock.sleeps == [2.0]


@pytest.mark.parametrize(
    "answer, slept",
    [
        (3.0, 3.0),
        (2, 2.0),
        (timedelta(seconds=1.5), 1.5),
        (1000, 5.025),  # half of 50 ms, and the five seconds a hint may add
        (True, 0.025),
        (FailureClass.OVERLOAD, 0.025),
        (Failure(FailureClass.LOST, Stage.BODY, retry_after_s=1.0), 1.0),
    ],
)
def test_a_callable_decides_and_may_ask_for_patience(
    run: Run, clock: ManualClock, answer: object, slept: float
) -> None:
    """What `on` answers is a decision, a class, or a delay, which is honoured within bounds."""
    assert run(make(clock, on=lambda error: answer), Flaky(ValueError())) == "done"  # type: ignore[arg-type,return-value]
    assert clock.sleeps == [pytest.approx(slept)]


@pytest.mark.parametrize("answer", [None, False, FailureClass.PERMANENT, FailureClass.EXHAUSTED])
def test_a_callable_can_refuse(run: Run, clock: ManualClock, answer: object) -> None:
    """None, False and the classes that no attempt can mend stop at once."""
    function = Flaky(ValueError())
    with pytest.raises(ValueError):
        run(make(clock, on=lambda error: answer), function)  # type: ignore[arg-type,return-value]
    assert function.calls == 1


def test_a_negative_delay_from_a_callable_is_an_error_not_a_hot_loop(run: Run, clock: ManualClock) -> None:
    """A delay below zero is refused by name."""
    with pytest.raises(ConfigurationError, match="`on` answered"):
        run(make(clock, on=lambda error: -1.0), Flaky(ValueError()))


def test_no_delay_is_begun_that_outlasts_the_deadline(run: Run, clock: ManualClock) -> None:
    """The caller's deadline is asked before sleeping: with 0.4 s left nothing sleeps 0.5 s (tenacity overshoots here)."""
    function = Flaky(REFUSED(), REFUSED())
    start = clock.monotonic()
    with within(0.4, clock=clock), pytest.raises(REFUSED) as caught:
        run(make(clock, backoff=Backoff(base=1, cap=1)), function)
    report = report_of(caught.value)
    assert report is not None
    assert (report.reason, clock.monotonic() - start) == ("deadline", 0.0)


def test_an_own_deadline_covers_all_attempts_and_is_told_inside(run: Run, clock: ManualClock) -> None:
    """`deadline=` runs from the first attempt, not from the latest, and everything inside can ask for it."""
    seen: list[float] = []

    def function(value: str) -> str:
        deadline = current_deadline()
        assert deadline is not None
        seen.append(deadline.remaining_s())
        clock.advance(0.4)
        raise REFUSED

    with pytest.raises(REFUSED) as caught:
        run(make(clock, deadline=0.95, backoff=Backoff(base=0.2, cap=0.2)), function)
    report = report_of(caught.value)
    assert report is not None
    assert (report.reason, report.attempts) == ("deadline", 2)
    assert seen == [pytest.approx(0.95), pytest.approx(0.45)]
    assert current_deadline() is None


def test_an_empty_budget_forbids_the_retry_before_sleeping(run: Run, clock: ManualClock) -> None:
    """Without a token there is no sleep and no second call."""
    budget = RetryBudget(ratio=0, floor_per_s=0)
    function = Flaky(REFUSED())
    with pytest.raises(REFUSED) as caught:
        run(make(clock, budget=budget), function)
    report = report_of(caught.value)
    assert report is not None
    assert (report.reason, report.exhausted, clock.sleeps, function.calls) == ("budget", True, [], 1)


def test_first_attempts_are_never_charged(run: Run, clock: ManualClock) -> None:
    """Healthy calls pass an empty budget and fill it (hyx charged them)."""
    budget = RetryBudget(ratio=0.1, floor_per_s=0, clock=clock)
    for _ in range(10):
        assert run(make(clock, budget=budget), Flaky()) == "done"
    assert budget.balance() == 1.0


def test_a_retry_that_succeeds_gets_its_token_back(run: Run, clock: ManualClock) -> None:
    """The last retry's token is refunded on success; those before it are spent."""
    budget = RetryBudget(ratio=0, floor_per_s=1, clock=clock)
    run(make(clock, budget=budget, backoff=Backoff(base=0)), Flaky(REFUSED(), REFUSED()))
    assert budget.balance() == 9.0


@pytest.mark.parametrize("turned_away", [0.1, 0.3, 0.7])
def test_a_server_with_too_much_to_do_gets_no_more_than_a_tenth_more(clock: ManualClock, turned_away: float) -> None:
    """Also where it turns only some away, so that most retries succeed: each was load that it could do without."""
    draw = seeded_random(7)
    budget = RetryBudget(clock=clock)
    policy = make(clock, lambda error: FailureClass.OVERLOAD, budget=budget, backoff=Backoff(base=0))
    tries = 0

    @policy
    def ask() -> None:
        nonlocal tries
        tries += 1
        if draw() < turned_away:
            raise REFUSED

    calls, seconds = 6_000, 60.0
    for _ in range(calls):
        clock.advance(seconds / calls)
        with suppress(REFUSED):
            ask()
    assert tries <= 1.1 * calls + 1.0 * (seconds + 10.0)


def test_contention_is_free(run: Run, clock: ManualClock) -> None:
    """A lost lock conflict takes no token: the server is well."""
    budget = RetryBudget(ratio=0, floor_per_s=0)
    policy = make(clock, budget=budget, on=lambda error: FailureClass.CONTENTION)
    assert run(policy, Flaky(ValueError())) == "done"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_what_stops_a_program_or_task_is_not_caught(clock: ManualClock, stop: type[BaseException]) -> None:
    """Ctrl-C, exit and cancellation leave at once, in every form."""
    for form in SYNC_FORMS:
        function = Flaky(stop())
        with pytest.raises(stop):
            form(make(clock, on=lambda error: True, idempotent=True), function)
        assert function.calls == 1
        assert not retry_is_active()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_call_that_is_stopped_tells_its_end(clock: ManualClock, stop: type[BaseException]) -> None:
    """`CallEnded` comes at the end of each call, whether an attempt is stopped or the sleep before the next."""
    for form in SYNC_FORMS:
        hook = RecordingHook()
        policy = make(clock, name="fetch", backoff=Backoff(base=0), events=hook.stream)
        with pytest.raises(stop):
            form(policy, Flaky(REFUSED(), stop()))
        assert hook.of(CallEnded) == [CallEnded("fetch", 2, 0.0, succeeded=False)]


async def test_a_call_that_is_cancelled_while_it_sleeps_tells_its_end(clock: ManualClock) -> None:
    """The attempts that were begun are counted, and no other."""

    class Sleepless(ManualClock):
        def sleep(self, seconds: float, /) -> None:
            raise KeyboardInterrupt

        async def sleep_async(self, seconds: float, /) -> None:
            raise asyncio.CancelledError

    hook = RecordingHook()
    policy = make(Sleepless(), name="fetch", events=hook.stream)

    async def fetch() -> None:
        raise REFUSED

    async def block() -> None:
        async for attempt in policy:
            with attempt:
                raise REFUSED

    for form in SYNC_FORMS:
        with pytest.raises(KeyboardInterrupt):
            form(policy, Flaky(REFUSED()))
    with pytest.raises(asyncio.CancelledError):
        await policy.call_async(fetch)
    with pytest.raises(asyncio.CancelledError):
        await block()
    assert hook.of(CallEnded) == [CallEnded("fetch", 1, 0.0, succeeded=False)] * 5


def test_an_on_that_fails_keeps_what_happened_first(run: Run, clock: ManualClock) -> None:
    """The author's mistake comes out, with the original error as its cause, and the call's end is told."""

    def broken(_error: Exception) -> bool:
        raise LookupError("a mistake in `on`")

    hook, first = RecordingHook(), REFUSED("first")
    with pytest.raises(LookupError) as caught:
        run(make(clock, on=broken, name="fetch", events=hook.stream), Flaky(first))
    assert caught.value.__cause__ is first
    assert hook.events == [CallEnded("fetch", 1, 0.0, succeeded=False)]
    assert not retry_is_active()


async def test_cancelling_ends_a_retried_task(clock: ManualClock) -> None:
    """A cancelled task is cancelled, not retried (tenacity's negative predicates retry it)."""
    calls = 0
    started = asyncio.Event()

    @make(clock, on=Exception, idempotent=True)
    async def hang() -> None:
        nonlocal calls
        calls += 1
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, BaseException, asyncio.CancelledError])
def test_on_cannot_name_what_stops_a_program(kind: type[BaseException]) -> None:
    """Naming it is refused when the policy is made."""
    with pytest.raises(ConfigurationError, match=kind.__name__):
        retry(on=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("on", [(), None, 5, int, (ValueError, "x")])
def test_on_must_name_exceptions(on: object) -> None:
    """An `on` that names nothing, or something else, is refused."""
    with pytest.raises(ConfigurationError, match="`on`"):
        retry(on=on)  # type: ignore[arg-type]


def test_on_is_mandatory() -> None:
    """A bare decorator cannot mean everything for ever."""
    with pytest.raises(TypeError, match="on"):
        retry()  # type: ignore[call-arg]


@pytest.mark.parametrize("attempts", [0, -1, 1.5])
def test_attempts_must_be_a_positive_whole_number(attempts: int) -> None:
    """Zero attempts, or an endless number, cannot be asked for."""
    with pytest.raises(ConfigurationError, match="attempts"):
        retry(on=ValueError, attempts=attempts)


def test_an_attempt_that_is_not_used_is_an_error_not_an_endless_loop(clock: ManualClock) -> None:
    """Forgetting `with attempt:` is told at the second turn."""
    with pytest.raises(UsageError, match="with attempt"):
        for _ in make(clock):
            pass


def test_an_attempt_serves_once(clock: ManualClock) -> None:
    """Entering one attempt twice is refused."""
    for attempt in make(clock):
        with attempt:
            assert attempt.number == 1
        with pytest.raises(UsageError, match="one `with` block"), attempt:
            pass


def test_the_traceback_does_not_grow_with_the_attempts(clock: ManualClock) -> None:
    """One frame of ours stands between the caller and the function, after one attempt as after five."""

    def fail() -> None:
        raise REFUSED

    def frames(attempts: int) -> int:
        with pytest.raises(REFUSED) as caught:
            make(clock, attempts=attempts)(fail)()
        assert caught.value.__context__ is None
        return len(traceback.extract_tb(caught.value.__traceback__))

    assert frames(1) == frames(5) == 3


def test_events_tell_the_whole_story(run: Run, clock: ManualClock) -> None:
    """Each failure, each delay and the end are told, in order, without the error's text."""
    hook = RecordingHook()
    policy = make(clock, attempts=2, name="fetch", events=hook.stream, backoff=Backoff(base=1, cap=1))
    run(policy, Flaky(REFUSED("secret")))
    assert hook.events == [
        AttemptFailed("fetch", 1, FailureClass.UNSENT, Stage.CONNECT),
        RetryScheduled("fetch", 1, FailureClass.UNSENT, 0.5),
        CallEnded("fetch", 2, 0.5, succeeded=True),
    ]
    hook.clear()
    with pytest.raises(REFUSED):
        run(policy, Flaky(REFUSED(), REFUSED("secret")))
    assert hook.of(RetryDenied) == [RetryDenied("fetch", 2, FailureClass.UNSENT, "attempts")]
    assert hook.of(CallEnded)[0].succeeded is False
    assert "secret" not in repr(hook.events)
    hook.clear()
    run(policy, Flaky())
    assert [type(event) for event in hook.events] == [CallEnded]


def test_one_policy_shared_by_threads_keeps_their_calls_apart(clock: ManualClock) -> None:
    """64 threads get their own result, their own error and their own number of attempts (tenacity's shared statistics broke)."""
    policy = make(clock, attempts=4, backoff=Backoff(base=0))
    wrong: list[object] = []
    start = threading.Barrier(64)

    def work(index: int) -> None:
        failures = index % 5
        function = Flaky(*(REFUSED(index) for _ in range(failures)))
        start.wait()
        try:
            result: object = policy(function)(str(index))
        except REFUSED as error:
            report = report_of(error)
            result = (error.args, None if report is None else report.attempts)
        expected: object = str(index) if failures < 4 else ((index,), 4)
        if result != expected or function.calls != min(4, failures + 1):
            wrong.append((index, result, function.calls))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


async def test_one_policy_shared_by_tasks_keeps_their_blocks_apart() -> None:
    """Tasks over one policy object see their own attempts and delays (one `AsyncRetrying` mixed them up)."""
    policy = retry(
        on=REFUSED, attempts=4, budget=None, backoff=Backoff(base=0), clock=ManualClock(), random=seeded_random(1)
    )

    async def work(index: int) -> tuple[int, int]:
        tries = 0
        async for attempt in policy:
            with attempt:
                tries += 1
                await asyncio.sleep(0)  # noqa: TID251 - lets the tasks interleave
                if tries <= index % 4:
                    raise REFUSED(index)
        return index, tries

    results = await asyncio.gather(*(work(index) for index in range(1_000)))
    assert results == [(index, index % 4 + 1) for index in range(1_000)]
