"""The concurrency limit of the edge: what is more than the service bears is refused at once, before it holds anything.

    app = ConcurrencyLimit(app, limit=100)                      # fixed
    app = ConcurrencyLimit(app, limit=100, least=10)            # follows what the service bears
    app = ConcurrencyLimit(app, limit=100, priority=Priorities({
        "/payments": Priority.CRITICAL,
        "/reports/*": Priority.BATCH,
    }))

A service that takes in everything answers everything too late. This one takes in `limit` requests at a time, lets a few wait a
tenth of a second, and answers the others 503 with `Retry-After` before it has read a byte of their bodies. Who is refused is
decided by the rules of `gate`: batch first, and no tenant takes the place of all others.

A request is in until its answer is complete: what the application does after that (background tasks) takes no place, and says
nothing of what the service bears. After a 500 or more it is in until the application has ended: it may raise what that is about.

With `least` the limit moves between that and `limit` by `holdfast.adaptive.Aimd`: an answer of 503 or 504, an error that says the
same, or a deadline that passed is a drop, and every complete answer below 500 a success; other failures, and clients that hang
up, say nothing. Nor does a request that ran out of the little time its caller gave it, unless it had half of what the service
itself gives: or anybody could shrink the limit for all by asking for answers in no time. In the mode `dark` everybody gets in,
and `CallShed` tells who would not have: the way to find a number before it bites.

Websockets are passed on. Health endpoints answer further out, in `HealthEndpoints`, and are never counted. Answers that go on for
ever (event streams) belong into `exempt`: each would keep its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar, Literal

from ..adaptive import Aimd, Mode
from ..backoff import come_again_s
from ..clock import SYSTEM_CLOCK, WaitingClock
from ..deadline import current_deadline, seconds
from ..errors import BulkheadFull, ConfigurationError, LoadShed, Overloaded
from ..stream import EVENTS, EventStream
from .context import RequestContext
from .exchange import exchange_of
from .gate import Gate, Priority, Ticket
from .headers import first
from .interface import App, Receive, Scope, Send
from .problems import problem_for, send_problem
from .route_patterns import RoutePatterns, exact_paths, path_of
from .stack import Place
from .subjects import SubjectOf, by_tenant

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["DEFAULT_SHARES", "ConcurrencyLimit", "Priorities", "Priority", "PriorityOf"]

PriorityOf = Callable[[Scope, RequestContext], Priority]
"""How much a request matters."""

DEFAULT_SHARES: Mapping[Priority, float] = {Priority.CRITICAL: 0.2, Priority.NORMAL: 0.3, Priority.BATCH: 0.05}
"""What each class is guaranteed of the limit where classes are told apart: alone, batch gets half of the room."""

# Made up to half longer and then a whole number: from 0.75 some are told 1 s and some 2 s, from 1 s it would be 2 s for all.
_RETRY_AFTER_LEAST_S = 0.75
_TOO_MUCH = frozenset({503, 504})
_WORDS = {priority.name.lower().encode(): priority for priority in Priority}
_WORD_MAX = 16

_Outcome = Literal["succeeded", "dropped", "late", "ignored"]


class Priorities:
    """How much a request matters, by its route, and by a header where that is believed. Immutable; share it freely.

    Args:
        routes: the class of each route (`route_patterns`); the first that fits counts, and all others are normal. Default none.
            In doubt a request is less important: what is critical or normal must be spelled exactly, batch is so in any spelling.
        header: the name of a header with `critical`, `normal` or `batch`; default None: none is looked at. Everybody may ask for
            less than the route has. More is believed of principals with the permission alone; without it the route decides, as it
            does if the header is anything else.
        permission: the permission to ask for more; default `priority`.

    Raises:
        ConfigurationError: a route is no pattern.
    """

    __slots__ = ("_header", "_permission", "_routes")

    def __init__(
        self, routes: Mapping[str, Priority] | None = None, *, header: str | None = None, permission: str = "priority"
    ) -> None:
        self._routes: list[tuple[Priority, RoutePatterns]] = []
        for priority, alike in groupby((routes or {}).items(), key=lambda item: item[1]):
            self._routes.append((priority, RoutePatterns([pattern for pattern, _ in alike], name="routes")))
        self._header = None if header is None else header.lower().encode("latin-1")
        self._permission = permission

    def __call__(self, scope: Scope, context: RequestContext) -> Priority:
        """The class of one request."""
        priority = self._of_route(path_of(scope)) if self._routes else Priority.NORMAL
        if self._header is not None:
            value = first(scope["headers"], self._header)
            asked = None if value is None or len(value) > _WORD_MAX else _WORDS.get(value.strip().lower())
            if asked is not None and (asked > priority or self._permission in context.permissions):
                return asked
        return priority

    def _of_route(self, path: str) -> Priority:
        for priority, patterns in self._routes:
            if patterns.covers(path) if priority is Priority.BATCH else patterns.names(path):
                return priority
        return Priority.NORMAL


class ConcurrencyLimit:
    """Lets in as many requests as the service bears. Belongs to one event loop; exact.

    Args:
        app: the application around which this stands.
        limit: requests at a time, default 100; 1 or more. What they share (pools, workers) says how many make sense.
        least: how far an adaptive limit may fall; 1 or more, below `limit`. Default None: the limit is fixed.
        mode: `on` (default), `dark` (everybody gets in, and events tell who would not have) or `off` (nothing is counted).
        queue: requests that may wait for a place, default 20; 0 or more.
        max_wait: how long one waits at most, seconds or `timedelta`, default 0.1 s; its deadline shortens it.
        priority: how much a request matters; default None: all alike, and the shares do not count.
        shares: what each class is guaranteed, default `DEFAULT_SHARES`; see `gate.Gate`.
        tenant: whose request it is; default the tenant, or without one the client's network. None: all are one.
        tenant_share: what a tenant may have while others are about, default 0.5; more than 0 and at most 1.
        exempt: paths that are not counted, exactly as the application's routes see them. Default none.
        name: what events call it, default `requests`.
        clock: the one `RequestId` has.
        events: gets `CallShed` and `LimitChanged`; never a tenant or a path.

    Attributes:
        gate: who is in, for a look.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    place: ClassVar[Place] = Place.ADMISSION

    __slots__ = (
        "_aimd", "_clock", "_events", "_exempt", "_max_wait_s", "_mode", "_monotonic", "_name", "_priority", "_shed", "_shed_in",
        "_tenant", "_waiting", "app", "gate",
    )  # fmt: skip

    def __init__(
        self,
        app: App,
        *,
        limit: int = 100,
        least: int | None = None,
        mode: Mode = "on",
        queue: int = 20,
        max_wait: float | timedelta = 0.1,
        priority: PriorityOf | None = None,
        shares: Mapping[Priority, float] = DEFAULT_SHARES,
        tenant: SubjectOf | None = by_tenant,
        tenant_share: float = 0.5,
        exempt: Iterable[str] = (),
        name: str = "requests",
        clock: WaitingClock = SYSTEM_CLOCK,
        events: EventStream = EVENTS,
    ) -> None:
        self.gate = Gate(
            limit=limit, queue=queue, shares=None if priority is None else shares, tenant_share=tenant_share
        )
        if least is not None and not 1 <= least < limit:
            raise ConfigurationError(f"least must be 1 or more and below the limit ({limit}), not {least}")
        if mode not in {"off", "dark", "on"}:
            raise ConfigurationError(f"mode must be 'off', 'dark' or 'on', not {mode!r}")
        self.app = app
        self._aimd = Aimd(limit, limit if least is None else least)
        self._mode = mode
        self._max_wait_s = seconds(max_wait, name="max_wait")
        self._priority = priority
        self._tenant = tenant
        self._exempt = exact_paths(exempt, name="exempt")
        self._name = name
        self._clock = clock
        self._monotonic = clock.monotonic
        self._events = events
        self._waiting: dict[Ticket, asyncio.Event] = {}
        self._shed = 0  # requests that were refused in the last seconds, as long as one takes
        self._shed_in = 0.0  # the moment from which they are counted anew

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, now or after a short wait, or refuse it."""
        if scope["type"] != "http" or self._mode == "off" or (self._exempt and path_of(scope) in self._exempt):
            await self.app(scope, receive, send)
            return
        context, exchange, receive, send = exchange_of(scope, receive, send, self._clock)
        ticket = Ticket(
            Priority.NORMAL if self._priority is None else self._priority(scope, context),
            None if self._tenant is None else self._tenant(scope, context),
        )
        now = self._monotonic()
        if self.gate.enter(ticket, now):
            ticket.began_s, ticket.generation = now, self._aimd.generation
        elif self._mode == "dark":
            self.gate.force(ticket)
            ticket.began_s, ticket.generation = now, self._aimd.generation
            self._tell_shed(self._count_shed(now), dark=True)
        elif not await self._wait(ticket, now):
            retry_after_s = self._count_shed(self._monotonic())
            self._tell_shed(retry_after_s, dark=False)
            await send_problem(send, problem_for(LoadShed(retry_after_s=retry_after_s)), context)
            return
        exchange.on_complete(partial(self._answered, ticket))
        outcome: _Outcome = "ignored"
        try:
            await self.app(scope, receive, send)
            if exchange.status in _TOO_MUCH:
                outcome = "late" if exchange.status == 504 or _time_is_up() else "dropped"
        except BaseException as error:
            outcome = _outcome_of(error)
            raise
        finally:
            if ticket.is_in:  # else its answer has settled it
                if outcome == "late":
                    outcome = "ignored" if self._had_no_time(context) else "dropped"
                self._settle(ticket, outcome)

    def _answered(self, ticket: Ticket, status: int) -> None:
        """The answer is complete: there is room for the next, whatever the application goes on with."""
        if status < 500 and ticket.is_in:
            self._settle(ticket, "succeeded")

    def _had_no_time(self, context: RequestContext) -> bool:
        """Whether what was missing was time that the caller did not give: less than half of what the service itself gives."""
        maximum_s = context.maximum_s
        return maximum_s is not None and self._monotonic() - context.started_at < maximum_s / 2

    async def _wait(self, ticket: Ticket, now: float) -> bool:
        """Wait in the queue; whether it ended inside."""
        deadline = current_deadline()
        wait_s = self._max_wait_s if deadline is None else min(self._max_wait_s, deadline.remaining_s())
        if wait_s <= 0:
            return False
        queued, displaced = self.gate.join(ticket, now)
        if displaced is not None:
            self._waiting[displaced].set()
        if not queued:
            return False
        event = self._waiting[ticket] = asyncio.Event()
        try:
            await self._clock.wait_async(event, wait_s)
        except BaseException:
            if ticket.is_in:
                self._settle(ticket, "ignored")
            raise
        finally:
            del self._waiting[ticket]
            self.gate.withdraw(ticket)
        return ticket.is_in

    def _settle(self, ticket: Ticket, outcome: _Outcome) -> None:
        aimd, gate = self._aimd, self.gate
        now = self._monotonic()
        before = aimd.limit
        if ticket.generation == aimd.generation:
            if outcome == "succeeded":
                aimd.succeeded(now - ticket.began_s, gate.in_flight)
            elif outcome == "dropped":
                aimd.dropped()
        changed = aimd.limit != before
        if changed:
            gate.resize(aimd.limit)
        for woken in gate.leave(ticket, now):
            woken.began_s, woken.generation = now, aimd.generation
            self._waiting[woken].set()
        if changed and self._events.subscriptions:
            from ..events import LimitChanged

            self._events.emit(LimitChanged(self._name, before, aimd.limit))

    def _count_shed(self, now: float) -> float:
        """Count a request that was refused; the seconds after which there could have been room for it.

        In the time of one request, as many are served as the limit says. Who is refused as the n-th in that time comes after n
        others. `send_problem` spreads them.
        """
        latency_s = self._aimd.latency_s
        if now >= self._shed_in:
            self._shed = 0
            self._shed_in = now + latency_s
        self._shed += 1
        turn_s = latency_s * (1 + self._shed / self.gate.limit)
        return come_again_s(turn_s, least_s=_RETRY_AFTER_LEAST_S)

    def _tell_shed(self, retry_after_s: float, *, dark: bool) -> None:
        if self._events.subscriptions:
            from ..events import CallShed

            self._events.emit(CallShed(self._name, self.gate.limit, retry_after_s, dark=dark))


def _outcome_of(error: BaseException) -> _Outcome:
    if isinstance(error, TimeoutError):
        return "late"
    if isinstance(error, Exception):
        return "dropped" if isinstance(error, (Overloaded, LoadShed, BulkheadFull)) else "ignored"
    # What cancels a task is the deadline's timer, and who is cancelled does not see its error.
    return "late" if _time_is_up() else "ignored"


def _time_is_up() -> bool:
    deadline = current_deadline()
    return deadline is not None and deadline.has_passed()
