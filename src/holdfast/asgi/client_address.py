"""Who the client is: the socket's peer, or whom the proxies one trusts speak for.

    app = ClientAddress(app, trusted=["198.51.100.0/24"])        # context.client_address, checked and in one notation

A proxy appends the address it was called from, so the chain is read from the right: as long as an address belongs to a trusted
proxy, what that proxy wrote to the left of it is believed. The first that does not belong is the client. Whatever stands further
left was written by the client, or by anybody.

| peer | header | address |
|---|---|---|
| not trusted | any | the peer's |
| trusted | `spoofed, 203.0.113.9` | `203.0.113.9` |
| trusted | `198.51.100.7` (trusted too, to the end) | `198.51.100.7` |
| trusted | missing, unreadable where it counts, more than 32 trusted hops | None: it does not say for whom it speaks |

None is less than an address: an allowlist refuses it, limits fall back to the peer. One header is read, the one that the
proxies set: a client could add the other one, and no proxy would take it out.

The server must leave the peer alone. Uvicorn rewrites it by itself for callers that it trusts (`proxy_headers`, on by default,
and `FORWARDED_ALLOW_IPS`): switch that off with `proxy_headers=False`. With a wildcard there, the client is whoever it says it
is, and this layer refuses to start.

Sources: RFC 7239 (Forwarded), sections 4 to 6 and 8.1; MDN, X-Forwarded-For, "Selecting an IP address".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import ClassVar, Literal

from ..errors import ConfigurationError
from .context import context_of
from .interface import App, Receive, Scope, Send
from .networks import ADDRESS_MAX, Address, Networks, parse_address
from .stack import Place

__all__ = ["ClientAddress", "client_of", "forwarded_for", "peer_address", "x_forwarded_for"]

_HOPS_MAX = 32
_ELEMENT_MAX = 512
_SERVER_SETTING = "FORWARDED_ALLOW_IPS"


def peer_address(scope: Scope) -> Address | None:
    """The address of whoever opened the connection, as the server says; None for a Unix socket or what is no address."""
    peer = _peer(scope)
    return None if peer is None else peer[0]


def _peer(scope: Scope) -> tuple[Address, str] | None:
    """The peer's address, and its one notation."""
    client = scope.get("client")
    if not client:
        return None
    host = client[0]
    return _read(host) if isinstance(host, str) and len(host) <= 2 * ADDRESS_MAX else None


@lru_cache(maxsize=4096)
def _read(host: str) -> tuple[Address, str] | None:
    # A link-local peer has a zone (fe80::1%eth0), which names our own interface and not the peer.
    address = parse_address(host.partition("%")[0])
    return None if address is None else (address, str(address))


def client_of(hops: Iterable[Address | None], trusted: Networks) -> Address | None:
    """The client, from what trusted proxies wrote, the nearest hop first; pure.

    Args:
        hops: each address of the chain, None where it cannot be read. The peer is known to be trusted, and not among them.
        trusted: the proxies.

    Returns:
        The first that is not trusted, or the furthest if all are; None if there is none, one that cannot be read comes
        first, or after 32 trusted ones.
    """
    furthest: Address | None = None
    for number, hop in enumerate(hops):
        if hop is None or number == _HOPS_MAX:
            return None
        if hop not in trusted:
            return hop
        furthest = hop
    return furthest


def _elements(
    values: Sequence[bytes], length_max: int, comma_before: Callable[[bytes, int, int], int]
) -> Iterator[bytes]:
    """The elements of a list in several headers, from the right, each looked for within `length_max` bytes; b"" is malformed.

    `comma_before(value, least, end)` is the place of the comma in front of the element that ends at `end`, or -1.
    """
    for value in reversed(values):
        end = len(value)
        while True:
            # Never further back than an element can be long: what a client put in front is not even looked at.
            comma = comma_before(value, max(0, end - length_max - 1), end)
            if comma < 0 and end > length_max:
                yield b""
                return
            yield value[comma + 1 : end].strip(b" \t")
            if comma < 0:
                break
            end = comma


def _any_comma(value: bytes, least: int, end: int) -> int:
    return value.rfind(b",", least, end)


def _comma_outside_of_quotes(value: bytes, least: int, end: int) -> int:
    """As `_elements` asks for, where elements may hold quoted strings.

    Read from the right, what a proxy wrote has one reading: a quote within a quoted string has a backslash before it that is none
    of a pair, and the one that opens it has not. Whatever a client wrote further left, it cannot change that.
    """
    quoted = False
    while True:
        comma, quote = value.rfind(b",", least, end), value.rfind(b'"', least, end)
        if quote < 0:
            return -1 if quoted else comma
        if comma > quote and not quoted:
            return comma
        before = value[least:quote]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            quoted = not quoted
        end = quote


def x_forwarded_for(values: Sequence[bytes]) -> Iterator[Address | None]:
    """The hops of all `X-Forwarded-For` headers, the nearest first."""
    for element in _elements(values, ADDRESS_MAX + 8, _any_comma):
        yield parse_address(element.decode("latin-1"))


# RFC 7239, section 4. More than it allows are spaces around the semicolons, and the colons and brackets of an address without
# quotes: some proxies write them, and neither ends a value.
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z:\[\]]+|" + rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*")'
_PAIR = re.compile(rb"[ \t]*+(?:(" + _TOKEN + rb")=(" + _VALUE + rb"))?[ \t]*(?:;|\Z)")


def forwarded_for(values: Sequence[bytes]) -> Iterator[Address | None]:
    """The hops of all `Forwarded` headers, the nearest first: the `for` of each element that is well formed from end to end.

    Proxies write beside it what the client says of itself, its `host` above all. So an element of which any part is malformed
    is not believed: nobody can say where the proxy's words end in it and the client's begin.
    """
    for element in _elements(values, _ELEMENT_MAX, _comma_outside_of_quotes):
        found = _for_of(element)
        yield parse_address(found.decode("latin-1")) if found else None


def _for_of(element: bytes) -> bytes | None:
    """The `for` of an element, without its quotes; None where it is malformed, or has none or two."""
    found: bytes | None = None
    at = 0
    while at < len(element):
        pair = _PAIR.match(element, at)
        if pair is None:
            return None
        name, value = pair.groups()
        if name is not None and name.lower() == b"for":
            if found is not None:
                return None  # twice: which one would another reader take?
            found = value.removeprefix(b'"').removesuffix(b'"')
        at = pair.end()
    return found


_READERS = {"x-forwarded-for": x_forwarded_for, "forwarded": forwarded_for}


class ClientAddress:
    """Finds the client's address for each request and WebSocket, as the table above says.

    Args:
        app: the application around which this stands.
        trusted: addresses and networks of the proxies, in CIDR notation; `unix` for whoever connects through a Unix socket.
            Default none: the client is the peer. Everybody is refused (`*`, `0.0.0.0/0`, `::/0`).
        header: the one header that the proxies set, `x-forwarded-for` (default) or `forwarded`.

    Raises:
        ConfigurationError: a network cannot be read or holds everybody, the header is another one, or the environment tells the
            server to believe everybody (`FORWARDED_ALLOW_IPS=*`).
    """

    place: ClassVar[Place] = Place.CLIENT_ADDRESS

    __slots__ = ("_header", "_read", "_trusted", "_unix", "app")

    def __init__(
        self,
        app: App,
        *,
        trusted: Iterable[str] = (),
        header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for",
    ) -> None:
        if isinstance(trusted, str):
            raise ConfigurationError(f"trusted must be several networks, not one text; write [{trusted!r}]")
        networks = list(trusted)
        self.app = app
        self._unix = "unix" in networks
        self._trusted = Networks((text for text in networks if text != "unix"), name="trusted")
        if header not in _READERS:
            raise ConfigurationError("header must be x-forwarded-for or forwarded: the one that the proxies set")
        self._header = header.encode()
        self._read = _READERS[header]
        if "*" in os.environ.get(_SERVER_SETTING, "").split(","):
            raise ConfigurationError(
                f"the environment says {_SERVER_SETTING}=*, with which the server replaces the peer by whatever the client "
                "claims: remove it, and give the proxies' addresses to ClientAddress(trusted=...)"
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "lifespan":
            context_of(scope).client_address = self._address(scope)
        await self.app(scope, receive, send)

    def _address(self, scope: Scope) -> str | None:
        peer = _peer(scope)
        if peer is None:
            if not self._unix or scope.get("client"):
                return None
        elif peer[0] not in self._trusted:
            return peer[1]
        name = self._header
        found = client_of(self._read([value for known, value in scope["headers"] if known == name]), self._trusted)
        return None if found is None else str(found)
