"""The doctor on real servers: nothing to say about a good one, a planted fault found, a poor user served."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from holdfast.cli.app import CommandGroup
from holdfast.cli.doctor import doctor
from holdfast.drills.servers import Server
from holdfast.drills.servers.galera import Galera

DATABASE = "checkup"
FLUSH = "innodb_flush_log_at_trx_commit"
ROOMY = ["--pool-open", "5"]


def run(url: str, *options: str) -> tuple[int, dict[str, Any]]:
    """What `holdfast doctor --json` says about a database: its exit code, and the document."""
    app = typer.Typer(cls=CommandGroup)
    app.command("doctor")(doctor)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["doctor", "--database", url, "--json", *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "app-password" not in result.output
    return result.exit_code, json.loads(result.stdout) if result.exit_code < 2 else {"said": result.output}


def by_severity(document: dict[str, Any], severity: str) -> set[str]:
    """The checks that found something of a severity."""
    return {finding["check"] for finding in document["findings"] if finding["severity"] == severity}


@contextmanager
def own_database(server: Server) -> Iterator[str]:
    """A database of this test's own, with one proper table; the application may do everything in it."""
    if server.flavour == "postgresql":
        server.execute(f"CREATE DATABASE {DATABASE} OWNER {server.user}")
    else:
        server.execute(f"CREATE DATABASE {DATABASE}")
        server.execute(f"GRANT ALL ON {DATABASE}.* TO '{server.user}'@'%'")
    try:
        server.execute("CREATE TABLE proper (id INT PRIMARY KEY)", database=DATABASE)
        yield server.url("psycopg" if server.flavour == "postgresql" else "pymysql", database=DATABASE)
    finally:
        server.execute(f"DROP DATABASE {DATABASE}" + (" WITH (FORCE)" if server.flavour == "postgresql" else ""))


@pytest.fixture(params=["mariadb_server", "mysql_server"])
def family_server(request: pytest.FixtureRequest) -> Server:
    """A server of MySQL's family."""
    server: Server = request.getfixturevalue(request.param)
    return server


def settled(server: Server) -> list[str]:
    """The options under which a server of the family has no warnings."""
    return [*ROOMY, *(["--isolation", "serializable"] if server.flavour == "mysql" else [])]


def test_good_server_of_the_family_has_no_errors(family_server: Server) -> None:
    """With durable settings a user with rights on his database alone hears neither errors nor warnings, also when strict."""
    with own_database(family_server) as url, family_server.global_setting(FLUSH, 1):
        code, said = run(url, *settled(family_server), "--strict")
    assert (code, by_severity(said, "error"), by_severity(said, "warning")) == (0, set(), set())
    assert said["flavour"] == family_server.flavour
    assert said["database"] == f"mysql://app@127.0.0.1:{family_server.port}/{DATABASE}"


@pytest.mark.parametrize(
    ("check", "name", "value"),
    [
        ("redo-log-flush", FLUSH, 0),
        ("writer", "read_only", 1),
        ("idle-connections", "wait_timeout", 30),
        ("connections", "max_connections", 10),
    ],
)
def test_planted_setting_is_found(family_server: Server, check: str, name: str, value: object) -> None:
    """A setting of the server that is wrong is told, and is not when it is right again."""
    options = [*settled(family_server), "--processes", "2"]
    with own_database(family_server) as url, ExitStack() as stack:
        if name != FLUSH:
            stack.enter_context(family_server.global_setting(FLUSH, 1))
        with family_server.global_setting(name, value):
            code, said = run(url, *options, "--strict")
        found = {finding["check"] for finding in said["findings"] if finding["severity"] in ("error", "warning")}
        # MySQL's sessions get a wait_timeout from Holdfast, so its server's does not reach them.
        expected = set() if (family_server.flavour, name) == ("mysql", "wait_timeout") else {check}
        assert (found, code) == (expected, int(bool(expected)))


def test_planted_tables_are_found(family_server: Server) -> None:
    """A table without transactions is an error, one without a primary key a warning; both are named."""
    with own_database(family_server) as url, family_server.global_setting(FLUSH, 1):
        family_server.execute("CREATE TABLE loose (a INT NOT NULL UNIQUE) ENGINE=MyISAM", database=DATABASE)
        code, said = run(url, *settled(family_server))
        assert (code, by_severity(said, "error"), by_severity(said, "warning")) == (1, {"engines"}, {"primary-keys"})
        assert run(url, *settled(family_server), "--ignore", "engines")[0] == 0
        told = {finding["check"]: finding["found"] for finding in said["findings"]}
        assert "loose (MyISAM)" in told["engines"]
        assert "loose" in told["primary-keys"]
        assert "proper" not in told["primary-keys"]


def test_user_of_one_table_is_told_what_it_could_not_see(family_server: Server) -> None:
    """With rights on one table alone the doctor works, and says that there may be more tables and how to see them."""
    with own_database(family_server) as url, family_server.global_setting(FLUSH, 1):
        family_server.execute("CREATE TABLE hidden (a INT) ENGINE=MyISAM", database=DATABASE)
        family_server.execute("CREATE USER teller IDENTIFIED BY 'app-password'")
        try:
            family_server.execute(f"GRANT SELECT, INSERT ON {DATABASE}.proper TO teller")
            code, said = run(url.replace("app:", "teller:", 1), *settled(family_server))
        finally:
            family_server.execute("DROP USER teller")
    assert (code, by_severity(said, "error")) == (0, set())
    assert by_severity(said, "unseen") == {"engines", "primary-keys"}
    assert all("GRANT SELECT" in finding["cure"] for finding in said["findings"] if finding["severity"] == "unseen")


def test_mysql_has_no_snapshot_isolation(mysql_server: Server) -> None:
    """With the default isolation MySQL overwrites what changed since it was read, and the doctor says so."""
    with own_database(mysql_server) as url, mysql_server.global_setting(FLUSH, 1):
        code, said = run(url, *ROOMY)
        assert (code, by_severity(said, "warning")) == (0, {"isolation"})
        assert run(url, *ROOMY, "--strict")[0] == 1


def test_asynchronous_url_is_taken(mariadb_server: Server) -> None:
    """A URL with an asynchronous driver is looked at by the synchronous one."""
    with own_database(mariadb_server) as url:
        assert run(url.replace("pymysql", "asyncmy"), *ROOMY)[1]["flavour"] == "mariadb"


def test_postgresql_without_fsync_is_found_and_nothing_else(postgresql_server: Server) -> None:
    """The servers of these tests run without fsync to be quick: that is an error, and the only one."""
    with own_database(postgresql_server) as url:
        code, said = run(url, *ROOMY)
    assert (code, by_severity(said, "error"), by_severity(said, "warning")) == (1, {"fsync"}, set())
    assert by_severity(said, "unseen") == set()


@pytest.mark.parametrize(
    ("check", "name", "value"),
    [
        ("commit-wait", "synchronous_commit", "off"),
        ("torn-pages", "full_page_writes", "off"),
        ("writer", "default_transaction_read_only", "on"),
        ("idle-connections", "idle_session_timeout", "30s"),
    ],
)
def test_planted_setting_of_postgresql_is_found(postgresql_server: Server, check: str, name: str, value: str) -> None:
    """A setting of the server that is wrong is told."""
    with own_database(postgresql_server) as url:
        postgresql_server.execute(
            f"ALTER DATABASE {DATABASE} SET {name} = '{value}'"
        ) if check != "torn-pages" else None
        with ExitStack() as stack:
            if check == "torn-pages":
                stack.enter_context(postgresql_server.global_setting(name, value))
            _, said = run(url, *ROOMY)
    assert by_severity(said, "error") | by_severity(said, "warning") == {"fsync", check}


def test_tables_and_limits_of_postgresql_are_found(postgresql_server: Server) -> None:
    """Unlogged tables, tables without a key and a limit of the role are told to a role that owns none of them."""
    with own_database(postgresql_server) as url:
        postgresql_server.execute('CREATE UNLOGGED TABLE "Gone" (a INT PRIMARY KEY)', database=DATABASE)
        postgresql_server.execute("CREATE TABLE keyless (a INT)", database=DATABASE)
        postgresql_server.execute("CREATE ROLE teller LOGIN PASSWORD 'app-password' CONNECTION LIMIT 2")
        try:
            _, said = run(url.replace("app:", "teller:", 1), *ROOMY)
        finally:
            postgresql_server.execute("DROP ROLE teller")
    told = {finding["check"]: finding["found"] for finding in said["findings"]}
    assert 'public."Gone"' in told["unlogged-tables"]
    assert "public.keyless" in told["primary-keys"]
    assert "CONNECTION LIMIT of the role" in told["connections"]


def test_lost_login_options_are_found(postgresql_server: Server) -> None:
    """Where something in between drops the options of the login, isolation and limits are told to be missing.

    Played by options of the URL that stand behind Holdfast's and take them back.
    """
    dropped = "-c%20lock_timeout%3D0%20-c%20default_transaction_isolation%3Dread%5C%20committed"
    with own_database(postgresql_server) as url:
        _, said = run(f"{url}?options={dropped}", *ROOMY)
    assert by_severity(said, "error") == {"fsync", "isolation"}
    assert by_severity(said, "warning") == {"lock-waits"}


def test_good_sqlite_file_has_no_errors(tmp_path: Path) -> None:
    """A file on a disk with Holdfast's settings is fine."""
    path = make_file(tmp_path, "CREATE TABLE proper (id INTEGER PRIMARY KEY)")
    code, said = run(f"sqlite+aiosqlite:///{path}")
    assert (code, by_severity(said, "error"), said["flavour"]) == (0, set(), "sqlite")
    assert by_severity(said, "warning") <= {"file-system"}  # a temporary folder may be in memory


def test_planted_faults_of_a_sqlite_file_are_found(tmp_path: Path) -> None:
    """A damaged file is an error, a table without a key a note."""
    path = make_file(tmp_path, "CREATE TABLE keyless (a TEXT)", "CREATE INDEX by_a ON keyless (a)")
    with sqlite3.connect(path) as connection:
        connection.executemany("INSERT INTO keyless VALUES (?)", [(f"{n:050}",) for n in range(2000)])
    connection.close()
    assert by_severity(run(f"sqlite:///{path}")[1], "error") == set()
    content = bytearray(path.read_bytes())
    content[5 * 4096 : 6 * 4096] = b"\x55" * 4096
    path.write_bytes(content)
    code, said = run(f"sqlite:///{path}")
    assert (code, by_severity(said, "error")) == (1, {"integrity"})
    assert "primary-keys" in by_severity(said, "note")


def make_file(folder: Path, *statements: str) -> Path:
    """A new SQLite file."""
    path = folder / "checkup.db"
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///not-there.db", "there is no file"),
        ("mysql://app:geheim@127.0.0.1:1/shop?password=geheim", "could not be reached"),
        ("postgresql+asyncpg://app:geheim@127.0.0.1:1/shop", "could not be reached"),
        ("oracle://app:geheim@127.0.0.1/shop", "unknown database"),
    ],
)
def test_what_cannot_be_looked_at_ends_with_2(url: str, says: str) -> None:
    """Nobody there, no such file, no such database: exit code 2, one sentence, no password."""
    code, said = run(url)
    assert code == 2
    assert says in said["said"]
    assert "geheim" not in said["said"]


def test_wrong_login_is_told_without_the_password(postgresql_server: Server, mariadb_server: Server) -> None:
    """A login that is refused ends with 2 and repeats no secret."""
    for url in (postgresql_server.url("psycopg"), mariadb_server.url("pymysql")):
        code, said = run(url.replace("app-password", "geheim"))
        assert code == 2
        assert "geheim" not in said["said"]
        assert "login" in said["said"]


@pytest.mark.parametrize(
    "name",
    [
        "{}/new.db",
        "file:{}/new.db?uri=true",
        "file:///{}/new%20one.db?uri=1&mode=rwc",
        "file:new.db?uri=true",
        "file:new.db",
    ],
)
def test_doctor_makes_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong path is told, and no empty database is left there."""
    monkeypatch.chdir(tmp_path)
    code, said = run(f"sqlite:///{name.format(tmp_path)}")
    assert (code, "there is no file" in said["said"]) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["{}", "file:{}?uri=true", "file://localhost{}?uri=true&mode=rw", "file:a%20b/checkup.db?uri=true"]
)
def test_the_file_system_of_a_file_is_looked_at(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the URL names the file."""
    folder = tmp_path / "a b"
    folder.mkdir()
    path = make_file(folder, "CREATE TABLE proper (id INTEGER PRIMARY KEY)")
    mounts = tmp_path / "mounts"
    point = str(folder).replace(" ", r"\040")
    mounts.write_text(f"server:/export {point} nfs4 rw 0 0\n", encoding="utf-8")
    monkeypatch.setattr("holdfast.cli.doctor._MOUNTS", mounts)
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{name.format(str(path).replace(' ', '%20') if '?' in name else path)}"
    assert "file-system" in by_severity(run(url)[1], "error")


@pytest.mark.parametrize(
    "name", [":memory:", "file::memory:?uri=true", "file:shared?mode=memory&cache=shared&uri=true"]
)
def test_a_database_in_memory_has_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at without one."""
    monkeypatch.chdir(tmp_path)
    assert run(f"sqlite:///{name}")[0] < 2
    assert list(tmp_path.iterdir()) == []


def test_unknown_check_to_ignore_is_refused(tmp_path: Path) -> None:
    """A misspelt check would otherwise silence nothing, unnoticed."""
    code, said = run(f"sqlite:///{make_file(tmp_path)}", "--ignore", "jurnal")
    assert code == 2
    assert "jurnal" in said["said"]


def test_galera_node_is_looked_at(galera_cluster: Galera) -> None:
    """A durable cluster of three has no errors; 0 for the log, a short deadline and a node without a majority are told."""
    first, second, third = galera_cluster.nodes
    with own_database(first) as url:
        with first.global_setting("wsrep_sync_wait", 1):
            code, said = run(url, *ROOMY, "--strict")
        assert (code, by_severity(said, "error"), by_severity(said, "warning")) == (0, set(), set())
        with first.global_setting(FLUSH, 0):
            assert by_severity(run(url, *ROOMY)[1], "error") == {"redo-log-flush"}
        assert {"galera-deadline", "galera-causal-reads"} <= by_severity(
            run(url, *ROOMY, "--deadline", "5")[1], "warning"
        )
        try:
            second.kill()
            third.kill()
            galera_cluster.wait_until_cut_off(0)
            code, said = run(url, *ROOMY)
            assert code == 2  # it takes no session to look around in
            assert "1047" in said["said"]
        finally:
            galera_cluster.heal()
