"""Scales, ticks and the layout of the time line."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.drills.report.content import Second, Span
from holdfast.drills.report.scales import (
    Linear,
    Logarithmic,
    clock_label,
    decades,
    nice_ceiling,
    nice_step,
    nice_ticks,
    time_ticks,
)
from holdfast.drills.report.timeline import axes, merged, passing, stretched, timeline
from tests.drills.reports import run_named, seconds

positive = st.floats(1e-6, 1e9)


@given(span=positive, count=st.integers(1, 12))
def test_a_step_is_one_two_or_five_and_not_too_many_fit(span: float, count: int) -> None:
    """A step is 1, 2 or 5 times a power of ten, and at most `count` of them cover the span."""
    step = nice_step(span, count)
    mantissa = float(f"{step:e}".partition("e")[0])
    assert mantissa in {1.0, 2.0, 5.0}
    assert step * count >= span * (1 - 1e-6)


@given(value=positive)
def test_an_axis_ends_at_a_tick_above_its_values(value: float) -> None:
    """The ceiling is at or above the value, less than twice as high on few steps, and the last tick."""
    ceiling = nice_ceiling(value)
    assert value * (1 - 1e-6) <= ceiling <= value * 2.51
    assert nice_ticks(ceiling)[-1] == pytest.approx(ceiling)


@pytest.mark.parametrize(
    ("high", "ticks"),
    [(1, (0, 0.5, 1.0)), (100, (0, 50, 100)), (480, (0, 200, 400)), (600, (0, 200, 400, 600)), (7, (0, 2, 4, 6))],
)
def test_ticks_are_what_a_person_would_choose(high: float, ticks: tuple[float, ...]) -> None:
    """Few ticks, at round numbers."""
    assert nice_ticks(high) == ticks


def test_nothing_at_all_still_has_an_axis() -> None:
    """An empty run is drawn on an axis that ends at 1."""
    assert nice_ceiling(0) == 1


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.001, 10.0, (0.001, 0.01, 0.1, 1.0, 10.0)), (0.004, 0.2, (0.001, 0.01, 0.1, 1.0)), (1.0, 1.0, (1.0, 10.0))],
)
def test_decades_surround_the_values(low: float, high: float, expected: tuple[float, ...]) -> None:
    """The logarithmic axis begins and ends at a power of ten, and has at least two."""
    assert decades(low, high) == pytest.approx(expected)


@given(length=st.floats(0, 1e6))
def test_time_has_few_ticks_of_one_length(length: float) -> None:
    """At most eleven ticks from 0 to the end, all the same step apart."""
    ticks = time_ticks(length)
    assert ticks[0] == 0
    assert ticks[-1] <= length
    assert len(ticks) <= 11
    assert len({round(later - earlier) for earlier, later in pairwise(ticks)}) <= 1


def test_a_clock_shows_hours_only_when_there_are_any() -> None:
    """Moments read like a stopwatch."""
    assert [clock_label(moment) for moment in (0, 5, 75, 3599.7, 3723)] == [
        "0:00",
        "0:05",
        "1:15",
        "1:00:00",
        "1:02:03",
    ]


def test_scales_keep_values_inside() -> None:
    """A value outside of the axis is drawn at its edge, and a logarithm of 0 is not asked for."""
    linear = Linear(0, 100, 200, 0)
    assert [linear(value) for value in (-5, 0, 50, 100, 900)] == [200, 200, 100, 0, 0]
    logarithmic = Logarithmic(0.001, 10, 400, 0)
    assert [logarithmic(value) for value in (0, 0.001, 0.1, 10)] == pytest.approx([400, 400, 200, 0])


def test_a_long_run_is_drawn_with_few_points_and_keeps_its_worst() -> None:
    """Rates become means; of latencies the highest p99 stays."""
    long = tuple(Second(float(at), 1.0, 100.0, 0, 0, 0.01, 5.0 if at == 777 else 0.02) for at in range(1000))
    short = stretched(long, 100)
    assert len(short) == 100
    assert short[0] == Second(0.0, 10.0, 100.0, 0.0, 0.0, 0.01, 0.02)
    assert max(second.p99_s or 0 for second in short) == 5.0
    assert stretched(long[:100], 100) == long[:100]


def test_a_stretch_without_answers_has_no_latency() -> None:
    """None stays None."""
    silent = Second(0.0, 1.0, 0, 0, 0, None, None)
    assert stretched((silent, silent), 1)[0].p99_s is None


def test_overlapping_faults_make_one_band() -> None:
    """Bands do not overlap, cover every fault, and name all of them once."""
    spans = [Span("a", 0, 2), Span("b", 1, 3), Span("a", 2.5, 4), Span("c", 5, 6)]
    assert merged(spans) == (Span("a, b", 0, 4), Span("c", 5, 6))


def test_a_fault_within_one_that_lasts_is_seen() -> None:
    """What came and went while others lasted has a second shade; where nothing lasts there is none."""
    lasting = [Span("commit", 0, 20), Span("latency", 1, 20)]
    short = [Span("outage", 2, 4), Span("outage", 6, 12), Span("kill", 11, 13)]
    assert [(span.start_s, span.end_s) for span in passing([*lasting, *short])] == [(2, 4), (6, 13)]
    assert passing(lasting) == passing(short) == passing([]) == ()


def test_everything_stands_inside_the_drawing() -> None:
    """No rectangle, tick or point of a curve lies outside of the drawing."""
    run = run_named(series=seconds(100, 120, 0, 90, failed=3, unknown=1))
    line = timeline(run, axes([run]))
    for mark in [*line.phases, *line.bands, *(mark for lane in line.lanes for mark in lane.marks)]:
        assert line.left <= mark.x <= mark.x + mark.width <= line.right + 2
    for panel in line.panels:
        assert line.panels_top < panel.top < panel.bottom <= line.bottom < line.height
        for curve in panel.curves:
            heights = [float(y) for y in re.findall(r"(?:V|[ML][\d.]+ )([\d.]+)", curve.path)]
            assert heights
            assert all(panel.top <= y <= panel.bottom for y in heights)


def test_what_was_not_acknowledged_has_a_panel_only_if_there_was_any() -> None:
    """A run in which everything was acknowledged has no empty panel."""
    good, bad = run_named(), run_named(series=seconds(10, unknown=2))
    shared = axes([good, bad])
    assert [panel.kind for panel in timeline(good, shared).panels] == ["goodput", "latency"]
    assert [panel.kind for panel in timeline(bad, shared).panels] == ["goodput", "trouble", "latency"]


def test_compared_runs_share_their_axes() -> None:
    """The same height means the same number in every run."""
    slow, quick = run_named(series=seconds(10)), run_named(series=seconds(900))
    shared = axes([slow, quick])
    assert shared.goodput_max == 1000
    assert timeline(slow, shared).panels[0].ticks == timeline(quick, shared).panels[0].ticks


def test_the_latency_line_breaks_where_nothing_was_acknowledged() -> None:
    """A second without answers is a gap, not a latency of 0."""
    series = seconds(10, 10, 10)
    gap = dataclasses.replace(series[1], p50_s=None, p99_s=None)
    run = run_named(series=(series[0], gap, series[2]))
    latency = timeline(run, axes([run])).panels[-1]
    assert [curve.path.count("M") for curve in latency.curves] == [2, 2, 2]


def test_a_run_without_anything_is_drawn() -> None:
    """A run that was cut off at once has an empty time line, and says so."""
    run = dataclasses.replace(run_named(series=()), faults=(), phases=(), offered_per_s=None, deadline_s=None)
    line = timeline(run, axes([run]))
    assert "nothing was answered" in line.description


def test_the_description_says_what_the_picture_shows() -> None:
    """Whoever does not see the drawing learns the faults, the goodput and the worst latency."""
    line = timeline(run_named(), axes([run_named()]))
    assert all(word in line.description for word in ("kill-server", "between 0 and 120", "20 ms"))
