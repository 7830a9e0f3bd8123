"""`python -m tests.ledger.fuzz`: schemathesis over the ledger's OpenAPI document, against a process of it.

Valid and invalid requests, one by one and in sequences, with all of schemathesis' checks: no error of the server's, nothing
that the document does not name, nothing valid refused and nothing invalid accepted. `--examples` says how long.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from tests.ledger.conftest import bearer
from tests.ledger.fuzz_hooks import PLANTED
from tests.ledger.served import HOST, ROOT, SETTINGS, Served, serve

__all__ = ["UNLIMITED", "fuzz", "main"]

UNLIMITED = {"HOLDFAST_RATE_PER_S": "100000", "HOLDFAST_TENANT_RATE_PER_S": "100000"}
"""For the ledger's process: fuzzing is faster than one client may be."""


async def fuzz(served: Served, folder: Path, *options: str, planted: bool = False) -> tuple[int, str]:
    """Run schemathesis; its exit status, and what it said. `planted`: the document promises what the service does not take."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        *("--config-file", Path(__file__).with_name("schemathesis.toml")),
        *("run", f"http://{HOST}:{served.port}/openapi.json", "--checks", "all", "--no-color"),
        *("--header", f"Authorization: {bearer(SETTINGS)['Authorization']}"),
        *options,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **({PLANTED: "1"} if planted else {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def _fuzz(examples: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        async with serve(Path(name), "sqlite:///fuzzed.db", UNLIMITED) as served:
            assert await served.open_accounts("1000000", "1000000") == [1, 2]
            status, said = await fuzz(served, Path(name), "--max-examples", str(examples), "--seed", str(seed))
            if status:
                ended = served.process.returncode
                state = "still serves" if ended is None else f"has ended with {ended}"
                said += "\n".join(["", f"The ledger {state}; its last lines:", *served.said().splitlines()[-40:], ""])
    sys.stdout.write(said)
    return status


def main() -> int:
    """Run it; schemathesis' exit status."""
    parser = argparse.ArgumentParser("python -m tests.ledger.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=300, help="at most, for each operation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn (default: %(default)s)")
    given = parser.parse_args()
    return asyncio.run(_fuzz(given.examples, given.seed))


if __name__ == "__main__":
    sys.exit(main())
