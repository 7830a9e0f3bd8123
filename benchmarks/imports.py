"""How long `import holdfast` takes, in a fresh interpreter each time.

    python -m benchmarks.imports [--write] [--rounds 21]

Beside it: the part of the standard library that Holdfast cannot do without, alone, and what people import today for retries.
The kinds take turns; bytecode is compiled before.
"""

from __future__ import annotations

import argparse
import compileall
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.report import table, write_section

ROOT = Path(__file__).parent.parent
STANDARD_LIBRARY = "contextvars, enum, functools, threading, typing"
TARGET_MS = 25.0
KINDS = {
    "the standard library's part": f"import {STANDARD_LIBRARY}",
    "holdfast": "import holdfast",
    "tenacity": "import tenacity",
    "stamina": "import stamina",
}


def milliseconds(statement: str) -> float:
    """What the statement takes in a new interpreter, start-up not counted."""
    code = f"from time import perf_counter as now; begun = now(); {statement}; print((now() - begun) * 1e3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout)


def main() -> None:
    """Measure, print; with --write also into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21, help="measured rounds (default 21)")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    compileall.compile_dir(str(ROOT / "src"), quiet=1)
    for statement in KINDS.values():
        milliseconds(statement)
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.rounds):
        for kind, statement in KINDS.items():
            taken[kind].append(milliseconds(statement))
    rows = []
    for kind, times in taken.items():
        median = statistics.median(times)
        target = f"{TARGET_MS:g} ms: {'met' if median <= TARGET_MS else 'missed'}" if kind == "holdfast" else ""
        rows.append([kind, f"{median:.1f}", f"{min(times):.1f} to {max(times):.1f}", target])
    text = table(["import", "median ms", "fastest to slowest", "target"], rows)
    print(text)
    if arguments.write:
        write_section("Import", "python -m benchmarks.imports", text)


if __name__ == "__main__":
    main()
