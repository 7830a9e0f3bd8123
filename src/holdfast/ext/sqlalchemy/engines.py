"""Engines whose connections come ready for Holdfast: set up once when they are made, at no cost per transaction.

    endpoint = open_endpoint("mysql://app@db/shop")
    with endpoint.engine.connect() as connection: ...      # SQLAlchemy, as always

An endpoint is one database with its engine, its pool and what is known about the server. The engine can also be used
directly: connections come back to the pool rolled back, except those that `session_of(connection).is_clean` says need not be.
Where the database has several servers, new connections go to the one in use (`move_to` chooses it) and the pool is shared: after
a move none of the old connections comes out of it again.

What happens when, by SQLAlchemy's own events:

- *do_connect*: the server in use is filled in, and the connect timeout is shortened to the caller's deadline.
- *connect*, once a physical connection: one statement sets the session up (PostgreSQL: the limits come with the login).
- *checkout*: a connection from before `retire()`, or idle for long and without a sign of life, is replaced.
- *begin*, SQLite only: `BEGIN IMMEDIATE`, or `BEGIN` for `execution_options(holdfast_read_only=True)`.
- *reset*, on the way back: ROLLBACK, unless the session is known to be clean.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import event, exc
from sqlalchemy import pool as sa_pool
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ...clock import SYSTEM_CLOCK, Clock
from ...deadline import current_deadline, seconds
from ...dialects import Flavour, classify
from ...errors import ConfigurationError
from ...outcome import Stage
from .address import Address, Host, resolve
from .cancellation import roll_back_unseen
from .connecting import after_login, ask_listeners_of, bound_connecting
from .interrupt import Identity, cut, identify
from .isolation import level_of
from .killer import AsyncKiller, Killer
from .login import login_arguments
from .pool import AsyncDeadlinePool, DeadlinePool, shortened
from .pushdown import LimitsSet, statements_for
from .settings import PoolSettings, SessionSettings, client_check, pragmas, session_statement
from .watchdog import WATCHDOG, Guard, Watchdog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
    from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

__all__ = ["READ_ONLY", "Endpoint", "PooledSession", "flavour_of", "open_endpoint", "session_of"]

READ_ONLY = "holdfast_read_only"
"""The execution option of a connection whose transactions write nothing. SQLite then takes no write lock for them."""

SIDE_CONNECT_TIMEOUT_S = 2.0
_SIDE_ANSWER_S = 60.0
"""Far more than anybody gives a side connection."""
_SESSION = "holdfast_session"
_HOST = "holdfast_host"
_WATCH = "holdfast_watch"

_ANSWERS_MAX = 6
"""How many answers are waited for on a new connection, each as long as for the login: a slow server is there, too."""

_PING_SHARE = 0.5
"""Of what a caller has left, for a sign of life: with the other half another connection can be opened, and used."""

_LOGGING_IN = ("connect_args", "creator", "async_creator", "module")
"""The engine's options that say how a connection is made: the ones apart from the operations need them as well."""

_UNKNOWN_VARIABLE = 1193


class PooledSession:
    """What Holdfast knows of one physical connection, from its making to its closing.

    Attributes:
        driver_connection: the driver's own object.
        identity: what names its session on the server; None for SQLite.
        limits: the deadline it is set up for (`pushdown.push_down` takes it).
        is_clean: set it when the transaction on the connection is known to have ended (COMMIT or ROLLBACK was answered) and
            the connection goes back to the pool next: that then costs no ROLLBACK. Taken back by every return.
        idle_since: when it came back to the pool, monotonic seconds; None while in use.
        generation: which `retire()` it came after.
        host: the server it goes to; None where the URL names none.
    """

    __slots__ = ("driver_connection", "generation", "host", "identity", "idle_since", "is_clean", "limits")

    def __init__(
        self,
        driver_connection: Any,
        identity: Identity | None,
        limits: LimitsSet,
        generation: int,
        host: Host | None,
    ) -> None:
        self.driver_connection = driver_connection
        self.identity = identity
        self.host = host
        self.limits = limits
        self.is_clean = False
        self.idle_since: float | None = None
        self.generation = generation


def session_of(connection: Connection) -> PooledSession:
    """What is known of the physical connection behind `connection` (of an `Endpoint`'s engine, open and valid).

    Look it up while the connection works: on one that was invalidated SQLAlchemy would connect anew.
    """
    session: PooledSession = connection.connection.info[_SESSION]
    return session


def open_endpoint(
    url: str | URL | Sequence[str | URL],
    *,
    asynchronous: bool = False,
    pool: PoolSettings | None = None,
    session: SessionSettings | None = None,
    clock: Clock = SYSTEM_CLOCK,
    watchdog: Watchdog = WATCHDOG,
    engine_options: Mapping[str, Any] | None = None,
) -> Endpoint:
    """The endpoint of a database; nothing is connected yet.

    Args:
        url: as `address.resolve` takes it, of one server or several.
        asynchronous: whether to make an `AsyncEngine`.
        pool, session: the settings; the defaults where None.
        clock: measures idle times; the watchdog's.
        watchdog: bounds signs of life and side connections of synchronous drivers.
        engine_options: further arguments for SQLAlchemy's `create_engine` (`echo`, `json_serializer`, ...).

    Raises:
        ConfigurationError: the URL or an option cannot work.
        MissingExtra: the driver is not installed.
    """
    address = resolve(url, asynchronous=asynchronous)
    return Endpoint(
        address,
        asynchronous=asynchronous,
        pool=pool or PoolSettings(),
        session=session or SessionSettings(),
        clock=clock,
        watchdog=watchdog,
        engine_options=engine_options or {},
    )


class Endpoint:
    """One database: its engine, its pool, and what is known about its servers. Safe in threads, or in one event loop.

    Attributes:
        engine: SQLAlchemy's engine; of an asynchronous endpoint, the one inside `async_engine`.
        async_engine: the asynchronous engine, or None.
        address: the URL with its driver, and the servers.
        pool, session: the settings.
        host: the server that new connections go to; None where the URL names none.
    """

    def __init__(
        self,
        address: Address,
        *,
        asynchronous: bool,
        pool: PoolSettings,
        session: SessionSettings,
        clock: Clock,
        watchdog: Watchdog,
        engine_options: Mapping[str, Any],
    ) -> None:
        self.address = address
        self.pool = pool
        self.session = session
        self._clock = clock
        self._watchdog = watchdog
        self._recycle_s = None if pool.recycle is None else seconds(pool.recycle)
        self._ping_after_s = None if pool.ping_after is None else seconds(pool.ping_after)
        self._flavour = address.flavour
        self._version: str | None = None
        self._detect_conflicts = True
        self._in_cluster: bool | None = None
        self._generation = 0
        self._killers: dict[Host | None, Killer | AsyncKiller] = {}
        self.host = address.hosts[0] if address.hosts else None
        self._logging_in = {name: engine_options[name] for name in _LOGGING_IN if name in engine_options}
        made = self._create(asynchronous, {**self._pool_options(asynchronous), **engine_options})
        self.async_engine = made if isinstance(made, AsyncEngine) else None
        self.engine: Engine = made.sync_engine if isinstance(made, AsyncEngine) else made
        bound_connecting(self.engine, address, seconds(pool.connect_timeout))
        if address.hosts:
            event.listen(self.engine, "do_connect", self._steer)
        self._listen()

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def flavour(self) -> Flavour | None:
        """Whose server it is; None for a `mysql` URL before its first connection, which tells MySQL and MariaDB apart."""
        return self._flavour

    @property
    def in_cluster(self) -> bool:
        """Whether the server is a Galera node, whose cluster takes writes on every node; False before the first connection."""
        return bool(self._in_cluster)

    @property
    def server_version(self) -> str | None:
        """The server's version, such as `10.11.8`; None before the first connection."""
        return self._version

    @property
    def detects_conflicts(self) -> bool | None:
        """Whether `snapshot` isolation refuses to overwrite what changed since (MySQL: never; MariaDB: if new enough).

        None before the first connection to a server that may or may not.
        """
        if self._flavour is None or (self._flavour is Flavour.MARIADB and self._version is None):
            return None
        return self._flavour is not Flavour.MYSQL and self._detect_conflicts

    # -- what can be done --------------------------------------------------------------------------------------------

    def retire(self) -> None:
        """Replace every connection made before now on its next way out of the pool; those in use finish undisturbed.

        Not those to a SQLite database in memory, which ends with its connection and has no other place to be.
        """
        if not self.address.in_memory:
            self._generation += 1

    def retire_after(self, session: PooledSession) -> bool:
        """Retire all, for what happened on one; False, with nothing done, where that one had been retired before.

        Of all the operations that one change of role meets, the first is enough: the others would retire what was made since.
        """
        if session.generation != self._generation:
            return False
        self.retire()
        return True

    def move_to(self, host: Host) -> None:
        """Have new connections go to another server, and replace every connection made before now."""
        self.host = host
        self.retire()

    def killer_of(self, host: Host | None) -> Killer | AsyncKiller:
        """Who ends sessions on a server, best effort; not for SQLite, which has no server."""
        killer = self._killers.get(host)
        if killer is None:
            made = self.side_engine(host)
            if isinstance(made, AsyncEngine):
                killer = AsyncKiller(made)
            else:
                killer = Killer(made, watchdog=self._watchdog, clock=self._clock)
                after_login(made, killer.watch)
            killer = self._killers.setdefault(host, killer)
        return killer

    def forget(self) -> None:
        """In a forked child: the sessions that are to be ended, and who does it, are the parent's."""
        self._killers.clear()

    def close(self) -> None:
        """Close the idle connections of a synchronous endpoint; those in use close when they come back."""
        self.engine.dispose()

    async def aclose(self) -> None:
        """Close the idle connections of an asynchronous endpoint, after the sessions that are being ended on the server."""
        assert self.async_engine is not None
        for killer in self._killers.values():
            assert isinstance(killer, AsyncKiller)
            await killer.aclose()
        await self.async_engine.dispose()

    # -- making the engine -------------------------------------------------------------------------------------------

    def _create(self, asynchronous: bool, options: dict[str, Any]) -> Engine | AsyncEngine:
        connect_args = login_arguments(self.address, self.session, options.pop("connect_args", {}))
        options = {"hide_parameters": True, **options, "connect_args": connect_args}
        try:
            if asynchronous:
                return create_async_engine(self.address.url, **options)
            return sqlalchemy.create_engine(self.address.url, **options)
        except (exc.ArgumentError, TypeError, ValueError) as error:
            raise ConfigurationError(f"the engine cannot be made: {error}") from error

    def _pool_options(self, asynchronous: bool) -> dict[str, Any]:
        size, open_max = (1, 1) if self.address.in_memory else (self.pool.size, self.pool.open_max)
        keep = self._recycle_s is None or self.address.in_memory
        return {
            "poolclass": AsyncDeadlinePool if asynchronous else DeadlinePool,
            "pool_size": size,
            "max_overflow": open_max - size,
            "pool_timeout": self.session.deadline_s,
            "pool_recycle": -1 if keep else self._recycle_s,
            # The newest first: what is not needed grows old and is recycled instead of being kept warm by turns.
            "pool_use_lifo": True,
            "pool_reset_on_return": None,  # `_reset` does it
        }

    def side_engine(self, host: Host | None) -> Engine | AsyncEngine:
        """An engine without a pool for a few statements apart from the operations, on one server; autocommit on PostgreSQL.

        Whoever uses it bounds what follows on the login (`connecting.after_login`), and says by a deadline how long each answer
        may take, where that is less than what is bounded here.
        """
        options: dict[str, Any] = {"poolclass": sa_pool.NullPool, "pool_reset_on_return": None}
        if self.address.backend == "postgresql":
            options["isolation_level"] = "AUTOCOMMIT"
        made = self._create(self.async_engine is not None, {**options, **self._logging_in})
        engine = made.sync_engine if isinstance(made, AsyncEngine) else made
        bound_connecting(engine, self.address, SIDE_CONNECT_TIMEOUT_S, answers_s=_SIDE_ANSWER_S)
        if host is not None:

            def steer(_dialect: Dialect, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
                _fill_in(parameters, host)

            event.listen(engine, "do_connect", steer)
        ask_listeners_of(self.engine, engine)
        return made

    def _steer(
        self, _dialect: Dialect, record: ConnectionPoolEntry, _arguments: object, parameters: dict[str, Any]
    ) -> None:
        host = self.host  # read once: a move may come while this connects
        assert host is not None
        record.info[_HOST] = host
        _fill_in(parameters, host)

    def _listen(self) -> None:
        engine = self.engine
        event.listen(engine, "connect", self._connected)
        if self.address.backend != "sqlite" and self.async_engine is None:
            after_login(engine, self._watch_set_up)
        event.listen(engine, "checkout", self._checked_out)
        event.listen(engine, "checkin", self._checked_in)
        event.listen(engine, "reset", self._reset)
        if self.address.backend == "sqlite":
            event.listen(engine, "begin", self._begin_sqlite)
        if self.async_engine is not None:
            event.listen(engine, "invalidate", _free_file if self.address.driver == "aiosqlite" else _hang_up)

    # -- the life of a connection ------------------------------------------------------------------------------------

    def _watch_set_up(self, record: ConnectionPoolEntry) -> None:
        """Have what follows on a login end as well; who uses a side connection does so by himself."""
        expires_at = self._clock.monotonic() + shortened(_ANSWERS_MAX * seconds(self.pool.connect_timeout))
        record.info[_WATCH] = self._watchdog.guard(record.driver_connection, expires_at)

    def _connected(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        dialect = self.engine.dialect
        flavour = flavour_of(dialect)
        if self._version is None or self._flavour is not flavour:
            self._flavour = flavour
            self._version = ".".join(str(part) for part in (dialect.server_version_info or ())[:3])
        # SQLAlchemy sets a connection back to this after a transaction with a level of its own.
        dialect.default_isolation_level = level_of(flavour, self.session.isolation)
        try:
            self._set_up(flavour, connection)
            if flavour is Flavour.MARIADB and self._in_cluster is None:
                self._in_cluster = _value(connection, "SHOW GLOBAL VARIABLES LIKE 'wsrep_on'") == "ON"
        except BaseException:
            # Before SQLAlchemy 2.1 the pool forgets a connection whose listener raised, and leaves it open. In tasks it has to
            # be closed, but not by asking first, as asyncpg does; those of threads complain about being closed twice.
            cut(record.driver_connection)
            if dialect.is_async:
                dialect.do_terminate(connection)
            raise
        finally:
            watch: Guard | None = record.info.pop(_WATCH, None)
            if watch is not None:
                watch.close()
        driver_connection = record.driver_connection
        # One that was on its way to the old server during a move belongs to those that the move retired.
        generation = self._generation if record.info.get(_HOST) == self.host else self._generation - 1
        record.info[_SESSION] = PooledSession(
            driver_connection,
            identify(driver_connection, flavour),
            LimitsSet(flavour, self.session.deadline_s),
            generation,
            record.info.get(_HOST),
        )

    def _set_up(self, flavour: Flavour, connection: DBAPIConnection) -> None:
        if flavour is Flavour.POSTGRESQL:
            check = client_check(self.engine.dialect.server_version_info or ())
            if check is not None:
                self._have_clients_checked(connection, check)
            return
        if flavour is Flavour.SQLITE:
            # The driver must not begin transactions of its own: `_begin_sqlite` does, and says of which kind.
            connection.isolation_level = None
            for pragma in pragmas():
                _execute(connection, pragma)
            return
        if self.address.driver == "pymysql" and "read_timeout" not in self.address.url.query:
            connection._read_timeout = None  # `bound_connecting` bounded the handshake by it
        try:
            _execute(connection, self._session_statement(flavour))
        except self.engine.dialect.loaded_dbapi.Error as error:
            if not self._detect_conflicts or _UNKNOWN_VARIABLE not in (*error.args[:1], getattr(error, "errno", None)):
                raise
            self._detect_conflicts = False
            _execute(connection, self._session_statement(flavour))

    def _have_clients_checked(self, connection: DBAPIConnection, check: str) -> None:
        autocommits = connection.autocommit
        connection.autocommit = True  # what is set in a transaction ends with it, if that is rolled back
        try:
            _execute(connection, check)
        except self.engine.dialect.loaded_dbapi.Error as error:
            # A server on a system that cannot tell refuses the setting, and the session is as good as before.
            if not classify(error, stage=Stage.BODY, flavour=Flavour.POSTGRESQL).connection_usable:
                raise
        connection.autocommit = autocommits

    def _session_statement(self, flavour: Flavour) -> str:
        return session_statement(
            flavour, self.session, detect_conflicts=self._detect_conflicts, recycle_s=self._recycle_s
        )

    def _checked_out(self, connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        session: PooledSession = record.info[_SESSION]
        idle_since, session.idle_since = session.idle_since, None
        session.is_clean = False
        if session.generation != self._generation:
            raise exc.DisconnectionError("retired")
        if idle_since is None or self._ping_after_s is None:
            return
        if self._clock.monotonic() - idle_since >= self._ping_after_s and not self._is_alive(connection, record):
            raise exc.InvalidatePoolError("no sign of life")

    def _is_alive(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> bool:
        if self.address.backend == "sqlite":
            return True
        longest_s = shortened(math.inf) * _PING_SHARE
        patience_s = min(seconds(self.pool.connect_timeout), longest_s)
        dialect = self.engine.dialect
        try:
            with self._cutting_after(patience_s, record.driver_connection):
                if self.address.driver in ("asyncmy", "aiomysql"):
                    # SQLAlchemy asks PyMySQL's signature whether they take an argument, and in SQLAlchemy 2.0 they need one.
                    connection.ping(False)
                    return True
                return dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error:
            return False

    @contextmanager
    def _cutting_after(self, patience_s: float, driver_connection: object) -> Iterator[None]:
        """Cut the connection if the block takes longer: in threads by the watchdog, in tasks by a timer of their loop."""
        if self.async_engine is None:
            with self._watchdog.guard(driver_connection, self._clock.monotonic() + patience_s):
                yield
            return
        timer = asyncio.get_running_loop().call_later(patience_s, cut, driver_connection)
        try:
            yield
        finally:
            timer.cancel()

    def _checked_in(self, _connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        session: PooledSession | None = record.info.get(_SESSION)
        if session is not None:
            session.idle_since = self._clock.monotonic()

    def _reset(self, connection: DBAPIConnection, record: ConnectionPoolEntry | None, state: PoolResetState) -> None:
        if record is None or state.terminate_only or not state.asyncio_safe:
            return  # it is closed next, and its server rolls back
        session: PooledSession = record.info[_SESSION]
        if not session.is_clean and not state.transaction_was_reset:
            connection.rollback()
        session.is_clean = False

    def _begin_sqlite(self, connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("isolation_level") == "AUTOCOMMIT":
            return
        limits = session_of(connection).limits
        deadline = current_deadline()
        if deadline is not None:
            change = statements_for(Flavour.SQLITE, deadline.remaining_s(), limits.current_s, limits.default_s)
            if change is not None:
                connection.exec_driver_sql(change.statement)
                limits.current_s = change.limits_s
        connection.exec_driver_sql("BEGIN" if options.get(READ_ONLY) else "BEGIN IMMEDIATE")


def _hang_up(_connection: object, record: ConnectionPoolEntry, error: BaseException | None) -> None:
    """Cut what is given up: SQLAlchemy would take leave of the server and wait 2 s for the answer of one that is gone."""
    if type(error) is not exc.DisconnectionError:  # that one is retired, and well
        cut(record.driver_connection)


def _free_file(_connection: object, record: ConnectionPoolEntry, _error: BaseException | None) -> None:
    roll_back_unseen(record.driver_connection)


def _fill_in(parameters: dict[str, Any], host: Host) -> None:
    parameters["host"] = host.name
    if host.port is not None:
        parameters["port"] = host.port
    else:
        parameters.pop("port", None)


def flavour_of(dialect: Dialect) -> Flavour:
    """Whose server a dialect that has connected speaks to: MariaDB's answers to `mysql` URLs, too."""
    if getattr(dialect, "is_mariadb", False):
        return Flavour.MARIADB
    return Flavour(dialect.name)


def _execute(connection: DBAPIConnection, statement: str) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()


def _value(connection: DBAPIConnection, statement: str) -> str | None:
    """What a SHOW statement says of its one variable; None if the server does not know it."""
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
        row = cursor.fetchone()
        return None if row is None else str(row[1])
    finally:
        cursor.close()
