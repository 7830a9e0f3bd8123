"""`python -m examples.ledger`: serve until told to stop."""

from __future__ import annotations

import uvicorn

from .main import create_app, open_database
from .settings import LedgerSettings

if __name__ == "__main__":
    settings = LedgerSettings()
    # Requests in flight get their deadline and a second more; then they are cancelled, and nothing half-done is committed.
    uvicorn.run(
        create_app(open_database(settings)),
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=round(settings.deadline) + 1,
    )
