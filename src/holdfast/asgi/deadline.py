"""Every request has a deadline, and a client who has gone takes its work along.

    app = Deadline(app, maximum=10)

The deadline is the least of what the headers say and of the service's maximum, counted from when the request was seen. Everything
inside sees it, as with `within(...)`: retries, pools, statements, calls to other services.

| header | value |
|---|---|
| `X-Request-Timeout-Ms` | milliseconds, 1 to 10 digits |
| `grpc-timeout` | 1 to 8 digits and one of `H M S m u n` (hours to nanoseconds) |
| `x-envoy-expected-rq-timeout-ms` | milliseconds, 1 to 10 digits; set by Envoy |

- A header that is malformed, or there twice: 400.
- Less time left than `floor`: 504 before anything is touched, `outcome` is `not_committed`.
- At the deadline the work is cancelled: 504. `outcome` is `unknown`, unless the method is a safe one: of several things the
  request did, some may have been finished. The same key settles it.
- The client hangs up: the work is cancelled, and nobody is answered. It is noticed at the latest `notice_after` after it
  happened, unless more than a piece of the body is unread; an application that listens for it itself is told, not cancelled.

Work that the application does after its answer is complete (background tasks) has the same deadline: what has to happen belongs
into an outbox. A stream that is meant to last longer gets its path into `long_lived`.

Sources: the gRPC over HTTP/2 protocol (`Timeout`); Envoy's router filter.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ..clock import SYSTEM_CLOCK, Clock
from ..deadline import seconds, within
from ..errors import BlockTimedOut, ConfigurationError, DeadlineExceeded, OutcomeUnknown, report_of
from ..outcome import Outcome
from .context import RequestContext, context_of
from .exchange import Exchange, exchange_of
from .headers import MalformedHeader
from .interface import App, Message, Receive, Scope, Send
from .problems import Problem, problem_for, send_problem
from .stack import Place

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Deadline", "parse_grpc_timeout", "parse_milliseconds", "time_allowed_s"]

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_UNITS_S = {ord("H"): 3600.0, ord("M"): 60.0, ord("S"): 1.0, ord("m"): 1e-3, ord("u"): 1e-6, ord("n"): 1e-9}


def parse_milliseconds(value: bytes) -> float:
    """Seconds, from 1 to 10 digits that mean milliseconds; pure.

    Raises:
        MalformedHeader: it is anything else.
    """
    if not 1 <= len(value) <= 10 or not value.isdigit():
        raise MalformedHeader("must be 1 to 10 digits")
    return int(value) / 1000


def parse_grpc_timeout(value: bytes) -> float:
    """Seconds, from 1 to 8 digits and a unit; pure.

    Raises:
        MalformedHeader: it is anything else.
    """
    if not 2 <= len(value) <= 9 or not value[:-1].isdigit() or value[-1] not in _UNITS_S:
        raise MalformedHeader("must be 1 to 8 digits and one of H M S m u n")
    return int(value[:-1]) * _UNITS_S[value[-1]]


_PARSERS = {
    b"x-request-timeout-ms": parse_milliseconds,
    b"grpc-timeout": parse_grpc_timeout,
    b"x-envoy-expected-rq-timeout-ms": parse_milliseconds,
}


def time_allowed_s(headers: Iterable[tuple[bytes, bytes]], maximum_s: float) -> float:
    """The least of what `headers` say and `maximum_s`, in seconds; pure.

    Raises:
        MalformedHeader: a header is malformed, or there twice. The text names it and the rule, never the value.
    """
    least_s = maximum_s
    found: set[bytes] | None = None
    for name, value in headers:
        parse = _PARSERS.get(name)
        if parse is None:
            continue
        if found is None:
            found = set()
        if name in found:
            raise MalformedHeader(f"The header {name.decode('ascii')} is there more than once.")
        found.add(name)
        try:
            least_s = min(least_s, parse(value))
        except MalformedHeader as error:
            raise MalformedHeader(f"The header {name.decode('ascii')} {error}.") from None
    return least_s


class Deadline:
    """Gives each request its deadline, and ends its work with it or with the client. WebSockets are passed on.

    Args:
        app: the application around which this stands.
        maximum: the most a request gets, seconds or `timedelta`, default 10 s; more than `floor`.
        floor: the least with which it is worth beginning, default 20 ms; 0 or more.
        long_lived: beginnings of paths without a maximum, for streams that go on; what headers say holds there too. Default none.
        notice_after: how long a request runs before somebody listens for its client to hang up, default 0.1 s; more than 0.
            Requests that are over by then cost nothing for it.
        clock: the one `RequestId` has.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    place: ClassVar[Place] = Place.DEADLINE

    __slots__ = ("_clock", "_floor_s", "_long_lived", "_maximum_s", "_notice_after_s", "app")

    def __init__(
        self,
        app: App,
        *,
        maximum: float | timedelta = 10.0,
        floor: float | timedelta = 0.02,
        long_lived: Iterable[str] = (),
        notice_after: float | timedelta = 0.1,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.app = app
        self._maximum_s = seconds(maximum, name="maximum")
        self._floor_s = seconds(floor, name="floor")
        if self._maximum_s <= self._floor_s:
            raise ConfigurationError(
                f"maximum must be more than floor ({self._floor_s:g} s), not {self._maximum_s:g} s"
            )
        if isinstance(long_lived, str):
            raise ConfigurationError("long_lived must be several beginnings of paths, not one text; write (text,)")
        self._long_lived = tuple(long_lived)
        if not all(path.startswith("/") for path in self._long_lived):
            raise ConfigurationError("each of long_lived must begin with /")
        self._notice_after_s = seconds(notice_after, name="notice_after")
        if self._notice_after_s == 0:
            raise ConfigurationError("notice_after must be more than 0 s")
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = context_of(scope, self._clock)
        unlimited = self._long_lived and scope["path"].startswith(self._long_lived)
        try:
            allowed_s = time_allowed_s(scope["headers"], math.inf if unlimited else self._maximum_s)
        except MalformedHeader as error:
            await send_problem(send, Problem(400, "malformed-timeout", detail=str(error)), context)
            return
        left_s = allowed_s - (self._clock.monotonic() - context.started_at)
        if left_s < self._floor_s or left_s <= 0:
            await send_problem(send, _TOO_LITTLE, context)
            return
        exchange, receive, send = exchange_of(context, receive, send)
        client = _Client(receive, exchange, self._notice_after_s)
        try:
            if left_s == math.inf:
                await self.app(scope, client.receive, send)
            else:
                async with within(left_s, clock=self._clock) as context.deadline:
                    await self.app(scope, client.receive, send)
        except asyncio.CancelledError as error:
            if not client.took_the_blame():
                raise
            _note_outcome(error, context)
        except (BlockTimedOut, OutcomeUnknown, DeadlineExceeded) as error:
            if exchange.started or exchange.disconnected:
                raise
            await send_problem(send, _too_late(error, scope["method"]), context)
        finally:
            if client.close():
                await client.closed()


_TOO_LITTLE = problem_for(DeadlineExceeded())


def _too_late(error: BlockTimedOut | OutcomeUnknown | DeadlineExceeded, method: str) -> Problem:
    problem = problem_for(error)
    if not isinstance(error, BlockTimedOut) or method in _SAFE:
        return problem
    # What was under way was not committed, but what the request did before that may have been.
    unknown = problem_for(OutcomeUnknown())
    return replace(problem, detail=unknown.detail, extensions=unknown.extensions)


def _note_outcome(error: asyncio.CancelledError, context: RequestContext) -> None:
    report = report_of(error)
    if report is not None and report.outcome is Outcome.UNKNOWN:
        context.outcome = Outcome.UNKNOWN.value


class _Client:
    """The client of one request, listened to while the application works.

    There is one `receive`, and what it gives must reach the application. So nobody listens while the application does; what is
    heard in between is kept for it, and of a body at most one piece: then the listening ends until that was taken.
    """

    __slots__ = (
        "_cancelling",
        "_every_s",
        "_exchange",
        "_heard",
        "_listener",
        "_loop",
        "_open",
        "_receive",
        "_task",
        "_timer",
        "_waiting",
        "gone",
    )

    def __init__(self, receive: Receive, exchange: Exchange, every_s: float) -> None:
        self._receive = receive
        self._exchange = exchange
        self._every_s = every_s
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._loop = loop = task.get_loop()
        self._heard: deque[Message] | None = None
        self._waiting = 0  # calls of the application that wait for a message
        self._listener: asyncio.Task[None] | None = None
        self._open = True
        self.gone = False  # the work was cancelled because the client is gone, and the cancellation is still out
        # A timer and not a task: most requests are over before it fires.
        self._timer: asyncio.TimerHandle | None = loop.call_later(every_s, self._look)

    async def receive(self) -> Message:
        """What the application calls instead of the server's."""
        self._waiting += 1
        try:
            while True:
                if self._heard:
                    message = self._heard[0]
                    if message["type"] != "http.disconnect":  # that stays true
                        self._heard.popleft()
                    return message
                if self._listener is None:
                    return await self._receive()
                # Somebody listens already: wait for what is heard. Being cancelled here does not end the listening.
                await asyncio.wait({self._listener})
        finally:
            self._waiting -= 1
            if self._timer is None and self._listener is None and self._open and not self._heard:
                self._timer = self._loop.call_later(self._every_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._waiting:  # else it hears for itself, and sets the timer afterwards
            self._listener = self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            message = await self._receive()
        except Exception:
            self._listener = None
            return  # the application will hear it when it asks
        if self._heard is None:
            self._heard = deque()
        self._heard.append(message)
        self._listener = None
        if message["type"] == "http.disconnect":
            # After a complete answer every server says this: it is no reason to end what the application does then.
            if not self._waiting and not self._exchange.complete and self._open:
                self.gone = True
                self._task.cancel()
        elif not message.get("more_body", False) and not self._waiting and self._open:
            self._listener = self._loop.create_task(self._listen())

    def took_the_blame(self) -> bool:
        """Whether a cancellation that arrived is this one's alone; then it is taken back (see `asyncio.Task.uncancel`)."""
        if not self.gone:
            return False
        self.gone = False
        return self._task.uncancel() <= self._cancelling

    def close(self) -> bool:
        """Stop listening; whether there is somebody to wait for (`closed`)."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.gone:  # the application swallowed it, or raised something else: it is over either way
            self.gone = False
            self._task.uncancel()
        return self._listener is not None and self._listener.cancel()

    async def closed(self) -> None:
        """Wait until nobody listens any more."""
        if self._listener is not None:
            await asyncio.wait({self._listener})
