"""Retries for any function: bounded, jittered, within the deadline and the budget, and at one layer only.

    @retry(on=ConnectionError)                          # decorator, for functions and coroutine functions
    def fetch(): ...

    for attempt in retry(on=ConnectionError):           # a block; `async for` in coroutines
        with attempt:
            fetch()

    retry(on=ConnectionError).call(fetch)               # a call; `await ....call_async(...)`

What counts as worth retrying is always named (`on`), and an error after which the work may have been done (a timeout, a reset
connection) is retried only on the author's promise that doing it twice is doing it once (`idempotent=True`). The original
exception is raised in the end, with a `Report` on it: `report_of(error)`. Do not put it around `session.commit()`: a unit of work
must be rerun as a whole, which `Database.transaction` does.

The success path builds nothing; everything a failure needs stands in `_Call`, which asks `decision.decide`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Literal, ParamSpec, Self, TypeVar, cast

from .backoff import Backoff
from .bounds import flag, instance_of
from .budget import RetryBudget, budget_on, default_budget
from .callables import AroundCallables, name_of, returned_coroutine
from .classification import On, classifier
from .clock import SYSTEM_CLOCK, Clock, Random, system_random
from .deadline import current_deadline, seconds, within
from .decision import Allowance, Decision, RetryPolicy, Situation, StopReason, decide
from .errors import REPORTS, Report, UsageError, attach_report, report_since
from .layer import LAYER
from .outcome import Failure, FailureClass
from .stream import EVENTS, EventStream
from .window import SlotWindow

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Attempt", "retry"]

P = ParamSpec("P")
R = TypeVar("R")

_RETRIED = (
    FailureClass.CONTENTION,
    FailureClass.UNSENT,
    FailureClass.LOST,
    FailureClass.AMBIGUOUS,
    FailureClass.ROLE_CHANGED,
    FailureClass.OVERLOAD,
)
_USED_UP = frozenset({StopReason.ATTEMPTS, StopReason.DEADLINE, StopReason.BUDGET})
_NO_WINDOW = SlotWindow(1.0)  # stands where there is no budget; nothing ticks in it
_DEFAULT_BACKOFF = Backoff()
_DEFAULT_BUDGET = default_budget()


class retry(AroundCallables):
    """How failed calls are tried again. Immutable; one instance may serve any number of functions, threads and tasks.

    Args:
        on: which exceptions are worth another attempt: a type, several in a tuple, or a callable that looks at each and answers
            with a bool, a `FailureClass`, a `Failure`, or the seconds (number or `timedelta`) to wait at least; see
            `holdfast.classification`. Errors that say themselves that retrying is useless are never retried.
        attempts: attempts in all, the first included; default 5, at least 1.
        backoff: the delays between them; default full jitter below 50 ms, doubling up to 5 s.
        idempotent: the author's promise that running the work twice equals running it once. Without it an error that leaves open
            whether the work was done is raised at once. Default False.
        budget: what retries may add to the load; default the process-wide budget, with another `clock` a private one on that;
            None: no limit.
        deadline: seconds or `timedelta` for all attempts and delays together, or None (default) for the caller's deadline alone.
            No delay is begun that would outlast it, and `current_deadline()` tells it to everything inside; an attempt under
            way is not cut.
        name: what events and reports call it; default the function's qualified name (`block` for a block).
        clock, random, events: where time, jitter and listeners come from.

    Raises:
        ConfigurationError: a setting is outside its bounds, or `on` names what must never be retried.
    """

    __slots__ = (
        "_budget",
        "_classify",
        "_clock",
        "_deadline_s",
        "_events",
        "_idempotent",
        "_name",
        "_policy",
        "_random",
    )

    def __init__(
        self,
        *,
        on: On,
        attempts: int = 5,
        backoff: Backoff = _DEFAULT_BACKOFF,
        idempotent: bool = False,
        budget: RetryBudget | None = _DEFAULT_BUDGET,
        deadline: float | timedelta | None = None,
        name: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        random: Random = system_random,
        events: EventStream = EVENTS,
    ) -> None:
        self._classify = classifier(on)
        self._policy = RetryPolicy(dict.fromkeys(_RETRIED, Allowance(attempts, backoff)))
        self._idempotent = flag(idempotent, "retry.idempotent")
        self._budget = budget_on(clock, instance_of(budget, RetryBudget, "retry.budget", optional=True))
        self._deadline_s = None if deadline is None else seconds(deadline, name="retry.deadline")
        self._name = instance_of(name, str, "retry.name", optional=True)
        self._clock = clock
        self._random = random
        self._events = events

    def __repr__(self) -> str:
        allowance = self._policy.allowances[FailureClass.LOST]
        return f"<retry: {allowance.attempts} attempts, {allowance.backoff}>"

    def __iter__(self) -> Iterator[Attempt]:
        """Attempts for `for attempt in policy: with attempt: ...`; the loop ends with the first that succeeds."""
        return _Attempts(self)

    def __aiter__(self) -> AsyncIterator[Attempt]:
        """Attempts for `async for attempt in policy: with attempt: ...`."""
        return _Attempts(self)

    @property
    def _block_name(self) -> str:
        return self._name or "block"

    def _around(self, function: Callable[P, R], name: str | None = None) -> Callable[P, R]:
        name = self._name or name or name_of(function)
        get_layer, set_layer = LAYER.get, LAYER.set
        monotonic, sleep = self._clock.monotonic, self._clock.sleep
        budget, events = self._budget, self._events
        window = _NO_WINDOW if budget is None else budget._window
        reports = REPORTS

        def retried(*args: P.args, **kwargs: P.kwargs) -> R:
            outer, layer = get_layer(), [True]
            nested = outer is not None and outer[0]
            if not nested:
                set_layer(layer)  # and never taken away: a mark that is turned off says nothing
            call, since = None, reports[0]
            started = monotonic()
            try:
                while True:
                    try:
                        result = function(*args, **kwargs)
                        if type(result) is CoroutineType:
                            raise returned_coroutine(function, result)
                    except Exception as error:
                        if call is None:
                            call = _Call(self, name, started, since, nested=nested)
                        delay_s = call.failed(error)
                        if delay_s is None:
                            raise
                    except BaseException:
                        if events.subscriptions:
                            _tell_cut(events, name, call, monotonic() - started, running=True)
                        raise
                    else:
                        if call is not None:
                            call.succeeded()
                        elif events.subscriptions:
                            _tell_end(events, name, 1, monotonic() - started, succeeded=True)
                        if budget is not None and not nested:
                            # `deposit` by hand, for the price of the call. It counts for when the call began: one clock
                            # reading less, and a success that is forgotten early errs on the safe side.
                            if started < window.slot_ends:
                                window.tick()
                            else:
                                budget.deposit(started)
                        return result
                    try:
                        sleep(delay_s)
                    except BaseException:
                        if events.subscriptions:
                            _tell_cut(events, name, call, monotonic() - started, running=False)
                        raise
            finally:
                layer[0] = False

        return retried if self._deadline_s is None else self._bounded(retried)

    def _around_async(self, function: Callable[P, Awaitable[R]], name: str | None = None) -> Callable[P, Awaitable[R]]:
        name = self._name or name or name_of(function)
        get_layer, set_layer = LAYER.get, LAYER.set
        monotonic, sleep_async = self._clock.monotonic, self._clock.sleep_async
        budget, events = self._budget, self._events
        window = _NO_WINDOW if budget is None else budget._window
        reports = REPORTS

        async def retried(*args: P.args, **kwargs: P.kwargs) -> R:
            outer, layer = get_layer(), [True]
            nested = outer is not None and outer[0]
            if not nested:
                set_layer(layer)  # and never taken away: a mark that is turned off says nothing
            call, since = None, reports[0]
            started = monotonic()
            try:
                while True:
                    try:
                        result = await function(*args, **kwargs)
                    except Exception as error:
                        if call is None:
                            call = _Call(self, name, started, since, nested=nested)
                        delay_s = call.failed(error)
                        if delay_s is None:
                            raise
                    except BaseException:
                        if events.subscriptions:
                            _tell_cut(events, name, call, monotonic() - started, running=True)
                        raise
                    else:
                        if call is not None:
                            call.succeeded()
                        elif events.subscriptions:
                            _tell_end(events, name, 1, monotonic() - started, succeeded=True)
                        if budget is not None and not nested:
                            # `deposit` by hand, for the price of the call. It counts for when the call began: one clock
                            # reading less, and a success that is forgotten early errs on the safe side.
                            if started < window.slot_ends:
                                window.tick()
                            else:
                                budget.deposit(started)
                        return result
                    try:
                        await sleep_async(delay_s)
                    except BaseException:
                        if events.subscriptions:
                            _tell_cut(events, name, call, monotonic() - started, running=False)
                        raise
            finally:
                layer[0] = False

        return retried if self._deadline_s is None else self._bounded_async(retried)

    def _bounded(self, retried: Callable[P, R]) -> Callable[P, R]:
        deadline_s, clock = cast("float", self._deadline_s), self._clock

        def bounded(*args: P.args, **kwargs: P.kwargs) -> R:
            with within(deadline_s, clock=clock):
                return retried(*args, **kwargs)

        return bounded

    def _bounded_async(self, retried: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        deadline_s, clock = cast("float", self._deadline_s), self._clock

        async def bounded(*args: P.args, **kwargs: P.kwargs) -> R:
            with within(deadline_s, clock=clock):
                return await retried(*args, **kwargs)

        return bounded


def _tell_end(events: EventStream, name: str, attempts: int, elapsed_s: float, *, succeeded: bool) -> None:
    from .events import CallEnded

    events.emit(CallEnded(name, attempts, elapsed_s, succeeded=succeeded))


def _tell_cut(events: EventStream, name: str, call: _Call | None, elapsed_s: float, *, running: bool) -> None:
    """A call was stopped from outside, while an attempt was `running` or before another began."""
    failures = 0 if call is None else call._failures
    _tell_end(events, name, failures + running, elapsed_s, succeeded=False)


class _Call:
    """One call that has failed at least once: what a retry must remember, and the shell around `decide`."""

    __slots__ = ("_failures", "_name", "_nested", "_policy", "_refund", "_since", "_started")

    def __init__(self, policy: retry, name: str, started: float, since: int, *, nested: bool) -> None:
        self._policy = policy
        self._name = name
        self._started = started
        self._since = since  # reports from before are about other calls, even on the same exception object
        self._nested = nested
        self._failures = 0
        self._refund = 0.0

    def failed(self, error: Exception) -> float | None:
        """The seconds to wait before the next attempt, or None: `error` now carries its report and must be raised."""
        policy = self._policy
        self._failures += 1
        try:
            failure = policy._classify(error)
        except BaseException:  # the author's own `on` failed
            if policy._events.subscriptions:
                elapsed_s = policy._clock.monotonic() - self._started
                _tell_end(policy._events, self._name, self._failures, elapsed_s, succeeded=False)
            raise
        inner = report_since(error, self._since)
        deadline = current_deadline()
        now = policy._clock.monotonic()
        decision = decide(
            Situation(
                failure,
                self._failures,
                now,
                policy._random(),
                expires_at=None if deadline is None else now + deadline.remaining_s(),
                idempotent=policy._idempotent,
                nested=self._nested,
                exhausted=inner is not None and inner.exhausted,
            ),
            policy._policy,
            policy._budget,
        )
        if policy._events.subscriptions:
            self._tell_failure(failure, decision)
        if decision.reason is None:
            self._refund = decision.refund
            return decision.delay_s
        self._give_up(error, failure.failure_class, decision, now)
        return None

    def succeeded(self) -> None:
        """An attempt after a failed one succeeded: the tokens of the last retry go back, unless the server had too much to do."""
        policy = self._policy
        now = policy._clock.monotonic()
        if policy._budget is not None and self._refund > 0:
            policy._budget.refund(self._refund, now)
        if policy._events.subscriptions:
            _tell_end(policy._events, self._name, self._failures + 1, now - self._started, succeeded=True)

    def _tell_failure(self, failure: Failure, decision: Decision) -> None:
        from .events import AttemptFailed, RetryScheduled

        events, name, failures = self._policy._events, self._name, self._failures
        events.emit(AttemptFailed(name, failures, failure.failure_class, failure.stage, failure.code))
        if decision.reason is None:
            events.emit(RetryScheduled(name, failures, failure.failure_class, decision.delay_s))

    def _give_up(self, error: Exception, failure_class: FailureClass, decision: Decision, now: float) -> None:
        reason = cast("StopReason", decision.reason)
        inner = report_since(error, self._since)
        explanation = decision.explain()
        if inner is not None and inner.reason == StopReason.NESTED.value and reason is StopReason.NOT_RETRYABLE:
            # Nobody retried it, and whoever asks why must not be told only that this layer would not have.
            stepped_back = f"{inner.operation}, inside, stepped back:\n{inner.explanation}"
            explanation = f"{stepped_back}\n{self._name}, in charge:\n{explanation}"
        report = Report(
            operation=self._name,
            attempts=self._failures,
            elapsed_s=now - self._started,
            reason=reason.value,
            explanation=explanation,
            exhausted=reason in _USED_UP or (inner is not None and inner.exhausted),
        )
        attach_report(error, report, since=self._since)
        events = self._policy._events
        if events.subscriptions:
            if reason is not StopReason.NOT_RETRYABLE:
                from .events import RetryDenied

                events.emit(RetryDenied(self._name, self._failures, failure_class, reason.value))
            _tell_end(events, self._name, self._failures, report.elapsed_s, succeeded=False)


class Attempt:
    """One attempt of a retried block: `with attempt: ...` (or `async with`, which is the same).

    Attributes:
        number: 1 for the first.
    """

    __slots__ = ("_attempts", "number")

    def __init__(self, attempts: _Attempts, number: int) -> None:
        self._attempts = attempts
        self.number = number

    def __enter__(self) -> Self:
        self._attempts._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        return self._attempts._end(error)

    async def __aenter__(self) -> Self:
        self._attempts._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool:
        return self._attempts._end(error)


class _Attempts:
    """The state of one retried block. It lives in the loop, so loops over one policy do not meet."""

    __slots__ = (
        "_bound",
        "_call",
        "_delay_s",
        "_layer",
        "_number",
        "_outer",
        "_policy",
        "_since",
        "_started",
        "_state",
    )

    def __init__(self, policy: retry) -> None:
        self._policy = policy
        self._started = policy._clock.monotonic()
        self._since = REPORTS[0]
        self._state: Literal["due", "handed out", "running", "over"] = "due"
        self._number = 0
        self._delay_s = 0.0
        self._call: _Call | None = None
        self._outer: list[bool] | None = None
        self._layer: list[bool] = []
        self._bound: within | None = None

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> Attempt:
        if self._state == "over":
            raise StopIteration
        if self._number > 0:
            try:
                self._policy._clock.sleep(self._delay_s)
            except BaseException:
                self._cut(running=False)
                raise
        return self._hand_out()

    async def __anext__(self) -> Attempt:
        if self._state == "over":
            raise StopAsyncIteration
        if self._number > 0:
            try:
                await self._policy._clock.sleep_async(self._delay_s)
            except BaseException:
                self._cut(running=False)
                raise
        return self._hand_out()

    def _hand_out(self) -> Attempt:
        if self._state != "due":
            raise UsageError("the attempt was not used: write `for attempt in policy:` and inside it `with attempt:`")
        self._state = "handed out"
        self._number += 1
        return Attempt(self, self._number)

    def _begin(self) -> None:
        if self._state != "handed out":
            raise UsageError("an attempt serves one `with` block; take the next from the loop")
        self._state = "running"
        policy = self._policy
        if policy._deadline_s is not None:
            left_s = self._started + policy._deadline_s - policy._clock.monotonic()
            self._bound = within(max(0.0, left_s), clock=policy._clock)
            self._bound.__enter__()
        self._outer = LAYER.get()
        self._layer = [True]
        LAYER.set(self._layer)

    def _end(self, error: BaseException | None) -> bool:
        """End the attempt; whether `error` is dealt with, because another attempt follows."""
        self._state = "over"
        try:
            if error is None:
                self._succeeded()
                return False
            if isinstance(error, Exception):
                return self._failed(error)
            self._cut(running=True)
            return False
        finally:
            self._layer[0] = False
            LAYER.set(self._outer)  # not a token: a generator may leave the block in another context
            if self._bound is not None:
                self._bound.__exit__()

    def _succeeded(self) -> None:
        policy, now = self._policy, self._policy._clock.monotonic()
        if self._call is not None:
            self._call.succeeded()
        elif policy._events.subscriptions:
            _tell_end(policy._events, policy._block_name, 1, now - self._started, succeeded=True)
        if policy._budget is not None and not self._is_nested:
            policy._budget.deposit(now)

    def _cut(self, *, running: bool) -> None:
        policy = self._policy
        if policy._events.subscriptions:
            elapsed_s = policy._clock.monotonic() - self._started
            _tell_cut(policy._events, policy._block_name, self._call, elapsed_s, running=running)

    def _failed(self, error: Exception) -> bool:
        if self._call is None:
            policy = self._policy
            self._call = _Call(policy, policy._block_name, self._started, self._since, nested=self._is_nested)
        delay_s = self._call.failed(error)
        if delay_s is None:
            return False
        self._state, self._delay_s = "due", delay_s
        return True

    @property
    def _is_nested(self) -> bool:
        return self._outer is not None and self._outer[0]
