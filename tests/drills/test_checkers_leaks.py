"""Connections, transactions, descriptors and memory that stay behind are found."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.drills.checkers import leaks
from holdfast.drills.verdict import Validity

from .histories import Story

QUIET: dict[str, Any] = {
    "checked_out": 0,
    "server_connections": 10,
    "oldest_transaction_s": 0.1,
    "fds": 40,
    "rss_bytes": 100_000_000,
}


def run(**changes: dict[float, Any]) -> Story:
    """A sample every second for 40 s, with a fault from 10 to 15 s; `changes` says from when on what is counted."""
    told = Story(pool_max=10).fault("stop", 10, 15)
    for second in range(41):
        counted = dict(QUIET)
        for name, values in changes.items():
            for moment, value in values.items():
                if second >= moment:
                    counted[name] = value(second) if callable(value) else value
        told.sample(second, **counted)
    return told


def test_a_run_that_cleans_up_is_valid() -> None:
    """Also if during the fault, and shortly after it, there is more of everything."""
    assert leaks.check(run().history()).valid is Validity.VALID
    busy: dict[str, Any] = {"checked_out": 5, "server_connections": 30, "oldest_transaction_s": 9.0, "fds": 90}
    told = run(**{name: {11.0: value, 18.0: QUIET[name]} for name, value in busy.items()})
    assert leaks.check(told.history()).valid is Validity.VALID


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"checked_out": {38.0: 1}}, "1 connection checked out"),
        ({"server_connections": {25.0: 11}}, "11 connections on the server"),
        ({"server_connections": {5.0: 11, 6.0: 10}}, "11 connections on the server"),
        ({"oldest_transaction_s": {30.0: 5.1}}, "open for 5.1 s"),
        ({"fds": {15.0: lambda second: 40 + second}}, "fds grew by 20"),
        ({"rss_bytes": {15.0: lambda second: 100_000_000 + second * 2_000_000}}, "rss_bytes grew by 40000000"),
    ],
)
def test_planted_leak_is_found(changes: dict[str, Any], found: str) -> None:
    """Each of them turns it red, and is named."""
    verdict = leaks.check(run(**changes).history())
    assert verdict.valid is Validity.INVALID
    assert found in verdict.examples[0]


def test_a_transaction_may_last_as_long_as_its_caller_waits() -> None:
    """The deadline, and the second after which the server ends it; then it has been left behind."""
    for open_s, valid in ((11.0, Validity.VALID), (11.1, Validity.INVALID)):
        told = run(oldest_transaction_s={30.0: open_s})
        told.lines[0]["v"]["deadline_s"] = 10.0
        assert leaks.check(told.history()).valid is valid


def test_side_connections_are_allowed_and_no_more() -> None:
    """Those that are opened beside the pools are told of, and counted to the last one."""
    for connections, valid in ((12, Validity.VALID), (13, Validity.INVALID)):
        told = run(server_connections={25.0: connections})
        told.lines[0]["v"]["side_max"] = 2
        assert leaks.check(told.history()).valid is valid


def test_noise_is_no_leak() -> None:
    """A few descriptors more or less, and memory that breathes."""
    changes: dict[str, Any] = {
        "fds": {0.0: lambda second: 40 + second % 5},
        "rss_bytes": {0.0: lambda second: 100_000_000 + second % 7 * 1_000_000},
    }
    assert leaks.check(run(**changes).history()).valid is Validity.VALID


def test_without_samples_after_the_last_heal_nothing_is_known() -> None:
    """What was counted in the middle of the trouble proves nothing, and what never healed has no after."""
    assert leaks.check(Story().fault("stop", 5, 6).sample(7, **QUIET).history()).valid is Validity.UNKNOWN
    assert leaks.check(Story().fault("stop", 5, None).sample(50, **QUIET).history()).valid is Validity.UNKNOWN


def test_what_is_not_counted_is_not_judged() -> None:
    """Each figure may be left out, and the pool's size too."""
    told = Story()
    for second in range(20):
        told.sample(second, server_connections=500)
    assert leaks.check(told.history()).valid is Validity.VALID
    assert leaks.check(told.history(), pool_max=100).valid is Validity.INVALID


def test_what_warms_up_without_a_fault_is_no_leak() -> None:
    """A healthy drill without faults grows in its first seconds, and is judged from the sixth on."""
    told = Story(pool_max=10).phase("baseline", 2, 20)
    for second in range(2, 21):
        told.sample(second, **{**QUIET, "fds": 20 + 4 * min(second - 2, 5)})
    verdict = leaks.check(told.history())
    assert verdict.valid is Validity.VALID
    assert verdict.counts["looked_at"] == 14


def test_one_thing_is_told_as_one() -> None:
    """The sentence is one that a person would say."""
    assert leaks.check(run(checked_out={38.0: 1}).history()).reason == "1 thing was left behind"
