"""The words of ASGI 3: what an application is called with. One place for the types, so that a signature reads.

Source: the ASGI specification, version 3.0, and its HTTP message format, version 2.4.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["SAFE_METHODS", "App", "Headers", "Message", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
"""What is known of a connection: `type` (`http`, `websocket`, `lifespan`), `method`, `path`, `headers`, `client`, `state`."""

Message = MutableMapping[str, Any]
"""One event, named by its `type`: `http.request`, `http.disconnect`, `http.response.start`, `http.response.body`."""

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = list[tuple[bytes, bytes]]
"""Names and values as they travel; a server hands names in lower case."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""The methods that only read (RFC 9110, 9.2.1): such a request can be repeated, whatever became of it."""
