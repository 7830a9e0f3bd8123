"""Settings that cannot work are refused where they are given, by name, whatever is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase

from holdfast.adaptive import AdaptiveLimit
from holdfast.backoff import Backoff
from holdfast.breaker import CircuitBreaker
from holdfast.budget import RetryBudget
from holdfast.bulkhead import Bulkhead
from holdfast.decision import Allowance
from holdfast.errors import ConfigurationError
from holdfast.ext.sqlalchemy import AsyncDatabase, Database, DatabaseSettings, PoolSettings
from holdfast.ext.sqlalchemy.settings import SessionSettings
from holdfast.failover import FailoverSettings
from holdfast.pipeline import Pipeline
from holdfast.ratelimit import RateLimiter
from holdfast.retry import retry

_HUGE = 10**5000  # more than a float holds, and more digits than Python prints

_NO_NUMBER: tuple[object, ...] = ("5", None, [], True, float("nan"), float("inf"), -1, _HUGE)
_NO_WHOLE_NUMBER: tuple[object, ...] = ("5", None, 1.5, True, -1)
_NO_DURATION: tuple[object, ...] = ("5", [], True, float("nan"), float("inf"), -1, _HUGE)
_NO_FLAG: tuple[object, ...] = ("no", None, 0, 1)
_NO_OBJECT: tuple[object, ...] = (3, "x", {})

_MAKERS: dict[str, tuple[Callable[..., object], dict[str, Any], dict[str, tuple[object, ...]]]] = {
    "Allowance": (
        Allowance,
        {"attempts": 2, "backoff": Backoff()},
        {"attempts": _NO_WHOLE_NUMBER, "backoff": (None, 1)},
    ),
    "Backoff": (Backoff, {}, {"base": _NO_DURATION, "cap": _NO_DURATION, "factor": _NO_NUMBER}),
    "RetryBudget": (
        RetryBudget,
        {},
        {
            "ratio": (*_NO_NUMBER, 1e308),
            "floor_per_s": (*_NO_NUMBER, 1e308),
            "window": (*_NO_DURATION, 0, 1e308),
            "name": (3,),
        },
    ),
    "retry": (
        retry,
        {"on": OSError},
        {
            "on": (None, 3, (), "x", int),
            "attempts": (*_NO_WHOLE_NUMBER, 0),
            "backoff": (None, 0.5),
            "idempotent": _NO_FLAG,
            "budget": _NO_OBJECT,
            "deadline": _NO_DURATION,
            "name": (3, len),
        },
    ),
    "RateLimiter": (
        RateLimiter,
        {"name": "x", "rate": 1},
        {
            "name": (3, len),
            "rate": (*_NO_NUMBER, 0, 1e-320, 1e300),
            "per": (*_NO_DURATION, None, 0, 1e300),
            "burst": (*_NO_WHOLE_NUMBER, 0),
            "max_wait": _NO_DURATION,
        },
    ),
    "CircuitBreaker": (
        CircuitBreaker,
        {"name": "x"},
        {
            "name": (3, len),
            "on": (None, 3, ()),
            "window": (*_NO_DURATION, None, 0),
            "ratio": (*_NO_NUMBER, 0, 1.5),
            "calls_min": (*_NO_WHOLE_NUMBER, 0),
            "open_for": (*_NO_DURATION, None, 0),
            "open_for_max": (*_NO_DURATION, None, 1),
            "probes": (*_NO_WHOLE_NUMBER, 0),
            "probe_lease": (*_NO_DURATION, None, 0),
        },
    ),
    "Bulkhead": (
        Bulkhead,
        {"name": "x", "permits": 1},
        {
            "name": (3, len),
            "permits": (*_NO_WHOLE_NUMBER, 0),
            "queue": _NO_WHOLE_NUMBER,
            "max_wait": (*_NO_DURATION, None),
        },
    ),
    "AdaptiveLimit": (
        AdaptiveLimit,
        {"name": "x", "most": 3},
        {
            "name": (3, len),
            "most": (*_NO_WHOLE_NUMBER, 0),
            "least": (*_NO_WHOLE_NUMBER, 0, 4),
            "mode": ("maybe", None, []),
            "ratio": (*_NO_NUMBER, 0, 1),
            "tolerance": ("5", 1, float("inf"), True, _HUGE),
            "queue": _NO_WHOLE_NUMBER,
            "max_wait": (*_NO_DURATION, None),
        },
    ),
    "Pipeline": (Pipeline, {}, {"deadline": _NO_DURATION, "attempt_timeout": _NO_DURATION}),
    "FailoverSettings": (
        FailoverSettings,
        {},
        {
            "waiting_max": (*_NO_WHOLE_NUMBER, 0),
            "stall": (*_NO_DURATION, None, 0),
            "probe_timeout": (*_NO_DURATION, None, 0),
            "proof_timeout": (*_NO_DURATION, None, 0),
            "pace": (None, 1.0),
            "release_first": (*_NO_WHOLE_NUMBER, 0),
            "release_pause": (*_NO_DURATION, None, 0),
        },
    ),
    "PoolSettings": (
        PoolSettings,
        {},
        {
            "size": (*_NO_WHOLE_NUMBER, 0, 101),
            "open_max": (*_NO_WHOLE_NUMBER, 9),
            "ping_after": _NO_DURATION,
            "recycle": (*_NO_DURATION, 0),
            "connect_timeout": (*_NO_DURATION, None, 0),
        },
    ),
    "SessionSettings": (
        SessionSettings,
        {},
        {"isolation": ("chaos", None, 3), "deadline": (*_NO_DURATION, None, 0, 1e9)},
    ),
    "DatabaseSettings": (
        DatabaseSettings,
        {},
        {
            "deadline": (*_NO_DURATION, None, 0, 1e9),
            "isolation": ("chaos", None, 3),
            "protect": _NO_FLAG,
            "key_ttl": (*_NO_DURATION, None, 0.5),
            "automatic_key_ttl": (*_NO_DURATION, None, 0.5),
            "pool": (None, 3, {}),
            "policy": (None, 3, {}),
            "failover": (None, 3, {}),
            "limit": ("maybe", None, []),
        },
    ),
    "Database": (
        Database,
        {"url": "sqlite://"},
        {"url": (None, 3, b"sqlite://", [], [None], ""), "settings": _NO_OBJECT},
    ),
    "AsyncDatabase": (AsyncDatabase, {"url": "sqlite://"}, {"url": (None, 3, [], ""), "settings": _NO_OBJECT}),
}


@pytest.mark.parametrize(
    ("maker", "setting"), [(maker, setting) for maker, (_, _, wrong) in _MAKERS.items() for setting in wrong]
)
def test_a_setting_that_cannot_work_is_refused_by_its_name(maker: str, setting: str) -> None:
    """Another type, another kind of number or a value out of its bounds: each is a `ConfigurationError`, at once."""
    make, right, wrong = _MAKERS[maker]
    make(**(right or {"deadline": 1} if maker == "Pipeline" else right))
    for value in wrong[setting]:
        with pytest.raises(ConfigurationError) as caught:
            make(**{**right, setting: value})
        named = "URL" if setting == "url" else setting
        assert named in str(caught.value), value


@pytest.mark.parametrize("setting", ["policy", "pool", "protect"])
def test_a_value_of_another_kind_is_not_shown(setting: str) -> None:
    """It may be a password in the wrong place."""
    with pytest.raises(ConfigurationError) as caught:
        DatabaseSettings(**{setting: "hunter2"})  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


def test_migrate_takes_metadata_and_names_the_cure() -> None:
    """A declarative base is the likely mistake, and its metadata the cure."""

    class Base(DeclarativeBase):
        pass

    with Database("sqlite://") as db, pytest.raises(ConfigurationError, match=r"not Base; .*Base\.metadata"):
        db.migrate(Base)  # type: ignore[arg-type]


def test_an_operation_refuses_a_wrong_protect() -> None:
    """What an operation says for itself is checked as the settings are."""
    with Database("sqlite://") as db, pytest.raises(ConfigurationError, match="protect"):
        db.transaction(protect="no")(lambda _tx: None)  # type: ignore[call-overload]
