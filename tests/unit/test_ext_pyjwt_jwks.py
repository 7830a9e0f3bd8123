"""Published keys at hand: fetched once for all, renewed in time, and never at an attacker's wish. Against a real HTTP server."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from holdfast.asgi.context import context_of, current_request
from holdfast.errors import ConfigurationError, Unavailable
from holdfast.ext.pyjwt import JwksKeys
from holdfast.ext.pyjwt.jwks import Need, need_for
from holdfast.testing import ManualClock
from tests.asgi.asgi_calls import http_scope
from tests.asgi.key_server import KeyServer, key_server
from tests.asgi.tokens import jwk


@pytest.fixture
def server() -> Iterator[KeyServer]:
    """A server that publishes the key `a`."""
    with key_server() as running:
        running.keys = [jwk("ES256", "a")]
        yield running


@pytest.fixture
def clock() -> ManualClock:
    """Time in our hands."""
    return ManualClock()


@pytest.fixture
async def keys(server: KeyServer, clock: ManualClock) -> AsyncIterator[JwksKeys]:
    """The keys of the server."""
    made = JwksKeys(
        server.url,
        algorithms=("ES256",),
        fresh_for=300,
        stale_for=3600,
        refresh_at_most_every=30,
        timeout=20,
        clock=clock,
    )
    yield made
    await made.aclose()


async def landed(keys: JwksKeys) -> None:
    """Wait until no fetch is under way."""
    while keys._flight is not None:
        await asyncio.wait({keys._flight})


@pytest.mark.parametrize(
    ("known", "age", "tried", "need"),
    [
        (False, None, None, Need.NOW),
        (False, None, 29, Need.NOTHING),
        (False, None, 30, Need.NOW),
        (True, 0, 0, Need.NOTHING),
        (True, 299, 299, Need.NOTHING),
        (True, 300, 300, Need.BEHIND),
        (True, 300, 29, Need.NOTHING),
        (True, 3899, 3899, Need.BEHIND),
        (True, 3900, 3900, Need.NOW),
        (True, 3900, 29, Need.NOTHING),
        (False, 10, 10, Need.NOTHING),
        (False, 30, 30, Need.NOW),
        (False, 3000, 29, Need.NOTHING),
        (False, 3000, 30, Need.NOW),
    ],
)
def test_the_table_of_needs(known: bool, age: float | None, tried: float | None, need: Need) -> None:
    """Fresh, stale, too old; known or not; and never again too soon."""
    found = need_for(known=known, age_s=age, tried_ago_s=tried, fresh_s=300, stale_s=3600, every_s=30)
    assert found is need


async def test_fifty_callers_cause_one_fetch(server: KeyServer, keys: JwksKeys) -> None:
    """Also if they come while it is under way; afterwards nobody asks again."""
    server.gate.clear()
    tasks = [asyncio.create_task(keys.key("a")) for _ in range(50)]
    await server.was_asked()
    tasks += [asyncio.create_task(keys.key("a")) for _ in range(5)]
    server.gate.set()
    found = await asyncio.gather(*tasks)
    assert all(key is not None and key.algorithm == "ES256" for key in found)
    assert await keys.key("a") is not None
    assert server.asked == 1
    assert server.seen["accept-encoding"] == "identity"


async def test_a_caller_who_leaves_does_not_end_the_fetch(server: KeyServer, keys: JwksKeys) -> None:
    """The others wait for it."""
    server.gate.clear()
    first = asyncio.create_task(keys.key("a"))
    await server.was_asked()
    second = asyncio.create_task(keys.key("a"))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    server.gate.set()
    assert await second is not None
    assert server.asked == 1


async def test_made_up_names_cause_one_fetch_in_thirty_seconds(
    server: KeyServer, keys: JwksKeys, clock: ManualClock
) -> None:
    """Whatever an attacker sends; and those who have a known key do not wait for it."""
    assert await keys.key("a") is not None
    for number in range(1000):
        assert await keys.key(f"made-up-{number}") is None
    assert server.asked == 1
    clock.advance(30)
    server.gate.clear()
    attackers = [asyncio.create_task(keys.key(f"more-{number}")) for number in range(100)]
    await server.was_asked(2)
    assert await keys.key("a") is not None
    server.gate.set()
    assert await asyncio.gather(*attackers) == [None] * 100
    for number in range(1000):
        assert await keys.key(f"again-{number}") is None
    assert server.asked == 2
    assert await keys.key(None) is None
    assert await keys.key("x" * 256) is None
    assert repr(keys) == "<JwksKeys of 127.0.0.1: 1>"


async def test_rotation_needs_no_restart(server: KeyServer, keys: JwksKeys, clock: ManualClock) -> None:
    """A new key works with its first token, an old one until it is taken out and the keys are renewed."""
    old = await keys.key("a")
    server.keys = [jwk("ES256", "b", name="two"), jwk("ES256", "a")]
    clock.advance(31)
    new = await keys.key("b")
    assert new is not None
    assert new != old
    assert await keys.key("a") is not None
    server.keys = [jwk("ES256", "b", name="two")]
    clock.advance(300)
    assert await keys.key("a") is not None, "stale: used, and renewed behind"
    await landed(keys)
    assert await keys.key("a") is None
    assert await keys.key("b") is not None
    assert server.asked == 3


async def test_stale_keys_are_used_while_the_issuer_is_away(
    server: KeyServer, keys: JwksKeys, clock: ManualClock
) -> None:
    """At once and not after a timeout; until they are too old. An unknown key is not called bad meanwhile."""
    assert await keys.key("a") is not None
    server.status = 500
    clock.advance(301)
    server.gate.clear()
    assert await keys.key("a") is not None
    server.gate.set()
    await landed(keys)
    clock.advance(31)
    with pytest.raises(Unavailable) as caught:
        await keys.key("b")
    assert caught.value.retry_after_s == 5
    assert await keys.key("a") is not None
    with pytest.raises(Unavailable):
        await keys.refresh()
    clock.advance(3600)
    with pytest.raises(Unavailable):
        await keys.key("a")
    asked = server.asked
    with pytest.raises(Unavailable):
        await keys.key("a")
    assert server.asked == asked, "not again within a second"
    server.status = 200
    clock.advance(1)
    assert await keys.key("a") is not None


SIZE = 262_144


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b'{"keys":[null,7,"x",[],{}]}',
        b'{"keys":' + b"[" * 50_000,
        b" " * (SIZE + 1),
        b"\xff\xfe\x00",
        json.dumps({"keys": [{**jwk("ES256"), "kid": 7}, {**jwk("ES256"), "kid": ""}, jwk("ES256")]}).encode(),
        json.dumps({"keys": [{**jwk("ES256"), "kid": "x" * 256}]}).encode(),
        json.dumps({"keys": [jwk("ES256", "twice"), jwk("ES256", "twice", name="two")]}).encode(),
        json.dumps({"keys": [jwk("EdDSA", "other")]}).encode(),
        json.dumps({"keys": [{"kty": "oct"}] * 100 + [jwk("ES256", "too-late")]}).encode(),
    ],
)
async def test_an_answer_without_usable_keys_changes_nothing(
    server: KeyServer, keys: JwksKeys, clock: ManualClock, body: bytes
) -> None:
    """What was known stays, and who needs more hears that it cannot be told."""
    assert await keys.key("a") is not None
    server.body = body
    clock.advance(31)
    for kid in ("twice", "too-late"):
        with pytest.raises(Unavailable):
            await keys.key(kid)
    assert await keys.key("a") is not None


async def test_other_answers_are_no_keys(server: KeyServer, keys: JwksKeys) -> None:
    """Redirects, which an open redirect could turn anywhere, errors, and what is compressed without having been asked for."""
    server.status, server.headers = 302, {"location": server.url}
    with pytest.raises(Unavailable):
        await keys.refresh()
    assert server.asked == 1
    server.status, server.headers = 200, {"content-encoding": "gzip"}
    server.body = gzip.compress(json.dumps({"keys": server.keys}).encode())
    with pytest.raises(Unavailable):
        await keys.refresh()
    server.headers = {}
    server.body = None
    await keys.refresh()
    assert await keys.key("a") is not None


async def test_a_body_without_end_is_cut(server: KeyServer, keys: JwksKeys) -> None:
    """At the limit, and not when the memory is full."""
    server.endless = True
    with pytest.raises(Unavailable):
        await keys.refresh()


async def test_a_server_that_does_not_answer_costs_the_timeout_at_most(server: KeyServer) -> None:
    """In all, also where each byte would come in time."""
    server.gate.clear()
    keys = JwksKeys(server.url, algorithms=("ES256",), timeout=0.2)
    with pytest.raises(Unavailable):
        await keys.key("a")
    await keys.aclose()


async def test_nobody_there_is_unavailable() -> None:
    """A refused connection is not the caller's fault."""
    with key_server() as gone:
        url = gone.url
    keys = JwksKeys(url, algorithms=("ES256",))
    with pytest.raises(Unavailable):
        await keys.key("a")
    await keys.aclose()


async def test_the_proxies_of_the_environment_are_not_asked(
    server: KeyServer, keys: JwksKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who answers in the place of loopback could publish keys of its own."""
    with key_server() as proxy:
        proxy.keys = [jwk("ES256", "evil")]
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        await keys.refresh()
    assert (proxy.asked, server.asked) == (0, 1)
    assert await keys.key("a") is not None


async def test_a_fetch_belongs_to_no_request(
    server: KeyServer, keys: JwksKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves everybody: it knows neither whose request began it, nor its deadline."""
    context_of(http_scope())
    assert current_request() is not None
    seen: list[object] = []
    usable = JwksKeys._usable

    def looking(self: JwksKeys, document: object) -> Any:
        seen.append(current_request())
        return usable(self, document)

    monkeypatch.setattr(JwksKeys, "_usable", looking)
    assert await keys.key("a") is not None
    assert seen == [None]


async def test_closing_ends_a_fetch(server: KeyServer, keys: JwksKeys) -> None:
    """And a lookup that waits for it hears that it cannot be told; later ones begin anew."""
    server.gate.clear()
    waiting = asyncio.create_task(keys.key("a"))
    await server.was_asked()
    await keys.aclose()
    with pytest.raises(Unavailable):
        await waiting
    server.gate.set()
    await keys.refresh()
    assert await keys.key("a") is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/keys",
        "http://127.0.0.1.issuer.example/keys",
        "https://user:secret@issuer.example/keys",
        "ftp://issuer.example/keys",
        "file:///etc/keys",
        "https://",
        "",
        "keys.json",
        "https://[::1",
        "http://192.0.2.1/keys",
    ],
)
def test_an_address_that_cannot_be_trusted_is_refused(url: str) -> None:
    """At startup, without its password."""
    with pytest.raises(ConfigurationError) as caught:
        JwksKeys(url, algorithms=("RS256",))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithms": ("HS256",)},
        {"algorithms": ()},
        {"refresh_at_most_every": 0},
        {"refresh_at_most_every": 301},
        {"stale_for": 86_401},
        {"timeout": 0},
        {"timeout": 61},
        {"size_max": 0},
        {"keys_max": 0},
        {"fresh_for": -1},
    ],
)
def test_settings_outside_of_their_bounds_are_refused(settings: dict[str, Any]) -> None:
    """An attacker must not be able to make us fetch without end, nor a withdrawn key live on."""
    with pytest.raises(ConfigurationError):
        JwksKeys("https://issuer.example/keys", **{"algorithms": ("RS256",), **settings})
