"""What a limit is good for while more is asked than can be served: who is turned away, how soon, and what is done meanwhile."""

from __future__ import annotations

import pytest

from holdfast.drills.checkers import overload
from holdfast.drills.verdict import Validity

from .histories import Story


def overloaded(*, limit: str = "on", shed: int = 2, took: float = 0.1, told_when: bool = True, done: int = 1) -> Story:
    """10 s in which of each second's three operations so many are done, in half a second, and so many turned away."""
    story = Story(limit=limit).op("insert", {}, at=1).fault("overload", 10, 20, overload=True)
    for second in range(10, 20):
        for _ in range(done):
            story.op("insert", {}, at=second, took=0.5)
        for _ in range(shed):
            result = {"retry_after_s": 0.4} if told_when else None
            story.op("insert", {}, "fail", result, at=second, took=took, error="LoadShed", attempts=1)
        for _ in range(3 - done - shed):
            story.op("insert", {}, "fail", at=second, took=2.0, error="DeadlineExceeded", attempts=1)
    return story


def test_turned_away_at_once_and_told_when_to_come_again() -> None:
    """The figures stand beside the verdict."""
    verdict = overload.check(overloaded().history())
    assert verdict.valid is Validity.VALID
    counts = verdict.counts
    assert (counts["due"], counts["done"], counts["shed"], counts["given_up"]) == (30, 10, 20, 0)
    assert (counts["due_per_s"], counts["goodput_per_s"], counts["done_p99_s"]) == (3.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("story", "why"),
    [
        (overloaded(took=0.4), "one in ten was kept waiting for 0.40 s"),
        (overloaded(told_when=False), "was not told when to come again"),
        (overloaded(shed=0), "the limit is on, and turned nobody away"),
    ],
)
def test_a_limit_that_lets_queues_build_is_found(story: Story, why: str) -> None:
    """Late, without a time to come again, or not at all."""
    verdict = overload.check(story.history())
    assert verdict.valid is Validity.INVALID
    assert why in verdict.examples[0]


@pytest.mark.parametrize("limit", ["off", "dark"])
def test_without_a_limit_nobody_has_to_be_turned_away(limit: str) -> None:
    """The figures show what that comes to."""
    verdict = overload.check(overloaded(limit=limit, shed=0).history())
    assert (verdict.valid, verdict.counts["given_up"]) == (Validity.VALID, 20)


def test_who_is_served_was_not_overloaded() -> None:
    """Nothing is proven where nearly everybody got through."""
    assert overload.check(overloaded(shed=0, done=3).history()).valid is Validity.UNKNOWN
    assert not overload.applies(Story().fault("outage", 1, 2, outage=True).history())
