"""Risk: a forged X-Forwarded-For. Whatever a client writes, it does not become somebody else."""

from __future__ import annotations

import random
from functools import partial
from typing import Literal

import pytest

from holdfast.asgi.client_address import ClientAddress, client_of, forwarded_for, x_forwarded_for
from holdfast.asgi.context import context_of
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.ip_allowlist import IpAllowlist
from holdfast.asgi.networks import Networks
from holdfast.asgi.stack import Stack
from tests.asgi.asgi_calls import call
from tests.asgi.test_security_redos import steps

CLIENT = "203.0.113.9"
ALLOWED = "192.0.2.7"
PIECES = [
    ALLOWED,
    "198.18.0.1",
    "127.0.0.1",
    "::1",
    f"[::ffff:{ALLOWED}]:1",
    f"for={ALLOWED}",
    'for="',
    '"',
    "for=198.18.0.1;for=192.0.2.7",
    "unknown",
    "",
    ",",
    ";",
    " ",
    "\t",
    "\x00",
    "\xff",
    "x" * 70,
    "x" * 600,
    "[",
    "]",
    "%00",
    "*",
]


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
async def test_nothing_a_client_writes_makes_it_somebody_else(
    header: Literal["x-forwarded-for", "forwarded"], rng: random.Random
) -> None:
    """2,000 drawn headers, in one or several, before a proxy appends the truth: the address is the truth, every time."""
    seen: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(context_of(scope).client_address)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    layers = Stack(
        app,
        partial(ClientAddress, trusted=["198.18.0.0/15"], header=header),
        partial(IpAllowlist, rules={"/admin": [f"{ALLOWED}/32"]}),
    )
    truth = (CLIENT if header == "x-forwarded-for" else f"for={CLIENT}").encode()
    name = header.encode()
    for _ in range(2000):
        forged = [
            rng.choice([", ", ",", " ", ""]).join(rng.choices(PIECES, k=rng.randint(1, 6))).encode("latin-1")
            for _ in range(rng.randint(1, 3))
        ]
        # A proxy either appends to the last header or adds one of its own.
        values = [*forged[:-1], forged[-1] + b", " + truth] if rng.random() < 0.5 else [*forged, truth]
        headers = [(name, value) for value in values]
        answer = await call(layers, "GET", "/", headers, client=("198.18.0.1", 1))
        assert (answer.status, seen.pop()) == (200, CLIENT), values
        answer = await call(layers, "GET", "/admin", headers, client=("198.18.0.1", 1))
        assert (answer.status, seen) == (403, []), values


async def test_nothing_a_client_calls_its_host_makes_it_somebody_else(rng: random.Random) -> None:
    """2,000 drawn hosts, which the proxy quotes behind the client's address: the address is the truth, every time."""
    trusted = Networks(["198.18.0.0/15"], name="trusted")
    for _ in range(2000):
        forged, host = ("".join(rng.choices([*PIECES, "\\", "=", ', for="'], k=rng.randint(0, 6))) for _ in range(2))
        quoted = host.replace("\\", "\\\\").replace('"', '\\"').replace("\x00", "")[:400].rstrip("\\")
        value = f'{forged}, for={CLIENT};host="{quoted}";proto=https'.encode("latin-1")
        assert str(client_of(forwarded_for([value]), trusted)) == CLIENT, value


@pytest.mark.parametrize("peer", [CLIENT, "2001:db8::9"])
async def test_a_direct_caller_is_itself(peer: str) -> None:
    """Without a trusted proxy in between, no header changes who it is, so rotating one resets no limit."""
    seen: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(context_of(scope).client_address)

    layer = ClientAddress(app, trusted=["198.18.0.0/15"])
    for piece in PIECES:
        await call(layer, "GET", "/", [(b"x-forwarded-for", piece.encode("latin-1"))], client=(peer, 1))
    assert seen == [peer] * len(PIECES)


async def test_planted_left_to_right_reading_is_found() -> None:
    """What a server that trusts everybody does, and what the test above would see: the leftmost is who it says it is."""
    forged = f"{ALLOWED}, {CLIENT}".encode()
    hops = [str(hop) for hop in x_forwarded_for([forged])]
    assert hops == [CLIENT, ALLOWED]


@pytest.mark.parametrize("read", [x_forwarded_for, forwarded_for])
@pytest.mark.parametrize(
    "piece", [b"1", b",", b"198.18.0.1,", b'for="', b'"', b'\\"', b',"', b";", b"for=1;", b" ", b"[", b":"]
)
def test_reading_stops_soon(read: object, piece: bytes) -> None:
    """A hundred times the header costs the same: only what could be one address is looked at."""

    def first(value: bytes) -> object:
        return next(iter(read([value])))  # type: ignore[operator]

    small, large = (steps(first, piece * (size // len(piece))) for size in (2_000, 100_000))
    assert large <= small + 50
