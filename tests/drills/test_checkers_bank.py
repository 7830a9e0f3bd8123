"""Money is conserved at every read, and the ledger explains every balance."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.drills.checkers import bank_total
from holdfast.drills.verdict import Validity

from .histories import Story

INITIAL = {"1": 10, "2": 10, "3": 10}


def bank(reads: list[dict[str, int]], balances: dict[str, int], ledger: list[list[Any]]) -> Validity:
    """The verdict on these reads and this end."""
    told = Story()
    for seen in reads:
        told.op("read-bank", {}, "ok", {"balances": seen})
    told.final("bank", {"balances": balances, "ledger": ledger, "initial": INITIAL})
    return bank_total.check(told.history()).valid


AFTER = {"1": 7, "2": 13, "3": 10}
LEDGER: list[list[Any]] = [["a", 1, 2, 3]]


def test_conserved_money_is_valid() -> None:
    """Before and after a transfer."""
    assert bank([INITIAL, AFTER], AFTER, LEDGER) is Validity.VALID


@pytest.mark.parametrize(
    ("reads", "balances", "ledger"),
    [
        ([{"1": 7, "2": 10, "3": 10}], AFTER, LEDGER),
        ([{"1": -1, "2": 21, "3": 10}], AFTER, LEDGER),
        ([{"1": 20, "2": 10}], AFTER, LEDGER),
        ([], {"1": 7, "2": 10, "3": 10}, LEDGER),
        ([], {"1": -2, "2": 22, "3": 10}, [["a", 1, 2, 12]]),
        ([], INITIAL, LEDGER),
        ([], AFTER, [*LEDGER, ["b", 1, 2, 3]]),
        ([], AFTER, []),
    ],
    ids=["wrong total", "negative", "missing account", "half in the end", "negative in the end", "unpaid", "paid once",
         "no ledger"],
)  # fmt: skip
def test_planted_damage_is_found(
    reads: list[dict[str, int]], balances: dict[str, int], ledger: list[list[Any]]
) -> None:
    """Each way in which money is made or lost."""
    assert bank(reads, balances, ledger) is Validity.INVALID


def test_reads_that_failed_say_nothing() -> None:
    """Only what was answered ok was read."""
    told = Story().op("read-bank", {}, "info").op("read-bank", {}, "fail")
    told.final("bank", {"balances": INITIAL, "ledger": [], "initial": INITIAL})
    assert bank_total.check(told.history()).valid is Validity.VALID


def test_without_the_final_nothing_is_known() -> None:
    """Nobody says how much there was."""
    told = Story().op("read-bank", {}, "ok", {"balances": INITIAL})
    assert bank_total.check(told.history()).valid is Validity.UNKNOWN


@given(st.lists(st.tuples(st.sampled_from("123"), st.sampled_from("123"), st.integers(1, 5))), st.data())
def test_any_serial_bank_is_valid_and_a_lost_coin_is_found(
    wanted: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    """Transfers one after the other, with reads between them; one coin less in any read is invalid."""
    balances, ledger, reads = dict(INITIAL), [], [dict(INITIAL)]
    for number, (source, target, amount) in enumerate(wanted):
        if balances[source] >= amount:
            balances[source] -= amount
            balances[target] += amount
            ledger.append([f"t{number}", source, target, amount])
            reads.append(dict(balances))
    assert bank(reads, balances, ledger) is Validity.VALID
    data.draw(st.sampled_from(reads))[data.draw(st.sampled_from("123"))] -= 1
    assert bank(reads, balances, ledger) is Validity.INVALID
