"""The edge's settings, from the environment and a file.

settings = EdgeSettings.load("holdfast.toml")       # HOLDFAST_DEADLINE_S=5 in the environment beats `deadline_s` in the file
"""

from __future__ import annotations

import json
import logging
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ...errors import ConfigurationError

__all__ = ["EdgeSettings"]

_log = logging.getLogger("holdfast")

if TYPE_CHECKING:
    # Lists may be given; what is kept are tuples, so that settings stay as they are.
    _Networks = Sequence[str]
    _NamedNetworks = Mapping[str, Sequence[str]]
else:
    _Networks = tuple[str, ...]
    _NamedNetworks = dict[str, tuple[str, ...]]

_PREFIX = "HOLDFAST_"
_ALIKE = 0.75
"""How much of two names is the same, by `difflib`, where one may be a slip for the other."""
_PLACE = re.compile(r"\((at line \d+, column \d+|at end of document)\)$")
_EXAMPLES = {
    "trusted_proxies": '["192.0.2.0/24"]',
    "allowlist": '{"/admin/*": ["192.0.2.0/24"]}',
    "networks": '{"operators": ["192.0.2.0/24"]}',
}
"""What is JSON in the environment."""


class EdgeSettings(BaseSettings):
    """What is on, and how much of it. Immutable; share it freely. What is None or empty is off.

    Each field is read from the environment as `HOLDFAST_` and its name; lists and maps as JSON.

    Raises:
        ConfigurationError: (from `load`) a value is outside its bounds, or the file names a setting that does not exist.
        ValidationError: (from the constructor) the same.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    deadline_s: float | None = Field(
        default=None, gt=0.02, le=3600, description="Most seconds for a request; default off; above 0.02, at most 3600."
    )
    body_max: int | None = Field(
        default=None, ge=0, le=1 << 30, description="Most bytes of a body; default off; 0 to 1 GiB."
    )
    body_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=3600,
        description="Seconds a body may take to arrive; default 10, and at most half of deadline_s; above 0, at most 3600. Less "
        "than deadline_s, so that a slow client is told what is wrong. For body_max, and for keyed requests.",
    )
    concurrency: int | None = Field(
        default=None, ge=1, le=100_000, description="Requests at a time; default off; 1 to 100,000."
    )
    concurrency_least: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="How far the limit may fall when the service bears less; default None, it is fixed; 1 to below concurrency.",
    )
    concurrency_mode: Literal["on", "dark", "off"] = Field(
        default="on",
        description="on (default), dark (all get in, and events tell who would not have) or off (nothing is counted).",
    )
    queue: int = Field(
        default=20,
        ge=0,
        le=100_000,
        description="Requests that wait for a place of `concurrency`; default 20; 0 to 100,000.",
    )
    rate_per_s: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Requests a second of one client; default off; above 0, at most 1,000,000.",
    )
    rate_burst: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="Requests that may come at once under `rate_per_s`; default 20; 1 to 100,000.",
    )
    tenant_rate_per_s: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Requests a second of one tenant; default off; above 0, at most 1,000,000.",
    )
    tenant_rate_burst: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Requests that may come at once under `tenant_rate_per_s`; default 100; 1 to 100,000.",
    )
    failed_proofs_per_s: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Proofs a second of one client that may not hold, before it has to wait; default off; above 0, at most "
        "1,000,000.",
    )
    failed_proofs_burst: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="Those that may come at once under `failed_proofs_per_s`; default 20; 1 to 100,000.",
    )
    attempts: int = Field(
        default=1,
        ge=1,
        le=10,
        description="Calls of the application for a repeatable request; default 1, no retry; 1 to 10.",
    )
    trusted_proxies: _Networks = Field(
        default=(),
        description="Networks (CIDR) of the proxies whose X-Forwarded-For is believed; default none; never everybody.",
    )
    request_id_header: str = Field(
        default="x-request-id",
        max_length=64,
        description="The header whose id a request keeps; default x-request-id; empty: none is believed.",
    )
    tenant_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        max_length=64,
        description="Makes the keyed hash of the tenant in the access log; default None: no tenant in it; 16 to 64 bytes.",
    )
    key_secret: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Makes an HMAC of what is kept to compare a keyed request with; default None: a digest; at least 16 bytes.",
    )
    allowlist: _NamedNetworks = Field(
        default={}, description="Route patterns, each with the networks (CIDR) that may come; default none."
    )
    networks: _NamedNetworks = Field(
        default={},
        description="Names, each with networks (CIDR), for routes that say edge(allowlist=name); default none.",
    )

    @property
    def time_for_body_s(self) -> float:
        """Seconds a body may take: `body_timeout_s`, and where that was not set at most half of `deadline_s`."""
        if self.deadline_s is None or "body_timeout_s" in self.model_fields_set:
            return self.body_timeout_s
        return min(self.body_timeout_s, self.deadline_s / 2)

    def refusal(self, *, has_keys: bool, has_callers: bool) -> str | None:
        """Why what is set cannot be held to, and the cure; None if it can. For `install`: one source may need another's settings.

        Args:
            has_keys: whether there are keyed requests, whose bodies have that time without `body_max`, too.
            has_callers: whether somebody looks at proofs.
        """
        if self.concurrency_least is not None and self.concurrency is None:
            return "concurrency_least says how far a limit may fall, and there is none: set concurrency"
        if self.failed_proofs_per_s is not None and not has_callers:
            return "failed_proofs_per_s is for proofs, and nobody asks for one: give install an authenticator"
        if "body_timeout_s" not in self.model_fields_set:
            return None
        if self.body_max is None and not has_keys:
            return "body_timeout_s is for bodies that something limits, and nothing does: set body_max"
        if self.deadline_s is not None and self.body_timeout_s >= self.deadline_s:
            return (
                f"body_timeout_s ({self.body_timeout_s:g} s) must be less than deadline_s ({self.deadline_s:g} s), so that a "
                "slow client is told what is wrong; left out, it is at most half of that"
            )
        return None

    @classmethod
    def load(cls, file: str | Path | None = None) -> Self:
        """The settings of the environment, and below them those of a TOML file.

        Others may have variables that begin so, too. One whose name is nearly a setting's is logged as a warning.

        Args:
            file: the path of a TOML file with the names of the fields at its top; default None: no file.

        Raises:
            ConfigurationError: see the class, or the file cannot be read. No value is repeated in the text.
        """
        found = {} if file is None else _read(Path(file))
        unknown = sorted(found.keys() - cls.model_fields.keys())
        if unknown:
            named = ", ".join(f"{name}{_meant(name, cls.model_fields)}" for name in unknown)
            raise ConfigurationError(f"the settings file names what does not exist: {named}")
        try:
            set_outside = cls().model_fields_set
        except ValidationError as error:
            raise ConfigurationError(f"the settings cannot work: {_said(error, of_environment=True)}") from None
        except ValueError:
            raise ConfigurationError(f"the settings cannot work: {_no_json()}") from None
        _warn_of_slips(cls.model_fields)
        try:
            return cls(**{name: value for name, value in found.items() if name not in set_outside})
        except ValidationError as error:
            raise ConfigurationError(f"the settings cannot work: {_said(error, of_environment=False)}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        # Of its text the place alone: the rest may hold what stands there.
        place = _PLACE.search(str(error)) if isinstance(error, tomllib.TOMLDecodeError) else None
        where = f" {place[1]}" if place else ""
        raise ConfigurationError(f"the settings file {file} cannot be read: {type(error).__name__}{where}") from None


def _meant(name: str, fields: Iterable[str]) -> str:
    """What `name` may be a slip for, in brackets; empty where nothing is like it."""
    alike = get_close_matches(name.lower(), fields, 1, _ALIKE)
    return f" (did you mean {alike[0]}?)" if alike else ""


def _warn_of_slips(fields: Iterable[str]) -> None:
    for name in sorted(os.environ):
        setting = name.upper().removeprefix(_PREFIX).lower()
        if name.upper().startswith(_PREFIX) and setting not in fields and (meant := _meant(setting, fields)):
            _log.warning("%s in the environment is no setting%s", name, meant)


def _said(error: ValidationError, *, of_environment: bool) -> str:
    found = []
    for one in error.errors(include_input=False):
        setting, *inner = map(str, one["loc"])
        name = f"{_PREFIX}{setting.upper()}" if of_environment else setting
        example = f" (such as {_EXAMPLES[setting]})" if of_environment and setting in _EXAMPLES else ""
        found.append(f"{'.'.join((name, *inner))}: {one['msg']}{example}")
    return "; ".join(found)


def _no_json() -> str:
    """Which variables of the environment are none, where they should be."""
    found = []
    for name in sorted(os.environ):
        example = _EXAMPLES.get(name.upper().removeprefix(_PREFIX).lower())
        if example is None or not name.upper().startswith(_PREFIX):
            continue
        try:
            json.loads(os.environ[name])
        except ValueError:
            found.append(f"{name} in the environment is no JSON, such as {example}")
    return "; ".join(found) or "a list or map in the environment is no JSON"
