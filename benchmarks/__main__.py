"""Every benchmark, one after the other: `python -m benchmarks [--write]`."""

from __future__ import annotations

import sys

from benchmarks import asgi, imports, policies, transactions

if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - {"--write"}
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; only --write can be given here, each module takes more")
    for benchmark in (imports, policies, asgi, transactions):
        benchmark.main()
