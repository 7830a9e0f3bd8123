"""One logical request, and what is sent of it at each attempt.

What is added (key, trace, remaining time) stands on the attempt alone: the caller's request keeps its headers, so a redirect,
which httpx2 makes from them, takes nothing along that was not meant for it. What the caller put in stays his own, but for the
`Idempotency-Key`: that names an effect at one service, and is taken off before a redirect leads to another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2

from ...asgi.context import current_request
from ...deadline import Deadline
from .bodies import Watched
from .rules import CallRules

__all__ = ["IDEMPOTENT_EXTENSION", "SAFE", "Outgoing", "host_of"]

IDEMPOTENT_EXTENSION = "holdfast_idempotent"
"""`extensions={"holdfast_idempotent": True}` on a request: its author says that sending it twice is sending it once; False: that
it is not, whatever the method says."""

_JOURNEY_EXTENSION = "holdfast_journey"
_KEY = "Idempotency-Key"

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "QUERY"})
_IDEMPOTENT = SAFE | {"PUT", "DELETE"}
_KNOWN = _IDEMPOTENT | {"POST", "PATCH", "CONNECT"}


class _Journey:
    """Where a logical request began and with which key; travels in the extensions, which a redirect copies."""

    __slots__ = ("began_at", "key")

    def __init__(self, began_at: httpx2.URL) -> None:
        self.began_at = began_at
        self.key: str | None = None

    def is_elsewhere(self, url: httpx2.URL) -> bool:
        if url.host != self.began_at.host:
            return True
        before, now = _port_of(self.began_at), _port_of(url)
        # The same host telling that it wants to be called by https is the same service.
        return before != now and (self.began_at.scheme, before, url.scheme, now) != ("http", 80, "https", 443)


class Outgoing:
    """One logical request. Belongs to the call that sends it.

    Args:
        request: the caller's, which is not changed, but for an extension that redirects take along.
        rules: what is sent along.
        new_key: makes what stands in an `Idempotency-Key`: printable ASCII, no quote and no backslash.

    Attributes:
        name: the method and the host, for events and reports; nothing else of the address.
        host: `host` or `host:port`.
        safe: it only reads.
        keyed: it carries an `Idempotency-Key`.
        idempotent: sending it twice equals sending it once: by its method, by a key, or by the author's word.
    """

    __slots__ = (
        "_body",
        "_extensions",
        "_headers",
        "_request",
        "_rules",
        "host",
        "idempotent",
        "keyed",
        "name",
        "safe",
    )

    def __init__(self, request: httpx2.Request, rules: CallRules, new_key: Callable[[], str]) -> None:
        self._request = request
        self._rules = rules
        self.host = host_of(request.url)
        self.name = f"{request.method if request.method in _KNOWN else 'OTHER'} {self.host}"
        self.safe = request.method in SAFE
        journey = request.extensions.setdefault(_JOURNEY_EXTENSION, _Journey(request.url))
        elsewhere = journey.is_elsewhere(request.url)
        self._headers = request.headers.copy()
        if elsewhere or not self._headers.get(_KEY, "").strip(' \t"'):  # an empty one names nothing, so it is none
            self._headers.pop(_KEY, None)
        if not elsewhere and request.method in rules.keyed and _KEY not in self._headers:
            journey.key = journey.key or new_key()
            self._headers[_KEY] = f'"{journey.key}"'  # a structured-field string, as the IETF's draft wants it
        if rules.send_context and not elsewhere:
            self._add_context()
        self.keyed = _KEY in self._headers
        word = request.extensions.get(IDEMPOTENT_EXTENSION)
        self.idempotent = self.keyed or request.method in _IDEMPOTENT if word is None else bool(word)
        # httpx2 buffers bytes, text, forms and JSON, and streams the rest; `request.read()` buffers that, too.
        stream = request.stream
        self._body = stream if isinstance(stream, httpx2.ByteStream) else Watched(stream)
        self._extensions = {
            name: value
            for name, value in request.extensions.items()
            if name not in (IDEMPOTENT_EXTENSION, _JOURNEY_EXTENSION)
        }

    def _add_context(self) -> None:
        context = current_request()
        if context is None:
            return
        if context.traceparent is not None and "traceparent" not in self._headers:
            self._headers["traceparent"] = context.traceparent
            if context.tracestate is not None:
                self._headers["tracestate"] = context.tracestate
        if context.request_id and "x-request-id" not in self._headers:
            self._headers["x-request-id"] = context.request_id

    def own_timeout_s(self, kind: str) -> float | None:
        """How long the client itself lets a step of an attempt take (`connect`, `read`, `write`, `pool`); None: for ever."""
        own: float | None = self._extensions.get("timeout", {}).get(kind)
        return own

    @property
    def used_up(self) -> bool:
        """The body is a stream that was begun: there is nothing left to send again."""
        return isinstance(self._body, Watched) and self._body.begun

    @property
    def is_replayable(self) -> bool:
        """The body is in memory and can be sent any number of times."""
        return not isinstance(self._body, Watched)

    def attempt(self, deadline: Deadline | None, margin_s: float) -> httpx2.Request:
        """What to send now: with the remaining time in a header, and no timeout that is longer."""
        headers, extensions = self._headers, dict(self._extensions)
        timeouts: dict[str, Any] = dict(extensions.get("timeout", {}))
        if deadline is not None:
            left_s = deadline.remaining_s()
            for kind in ("connect", "read", "write", "pool"):
                known_s = timeouts.get(kind)
                timeouts[kind] = left_s if known_s is None else min(known_s, left_s)
            if self._rules.timeout_header is not None:
                headers = headers.copy()
                headers[self._rules.timeout_header] = str(max(1, int((left_s - margin_s) * 1000)))
        extensions["timeout"] = timeouts
        return httpx2.Request(
            self._request.method, self._request.url, headers=headers, stream=self._body, extensions=extensions
        )


def host_of(url: httpx2.URL) -> str:
    """`host` or, if the port is not the scheme's own, `host:port`; no user, password, path or query."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return host if url.port is None else f"{host}:{url.port}"


def _port_of(url: httpx2.URL) -> int | None:
    return url.port if url.port is not None else {"http": 80, "https": 443}.get(url.scheme)
