"""`python -m examples.ledger`: serve until told to stop."""

from __future__ import annotations

import sys

import uvicorn

from holdfast.errors import ConfigurationError

from .main import create_app, open_database
from .settings import LedgerSettings


def main() -> None:
    """Serve."""
    settings = LedgerSettings()
    try:
        db = open_database(settings)
    except ConfigurationError as error:
        sys.exit(f"The ledger cannot start: {error}")
    # Requests in flight get their deadline and a second more; then they are cancelled, and nothing half-done is committed.
    uvicorn.run(
        create_app(db), host=settings.host, port=settings.port, timeout_graceful_shutdown=round(settings.deadline) + 1
    )


if __name__ == "__main__":
    main()
