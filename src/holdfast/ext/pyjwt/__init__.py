"""JSON Web Tokens by PyJWT: `JwtAuthenticator` for `holdfast.asgi.authentication`, keys, and keys that an issuer publishes.

from holdfast.ext.pyjwt import JwksKeys, JwtAuthenticator, JwtIssuer
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec

from ...errors import MissingExtra

_MISSING = [name for name in ("jwt", "cryptography", "httpx2") if find_spec(name) is None]
if _MISSING:
    raise MissingExtra(f"tokens need {', '.join(_MISSING)}: pip install 'holdfast[pyjwt]'")
# Before 2.13 a key's own algorithm did not bind its use (CVE-2026-48523).
if tuple(map(int, version("pyjwt").split(".")[:2])) < (2, 13):
    raise MissingExtra("tokens need PyJWT 2.13 or newer: pip install 'holdfast[pyjwt]'")

from .authenticator import JwtAuthenticator, JwtIssuer, KeySource, StaticKeys  # noqa: E402 - after the check above
from .jwks import JwksKeys  # noqa: E402
from .keys import VerificationKey, public_key, shared_secret  # noqa: E402

__all__ = [
    "JwksKeys",
    "JwtAuthenticator",
    "JwtIssuer",
    "KeySource",
    "StaticKeys",
    "VerificationKey",
    "public_key",
    "shared_secret",
]
