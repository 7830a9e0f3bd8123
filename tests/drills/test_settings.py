"""The settings of a drill: wrong ones are refused where they are given, and no secret is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast.drills.settings import DrillSettings
from holdfast.errors import ConfigurationError


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"server": "oracle"}, "unknown server"),
        ({"database": "oracle://h/d"}, "database URL that begins with"),
        ({"database": "mysql://u@127.0.0.1:1,127.0.0.1:2/db"}, "give the URL one host, in its usual place"),
        ({"database": "mysql:///db?unix_socket=/run/s"}, "give the URL one host, in its usual place"),
        ({"database": "mysql://u@127.0.0.1/db?unix_socket=/run/s"}, "give the URL one host, in its usual place"),
        ({"database": "postgresql://127.0.0.1/db?hostaddr=127.0.0.2"}, "give the URL one host, in its usual place"),
        ({"database": "postgresql://127.0.0.1/db?port=1"}, "give the URL one host, in its usual place"),
        ({"database": "postgresql://127.0.0.1/db?service=other"}, "give the URL one host, in its usual place"),
        ({"database": "mysql://u@127.0.0.1:99999/db"}, "a port is 1 to 65535"),
        ({"database": "mysql://u@127.0.0.1:0/db"}, "a port is 1 to 65535"),
        ({"database": "mysql://u@127.0.0.1:x/db"}, "the database URL cannot be read"),
        ({"subject": "http", "workload": "http", "app": "http://127.0.0.1:99999"}, "a port is 1 to 65535"),
        ({"subject": "http", "workload": "http", "app": "http://127.0.0.1:x"}, "address of a service cannot be read"),
        ({"subject": "http", "workload": "http", "app": "http:///x"}, "address of a service cannot be read"),
        ({"workload": "lottery"}, "unknown workload"),
        ({"subject": "magic"}, "unknown subject"),
        ({"seconds": 0}, "seconds must be above 0"),
        ({"rate": float("inf")}, "rate must be above 0"),
        ({"deadline": -1.0}, "deadline must be above 0"),
        ({"every": 0.0}, "every must be above 0"),
        ({"share": 1.1}, "share is a share"),
        ({"workers": 0}, "from 1 to 64"),
        ({"callers": 1}, "callers must be at least 2"),
        ({"connections": 1}, "connections must be at least 2"),
        ({"faults": ("commit", "commit")}, "named twice"),
        ({"scope": "half"}, "scope"),
        ({"limit": "of"}, "unknown limit"),
        ({"limit": "on", "subject": "plain"}, "no limit that could be on; those that have: holdfast,"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], text: str) -> None:
    """The error names the setting and its bounds."""
    with pytest.raises(ConfigurationError, match=text):
        DrillSettings(**wrong)


def test_the_url_stays_out_of_sight() -> None:
    """Neither the representation nor what goes into the history shows a password."""
    settings = DrillSettings(database="mysql://app:hush@127.0.0.1/shop")
    assert "hush" not in repr(settings)
    assert "hush" not in json.dumps(settings.told())
    settings = DrillSettings(subject="http", workload="http", app="http://app:hush@127.0.0.1:8000/shop?token=hush")
    assert settings.told()["app"] == "http://127.0.0.1:8000/shop"


@pytest.mark.parametrize(("seconds", "baseline", "healed"), [(3.0, 1.0, 3.0), (10.0, 10 / 3, 8.0), (600.0, 6.0, 15.0)])
def test_phases_follow_from_the_length(seconds: float, baseline: float, healed: float) -> None:
    """Short drills have short phases around their faults, long ones no longer than they need."""
    settings = DrillSettings(seconds=seconds)
    assert (settings.baseline_s, settings.healed_s) == (baseline, healed)


@pytest.mark.parametrize(
    ("settings", "backend"),
    [
        (DrillSettings(), "sqlite"),
        (DrillSettings(server="galera"), "mariadb"),
        (DrillSettings(database="postgresql+psycopg://127.0.0.1/d"), "postgresql"),
    ],
)
def test_the_backend_is_known(settings: DrillSettings, backend: str) -> None:
    """From the server, or from how the URL begins."""
    assert settings.backend == backend
