"""Whether Redis answers, for the registry of `holdfast.health`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...health import HealthCheck

if TYPE_CHECKING:
    from datetime import timedelta

    from redis.asyncio import Redis

__all__ = ["redis_health"]


def redis_health(
    client: Redis, *, name: str = "redis", critical: bool = False, timeout: float | timedelta = 0.5
) -> HealthCheck:
    """A check that sends PING.

    Args:
        client: what the service uses itself, so that its pool and login are checked as well.
        name: the check's name in the report.
        critical: whether the process gets no traffic without Redis. Default False: rate limits go on by themselves.
        timeout: seconds (or `timedelta`) until it counts as failed; default 0.5 s.

    Raises:
        ConfigurationError: the name or the timeout is outside the bounds of `HealthCheck`.
    """

    async def ping() -> None:
        await client.ping()

    return HealthCheck(name, ping, critical=critical, timeout=timeout)
