"""What was acknowledged is there once, what failed is not, and nothing else is: four checkers on seven kinds of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.drills.checkers import fail_means_absent, no_double_apply, no_lost_ack, no_phantom
from holdfast.drills.history import History
from holdfast.drills.verdict import Validity, Verdict

from .histories import Story

Check = Callable[[History], Verdict]
FOUR: dict[str, Check] = {
    checker.NAME: checker.check for checker in (no_lost_ack, no_double_apply, fail_means_absent, no_phantom)
}

# For each operation: its arguments for an effect, and the final for the effects that are there, with repetition.
KINDS: dict[str, tuple[Callable[[str], dict[str, Any]], str, Callable[[list[str]], dict[str, Any]]]] = {
    "transfer": (
        lambda each: {"id": each, "from": 1, "to": 2, "amount": 3},
        "bank",
        lambda there: {"ledger": [[each, 1, 2, 3] for each in there], "balances": {}, "initial": {}},
    ),
    "insert": (lambda each: {"id": each}, "set", lambda there: {"ids": there}),
    "insert-unique": (lambda each: {"id": each}, "unique", lambda there: {"ids": there}),
    "rmw": (lambda each: {"id": each, "row": "1"}, "rmw", lambda there: {"rows": {"1": {"n": 0, "ids": there}}}),
    "append": (
        lambda each: {"txn": [["append", 1, int(each)], ["r", 1, None]]},
        "append",
        lambda there: {"lists": {"1": [int(each) for each in there]}},
    ),
    "keyed": (
        lambda each: {"id": each, "tenant": "red", "key_hash": each},
        "keyed",
        lambda there: {"effects": {each: there.count(each) for each in there}},
    ),
    "post": (
        lambda each: {"id": each, "tenant": "", "key_hash": each, "payload": {}},
        "http",
        lambda there: {"effects": {each: there.count(each) for each in there}},
    ),
}


def answers(history: History) -> dict[str, Validity]:
    """What each of the four says."""
    return {name: check(history).valid for name, check in FOUR.items()}


def story(kind: str, asked: dict[str, str], there: list[str]) -> Story:
    """Effects that were asked, with their answers, and those that are there."""
    arguments, final, state = KINDS[kind]
    told = Story()
    for each, answer in asked.items():
        told.op(kind, arguments(each), answer)
    return told.final(final, state(there))


GOOD = {"1": "ok", "2": "ok", "3": "fail", "4": "info", "5": "info"}


@pytest.mark.parametrize("kind", KINDS)
def test_good_history_is_valid(kind: str) -> None:
    """Acknowledged effects are there, failed ones are not, unknown ones may be."""
    assert set(answers(story(kind, GOOD, ["1", "2", "4"]).history()).values()) == {Validity.VALID}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("there", "found_by"),
    [
        (["1", "4"], "no-lost-ack"),
        (["1", "2", "2"], "no-double-apply"),
        (["1", "2", "5", "5"], "no-double-apply"),
        (["1", "2", "3"], "fail-means-absent"),
        (["1", "2", "9"], "no-phantom"),
    ],
)
def test_planted_damage_is_found(kind: str, there: list[str], found_by: str) -> None:
    """Each kind of damage turns its checker red, in every workload, and no other one."""
    said = answers(story(kind, GOOD, there).history())
    assert {name for name, valid in said.items() if valid is Validity.INVALID} == {found_by}


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_final_nothing_is_known(kind: str) -> None:
    """What nobody read back proves nothing."""
    asked = Story().op(kind, KINDS[kind][0]("1")).history()
    assert set(answers(asked).values()) == {Validity.UNKNOWN}


def test_nothing_acknowledged_proves_no_acknowledgement() -> None:
    """A run in which everything failed loses nothing, which is no praise."""
    history = story("insert", {"1": "fail", "2": "info"}, []).history()
    assert answers(history) == {
        "no-lost-ack": Validity.UNKNOWN,
        "no-double-apply": Validity.UNKNOWN,
        "fail-means-absent": Validity.VALID,
        "no-phantom": Validity.UNKNOWN,
    }


@pytest.mark.parametrize(
    ("told", "there", "red"),
    [
        (["info", "ok"], ["1"], set()),
        (["fail", "ok"], ["1"], set()),
        (["fail", "info"], ["1"], set()),
        (["info", "ok"], [], {"no-lost-ack"}),
        (["ok", "fail"], [], {"no-lost-ack"}),
        (["fail", "fail"], ["1"], {"fail-means-absent"}),
        (["ok", "ok"], ["1", "1"], {"no-double-apply"}),
    ],
)
def test_callers_of_one_effect_count_together(told: list[str], there: list[str], red: set[str]) -> None:
    """Of several who asked for the same, the strongest answer counts."""
    asked = Story()
    for answer in told:
        asked.op("insert", {"id": "1"}, answer)
    said = answers(asked.final("set", {"ids": there}).history())
    assert {name for name, valid in said.items() if valid is Validity.INVALID} == red


def test_loss_by_a_server_that_does_not_keep_it_is_still_loss() -> None:
    """The reason says whose fault it may be; the answer stays."""
    history = Story(durable=False).op("insert", {"id": "1"}).final("set", {"ids": []}).history()
    verdict = no_lost_ack.check(history)
    assert verdict.valid is Validity.INVALID
    assert "set not to keep" in verdict.reason
    assert verdict.examples == ("w1/1 insert (ok): 1 is not in set",)
    assert verdict.counts["lost"] == 1


def test_several_workloads_are_judged_together() -> None:
    """One lost insert is found beside a hundred good transfers."""
    told = Story().op("insert", {"id": "1"}).op("transfer", {"id": "t", "from": 1, "to": 2, "amount": 3})
    told.final("set", {"ids": []}).final("bank", {"ledger": [["t", 1, 2, 3]], "balances": {}, "initial": {}})
    assert no_lost_ack.check(told.history()).valid is Validity.INVALID


# An operation as the server and its caller may see it: was it applied, and what was the caller told.
HONEST = st.sampled_from([(True, "ok"), (True, "info"), (False, "fail"), (False, "info")])


@given(st.lists(HONEST, min_size=1, max_size=60), st.data())
def test_honest_histories_are_never_red_and_every_damage_is(truth: list[tuple[bool, str]], data: st.DataObject) -> None:
    """Whatever an honest system did is not invalid; one effect more or less than it said is."""
    asked = {str(number): answer for number, (_, answer) in enumerate(truth)}
    there = [str(number) for number, (applied, _) in enumerate(truth) if applied]
    assert Validity.INVALID not in answers(story("insert", asked, there).history()).values()
    damages = [
        ("no-phantom", [*there, "phantom"]),
        *(("no-lost-ack", [each for each in there if each != effect]) for effect in there if asked[effect] == "ok"),
        *(("no-double-apply", [*there, effect]) for effect in there),
        *(("fail-means-absent", [*there, effect]) for effect, answer in asked.items() if answer == "fail"),
    ]
    checker, damaged = data.draw(st.sampled_from(damages))
    assert FOUR[checker](story("insert", asked, damaged).history()).valid is Validity.INVALID
