"""`python -m examples.ledger.token north ada`: a token for an hour, signed with LEDGER_TOKEN_SECRET, for trying out."""

from __future__ import annotations

import argparse
import sys
import time

import jwt

from .access import EVERYTHING
from .settings import LedgerSettings

__all__ = ["main", "token"]


def token(settings: LedgerSettings, tenant: str, subject: str, scope: str, lasts_s: float = 3600) -> str:
    """A token of the configured issuer.

    Raises:
        ValueError: there is no secret to sign with.
    """
    if settings.token_secret is None:
        raise ValueError("set LEDGER_TOKEN_SECRET to a random text of 32 characters or more, for the service as well")
    claims = {
        "iss": settings.token_issuer,
        "aud": settings.token_audience,
        "sub": subject,
        "tenant": tenant,
        "scope": scope,
        "exp": int(time.time() + lasts_s),
    }
    return jwt.encode(claims, settings.token_secret.get_secret_value(), algorithm="HS256")


def main() -> None:
    """Print one."""
    parser = argparse.ArgumentParser("python -m examples.ledger.token", description=__doc__)
    parser.add_argument("tenant", help="for whom: north")
    parser.add_argument("subject", help="who: ada")
    parser.add_argument("--scope", default=" ".join(sorted(EVERYTHING)), help="what it may do (default: %(default)s)")
    given = parser.parse_args()
    try:
        print(token(LedgerSettings(), given.tenant, given.subject, given.scope))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
