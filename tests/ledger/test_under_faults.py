"""The ledger under injected faults: what is acknowledged is there once, what is denied is not there, and the books balance."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx2
import pytest

from examples.ledger.demo.database import database
from holdfast.drills.servers import Server
from holdfast.ext.sqlalchemy.faults import Fault, SeededFaults, inject
from tests.ledger.conftest import Running

LedgerAt = Callable[..., AbstractAsyncContextManager[Running]]

# A request that runs out of time may honestly say that its outcome is unknown. Here every fault is to be overcome, however slow
# the machine, so that no answer but "applied" and "not applied" is right.
PATIENT_S = 60.0


async def traffic_under_faults(ledger: Running, seed: int, requests: int) -> None:
    """Send users and transfers, at most ten at once, while every third attempt is hit; then compare with the database."""
    draw = random.Random(seed)
    accounts = await ledger.open_accounts(*["10000"] * 6)
    ten = asyncio.Semaphore(10)

    async def send(number: int) -> httpx2.Response:
        key = f"r{number}"
        source, target = draw.sample(accounts, 2)
        async with ten:
            if number % 2:
                return await ledger.post("users", {"username": key, "name": "Ada", "age": 36}, key)
            order = {"source_id": source, "target_id": target, "amount": "1.00", "reference": key}
            return await ledger.post("transfers", order, key)

    with inject(ledger.db.engine, SeededFaults(seed, share=1 / 3), slow=0.01) as faults:
        answers = await asyncio.gather(*(send(number) for number in range(requests)))
    assert set(faults.hits) == set(Fault), "a run that met no fault of some kind proves nothing about it"
    applied = await ledger.applied()
    assert applied.balanced
    for number, answer in enumerate(answers):
        assert applied.times[f"r{number}"] == (answer.status_code == 201), answer.text
    # Five connection failures in a row are possible at this share; they must not be the rule.
    not_done = [answer.text for answer in answers if answer.status_code != 201]
    assert len(not_done) <= 0.1 * requests, not_done


async def test_on_sqlite(sqlite_url: str, ledger_at: LedgerAt, seed: int) -> None:
    """Every save is acknowledged and there once, or denied and not there."""
    async with ledger_at(sqlite_url, deadline_s=PATIENT_S) as ledger:
        await traffic_under_faults(ledger, seed, 120)


@pytest.mark.parametrize("driver", ["asyncmy", "aiomysql"])
async def test_on_mariadb(mariadb_server: Server, ledger_at: LedgerAt, seed: int, driver: str) -> None:
    """The same code, the same promise on MariaDB."""
    async with database(mariadb_server.url(driver)) as url, ledger_at(url, deadline_s=PATIENT_S) as ledger:
        await traffic_under_faults(ledger, seed, 120)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_on_postgresql(postgresql_server: Server, ledger_at: LedgerAt, seed: int, driver: str) -> None:
    """The same code, the same promise on PostgreSQL."""
    async with database(postgresql_server.url(driver)) as url, ledger_at(url, deadline_s=PATIENT_S) as ledger:
        await traffic_under_faults(ledger, seed, 120)


async def test_on_mysql(mysql_server: Server, ledger_at: LedgerAt, seed: int) -> None:
    """The same code, the same promise on MySQL."""
    async with database(mysql_server.url("asyncmy")) as url, ledger_at(url, deadline_s=PATIENT_S) as ledger:
        await traffic_under_faults(ledger, seed, 120)


async def test_lost_answer_is_found_out_and_replayed(ledger: Running) -> None:
    """COMMIT was applied and its answer lost: the caller gets 201, and the same again for the same key."""
    source, target = await ledger.open_accounts("10", "0")
    order = {"source_id": source, "target_id": target, "amount": "4", "reference": "lost"}
    fates = iter([Fault.LOST_AFTER_COMMIT])
    with inject(ledger.db.engine, lambda: next(fates, None)) as faults:
        first = await ledger.post("transfers", order, "k")
    assert faults.hits == {Fault.LOST_AFTER_COMMIT: 1}
    assert first.status_code == 201
    assert (await ledger.post("transfers", order, "k")).content == first.content
    assert (await ledger.applied()).times["lost"] == 1


async def test_outage_is_unavailable_and_leaves_nothing(ledger: Running) -> None:
    """When every connection is lost before COMMIT the caller hears 503, when to come again, and that nothing was applied."""
    source, target = await ledger.open_accounts("10", "0")
    order = {"source_id": source, "target_id": target, "amount": "4", "reference": "outage"}
    with inject(ledger.db.engine, lambda: Fault.LOST_BEFORE_COMMIT):
        answer = await ledger.post("transfers", order, "k")
    assert (answer.status_code, answer.json()["outcome"]) == (503, "not_committed")
    assert "Retry-After" in answer.headers
    assert (await ledger.applied()).times["outage"] == 0
    assert (await ledger.post("transfers", order, "k")).status_code == 201
