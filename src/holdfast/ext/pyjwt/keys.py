"""Keys that verify, each bound to the one algorithm it is for.

    shared_secret(secret, "HS256")                  # who verifies can also forge: for one service and its tests
    public_key(pem, "RS256")

A token's header names an algorithm; here it only has to name the one of its key. An algorithm that follows the header is how
a public key became an HMAC secret (CVE-2022-29217) and an allow-list a comparison of texts (CVE-2026-48523).

Sources: RFC 7518, sections 3.1 to 3.5; RFC 8725 (best current practices), sections 3.1, 3.2 and 3.5; RFC 8037 for EdDSA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jwt
from jwt.algorithms import Algorithm, get_default_algorithms

from ...errors import ConfigurationError, MissingExtra

__all__ = [
    "ALGORITHMS",
    "ASYMMETRIC",
    "VerificationKey",
    "algorithms_checked",
    "key_from_jwk",
    "public_key",
    "shared_secret",
]

ALGORITHMS: Mapping[str, tuple[str, str | None]] = {
    "HS256": ("oct", None),
    "HS384": ("oct", None),
    "HS512": ("oct", None),
    "RS256": ("RSA", None),
    "RS384": ("RSA", None),
    "RS512": ("RSA", None),
    "PS256": ("RSA", None),
    "PS384": ("RSA", None),
    "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""Each algorithm that is taken, with the key type and the curve it needs. `none` is none of them."""

ASYMMETRIC = frozenset(name for name, (kind, _) in ALGORITHMS.items() if kind != "oct")
"""Those whose verifier cannot sign."""

_IMPLEMENTED = get_default_algorithms()

_NO_SECRET = (b"-----begin", b"---- begin", b"ssh-", b"ecdsa-", b"sk-ssh-", b"sk-ecdsa-", b"{", b"[")


class VerificationKey(NamedTuple):
    """A key and what it may be used for. Immutable.

    Attributes:
        algorithm: the one that tokens signed with it must name.
        key: as PyJWT takes it.
    """

    algorithm: str
    key: Any

    def __repr__(self) -> str:
        return f"<VerificationKey {self.algorithm}>"


def shared_secret(secret: str | bytes, algorithm: str = "HS256") -> VerificationKey:
    """A key that signer and verifier share.

    Args:
        secret: at least as many bytes as the algorithm's hash has (32, 48, 64), drawn at random; a text is taken as UTF-8.
        algorithm: `HS256` (default), `HS384` or `HS512`.

    Raises:
        ConfigurationError: the algorithm is another one, the secret is too short, or it looks like a key of another kind (PEM,
            SSH, JWK, DER), which somebody may know.
    """
    implementation = _implementation(algorithm, "oct")
    raw = secret.encode() if isinstance(secret, str) else bytes(secret)
    if raw.lstrip().lower().startswith(_NO_SECRET):
        raise _looks_like_a_key()
    try:
        key = implementation.prepare_key(raw)
    except (jwt.PyJWTError, TypeError, ValueError):
        raise _looks_like_a_key() from None
    return _long_enough(VerificationKey(algorithm, key), implementation)


def _looks_like_a_key() -> ConfigurationError:
    return ConfigurationError(
        "the secret is empty or looks like a PEM, SSH, DER or JSON key: anybody who knows that public key could sign. "
        "Give public keys to public_key(), and draw secrets at random"
    )


def public_key(pem: str | bytes, algorithm: str) -> VerificationKey:
    """A public key, in PEM (`BEGIN PUBLIC KEY`).

    Args:
        pem: the key.
        algorithm: what its owner signs with; it must fit the key's type and curve.

    Raises:
        ConfigurationError: the algorithm is unknown or symmetric, the key cannot be read, does not fit, is too short (RSA: 2048
            bits) or is a private one.
    """
    implementation = _implementation(algorithm, *{kind for kind, _ in ALGORITHMS.values()} - {"oct"})
    try:
        key = implementation.prepare_key(pem)
        described = implementation.to_jwk(key, as_dict=True)
    except (jwt.PyJWTError, TypeError, ValueError):
        raise ConfigurationError(f"the key for {algorithm} cannot be read, or is of another type or curve") from None
    if "d" in described:
        raise ConfigurationError("this is a private key: who only verifies must not have it; give its public half")
    if (described.get("kty"), described.get("crv")) != ALGORITHMS[algorithm]:
        raise ConfigurationError(f"the key for {algorithm} is of another type or curve")
    return _long_enough(VerificationKey(algorithm, key), implementation)


def _implementation(algorithm: str, *kinds: str) -> Algorithm:
    if algorithm not in ALGORITHMS or ALGORITHMS[algorithm][0] not in kinds:
        fitting = ", ".join(name for name, (kind, _) in ALGORITHMS.items() if kind in kinds)
        raise ConfigurationError(f"the algorithm for this kind of key must be one of {fitting}")
    if algorithm not in _IMPLEMENTED:
        raise MissingExtra(f"{algorithm} needs cryptography: pip install 'holdfast[pyjwt]'")
    return _IMPLEMENTED[algorithm]


def _long_enough(key: VerificationKey, implementation: Algorithm) -> VerificationKey:
    complaint = implementation.check_key_length(key.key)
    if complaint:
        raise ConfigurationError(f"the key for {key.algorithm} is too short: {complaint}")
    return key


def algorithms_checked(algorithms: tuple[str, ...]) -> tuple[str, ...]:
    """`algorithms`, if each can be used with keys that somebody publishes.

    Raises:
        ConfigurationError: there is none, or one is unknown or symmetric.
    """
    if isinstance(algorithms, str) or not algorithms or not ASYMMETRIC.issuperset(algorithms):
        raise ConfigurationError(
            f"algorithms must be some of {', '.join(sorted(ASYMMETRIC))}, as a tuple: those that the issuer signs with"
        )
    for algorithm in algorithms:
        _implementation(algorithm, ALGORITHMS[algorithm][0])
    return tuple(algorithms)


def key_from_jwk(jwk: Mapping[str, object], algorithms: tuple[str, ...]) -> VerificationKey | None:
    """The key that a published JWK describes, or None if it is of no use here; pure.

    Of no use are: symmetric and private keys, those for encryption (`use`, `key_ops`), those whose `alg` is not among
    `algorithms`, those without `alg` that fit none or several of them, and those that are too short or cannot be read.
    """
    shape = (jwk.get("kty"), jwk.get("crv"))
    fitting = [name for name in algorithms if ALGORITHMS[name] == shape]
    if "alg" in jwk:
        fitting = [name for name in fitting if name == jwk["alg"]]
    operations = jwk.get("key_ops", ["verify"])
    if len(fitting) != 1 or "d" in jwk or "k" in jwk or jwk.get("use", "sig") != "sig":
        return None
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        key = _IMPLEMENTED[fitting[0]].from_jwk(dict(jwk))
        too_short = _IMPLEMENTED[fitting[0]].check_key_length(key)
    except Exception:
        return None  # what others publish may be anything
    return None if too_short else VerificationKey(fitting[0], key)
