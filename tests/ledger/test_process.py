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

from examples.ledger.settings import LedgerSettings, edge_settings
from holdfast.drills.servers.process import free_port
from holdfast.errors import ConfigurationError
from tests.ledger.conftest import SECRET

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
    async with asyncio.timeout(60):
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
            process(tmp_path, "sqlite:///here.db", LEDGER_PORT=str(port), LEDGER_LAME_DUCK="0") as running,
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http,
        ):
            await answers(http, running)
            saved.append((await http.post("/api/v1/users", json=ada, headers={"Idempotency-Key": '"ada"'})).json())
            running.send_signal(signal.SIGTERM)
            await asyncio.wait_for(running.wait(), 60)
            assert running.returncode == 0
    assert saved[0] == saved[1]
    assert saved[0]["username"] == "ada"
    assert (tmp_path / "here.db").exists()


async def test_wrong_database_ends_the_start_with_the_cure(tmp_path: Path) -> None:
    """A URL that cannot work is told at once, without its password."""
    async with process(tmp_path, "postgres://app:hunter2@db/shop") as running:
        _, complaint = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 1
    complaint = complaint.partition(b"The ledger cannot start: ")[2]
    assert b"write postgresql://" in complaint
    assert b"hunter2" not in complaint


def test_settings_come_from_the_environment_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`LEDGER_...` wins over `ledger.env`, which wins over the defaults; `DATABASE_URL` is known as well."""
    monkeypatch.chdir(tmp_path)
    for name in ("LEDGER_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert LedgerSettings().database_url.get_secret_value() == "sqlite:///ledger.db"
    Path("ledger.env").write_text("LEDGER_POOL_SIZE=3\nLEDGER_PORT=9000\nDATABASE_URL=sqlite:///file.db\n", "utf-8")
    monkeypatch.setenv("LEDGER_PORT", "9001")
    settings = LedgerSettings()
    assert (settings.pool_size, settings.port) == (3, 9001)
    assert settings.database_url.get_secret_value() == "sqlite:///file.db"
    monkeypatch.setenv("LEDGER_DATABASE_URL", "mysql://app:hunter2@db/shop")
    assert LedgerSettings().database_url.get_secret_value() == "mysql://app:hunter2@db/shop"
    assert "hunter2" not in repr(LedgerSettings())


def test_wrong_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of nothing is no pool, and a deadline of nothing is no deadline."""
    monkeypatch.setenv("LEDGER_POOL_SIZE", "0")
    with pytest.raises(ValidationError, match="pool_size"):
        LedgerSettings()
    monkeypatch.setenv("HOLDFAST_DEADLINE_S", "0")
    with pytest.raises(ConfigurationError, match="DEADLINE_S"):
        edge_settings()


async def test_without_tokens_it_serves_this_machine_alone(tmp_path: Path) -> None:
    """It says so where it does, and refuses to listen to the world."""
    async with process(tmp_path, "sqlite:///here.db", LEDGER_HOST="0.0.0.0") as running:
        _, complaint = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 1
    assert b"LEDGER_TOKEN_JWKS" in complaint
    assert not (tmp_path / "here.db").exists()


async def test_tokens_are_asked_for_where_they_are_configured(tmp_path: Path) -> None:
    """Nobody is 401, and the command that makes tokens makes good ones."""
    port = free_port()
    secret = {"LEDGER_TOKEN_SECRET": SECRET}
    async with (
        process(tmp_path, "sqlite:///here.db", LEDGER_PORT=str(port), LEDGER_LAME_DUCK="0", **secret) as running,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http,
    ):
        await answers(http, running)
        assert (await http.get("/api/v1/users")).status_code == 401
        made = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.ledger.token", "north", "ada"),
            env={**os.environ, "PYTHONPATH": str(ROOT), **secret},
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await made.communicate()
        headers = {"Authorization": f"Bearer {printed.decode().strip()}"}
        assert (await http.get("/api/v1/users", headers=headers)).status_code == 200
        running.send_signal(signal.SIGTERM)
        _, log = await running.communicate()
    assert b"no tokens are asked for" not in log
    assert SECRET.encode() not in log
    assert printed.strip() not in log
