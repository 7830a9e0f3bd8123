"""Keys that verify: each for one algorithm, and none that somebody else may know."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest

from holdfast.errors import ConfigurationError
from holdfast.ext.pyjwt import public_key, shared_secret
from holdfast.ext.pyjwt.keys import ALGORITHMS, ASYMMETRIC, algorithms_checked, key_from_jwk
from tests.asgi.tokens import SECRET, jwk, pem, private, ssh

ASYMMETRIC_ONES = ("RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_secret_is_for_one_algorithm(algorithm: str) -> None:
    """As text or bytes."""
    assert shared_secret(SECRET, algorithm).algorithm == algorithm
    assert shared_secret(SECRET.encode(), algorithm) == shared_secret(SECRET, algorithm)


@pytest.mark.parametrize("algorithm", ASYMMETRIC_ONES)
def test_what_looks_like_a_public_key_is_no_secret(algorithm: str) -> None:
    """PEM, SSH, DER and JSON, also with something in front: anybody who has it could sign."""
    from cryptography.hazmat.primitives import serialization

    der = (
        private(algorithm)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    texts: list[Any] = [pem(algorithm), "\n  " + pem(algorithm), pem(algorithm).lower(), json.dumps(jwk(algorithm))]
    texts += [json.dumps({"keys": [jwk(algorithm)]}), " " + json.dumps([jwk(algorithm)]), der]
    texts += [ssh(algorithm), "  " + ssh(algorithm)]
    for text in texts:
        with pytest.raises(ConfigurationError, match="looks like"):
            shared_secret(text)


@pytest.mark.parametrize(
    "text", ["sk-ssh-ed25519@openssh.com AAAA" + "x" * 40, "ssh-ed25519 AAAAC3NzaC1" + "x" * 40, ""]
)
def test_other_forms_of_keys_are_no_secrets(text: str) -> None:
    """Keys on security tokens, the kind PyJWT once took, and nothing at all."""
    with pytest.raises(ConfigurationError, match="looks like"):
        shared_secret(text)


@pytest.mark.parametrize(("algorithm", "size"), [("HS256", 31), ("HS384", 47), ("HS512", 63)])
def test_a_short_secret_is_refused(algorithm: str, size: int) -> None:
    """RFC 7518 3.2: not less than the hash has."""
    with pytest.raises(ConfigurationError, match="too short"):
        shared_secret("s" * size, algorithm)
    assert shared_secret("s" * (size + 1), algorithm)


@pytest.mark.parametrize("algorithm", ASYMMETRIC_ONES)
def test_a_public_key_is_for_one_algorithm(algorithm: str) -> None:
    """And fits no other type or curve."""
    assert public_key(pem(algorithm), algorithm).algorithm == algorithm
    kind = ALGORITHMS[algorithm]
    for other in sorted(ASYMMETRIC):
        if ALGORITHMS[other] != kind:
            with pytest.raises(ConfigurationError, match="type or curve"):
                public_key(pem(algorithm), other)


def test_what_is_no_public_key_is_refused() -> None:
    """Private keys, short ones, unknown algorithms, and texts that are no key; none of it is repeated."""
    from cryptography.hazmat.primitives import serialization

    own = private("RS256").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(ConfigurationError, match="private key"):
        public_key(own, "RS256")
    with pytest.raises(ConfigurationError, match="too short"):
        public_key(pem("RS256", "short", 1024), "RS256")
    for algorithm in ("none", "HS256", "ES256K", "rs256", ""):
        with pytest.raises(ConfigurationError, match="must be one of"):
            public_key(pem("RS256"), algorithm)
    for algorithm in ("none", "RS256", ""):
        with pytest.raises(ConfigurationError, match="must be one of"):
            shared_secret(SECRET, algorithm)
    with pytest.raises(ConfigurationError) as caught:
        public_key("c4nary", "RS256")
    assert "c4nary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_key_shows_nothing_of_itself() -> None:
    """Representations end in logs."""
    assert repr(shared_secret(SECRET)) == "<VerificationKey HS256>"


@pytest.mark.parametrize("algorithm", ASYMMETRIC_ONES)
@pytest.mark.parametrize("named", [True, False])
def test_a_published_key_is_taken_for_the_algorithm_that_it_fits(algorithm: str, named: bool) -> None:
    """Also if it does not name one, as long as only one fits."""
    published = jwk(algorithm) if named else jwk(algorithm, alg=None)
    key = key_from_jwk(published, (algorithm, "HS512"))
    assert key is not None
    assert key.algorithm == algorithm


SECRET_JWK = {"kty": "oct", "k": urlsafe_b64encode(SECRET.encode()).decode(), "alg": "HS256", "kid": "s"}


@pytest.mark.parametrize(
    ("kind", "changes", "algorithms"),
    [
        (None, SECRET_JWK, ("RS256",)),
        (None, SECRET_JWK, ("HS256",)),
        (None, {**SECRET_JWK, "alg": "RS256"}, ("RS256",)),
        ("RS256", {}, ("ES256",)),
        ("RS256", {}, ("RS384",)),
        ("RS256", {"alg": "HS256"}, ("RS256", "HS256")),
        ("RS256", {"alg": "none"}, ("RS256",)),
        ("RS256", {"alg": "RSA-OAEP"}, ("RS256",)),
        ("RS256", {"alg": ["RS256"]}, ("RS256",)),
        ("RS256", {"alg": None}, ("RS256", "PS256")),
        ("RS256", {"use": "enc"}, ("RS256",)),
        ("RS256", {"key_ops": ["encrypt"]}, ("RS256",)),
        ("RS256", {"key_ops": "verify"}, ("RS256",)),
        ("RS256", {"d": "AQAB"}, ("RS256",)),
        ("RS256", {"n": "AQAB"}, ("RS256",)),
        ("RS256", {"n": 7}, ("RS256",)),
        ("RS256", {"n": "!"}, ("RS256",)),
        ("ES256", {"crv": "P-384"}, ("ES256", "ES384")),
        ("ES256", {"x": "AAAA"}, ("ES256",)),
        ("ES256", {"kty": "RSA"}, ("RS256", "ES256")),
        ("EdDSA", {"crv": "X25519"}, ("EdDSA",)),
        ("EdDSA", {"kty": ["OKP"]}, ("EdDSA",)),
        (None, {}, ("RS256",)),
    ],
)
def test_a_published_key_of_no_use_is_left_out(
    kind: str | None, changes: dict[str, Any], algorithms: tuple[str, ...]
) -> None:
    """Symmetric, private, for something else, ambiguous, too short or broken."""
    published = changes if kind is None else jwk(kind, **changes)
    assert key_from_jwk(published, algorithms) is None


@pytest.mark.parametrize("algorithms", [(), "RS256", ("HS256",), ("none",), ("RS256", "HS256"), ("RS1",)])
def test_published_keys_are_never_symmetric(algorithms: Any) -> None:
    """What is published is known to everybody."""
    with pytest.raises(ConfigurationError, match="algorithms must be"):
        algorithms_checked(algorithms)
