"""The service as a process: `python -m examples.ledger`, its settings, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from pydantic import ValidationError

from examples.ledger.settings import LedgerSettings
from holdfast.drills.servers.process import free_port

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def process(folder: Path, url: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The service's process, killed if a test leaves it running."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "examples.ledger"),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LEDGER_DATABASE_URL": url, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def answers(http: httpx2.AsyncClient, running: asyncio.subprocess.Process) -> None:
    """Wait until the service answers."""
    async with asyncio.timeout(30):
        while running.returncode is None:
            try:
                await http.get("/livez")
                return
            except httpx2.ConnectError:
                await asyncio.sleep(0.05)
    pytest.fail("the service ended instead of answering")


async def test_service_serves_and_stops_when_told(tmp_path: Path) -> None:
    """It makes its tables, saves, keeps what it saved over a restart, and ends on SIGTERM."""
    port = free_port()
    ada = {"username": "ada", "name": "Ada", "age": 36}
    saved = []
    for _ in range(2):
        async with (
            process(tmp_path, "sqlite:///here.db", LEDGER_PORT=str(port)) as running,
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
        ):
            await answers(http, running)
            saved.append((await http.post("/api/v1/users", json=ada, headers={"Idempotency-Key": '"ada"'})).json())
            running.send_signal(signal.SIGTERM)
            await asyncio.wait_for(running.wait(), 15)
            assert running.returncode in {0, -signal.SIGTERM}
    assert saved[0] == saved[1]
    assert saved[0]["username"] == "ada"
    assert (tmp_path / "here.db").exists()


async def test_wrong_database_ends_the_start_with_the_cure(tmp_path: Path) -> None:
    """A URL that cannot work is told at once, without its password."""
    async with process(tmp_path, "postgres://app:hunter2@db/shop") as running:
        _, complaint = await asyncio.wait_for(running.communicate(), 30)
    assert running.returncode == 1
    assert complaint.startswith(b"The ledger cannot start: ")
    assert b"write postgresql://" in complaint
    assert b"hunter2" not in complaint


def test_settings_come_from_the_environment_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`LEDGER_...` wins over `ledger.env`, which wins over the defaults; `DATABASE_URL` is known as well."""
    monkeypatch.chdir(tmp_path)
    for name in ("LEDGER_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert LedgerSettings().database_url.get_secret_value() == "sqlite:///ledger.db"
    Path("ledger.env").write_text("LEDGER_DEADLINE=3\nLEDGER_PORT=9000\nDATABASE_URL=sqlite:///file.db\n", "utf-8")
    monkeypatch.setenv("LEDGER_PORT", "9001")
    settings = LedgerSettings()
    assert (settings.deadline, settings.port) == (3.0, 9001)
    assert settings.database_url.get_secret_value() == "sqlite:///file.db"
    monkeypatch.setenv("LEDGER_DATABASE_URL", "mysql://app:hunter2@db/shop")
    assert LedgerSettings().database_url.get_secret_value() == "mysql://app:hunter2@db/shop"
    assert "hunter2" not in repr(LedgerSettings())


def test_wrong_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline of nothing is no deadline."""
    monkeypatch.setenv("LEDGER_DEADLINE", "0")
    with pytest.raises(ValidationError, match="deadline"):
        LedgerSettings()
