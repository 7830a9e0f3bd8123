"""The servers that the other tests stand on do what they say."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from holdfast.drills.servers import Server, ServerFailed, ServerMissing, mysql
from holdfast.drills.servers.process import free_port, run

FLAVOURS = ["mariadb", "postgresql", "mysql"]


@pytest.fixture(params=FLAVOURS)
def server(request: pytest.FixtureRequest) -> Server:
    """Each server in turn."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


def test_server_is_of_its_flavour(server: Server) -> None:
    """A server called MariaDB, MySQL or PostgreSQL says so itself, and is of a version Holdfast supports."""
    said = str(server.execute("SELECT version()")[0][0])
    numbers = said.split()[1] if server.flavour == "postgresql" else said
    major = int(numbers.split(".")[0])
    assert ("MariaDB" in said, "PostgreSQL" in said) == (server.flavour == "mariadb", server.flavour == "postgresql")
    assert major >= {"mariadb": 10, "mysql": 8, "postgresql": 13}[server.flavour]


def test_application_owns_its_database_and_nothing_else(server: Server) -> None:
    """The application's account may create and write tables, but has no administrator's rights."""
    with closing(server.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE own (id INT PRIMARY KEY)")
        cursor.execute("INSERT INTO own VALUES (1)")
        cursor.execute("DROP TABLE own")
        with pytest.raises(Exception, match=r"(?i)denied|permission"):
            cursor.execute("CREATE DATABASE other")


def test_server_keeps_utc_and_four_byte_text(server: Server) -> None:
    """Times are UTC and a character outside the basic plane comes back as it went in."""
    zone = "SHOW timezone" if server.flavour == "postgresql" else "SELECT @@GLOBAL.time_zone"
    assert server.execute(zone)[0][0] in ("UTC", "+00:00")
    assert (
        server.execute("SELECT %s", ["\N{ANCHOR}\N{SAILBOAT}\N{OCTOPUS}"])[0][0] == "\N{ANCHOR}\N{SAILBOAT}\N{OCTOPUS}"
    )


def test_kill_keeps_what_was_committed_and_nothing_else(server: Server) -> None:
    """After SIGKILL and crash recovery a committed row is there and an uncommitted one is not."""
    with closing(server.connect()) as connection:
        connection.cursor().execute("CREATE TABLE kept (id INT PRIMARY KEY)")
    try:
        server.execute("INSERT INTO kept VALUES (1)")
        with closing(server.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO kept VALUES (2)")
            before = server.pid

            server.kill()

        assert not server.is_running
        assert not psutil.pid_exists(before)
        server.start()
        assert server.execute("SELECT id FROM kept") == [(1,)]
    finally:
        server.heal()
        server.execute("DROP TABLE kept")


def test_restart_keeps_the_address(server: Server) -> None:
    """A restarted server is a new process at the same URL."""
    url, pid = server.url("any"), server.pid
    server.restart()
    assert (server.url("any"), server.pid != pid) == (url, True)


def test_paused_server_does_not_answer_until_it_resumes(server: Server) -> None:
    """A paused server holds its connections and stays silent; afterwards it goes on."""
    with closing(server.connect()) as connection:
        server.pause()
        try:
            assert psutil.Process(server.pid).status() == psutil.STATUS_STOPPED
        finally:
            server.resume()
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_global_setting_ends_with_its_block(server: Server) -> None:
    """`global_setting` is seen by new connections inside the block and put back after it."""
    name = "lock_timeout" if server.flavour == "postgresql" else "lock_wait_timeout"
    before = server.get_global(name)
    with server.global_setting(name, 7):
        inside = server.get_global(name)
    assert str(inside).removesuffix("ms") == "7"
    assert server.get_global(name) == before


def test_server_runs_unprivileged_and_on_loopback_only(server: Server) -> None:
    """No server of ours runs as root or listens to the network."""
    process = psutil.Process(server.pid)
    assert process.uids().effective != 0
    listening = {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_missing_program_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without mmdebstrap is told what to install."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ServerMissing, match="apt-get install mmdebstrap"):
        mysql.start()


def test_failed_setup_shows_what_the_program_said() -> None:
    """A set-up command that fails raises with its own words."""
    with pytest.raises(ServerFailed, match="exited with 3:\nno room"):
        run(["sh", "-c", "echo no room; exit 3"])


def test_free_port_is_outside_the_ephemeral_range() -> None:
    """A client that retries against a stopped server can never be handed the server's own port."""
    lowest_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(free_port() for _ in range(50)) < lowest_ephemeral


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=lambda sent: sent.name)
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.usefixtures("ctrl_c")
def test_no_server_outlives_its_tests(flavour: str, sent: signal.Signals, request: pytest.FixtureRequest) -> None:
    """Whether Ctrl-C or SIGKILL ends a program that started a server, the server ends with it."""
    request.getfixturevalue(f"{flavour}_server")  # skips where there is none
    program = (
        f"import time; from holdfast.drills.servers import {flavour}\n"
        f"server = {flavour}.start()\n"
        "try:\n    print(server.pid, server.folder, flush=True); time.sleep(600)\nfinally:\n    server.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as owner:
        assert owner.stdout is not None
        said = owner.stdout.readline().split()
        server = psutil.Process(int(said[0]))
        owner.send_signal(sent)
        owner.wait(60)
    gone, alive = psutil.wait_procs([server], timeout=60)
    folder = Path(said[1])
    left = folder.exists()
    shutil.rmtree(folder, ignore_errors=True)  # SIGKILL leaves nobody who could
    assert ([server], []) == (gone, alive)
    assert left == (sent is signal.SIGKILL)
