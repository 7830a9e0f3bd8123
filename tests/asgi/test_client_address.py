"""Who the client is: the peer, or what trusted proxies say, from the right."""

from __future__ import annotations

import pytest

from holdfast.asgi.client_address import ClientAddress, client_of, peer_address
from holdfast.asgi.context import context_of
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.networks import Networks, parse_address
from holdfast.errors import ConfigurationError
from tests.asgi.asgi_calls import Echo, call, http_scope, run_lifespan

PROXY = ("198.18.0.1", 4711)
TRUSTED = ["198.18.0.0/15", "2001:db8:ffff::/48"]


async def address_seen(
    *values: str, client: tuple[str, int] | None = PROXY, header: str = "x-forwarded-for", **settings: object
) -> str | None:
    """What the application sees, given the values of the header in order."""
    seen: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(context_of(scope).client_address)
        await Echo()(scope, receive, send)

    layer = ClientAddress(app, **{"trusted": TRUSTED, "header": header, **settings})  # type: ignore[arg-type]
    headers = [(header.encode(), value.encode("latin-1")) for value in values]
    answer = await call(layer, "GET", "/", headers, client=client)
    assert answer.status == 200
    return seen[0]


@pytest.mark.parametrize(
    ("values", "address"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        (["6.6.6.6, 203.0.113.9, 198.18.0.2"], "203.0.113.9"),
        (["6.6.6.6", "203.0.113.9, 198.18.0.2", "198.18.0.3"], "203.0.113.9"),
        (["203.0.113.9:1234"], "203.0.113.9"),
        (["[2001:db8::9]:1234,\t198.18.0.2"], "2001:db8::9"),
        (["2001:DB8:0::9"], "2001:db8::9"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, ::ffff:198.18.0.2"], "203.0.113.9"),
        (["198.18.0.7"], "198.18.0.7"),
        (["198.18.0.7, 198.18.0.8"], "198.18.0.7"),
        (["'; drop table users, 203.0.113.9"], "203.0.113.9"),
        ([",,,, 203.0.113.9"], "203.0.113.9"),
        (["x" * 100_000 + ",203.0.113.9"], "203.0.113.9"),
        # unknown where it counts
        ([], None),
        ([""], None),
        (["unknown"], None),
        (["203.0.113.9, unknown"], None),
        (["203.0.113.9,"], None),
        (["203.0.113.9 198.18.0.2"], None),
        (["203.0.113.9, x" + "x" * 100], None),
        (["x" * 100_000], None),
        (["203.0.113.9, " + ", ".join(["198.18.0.2"] * 33)], None),
    ],
)
async def test_the_chain_is_read_from_the_right(values: list[str], address: str | None) -> None:
    """The first address that no trusted proxy has is the client; what cannot be read before that makes it unknown."""
    assert await address_seen(*values) == address


@pytest.mark.parametrize(
    ("values", "address"),
    [
        (["for=203.0.113.9"], "203.0.113.9"),
        (["for=6.6.6.6, for=203.0.113.9;proto=https;by=198.18.0.1"], "203.0.113.9"),
        (['proto=https;For="[2001:db8::9]:4711"'], "2001:db8::9"),
        (['for="203.0.113.9:80" , for=198.18.0.2'], "203.0.113.9"),
        (['for="', "for=203.0.113.9"], "203.0.113.9"),
        (['for="6.6.6.6, for=203.0.113.9'], "203.0.113.9"),
        # what the client says of its host is within the proxy's quotes
        (['for=203.0.113.9;host="a, for=6.6.6.6"'], "203.0.113.9"),
        (['for=203.0.113.9;host="a, for=6.6.6.6;x="'], "203.0.113.9"),
        (['for=203.0.113.9;host="a\\", for=6.6.6.6;x=\\"b"'], "203.0.113.9"),
        (['for=203.0.113.9;host="a\\\\"'], "203.0.113.9"),
        (['for=203.0.113.9;host="a\\", for=6.6.6.6"'], "203.0.113.9"),
        (['host="a;for=6.6.6.6";for=203.0.113.9'], "203.0.113.9"),
        (['for=6.6.6.6;x=", for=203.0.113.9;host="a"'], "203.0.113.9"),
        (['for="203.0.113.9", for=198.18.0.2;host="a, b"; proto=https;'], "203.0.113.9"),
        # what no proxy writes that keeps to the RFC: nobody can say where its elements end
        (['for="6.6.6.6;x=", for=203.0.113.9;y="'], None),
        (['for=203.0.113.9;host="a", for=6.6.6.6"'], None),
        (['for=203.0.113.9;host="a"b'], None),
        (['for=203.0.113.9;host="a\\\\\\"'], None),
        (["for=203.0.113.9;host=a b"], None),
        (["for=203.0.113.9;host"], None),
        (['for="203.0.113.9"6.6.6.6'], None),
        (["for=203.0.113.9, for=198.18.0.2;host"], None),
        (["for=203.0.113.9;host=\x00"], None),
        (["for=_hidden"], None),
        (["for=unknown"], None),
        (["by=203.0.113.9"], None),
        (["203.0.113.9"], None),
        (["for=203.0.113.9;for=6.6.6.6"], None),
        (["for=2001:db8::9"], "2001:db8::9"),
        (["for="], None),
        (['for="'], None),
        (["for=203.0.113.9;" + "x=y;" * 1000], None),
    ],
)
async def test_forwarded_is_read_by_its_elements(values: list[str], address: str | None) -> None:
    """RFC 7239, from the right; the client's open quote swallows nothing, the proxy's quotes let nothing out."""
    assert await address_seen(*values, header="forwarded") == address


@pytest.mark.parametrize("client", ["203.0.113.9", "2001:db8::1", "::ffff:203.0.113.9"])
async def test_a_peer_that_is_not_trusted_is_the_client(client: str) -> None:
    """Whatever it claims."""
    wanted = "203.0.113.9" if "203" in client else client
    assert await address_seen("6.6.6.6", client=(client, 1)) == wanted
    assert await address_seen("198.18.0.1, 198.18.0.1", client=(client, 1)) == wanted


async def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    """The default trusts nobody."""
    assert await address_seen("6.6.6.6", trusted=[]) == "198.18.0.1"


async def test_only_the_configured_header_is_read() -> None:
    """No proxy removes the other one, so a client could speak through it."""
    seen: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(context_of(scope).client_address)

    headers = [(b"forwarded", b"for=6.6.6.6"), (b"x-real-ip", b"6.6.6.6")]
    await ClientAddress(app, trusted=TRUSTED)(http_scope("GET", "/", headers, client=PROXY), Echo(), Echo())  # type: ignore[arg-type]
    assert seen == [None]


async def test_a_unix_socket_speaks_for_others_only_where_it_is_trusted() -> None:
    """It has no address; `unix` trusts whoever may open it, and says nothing about other peers without one."""
    assert await address_seen("203.0.113.9", client=None) is None
    assert await address_seen("203.0.113.9", client=None, trusted=["unix"]) == "203.0.113.9"
    assert await address_seen("203.0.113.9, 198.18.0.2", client=None, trusted=["unix", *TRUSTED]) == "203.0.113.9"
    assert await address_seen("203.0.113.9", client=("testclient", 1), trusted=["unix"]) is None


def test_a_zone_is_not_part_of_the_peer() -> None:
    """A link-local peer is known by its address."""
    assert str(peer_address({"client": ("fe80::1%eth0", 1)})) == "fe80::1"
    assert peer_address({"client": ("x" * 1000, 1)}) is None
    assert peer_address({}) is None


async def test_the_scope_keeps_the_peer() -> None:
    """What the socket said stays readable beside what was found."""
    scope = http_scope("GET", "/", {"x-forwarded-for": "203.0.113.9"}, client=PROXY)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        """Nothing."""

    await ClientAddress(app, trusted=TRUSTED)(scope, Echo(), Echo())  # type: ignore[arg-type]
    assert scope["client"] == PROXY
    assert context_of(scope).client_address == "203.0.113.9"


async def test_websockets_have_an_address_and_lifespan_has_none() -> None:
    """The layer works for both kinds of connection and leaves the rest alone."""
    kinds: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kinds.append(scope["type"])
        if scope["type"] == "websocket":
            assert context_of(scope).client_address == "203.0.113.9"

    layer = ClientAddress(app, trusted=TRUSTED)
    scope = {**http_scope("GET", "/", {"x-forwarded-for": "203.0.113.9"}, client=PROXY), "type": "websocket"}
    await layer(scope, Echo(), Echo())  # type: ignore[arg-type]
    await run_lifespan(layer)
    assert kinds == ["websocket", "lifespan"]


@pytest.mark.parametrize("trusted", [["*"], ["0.0.0.0/0"], ["::/0"], ["unix", "*"]])
def test_a_wildcard_is_refused_at_startup(trusted: list[str]) -> None:
    """The text says what would be possible with it."""
    with pytest.raises(ConfigurationError, match="anybody could claim to be anybody"):
        ClientAddress(Echo(), trusted=trusted)


@pytest.mark.parametrize("value", ["*", "127.0.0.1,*"])
def test_a_server_that_believes_everybody_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Uvicorn reads the same variable and would replace the peer before anybody sees it."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", value)
    with pytest.raises(ConfigurationError, match="FORWARDED_ALLOW_IPS"):
        ClientAddress(Echo())


def test_settings_that_cannot_work_are_refused() -> None:
    """A header that no proxy list means, and a text instead of a list."""
    with pytest.raises(ConfigurationError, match="x-forwarded-for or forwarded"):
        ClientAddress(Echo(), header="x-real-ip")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="not one text"):
        ClientAddress(Echo(), trusted="198.18.0.0/15")


def test_the_walk_stops_at_the_first_that_counts() -> None:
    """Nothing behind the client is even read."""
    trusted = Networks(TRUSTED, name="trusted")

    def hops() -> object:
        yield parse_address("198.18.0.2")
        yield parse_address("203.0.113.9")
        raise AssertionError("the client wrote the rest")

    assert str(client_of(hops(), trusted)) == "203.0.113.9"  # type: ignore[arg-type]
