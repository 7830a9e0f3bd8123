"""PostgreSQL as Debian packages it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import psycopg

from ...clock import SYSTEM_CLOCK
from .process import Server, ServerFailed, ServerMissing, account_or_caller, run, temporary_folder

__all__ = ["PostgreSQL", "initialise", "program", "start", "version"]

_SETTINGS = {
    "max_connections": "40",
    "shared_buffers": "32MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # COMMIT still waits until its log is written; only the flush to the disk is left out. A killed process loses nothing
    # (the kernel holds what it wrote), only a crash of the machine would, and no test crashes the machine.
    "fsync": "off",
    "autovacuum_naptime": "1h",
}


class PostgreSQL(Server):
    """A PostgreSQL server."""

    flavour = "postgresql"
    scheme = "postgresql"
    stop_signal = signal.SIGINT  # "fast shutdown"; SIGTERM would wait for the clients to leave

    def _command(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "listen_addresses": self.host,
            "unix_socket_directories": str(self.folder),
            **_SETTINGS,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [program("postgres"), "-D", str(self.folder / "data"), *options]

    def connect(self, *, admin: bool = False, database: str | None = None) -> Any:
        """A psycopg connection in autocommit mode."""
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=self.admin if admin else self.user,
            password=self.admin_password if admin else self.password,
            dbname=database or self.database,
            autocommit=True,
            connect_timeout=5,
        )

    def set_global(self, name: str, value: object) -> None:
        """`ALTER SYSTEM`, reloaded and waited for."""
        self.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        self._reload(name, str(value))

    def get_global(self, name: str) -> object:
        """`SHOW`."""
        return self.execute(f"SHOW {name}")[0][0]

    def start(self) -> None:
        """Start it with the settings of its command line alone."""
        # What ALTER SYSTEM wrote would outlive a restart; on the other flavours a global setting does not.
        if not self.is_running:
            self._write_settings("")
        super().start()

    def _write_settings(self, text: str) -> None:
        (self.folder / "data" / "postgresql.auto.conf").write_text(text)

    def _reload(self, name: str, value: str) -> None:
        # A reload is a signal: wait until a new connection sees the value.
        self.execute("SELECT pg_reload_conf()")
        shown: object = None
        for _ in range(100):
            shown = self.execute(
                "SELECT current_setting(%s) = %s OR (SELECT setting = %s FROM pg_settings WHERE name = %s)",
                [name, value, value, name],
            )[0][0]
            if shown:
                return
            SYSTEM_CLOCK.sleep(0.02)
        raise ServerFailed(f"{name} = {value} did not take effect (does it need a restart?)")


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, of the newest version that is installed.

    Raises:
        ServerMissing: PostgreSQL is not installed.
    """
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True
    )
    for folder in folders:
        if (folder / name).is_file():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise ServerMissing("PostgreSQL is not installed: apt-get install postgresql")
    return found


def version() -> str:
    """The installed version."""
    said = run([program("postgres"), "--version"])
    return said.split()[2]  # postgres (PostgreSQL) 15.18 (Debian ...)


def initialise(server: PostgreSQL) -> None:
    """Make the data folder of `server`, with the database and both accounts."""
    password_file = server.folder / "admin-password"
    password_file.write_text(server.admin_password)
    password_file.chmod(0o644)
    run(
        [
            program("initdb"),
            f"--pgdata={server.folder / 'data'}",
            f"--username={server.admin}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ],
        account=server.account,
        cwd=server.folder,
    )
    _make_accounts(server)


def start(parent: Path | None = None) -> PostgreSQL:
    """A new, empty, running PostgreSQL server, in a folder of its own in `parent` (None: where temporary files go).

    Raises:
        ServerMissing: PostgreSQL is not installed.
    """
    program("initdb")
    account = account_or_caller("postgres")
    return PostgreSQL(temporary_folder("postgresql", account, parent), account).bring_up(initialise)


def _make_accounts(server: PostgreSQL) -> None:
    # Single-user mode: no server has to run, so nobody can meet it half made.
    statements = [
        f"CREATE ROLE {server.user} LOGIN PASSWORD '{server.password}';",
        f"CREATE DATABASE {server.database} OWNER {server.user};",
    ]
    for statement in statements:
        script = server.folder / "accounts.sql"
        script.write_text(statement + "\n")
        script.chmod(0o644)
        postgres = program("postgres")
        run(
            ["sh", "-c", f"'{postgres}' --single -D '{server.folder / 'data'}' postgres < '{script}'"],
            account=server.account,
            cwd=server.folder,
        )
