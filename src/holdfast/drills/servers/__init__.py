"""Real database servers for drills and tests, each in a temporary folder on a free loopback port.

    server = mariadb.start()        # or postgresql, mysql
    engine = create_engine(server.url("pymysql"))
    server.kill(); server.start()   # SIGKILL, as a crash would; then crash recovery
    server.close()                  # stop it and remove its folder

A server that this machine cannot provide raises `ServerMissing`, whose text names the cure. Each runs as an unprivileged
account and ends with the process that started it.
"""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import MissingExtra

if any(find_spec(name) is None for name in ("psutil", "pymysql", "psycopg")):
    raise MissingExtra("holdfast.drills.servers needs psutil, PyMySQL and psycopg: pip install 'holdfast[drills]'")

from .process import Server, ServerFailed, ServerMissing

__all__ = ["Server", "ServerFailed", "ServerMissing"]
