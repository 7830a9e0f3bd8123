"""What MariaDB and MySQL have in common: the protocol, the accounts, `SET GLOBAL`."""

from __future__ import annotations

from typing import Any

import pymysql

from .process import Server

__all__ = ["ACCOUNTS_SQL", "SETTINGS", "MySQLProtocolServer"]

ACCOUNTS_SQL = f"""\
CREATE DATABASE {Server.database} CHARACTER SET utf8mb4;
CREATE USER '{Server.admin}'@'%' IDENTIFIED BY '{Server.admin_password}';
GRANT ALL ON *.* TO '{Server.admin}'@'%' WITH GRANT OPTION;
CREATE USER '{Server.user}'@'%' IDENTIFIED BY '{Server.password}';
GRANT ALL ON {Server.database}.* TO '{Server.user}'@'%';
"""
"""Run once, when the data folder is made."""

SETTINGS = [
    "--skip-name-resolve",
    "--character-set-server=utf8mb4",
    "--default-time-zone=+00:00",
    "--max-connections=40",
    "--innodb-buffer-pool-size=64M",
    # Writes the log at COMMIT and flushes it once a second: a killed process loses nothing (the kernel holds what it wrote),
    # only a crash of the machine would, and no test crashes the machine.
    "--innodb-flush-log-at-trx-commit=2",
]
"""Settings of both flavours: small, fast, and truthful when the process is killed."""


class MySQLProtocolServer(Server):
    """A server that speaks MySQL's protocol."""

    scheme = "mysql"

    def connect(self, *, admin: bool = False, database: str | None = None) -> Any:
        """A PyMySQL connection in autocommit mode."""
        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.admin if admin else self.user,
            password=self.admin_password if admin else self.password,
            database=database or self.database,
            autocommit=True,
            connect_timeout=5,
        )

    def set_global(self, name: str, value: object) -> None:
        """`SET GLOBAL`."""
        self.execute(f"SET GLOBAL {name} = %s", [value])

    def get_global(self, name: str) -> object:
        """`SELECT @@GLOBAL`."""
        return self.execute(f"SELECT @@GLOBAL.{name}")[0][0]
