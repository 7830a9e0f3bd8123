"""A whole request again, inside the service, when it failed of something that passes.

    app = RequestRetry(app)                     # the innermost layer

The application is called again, with the same request, if all of this holds:

- the request is idempotent by its method (RFC 9110, 9.2.2), or carries a key and the author says that the application minds keys;
- it failed of an error worth another attempt, or was answered with a status that is, *without* a `Retry-After`: who names a time
  has said that now is no good, and an inner layer that gave up says so with it;
- no other layer retries: neither one around this (a keyed request is run again by its transaction) nor one inside that has used
  up its attempts (`report_of(error).exhausted`);
- no byte of the answer has left. So an answer of 500 and above is held back until the application returns; others are not;
- what the application has read of the body was small enough to be kept;
- attempts, deadline and budget allow it: `decision.decide` answers, as for every retry. The budget (a tenth of the load) is what
  keeps an attacker, or an outage, from multiplying the load: without successes nothing is left to spend.

Nothing is buffered ahead: the body is kept while the application reads it, so an upload streams as it did before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from ..backoff import Backoff
from ..bounds import instance_of
from ..budget import RetryBudget, budget_on, default_budget
from ..classification import On, classifier
from ..clock import SYSTEM_CLOCK, Clock, Random, system_random
from ..deadline import current_deadline
from ..decision import Allowance, RetryPolicy, Situation, StopReason, decide
from ..errors import REPORTS, ConfigurationError, Contended, Unavailable, report_since
from ..events import AttemptFailed, RetryDenied, RetryScheduled
from ..layer import retry_is_active
from ..outcome import Failure, FailureClass, Stage
from ..stream import EVENTS, EventStream
from .context import RequestContext, context_of
from .headers import first
from .interface import App, Message, Receive, Scope, Send
from .scopes import ScopeBefore
from .stack import Place

__all__ = ["IDEMPOTENT_METHODS", "RequestRetry"]

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""The methods of which RFC 9110 says that twice is the same as once (`TRACE` left out: nobody serves it)."""

_RETRIED = (
    FailureClass.CONTENTION,
    FailureClass.UNSENT,
    FailureClass.LOST,
    FailureClass.AMBIGUOUS,
    FailureClass.ROLE_CHANGED,
    FailureClass.OVERLOAD,
)
_FREE = frozenset({FailureClass.CONTENTION})
_PASSING: tuple[type[Exception], ...] = (ConnectionError, TimeoutError, Contended, Unavailable)
_DEFAULT_BACKOFF = Backoff(base=0.025, cap=0.5)
_DEFAULT_BUDGET = default_budget()
_HELD_MAX = 65_536
_HELD_PIECES_MAX = 16
_KEY = b"idempotency-key"
_NAME = "request"


class RequestRetry:
    """The middleware. One instance serves one event loop.

    Args:
        app: the application around which this stands.
        on: which errors are worth another attempt, as for `retry`; default `ConnectionError`, `TimeoutError`, `Contended`,
            `Unavailable`.
        statuses: which answers are, if they name no `Retry-After`; default 503. Only 500 and above.
        attempts: calls of the application in all, the first included; default 3.
        backoff: the delays between them; default full jitter below 25 ms, doubling up to 500 ms: a client is waiting.
        methods: which methods are idempotent; default `IDEMPOTENT_METHODS`.
        keyed: the author's promise that the application applies a request with an `Idempotency-Key` once, whatever the method.
            Not needed inside `Idempotency` with `SqlIdempotency`, which runs such a request again by itself. Default False.
        may_repeat: whether one request may be, by its scope, whatever its method: True or False; None: method and key decide.
            Default: they decide for all.
        body_max: bytes of a body that are kept for another attempt, default 64 KiB; a request that has read more is not retried.
        bodies_max: bytes that are kept of all bodies together, default 16 MiB.
        budget: what retries may add to the load; default the process-wide budget, with another `clock` a private one on that;
            None: no limit.
        clock, random, events: where time, jitter and listeners come from.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    place: ClassVar[Place] = Place.RETRY

    __slots__ = (
        "_bodies_max",
        "_body_max",
        "_budget",
        "_classify",
        "_clock",
        "_events",
        "_keyed",
        "_may_repeat_for",
        "_methods",
        "_policy",
        "_random",
        "_statuses",
        "app",
        "held",
    )

    def __init__(
        self,
        app: App,
        *,
        on: On = _PASSING,
        statuses: frozenset[int] = frozenset({503}),
        attempts: int = 3,
        backoff: Backoff = _DEFAULT_BACKOFF,
        methods: frozenset[str] = IDEMPOTENT_METHODS,
        keyed: bool = False,
        may_repeat: Callable[[Scope], bool | None] | None = None,
        body_max: int = 65_536,
        bodies_max: int = 16 * 1_048_576,
        budget: RetryBudget | None = _DEFAULT_BUDGET,
        clock: Clock = SYSTEM_CLOCK,
        random: Random = system_random,
        events: EventStream = EVENTS,
    ) -> None:
        wrong = sorted(status for status in statuses if not 500 <= status <= 599)
        if wrong:
            raise ConfigurationError(
                f"statuses cannot hold {wrong}: only 5xx say that the same request may fare better"
            )
        if not 0 <= body_max <= bodies_max:
            raise ConfigurationError("body_max must be 0 or more, and at most bodies_max")
        self.app = app
        self.held = 0
        self._classify = classifier(on)
        self._statuses = statuses
        self._policy = RetryPolicy(dict.fromkeys(_RETRIED, Allowance(attempts, backoff)))
        self._methods = methods
        self._keyed = keyed
        self._may_repeat_for = may_repeat
        self._body_max = body_max
        self._bodies_max = bodies_max
        self._budget = budget_on(clock, instance_of(budget, RetryBudget, "RequestRetry.budget", optional=True))
        self._clock = clock
        self._random = random
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = context_of(scope)
        if not context.attempts:  # else a layer outside has counted its own call
            context.attempts = 1
        if not self._may_repeat(scope) or retry_is_active():
            await self.app(scope, receive, send)
            return
        request = _Request(self, scope, receive, send)
        try:
            await request.handle(scope, context)
        finally:
            request.forget_body()

    def _may_repeat(self, scope: Scope) -> bool:
        if self._may_repeat_for is not None and (said := self._may_repeat_for(scope)) is not None:
            return said
        if scope["method"] in self._methods:
            return True
        return self._keyed and first(scope["headers"], _KEY) is not None


class _Request:
    """One request: what was read of it, what is held back of its answer, and how often it failed."""

    __slots__ = (
        "_before",
        "_failures",
        "_gone",
        "_held",
        "_position",
        "_receive",
        "_refund",
        "_retry",
        "_send",
        "_since",
        "_started",
        "_status",
        "_tape",
        "_taped",
        "_too_long",
        "_with_a_time",
    )

    def __init__(self, retry: RequestRetry, scope: Scope, receive: Receive, send: Send) -> None:
        self._retry = retry
        self._before = ScopeBefore(scope)
        self._receive = receive
        self._send = send
        self._since = REPORTS[0]  # reports from before are about other requests, even on the same exception object
        self._tape: list[tuple[bytes, bool]] = []
        self._taped = self._position = self._failures = self._status = 0
        self._gone = self._started = self._too_long = self._with_a_time = False
        self._held: list[Message] | None = None
        self._refund = 0.0

    async def handle(self, scope: Scope, context: RequestContext) -> None:
        """Call the application until there is an answer to give."""
        retry = self._retry
        while True:
            error: Exception | None = None
            try:
                await retry.app(scope, self.receive, self.send)
            except Exception as caught:
                error = caught
            if error is None and self._status not in retry._statuses:
                self._succeeded()
                break
            delay_s = self._delay_s(error)
            if delay_s is None:
                break
            await retry._clock.sleep_async(delay_s)
            self._rewind()
            context.attempts += 1
        if self._held is not None:
            await self._let_go()
        if error is not None:
            raise error

    # -- what the application reads and sends ------------------------------------------------------------------------

    async def receive(self) -> Message:
        """What was read before, then what comes."""
        tape = self._tape
        if self._position < len(tape):
            body, more = tape[self._position]
            self._position += 1
            return {"type": "http.request", "body": body, "more_body": more}
        message = await self._receive()
        if message["type"] != "http.request":
            self._gone = True
        elif not self._too_long:
            body = message.get("body", b"")
            if not body or self._hold(len(body)):
                tape.append((body, message.get("more_body", False)))
                self._position += 1
        return message

    def _hold(self, size: int) -> bool:
        """Make room for another piece of the body; whether there is."""
        retry = self._retry
        if self._taped + size > retry._body_max or retry.held + size > retry._bodies_max:
            self._too_long = True
            self.forget_body()
            return False
        retry.held += size
        self._taped += size
        return True

    def forget_body(self) -> None:
        """Give back what is held of the body."""
        self._retry.held -= self._taped
        self._taped = 0
        self._tape = []

    async def send(self, message: Message) -> None:
        """Hold an answer back that may be replaced; let others pass."""
        if not self._started:
            if message["type"] == "http.response.start":
                self._status = message["status"]
            if self._status >= 500 and self._is_held(message):
                return
            self._started = True
            if self._held is not None:
                await self._let_go()
        await self._send(message)

    def _is_held(self, message: Message) -> bool:
        if message["type"] not in _HOLDABLE:
            return False
        held = self._held
        if held is None:
            held = self._held = []
            self._with_a_time = first(message.get("headers", ()), b"retry-after") is not None
        size = sum(len(one.get("body", b"")) for one in (*held, message))
        if size > _HELD_MAX or len(held) >= _HELD_PIECES_MAX:
            return False
        held.append(message)
        return True

    async def _let_go(self) -> None:
        held, self._held = self._held, None
        for one in held or ():
            await self._send(one)

    def _rewind(self) -> None:
        self._before.restore()
        self._position = self._status = 0
        self._held = None
        self._with_a_time = False

    # -- whether again -----------------------------------------------------------------------------------------------

    def _delay_s(self, error: Exception | None) -> float | None:
        """The seconds to wait before the next attempt, or None: this was the last."""
        retry = self._retry
        if self._started or self._too_long or self._gone or (error is None and self._with_a_time):
            return None
        self._failures += 1
        if error is None:
            failure = Failure(FailureClass.OVERLOAD, Stage.BODY, code=self._status or None, name="status")
            exhausted = False
        else:
            error = _only(error)
            failure = retry._classify(error)
            inner = report_since(error, self._since)
            exhausted = inner is not None and inner.exhausted
        deadline, now = current_deadline(), retry._clock.monotonic()
        decision = decide(
            Situation(
                # Inside a transaction a conflict is repeated for free; a whole request has its price whatever it failed of.
                failure._replace(failure_class=FailureClass.LOST) if failure.failure_class in _FREE else failure,
                self._failures,
                now,
                retry._random(),
                expires_at=None if deadline is None else now + deadline.remaining_s(),
                idempotent=True,
                exhausted=exhausted,
            ),
            retry._policy,
            retry._budget,
        )
        self._tell(failure, decision.reason, decision.delay_s)
        if decision.reason is not None:
            return None
        self._refund = decision.refund
        return decision.delay_s

    def _tell(self, failure: Failure, reason: StopReason | None, delay_s: float) -> None:
        events = self._retry._events
        if not events.subscriptions:
            return
        events.emit(AttemptFailed(_NAME, self._failures, failure.failure_class, failure.stage, failure.code))
        if reason is None:
            events.emit(RetryScheduled(_NAME, self._failures, failure.failure_class, delay_s))
        elif reason is not StopReason.NOT_RETRYABLE:
            events.emit(RetryDenied(_NAME, self._failures, failure.failure_class, reason.value))

    def _succeeded(self) -> None:
        budget = self._retry._budget
        if budget is not None and self._status < 500:
            now = self._retry._clock.monotonic()
            budget.deposit(now)
            if self._refund:
                budget.refund(self._refund, now)


_HOLDABLE = frozenset({"http.response.start", "http.response.body"})


def _only(error: Exception) -> Exception:
    # A task group wraps what its tasks raise; where that is one error, it is the one to speak of.
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
