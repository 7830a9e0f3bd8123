"""Sensitive routes only for given networks; in doubt for nobody."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from holdfast.asgi.client_address import ClientAddress
from holdfast.asgi.ip_allowlist import IpAllowlist
from holdfast.asgi.stack import Stack
from holdfast.errors import ConfigurationError
from tests.asgi.asgi_calls import Answer, Echo, call, http_scope, run_lifespan
from tests.asgi.log_capture import log_of

RULES = {
    "/admin/*": ["192.0.2.0/24", "198.18.0.0/15"],
    "/admin/keys": ["192.0.2.7"],
    "/metrics": ["198.19.0.0/16"],
    "/debug/*": [],
}


def guarded(trusted: list[str] | None = None) -> tuple[Stack, Echo]:
    """An application behind the rules, and the layer that knows the address."""
    echo = Echo()
    trusted = ["198.18.0.0/24"] if trusted is None else trusted
    return Stack(echo, partial(ClientAddress, trusted=trusted), partial(IpAllowlist, rules=RULES)), echo


async def ask(path: str, client: str, forwarded: str | None = None, **more: Any) -> Answer:
    """The answer to somebody at `client`, who says `forwarded`."""
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    return await call(guarded()[0], "GET", path, headers, client=(client, 50000), **more)


@pytest.mark.parametrize(
    ("path", "client", "forwarded", "status"),
    [
        ("/admin", "192.0.2.1", None, 200),
        ("/admin/x", "192.0.2.1", None, 200),
        ("/admin/x", "::ffff:192.0.2.1", None, 200),
        ("/admin/x", "198.51.100.1", None, 403),
        ("/admin/x", "2001:db8::1", None, 403),
        ("/admin/x", "198.18.0.1", "192.0.2.1", 200),
        ("/admin/x", "198.18.0.1", "198.51.100.1", 403),
        ("/admin/x", "198.18.0.1", "192.0.2.1, 198.51.100.1", 403),
        ("/admin/keys", "192.0.2.7", None, 200),
        ("/admin/keys", "192.0.2.8", None, 403),
        ("/metrics", "198.19.2.3", None, 200),
        ("/metrics", "198.18.2.3", None, 403),
        ("/debug", "192.0.2.1", None, 403),
        ("/debug/x", "127.0.0.1", None, 403),
        ("/", "198.51.100.1", None, 200),
        ("/users", "198.18.0.1", "garbage", 200),
    ],
)
async def test_an_address_must_satisfy_every_rule_of_its_path(
    path: str, client: str, forwarded: str | None, status: int
) -> None:
    """Rules only take away, and paths without one are not touched."""
    assert (await ask(path, client, forwarded)).status == status


@pytest.mark.parametrize(
    "path", ["/ADMIN/x", "//admin/x", "/./admin/x", "/public/../admin/x", "/admin/../admin/x", "/public\\..\\admin"]
)
async def test_no_spelling_of_a_path_gets_past_a_rule(path: str) -> None:
    """Whatever the router behind makes of it."""
    assert (await ask(path, "198.51.100.1")).status == 403


@pytest.mark.parametrize("path", ["/api/admin/x", "/admin/x"])
async def test_the_root_path_gets_nobody_past_a_rule(path: str) -> None:
    """With it and without it."""
    assert (await ask(path, "198.51.100.1", root_path="/api")).status == 403


@pytest.mark.parametrize("forwarded", [None, "", "unknown", "garbage", "192.0.2.1,", "x" * 10_000])
async def test_an_unknown_client_is_refused(forwarded: str | None) -> None:
    """A trusted proxy that does not say for whom it speaks does not speak for itself, though its own network is allowed."""
    assert (await ask("/admin", "198.18.0.1", forwarded)).status == 403


async def test_without_the_address_layer_everybody_is_refused() -> None:
    """And the log says what is missing: behind a proxy every peer would be the proxy."""
    with log_of("holdfast.asgi") as log:
        answer = await call(IpAllowlist(Echo(), rules=RULES), "GET", "/admin", client=("192.0.2.1", 1))
    assert answer.status == 403
    assert "ClientAddress" in log.everything


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
async def test_a_proxy_that_nobody_named_opens_nothing(header: str) -> None:
    """Its address is allowed; but it speaks for somebody who may come from anywhere."""
    app, _ = guarded(trusted=[])
    assert (await call(app, "GET", "/admin", {}, client=("198.18.0.9", 1))).status == 200
    with log_of("holdfast.asgi") as log:
        answer = await call(app, "GET", "/admin", {header: "198.51.100.1"}, client=("198.18.0.9", 1))
    assert answer.status == 403
    assert "name it in ClientAddress" in log.everything


async def test_the_refusal_tells_nothing() -> None:
    """No address, no rule, no path, no reason; and the application was not called."""
    app, echo = guarded()
    answers = [
        await call(app, "GET", "/admin", client=("198.51.100.1", 1)),
        await call(app, "GET", "/debug/x", client=("192.0.2.1", 1)),
        await call(app, "GET", "/admin", {"X-Forwarded-For": "x"}, client=("198.18.0.1", 1)),
    ]
    assert {answer.body for answer in answers} == {
        b'{"type":"urn:holdfast:problem:forbidden","title":"Forbidden","status":403}'
    }
    assert echo.calls == 0


@pytest.mark.parametrize(("client", "sent"), [("198.51.100.1", ["websocket.close"]), ("192.0.2.1", [])])
async def test_websockets_are_held_to_the_rules(client: str, sent: list[str]) -> None:
    """Refused before they are accepted."""
    called: list[str] = []
    messages: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append(scope["path"])

    async def send(message: Any) -> None:
        messages.append(message["type"])

    layers = Stack(app, ClientAddress, partial(IpAllowlist, rules=RULES))
    await layers({**http_scope("GET", "/admin/live", client=(client, 1)), "type": "websocket"}, Echo(), send)  # type: ignore[arg-type]
    assert messages == sent
    assert called == ([] if sent else ["/admin/live"])


async def test_lifespan_passes() -> None:
    """An application starts and stops behind it."""
    kinds: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kinds.append(scope["type"])

    await run_lifespan(IpAllowlist(app, rules=RULES))
    assert kinds == ["lifespan"]


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({}, "protects nothing"),
        ({"/admin/*": ["*"]}, "every address"),
        ({"/admin/*": ["0.0.0.0/0"]}, "every address"),
        ({"admin": ["198.18.0.0/15"]}, "begin with /"),
        ({"/admin": ["intranet"]}, "the rule for /admin"),
        ({"/admin": "198.18.0.0/15"}, "not one text"),
    ],
)
def test_rules_that_cannot_work_are_refused_at_startup(rules: dict[str, Any], text: str) -> None:
    """A typing error must not leave a route open."""
    with pytest.raises(ConfigurationError, match=text):
        IpAllowlist(Echo(), rules=rules)


def test_a_wildcard_in_the_proxies_stops_a_stack_with_an_allowlist() -> None:
    """The two together would let anybody in who writes an allowed address into a header."""
    with pytest.raises(ConfigurationError, match="anybody could claim to be anybody"):
        Stack(Echo(), partial(ClientAddress, trusted=["*"]), partial(IpAllowlist, rules=RULES))
