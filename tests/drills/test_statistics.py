"""The figures of a drill and the bounds on what it did not see."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.drills.estimates import percentile, upper_bound
from holdfast.drills.statistics import (
    Bounded,
    attempts_per_operation,
    goodput_per_second,
    latency_per_second,
    longest_gap_s,
    summary,
)

from .histories import Story


@pytest.mark.parametrize(("trials", "bound"), [(10_000, 3e-4), (100_000, 3e-5), (300, 0.01), (2, 1.0)])
def test_rule_of_three(trials: int, bound: float) -> None:
    """Nothing in n trials: at most three in n, with 95 % certainty."""
    assert upper_bound(0, trials) == pytest.approx(bound)


@pytest.mark.parametrize(
    ("events", "trials", "bound"),
    [(1, 10, 0.39416), (2, 10, 0.50690), (5, 100, 0.10225), (24, 42, 0.70167), (9, 10, 0.99488), (10, 10, 1.0)],
)
def test_clopper_pearson(events: int, trials: int, bound: float) -> None:
    """The exact bound, as tables of it give it."""
    assert upper_bound(events, trials) == pytest.approx(bound, abs=2e-4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_bound_is_what_it_says(case: tuple[int, int]) -> None:
    """At the bound, so few events have a probability of 5 %; the rule of three errs on the safe side."""
    events, trials = case
    bound = upper_bound(events, trials)
    assert events / trials <= bound <= 1
    if 0 < events < trials:
        terms = (math.comb(trials, k) * bound**k * (1 - bound) ** (trials - k) for k in range(events + 1))
        chance = math.fsum(terms)
        assert chance == pytest.approx(0.05, rel=1e-4)
    elif events == 0:
        assert (1 - bound) ** trials <= 0.05


@pytest.mark.parametrize(("events", "trials"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(events: int, trials: int) -> None:
    """No trial, fewer than no event, more events than trials."""
    with pytest.raises(ValueError, match="events"):
        upper_bound(events, trials)


def test_percentile_is_a_value_that_was_seen() -> None:
    """Nearest rank: at least so many do not exceed it."""
    values = list(range(1000, 0, -1))
    assert [percentile(values, percent) for percent in (0, 50, 99, 99.9, 100)] == [1, 500, 990, 999, 1000]
    assert percentile([7], 99.9) == 7
    with pytest.raises(ValueError, match="percentile"):
        percentile([], 50)


def test_latency_counts_from_the_intended_start() -> None:
    """An operation that a stall kept from beginning waited as well."""
    told = Story().op("insert", {}, at=5.0, took=0.5, intended=2.0).sample(6.5)
    assert latency_per_second(told.history(), 99) == [None, None, None, None, None, 3.5, None]
    assert goodput_per_second(told.history()) == [0, 0, 0, 0, 0, 1, 0]


def test_longest_gap_is_between_acknowledgements() -> None:
    """From the first invoke on; what failed is no acknowledgement."""
    told = Story().op("insert", {}, at=1, took=2).op("insert", {}, "fail", at=4).op("insert", {}, at=9, took=1)
    assert longest_gap_s(told.history()) == pytest.approx(7)
    assert longest_gap_s(Story().op("insert", {}, "fail").history()) is None


def test_attempts_are_counted_where_somebody_said() -> None:
    """An operation that does not say how often it was tried does not count as 0."""
    history = Story().op("insert", {}, attempts=1).op("insert", {}, attempts=4).op("insert", {}).history()
    assert attempts_per_operation(history.operations) == 2.5
    assert attempts_per_operation(history.operations[:0]) is None


def test_summary_counts_everything() -> None:
    """Every figure of a small run with one lost, one doubled and one misclassified write."""
    told = Story().phase("baseline", 0, 10).phase("faults", 10, 20).phase("healed", 20, 30).fault("cut", 11, 19)
    told.op("insert", {"id": "a"}, at=5, attempts=1)
    told.op("insert", {"id": "lost"}, at=12, took=2, attempts=3)
    told.op("insert", {"id": "failed"}, "fail", at=13, attempts=2)
    told.op("insert", {"id": "doubt"}, "info", at=14)
    told.op("insert", {"id": "b"}, at=25, took=0.5, attempts=1)
    for connection in range(100):
        told.wire("commit-forwarded", connection, 12).wire("cut", connection, 12.1, applied=connection < 40)
    told.final("set", {"ids": ["a", "a", "failed", "doubt", "b"]}, at=30)
    seen = summary(told.history())
    assert (seen.duration_s, seen.ok, seen.failed, seen.unknown, seen.unknown_applied) == (30, 3, 1, 1, 1)
    assert (seen.ambiguous, seen.ambiguous_applied, seen.faults) == (100, 40, 1)
    bounded = Bounded(1, 100, upper_bound(1, 100))
    assert (seen.lost, seen.doubled, seen.misclassified) == (bounded, bounded, bounded)
    assert {name: latency.max_s for name, latency in seen.latency.items()} == pytest.approx(
        {"before": 0.01, "during": 2, "after": 0.5}
    )
    assert seen.attempts == {"before": 1, "during": 2.5, "after": 1}
    assert sum(seen.goodput_per_second) == 3
    assert seen.longest_gap_s == pytest.approx(11.5)


def test_summary_says_none_where_nothing_was_read_back() -> None:
    """A figure that nobody counted is not 0."""
    seen = summary(Story().op("insert", {"id": "a"}).history())
    assert (seen.lost, seen.unknown_applied, seen.ambiguous_applied) == (None, None, None)
    empty = summary(Story().history())
    assert (empty.ok, empty.longest_gap_s, empty.goodput_per_second) == (0, None, ())
