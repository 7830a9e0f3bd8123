"""Tokens for tests: keys of every kind, made once, and what an issuer would sign with them."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

__all__ = ["AUDIENCE", "ISSUER", "SECRET", "claims", "jwk", "now", "pem", "private", "signed", "ssh", "unsigned"]

ISSUER = "https://issuer.example/"
AUDIENCE = "ledger"
SECRET = "0123456789abcdef" * 4

_CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


def private(algorithm: str, name: str = "one", bits: int = 2048) -> Any:
    """A private key for `algorithm`; another one for each `name`."""
    return _made(algorithm, name, bits)


@cache
def _made(algorithm: str, _: str, bits: int) -> Any:
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, bits)


def pem(algorithm: str, name: str = "one", bits: int = 2048) -> str:
    """Its public half, as PEM."""
    public = private(algorithm, name, bits).public_key()
    return str(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    )


def ssh(algorithm: str, name: str = "one") -> str:
    """Its public half, as OpenSSH writes it."""
    public = private(algorithm, name).public_key()
    return str(public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode())


def jwk(algorithm: str, kid: str | None = None, name: str = "one", **more: Any) -> dict[str, Any]:
    """Its public half, as an issuer publishes it; a member that is None is left out."""
    described = get_default_algorithms()[algorithm].to_jwk(private(algorithm, name).public_key(), as_dict=True)
    members = {**described, "kid": kid, "use": "sig", "alg": algorithm, "key_ops": None, **more}
    return {name: value for name, value in members.items() if value is not None}


def now() -> int:
    """Seconds since 1970, as PyJWT reads them: it takes no clock."""
    return int(datetime.now(UTC).timestamp())  # noqa: TID251 - the times of tokens are of this clock


def claims(**more: Any) -> dict[str, Any]:
    """What a token that holds says; a claim that is None is left out."""
    members = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "exp": now() + 600,
        "tenant": "north",
        "scope": "read write",
        **more,
    }
    return {name: value for name, value in members.items() if value is not None}


def signed(
    payload: dict[str, Any] | None = None,
    key: Any = None,
    algorithm: str = "RS256",
    *,
    kid: str | None = None,
    **header: Any,
) -> str:
    """A token, signed with `key` (default: the one for `algorithm`); header members that are None are left out."""
    members = {"typ": "JWT", "alg": algorithm, "kid": kid, **header}
    head = _segment({name: value for name, value in members.items() if value is not None})
    body = _segment(claims() if payload is None else payload)
    implementation = get_default_algorithms()[algorithm]
    signature = implementation.sign(f"{head}.{body}".encode(), private(algorithm) if key is None else key)
    return f"{head}.{body}.{urlsafe_b64encode(signature).decode().rstrip('=')}"


def unsigned(payload: dict[str, Any] | None = None, **header: Any) -> str:
    """A token with `alg` none and an empty signature."""
    head = _segment({"typ": "JWT", "alg": "none", **header})
    return f"{head}.{_segment(claims() if payload is None else payload)}."


def _segment(members: dict[str, Any]) -> str:
    return urlsafe_b64encode(json.dumps(members).encode()).decode().rstrip("=")
