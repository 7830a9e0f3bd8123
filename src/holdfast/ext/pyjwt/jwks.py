"""The keys that an issuer publishes, kept at hand: fetched once for all, renewed before they are needed, never on demand.

    keys = JwksKeys("https://issuer.example/.well-known/jwks.json", algorithms=("RS256",))
    await keys.refresh()                            # at startup, to see early that it works; else at the first token
    await keys.aclose()

| the keys are | a known `kid` | an unknown `kid` |
|---|---|---|
| fresh (`fresh_for`) | used | fetched, at most once in `refresh_at_most_every`; else refused |
| stale (`stale_for` more) | used, and fetched behind the caller's back | the same |
| too old, or there are none | fetched, and the caller waits | fetched, and the caller waits |

A new key works with the first token that names it, and one that is taken out ends with the next fetch; nobody restarts. Whoever
sends tokens with made-up names causes one fetch in `refresh_at_most_every`, and callers with known keys do not wait for it. One
fetch is under way at a time, for all callers; a caller who leaves does not end it. Its time, its size and the number of keys are
bounded, redirects are not followed, and an answer that holds no usable key changes nothing.

While the issuer does not answer, a caller with an unknown key hears `Unavailable` and not that its token is bad.

Sources: RFC 7517 (JWK); the times are those of Nimbus' JWKSourceBuilder (5 minutes, 30 seconds), but for the stale time, which is
a judgement: an outage of the issuer must not become one of ours, and a key that was withdrawn must not live for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from contextlib import suppress
from contextvars import Context
from enum import Enum
from ipaddress import ip_address
from typing import TYPE_CHECKING

import httpx2

from ...clock import SYSTEM_CLOCK, Clock
from ...deadline import seconds
from ...errors import ConfigurationError, Unavailable
from .keys import VerificationKey, algorithms_checked, key_from_jwk

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["JwksKeys", "Need", "need_for"]

_log = logging.getLogger("holdfast")

_KID_MAX = 255
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}


class Need(Enum):
    """What a lookup needs."""

    NOTHING = "nothing"
    """What is known decides."""
    BEHIND = "behind"
    """A fetch, for which nobody waits."""
    NOW = "now"
    """A fetch, for which the caller waits."""


def need_for(
    *, known: bool, age_s: float | None, tried_ago_s: float | None, fresh_s: float, stale_s: float, every_s: float
) -> Need:
    """What a lookup needs; pure. Times in seconds.

    Args:
        known: whether the key is there.
        age_s: since the keys were fetched; None: never.
        tried_ago_s: since the last fetch began, whatever came of it; None: never.
        fresh_s: how long keys are fresh.
        stale_s: how much longer they may be used.
        every_s: the least time between two fetches.
    """
    if tried_ago_s is not None and tried_ago_s < every_s:
        return Need.NOTHING
    if age_s is None or age_s >= fresh_s + stale_s or not known:
        return Need.NOW
    return Need.BEHIND if age_s >= fresh_s else Need.NOTHING


class JwksKeys:
    """The published keys of one issuer. Belongs to one event loop; all its tasks share it. No proxy of the environment is asked.

    Args:
        url: where the issuer publishes them; `https`, or `http` on loopback, without a user or password.
        algorithms: those that the issuer signs with; symmetric ones are refused.
        fresh_for: how long fetched keys are used without a question, seconds or `timedelta`, default 300; 1 or more.
        stale_for: how much longer they are used while they are being renewed, default 4 hours; at most 24.
        refresh_at_most_every: the least time between two fetches, default 30; 1 to `fresh_for`. While there are no keys at all,
            the least time is a second.
        timeout: for a whole fetch, default 5; more than 0, at most 60.
        size_max: bytes of the answer, default 262,144.
        keys_max: keys that are looked at, default 100.
        verify: how the issuer's certificate is checked; default against the usual authorities.
        clock: where ages are read.

    Raises:
        ConfigurationError: the URL or a setting is outside its bounds.
    """

    __slots__ = (
        "_algorithms",
        "_client",
        "_clock",
        "_every_s",
        "_failed",
        "_fetched_at",
        "_flight",
        "_fresh_s",
        "_keys",
        "_keys_max",
        "_size_max",
        "_stale_s",
        "_timeout_s",
        "_tried_at",
        "_url",
        "_verify",
    )

    def __init__(
        self,
        url: str,
        *,
        algorithms: tuple[str, ...],
        fresh_for: float | timedelta = 300.0,
        stale_for: float | timedelta = 4 * 3600.0,
        refresh_at_most_every: float | timedelta = 30.0,
        timeout: float | timedelta = 5.0,
        size_max: int = 262_144,
        keys_max: int = 100,
        verify: ssl.SSLContext | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._url = _url_checked(url)
        self._algorithms = algorithms_checked(algorithms)
        self._fresh_s = seconds(fresh_for, name="fresh_for")
        self._stale_s = seconds(stale_for, name="stale_for")
        self._every_s = seconds(refresh_at_most_every, name="refresh_at_most_every")
        self._timeout_s = seconds(timeout, name="timeout")
        if not 1 <= self._every_s <= self._fresh_s or self._stale_s > 86_400 or not 0 < self._timeout_s <= 60:
            raise ConfigurationError(
                "refresh_at_most_every must be 1 s to fresh_for, stale_for at most a day, timeout more than 0 and at most 60 s"
            )
        if size_max < 1 or keys_max < 1:
            raise ConfigurationError("size_max and keys_max must be 1 or more")
        self._size_max = size_max
        self._keys_max = keys_max
        self._verify = verify
        self._clock = clock
        self._keys: dict[str, VerificationKey] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._failed = False
        self._flight: asyncio.Task[None] | None = None
        self._client: httpx2.AsyncClient | None = None

    async def key(self, kid: str | None) -> VerificationKey | None:
        """The key called `kid`, or None: there is none, or it has no name.

        Raises:
            Unavailable: it cannot be told, since the keys cannot be fetched.
        """
        if kid is None or len(kid) > _KID_MAX:
            return None
        key = self._keys.get(kid)
        now = self._clock.monotonic()
        age_s = None if self._fetched_at is None else now - self._fetched_at
        usable = age_s is not None and age_s < self._fresh_s + self._stale_s
        need = need_for(
            known=key is not None,
            age_s=age_s,
            tried_ago_s=None if self._tried_at is None else now - self._tried_at,
            fresh_s=self._fresh_s,
            stale_s=self._stale_s,
            # Without usable keys nobody gets in, so the next caller tries again soon.
            every_s=self._every_s if usable else 1.0,
        )
        if need is Need.BEHIND:
            self._fly()
        elif need is Need.NOW or (self._flight is not None and (key is None or not usable)):
            await self._join()
            key = self._keys.get(kid)
            usable = self._fetched_at is not None and (
                self._clock.monotonic() - self._fetched_at < self._fresh_s + self._stale_s
            )
        if not usable or (key is None and self._failed):
            raise Unavailable("the issuer's keys cannot be read", retry_after_s=min(self._every_s, 5.0))
        return key

    async def refresh(self) -> None:
        """Fetch now, or wait for the fetch that is under way.

        Raises:
            Unavailable: it failed; what was known stays known.
        """
        await self._join()
        if self._failed:
            raise Unavailable("the issuer's keys cannot be read", retry_after_s=min(self._every_s, 5.0))

    async def aclose(self) -> None:
        """End a fetch that is under way, and close the connections. Later lookups open new ones."""
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.cancel()
            await asyncio.wait({flight})
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _fly(self) -> asyncio.Task[None]:
        if self._flight is None:
            self._tried_at = self._clock.monotonic()
            # In a context of its own: it serves everybody, so it belongs to no request, and to no request's deadline.
            self._flight = asyncio.get_running_loop().create_task(self._fetch(), context=Context())
        return self._flight

    async def _join(self) -> None:
        # Waited for and not awaited: a caller that is cancelled does not cancel what others wait for.
        await asyncio.wait({self._fly()})

    async def _fetch(self) -> None:
        failed = True
        try:
            async with asyncio.timeout(self._timeout_s):
                document = await self._read()
            keys = self._usable(document)
            if keys:
                self._keys = keys
                self._fetched_at = self._clock.monotonic()
                failed = False
            else:
                _log.warning("the keys of %s: none can be used with %s", self._url.host, ", ".join(self._algorithms))
        except Exception as error:
            # What others publish may be anything. The class alone: texts may repeat what was received.
            _log.warning("the keys of %s cannot be fetched: %s", self._url.host, type(error).__name__)
        finally:
            self._failed = failed
            if self._flight is asyncio.current_task():
                self._flight = None

    async def _read(self) -> object:
        if self._client is None:
            # A transport of our own: the proxies of the environment would see, and could change, what was meant for loopback.
            # SSL_CERT_FILE and SSL_CERT_DIR, which name whom to trust, hold as ever.
            transport = httpx2.AsyncHTTPTransport(
                verify=True if self._verify is None else self._verify, limits=httpx2.Limits(max_connections=1)
            )
            self._client = httpx2.AsyncClient(
                timeout=self._timeout_s, follow_redirects=False, trust_env=False, transport=transport
            )
        async with self._client.stream("GET", self._url, headers=_HEADERS) as response:
            if response.status_code != 200 or response.headers.get("content-encoding", "identity") != "identity":
                raise ValueError("not what was asked for")
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > self._size_max:
                    raise ValueError("too large")
        return json.loads(bytes(body))

    def _usable(self, document: object) -> dict[str, VerificationKey]:
        published = document.get("keys") if isinstance(document, dict) else None
        found: dict[str, VerificationKey] = {}
        twice: set[str] = set()
        for jwk in published[: self._keys_max] if isinstance(published, list) else ():
            kid = jwk.get("kid") if isinstance(jwk, dict) else None
            if not isinstance(kid, str) or not 0 < len(kid) <= _KID_MAX:
                continue
            key = key_from_jwk(jwk, self._algorithms)
            if key is not None:
                if kid in found:
                    twice.add(kid)
                found[kid] = key
        for kid in twice:  # which of them is meant, nobody can tell
            with suppress(KeyError):
                del found[kid]
        return found

    def __repr__(self) -> str:
        return f"<JwksKeys of {self._url.host}: {len(self._keys)}>"


def _url_checked(text: str) -> httpx2.URL:
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, TypeError):
        raise ConfigurationError("the URL of the keys cannot be read") from None
    if url.userinfo:
        raise ConfigurationError("the URL of the keys must hold no user or password: published keys need none")
    if not url.host or not (url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))):
        raise ConfigurationError(
            "the URL of the keys must be https: who can change them on the way can sign for anybody (http only on loopback)"
        )
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
