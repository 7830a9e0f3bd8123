"""A counter is at least what was acknowledged and at most what may have been done."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.drills.checkers import counter_bounds
from holdfast.drills.verdict import Validity

from .histories import Story


def counted(answers: list[tuple[str, int]], n: int, **final: Any) -> Validity:
    """The verdict on these increments of one row, and where it is in the end."""
    told = Story()
    for answer, by in answers:
        told.op("increment", {"row": "1", "by": by}, answer)
    return counter_bounds.check(told.final("counter", {"rows": {"1": n}, **final}).history()).valid


ASKED = [("ok", 2), ("ok", 1), ("info", 3), ("fail", 5)]


@pytest.mark.parametrize(("n", "valid"), [(2, False), (3, True), (5, True), (6, True), (7, False), (8, False)])
def test_bounds(n: int, valid: bool) -> None:
    """From what was acknowledged to that and what is unknown; both bounds belong to it."""
    assert counted(ASKED, n) is (Validity.VALID if valid else Validity.INVALID)


def test_counting_down_widens_the_lower_bound() -> None:
    """An unknown decrement may have been done."""
    assert [counted([("ok", 5), ("info", -2)], n) is Validity.VALID for n in (2, 3, 5, 6)] == [False, True, True, False]


def test_counters_may_begin_anywhere() -> None:
    """What the final calls initial is where they began."""
    assert counted([("ok", 1)], 11, initial={"1": 10}) is Validity.VALID
    assert counted([("ok", 1)], 11) is Validity.INVALID


def rmw(n: int, ids: list[str]) -> Validity:
    """The verdict on two acknowledged read-modify-writes of one row."""
    told = Story().op("rmw", {"row": "1", "id": "a"}).op("rmw", {"row": "1", "id": "b"})
    return counter_bounds.check(told.final("rmw", {"rows": {"1": {"n": n, "ids": ids}}}).history()).valid


def test_lost_update_is_found() -> None:
    """Two acknowledged updates and a counter at 1, whether or not both rows of their own are there."""
    assert rmw(2, ["a", "b"]) is Validity.VALID
    assert rmw(1, ["a", "b"]) is Validity.INVALID
    assert rmw(3, ["a", "b"]) is Validity.INVALID


def test_unknown_update_must_have_counted_if_its_row_is_there() -> None:
    """Within the bounds, and yet half of an operation."""
    told = Story().op("rmw", {"row": "1", "id": "a"}, "info")
    told.final("rmw", {"rows": {"1": {"n": 0, "ids": ["a"]}}})
    assert counter_bounds.check(told.history()).valid is Validity.INVALID


def test_a_row_that_is_gone_counts_as_0() -> None:
    """So acknowledged increments of it are lost."""
    told = Story().op("increment", {"row": "1", "by": 1}).final("counter", {"rows": {}})
    assert counter_bounds.check(told.history()).valid is Validity.INVALID


def test_without_the_final_nothing_is_known() -> None:
    """Also if another counter was read back."""
    told = Story().op("increment", {"row": "1", "by": 1}).op("rmw", {"row": "1", "id": "a"})
    assert counter_bounds.check(told.history()).valid is Validity.UNKNOWN
    told.final("counter", {"rows": {"1": 1}})
    assert counter_bounds.check(told.history()).valid is Validity.UNKNOWN


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(-3, 3))))
def test_honest_counters_are_valid_and_one_too_few_or_too_many_is_not(truth: list[tuple[bool, bool, int]]) -> None:
    """Whatever was applied and told honestly; beyond the sums of what is certain and possible it is invalid."""
    answers = [("info" if doubt else "ok" if applied else "fail", by) for applied, doubt, by in truth]
    n = sum(by for applied, _, by in truth if applied)
    if not truth:
        return
    assert counted(answers, n) is Validity.VALID
    certain = sum(by for answer, by in answers if answer == "ok")
    assert (
        counted(answers, certain + sum(min(by, 0) for answer, by in answers if answer == "info") - 1)
        is Validity.INVALID
    )
    assert (
        counted(answers, certain + sum(max(by, 0) for answer, by in answers if answer == "info") + 1)
        is Validity.INVALID
    )
