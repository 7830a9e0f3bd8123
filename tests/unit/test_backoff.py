"""Backoff: ceilings, jitter below them, and hints within bounds."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.backoff import HINT_SLACK_S, Backoff, come_again_s
from holdfast.errors import ConfigurationError
from holdfast.testing import seeded_random


def test_ceilings_double_up_to_the_cap() -> None:
    """50 ms, 100 ms, ... and never more than 5 s, however long it goes on."""
    backoff = Backoff()
    assert [backoff.ceiling_s(n) for n in range(1, 9)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert backoff.ceiling_s(10_000) == 5.0


def test_nobody_sleeps_exactly_the_cap() -> None:
    """At the cap the delays are still spread evenly below it (capping after the draw makes them all equal)."""
    backoff, draw = Backoff(base=0.1, cap=5), seeded_random(1)
    delays = sorted(backoff.delay_s(30, draw()) for _ in range(10_000))
    assert delays[-1] < 5.0
    assert len(set(delays)) == 10_000
    for tenth in range(10):
        share = sum(0.5 * tenth <= delay < 0.5 * (tenth + 1) for delay in delays) / 10_000
        assert 0.08 < share < 0.12


@given(failures=st.integers(1, 10**6), draw=st.floats(0, 1, exclude_max=True), hint=st.none() | st.floats(0, 1e9))
def test_a_delay_stays_within_its_bounds(failures: int, draw: float, hint: float | None) -> None:
    """Between nothing and the ceiling; a hint may lengthen it by the slack, and never shortens it."""
    backoff = Backoff(base=0.05, cap=5)
    plain = backoff.delay_s(failures, draw)
    delay = backoff.delay_s(failures, draw, hint)
    assert 0 <= plain <= backoff.ceiling_s(failures) <= 5
    assert plain <= delay <= plain + HINT_SLACK_S
    if hint is not None and plain <= hint <= plain + HINT_SLACK_S:
        assert delay == hint


def test_durations_may_be_timedeltas() -> None:
    """`timedelta` and seconds mean the same."""
    assert Backoff(timedelta(milliseconds=10), timedelta(seconds=2)).ceiling_s(100) == 2.0
    assert Backoff(0, 0).delay_s(5, 0.9) == 0


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"base": -1}, "base"),
        ({"base": 2, "cap": 1}, "cap"),
        ({"cap": float("inf")}, "cap"),
        ({"factor": 0.5}, "factor"),
        ({"factor": float("nan")}, "factor"),
        ({"base": "1"}, "base"),
        ({"base": True}, "base"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, float], named: str) -> None:
    """A value outside its bounds names the setting."""
    with pytest.raises(ConfigurationError, match=named):
        Backoff(**settings)


@pytest.mark.parametrize(
    ("turn_s", "told_s"), [(0.0, 0.1), (0.05, 0.1), (2.5, 2.5), (30.0, 30.0), (3600.0, 30.0), (float("inf"), 30.0)]
)
def test_who_is_sent_away_comes_again_within_bounds(turn_s: float, told_s: float) -> None:
    """Not at once, when nothing has changed, and not so late that a short overload is long over."""
    assert come_again_s(turn_s) == told_s


def test_a_hint_that_will_be_rounded_has_a_least_of_its_own() -> None:
    """The other bound is the same."""
    assert [come_again_s(turn_s, least_s=0.75) for turn_s in (0.1, 2.5, 3600.0)] == [0.75, 2.5, 30.0]
