"""An operation with an isolation level of its own: the level holds for it alone, and costs no COMMIT."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from holdfast.drills.servers import Server
from holdfast.errors import SchemaMismatch
from holdfast.ext.sqlalchemy import AsyncDatabase, Database
from holdfast.faultproxy import FaultProxy, Kind, Phase, ResetPeer

LEVEL = {
    "postgresql": "SHOW transaction_isolation",
    "mariadb": "SELECT trx_isolation_level FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = CONNECTION_ID()",
}
READ = {"postgresql": "SELECT 1", "mariadb": "SELECT COUNT(*) FROM holdfast_operations FOR UPDATE"}
PAUSE = {"postgresql": "SELECT 1", "mariadb": "SELECT SLEEP(0.2)"}
"""MariaDB answers from what it showed last for a tenth of a second."""


@pytest.mark.parametrize(("flavour", "driver"), [("mariadb", "pymysql"), ("postgresql", "psycopg")])
def test_the_level_is_the_operations_alone(flavour: str, driver: str, request: pytest.FixtureRequest) -> None:
    """The next operation on the same connection has the database's level again."""
    server: Server = request.getfixturevalue(f"{flavour}_server")
    with Database(server.admin_url(driver)) as db:
        db.migrate()

        def level(session: Any) -> str:
            session.execute(text(READ[flavour])).all()
            session.execute(text(PAUSE[flavour])).all()
            return str(session.scalar(text(LEVEL[flavour]))).upper().replace("-", " ")

        operation = db.transaction(level)
        levels = [operation(), operation.having(isolation="serializable")(), operation()]
    assert levels == ["REPEATABLE READ", "SERIALIZABLE", "REPEATABLE READ"]


async def test_nothing_is_lost_with_the_connection(mariadb_server: Server) -> None:
    """One COMMIT goes over the wire, and when it is cut the connection is missed and replaced."""
    with FaultProxy((mariadb_server.host, mariadb_server.port), "mysql") as proxy:
        url = mariadb_server.url("asyncmy").replace(f":{mariadb_server.port}/", f":{proxy.port}/")
        async with AsyncDatabase(url) as db:
            await db.migrate()

            @db.transaction(isolation="serializable")
            async def look(session: Any) -> None:
                await session.execute(text("SELECT 1"))

            await look()
            before = proxy.counters().commits
            proxy.add(ResetPeer(), Phase.ANSWERED, on=Kind.COMMIT, times=1)
            await look()
            commits = proxy.counters().commits - before
            assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert commits == 1


@pytest.mark.parametrize(("flavour", "driver"), [("mariadb", "asyncmy"), ("postgresql", "asyncpg")])
async def test_the_level_goes_with_a_deadline_of_its_own(
    flavour: str, driver: str, request: pytest.FixtureRequest
) -> None:
    """PostgreSQL refuses the level after any other statement, also after the one that sets the limits for the deadline."""
    server: Server = request.getfixturevalue(f"{flavour}_server")
    async with AsyncDatabase(server.url(driver)) as db:
        await db.migrate()

        async def look(session: Any) -> int:
            return int((await session.execute(text("SELECT 1"))).scalar())

        assert await db.transaction(isolation="serializable", deadline=1.0)(look)() == 1


async def test_a_begin_that_fails_gives_its_connection_back(
    postgresql_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was there when the first statement of the transaction was refused."""

    def refused(connection: Any, *_: object) -> None:
        connection.exec_driver_sql("SELECT no_such_column")

    async with AsyncDatabase(postgresql_server.url("asyncpg")) as db:
        await db.migrate()
        monkeypatch.setattr("holdfast.ext.sqlalchemy.pushdown.push_down", refused)

        async def look(session: Any) -> None:
            await session.execute(text("SELECT 1"))

        for _ in range(3):
            with pytest.raises(SchemaMismatch):
                await db.run(look)
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
