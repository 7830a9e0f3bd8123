"""SIGTERM under load: one process of the ledger hands over to the next, and nobody notices but by where they are answered."""

from __future__ import annotations

import asyncio
import json
import zlib
from pathlib import Path

from examples.ledger.demo.database import database
from holdfast.drills.servers import Server
from holdfast.ext.sqlalchemy import open_endpoint
from tests.ledger.conftest import bearer
from tests.ledger.served import SETTINGS, serve
from tests.servers.http_load import Answer, Balancer, Connection, Load, hand_over

# Nothing is refused for want of time or places: on a slow machine requests take longer, and are not what this is about.
PATIENT = {
    "LEDGER_LAME_DUCK": "4",  # the balancer has to have noticed by then, and asks every 0.2 s on a machine that may be busy
    "LEDGER_POOL_OPEN_MAX": "50",
    "HOLDFAST_DEADLINE_S": "60",
    "HOLDFAST_CONCURRENCY": "1000",
    "HOLDFAST_CONCURRENCY_LEAST": "900",
}
ACCOUNTS = 40
WHO = "".join(f"{name}: {value}\r\n" for name, value in bearer(SETTINGS).items())


async def save(connection: Connection, name: str) -> Answer:
    """Move money under a key of its own."""
    source = 1 + zlib.crc32(name.encode()) % (ACCOUNTS - 1)
    order = {"source_id": source, "target_id": source + 1, "amount": "1.00", "reference": name}
    headers = f'{WHO}content-type: application/json\r\nidempotency-key: "{name}"\r\n'
    return await connection.ask("/api/v1/transfers", "POST", headers=headers, body=json.dumps(order).encode())


async def read(connection: Connection) -> Answer:
    """Ask for a balance."""
    return await connection.ask("/api/v1/accounts/1", headers=WHO)


async def test_sigterm_under_load_loses_nothing(tmp_path: Path, mariadb_server: Server) -> None:
    """50 busy keep-alive clients and a new connection every 20 ms: no request is lost or reset, no save lost or doubled."""
    async with (
        database(mariadb_server.url("asyncmy")) as url,
        serve(tmp_path, url, PATIENT) as old,
        serve(tmp_path, url, PATIENT) as new,
    ):
        assert await old.open_accounts(*["1000000"] * ACCOUNTS) == list(range(1, ACCOUNTS + 1))
        balancer = Balancer(old.port, new.port)
        probing = asyncio.create_task(balancer.probe())
        load = Load(balancer.choose, save, read, think_s=1.0)

        async def end() -> None:
            old.end()
            assert await old.ended() == 0

        await hand_over(load, end)
        probing.cancel()
        new.end()
        assert await new.ended() == 0
        engine = open_endpoint(url, asynchronous=True).async_engine
        assert engine is not None
        async with engine.connect() as connection:
            rows = (await connection.exec_driver_sql("SELECT reference FROM transfers")).scalars().all()
        await engine.dispose()
        lines = old.said() + new.said()
    assert load.lost == [], lines[-4000:]
    assert load.told > 0
    assert 0 < load.saves == len(load.saved)
    assert sorted(rows) == sorted(load.saved)
    assert '"level":"ERROR"' not in lines
