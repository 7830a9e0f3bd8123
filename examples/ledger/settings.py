"""The service's settings: from the environment, else from the file `ledger.env`, else as written here."""

from __future__ import annotations

from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["LedgerSettings"]


class LedgerSettings(BaseSettings):
    """What can be set, each by `LEDGER_` and its name in capitals.

    Attributes:
        database_url: an SQLAlchemy URL; a driver is chosen where it names none. `DATABASE_URL` is read as well.
        deadline: seconds an operation may take, attempts and waits included.
        pool_size, pool_open_max: connections kept open while idle, and open at once.
        host, port: where to listen.
    """

    model_config = SettingsConfigDict(
        env_prefix="LEDGER_", env_file="ledger.env", extra="ignore", populate_by_name=True
    )

    database_url: Annotated[SecretStr, Field(validation_alias=AliasChoices("LEDGER_DATABASE_URL", "DATABASE_URL"))] = (
        SecretStr("sqlite:///ledger.db")
    )
    deadline: Annotated[float, Field(gt=0, le=300)] = 10.0
    pool_size: Annotated[int, Field(ge=1)] = 10
    pool_open_max: Annotated[int, Field(ge=1)] = 100
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
