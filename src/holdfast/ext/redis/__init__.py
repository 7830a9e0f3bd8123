"""Holdfast over Redis: rate limits that all processes of a service count together, Idempotency-Keys, and a health check.

from redis.asyncio import Redis
from holdfast.ext.redis import RedisQuotas, redis_health

redis = Redis.from_url("redis://cache1/0", retry=Retry(NoBackoff(), 0))
app = RateLimit(app, quotas=[...], store=RedisQuotas(redis, replicas=3))
health.add(redis_health(redis))
"""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import MissingExtra

if find_spec("redis") is None:
    raise MissingExtra("holdfast.ext.redis needs redis: pip install 'holdfast[redis]'")

from .health import redis_health
from .idempotency import RedisIdempotency
from .rate_limit import RedisQuotas

__all__ = ["RedisIdempotency", "RedisQuotas", "redis_health"]
