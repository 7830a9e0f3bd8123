"""The drilled database, asked directly and not through what is disturbed: its tables, its settings, its state.

Works with the rights of the application's user; what that one may not see is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from ..clock import SYSTEM_CLOCK
from ..errors import DrillFailed
from ..ext.sqlalchemy import OPERATIONS, Database
from ..ext.sqlalchemy.engines import flavour_of
from .subjects import with_driver
from .workloads import PREFIX, TableWorkload

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

__all__ = ["DatabaseState"]

QUIET_WITHIN_S = 60.0
_STEP_S = 0.1
_NAMED = 3

_SETTINGS = {
    "mysql": """SHOW GLOBAL VARIABLES WHERE Variable_name IN (
        'innodb_flush_log_at_trx_commit', 'sync_binlog', 'innodb_snapshot_isolation', 'tx_isolation', 'transaction_isolation',
        'innodb_lock_wait_timeout', 'innodb_rollback_on_timeout', 'max_connections', 'wsrep_sync_wait', 'wsrep_on')""",
    "postgresql": """SELECT name, setting FROM pg_settings WHERE name IN (
        'synchronous_commit', 'fsync', 'full_page_writes', 'default_transaction_isolation', 'max_connections',
        'deadlock_timeout', 'idle_in_transaction_session_timeout')""",
}

_VERSION = {
    "mysql": "SELECT VERSION()",
    "mariadb": "SELECT VERSION()",
    "postgresql": "SHOW server_version",
    "sqlite": "SELECT sqlite_version()",
}

_PATIENCE: dict[str, dict[str, Any]] = {
    "pymysql": {"connect_timeout": 2, "read_timeout": 2},
    "psycopg": {"connect_timeout": 2, "options": "-c statement_timeout=2000"},
}

_SESSIONS = {
    "mysql": "SELECT ID, USER, HOST FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND ID <> CONNECTION_ID()",
    "postgresql": """SELECT pid, usename, COALESCE(client_addr::text, 'a socket') FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'""",
}

_TRANSACTIONS = {
    "mysql": """SELECT trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, trx_started, NOW()) FROM information_schema.INNODB_TRX
        WHERE trx_mysql_thread_id <> CONNECTION_ID() AND trx_mysql_thread_id <> 0""",
    "postgresql": """SELECT pid, EXTRACT(EPOCH FROM clock_timestamp() - xact_start) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL""",
}


class DatabaseState:
    """One drilled database. Used from the runner's thread; `sample` from another one as well.

    Args:
        url: where it is, not through a proxy; of a user who may create tables.
        admin_url: the same of a user who may see every session; default `url`.
    """

    def __init__(self, url: str, admin_url: str | None = None) -> None:
        self._url = with_driver(url, asynchronous=False)
        self._engine: Engine = create_engine(self._url, poolclass=NullPool)
        self._family = "postgresql" if self._engine.dialect.name == "postgresql" else "mysql"
        self._embedded = self._engine.dialect.name == "sqlite"
        # Asked while the server is down or frozen: it must not keep the asker.
        self._sampled: Engine = create_engine(
            with_driver(admin_url or url, asynchronous=False),
            poolclass=NullPool,
            pool_reset_on_return=None,
            connect_args=_PATIENCE.get(self._engine.driver, {}),
        )
        self._keys_were_there = False
        self._foreign: frozenset[Any] = frozenset()

    @property
    def flavour(self) -> str:
        """`mysql`, `mariadb`, `postgresql` or `sqlite`; asks the server."""
        with self._engine.connect() as connection:
            return flavour_of(connection.dialect).value

    # -- tables ------------------------------------------------------------------------------------------------------

    def set_up(self, workload: TableWorkload) -> None:
        """Make the workload's tables anew, with the rows it begins with."""
        self._keys_were_there = inspect(self._engine).has_table(OPERATIONS.name)
        self._drop_tables()
        with Database(self._url) as db:
            db.migrate(workload.metadata)
            db.run(workload.set_up)

    def clean_up(self, drill: str) -> None:
        """Remove what the drill left: its tables, and of the key rows those whose keys begin with `drill`."""
        self._drop_tables()
        if not inspect(self._engine).has_table(OPERATIONS.name):
            return
        if not self._keys_were_there:
            OPERATIONS.drop(self._engine)
            return
        with self._engine.begin() as connection:
            connection.execute(OPERATIONS.delete().where(OPERATIONS.c.key.startswith(f"{drill}.", autoescape=True)))

    def _drop_tables(self) -> None:
        names = [name for name in inspect(self._engine).get_table_names() if name.startswith(PREFIX)]
        quote = self._engine.dialect.identifier_preparer.quote
        with self._engine.begin() as connection:
            for name in names:
                connection.exec_driver_sql(f"DROP TABLE {quote(name)}")

    def final(self, workload: TableWorkload) -> dict[str, Any]:
        """The state that is there now."""
        with Session(self._engine) as session:
            if self.flavour == "mariadb":
                # In a cluster another node's commits may still be on their way to this one.
                session.connection().exec_driver_sql("SET SESSION wsrep_sync_wait = 7")
            return workload.final(session)

    # -- server ------------------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """What a report says of the server: flavour, version, the settings that promises hang on, whether it is durable."""
        with self._engine.connect() as connection:
            settings = self._settings(connection)
            version = str(connection.exec_driver_sql(_VERSION[connection.dialect.name]).scalar())
        return {
            "flavour": self.flavour,
            "versions": {"server": version},
            "server_settings": settings,
            "durable": _is_durable(settings),
        }

    def _settings(self, connection: Connection) -> dict[str, str]:
        if self._embedded:
            names = ("journal_mode", "synchronous")
            return {name: str(connection.exec_driver_sql(f"PRAGMA {name}").scalar()) for name in names}
        rows = connection.exec_driver_sql(_SETTINGS[self._family])
        return {str(name).lower(): str(value) for name, value in rows}

    def remember_foreign(self) -> None:
        """The sessions that are there now are somebody else's, and are left out from now on: call it before the clients come."""
        self._foreign = frozenset(number for number, *_ in self._asked(_SESSIONS) or ())

    def sample(self) -> dict[str, Any]:
        """Connections and the oldest transaction, as far as the user may see them; empty when the server does not answer."""
        found: dict[str, Any] = {}
        if (sessions := self._asked(_SESSIONS)) is not None:
            found["server_connections"] = float(len(self._ours(sessions)))
        if found and (transactions := self._asked(_TRANSACTIONS)) is not None:
            found["oldest_transaction_s"] = max((float(age) for _, age in self._ours(transactions)), default=0.0)
        return found

    def _ours(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return [row for row in rows if row[0] not in self._foreign]

    def _asked(self, statements: Mapping[str, str]) -> list[tuple[Any, ...]] | None:
        """The rows; None where the server does not answer, or the user may not know."""
        if self._embedded:
            return None
        refused = self._sampled.dialect.loaded_dbapi.Error
        # Not through SQLAlchemy, which rolls back: a Galera node without its cluster refuses that, too, and it would be logged.
        with (
            suppress(DBAPIError, refused),
            closing(self._sampled.raw_connection()) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute(statements[self._family])
            return [tuple(row) for row in cursor.fetchall()]
        return None

    def wait_until_quiet(self, within_s: float = QUIET_WITHIN_S) -> None:
        """Wait until no other session is left in the database, but those of `remember_foreign`.

        Raises:
            DrillFailed: some are still there after `within_s` seconds; the text says whose.
        """
        if self._embedded:
            return
        give_up_at = SYSTEM_CLOCK.monotonic() + within_s
        while True:
            sessions = self._asked(_SESSIONS)
            left = None if sessions is None else self._ours(sessions)
            if left == []:
                return
            if SYSTEM_CLOCK.monotonic() > give_up_at:
                said = "the server does not answer" if left is None else f"sessions are left ({_named(left)})"
                raise DrillFailed(
                    f"{said} {within_s:g} s after the last client has gone, so its state cannot be read back. What was answered "
                    "stands in the history: holdfast check judges it as far as that goes"
                )
            SYSTEM_CLOCK.sleep(_STEP_S)

    def close(self) -> None:
        """Close the engine."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _named(sessions: list[tuple[Any, ...]]) -> str:
    named = [f"{number} of {user} at {host}" for number, user, host in sessions[:_NAMED]]
    return ", ".join(named) + (f" and {len(sessions) - _NAMED} more" if len(sessions) > _NAMED else "")


def _is_durable(settings: Mapping[str, str]) -> bool:
    """Whether what was committed survives that the server's process is killed."""
    return (
        settings.get("innodb_flush_log_at_trx_commit") != "0"
        and settings.get("synchronous_commit") != "off"
        and settings.get("synchronous", "2") != "0"
    )
