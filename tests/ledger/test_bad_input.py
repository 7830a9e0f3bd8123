"""What hostile and broken clients send to the ledger: each is told what is wrong; nothing is applied, lost or written down."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jwt

from tests.asgi.tokens import unsigned
from tests.ledger.conftest import SECRET, bearer
from tests.ledger.served import HOST, SETTINGS, Served, serve

CANARY = "hunter2-4111111111111111"
WITHIN_S = 30.0
GOOD = bearer(SETTINGS)["Authorization"].encode()
ADA = json.dumps({"username": "ada", "name": CANARY, "age": 36}).encode()
REFUSED = (400, 401, 403, 405, 408, 413, 414, 422, 431)


class Case(NamedTuple):
    """One thing to send.

    Attributes:
        name: what it is.
        sent: the bytes.
        status: what it is answered.
        then: sent again and again after it, until there is an answer.
    """

    name: str
    sent: bytes
    status: int
    then: bytes = b""


def head(*lines: bytes, line: bytes = b"POST /api/v1/users", token: bytes | None = GOOD) -> bytes:
    """The head of a request."""
    known = [b"Host: ledger", b"Content-Type: application/json"] + (
        [] if token is None else [b"Authorization: " + token]
    )
    return b"\r\n".join([line + b" HTTP/1.1", *known, *lines, b"", b""])


def whole(body: bytes = ADA, *lines: bytes, **more: Any) -> bytes:
    """A whole request."""
    return head(b"Content-Length: %d" % len(body), *lines, **more) + body


def bodies() -> Iterator[Case]:
    """Without end, too large, too slow, and no JSON of ours."""
    key = b"Idempotency-Key: k-" + CANARY.encode()
    chunk = b"1000\r\n" + b"a" * 0x1000 + b"\r\n"
    for lines in ((), (key,)):
        kind = "keyed" if lines else "plain"
        yield Case(f"{kind} without end", head(b"Transfer-Encoding: chunked", *lines), 413, then=chunk)
        yield Case(f"{kind} promised too large", head(b"Content-Length: 10000000000", *lines), 413)
        yield Case(f"{kind} too slow", head(b"Content-Length: 100", *lines) + b'{"username"', 408)
    number = b"9" * 5000
    for name, body in {
        "nested": b"[" * 50_000,
        "no utf-8": b'{"username": "\xff"}',
        "a number of 5000 digits": b'{"username": "ada", "name": "a", "age": ' + number + b"}",
    }.items():
        yield Case(f"body: {name}", whole(body), 400)
    for name, body in {
        "half a character": b'{"username": "ada", "name": "\\ud800", "age": 1}',
        "nul": b'{"username": "ada", "name": "a\\u0000b", "age": 1}',
        "not a number": b'{"username": "ada", "name": "a", "age": NaN}',
        "empty": b"",
        "half": ADA[:-1],
    }.items():
        yield Case(f"body: {name}", whole(body), 422)


def headers() -> Iterator[Case]:
    """Malformed, twice, or larger than anybody needs."""
    secret = CANARY.encode()
    yield Case("no colon", head(b"nonsense " + secret), 400)
    yield Case("control in a value", head(b"X-A: a\x00" + secret), 400)
    yield Case("two lengths", head(b"Content-Length: 5", b"Content-Length: 6") + b"hello", 400)
    yield Case("bad chunk", head(b"Transfer-Encoding: chunked") + b"zz\r\n", 400)
    yield Case("no number as length", head(b"Content-Length: -1"), 400)
    for name, value in {
        "malformed": b"two words " + secret,
        "empty": b"",
        "unclosed": b'"' + secret,
        "huge": b"k" * 10_000,
        "not ascii": "schlüssel".encode() + secret,
    }.items():
        yield Case(f"key: {name}", whole(ADA, b"Idempotency-Key: " + value), 400)
    yield Case("key: twice", whole(ADA, b"Idempotency-Key: a", b"Idempotency-Key: b"), 400)
    for value in (b"soon", b"-1", b"1e3", b"9" * 50, b" "):
        yield Case(f"timeout: {value[:9].decode()}", whole(ADA, b"X-Request-Timeout-Ms: " + value), 400)
    yield Case("timeout: twice", whole(ADA, b"grpc-timeout: 1S", b"grpc-timeout: 2S"), 400)


def addresses() -> Iterator[Case]:
    """Who says that he is somebody else may not come where only operators may."""
    for name in (b"X-Forwarded-For", b"Forwarded", b"X-Real-IP"):
        for value in (b"127.0.0.1", b"203.0.113.9, 127.0.0.1", b"for=127.0.0.1"):
            forged = head(name + b": " + value, line=b"GET /api/v1/books")
            yield Case(f"{name.decode()}: {value.decode()}", forged, 403)


def tokens() -> Iterator[Case]:
    """Every kind of token that is none."""
    claims: dict[str, Any] = {
        "iss": SETTINGS.token_issuer,
        "aud": SETTINGS.token_audience,
        "sub": "ada",
        "tenant": "north",
        "scope": "ledger:read ledger:write",
        "exp": int(time.time()) + 600,
    }

    def signed(secret: str = SECRET, algorithm: str = "HS256", without: str = "", **changes: Any) -> bytes:
        members = {name: value for name, value in {**claims, **changes}.items() if name != without}
        return jwt.encode(members, secret, algorithm=algorithm).encode()

    good = signed()
    bad: dict[str, bytes | None] = {
        "none": None,
        "empty": b"Bearer ",
        "another scheme": b"Basic " + CANARY.encode(),
        "garbage": b"Bearer " + CANARY.encode(),
        "three dots": b"Bearer a.b.c",
        "no signature": b"Bearer " + unsigned(claims).encode(),
        "cut": b"Bearer " + good[:-4],
        "of another secret": b"Bearer " + signed(f"another secret of 32 bytes, {CANARY}"),
        "of another algorithm": b"Bearer " + signed(SECRET * 2, "HS512"),
        "of another issuer": b"Bearer " + signed(iss="https://evil.example/"),
        "for another service": b"Bearer " + signed(aud="another"),
        "expired": b"Bearer " + signed(exp=int(time.time()) - 600),
        "not yet valid": b"Bearer " + signed(nbf=int(time.time()) + 600),
        "20 kB": b"Bearer " + b"a" * 20_000,
        **{f"without {name}": b"Bearer " + signed(without=name) for name in ("exp", "iss", "aud", "sub", "tenant")},
        "several tenants": b"Bearer " + signed(tenant=["north", "south"]),
    }
    for name, token in bad.items():
        yield Case(f"token: {name}", whole(token=token), 401)
    yield Case("token: twice", whole(ADA, b"Authorization: " + GOOD), 401)
    yield Case("token: reads only", whole(token=b"Bearer " + signed(scope="ledger:read")), 403)
    yield Case("token: of an odd tenant", whole(token=b"Bearer " + signed(tenant="North")), 403)


def paths() -> Iterator[Case]:
    """Ids that are none, and methods that nobody serves."""
    for path in (b"0", b"-1", b"9223372036854775808", b"1e3", b"%00", b"..%2f1"):
        yield Case(f"id {path.decode()}", head(line=b"GET /api/v1/users/" + path), 404 if b"f1" in path else 422)
    yield Case("method", head(line=b"BREW /api/v1/users"), 405)
    yield Case("long path", head(line=b"GET /" + b"a" * 60_000), 404)


async def ask(port: int, case: Case) -> tuple[int, bytes]:
    """Send it; the status and all of the answer."""
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            writer.write(case.sent)
            answering = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
            while case.then and not answering.done():
                writer.write(case.then)
                try:
                    await writer.drain()
                except OSError:
                    break
                # Not faster: a service that has answered throws a mebibyte more away, and resets who sends on after that.
                await asyncio.wait({answering}, timeout=0.005)
            head_of_answer = await answering
            length = next(
                (int(line[15:]) for line in head_of_answer.lower().split(b"\r\n") if line[:15] == b"content-length:"),
                None,
            )
            body = await (reader.read() if length is None else reader.readexactly(length))
            return int(head_of_answer.split()[1]), head_of_answer + body
        finally:
            writer.close()


async def all_of(served: Served, cases: Callable[[], Iterator[Case]]) -> list[str]:
    """Send all of them at the same time; what went otherwise than it should."""

    async def one(case: Case) -> str | None:
        try:
            status, answer = await ask(served.port, case)
        except (OSError, EOFError, TimeoutError) as error:
            return f"{case.name}: {type(error).__name__}"
        if status != case.status:
            return f"{case.name}: {status} and not {case.status}"
        return f"{case.name}: tells {CANARY}" if CANARY.encode() in answer else None

    return [wrong for wrong in await asyncio.gather(*map(one, cases())) if wrong is not None]


async def test_nothing_bad_gets_anywhere(tmp_path: Path) -> None:
    """A clear 4xx for each, no effect, no secret in the log, no error of the service's; and it goes on serving."""
    slow = {"HOLDFAST_BODY_TIMEOUT_S": "1"}
    async with serve(tmp_path, "sqlite:///here.db", slow) as served:
        wrong = [found for kind in (bodies, headers, addresses, tokens, paths) for found in await all_of(served, kind)]
        assert not wrong, "\n".join(wrong)
        assert (await served.get("users")).json()["items"] == []
        source, target = await served.open_accounts("10", "0")
        order = {"source_id": source, "target_id": target, "amount": "4", "reference": CANARY}
        assert (await served.post("transfers", order, CANARY)).status_code == 201
        log = served.said()
    assert CANARY not in log
    assert SECRET not in log
    assert GOOD.decode().partition(" ")[2] not in log
    assert '"level":"ERROR"' not in log
    assert '"status":5' not in log
