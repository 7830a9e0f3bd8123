"""One call to another service: what is remembered between its attempts, and the shell around `decision.decide`.

Sync and async transports send; what they then do is said here. `begin` gives an attempt to send, `failed` and `answered` say how
long to wait before the next one, or None: that was the end. Nothing here waits or sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, NoReturn

import httpx2

from ...breaker import CircuitBreaker, Permit
from ...budget import budget_on
from ...clock import Clock, Random
from ...deadline import current_deadline, seconds
from ...decision import Allowance, Decision, Situation, StopReason, decide
from ...effects import note_applied
from ...errors import (
    REPORTS,
    BreakerOpen,
    ConfigurationError,
    DeadlineExceeded,
    HoldfastError,
    Report,
    attach_report,
    report_since,
)
from ...layer import retry_is_active
from ...outcome import Failure, FailureClass, Outcome
from ...stream import EventStream
from .failures import failure_of_answer, failure_of_error, may_be_done
from .hosts import HostBreakers
from .outgoing import Outgoing
from .rules import CallRules

__all__ = ["REPORT_EXTENSION", "Attempt", "Call", "Desk", "Result", "checked_rules", "given"]

REPORT_EXTENSION = "holdfast_report"
"""`response.extensions["holdfast_report"]`: the `Report` on an answer that could have been tried again."""

Result = httpx2.Response | Exception
"""What came of an attempt."""

_STEPS = {httpx2.ConnectTimeout: "connect", httpx2.WriteTimeout: "write"}
"""Which step of an attempt took too long."""

_USED_UP = frozenset({StopReason.ATTEMPTS, StopReason.DEADLINE, StopReason.BUDGET})


class Desk:
    """What all calls of one transport share. Safe in threads and tasks."""

    __slots__ = ("breakers", "budget", "clock", "events", "margin_s", "new_key", "patience_s", "random", "rules")

    def __init__(
        self, rules: CallRules, clock: Clock, random: Random, events: EventStream, new_key: Callable[[], str]
    ) -> None:
        self.rules = rules
        self.budget = budget_on(clock, rules.budget)
        self.clock = clock
        self.random = random
        self.events = events
        self.new_key = new_key
        self.margin_s = seconds(rules.margin)
        self.patience_s = seconds(rules.retry_after_max)
        self.breakers = (
            None if rules.breaker is None else HostBreakers(self._breaker_maker(rules.breaker), rules.hosts_max)
        )

    def _breaker_maker(self, given: Callable[[str], CircuitBreaker]) -> Callable[[str], CircuitBreaker]:
        if given is CircuitBreaker:
            return lambda host: CircuitBreaker(host, clock=self.clock, events=self.events)
        return given


class Attempt:
    """One request on the wire.

    Attributes:
        request: what is sent.
        permit: the breaker's, until it was told how it went.
        given_s: how long the caller's deadline let it take, seconds; None: there was none.
    """

    __slots__ = ("given_s", "permit", "request")

    def __init__(self, request: httpx2.Request, permit: Permit | None, given_s: float | None = None) -> None:
        self.request = request
        self.permit = permit
        self.given_s = given_s


class _Ending(NamedTuple):
    reason: StopReason
    explanation: str


class Call:
    """One logical request on its way. Belongs to the call that makes it.

    Args:
        desk: what it shares with others.
        request: what the caller wants sent.
    """

    __slots__ = (
        "_attempts",
        "_desk",
        "_failures",
        "_maybe_done",
        "_nested",
        "_refund",
        "_since",
        "_started",
        "deadline",
        "number",
        "outgoing",
    )

    def __init__(self, desk: Desk, request: httpx2.Request) -> None:
        self._desk = desk
        self._nested = retry_is_active()
        self._started = desk.clock.monotonic()
        self._since = REPORTS[0]  # reports from before are about other calls, even on the same exception object
        self._failures: dict[Allowance | None, int] = {}
        self._attempts: list[Attempt] = []  # those whose breaker waits to hear
        self._refund = 0.0
        self._maybe_done = False
        self.deadline = current_deadline()
        self.outgoing = Outgoing(request, desk.rules, desk.new_key)
        self.number = 0  # of attempts begun

    # -- beginning ---------------------------------------------------------------------------------------------------

    def begin(self, last: Result | None) -> Attempt | None:
        """The next attempt; None: nothing more may be begun, and `last`, with a report on it, is the end.

        Raises:
            DeadlineExceeded: (first attempt) no time is left; nothing was sent.
            BreakerOpen: (first attempt) the host's breaker is open; nothing was sent.
        """
        if self.deadline is not None and self.deadline.remaining_s() <= self._desk.margin_s:
            ending = _Ending(StopReason.DEADLINE, "fits the deadline? no: nothing is left of it")
            if last is None:
                self._refuse(DeadlineExceeded(f"{self.outgoing.name}: no time was left; nothing was sent"), ending)
            self._report_on(last, ending)
            return None
        try:
            permit = self._permit()
        except BreakerOpen as error:
            ending = _Ending(StopReason.NOT_RETRYABLE, "may it be sent? no: the breaker of the host is open")
            if last is None:
                self._refuse(error, ending)
            self._report_on(last, ending)
            return None
        return self._begun(permit)

    def hedge(self) -> Attempt | None:
        """One more attempt beside the first, for a token of the budget; None: not now."""
        budget = self._desk.budget
        if self.deadline is not None and self.deadline.remaining_s() <= self._desk.margin_s:
            return None
        if budget is not None and not budget.try_spend(1.0, self._desk.clock.monotonic()):
            return None
        try:
            return self._begun(self._permit())
        except BreakerOpen:
            if budget is not None:
                budget.refund(1.0, self._desk.clock.monotonic())
            return None

    @property
    def may_hedge(self) -> bool:
        """It reads only, can be sent twice, and nobody outside retries already."""
        outgoing = self.outgoing
        return outgoing.safe and outgoing.idempotent and outgoing.is_replayable and not self._nested

    def _permit(self) -> Permit | None:
        breakers = self._desk.breakers
        return None if breakers is None else breakers.of(self.outgoing.host).acquire()

    def _begun(self, permit: Permit | None) -> Attempt:
        given_s = None if self.deadline is None else self.deadline.remaining_s()
        attempt = Attempt(self.outgoing.attempt(self.deadline, self._desk.margin_s), permit, given_s)
        self._attempts.append(attempt)
        self.number += 1
        return attempt

    def _refuse(self, error: HoldfastError, ending: _Ending) -> NoReturn:
        self._report_on(error, ending)
        raise error

    # -- ending ------------------------------------------------------------------------------------------------------

    def ended(self, attempt: Attempt, result: Result) -> float | None:
        """What follows from an attempt's result: seconds to wait before the next, or None: the result is the end.

        A result that is the end, and could have been tried again, has its report on it.
        """
        failure = self.settle(attempt, result)
        if failure is None:
            self._succeeded(result)
            return None
        self._maybe_done = self._maybe_done or may_be_done(failure)
        if self.outgoing.used_up:
            failure = failure._replace(
                failure_class=FailureClass.PERMANENT, name=f"{failure.name} and its body cannot be sent again".strip()
            )
        decision = self._decide(failure, result)
        self._tell_failure(failure, decision)
        if decision.reason is None:
            # A service that still answers, with this, has trouble enough.
            self._refund = 0.0 if isinstance(result, httpx2.Response) else decision.refund
            return decision.delay_s
        self._tell_denial(failure, decision.reason)
        self._report_on(result, _Ending(decision.reason, decision.explain()))
        return None

    def settle(self, attempt: Attempt, result: Result) -> Failure | None:
        """What a result means; the breaker is told. None: it is an answer to give to the caller."""
        if isinstance(result, httpx2.Response):
            status = result.status_code
            failure = None if status < 400 else self._failure_of(status, result.headers)
            hurried = status == 504 and self._had_no_time(attempt, "read")
            in_trouble = status >= 500 and not hurried
            sent_away = status == 429 or hurried
        else:
            failure = failure_of_error(result)
            # Waiting for a connection of one's own pool says nothing about the host.
            in_trouble = failure.failure_class.counts_for_breaker and not isinstance(result, httpx2.PoolTimeout)
            if isinstance(result, httpx2.TimeoutException):
                in_trouble = in_trouble and not self._had_no_time(attempt, _STEPS.get(type(result), "read"))
            sent_away = not in_trouble
        if attempt in self._attempts:
            self._attempts.remove(attempt)
            permit = attempt.permit
            if permit is not None:
                (permit.failed if in_trouble else permit.ignored if sent_away else permit.succeeded)()
        return failure

    def _had_no_time(self, attempt: Attempt, step: str) -> bool:
        """Whether what was missing was time that the caller did not give: less than half of what the client itself gives.

        Anybody could open a host's breaker for all by asking for answers in no time.
        """
        own_s = self.outgoing.own_timeout_s(step)
        return attempt.given_s is not None and own_s is not None and attempt.given_s < own_s / 2

    def _failure_of(self, status: int, headers: httpx2.Headers) -> Failure | None:
        desk = self._desk
        return failure_of_answer(
            status, headers, keyed=self.outgoing.keyed, patience_s=desk.patience_s, draw=desk.random()
        )

    def abandoned(self, attempt: Attempt) -> None:
        """An attempt was cancelled: it says nothing about the host."""
        if attempt in self._attempts:
            self._attempts.remove(attempt)
            if attempt.permit is not None:
                attempt.permit.ignored()

    def stopped(self, stop: BaseException) -> None:
        """The caller, or the program, was stopped: what is still out is abandoned, and `stop` says what may have been done."""
        if self._attempts:
            self._maybe_done = True
        for attempt in tuple(self._attempts):
            self.abandoned(attempt)
        self._report_on(stop, _Ending(StopReason.NOT_RETRYABLE, "stopped from outside"))

    def _decide(self, failure: Failure, result: Result) -> Decision:
        desk, now = self._desk, self._desk.clock.monotonic()
        inner = report_since(result, self._since) if isinstance(result, Exception) else None
        allowance = desk.rules.policy.allowances.get(failure.failure_class)
        self._failures[allowance] = self._failures.get(allowance, 0) + 1
        return decide(
            Situation(
                failure,
                self._failures[allowance],
                now,
                desk.random(),
                expires_at=None if self.deadline is None else now + self.deadline.remaining_s() - desk.margin_s,
                idempotent=self.outgoing.idempotent,
                nested=self._nested,
                exhausted=inner is not None and inner.exhausted,
            ),
            desk.rules.policy,
            desk.budget,
        )

    def _succeeded(self, result: Result) -> None:
        desk, budget = self._desk, self._desk.budget
        now = desk.clock.monotonic()
        if not self.outgoing.safe and isinstance(result, httpx2.Response):
            # Who answers 500 failed on the way, and does not say how far it came.
            refused = 400 <= result.status_code < 500
            if self._maybe_done or not refused:
                note_applied()  # of the request that this call is made for: it stands, whatever fails next
        if budget is not None and isinstance(result, httpx2.Response) and result.status_code < 500:
            if self._refund > 0:
                budget.refund(self._refund, now)
            if not self._nested:
                budget.deposit(now)
        self._tell_end(now - self._started, succeeded=True)

    def _report_on(self, result: Result | BaseException | None, ending: _Ending) -> None:
        elapsed_s = self._desk.clock.monotonic() - self._started
        outcome = Outcome.UNKNOWN if self._maybe_done else Outcome.NOT_COMMITTED
        if self._maybe_done and not self.outgoing.safe:
            note_applied()
        report = Report(
            operation=self.outgoing.name,
            attempts=self.number,
            elapsed_s=elapsed_s,
            reason=ending.reason.value,
            outcome=None if self.outgoing.safe else outcome,
            explanation=ending.explanation,
            exhausted=ending.reason in _USED_UP,
        )
        if isinstance(result, httpx2.Response):
            result.extensions[REPORT_EXTENSION] = report
        elif result is not None:
            attach_report(result, report, since=self._since)
        self._tell_end(elapsed_s, succeeded=False)

    # -- events ------------------------------------------------------------------------------------------------------

    def _tell_failure(self, failure: Failure, decision: Decision) -> None:
        events, name = self._desk.events, self.outgoing.name
        if not events.subscriptions:
            return
        from ...events import AttemptFailed, RetryScheduled

        events.emit(AttemptFailed(name, self.number, failure.failure_class, failure.stage, failure.code))
        if decision.reason is None:
            events.emit(RetryScheduled(name, self.number, failure.failure_class, decision.delay_s))

    def _tell_denial(self, failure: Failure, reason: StopReason) -> None:
        events = self._desk.events
        if events.subscriptions and reason is not StopReason.NOT_RETRYABLE:
            from ...events import RetryDenied

            events.emit(RetryDenied(self.outgoing.name, self.number, failure.failure_class, reason.value))

    def _tell_end(self, elapsed_s: float, *, succeeded: bool) -> None:
        events = self._desk.events
        if events.subscriptions:
            from ...events import CallEnded

            events.emit(CallEnded(self.outgoing.name, self.number, elapsed_s, succeeded=succeeded))


def given(result: Result) -> httpx2.Response:
    """The answer, or the error raised."""
    if isinstance(result, Exception):
        try:
            raise result
        finally:
            del result
    return result


def checked_rules(rules: CallRules | None, *, hedging: bool) -> CallRules:
    """`rules`, or the default ones.

    Raises:
        ConfigurationError: they ask for hedges where there can be none.
    """
    rules = CallRules() if rules is None else rules
    if rules.hedge_after is not None and not hedging:
        raise ConfigurationError(
            "hedge_after needs an async client: a thread that waits for the slower answer cannot be cancelled"
        )
    return rules
