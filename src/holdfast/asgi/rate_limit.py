"""The rate limit of the edge: who comes too often is told when to come again, before anything is done for it.

    app = RateLimit(app, quotas=[
        Quota("login", rate=5, per=60, burst=5, subject=by_route("/login", each=by_client)),
        Quota("tenant", rate=100, burst=200, subject=by_tenant),
    ])
    app = RateLimit(app, quotas=[...], store=RedisQuotas(redis, replicas=3))      # one count for all processes

Every answer says where its caller stands, in the fields `RateLimit-Policy` and `RateLimit` of the IETF's draft
(draft-ietf-httpapi-ratelimit-headers-10): the quota `q` that comes back within `w` seconds, and the `r` requests that are left of
it, for `t` seconds until it is whole again. Both fields are lists, so what a layer further in says of quotas of its own stays
beside it. A refusal is 429 with `Retry-After`, which is exact. The body was not read by then.

Quotas are asked in the order given, and the first refusal ends it: what those before it counted stays counted. So the narrow one
(the client) belongs before the wide one (the tenant), and one client's flood costs its tenant nothing.

Websockets are passed on. Health endpoints answer further out, in `HealthEndpoints`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ConfigurationError
from ..stream import EVENTS, EventStream
from .exchange import exchange_of
from .interface import App, Headers, Receive, Scope, Send
from .problems import Problem, send_problem
from .quotas import Decision, LocalQuotas, Quota, QuotaStore
from .route_patterns import exact_paths, path_of
from .stack import Place

__all__ = ["RateLimit"]

_NS = 1_000_000_000
_REFUSAL = (
    "Too many requests. Nothing was applied. Repeat the request later, with the same Idempotency-Key if it had one."
)


class RateLimit:
    """Counts requests against quotas. Belongs to one event loop.

    Args:
        app: the application around which this stands.
        quotas: what is counted, for whom; one or more, with different names.
        store: where it is counted; default this process alone (`LocalQuotas`).
        exempt: paths that are not counted, exactly as the application's routes see them. Default none.
        clock: the one `RequestId` has.
        events: gets `CallRejected`, with the quota's name and never a subject.

    Raises:
        ConfigurationError: there is no quota, two have one name, or a path of `exempt` is none.
    """

    place: ClassVar[Place] = Place.ADMISSION

    __slots__ = ("_clock", "_events", "_exempt", "_quotas", "_store", "app")

    def __init__(
        self,
        app: App,
        *,
        quotas: Iterable[Quota],
        store: QuotaStore | None = None,
        exempt: Iterable[str] = (),
        clock: Clock = SYSTEM_CLOCK,
        events: EventStream = EVENTS,
    ) -> None:
        self.app = app
        self._quotas = tuple(
            (quota, quota.subject, _policy(quota), b'"%b";r=' % quota.name.encode()) for quota in quotas
        )
        if not self._quotas or len({quota.name for quota, *_ in self._quotas}) < len(self._quotas):
            raise ConfigurationError("RateLimit needs at least one quota, and each needs a name of its own")
        self._store = LocalQuotas(clock=clock) if store is None else store
        self._exempt = exact_paths(exempt, name="exempt")
        self._clock = clock
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request, and pass it on or refuse it."""
        if scope["type"] != "http" or (self._exempt and path_of(scope) in self._exempt):
            await self.app(scope, receive, send)
            return
        context, exchange, receive, send = exchange_of(scope, receive, send, self._clock)
        policies: list[bytes] = []
        states: list[bytes] = []
        for quota, subject_of, policy, state in self._quotas:
            subject = subject_of(scope, context)
            if subject is None:
                continue
            decision = await self._store.take(quota, subject)
            policies.append(policy)
            states.append(b"%b%d;t=%d" % (state, decision.remaining, math.ceil(decision.full_after_s)))
            if not decision.allowed:
                await send_problem(send, self._refusal(quota, decision, policies, states), context)
                return
        if states:
            standing = _standing(policies, states)
            exchange.on_head(self, lambda headers: headers.extend(standing))
        await self.app(scope, receive, send)

    def _refusal(self, quota: Quota, decision: Decision, policies: list[bytes], states: list[bytes]) -> Problem:
        if self._events.subscriptions:
            from ..events import CallRejected

            self._events.emit(CallRejected(quota.name, "ratelimit", decision.retry_after_s))
        return Problem(
            429,
            "rate-limited",
            detail=_REFUSAL,
            retry_after_s=decision.retry_after_s,
            # The member's name is the draft's, for its problem type of the same meaning.
            extensions={"outcome": "not_committed", "violated-policies": [quota.name]},
            headers=tuple(_standing(policies, states)),
        )


def _policy(quota: Quota) -> bytes:
    whole_after_s = math.ceil(quota.burst * quota.interval_ns / _NS)
    return b'"%b";q=%d;w=%d' % (quota.name.encode(), quota.burst, whole_after_s)


def _standing(policies: list[bytes], states: list[bytes]) -> Headers:
    """The two fields that say where the caller stands."""
    return [(b"ratelimit-policy", b", ".join(policies)), (b"ratelimit", b", ".join(states))]
