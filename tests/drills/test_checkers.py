"""Together: the checkers that apply are asked, and one answer comes out."""

from __future__ import annotations

import pytest

from holdfast.drills.checkers import NAMES, Limits, check, overall
from holdfast.drills.verdict import Validity, Verdict

from .histories import Story


def small(there: list[str]) -> Story:
    """A run in which one insert was acknowledged under a fault with a COMMIT in doubt."""
    told = Story(workload="inserts").fault("cut", 1, 2)
    for number in range(12):
        told.op("insert", {"id": str(number)}, at=1.5 + number, deadline=30)
    return told.wire("commit-forwarded", 1, 1.6).final("set", {"ids": there}, at=14)


ALL = [str(number) for number in range(12)]


def test_the_checkers_that_apply_are_asked() -> None:
    """Inserts without proxy counts, samples and baseline are judged by these; all names are different."""
    verdicts = check(small(ALL).history(), Limits(ambiguous_min=1))
    assert [verdict.checker for verdict in verdicts] == [
        "no-lost-ack",
        "no-double-apply",
        "fail-means-absent",
        "no-phantom",
        "deadline-kept",
        "liveness",
        "offered-rate",
        "coverage",
    ]
    assert {verdict.valid for verdict in verdicts} == {Validity.VALID}
    assert overall(verdicts) is Validity.VALID
    assert len(set(NAMES)) == len(NAMES) == 17


def test_limits_reach_their_checkers() -> None:
    """What a drill must keep is decided where it is run."""
    history = small(ALL).history()
    assert overall(check(history)) is Validity.UNKNOWN
    strict = {verdict.checker: verdict.valid for verdict in check(history, Limits(deadline_grace_s=-29.0))}
    assert strict["deadline-kept"] is Validity.INVALID


def test_damage_turns_the_whole_red() -> None:
    """One invalid verdict outweighs every valid and every unknown one."""
    assert overall(check(small(ALL[1:]).history())) is Validity.INVALID


def test_an_empty_history_is_unknown() -> None:
    """Where nothing was judged nothing is proven."""
    assert check(Story().history()) == []
    assert overall([]) is Validity.UNKNOWN


@pytest.mark.parametrize(
    ("answers", "whole"),
    [("vv", Validity.VALID), ("vu", Validity.UNKNOWN), ("uvi", Validity.INVALID), ("u", Validity.UNKNOWN)],
)
def test_one_answer_for_a_run(answers: str, whole: Validity) -> None:
    """Invalid before unknown before valid."""
    of = {"v": Validity.VALID, "u": Validity.UNKNOWN, "i": Validity.INVALID}
    assert overall(Verdict("x", of[answer], "") for answer in answers) is whole


def test_a_history_that_says_too_little_is_unknown() -> None:
    """An operation without the field that its checker needs is no crash and no praise."""
    told = Story().op("insert", {}).final("set", {"ids": []}).op("echo", {}, "ok", {"nonce": 1})
    said = {verdict.checker: verdict for verdict in check(told.history())}
    assert said["crosstalk"].valid is Validity.UNKNOWN
    assert "'nonce'" in said["crosstalk"].reason
