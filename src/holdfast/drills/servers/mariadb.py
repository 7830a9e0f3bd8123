"""MariaDB as Debian packages it."""

from __future__ import annotations

import shutil
import subprocess

from .mysql_protocol import ACCOUNTS_SQL, SETTINGS, MySQLProtocolServer
from .process import ServerMissing, account_or_caller, run, temporary_folder

__all__ = ["MariaDB", "start", "version"]

_PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"


class MariaDB(MySQLProtocolServer):
    """A MariaDB server."""

    flavour = "mariadb"

    def _command(self) -> list[str]:
        return [
            _binary("mariadbd"),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--port={self.port}",
            f"--bind-address={self.host}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            "--innodb-log-file-size=16M",
            *SETTINGS,
        ]


def _binary(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=_PATH)
    if found is None:
        raise ServerMissing("MariaDB is not installed: apt-get install mariadb-server")
    return found


def version() -> str:
    """The installed version."""
    done = subprocess.run([_binary("mariadbd"), "--version"], capture_output=True, text=True, check=True)  # noqa: S603 - our own command
    said = done.stdout
    return said.split("Ver ")[-1].split()[0]


def start() -> MariaDB:
    """A new, empty, running MariaDB server.

    Raises:
        ServerMissing: MariaDB is not installed.
    """
    _binary("mariadbd")
    install = _binary("mariadb-install-db")
    account = account_or_caller("mysql")
    server = MariaDB(temporary_folder("mariadb", account), account)
    try:
        accounts = server.folder / "accounts.sql"
        accounts.write_text(
            "FLUSH PRIVILEGES;\n" + ACCOUNTS_SQL
        )  # the set-up runs without privileges until told to load them
        run(
            [
                install,
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                f"--datadir={server.folder / 'data'}",
                "--innodb-log-file-size=16M",
                f"--extra-file={accounts}",
            ],
            account=account,
            cwd=server.folder,
        )
        server.start()
    except BaseException:
        server.close()
        raise
    return server
