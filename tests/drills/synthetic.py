"""A history that looks like a real one, drawn from a seed: for the report, whose tests must not wait for a drill.

The server has a latency, faults stop it or lose the answers of COMMITs, and the subject answers well or badly:
`holdfast` waits and settles, `plain` hands the errors on, `tenacity` tries again and doubles.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from holdfast.drills.history import NS, History

__all__ = ["META", "synthetic_history", "synthetic_lines"]

META: dict[str, Any] = {
    "seed": 7,
    "command": "holdfast drill --server mariadb --workload bank --rate 120 --seconds 60 --seed 7",
    "workload": "bank",
    "flavour": "mariadb",
    "rate": 120,
    "deadline_s": 10.0,
    "durable": True,
    "started": "2031-05-06T07:08:09Z",
    "versions": {"holdfast": "0.1.0", "python": "3.11.2", "sqlalchemy": "2.0.51", "server": "12.3.2-MariaDB"},
    "server_settings": {
        "innodb_flush_log_at_trx_commit": "1",
        "tx_isolation": "REPEATABLE-READ",
        "max_connections": "151",
    },
}
"""What such a run says of itself."""

_FAULTS = [
    ("cut-after-commit", 14.0, 17.0),
    ("kill-server", 24.0, 27.5),
    ("pause-server", 36.0, 38.0),
    ("latency", 42.0, 47.0),
]
_PHASES = [("baseline", 0.0, 12.0), ("faults", 12.0, 48.0), ("healed", 48.0, 58.0), ("final", 58.0, 60.0)]


def _ns(seconds: float) -> int:
    return 1000 * NS + round(seconds * NS)


def _under(name: str, at: float) -> float | None:
    """When the fault of that name that is active at `at` is healed, or None."""
    return next((end for fault, start, end in _FAULTS if fault == name and start <= at < end), None)


def synthetic_lines(*, subject: str = "holdfast", seed: int = 7, rate: float = 120.0) -> Iterator[dict[str, Any]]:
    """The lines of a run of 60 seconds."""
    draw = random.Random(f"{seed}:{subject}")
    yield {"type": "meta", "t": _ns(0), "p": "runner", "v": {**META, "seed": seed, "subject": subject, "rate": rate}}
    for name, start, end in _PHASES:
        yield {"type": "phase", "t": _ns(start), "p": "runner", "f": name, "phase": "start"}
        yield {"type": "phase", "t": _ns(end), "p": "runner", "f": name, "phase": "end"}
    for number, (name, start, end) in enumerate(_FAULTS, start=1):
        yield {"type": "fault", "t": _ns(start), "p": "nemesis", "f": name, "phase": "start", "id": number, "v": {}}
        yield {"type": "fault", "t": _ns(end), "p": "nemesis", "f": name, "phase": "end", "id": number, "v": {}}
    ledger: list[list[Any]] = []
    for index in range(int(rate * 58)):
        yield from _operation(index, index / rate, subject, draw, ledger)
    yield {"type": "final", "t": _ns(59), "p": "runner", "f": "bank", "v": _bank(ledger)}
    yield {"type": "closed", "t": _ns(60), "p": "runner"}


def _operation(
    index: int, at: float, subject: str, draw: random.Random, ledger: list[list[Any]]
) -> Iterator[dict[str, Any]]:
    source, target = draw.sample(range(8), 2)
    amount = draw.randint(1, 5)
    value = {"from": source, "to": target, "amount": amount, "id": f"op-{index}"}
    begun = at + draw.random() * 0.002
    line = {"p": f"w{index % 8}", "i": index, "f": "transfer"}
    yield {
        **line,
        "type": "invoke",
        "t": _ns(begun),
        "v": value,
        "key": value["id"],
        "intended": _ns(at),
        "deadline": _ns(at + 10),
    }
    took = draw.lognormvariate(-5.6, 0.35)
    answer: dict[str, Any] = {"type": "ok", "attempts": 1}
    lost_answer = False
    if healed := _under("kill-server", begun) or _under("pause-server", begun):
        took += healed - begun + draw.random() * 0.4
        answer["attempts"] = 2 if subject == "holdfast" else 1
        if subject != "holdfast" and draw.random() < 0.8:
            took = 0.003 + draw.random() * 0.002
            answer = {
                "type": "fail",
                "attempts": 1,
                "stage": "begin",
                "code": 2003,
                "class": "unsent",
                "error": "OperationalError",
            }
    elif _under("cut-after-commit", begun) and draw.random() < 0.2:
        lost_answer = True
        if subject != "plain":
            took += 0.06 + draw.random() * 0.05
            answer["attempts"] = 2
        else:
            answer = {
                "type": "info",
                "attempts": 1,
                "stage": "commit",
                "code": 2013,
                "class": "ambiguous",
                "error": "OperationalError",
            }
    elif _under("latency", begun):
        took += 0.05 + draw.random() * 0.03
    wire = {"type": "wire", "p": "proxy", "c": index, "v": {}}
    yield {**wire, "t": _ns(begun + 0.001), "f": "commit-forwarded"}
    if lost_answer:
        yield {**wire, "t": _ns(begun + 0.002), "f": "cut", "v": {"fault": "cut-after-commit", "applied": True}}
    else:
        yield {**wire, "t": _ns(begun + took * 0.9), "f": "commit-answered"}
    if answer["type"] != "fail":
        twice = lost_answer and subject == "tenacity"
        ledger += [[value["id"], source, target, amount]] * (2 if twice else 1)
    yield {**line, "t": _ns(begun + took), **answer}


def _bank(ledger: list[list[Any]]) -> dict[str, Any]:
    balances = dict.fromkeys(range(8), 10_000)
    for _, source, target, amount in ledger:
        balances[source] -= amount
        balances[target] += amount
    initial = {str(account): 10_000 for account in balances}
    return {
        "balances": {str(account): amount for account, amount in balances.items()},
        "ledger": ledger,
        "initial": initial,
    }


def synthetic_history(*, subject: str = "holdfast", seed: int = 7, rate: float = 120.0) -> History:
    """The same, merged and checked."""
    lines = sorted(synthetic_lines(subject=subject, seed=seed, rate=rate), key=lambda line: line["t"])
    return History.from_lines(lines)
