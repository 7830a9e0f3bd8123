"""The service's settings: from the environment, else from the file `ledger.env`, else as written here.

Those of its edge stand in `edge.toml`, and the environment beats them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from holdfast.ext.fastapi import EdgeSettings

__all__ = ["LedgerSettings", "edge_settings"]


class LedgerSettings(BaseSettings):
    """What can be set, each by `LEDGER_` and its name in capitals.

    Attributes:
        database_url: an SQLAlchemy URL; a driver is chosen where it names none. `DATABASE_URL` is read as well.
        pool_size, pool_open_max: connections kept open while idle, and open at once.
        host, port: where to listen.
        lame_duck: seconds for which the service goes on answering after SIGTERM, not ready.
        token_issuer, token_audience: whose tokens are taken, and what they must name as their audience.
        token_jwks: where the issuer publishes its keys; tokens are signed with RS256 or ES256.
        token_secret: instead of that, a secret that signs and verifies (HS256), for development and tests.
    """

    model_config = SettingsConfigDict(
        env_prefix="LEDGER_", env_file="ledger.env", extra="ignore", populate_by_name=True, hide_input_in_errors=True
    )

    database_url: Annotated[SecretStr, Field(validation_alias=AliasChoices("LEDGER_DATABASE_URL", "DATABASE_URL"))] = (
        SecretStr("sqlite:///ledger.db")
    )
    pool_size: Annotated[int, Field(ge=1)] = 10
    pool_open_max: Annotated[int, Field(ge=1)] = 100
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    lame_duck: Annotated[float, Field(ge=0, le=600)] = 5.0
    token_issuer: str = "https://issuer.example/"  # noqa: S105 - a name, no secret
    token_audience: str = "ledger"  # noqa: S105
    token_jwks: str | None = None
    token_secret: SecretStr | None = None

    @property
    def asks_for_tokens(self) -> bool:
        """Whether callers must prove who they are."""
        return self.token_jwks is not None or self.token_secret is not None


def edge_settings() -> EdgeSettings:
    """The edge's: `edge.toml` beside this file, under what the environment says (`HOLDFAST_...`)."""
    return EdgeSettings.load(Path(__file__).with_name("edge.toml"))
