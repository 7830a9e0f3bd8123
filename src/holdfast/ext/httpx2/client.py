"""Clients with the transport in place, limits that fit a service, and logs without queries."""

from __future__ import annotations

import logging
from ssl import SSLContext
from typing import TYPE_CHECKING

import httpx2

from .async_transport import AsyncRetryTransport
from .rules import CallRules
from .transport import RetryTransport

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LIMITS", "TIMEOUT", "HideQueries", "async_client", "client"]

TIMEOUT = httpx2.Timeout(connect=2.0, read=10.0, write=10.0, pool=2.0)
"""Seconds for each step of an attempt, where the caller's deadline does not end it sooner."""

LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4.0)
"""Idle connections are dropped after 4 s: many servers (uvicorn, Node.js) do it after 5, and a request that meets such an end on
its way is lost with an ambiguous answer."""


class HideQueries(logging.Filter):
    """Takes user, password and query off the addresses that httpx2 logs at level INFO. Never drops a record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace every address among the record's arguments."""
        if isinstance(record.args, tuple):
            record.args = tuple(_shown(arg) if isinstance(arg, httpx2.URL) else arg for arg in record.args)
        return True


def _shown(url: httpx2.URL) -> httpx2.URL:
    shown = url.copy_with(username=None, password=None, fragment=None)
    return shown.copy_with(query=b"...") if url.query else shown


_HIDE_QUERIES = HideQueries()


def client(
    *,
    base_url: httpx2.URL | str = "",
    headers: Mapping[str, str] | None = None,
    auth: httpx2.Auth | tuple[str, str] | None = None,
    rules: CallRules | None = None,
    timeout: httpx2.Timeout = TIMEOUT,
    limits: httpx2.Limits = LIMITS,
    verify: SSLContext | bool = True,
    proxy: httpx2.Proxy | str | None = None,
    follow_redirects: bool = False,
    transport: httpx2.BaseTransport | None = None,
) -> httpx2.Client:
    """An `httpx2.Client` whose calls follow `rules`. Make one for each service, and keep it: it holds the connections.

    Args:
        base_url, headers, auth, follow_redirects: as for `httpx2.Client`.
        rules: default `CallRules()`.
        timeout: for each step of an attempt; default `TIMEOUT`.
        limits: of the connections; default `LIMITS`.
        verify: as for `httpx2.Client`; default True.
        proxy: through which to go; default none. The proxies of the environment are not used.
        transport: what sends, in place of `httpx2.HTTPTransport`; then `limits`, `verify` and `proxy` are its own affair.

    Raises:
        ConfigurationError: the rules ask for hedges.
    """
    _hide_queries()
    inner = httpx2.HTTPTransport(verify=verify, limits=limits, proxy=proxy) if transport is None else transport
    return httpx2.Client(
        base_url=base_url,
        headers=headers,
        auth=auth,
        timeout=timeout,
        follow_redirects=follow_redirects,
        transport=RetryTransport(inner, rules),
    )


def async_client(
    *,
    base_url: httpx2.URL | str = "",
    headers: Mapping[str, str] | None = None,
    auth: httpx2.Auth | tuple[str, str] | None = None,
    rules: CallRules | None = None,
    timeout: httpx2.Timeout = TIMEOUT,
    limits: httpx2.Limits = LIMITS,
    verify: SSLContext | bool = True,
    proxy: httpx2.Proxy | str | None = None,
    follow_redirects: bool = False,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> httpx2.AsyncClient:
    """An `httpx2.AsyncClient` whose calls follow `rules`; see `client` for the arguments. Belongs to one event loop."""
    _hide_queries()
    inner = httpx2.AsyncHTTPTransport(verify=verify, limits=limits, proxy=proxy) if transport is None else transport
    return httpx2.AsyncClient(
        base_url=base_url,
        headers=headers,
        auth=auth,
        timeout=timeout,
        follow_redirects=follow_redirects,
        transport=AsyncRetryTransport(inner, rules),
    )


def _hide_queries() -> None:
    # The logger keeps one of each filter, however many clients are made.
    logging.getLogger("httpx2").addFilter(_HIDE_QUERIES)
