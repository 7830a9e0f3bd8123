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
- At the deadline the work is cancelled: 504. `outcome` is `not_committed` where the operation that was cut says so (for a keyed
  request that is all of it) and nothing was committed before. Else it is `unknown`, unless the method is a safe one: what was at
  work when no operation was, nobody can tell. The same key settles it.
- The client hangs up: the work is cancelled, and nobody is answered. It is noticed at the latest `notice_after` after it
  happened, unless more than a piece of the body is unread; an application that listens for it itself is told, not cancelled.

Work that the application does after its answer is complete (background tasks) is not cancelled, but saves in it see the same
deadline: what has to happen belongs into an outbox. A stream that is meant to last longer gets its path into `long_lived`.

Sources: the gRPC over HTTP/2 protocol (`Timeout`); Envoy's router filter.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from ..clock import SYSTEM_CLOCK, Clock
from ..deadline import CURRENT, seconds
from ..deadline import Deadline as Moment
from ..errors import BlockTimedOut, ConfigurationError, DeadlineExceeded, HoldfastError, OutcomeUnknown, report_of
from ..outcome import Outcome
from .context import RequestContext, fields_of
from .error_log import note_error
from .exchange import Exchange, exchange_of
from .headers import MalformedHeader
from .interface import SAFE_METHODS, App, Message, Receive, Scope, Send
from .problems import Problem, as_far_as_known, problem_for, send_problem
from .route_patterns import path_of
from .stack import Place

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Deadline", "parse_grpc_timeout", "parse_milliseconds", "time_allowed_s"]

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
        maximum_for: the same for one request, by its scope, in seconds; None: `maximum`. Default: `maximum` for all.
        floor: the least with which it is worth beginning, default 20 ms; 0 or more.
        long_lived: beginnings of paths without a maximum, for streams that go on; what headers say holds there too. Default none.
        notice_after: how long a request runs before somebody listens for its client to hang up, default 0.1 s; more than 0.
            Requests that are over by then cost nothing for it.
        clock: the one `RequestId` has.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    place: ClassVar[Place] = Place.DEADLINE

    __slots__ = (
        "_clock",
        "_floor_s",
        "_long_lived",
        "_maximum_for",
        "_maximum_s",
        "_notice_after_s",
        "_watch",
        "app",
    )

    def __init__(
        self,
        app: App,
        *,
        maximum: float | timedelta = 10.0,
        maximum_for: Callable[[Scope], float | None] | None = None,
        floor: float | timedelta = 0.02,
        long_lived: Iterable[str] = (),
        notice_after: float | timedelta = 0.1,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.app = app
        self._maximum_s = seconds(maximum, name="maximum")
        self._maximum_for = maximum_for
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
        self._watch: _Watch | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context, exchange, receive, send = exchange_of(scope, receive, send, self._clock)
        allowed_s = maximum_s = self._maximum_of(scope)
        if not _PARSERS.keys().isdisjoint(fields_of(scope, context)):
            try:
                allowed_s = time_allowed_s(scope["headers"], allowed_s)
            except MalformedHeader as error:
                await send_problem(send, Problem(400, "malformed-timeout", detail=str(error)), context)
                return
        outer = CURRENT.get()
        deadline = outer if allowed_s == math.inf else Moment(context.started_at + allowed_s, self._clock)
        # Moments of two clocks cannot be compared, times left can.
        if deadline is not None and outer is not None and outer.remaining_s() < deadline.remaining_s():
            deadline = outer
        elif allowed_s < maximum_s:
            context.maximum_s = maximum_s
        left_s = math.inf if deadline is None else deadline.remaining_s()
        if left_s < self._floor_s or left_s <= 0:
            await send_problem(send, _TOO_LITTLE, context)
            return
        context.deadline = deadline
        task = asyncio.current_task()
        assert task is not None, "ASGI applications run in tasks"
        work = _Work(receive, exchange, self._watch_of(task), task, left_s)
        cut: HoldfastError | None = None
        # What `async with within(...)` does, with the timer that also looks for the client: it would cost twice as much.
        CURRENT.set(deadline)
        try:
            await self.app(scope, work.receive, send)
        except asyncio.CancelledError as error:
            if not work.takes_back():
                raise
            report = report_of(error)
            cut = _CUTS.get(None if report is None else report.outcome, BlockTimedOut)(_LATE)
        except (BlockTimedOut, DeadlineExceeded, OutcomeUnknown) as error:
            cut = error
            if exchange.disconnected:
                note_error(error, as_far_as_known(problem_for(error), context), context, gone=True)
        finally:
            CURRENT.set(outer)
            await work.close()
        if cut is not None or work.ended_by is not None:
            await _settle(cut, work.ended_by, exchange, context, scope["method"], send)

    def _maximum_of(self, scope: Scope) -> float:
        if self._long_lived and path_of(scope).startswith(self._long_lived):
            return math.inf
        own_s = None if self._maximum_for is None else self._maximum_for(scope)
        return self._maximum_s if own_s is None else own_s

    def _watch_of(self, task: asyncio.Task[Any]) -> _Watch:
        watch = self._watch
        if watch is None or watch.loop is not task.get_loop():
            watch = self._watch = _Watch(task.get_loop(), self._notice_after_s)
        return watch


_CUTS: dict[Outcome | None, type[HoldfastError]] = {
    Outcome.NOT_COMMITTED: DeadlineExceeded,
    Outcome.UNKNOWN: OutcomeUnknown,
}
"""By what the operation says that was cut; of a request that had committed something before, the document says so."""
_LATE = "the request did not end within its time"
_TOO_LITTLE = problem_for(DeadlineExceeded())
_MAYBE = problem_for(OutcomeUnknown())


class _EndedBy(Enum):
    """Why the work of a request was cancelled here."""

    CLIENT = 1
    DEADLINE = 2


async def _settle(
    cut: HoldfastError | None,
    ended_by: _EndedBy | None,
    exchange: Exchange,
    context: RequestContext,
    method: str,
    send: Send,
) -> None:
    """What is left to do when the work was ended, from here or by itself."""
    if ended_by is _EndedBy.CLIENT or exchange.disconnected:  # nobody is left to be answered
        outcome = None if cut is None else as_far_as_known(problem_for(cut), context).extensions.get("outcome")
        if isinstance(outcome, str):
            context.outcome = outcome
        return
    if cut is None:
        if exchange.started:
            return
        cut = BlockTimedOut(_LATE)  # the application swallowed being cancelled, and left without a word
    if exchange.started:
        raise cut
    problem = problem_for(cut)
    if isinstance(cut, BlockTimedOut) and method not in SAFE_METHODS:
        # What was under way was not committed, but what the request had finished before that may have been.
        problem = replace(problem, detail=_MAYBE.detail, extensions=_MAYBE.extensions)
    problem = as_far_as_known(problem, context)
    note_error(cut, problem, context)
    await send_problem(send, problem, context)


class _Watch:
    """The requests under way in one event loop, each to be looked at when it has run for a while: one timer for all of them.

    All wait for the same time, so they come up in the order in which they joined.
    """

    __slots__ = ("_timer", "_works", "every_s", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, every_s: float) -> None:
        self.loop = loop
        self.every_s = every_s
        self._works: dict[_Work, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def join(self, work: _Work) -> None:
        """Look at `work` after `every_s`, once."""
        now = self.loop.time()
        self._works[work] = now
        if self._timer is None:
            self._timer = self.loop.call_at(now + self.every_s, self._look)

    def leave(self, work: _Work) -> None:
        """Look at it no more."""
        self._works.pop(work, None)

    def _look(self) -> None:
        self._timer = None
        now = self.loop.time()
        for work, joined in list(self._works.items()):
            if joined + self.every_s > now:
                self._timer = self.loop.call_at(joined + self.every_s, self._look)
                return
            del self._works[work]
            work.look(now - joined)


class _Work:
    """The work of one request: cancelled at its deadline, or when its client is gone.

    There is one `receive`, and what it gives must reach the application. So nobody listens for the client while the application
    does; what is heard in between is kept for it, and of a body at most one piece: then the listening ends until that was taken.

    Attributes:
        ended_by: what cancelled it, or None.
    """

    __slots__ = (
        "_awaited",
        "_cancelling",
        "_exchange",
        "_heard",
        "_last",
        "_left_s",
        "_listener",
        "_open",
        "_receive",
        "_task",
        "_untaken",
        "_waiting",
        "_watch",
        "ended_by",
    )

    def __init__(
        self, receive: Receive, exchange: Exchange, watch: _Watch, task: asyncio.Task[Any], left_s: float
    ) -> None:
        self._receive = receive
        self._exchange = exchange
        self._watch = watch
        self._task = task
        self._cancelling = task.cancelling()
        self._untaken = False  # a cancellation from here is out, and was not taken back
        self._open = True
        self.ended_by: _EndedBy | None = None
        self._heard: deque[Message] | None = None
        self._waiting = 0  # calls of the application that wait for a message
        self._listener: asyncio.Task[None] | None = None
        # Most requests are over before somebody looks at them. A timer of its own is set for those that are not.
        self._left_s = left_s
        self._last: asyncio.TimerHandle | None = None
        if left_s < watch.every_s:
            self._last = watch.loop.call_later(left_s, self._expire)
        self._awaited = True  # the watch is going to look
        watch.join(self)

    async def receive(self) -> Message:
        """What the application calls instead of the server's."""
        self._waiting += 1
        try:
            while True:
                if self._heard:
                    message = self._heard[0]
                    if message["type"] != "http.disconnect":
                        self._heard.popleft()  # the other stays: it stays true, and who was told is not cancelled for it
                    return message
                if self._listener is None:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        self._heard = deque((message,))
                    return message
                # Somebody listens already: wait for what is heard. Being cancelled here does not end the listening.
                await asyncio.wait({self._listener})
        finally:
            self._waiting -= 1
            if self._listener is None and self._open and not self._awaited:
                self._awaited = True
                self._watch.join(self)

    def look(self, waited_s: float) -> None:
        """It is still under way, `waited_s` after it joined: end it in time from now on, and listen for its client."""
        self._awaited = False
        if self._last is None and self._left_s != math.inf:
            self._last = self._watch.loop.call_later(self._left_s - waited_s, self._expire)
        if not self._waiting and not self._heard:  # else it hears for itself, and joins again afterwards
            self._listener = self._watch.loop.create_task(self._listen())

    def _expire(self) -> None:
        self._end(_EndedBy.DEADLINE)

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
            if not self._waiting:
                self._end(_EndedBy.CLIENT)
        elif not message.get("more_body", False) and not self._waiting and self._open:
            self._listener = self._watch.loop.create_task(self._listen())

    def _end(self, by: _EndedBy) -> None:
        # Not after a complete answer: it was in time. Servers say that the client is gone as soon as they see its last piece, but
        # the time counts until they took it: or a client that does not read could hold a request, and its permit, for ever.
        exchange = self._exchange
        over = exchange.ending if by is _EndedBy.CLIENT else exchange.complete
        if self._open and self.ended_by is None and not over:
            self.ended_by = by
            self._untaken = True
            self._task.cancel()

    def takes_back(self) -> bool:
        """Whether a cancellation that arrived is from here alone; then it is taken back (see `asyncio.Task.uncancel`)."""
        if not self._untaken:
            return False
        self._untaken = False
        return self._task.uncancel() <= self._cancelling

    async def close(self) -> None:
        """End it: no timer, nobody who listens, and no cancellation left that somebody later could take for another's."""
        self._open = False
        self._watch.leave(self)
        if self._last is not None:
            self._last.cancel()
        if self._untaken:  # the application swallowed it, or raised something else: it is over either way
            self._untaken = False
            self._task.uncancel()
        listener = self._listener
        if listener is not None:
            listener.cancel()
            await asyncio.wait({listener})
