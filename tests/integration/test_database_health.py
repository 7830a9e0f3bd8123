"""What databases say of their health: real ones, there, away, busy and coming back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from sqlalchemy import text

from holdfast.drills.servers import Server
from holdfast.ext.sqlalchemy import AsyncDatabase, Database, DatabaseSettings, PoolSettings
from holdfast.health import Finding, Health, HealthCheck, HealthReport, HealthState

SMALL = DatabaseSettings(pool=PoolSettings(size=1, open_max=2))


def at_once(*checks: HealthCheck) -> Health:
    """A health without patience and memory: each look counts."""
    return Health(
        HealthCheck(
            check.name,
            check.check,
            critical=check.critical,
            timeout=10.0,
            cache_for=0,
            fails_after=1,
            recovers_after=1,
            fail_open=check.fail_open,
        )
        for check in checks
    )


def findings(report: HealthReport) -> dict[str, Finding]:
    return {check.name: check.finding for check in report.checks}


async def until(health: Health, true: Callable[[HealthReport], bool]) -> HealthReport:
    """Look until it shows."""
    async with asyncio.timeout(60):
        while True:
            report = await health.report()
            if true(report):
                return report
            await asyncio.sleep(0.05)


async def test_a_file_can_be_read(sqlite_url: str) -> None:
    """SQLite is healthy, for threads and for asyncio, and leaves no connection in use."""
    with Database(sqlite_url) as db:
        assert findings(await at_once(*db.health_checks()).report()) == {
            "database": Finding.OK,
            "database-pool": Finding.OK,
        }
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    async with AsyncDatabase(sqlite_url) as other:
        report = await at_once(*other.health_checks(name="shop")).report()
        assert findings(report) == {"shop": Finding.OK, "shop-pool": Finding.OK}
        assert report.state is HealthState.READY


async def test_a_pool_that_is_used_up_degrades(sqlite_url: str) -> None:
    """When every connection is in use the probe does not queue for one: degraded, at once, and nobody is taken out."""
    with Database(sqlite_url, SMALL) as db:
        health = at_once(*db.health_checks(timeout=10))
        with db.engine.connect(), db.engine.connect():
            report = await health.report()
        assert findings(report) == {"database": Finding.DEGRADED, "database-pool": Finding.DEGRADED}
        assert report.state is HealthState.DEGRADED
        assert (await health.report()).state is HealthState.READY


async def test_a_database_that_was_never_there_is_not_ready(tmp_path: object) -> None:
    """A release that cannot open its database gets no traffic, although its loss would only degrade later on."""
    with Database(f"sqlite:///{tmp_path}/missing/shop.db") as db:
        report = await at_once(*db.health_checks()).report()
    assert findings(report)["database"] is Finding.FAILED
    assert report.state is HealthState.NOT_READY


async def test_a_lost_server_degrades_and_comes_back(mariadb_server: Server) -> None:
    """While the server is away every replica stays, degraded; the probes alone keep the search for it going."""
    async with AsyncDatabase(mariadb_server.url("asyncmy"), DatabaseSettings(deadline=2)) as db:
        health = at_once(*db.health_checks())
        assert (await health.report()).state is HealthState.READY
        mariadb_server.kill()
        report = await until(health, lambda report: report.state is not HealthState.READY)
        assert report.state is HealthState.DEGRADED
        mariadb_server.restart()
        await until(health, lambda report: report.state is HealthState.READY)


async def test_reads_end_with_the_timeout(mariadb_server: Server) -> None:
    """A frozen server costs the check its time and no connection more."""
    with Database(mariadb_server.url("pymysql")) as db:
        db.read(lambda tx: tx.scalar(text("SELECT 1")))  # to connect takes a busy machine longer than the check has
        (reads, _) = db.health_checks(timeout=0.5)
        health = Health([reads])
        assert (await health.report()).state is HealthState.READY
        mariadb_server.pause()
        frozen = Health([HealthCheck("database", reads.check, timeout=30.0, fails_after=1)])
        report = await frozen.report()
        assert findings(report)["database"] in {Finding.FAILED, Finding.DEGRADED}
        # A thread has said what it found a little before it ends. The server stays frozen until then: nothing it says ends one.
        for thread in threading.enumerate():
            if thread.name == "holdfast-health":
                await asyncio.to_thread(thread.join, 60)
                assert not thread.is_alive()
        mariadb_server.resume()
