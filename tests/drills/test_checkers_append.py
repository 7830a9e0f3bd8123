"""Lists tell what their transactions did: each anomaly is found, and no serial history has one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.drills.checkers import append
from holdfast.drills.verdict import Validity, Verdict

from .histories import Story

Txn = list[list[Any]]


def lists(transactions: list[tuple[str, Txn]], final: dict[str, list[int]]) -> Verdict:
    """The verdict on transactions, as they were answered and with what they read."""
    told = Story()
    for answer, txn in transactions:
        asked = [[kind, key, None if kind == "r" else value] for kind, key, value in txn]
        told.op("append", {"txn": asked}, answer, {"txn": txn} if answer == "ok" else None)
    return append.check(told.final("append", {"lists": final}).history())


def test_serial_history_is_valid() -> None:
    """One after the other, each sees what was before."""
    verdict = lists(
        [
            ("ok", [["r", 1, []], ["append", 1, 1], ["r", 1, [1]]]),
            ("ok", [["r", 1, [1]], ["append", 1, 2]]),
            ("info", [["append", 1, 3]]),
            ("fail", [["append", 1, 4]]),
            ("ok", [["r", 1, [1, 2, 3]]]),
        ],
        {"1": [1, 2, 3]},
    )
    assert (verdict.valid, verdict.counts["transactions"]) == (Validity.VALID, 3)


WRITES: list[tuple[str, Txn]] = [
    ("ok", [["append", 1, 1], ["append", 2, 10]]),
    ("ok", [["append", 1, 2], ["append", 2, 20]]),
]


@pytest.mark.parametrize(
    ("anomaly", "transactions", "final"),
    [
        ("duplicates", [("ok", [["r", 1, [1, 1]]]), *WRITES], {"1": [1, 1, 2], "2": [10, 20]}),
        ("duplicates", [("ok", [["r", 1, []]]), *WRITES], {"1": [1, 2, 2], "2": [10, 20]}),
        ("aborted_reads", [("fail", [["append", 1, 1]]), ("ok", [["r", 1, [1]]])], {"1": [1]}),
        ("incompatible_orders", [("ok", [["r", 1, [2, 1]]]), *WRITES], {"1": [1, 2], "2": [10, 20]}),
        ("incompatible_orders", [("ok", [["r", 1, [2]]]), *WRITES], {"1": [1, 2], "2": [10, 20]}),
        (
            "vanished_reads",
            [("ok", [["append", 1, 1]]), ("info", [["append", 1, 2]]), ("ok", [["r", 1, [1, 2]]])],
            {"1": [1]},
        ),
        (
            "vanished_reads",
            [*WRITES, ("info", [["append", 1, 3]]), ("ok", [["r", 1, [1, 2, 3]]])],
            {"1": [1, 3], "2": [10, 20]},
        ),
        ("vanished_reads", [("ok", [["append", 1, 1], ["r", 1, [1]]])], {}),
        ("dirty_writes", [("ok", [["r", 1, []]]), *WRITES], {"1": [1, 2], "2": [20, 10]}),
        (
            "lost_updates",
            [("ok", [["r", 1, []], ["append", 1, 1]]), ("ok", [["r", 1, []], ["append", 1, 2]])],
            {"1": [1, 2]},
        ),
    ],
)
def test_planted_anomaly_is_found(
    anomaly: str, transactions: list[tuple[str, Txn]], final: dict[str, list[int]]
) -> None:
    """Each anomaly turns the checker red, and it is told by its name."""
    verdict = lists(transactions, final)
    assert verdict.valid is Validity.INVALID
    assert verdict.counts[anomaly] > 0


def test_blind_appends_lose_no_update() -> None:
    """Who did not read cannot have been overtaken."""
    assert lists([*WRITES, ("ok", [["r", 1, [1]]])], {"1": [1, 2], "2": [10, 20]}).valid is Validity.VALID


def test_nothing_read_proves_nothing() -> None:
    """And nothing read back neither."""
    assert lists(WRITES, {"1": [1, 2], "2": [10, 20]}).valid is Validity.UNKNOWN
    told = Story().op("append", {"txn": [["r", 1, None]]}, "ok", {"txn": [["r", 1, []]]})
    assert append.check(told.history()).valid is Validity.UNKNOWN


@given(
    st.lists(st.tuples(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), min_size=1, max_size=4), st.booleans()))
)
def test_any_serial_history_has_no_anomaly(wanted: list[tuple[list[tuple[bool, int]], bool]]) -> None:
    """Transactions one after the other, some of them answered info, on three lists."""
    state: dict[int, list[int]] = {}
    number = 0
    done: list[tuple[str, Txn]] = []
    for micros, doubt in wanted:
        txn: Txn = []
        for writes, key in micros:
            if writes:
                number += 1
                state.setdefault(key, []).append(number)
                txn.append(["append", key, number])
            else:
                txn.append(["r", key, list(state.get(key, []))])
        done.append(("info" if doubt else "ok", txn))
    assert lists(done, {str(key): seen for key, seen in state.items()}).valid is not Validity.INVALID
