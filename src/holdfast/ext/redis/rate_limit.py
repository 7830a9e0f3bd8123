"""Quotas that all processes of a service count together, in Redis, and that hold without it.

    store = RedisQuotas(redis, replicas=3)
    app = RateLimit(app, quotas=[...], store=store)

One key a subject: its theoretical arrival time in microseconds, written by a script that Redis runs as one step and by Redis' own
clock. So the bound of `holdfast.asgi.quotas` holds over all processes at once, and no process' clock matters. A key expires when
the subject has its whole burst again. Its name holds a hash: who the subjects are, Redis does not learn.

When Redis fails, or does not answer within 50 ms, this process decides by itself, with its share of the quota: a `replicas`-th.
That is neither open (a limit that vanishes with Redis is an attacker's first aim) nor shut. Each time is told by
`LocalShareApplied` and counted in `shares_applied`; and a circuit breaker of its own (half of at least five calls) sees to it
that requests stop waiting for a Redis that is away, and finds out, with one call at a time, when it is back. What Redis forgot
meanwhile is lost: a subject may then have its burst once more.

Give it a client of its own that does not retry: `Redis.from_url(url, retry=Retry(NoBackoff(), 0))`. One that does only turns a
failure at once into a timeout. A pool that is used up counts as a failure.
"""

from __future__ import annotations

import asyncio
import logging
from hashlib import blake2b
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from ...asgi.quotas import Decision, LocalQuotas, Quota
from ...breaker import BreakerState, CircuitBreaker
from ...clock import SYSTEM_CLOCK, Clock
from ...deadline import seconds
from ...errors import BreakerOpen, ConfigurationError
from ...stream import EVENTS, EventStream
from ...traces import trace_of

if TYPE_CHECKING:
    from datetime import timedelta

    from redis.asyncio import Redis

__all__ = ["RedisQuotas"]

_log = logging.getLogger("holdfast")

# GCRA, as in holdfast.ratelimit.decide. Microseconds since 1970 fit into the 53 bits of Lua's numbers until 2255.
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrival = tonumber(redis.call('GET', KEYS[1]) or 0)
if arrival < now then
  arrival = now
elseif arrival > now + tolerance + interval then
  -- Nobody can be that far ahead: the clock went back, or the quota was made smaller.
  arrival = now + tolerance + interval
end
local wait = arrival - tolerance - now
if wait > 0 then
  return {wait, arrival - now}
end
arrival = arrival + interval
redis.call('SET', KEYS[1], string.format('%.0f', arrival), 'PX', math.ceil((arrival - now) / 1000))
return {0, arrival - now}
"""


class RedisQuotas:
    """Counts in Redis; a `holdfast.asgi.quotas.QuotaStore`. Belongs to one event loop, as its client does.

    Args:
        client: of `redis.asyncio`; for a cluster as well, since each call touches one key. It is not closed here.
        replicas: how many processes share the quotas, for the share of each when Redis is away; 1 or more.
        timeout: how long a request waits for Redis at most, seconds or `timedelta`, default 0.05 s; more than 0.
        prefix: what the names of the keys begin with, default `holdfast:quota`.
        subjects_max: subjects remembered for each quota while Redis is away, default 20,000.
        name: what events and the breaker call it, default `redis-quotas`.
        clock, events: where time and listeners come from.

    Attributes:
        shares_applied: how often this process decided by its share, for a metric.

    Raises:
        ConfigurationError: a setting is outside its bounds.
    """

    __slots__ = (
        "_breaker",
        "_events",
        "_is_away",
        "_local",
        "_name",
        "_prefix",
        "_replicas",
        "_script",
        "_shares",
        "_timeout_s",
        "shares_applied",
    )

    def __init__(
        self,
        client: Redis,
        *,
        replicas: int,
        timeout: float | timedelta = 0.05,
        prefix: str = "holdfast:quota",
        subjects_max: int = 20_000,
        name: str = "redis-quotas",
        clock: Clock = SYSTEM_CLOCK,
        events: EventStream = EVENTS,
    ) -> None:
        if replicas < 1:
            raise ConfigurationError(f"replicas must be 1 or more, not {replicas}")
        self._timeout_s = seconds(timeout, name="timeout")
        if self._timeout_s == 0:
            raise ConfigurationError("timeout must be more than 0 s")
        self._script = client.register_script(_SCRIPT)
        self._replicas = replicas
        self._prefix = prefix
        self._name = name
        self._events = events
        self._local = LocalQuotas(subjects_max=subjects_max, clock=clock)
        self._shares: dict[str, Quota] = {}
        # Ten times the timeout: calls that fail by it, one after the other, must fit into the window to open the circuit.
        window_s = max(5.0, 10 * self._timeout_s)
        self._breaker = CircuitBreaker(
            name,
            window=window_s,
            calls_min=5,
            open_for=0.5,
            open_for_max=5,
            probes=1,
            probe_lease=window_s,
            clock=clock,
            events=events,
        )
        self._is_away = False
        self.shares_applied = 0

    @property
    def is_shared(self) -> bool:
        """Whether Redis is asked at all now; False while the breaker keeps away from it."""
        return self._breaker.state is BreakerState.CLOSED

    async def take(self, quota: Quota, subject: str, /) -> Decision:
        """Count one request of `subject`; never raises what Redis raises."""
        try:
            permit = self._breaker.acquire()
        except BreakerOpen:
            if not self._is_away:
                self._is_away = True
                _log.warning("%s: Redis does not answer; this process applies its share of the rate limits", self._name)
            return self._by_share(quota, subject, "breaker-open")
        key = f"{self._prefix}:{quota.name}:{blake2b(subject.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"
        try:
            async with asyncio.timeout(self._timeout_s):
                wait_us, ahead_us = await self._script(
                    keys=[key], args=[quota.interval_ns // 1000, quota.tolerance_ns // 1000]
                )
        except TimeoutError:
            permit.failed()
            return self._by_share(quota, subject, "timeout")
        except (RedisError, OSError) as error:
            permit.failed()
            _log.debug("%s: Redis failed\n%s", self._name, trace_of(error))
            return self._by_share(quota, subject, "failed")
        except BaseException:
            permit.ignored()
            raise
        permit.succeeded()
        if self._is_away:
            self._is_away = False
            _log.info("%s: Redis answers again; the rate limits are shared", self._name)
        return quota.decision(wait_us * 1000, ahead_us * 1000)

    def _by_share(self, quota: Quota, subject: str, reason: str) -> Decision:
        self.shares_applied += 1
        if self._events.subscriptions:
            from ...events import LocalShareApplied

            self._events.emit(LocalShareApplied(self._name, reason))
        share = self._shares.get(quota.name)
        if share is None:
            share = self._shares[quota.name] = quota.share(self._replicas)
        return self._local.take_now(share, subject)
