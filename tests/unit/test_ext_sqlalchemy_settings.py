"""Settings refuse what cannot work where it is given, and say what every server is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from holdfast.dialects import Flavour
from holdfast.errors import ConfigurationError
from holdfast.ext.sqlalchemy import DatabaseSettings
from holdfast.ext.sqlalchemy.isolation import ISOLATIONS, check_isolation, level_of
from holdfast.ext.sqlalchemy.settings import (
    PoolSettings,
    SessionSettings,
    client_check,
    login_settings,
    session_statement,
)


@pytest.mark.parametrize(
    ("setting", "cure"),
    [
        ({"size": 0}, "size must be a whole number, 1 or more"),
        ({"size": 20, "open_max": 10}, "raise open_max or lower size"),
        ({"ping_after": -1}, "ping_after must be a finite number of seconds, 0 or more"),
        ({"recycle": 0}, "None keeps connections for good"),
        ({"connect_timeout": 0}, "connect_timeout must be more than 0"),
        ({"connect_timeout": "soon"}, "connect_timeout must be seconds or a timedelta"),
    ],
)
def test_wrong_pool_settings_name_their_cure(setting: dict[str, Any], cure: str) -> None:
    """A pool that cannot work is refused when it is described."""
    with pytest.raises(ConfigurationError, match=cure):
        PoolSettings(**setting)


@pytest.mark.parametrize(
    ("setting", "cure"),
    [
        ({"deadline": 0}, "deadline must be above 0"),
        ({"deadline": timedelta(days=2)}, "at most 86400 seconds"),
        ({"isolation": "repeatable"}, "choose 'snapshot', 'serializable', 'read committed'"),
    ],
)
def test_wrong_session_settings_name_their_cure(setting: dict[str, Any], cure: str) -> None:
    """A session that cannot work is refused when it is described."""
    with pytest.raises(ConfigurationError, match=cure):
        SessionSettings(**setting)


def test_defaults_are_the_documented_ones() -> None:
    """At most 100 connections open and 10 idle; 10 s; snapshot isolation."""
    pool, session = PoolSettings(), SessionSettings()
    assert (pool.open_max, pool.size) == (100, 10)
    assert (session.deadline_s, session.isolation) == (10.0, "snapshot")


def test_durations_may_be_timedeltas() -> None:
    """A `timedelta` is as good as seconds."""
    assert SessionSettings(deadline=timedelta(seconds=2)).deadline_s == 2.0
    PoolSettings(ping_after=timedelta(0), recycle=timedelta(minutes=1), connect_timeout=timedelta(seconds=1))


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("flavour", Flavour)
def test_every_flavour_has_a_level_for_every_promise(flavour: Flavour, isolation: str) -> None:
    """SQLite keeps all of them by its only level; the others have one each."""
    expected = {"snapshot": "REPEATABLE READ", "serializable": "SERIALIZABLE", "read committed": "READ COMMITTED"}
    assert level_of(flavour, isolation) == ("SERIALIZABLE" if flavour is Flavour.SQLITE else expected[isolation])


def test_isolation_is_known_in_any_case() -> None:
    """Capitals are no reason to refuse."""
    assert check_isolation("Read Committed") == "read committed"


def test_one_statement_sets_a_session_up() -> None:
    """MySQL and MariaDB are told everything in one SET, each in its own words."""
    told = {
        flavour: session_statement(flavour, SessionSettings(), detect_conflicts=True, recycle_s=300.0)
        for flavour in (Flavour.MYSQL, Flavour.MARIADB)
    }
    for statement in told.values():
        assert statement.startswith("SET SESSION ")
        assert ";" not in statement
        assert "'REPEATABLE-READ'" in statement
    assert "innodb_snapshot_isolation=ON" in told[Flavour.MARIADB]
    assert "innodb_snapshot_isolation" not in told[Flavour.MYSQL]
    assert "SESSION wait_timeout=370" in told[Flavour.MYSQL]
    assert "wait_timeout=370" not in told[Flavour.MARIADB]


def test_session_without_end_in_the_pool_has_none_on_the_server() -> None:
    """Where connections are never recycled the server must not end them either."""
    statement = session_statement(Flavour.MYSQL, SessionSettings(), detect_conflicts=True, recycle_s=None)
    assert " wait_timeout" not in statement


@pytest.mark.parametrize(("version", "checks"), [((), False), ((13, 22), False), ((14,), True), ((18, 1), True)])
def test_old_postgresql_is_not_asked_what_it_cannot(version: tuple[int, ...], checks: bool) -> None:
    """Before version 14 there is no such setting, and it would be an error."""
    assert (client_check(version) is not None) is checks


def test_login_tells_postgresql_everything() -> None:
    """Isolation, limits and time zone come with the login."""
    assert login_settings(SessionSettings(isolation="serializable", deadline=2.0)) == {
        "default_transaction_isolation": "serializable",
        "TimeZone": "UTC",
        "lock_timeout": "1900ms",
        "statement_timeout": "2250ms",
        "idle_in_transaction_session_timeout": "3000ms",
    }


@pytest.mark.parametrize("name", ["key_ttl", "automatic_key_ttl"])
def test_how_long_a_key_lives_is_refused_with_its_unit(name: str) -> None:
    """Whoever thinks in hours and wrote a fraction of one is told how hours are said."""
    settings: Any = {name: 0.5}
    with pytest.raises(ConfigurationError, match=r"in seconds, and timedelta\(hours=72\) says hours"):
        DatabaseSettings(**settings)
