"""JSON Web Tokens: whose they are, checked all the way, or not at all.

    trusted = JwtIssuer(
        "https://issuer.example/",
        audience="ledger",
        keys=JwksKeys("https://issuer.example/.well-known/jwks.json", algorithms=("RS256",)),
        tenant_claim="tenant",
        permissions_claim="scope",
    )
    Authentication(app, authenticators=[JwtAuthenticator(trusted)])

What must hold, beyond what PyJWT checks by default: the algorithm is the one of the key, the key is one of the issuer that the
token names, `exp`, `iss`, `aud` and `sub` are there and of the right type, issuer and audience are exactly those configured, the
token is of an accepted `typ` and asks for no extension (`crit`). Keys that a token brings along (`jwk`, `jku`, `x5u`) are not
looked at. A verified token is not remembered: a signature costs 40 to 150 µs, a memory of tokens would be one more place that
holds them, and would outlive a key that was taken back.

Sources: RFC 7519, section 4.1; RFC 8725 (JWT best current practices), section 3; RFC 9068 (`at+jwt`).
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import jwt

from ...asgi.authentication import Principal, Unauthenticated, bearer_token
from ...asgi.interface import Scope
from ...deadline import seconds
from ...errors import ConfigurationError
from .claims import claim_names, principal_from
from .keys import VerificationKey

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["JwtAuthenticator", "JwtIssuer", "KeySource", "StaticKeys"]

_LEEWAY_MAX_S = 60.0
_HEADER_MAX = 2048

_REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "expired"),
    (jwt.ImmatureSignatureError, "not-yet-valid"),
    (jwt.InvalidAudienceError, "audience"),
    (jwt.InvalidIssuerError, "issuer"),
    (jwt.MissingRequiredClaimError, "claim-missing"),
    (jwt.InvalidSignatureError, "signature"),
    (jwt.InvalidAlgorithmError, "algorithm"),
    (jwt.PyJWTError, "malformed"),
)


class KeySource(Protocol):
    """Where the keys of one issuer are: `JwksKeys`, `StaticKeys`, or one's own."""

    async def key(self, kid: str | None, /) -> VerificationKey | None:
        """The key that a token means that names `kid`, or None: no such key.

        Raises:
            HoldfastError: it cannot be told at the moment.
        """


class StaticKeys:
    """Keys that are known at startup. Immutable.

    Args:
        keys: one key, for tokens with and without a `kid`; or several by their `kid`, which tokens then must have.

    Raises:
        ConfigurationError: there is none, or one is no `VerificationKey`.
    """

    __slots__ = ("_by_name", "_only")

    def __init__(self, keys: VerificationKey | Mapping[str, VerificationKey]) -> None:
        self._only = keys if isinstance(keys, VerificationKey) else None
        self._by_name = {} if isinstance(keys, VerificationKey) else dict(keys)
        if self._only is None and not (
            self._by_name and all(isinstance(one, VerificationKey) for one in self._by_name.values())
        ):
            raise ConfigurationError("give at least one key, made by public_key() or shared_secret()")

    async def key(self, kid: str | None, /) -> VerificationKey | None:
        """See `KeySource`."""
        if self._only is not None:
            return self._only
        return None if kid is None else self._by_name.get(kid)


class JwtIssuer:
    """Whose tokens are taken, and how they are read. Immutable.

    Args:
        issuer: exactly what `iss` must be.
        audience: exactly what `aud` must be, or hold: the name of this service; of several, one.
        keys: of this issuer alone.
        tenant_claim: where the tenant stands: a claim's name, or the names on the way into nested objects. Default None: tokens
            have no tenant.
        tenant_required: refuse tokens without a tenant, where there is a `tenant_claim`; default True.
        permissions_claim: where the permissions stand, one text with spaces in between or a list of texts; default `scope`;
            None: tokens grant none.
        types: what `typ` may be, in any letter case; None stands for a token that does not say. Default `JWT` and `at+jwt`.
        leeway: by how much clocks may differ, seconds or `timedelta`, default 10; at most 60.

    Raises:
        ConfigurationError: issuer or audience is missing, or a setting is outside its bounds.
    """

    __slots__ = ("_audience", "_keys", "_leeway_s", "_names", "_types", "issuer")

    def __init__(
        self,
        issuer: str,
        *,
        audience: str | Sequence[str],
        keys: KeySource,
        tenant_claim: str | tuple[str, ...] | None = None,
        tenant_required: bool = True,
        permissions_claim: str | tuple[str, ...] | None = "scope",
        types: Sequence[str | None] = ("JWT", "at+jwt"),
        leeway: float | timedelta = 10.0,
    ) -> None:
        if not isinstance(issuer, str) or not issuer or " " in issuer or not issuer.isprintable() or len(issuer) > 255:
            raise ConfigurationError(
                "issuer must be what the tokens' iss is: without it, anybody's tokens would be taken; no spaces, at most 255"
            )
        audiences = [audience] if isinstance(audience, str) else list(audience or ())
        if not audiences or not all(isinstance(one, str) and one for one in audiences):
            raise ConfigurationError(
                "audience must name this service: without it, tokens that are meant for others would be taken"
            )
        if isinstance(types, str) or not types:
            raise ConfigurationError("types must be several, not one text; None stands for tokens without a typ")
        self.issuer = issuer
        self._audience = audiences
        self._keys = keys
        self._names = claim_names(tenant_claim, permissions_claim, tenant_required=tenant_required)
        self._types = frozenset(_type(one) for one in types)
        self._leeway_s = seconds(leeway, name="leeway")
        if self._leeway_s > _LEEWAY_MAX_S:
            raise ConfigurationError(f"leeway must be at most {_LEEWAY_MAX_S:g} s: set the clocks instead")

    async def principal(self, token: str, header: Mapping[str, Any]) -> Principal:
        """Who `token` speaks of; `header` is its own, not verified yet.

        Raises:
            Unauthenticated: it does not hold.
            HoldfastError: the key cannot be read at the moment.
        """
        if _type(header.get("typ")) not in self._types:
            raise Unauthenticated("type")
        kid = header.get("kid")
        if "crit" in header or not (kid is None or isinstance(kid, str)):
            raise Unauthenticated("header-malformed")
        key = await self._keys.key(kid)
        if key is None:
            raise Unauthenticated("key-unknown")
        if header.get("alg") != key.algorithm:
            raise Unauthenticated("algorithm")
        claims = self._verified(token, key)
        return principal_from(claims, self._names, token)

    def _verified(self, token: str, key: VerificationKey) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=self.issuer,
                leeway=self._leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as error:
            reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
        except Exception:
            reason = "malformed"  # what came from outside is never our failure
        # Not chained: the errors of parsers hold what they read.
        raise Unauthenticated(reason)

    def __repr__(self) -> str:
        return f"<JwtIssuer {self.issuer}>"


def _type(typ: object) -> str | None:
    if typ is None:
        return None
    # RFC 7515 4.1.9: a media type, in any letter case, the prefix left out if there is no other slash.
    return typ.lower().removeprefix("application/") if isinstance(typ, str) else ""


class JwtAuthenticator:
    """Proves who asks by a bearer token in `Authorization`. Shared by all requests of an event loop.

    Args:
        issuers: whose tokens are taken; a token's `iss` tells which one has to vouch for it, with its own keys.
        length_max: bytes of the longest token that is looked at, default 8192.
        realm: what the challenge calls this service, default none; letters, digits, spaces, hyphens, dots.

    Attributes:
        challenge: `Bearer`, with the realm if there is one.

    Raises:
        ConfigurationError: there is no issuer, or two of one name, or a setting is outside its bounds.
    """

    __slots__ = ("_issuers", "_length_max", "_only", "challenge")

    def __init__(self, *issuers: JwtIssuer, length_max: int = 8192, realm: str | None = None) -> None:
        self._issuers = {one.issuer: one for one in issuers}
        if not issuers or len(self._issuers) != len(issuers):
            raise ConfigurationError("name at least one issuer, and each of them once")
        if length_max < 1:
            raise ConfigurationError("length_max must be 1 or more")
        if realm is not None and not (
            realm.isascii() and realm.replace(" ", "").replace("-", "").replace(".", "").isalnum()
        ):
            raise ConfigurationError("realm must be made of letters, digits, spaces, hyphens and dots")
        self._only = issuers[0] if len(issuers) == 1 else None
        self._length_max = length_max
        self.challenge = "Bearer" if realm is None else f'Bearer realm="{realm}"'

    async def authenticate(self, scope: Scope, /) -> Principal | None:
        """See `holdfast.asgi.authentication.Authenticator`."""
        token = bearer_token(scope["headers"], length_max=self._length_max)
        if token is None:
            return None
        parts = token.split(".")
        if len(parts) != 3 or len(parts[0]) > _HEADER_MAX:
            raise Unauthenticated("malformed")
        header = _object(parts[0])
        issuer = self._only
        if issuer is None:
            # Not verified yet: it chooses whose keys have to verify it, and PyJWT compares it again.
            name = _object(parts[1]).get("iss")
            issuer = self._issuers.get(name) if isinstance(name, str) else None
            if issuer is None:
                raise Unauthenticated("issuer")
        return await issuer.principal(token, header)


def _object(segment: str) -> dict[str, Any]:
    try:
        found = json.loads(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Unauthenticated("malformed")
    return found
