"""Runs one of the services in a process of its own, and ends it whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Conditions", "Service", "ServiceFailed", "service"]

STOPPED_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Conditions:
    """What every service works under.

    Attributes:
        seed: what the faults are drawn from.
        share: the share of attempts that are hit.
        slow: by how many seconds a slow attempt is slower.
        work: how many seconds each request takes besides saving.
    """

    seed: int
    share: float
    slow: float
    work: float


@dataclass(frozen=True, slots=True)
class Service:
    """A running service.

    Attributes:
        port: where it listens on this machine.
        met: how many `attempts` there were, and the `hits` among them by kind of fault; filled when it has stopped.
    """

    port: int
    met: dict[str, Any] = field(default_factory=dict)


class ServiceFailed(Exception):
    """A service did not start or did not stop; the text is what it printed."""


@asynccontextmanager
async def service(way: str, url: str, conditions: Conditions) -> AsyncIterator[Service]:
    """Start a service on the database at `url`, and stop it when the block ends.

    Raises:
        ServiceFailed: it did not come up, or went down by itself.
    """
    with tempfile.TemporaryFile() as complaints:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"{__package__}.server", way),
            *(f"--{name}={getattr(conditions, name)}" for name in ("seed", "share", "slow", "work")),
            # The URL may hold a password, and everybody on the machine can read command lines.
            env={**os.environ, "LEDGER_DATABASE_URL": url},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=complaints,
            # Ctrl-C is for the demo; the services end when their input does.
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if not (ready := await process.stdout.readline()):
                raise _failed(way, complaints)
            running = Service(**json.loads(ready))
            yield running
            process.stdin.close()
            if not (met := await process.stdout.readline()):
                raise _failed(way, complaints)
            running.met.update(json.loads(met))
        finally:
            await _end(process)


def _failed(way: str, complaints: Any) -> ServiceFailed:
    complaints.seek(0)
    return ServiceFailed(f"The service {way} failed:\n{complaints.read().decode(errors='replace')}")


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOPPED_WITHIN_S)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
