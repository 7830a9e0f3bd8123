"""Who may use the ledger, and for which tenant.

A token names the tenant (`tenant`) and what its bearer may do (`scope`). Where no tokens are configured everybody is the tenant
`local` and may do everything: that is for trying the ledger out, and `__main__.py` serves it to this machine alone.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated

from fastapi import Depends

from holdfast.asgi.authentication import Authenticator, Principal
from holdfast.asgi.interface import Scope
from holdfast.asgi.problems import Problem, RequestRefused
from holdfast.errors import ConfigurationError
from holdfast.ext.fastapi import current_principal
from holdfast.ext.pyjwt import JwksKeys, JwtAuthenticator, JwtIssuer, KeySource, StaticKeys, shared_secret
from holdfast.shutdown import Drain

from .settings import LedgerSettings
from .tables import TENANT_MAX

__all__ = ["AUDIT", "EVERYTHING", "READ", "WRITE", "Tenant", "authenticator_for", "may_serve_openly"]

READ, WRITE, AUDIT = "ledger:read", "ledger:write", "ledger:audit"
EVERYTHING = frozenset({READ, WRITE, AUDIT})

# Databases disagree on what other letters are the same, and a tenant must never be another one.
_TENANT = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{TENANT_MAX - 1}}}")
_NO_TENANT = Problem(403, "tenant-unknown", detail="Who asks belongs to no tenant of the ledger. Nothing was applied.")


class _Everybody:
    """Believes that everybody is the one tenant there is."""

    challenge = "Bearer"

    def __init__(self) -> None:
        self._principal = Principal("developer", "ledger", "local", EVERYTHING)

    async def authenticate(self, _scope: Scope, /) -> Principal:
        return self._principal


def authenticator_for(settings: LedgerSettings, drain: Drain) -> Authenticator:
    """Who proves callers. What it opens is closed when `drain` ends the service.

    Raises:
        ConfigurationError: the settings contradict each other.
    """
    keys: KeySource
    if settings.token_jwks is not None and settings.token_secret is not None:
        raise ConfigurationError("set LEDGER_TOKEN_JWKS or LEDGER_TOKEN_SECRET, not both")
    if settings.token_jwks is not None:
        keys = published = JwksKeys(settings.token_jwks, algorithms=("RS256", "ES256"))
        drain.on_close("keys of the issuer", published.aclose)
    elif settings.token_secret is not None:
        keys = StaticKeys(shared_secret(settings.token_secret.get_secret_value()))
    else:
        return _Everybody()
    issuer = JwtIssuer(settings.token_issuer, audience=settings.token_audience, keys=keys, tenant_claim="tenant")
    return JwtAuthenticator(issuer)


def may_serve_openly(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _tenant(principal: Annotated[Principal | None, Depends(current_principal)]) -> str:
    if principal is None or principal.tenant is None or not _TENANT.fullmatch(principal.tenant):
        raise RequestRefused(_NO_TENANT)
    return principal.tenant


Tenant = Annotated[str, Depends(_tenant)]
"""A route's argument: for whom it works."""
