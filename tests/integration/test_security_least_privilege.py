"""Risk: the right to end sessions and to look at others' transactions. Holdfast needs none but those of its own user."""

from __future__ import annotations

from holdfast.ext.sqlalchemy.engines import open_endpoint, session_of
from holdfast.ext.sqlalchemy.interrupt import Identity
from tests.integration.endpoints import SYNC, Case, Opened, on
from tests.integration.test_interrupt import Told, is_there, opened, wait_until_gone

__all__ = ["opened"]  # the fixture

SERVERS = ("mariadb", "mysql", "postgresql")
TOO_MUCH = ("SUPER", "CONNECTION ADMIN", "CONNECTION_ADMIN", "PROCESS", "ALL PRIVILEGES ON *.*")


@on([case for case in SYNC if case.driver in {"pymysql", "psycopg"}], *SERVERS)
async def test_every_test_on_a_server_runs_as_a_poor_user(opened: Opened) -> None:
    """So whatever Holdfast does on a server in all these tests, it does without the right to end or to see others' sessions."""
    if opened.case.flavour == "postgresql":
        roles = "SELECT count(*) FROM pg_roles WHERE rolname = current_user AND rolsuper"
        member = "SELECT pg_has_role(current_user, 'pg_signal_backend', 'member')"
        assert (await opened.scalar(roles), await opened.scalar(member)) == (0, False)
        return
    grants = await opened.run(lambda c: [str(row[0]) for row in c.exec_driver_sql("SHOW GRANTS")])
    assert not [grant for grant in grants for word in TOO_MUCH if word in grant.upper()]


@on([case for case in SYNC if case.driver in {"pymysql", "psycopg"}], *SERVERS)
async def test_a_session_of_somebody_else_is_not_ended(opened: Opened) -> None:
    """Asked to end another user's session, by number and port, it ends nothing and says so; its own it does end."""
    server, case = opened.server, opened.case
    assert server is not None
    if case.flavour == "postgresql":
        server.execute("CREATE ROLE stranger LOGIN PASSWORD 'stranger-password'")
    else:
        server.execute("CREATE USER stranger IDENTIFIED BY 'stranger-password'")
    url = server.url(case.driver)
    own = url.partition("://")[2].partition("@")[0]
    theirs = open_endpoint(url.replace(own, "stranger:stranger-password").rpartition("/")[0] + _database(case))
    try:
        with theirs.engine.connect() as connection:
            stranger = session_of(connection).identity
            assert stranger is not None
            mine = await opened.run(lambda c: session_of(c).identity)
            assert mine is not None
            told = Told(2)
            killer = opened.endpoint.killer_of(opened.endpoint.host)
            assert killer is not None
            killer.kill_soon(Identity(stranger.flavour, stranger.number, stranger.port), told)
            killer.kill_soon(mine, told)
            assert await told.wait() == [False, True]
            assert is_there(server, stranger.number)
            assert await wait_until_gone(server, mine.number)
    finally:
        theirs.close()
        server.execute("DROP ROLE stranger" if case.flavour == "postgresql" else "DROP USER stranger")


def _database(case: Case) -> str:
    return "/postgres" if case.flavour == "postgresql" else "/information_schema"
