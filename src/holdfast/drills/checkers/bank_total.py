"""Money is neither made nor lost: at every read the balances have the same total, and none is negative.

    transfer    v {"id", "from", "to", "amount"}
    read-bank   ok v {"balances": {account: amount}}
    final bank  v {"balances": {account: amount}, "ledger": [[id, from, to, amount], ...], "initial": {account: amount}}

In the end the ledger, replayed on the initial balances, must give the balances: half a transfer keeps neither, and two faults
that cancel each other out in the total do not in the accounts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..history import Answer, History
from ..verdict import Verdict
from .judging import judge

__all__ = ["NAME", "applies", "check"]

NAME = "bank-total"


def applies(history: History) -> bool:
    """Whether money was moved or balances were read."""
    return bool(history.names & {"transfer", "read-bank"})


def check(history: History) -> Verdict:
    """Every read has the initial total and no negative balance, and the ledger explains the balances.

    Unknown without the final `bank`, which says how much there was.
    """
    final = history.final("bank")
    if final is None:
        return judge(NAME, (), looked_at=0, good="", bad="", nothing="the history has no final bank")
    initial = _balances(final.value["initial"])
    total = sum(initial.values())
    reads = [read for read in history.named("read-bank") if read.answer is Answer.OK]
    wrong = [
        f"{read}: {fault}"
        for read in reads
        for fault in _faults(_balances(read.result["balances"]), initial.keys(), total)
    ]
    balances = _balances(final.value["balances"])
    wrong += [f"in the end {fault}" for fault in _faults(balances, initial.keys(), total)]
    replayed = _replayed(initial, final.value["ledger"])
    wrong += [
        f"account {account} has {balances.get(account, 0)}, its ledger says {replayed.get(account, 0)}"
        for account in sorted(replayed.keys() | balances.keys())
        if replayed.get(account, 0) != balances.get(account, 0)
    ]
    return judge(
        NAME,
        wrong,
        looked_at=len(reads) + 1,
        good=f"the total was {total} at {len(reads)} reads, and the ledger explains the balances",
        bad="readings of the bank are wrong",
        nothing="",
        counts={"reads": len(reads), "total": total, "ledger": len(final.value["ledger"])},
    )


def _balances(value: Mapping[str, Any]) -> dict[str, int]:
    return {str(account): balance for account, balance in value.items()}


def _faults(balances: Mapping[str, int], accounts: object, total: int) -> list[str]:
    faults = [f"account {account} has {balance}" for account, balance in balances.items() if balance < 0]
    if balances.keys() != accounts:
        faults.append(f"the accounts are {', '.join(sorted(balances))}")
    if sum(balances.values()) != total:
        faults.append(f"the total is {sum(balances.values())}, not {total}")
    return faults


def _replayed(initial: Mapping[str, int], ledger: list[list[Any]]) -> dict[str, int]:
    balances = dict(initial)
    for _, source, target, amount in ledger:
        balances[str(source)] = balances.get(str(source), 0) - amount
        balances[str(target)] = balances.get(str(target), 0) + amount
    return balances
