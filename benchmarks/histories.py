"""What a history costs: lines written and read a second, and how long every checker takes over many operations.

python -m benchmarks.histories [--operations 200000]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path
from time import perf_counter

from benchmarks.report import table
from holdfast.drills.checkers import check
from holdfast.drills.history import NS, History, HistoryWriter
from holdfast.drills.statistics import summary


def write(path: Path, operations: int) -> None:
    """Transfers of eight workers, one in a hundred in doubt, with a fault in the middle."""
    ledger = []
    balances = dict.fromkeys(range(8), operations * 5)
    initial = dict(balances)
    with HistoryWriter(path, "runner") as writer:
        fault = 0
        for number in range(operations):
            if number == operations // 2:
                fault = writer.fault_start("cut")
            source, target = number % 8, (number + 1) % 8
            v = {"from": source, "to": target, "amount": 3, "id": f"w{source}-{number}"}
            operation = writer.invoke("transfer", v, deadline=writer.now() + NS, process=f"w{source}")
            if number % 100 == 0:
                writer.wire("commit-forwarded", number)
                operation.info(stage="commit", code=2013, failure_class="ambiguous")
            else:
                operation.ok(attempts=1)
            balances[source] -= 3
            balances[target] += 3
            ledger.append([v["id"], source, target, 3])
        writer.fault_end("cut", fault)
        writer.final("bank", {"balances": balances, "ledger": ledger, "initial": initial})


def main() -> None:
    """Write, read, judge and sum up; print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=200_000)
    operations = parser.parse_args().operations
    rows: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        started = perf_counter()
        write(path, operations)
        rows.append(("write", perf_counter() - started))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = perf_counter()
        history = History.load(path)
        rows.append(("load", perf_counter() - started))
        megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    started = perf_counter()
    verdicts = check(history)
    rows.append((f"check, {len(verdicts)} checkers", perf_counter() - started))
    started = perf_counter()
    summary(history)
    rows.append(("sum up", perf_counter() - started))
    print(table(["step", "s", "operations/s"], [[step, f"{s:.2f}", f"{operations / s:,.0f}"] for step, s in rows]))
    print(
        f"{operations:,} operations take {megabytes:.0f} MB. " + " ".join(f"{v.checker}: {v.valid}." for v in verdicts)
    )


if __name__ == "__main__":
    main()
