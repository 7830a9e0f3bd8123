"""From the claims of a verified token to a `Principal`: which claim means what, and of which type it must be. Pure.

A claim of another type than expected is refused and never converted: `"tenant": ["a", "b"]` is no tenant, and a list where a
text was expected has opened doors elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import NamedTuple

from ...asgi.authentication import Principal, Unauthenticated
from ...errors import ConfigurationError

__all__ = ["ClaimNames", "claim_names", "principal_from"]

_PERMISSIONS_MAX = 512
_PERMISSION_LENGTH_MAX = 255

Path = tuple[str, ...]


class ClaimNames(NamedTuple):
    """Where in a token stands what. Made by `claim_names`.

    Attributes:
        tenant: the way to the tenant, or None: tokens have none.
        tenant_required: a token without it is refused.
        permissions: the way to the permissions, or None: tokens grant none.
    """

    tenant: Path | None
    tenant_required: bool
    permissions: Path | None


def claim_names(tenant: str | Path | None, permissions: str | Path | None, *, tenant_required: bool) -> ClaimNames:
    """The ways to the claims: a name, or the names along the way into nested objects (`("realm_access", "roles")`).

    Raises:
        ConfigurationError: a way is empty or holds no name.
    """
    return ClaimNames(_path(tenant, "tenant_claim"), tenant_required, _path(permissions, "permissions_claim"))


def _path(path: str | Path | None, name: str) -> Path | None:
    if path is None:
        return None
    names = (path,) if isinstance(path, str) else tuple(path)
    if not names or not all(isinstance(one, str) and one for one in names):
        raise ConfigurationError(f"{name} must be the name of a claim, or a tuple of the names on the way to it")
    return names


def principal_from(claims: Mapping[str, object], names: ClaimNames, token: str) -> Principal:
    """Who a token speaks of, once its signature, its times, its issuer and its audience hold.

    Args:
        claims: what it says.
        names: where what stands.
        token: itself, for its hash where it has no `jti`.

    Raises:
        Unauthenticated: a claim is missing or of the wrong type. The reason names the claim's role, never a value.
    """
    expires = claims.get("exp")
    # PyJWT also takes "1700000000", true and 1e308; a date in a text is somebody's mistake, and not ours to mend.
    if isinstance(expires, bool) or not isinstance(expires, (int, float)) or not _is_moment(expires):
        raise Unauthenticated("expiry-malformed")
    subject, issuer = claims.get("sub"), claims.get("iss")
    if not isinstance(subject, str) or not isinstance(issuer, str):
        raise Unauthenticated("subject-malformed")
    tenant = _found(claims, names.tenant)
    if tenant is None and names.tenant is not None and names.tenant_required:
        raise Unauthenticated("tenant-missing")
    if tenant is not None and not isinstance(tenant, str):
        raise Unauthenticated("tenant-malformed")
    try:
        return Principal(
            subject,
            issuer,
            tenant,
            _permissions(_found(claims, names.permissions)),
            _token_id(claims.get("jti"), issuer, token),
            MappingProxyType(dict(claims)),
        )
    except ValueError:
        raise Unauthenticated("name-malformed") from None


def _is_moment(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _found(claims: Mapping[str, object], path: Path | None) -> object:
    if path is None:
        return None
    value: object = claims
    for name in path:
        if not isinstance(value, Mapping):
            # Something else stands on the way: that is not the same as nothing.
            raise Unauthenticated("claim-malformed")
        value = value.get(name)
        if value is None:
            return None
    return value


def _permissions(value: object) -> frozenset[str]:
    if value is None:
        return frozenset()
    # RFC 8693 4.2: a `scope` is one text, words with spaces in between; roles usually come as a list.
    words = value.split(" ") if isinstance(value, str) else value
    if not isinstance(words, list) or len(words) > _PERMISSIONS_MAX:
        raise Unauthenticated("permissions-malformed")
    if not all(isinstance(word, str) and len(word) <= _PERMISSION_LENGTH_MAX for word in words):
        raise Unauthenticated("permissions-malformed")
    return frozenset(word for word in words if word)


def _token_id(jti: object, issuer: str, token: str) -> str:
    # A hash either way: a list of revoked tokens, or a log, then holds nothing that could be used.
    text = f"jti {issuer} {jti}" if isinstance(jti, str) and jti else f"token {token}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
