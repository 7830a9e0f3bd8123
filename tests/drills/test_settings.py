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
