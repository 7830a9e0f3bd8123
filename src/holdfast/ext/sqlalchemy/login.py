"""What a driver is told for a login, beside the address: Holdfast's settings for the session, and the application's own.

The application's `connect_args` win, as they do over the URL in SQLAlchemy. Where a driver takes all settings of a session in one
argument, those that the application does not name stay Holdfast's: a name for the server's log must not cost the isolation level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...dialects import Flavour
from ...errors import ConfigurationError
from .pushdown import limits_for
from .settings import login_settings

if TYPE_CHECKING:
    from .address import Address
    from .settings import SessionSettings

__all__ = ["login_arguments"]


def login_arguments(address: Address, session: SessionSettings, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The `connect_args` of an engine.

    Args:
        address: whose driver, and what the URL's query says.
        session: what sessions are set up for.
        theirs: the application's `connect_args`.

    Raises:
        ConfigurationError: `theirs` says something in a form that cannot be joined with Holdfast's.
    """
    if address.backend == "sqlite":
        return {**_for_sqlite(address.driver, session), **theirs}
    if address.backend == "postgresql":
        return {**theirs, **_for_postgresql(address, session, theirs)}
    own = {} if address.driver == "mariadbconnector" or "charset" in address.url.query else {"charset": "utf8mb4"}
    return {**own, **theirs}


def _for_sqlite(driver: str, session: SessionSettings) -> dict[str, Any]:
    busy_ms = limits_for(Flavour.SQLITE, session.deadline_s)["busy_timeout"]
    # The pool hands a connection from thread to thread, one at a time.
    options: dict[str, Any] = {"timeout": int(busy_ms) / 1000, "check_same_thread": False}
    if driver in ("pysqlite", "aiosqlite"):
        from .sqlite import INTERRUPTIBLE  # a Python may be built without SQLite

        options["factory"] = INTERRUPTIBLE
    return options


def _for_postgresql(address: Address, session: SessionSettings, theirs: Mapping[str, Any]) -> dict[str, Any]:
    settings = login_settings(session)
    if address.driver == "asyncpg":
        named = theirs.get("server_settings") or {}
        if not isinstance(named, Mapping):
            raise ConfigurationError(f"server_settings in connect_args must be a mapping, not {type(named).__name__}")
        return {"server_settings": {**settings, **named}}
    words = [f"-c {name}={_escape(value)}" for name, value in settings.items()]
    for said in (address.url.query.get("options", ()), theirs.get("options") or ()):
        words += [said] if isinstance(said, str) else said
    return {"options": " ".join(words)}  # the last word counts


def _escape(value: str) -> str:
    """A value within libpq's `options`, where a space ends it."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")
