"""The same key, the same answer, one effect; and nobody gets another's answer."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.drills.checkers import crosstalk, replay_equality
from holdfast.drills.verdict import Validity

from .histories import Story


def keyed(told: list[tuple[str, str, Any]], effects: dict[str, int]) -> Validity:
    """The verdict on callers (tenant, answer, result) of one key, and how often each tenant's save is there."""
    story = Story()
    for tenant, answer, result in told:
        value = {"id": f"{tenant}-1", "tenant": tenant, "key_hash": "k"}
        story.op("keyed", value, answer, {"result": result} if answer == "ok" else None)
    return replay_equality.check(story.final("keyed", {"effects": effects}).history()).valid


TWICE: list[tuple[str, str, Any]] = [("red", "ok", 7), ("red", "ok", 7), ("red", "info", None), ("red", "fail", None)]


def test_equal_replays_are_valid() -> None:
    """Each caller was told the same, and it was done once; tenants stand on their own."""
    assert keyed(TWICE, {"red-1": 1}) is Validity.VALID
    assert keyed([*TWICE, ("blue", "ok", 8)], {"red-1": 1, "blue-1": 1}) is Validity.VALID


@pytest.mark.parametrize(
    ("told", "effects"),
    [
        ([*TWICE, ("red", "ok", 8)], {"red-1": 1}),
        (TWICE, {"red-1": 2}),
        (TWICE, {}),
        ([("red", "info", None), *TWICE], {"red-1": 2}),
        ([*TWICE, ("blue", "ok", 7)], {"red-1": 1}),
    ],
    ids=["another result", "two effects", "no effect", "two effects of a doubt", "another tenant's answer"],
)
def test_planted_damage_is_found(told: list[tuple[str, str, Any]], effects: dict[str, int]) -> None:
    """Each way in which a key may fail."""
    assert keyed(told, effects) is Validity.INVALID


def test_a_key_asked_once_proves_nothing() -> None:
    """Without a replay there is nothing to compare; without the final nothing to count."""
    assert keyed([("red", "ok", 7)], {"red-1": 1}) is Validity.UNKNOWN
    story = Story()
    for _ in range(2):
        story.op("keyed", {"id": "1", "tenant": "", "key_hash": "k"}, "ok", {"result": 1})
    assert replay_equality.check(story.history()).valid is Validity.UNKNOWN


def posted(told: list[tuple[int, str, dict[str, Any]]], effects: int = 1) -> Validity:
    """The verdict on answers (status, body, payload) under one key."""
    story = Story()
    for status, body, payload in told:
        value = {"id": "a", "tenant": "", "key_hash": "k", "payload": payload}
        story.op("post", value, "ok" if status < 300 else "fail", {"status": status, "body_hash": body})
    return replay_equality.check(story.final("http", {"effects": {"a": effects}}).history()).valid


def test_responses_are_compared() -> None:
    """Status and body of what was settled; what was refused for now may differ, and so may refusals of another payload."""
    one, other = {"amount": 1}, {"amount": 2}
    assert (
        posted([(201, "x", one), (201, "x", one), (409, "y", one), (503, "z", one), (422, "w", other)])
        is Validity.VALID
    )
    assert posted([(201, "x", one), (201, "y", one)]) is Validity.INVALID
    assert posted([(201, "x", one), (200, "x", one)]) is Validity.INVALID
    assert posted([(201, "x", one), (201, "x", other)]) is Validity.INVALID
    assert posted([(201, "x", one), (201, "x", one)], effects=2) is Validity.INVALID
    assert posted([(409, "x", one), (503, "y", one)], effects=0) is Validity.UNKNOWN


def test_crosstalk_is_found() -> None:
    """An echo with another's nonce is invalid; one that failed or was cancelled says nothing."""
    story = Story().op("echo", {"nonce": 1}, "ok", {"nonce": 1}).op("echo", {"nonce": 2}, "info")
    assert crosstalk.check(story.history()).valid is Validity.VALID
    verdict = crosstalk.check(story.op("echo", {"nonce": 3}, "ok", {"nonce": 2}).history())
    assert (verdict.valid, verdict.examples) == (Validity.INVALID, ("w1/3 echo (ok) asked 3 and got 2",))
    assert crosstalk.check(Story().op("echo", {"nonce": 2}, "fail").history()).valid is Validity.UNKNOWN
