"""Risk: secrets in logs. A token that was sent, good or bad, comes out nowhere: not whole, not in part, not what it says."""

from __future__ import annotations

import traceback
from functools import partial
from typing import Any

import pytest

from holdfast.asgi.access_log import AccessLog
from holdfast.asgi.authentication import Authentication, Unauthenticated, current_principal, require
from holdfast.asgi.client_address import ClientAddress
from holdfast.asgi.context import context_of, current_request
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.ip_allowlist import IpAllowlist
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.stack import Stack
from holdfast.ext.pyjwt import JwksKeys, JwtAuthenticator, JwtIssuer, StaticKeys, shared_secret
from tests.asgi.asgi_calls import Echo, call, http_scope
from tests.asgi.key_server import key_server
from tests.asgi.log_capture import log_of
from tests.asgi.tokens import AUDIENCE, ISSUER, SECRET, claims, signed

CANARY = "c4nary-hunter2"


def good(**more: Any) -> str:
    """A token full of what must not come out."""
    payload = claims(sub=CANARY, tenant=CANARY, scope=CANARY, jti=CANARY, email=CANARY, **more)
    return signed(payload, SECRET.encode(), "HS256", kid="known")


def bad_ones() -> dict[str, str]:
    """Each kind of token that is refused, and what surrounds it."""
    return {
        "good": good(),
        "expired": good(exp=1),
        "other audience": good(aud=CANARY),
        "other issuer": good(iss=CANARY),
        "malformed expiry": good(exp=CANARY),
        "malformed tenant": signed(claims(tenant=[CANARY]), SECRET.encode(), "HS256", kid="known"),
        "wrong signature": signed(claims(sub=CANARY), CANARY.encode() * 4, "HS256", kid="known"),
        "odd header": signed(claims(sub=CANARY), SECRET.encode(), "HS256", kid=CANARY, typ=CANARY),
        "unknown key": signed(claims(sub=CANARY), SECRET.encode(), "HS256", kid=CANARY),
        "no token": CANARY,
        "no parts": f"{CANARY}.{CANARY}.{CANARY}",
        "malformed": f"{CANARY} {CANARY}",
        "too long": CANARY * 1000,
    }


@pytest.mark.parametrize("kind", list(bad_ones()))
@pytest.mark.parametrize("path", ["/ok", "/fails", "/forbidden", "/admin"])
async def test_a_token_comes_out_nowhere(kind: str, path: str) -> None:
    """Neither in logs and documents nor in what can be represented on the way."""
    token = bad_ones()[kind]
    shown: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        principal = current_principal()
        shown.append(f"{principal!r} {principal} {context_of(scope)!r} {current_request()!r} {require('pay')!r}")
        if path == "/fails":
            raise KeyError(principal)
        if path == "/forbidden":
            require("pay").check()
        await Echo()(scope, receive, send)

    keys = StaticKeys({"known": shared_secret(SECRET)})
    issuer = JwtIssuer(ISSUER, audience=AUDIENCE, keys=keys, tenant_claim="tenant")
    authenticator = JwtAuthenticator(issuer)
    layers = Stack(
        app,
        RequestId,
        AccessLog,
        Recovery,
        ClientAddress,
        partial(IpAllowlist, rules={"/admin": []}),
        partial(Authentication, authenticators=[authenticator]),
    )
    with log_of("holdfast", "jwt", "asyncio") as log:
        answer = await call(layers, "GET", path, {"Authorization": f"Bearer {token}", "X-Forwarded-For": CANARY})
    assert log.lines, "something must have been written, or this proves nothing"
    everything = [log.everything, *shown, repr(answer.messages), repr(answer.error), repr(issuer), repr(authenticator)]
    everything.append(repr(shared_secret(SECRET)))
    pieces = {CANARY, SECRET, token, *(piece for piece in token.split(".") if len(piece) > 8)}
    for text in everything:
        assert not [piece for piece in pieces if piece in text]


@pytest.mark.parametrize("kind", [kind for kind in bad_ones() if kind != "good"])
async def test_the_error_and_all_it_came_from_hold_nothing_of_the_token(kind: str) -> None:
    """Whoever logs it with its whole trace: parsers put what they read into their errors, so none is chained."""
    token = bad_ones()[kind]
    issuer = JwtIssuer(
        ISSUER, audience=AUDIENCE, keys=StaticKeys({"known": shared_secret(SECRET)}), tenant_claim="tenant"
    )
    scope = http_scope("GET", "/", {"Authorization": f"Bearer {token}"})
    with pytest.raises(Unauthenticated) as caught:
        await JwtAuthenticator(issuer).authenticate(scope)
    texts: list[str] = [repr(caught.value), "".join(traceback.format_exception(caught.value))]
    error: BaseException | None = caught.value
    while error is not None:
        texts.append(repr(vars(error)) + repr(error.args))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for text in texts:
        assert not any(piece in text for piece in (CANARY, SECRET, token))


async def test_keys_that_cannot_be_read_tell_nothing_of_themselves() -> None:
    """What an issuer answers instead of keys, and what stands in the query of its address."""
    with key_server() as server:
        for body, status in (
            (CANARY.encode(), 200),
            (CANARY.encode(), 500),
            (b'{"keys":["' + CANARY.encode() + b'"]}', 200),
        ):
            server.body, server.status = body, status
            keys = JwksKeys(f"{server.url}?key={CANARY}", algorithms=("RS256",))
            issuer = JwtIssuer(ISSUER, audience=AUDIENCE, keys=keys)
            layers = Stack(
                Echo(),
                RequestId,
                AccessLog,
                Recovery,
                partial(Authentication, authenticators=[JwtAuthenticator(issuer)]),
            )
            with log_of("holdfast") as log:
                answer = await call(layers, "GET", "/x", {"Authorization": f"Bearer {good()}"})
            await keys.aclose()
            assert answer.status == 503
            assert int(answer.header("Retry-After") or 0) >= 1
            assert "the keys of 127.0.0.1" in log.everything
            assert CANARY not in log.everything + repr(answer.messages) + repr(keys)
