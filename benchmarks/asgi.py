"""What each layer of the edge adds to a request, beside what people put there today.

    python -m benchmarks.asgi [--write] [--rounds 80] [--calls 200]

Every application is driven in this process, each request in a task of its own as a server runs it: a GET with eight headers, and
a log that is written (to nowhere). All kinds take short turns in every round, and what is compared was measured in one round: a
machine whose speed halves for a second halves both. What is reported is the time added to the bare application, and how many
layers of `BaseHTTPMiddleware` that is; of each the median over the rounds. Ours stand around an application that does nothing;
the others need Starlette, and are compared with the same application without them, as "all of ours" is too.

To add a layer of ours: one line in `LAYERS`, where it belongs in the order. It gets a row, and is in "all of them".
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import Any

import jwt
import prometheus_client
import slowapi
from asgi_correlation_id import CorrelationIdMiddleware
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from prometheus_fastapi_instrumentator import Instrumentator
from slowapi.middleware import SlowAPIASGIMiddleware, SlowAPIMiddleware
from slowapi.util import get_remote_address
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from benchmarks.report import median_ratio, table, write_section
from holdfast.asgi.access_log import AccessLog
from holdfast.asgi.admission import ConcurrencyLimit
from holdfast.asgi.answers import Answer
from holdfast.asgi.authentication import Authentication, Principal
from holdfast.asgi.body import BodyLimit
from holdfast.asgi.client_address import ClientAddress
from holdfast.asgi.deadline import Deadline
from holdfast.asgi.draining import Draining
from holdfast.asgi.health import HealthEndpoints
from holdfast.asgi.idempotency import Idempotency, KeyedRun
from holdfast.asgi.interface import App, Message, Receive, Scope, Send
from holdfast.asgi.ip_allowlist import IpAllowlist
from holdfast.asgi.keyed_request import KeyIdentity
from holdfast.asgi.log_lines import JsonLines
from holdfast.asgi.quotas import Quota
from holdfast.asgi.rate_limit import RateLimit
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.retry import RequestRetry
from holdfast.asgi.stack import Stack
from holdfast.ext.pyjwt import JwtAuthenticator, JwtIssuer, StaticKeys, VerificationKey, public_key, shared_secret
from holdfast.health import Health
from holdfast.shutdown import Drain

Layer = Callable[[App], App]


class Known:
    """Knows who asks without reading anything: what a proof costs is measured apart."""

    challenge = "Bearer"
    _principal = Principal("ada", "https://issuer.example/", "north", frozenset({"read"}))

    async def authenticate(self, _: Scope, /) -> Principal | None:
        """The same somebody every time."""
        return self._principal


class NoStore:
    """Nobody sends a key here."""

    async def answer(self, _: KeyIdentity, run: KeyedRun) -> Answer:
        """The application's answer."""
        return await run()

    async def live_keys(self, *_: object) -> int:
        """None."""
        return 0


INTERNAL = ["198.51.100.0/24", "2001:db8::/32"]

LAYERS: list[tuple[str, Layer]] = [
    ("request id and trace", RequestId),
    ("access log", AccessLog),
    ("recovery", Recovery),
    ("draining", partial(Draining, drain=Drain(), watch_signals=False)),
    ("health endpoints, asked for something else", partial(HealthEndpoints, health=Health([]))),
    ("client address", partial(ClientAddress, trusted=INTERNAL)),
    ("allowlist, two rules", partial(IpAllowlist, rules={"/admin/*": INTERNAL, "/metrics": INTERNAL})),
    ("authentication, without the proof", partial(Authentication, authenticators=[Known()])),
    ("deadline", Deadline),
    ("body limit", BodyLimit),
    ("rate limit and its fields", partial(RateLimit, quotas=[Quota("client", rate=1_000_000, burst=1_000_000)])),
    ("concurrency limit", ConcurrencyLimit),
    ("idempotency keys, a request without", partial(Idempotency, store=NoStore())),
    ("retry, not needed", RequestRetry),
]
"""Ours, the outermost first: every layer there is."""

TARGET_US = 60.0
"""What all of ours together may add."""

YARDSTICK, YARDSTICK_US = "one layer that does nothing", 125.0
"""What everybody can measure, and what it cost on the machine for which the target was set: here it may be half as fast."""

ALL = "all of them"


@dataclass(frozen=True, slots=True)
class Kind:
    """One application to measure; `bare` names the kind it is compared with."""

    name: str
    library: str
    app: App
    bare: str | None
    target_us: float | None = None


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """The least an application can do: read the body, answer."""
    assert scope["type"] == "http"
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"done"})


def starlette_app(prepare: Callable[[Starlette], None] = lambda _: None) -> Starlette:
    """The same with Starlette, and with what `prepare` adds."""

    async def done(request: Request) -> Response:
        await request.body()
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/users/{id}", done, methods=["GET"])])
    prepare(app)
    return app


class OneBaseLayer(BaseHTTPMiddleware):
    """A middleware in Starlette's convenient form that does nothing."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Pass the request on."""
        return await call_next(request)


def add_slowapi(middleware: Any, app: Starlette) -> None:
    """A limit that is never reached."""
    app.state.limiter = slowapi.Limiter(key_func=get_remote_address, default_limits=["100000000/second"])
    app.add_middleware(middleware)


def add_prometheus(app: Starlette) -> None:
    """With a registry of its own."""
    Instrumentator(registry=prometheus_client.CollectorRegistry()).instrument(app)


def add_usual_stack(app: Starlette) -> None:
    """What a service of today has for a part of what ours do: correlation id, limiter, metrics."""
    add_prometheus(app)
    add_slowapi(SlowAPIMiddleware, app)
    app.add_middleware(CorrelationIdMiddleware)


def by_token(algorithm: str) -> App:
    """Authentication with a token that is verified each time."""
    secret: Any = None
    key: VerificationKey
    if algorithm == "HS256":
        secret = os.urandom(32)
        key = shared_secret(secret, algorithm)
    else:
        made: dict[str, Callable[[], Any]] = {
            "RS256": partial(rsa.generate_private_key, 65537, 2048),
            "ES256": partial(ec.generate_private_key, ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }
        secret = made[algorithm]()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        key = public_key(secret.public_key().public_bytes(serialization.Encoding.PEM, form), algorithm)
    name = "https://issuer.example/"
    claims = {"iss": name, "aud": "bench", "sub": "ada", "exp": 4102444800, "tenant": "north", "scope": "read write"}
    issuer = JwtIssuer(name, audience="bench", keys=StaticKeys(key), tenant_claim="tenant")
    app = Authentication(nothing, authenticators=[JwtAuthenticator(issuer)])
    headers = [*HEADERS, (b"authorization", b"Bearer " + jwt.encode(claims, secret, algorithm).encode())]

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = headers
        await app(scope, receive, send)

    return asked


def kinds() -> list[Kind]:
    """Everything that is measured; what others are compared with comes first."""
    ours = [Kind(name, "holdfast", layer(nothing), "nothing") for name, layer in LAYERS]
    layers = [layer for _, layer in LAYERS]

    def theirs(name: str, library: str, prepare: Callable[[Starlette], None]) -> Kind:
        return Kind(name, library, starlette_app(prepare), "Starlette")

    return [
        Kind("nothing", "", nothing, None),
        Kind("Starlette", "", starlette_app(), None),
        *ours,
        Kind(ALL, "holdfast", Stack(nothing, *layers), "nothing", TARGET_US),
        Kind(f"{ALL}, around Starlette", "holdfast", Stack(starlette_app(), *layers), "Starlette", TARGET_US),
        *(
            Kind(f"authentication by a token, {name}", "holdfast, PyJWT", by_token(name), "nothing")
            for name in ("HS256", "RS256", "ES256", "EdDSA")
        ),
        theirs(YARDSTICK, "BaseHTTPMiddleware", lambda app: app.add_middleware(OneBaseLayer)),
        theirs("correlation id", "asgi-correlation-id", lambda app: app.add_middleware(CorrelationIdMiddleware)),
        theirs("rate limit", "slowapi", partial(add_slowapi, SlowAPIMiddleware)),
        theirs("rate limit, pure ASGI", "slowapi", partial(add_slowapi, SlowAPIASGIMiddleware)),
        theirs("metrics", "prometheus-fastapi-instrumentator", add_prometheus),
        theirs("these three together", "the usual stack", add_usual_stack),
    ]


HEADERS = [
    (b"host", b"www.example.com"),
    (b"user-agent", b"benchmark"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip"),
    (b"accept-language", b"en"),
    (b"connection", b"keep-alive"),
    (b"x-request-id", b"0123456789abcdef0123456789abcdef"),
    (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
]


def scope_of_a_request() -> dict[str, Any]:
    """A fresh one: layers write into it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/users/17",
        "raw_path": b"/users/17",
        "query_string": b"",
        "root_path": "",
        "headers": HEADERS,
        "client": ("192.0.2.1", 50000),
        "server": ("192.0.2.10", 80),
        "state": {},
    }


async def receive() -> Message:
    """No body, at once."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    """Nobody listens."""


async def measure(app: App, calls: int) -> float:
    """Microseconds of processor time a request: what others do on the machine meanwhile matters less."""
    loop = asyncio.get_running_loop()

    async def request() -> None:
        await app(scope_of_a_request(), receive, send)

    begun = process_time()
    for _ in range(calls):
        await loop.create_task(request())
    return (process_time() - begun) / calls * 1e6


@dataclass(frozen=True, slots=True)
class Result:
    """What one kind adds to a request; of a bare one, what it takes itself."""

    kind: Kind
    added_us: float
    layers: float


async def run(rounds: int, calls: int) -> list[Result]:
    """Everything, measured."""
    everything = kinds()
    own: dict[str, list[float]] = {kind.name: [] for kind in everything}
    for kind in everything:
        await measure(kind.app, 500)  # warm: caches, specialised bytecode
    for _ in range(rounds):
        gc.collect()
        for kind in everything:
            own[kind.name].append(await measure(kind.app, calls))
    added = {
        kind.name: [time - without for time, without in zip(own[kind.name], own[kind.bare], strict=True)]
        if kind.bare
        else own[kind.name]
        for kind in everything
    }
    return [
        Result(kind, statistics.median(added[kind.name]), median_ratio(added[kind.name], added[YARDSTICK]))
        for kind in everything
    ]


def report(results: list[Result]) -> str:
    """The table; targets in microseconds, and in layers of `BaseHTTPMiddleware`, which are the same on any machine."""
    rows = []
    for result in results:
        kind = result.kind
        target = ""
        if kind.target_us is not None:
            layers = kind.target_us / YARDSTICK_US
            target = (
                f"{kind.target_us:g} µs: {_verdict(result.added_us, kind.target_us)}; "
                f"{layers:.2f} layers: {_verdict(result.layers, layers)}"
            )
        added = f"{result.added_us:.1f} µs"
        rows.append([kind.name, kind.library, added, f"{result.layers:.2f}", kind.bare or "(itself)", target])
    headings = ["layer", "library", "adds to a request", "in BaseHTTPMiddleware layers", "compared with", "target"]
    return table(headings, rows)


def _verdict(found: float, target: float) -> str:
    return "met" if found <= target else "missed"


def main() -> None:
    """Measure, print, and on request write the results down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - not a path of ours
        handler = logging.StreamHandler(nowhere)
        handler.setFormatter(JsonLines())
        logging.getLogger("holdfast.asgi.access_log").addHandler(handler)
        logging.getLogger("holdfast.asgi.access_log").setLevel(logging.INFO)
        body = report(asyncio.run(run(arguments.rounds, arguments.calls)))
    print(body)
    if arguments.write:
        write_section("Layers of the edge", "python -m benchmarks.asgi", body)


if __name__ == "__main__":
    main()
