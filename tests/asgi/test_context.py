"""A request has one context, its own."""

from __future__ import annotations

import contextvars
from typing import Any

from holdfast.asgi.context import STATE_KEY, RequestContext, context_of, current_request
from holdfast.testing import ManualClock
from tests.asgi.asgi_calls import http_scope


def test_whoever_asks_first_makes_it() -> None:
    """The second caller gets the same object, and so does the context variable."""

    def check() -> None:
        scope = http_scope()
        context = context_of(scope, ManualClock())
        assert context_of(scope) is context
        assert current_request() is context

    contextvars.Context().run(check)


def test_a_state_that_a_server_shares_carries_nothing_over() -> None:
    """The dictionary that came with the scope is not written to, and what is in it stays visible."""

    def check() -> None:
        shared: dict[str, Any] = {"pool": object()}
        one, two = http_scope(state=shared), http_scope(state=shared)
        context_of(one).tenant = "a"
        assert context_of(two).tenant is None
        assert STATE_KEY not in shared
        assert one["state"]["pool"] is shared["pool"]

    contextvars.Context().run(check)


def test_its_representation_tells_neither_who_nor_for_whom() -> None:
    """What ends in logs holds the request's id alone."""
    context = RequestContext(0.0)
    context.request_id, context.tenant, context.principal, context.claims = "r-1", "acme", "ada", {"card": "4111"}
    assert repr(context) == "<RequestContext r-1>"
