"""Real database servers for tests, each in a temporary folder on a free loopback port.

    server = mariadb.start()        # or postgresql, mysql
    engine = create_engine(server.url("pymysql"))
    server.kill(); server.start()   # SIGKILL, as a crash would; then crash recovery
    server.close()                  # stop it and remove its folder

Tests take them from the session fixtures `mariadb_server`, `postgresql_server` and `mysql_server`. A server that this machine
cannot provide raises `ServerMissing`, whose text names the cure.
"""

from __future__ import annotations

from tests.servers.process import Server, ServerFailed, ServerMissing

__all__ = ["Server", "ServerFailed", "ServerMissing"]
