"""`python -m examples.ledger`: serve until told to stop, and stop without losing a request."""

from __future__ import annotations

import logging
import sys

from pydantic import ValidationError

from holdfast.asgi.log_lines import JsonLines
from holdfast.errors import ConfigurationError
from holdfast.ext.uvicorn import serve
from holdfast.shutdown import DrainSettings

from .access import may_serve_openly
from .main import create_app, open_database
from .settings import LedgerSettings, edge_settings

__all__ = ["main"]

_log = logging.getLogger("ledger")


def main() -> int:
    """Serve; the exit status."""
    _write_lines()
    try:
        settings, edge = LedgerSettings(), edge_settings()
        if not settings.asks_for_tokens:
            _accept_everybody(settings.host)
        app = create_app(open_database(settings, edge), settings, edge)
        # Requests under way get their deadline and a second more; then they are cancelled, and nothing half-done is committed.
        ending = DrainSettings(lame_duck=settings.lame_duck, finish=(edge.deadline_s or 10.0) + 1)
        return serve(app, host=settings.host, port=settings.port, settings=ending, access_log=False, log_config=None)
    except (ConfigurationError, ValidationError) as error:
        sys.stderr.write(f"The ledger cannot start: {error}\n")
        return 1


def _accept_everybody(host: str) -> None:
    if not may_serve_openly(host):
        raise ConfigurationError(
            f"without tokens everybody may do everything, so it listens on 127.0.0.1 only, not on {host}; set "
            "LEDGER_TOKEN_JWKS and LEDGER_TOKEN_ISSUER (examples/ledger/README.md)"
        )
    _log.warning(
        'no tokens are asked for: everybody on this machine is the tenant "local" (LEDGER_TOKEN_JWKS changes that)'
    )


def _write_lines() -> None:
    """A line of JSON for each record; for a person at a terminal the message alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s") if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for chatty in ("alembic", "holdfast.ext.sqlalchemy.pool"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
