"""Risk: algorithm confusion. Whatever a token says of itself, the issuer's key and that key's algorithm verify it, or 401."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from functools import partial
from typing import Any

import jwt
import pytest
from jwt.algorithms import HMACAlgorithm

from holdfast.asgi.authentication import Authentication
from holdfast.asgi.stack import Stack
from holdfast.ext.pyjwt import JwtAuthenticator, JwtIssuer, StaticKeys, VerificationKey, public_key, shared_secret
from tests.asgi.asgi_calls import Echo, call
from tests.asgi.log_capture import log_of
from tests.asgi.tokens import AUDIENCE, ISSUER, SECRET, claims, jwk, now, pem, private, signed, ssh, unsigned

OTHER = "https://other.example/"


def layers(*issuers: JwtIssuer) -> tuple[Stack, Echo]:
    """An application that takes tokens of `issuers`; default one with a key of each kind."""
    echo = Echo()
    some = issuers or (
        JwtIssuer(
            ISSUER,
            audience=AUDIENCE,
            keys=StaticKeys(
                {
                    "rsa": public_key(pem("RS256"), "RS256"),
                    "pss": public_key(pem("PS256", "pss"), "PS256"),
                    "ec": public_key(pem("ES256"), "ES256"),
                    "ed": public_key(pem("EdDSA"), "EdDSA"),
                    "hs": shared_secret(SECRET),
                }
            ),
        ),
    )
    return Stack(echo, partial(Authentication, authenticators=[JwtAuthenticator(*some)])), echo


async def reason_for(token: str, *issuers: JwtIssuer) -> str:
    """Why it was refused, as the log says; `taken` if it was not."""
    app, echo = layers(*issuers)
    with log_of("holdfast.asgi") as log:
        answer = await call(app, "GET", "/x", {"Authorization": f"Bearer {token}"})
    assert answer.status == (200 if echo.calls else 401)
    assert answer.error is None
    if echo.calls:
        return "taken"
    return str(log.lines[0]["message"]).rpartition(": ")[2]


def by_hmac(text: str, **header: Any) -> str:
    """A token, signed with a text that everybody knows, as an attacker does it: past PyJWT's own checks."""
    head = urlsafe_b64encode(json.dumps({"typ": "JWT", "alg": "HS256", **header}).encode()).decode().rstrip("=")
    body = urlsafe_b64encode(json.dumps(claims()).encode()).decode().rstrip("=")
    signature = HMACAlgorithm(HMACAlgorithm.SHA256).sign(f"{head}.{body}".encode(), text.encode())
    return f"{head}.{body}.{urlsafe_b64encode(signature).decode().rstrip('=')}"


@pytest.mark.parametrize(
    ("kid", "algorithm", "name"),
    [("rsa", "RS256", "one"), ("pss", "PS256", "pss"), ("ec", "ES256", "one"), ("ed", "EdDSA", "one")],
)
async def test_an_honest_token_is_taken(kid: str, algorithm: str, name: str) -> None:
    """Else what follows proves nothing."""
    assert await reason_for(signed(None, private(algorithm, name), algorithm, kid=kid)) == "taken"
    assert await reason_for(jwt.encode(claims(), SECRET, headers={"kid": "hs"})) == "taken"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "nOnE"])
@pytest.mark.parametrize("kid", ["rsa", "hs", None])
async def test_a_token_without_a_signature_is_refused(algorithm: str, kid: str | None) -> None:
    """`none`, however it is spelled, with and without a key's name."""
    header = {"alg": algorithm} if kid is None else {"alg": algorithm, "kid": kid}
    assert await reason_for(unsigned(None, **header)) in {"algorithm", "key-unknown"}


@pytest.mark.parametrize("kid", ["rsa", "ec", "ed"])
async def test_a_public_key_is_no_secret(kid: str) -> None:
    """HS256, signed with the text of the public key in every form in which it is published (CVE-2022-29217)."""
    algorithm = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}[kid]
    forms = [pem(algorithm), pem(algorithm).strip(), ssh(algorithm), json.dumps(jwk(algorithm)), ssh(algorithm) + "\n"]
    for form in forms:
        assert await reason_for(by_hmac(form, kid=kid)) == "algorithm"
        assert await reason_for(by_hmac(form, kid="hs")) == "signature"


async def test_the_algorithm_of_the_header_does_not_choose() -> None:
    """Every other name than the key's own is refused, though each is one that some key here may have (CVE-2026-48523)."""
    honest = signed(None, kid="rsa")
    _, body, signature = honest.split(".")
    others: list[Any] = ["RS384", "PS256", "ES256", "EdDSA", "HS256", "rs256", "RS256 ", ["RS256"], None, 0, {}]
    for algorithm in others:
        head = urlsafe_b64encode(json.dumps({"typ": "JWT", "alg": algorithm, "kid": "rsa"}).encode()).decode()
        assert await reason_for(f"{head.rstrip('=')}.{body}.{signature}") == "algorithm"
    # and one that is honestly signed with another algorithm by the very same key
    assert await reason_for(signed(None, private("RS256"), "PS256", kid="rsa")) == "algorithm"
    assert await reason_for(signed(None, private("RS256"), "RS512", kid="rsa")) == "algorithm"


async def test_a_key_that_the_token_brings_along_is_not_looked_at() -> None:
    """`jwk`, `jku` and `x5u` are the attacker's; so is a `kid` that looks like a path or a statement."""
    stranger = private("RS256", "stranger")
    brought: dict[str, Any] = {
        "jwk": jwk("RS256", name="stranger"),
        "jku": "http://127.0.0.1:1/",
        "x5u": "http://127.0.0.1:1/",
    }
    assert await reason_for(signed(None, stranger, kid="rsa", **brought)) == "signature"
    for kid in ("../../dev/null", "rsa' OR '1'='1", "", "RSA", "rsa\x00", "x" * 1000):
        assert await reason_for(signed(None, stranger, kid=kid)) == "key-unknown"
    for odd in (7, ["rsa"], {"a": 1}, True):
        assert await reason_for(signed(None, kid=odd)) == "header-malformed"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"typ": None}, "type"),
        ({"typ": "JWE"}, "type"),
        ({"typ": "id+jwt"}, "type"),
        ({"typ": ["JWT"]}, "type"),
        ({"typ": "application/jwt"}, "taken"),
        ({"typ": "AT+JWT"}, "taken"),
        ({"crit": ["b64"], "b64": True}, "header-malformed"),
        ({"crit": []}, "header-malformed"),
        ({"b64": False}, "malformed"),
    ],
)
async def test_the_header_says_nothing_unexpected(header: dict[str, Any], reason: str) -> None:
    """Another type of token, or an extension that nobody here understands."""
    assert await reason_for(signed(None, kid="rsa", **header)) == reason


async def test_a_key_of_another_issuer_vouches_for_nothing() -> None:
    """Two issuers are trusted; each for its own tokens, whatever the names of their keys."""

    def issuer(name: str, key: str) -> JwtIssuer:
        keys = StaticKeys({"same": public_key(pem("ES256", key), "ES256"), key: public_key(pem("ES256", key), "ES256")})
        return JwtIssuer(name, audience=AUDIENCE, keys=keys)

    both = issuer(ISSUER, "a"), issuer(OTHER, "b")

    def token(name: str | None, key: str, kid: str) -> str:
        return signed(claims(iss=name), private("ES256", key), "ES256", kid=kid)

    assert await reason_for(token(ISSUER, "a", "a"), *both) == "taken"
    assert await reason_for(token(OTHER, "b", "same"), *both) == "taken"
    assert await reason_for(token(ISSUER, "b", "b"), *both) == "key-unknown"
    assert await reason_for(token(ISSUER, "b", "same"), *both) == "signature"
    assert await reason_for(token("https://third.example/", "a", "a"), *both) == "issuer"
    assert await reason_for(token(None, "a", "a"), *both) == "issuer"
    assert await reason_for(signed(claims(iss=[ISSUER]), private("ES256", "a"), "ES256", kid="a"), *both) == "issuer"
    # alone, the issuer's name is compared after the signature
    assert await reason_for(token(OTHER, "a", "a"), both[0]) == "issuer"


@pytest.mark.parametrize("changed", [0, 1, 2])
async def test_a_changed_token_is_refused(changed: int) -> None:
    """A byte of any part."""
    parts = signed(None, kid="rsa").split(".")
    part = parts[changed]
    middle = len(part) // 2
    parts[changed] = part[:middle] + ("A" if part[middle] != "A" else "B") + part[middle + 1 :]
    assert await reason_for(".".join(parts)) != "taken"


@pytest.mark.parametrize(
    "token",
    [
        "a",
        "a.b",
        "a.b.c",
        "..",
        "....",
        "e30.e30.",
        "e30.e30.e30.e30",
        "e30.e30.e30.e30.e30",
        "bnVsbA.e30.e30",
        "W10.e30.e30",
        "eyJ0eXAiOiJKV1QifQ.e30.e30",
        "A" * 3000 + ".e30.e30",
        "A" * 9000,
        urlsafe_b64encode(b"[" * 1500).decode().rstrip("=") + ".e30.e30",
        urlsafe_b64encode(b'{"a":' * 300).decode().rstrip("=") + ".e30.e30",
        urlsafe_b64encode(b'{"typ":' + b"9" * 1400 + b"}").decode().rstrip("=") + ".e30.e30",
        urlsafe_b64encode(b"\xff\xfe{}").decode().rstrip("=") + ".e30.e30",
    ],
)
async def test_what_is_no_token_is_refused(token: str) -> None:
    """Truncated, nested, encrypted, too long: 401, and never an error of ours."""
    assert await reason_for(token) != "taken"
    two = [JwtIssuer(name, audience="a", keys=StaticKeys(shared_secret(SECRET))) for name in (ISSUER, OTHER)]
    assert await reason_for(token, *two) != "taken"


async def test_a_deep_payload_is_refused() -> None:
    """Signed, and still no reason to fall over."""
    deep = "[" * 2000 + "]" * 2000
    head = urlsafe_b64encode(b'{"typ":"JWT","alg":"HS256","kid":"hs"}').decode().rstrip("=")
    body = urlsafe_b64encode(f'{{"exp":{now() + 60},"x":{deep}}}'.encode()).decode().rstrip("=")
    signature = HMACAlgorithm(HMACAlgorithm.SHA256).sign(f"{head}.{body}".encode(), SECRET.encode())
    token = f"{head}.{body}.{urlsafe_b64encode(signature).decode().rstrip('=')}"
    assert await reason_for(token) in {"malformed", "claim-missing"}


async def test_planted_confusion_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests above would see of a verifier that lets the header choose: the forged token is taken by it."""

    class Believing(StaticKeys):
        async def key(self, kid: str | None, /) -> VerificationKey:
            return VerificationKey("HS256", pem("RS256"))

    issuer = JwtIssuer(ISSUER, audience=AUDIENCE, keys=Believing(shared_secret(SECRET)))
    assert await reason_for(by_hmac(pem("RS256")), issuer) == "malformed"  # PyJWT refuses such a secret as well
    monkeypatch.setattr(HMACAlgorithm, "prepare_key", lambda _, key: key.encode())
    assert await reason_for(by_hmac(pem("RS256")), issuer) == "taken"
