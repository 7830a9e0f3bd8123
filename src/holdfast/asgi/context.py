"""What the edge knows of a request: one object, filled by the layers on the way in, read by everyone inside.

    context = current_request()         # anywhere inside the request: a log filter, a call to another service
    context = context_of(scope)         # in a middleware

It lives in `scope["state"]["holdfast"]`, where frameworks show it (`request.state.holdfast`), and in a context variable, which
follows the tasks a request starts. Whoever asks first makes it. The server's `state` is copied before anything is put in it: a
server that hands the same dictionary to every request, against the specification, cannot carry one caller's tenant to another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..clock import SYSTEM_CLOCK, Clock
from ..effects import CURRENT as CURRENT_EFFECTS
from ..effects import Effects
from .headers import Fields
from .interface import Scope

if TYPE_CHECKING:
    from contextvars import ContextVar

    from ..deadline import Deadline
    from .exchange import Exchange

__all__ = ["CURRENT", "STATE_KEY", "RequestContext", "context_of", "current_request", "fields_of", "new_context"]

STATE_KEY = "holdfast"
"""The name of the context in `scope["state"]`."""


class RequestContext(Effects):
    """What is known of one request. Belongs to the task that handles it; others may read.

    Attributes:
        started_at: when the edge saw it, in the seconds of the clock's `monotonic()`.
        request_id: its name in logs and documents; empty until the request-id layer ran.
        traceparent, tracestate: the W3C trace context to send on, or None.
        trace_id: the 32 hexadecimal digits of the trace, or None.
        client_address: the client's IP address, proxies seen through; None until the client-address layer ran: then the
            socket's peer in `scope["client"]` is all that is known.
        principal: who asks, as authentication proved it; None: nobody proved anything.
        tenant: for whom; None: not known, which is never "all".
        permissions: what the principal may do.
        claims: what the proof said besides, for the application; never logged.
        deadline: when an answer is worth nothing any more; None: never.
        maximum_s: what the service itself gives the request, in seconds, where its caller gave it less; else None.
        route: the route's template (`/users/{id}`), if a layer knows better than `scope["route"]`; never a concrete path.
        draining: the service is about to stop: long-lived answers should end soon.
        attempts: how often the application was called for this request.
        replayed: the answer is a stored one.
        keyed: it has an Idempotency-Key that counts: the same again settles what became of it.
        applied: something that stands was done for it by then (`holdfast.effects`): no error may say that nothing was.
        problem: the code of the problem document that answered, or None; for the access log.
        outcome: what became of the work (`holdfast.outcome.Outcome` values) where an error told; for the access log.
        fields: the request's headers, once somebody read them (`fields_of`).
        exchange: what passed between the service and the server, once a layer watches it (`exchange.exchange_of`).
        notes: what further layers have to tell each other; keys are module names.
    """

    __slots__ = (
        "attempts",
        "claims",
        "client_address",
        "deadline",
        "draining",
        "exchange",
        "fields",
        "keyed",
        "maximum_s",
        "notes",
        "outcome",
        "permissions",
        "principal",
        "problem",
        "replayed",
        "request_id",
        "route",
        "started_at",
        "tenant",
        "trace_id",
        "traceparent",
        "tracestate",
    )

    def __init__(self, started_at: float) -> None:
        self.applied = False
        self.started_at = started_at
        self.request_id = ""
        self.traceparent: str | None = None
        self.tracestate: str | None = None
        self.trace_id: str | None = None
        self.client_address: str | None = None
        self.principal: str | None = None
        self.tenant: str | None = None
        self.permissions: frozenset[str] = frozenset()
        self.claims: object = None
        self.deadline: Deadline | None = None
        self.maximum_s: float | None = None
        self.route: str | None = None
        self.draining = False
        self.attempts = 0
        self.replayed = False
        self.keyed = False
        self.problem: str | None = None
        self.outcome: str | None = None
        self.fields: Fields | None = None
        self.exchange: Exchange | None = None
        self.notes: dict[str, object] | None = None

    def __repr__(self) -> str:
        # Who asks and for whom stays out: a representation ends in logs.
        return f"<RequestContext {self.request_id or 'without an id'}>"


CURRENT = cast("ContextVar[RequestContext | None]", CURRENT_EFFECTS)
"""Where the context of the current request lives. The layer that sets it resets it. Whoever commits notes it there."""

current_request = CURRENT.get
"""The context of the request this code runs for, or None."""


def context_of(scope: Scope, clock: Clock = SYSTEM_CLOCK) -> RequestContext:
    """The context of the request that `scope` describes; made, and made the current one, if it is the first to ask.

    Args:
        scope: the scope of a `http` or `websocket` connection; gets a `state` of its own if a context must be made.
        clock: where `started_at` comes from.
    """
    # Every layer asks, and all but the first find it: the two lookups that succeed are all it may cost them.
    try:
        known: RequestContext = scope["state"][STATE_KEY]
    except (KeyError, TypeError):  # no state, or None
        return new_context(scope, clock)
    return known


def new_context(scope: Scope, clock: Clock) -> RequestContext:
    """A context for a request that has none yet."""
    context = RequestContext(clock.monotonic())
    state = scope.get("state")
    scope["state"] = {**state, STATE_KEY: context} if state else {STATE_KEY: context}
    CURRENT.set(context)
    return context


def fields_of(scope: Scope, context: RequestContext) -> Fields:
    """The headers of a request, read by the first who asks, and anew where a layer in between put another list in their place."""
    pairs = scope["headers"]
    fields = context.fields
    if fields is None or fields.pairs is not pairs:
        fields = context.fields = Fields(pairs)
    return fields
