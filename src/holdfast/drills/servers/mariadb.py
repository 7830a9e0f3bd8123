"""MariaDB as Debian packages it."""

from __future__ import annotations

import shutil
from pathlib import Path

from .mysql_protocol import ACCOUNTS_SQL, SETTINGS, MySQLProtocolServer
from .process import ServerMissing, account_or_caller, run, temporary_folder

__all__ = ["MariaDB", "initialise", "program", "start", "version"]

_PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"


class MariaDB(MySQLProtocolServer):
    """A MariaDB server."""

    flavour = "mariadb"

    def _command(self) -> list[str]:
        return [
            program("mariadbd"),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--port={self.port}",
            f"--bind-address={self.host}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            # Not where everybody's are: a server that starts removes what it finds there of temporary tables, also another's.
            f"--tmpdir={self.folder}",
            "--innodb-log-file-size=16M",
            *SETTINGS,
        ]


def program(name: str) -> str:
    """The path of one of MariaDB's programs.

    Raises:
        ServerMissing: MariaDB is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path=_PATH)
    if found is None:
        raise ServerMissing("MariaDB is not installed: apt-get install mariadb-server")
    return found


def version() -> str:
    """The installed version."""
    said = run([program("mariadbd"), "--version"])
    return said.split("Ver ")[-1].split()[0]


def initialise(server: MariaDB) -> None:
    """Make the data folder of `server`, with the database and both accounts."""
    accounts = server.folder / "accounts.sql"
    # The set-up runs without privileges until told to load them.
    accounts.write_text("FLUSH PRIVILEGES;\n" + ACCOUNTS_SQL)
    run(
        [
            "env",
            f"TMPDIR={server.folder}",
            program("mariadb-install-db"),
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            f"--datadir={server.folder / 'data'}",
            "--innodb-log-file-size=16M",
            f"--extra-file={accounts}",
        ],
        account=server.account,
        cwd=server.folder,
    )


def start(parent: Path | None = None) -> MariaDB:
    """A new, empty, running MariaDB server, in a folder of its own in `parent` (None: where temporary files go).

    Raises:
        ServerMissing: MariaDB is not installed.
    """
    program("mariadbd")
    account = account_or_caller("mysql")
    return MariaDB(temporary_folder("mariadb", account, parent), account).bring_up(initialise)
