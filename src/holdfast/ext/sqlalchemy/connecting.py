"""How an engine connects: within its caller's time, left at once by a cancellation, and told what its driver does not know.

A URL's options go to the driver as they are, so a mistyped one is found when the first connection is made, in each driver's own
way: a TypeError, a refusal that looks like the server's, or, from libpq, the same error as for a server that is not there, which
would be tried again until the deadline. Whoever configured it is told at once and in the same words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from ...dialects import Flavour
from ...errors import ConfigurationError
from .cancellation import leave_at_once
from .interrupt import identify
from .pool import shortened

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
    from sqlalchemy.pool import ConnectionPoolEntry

    from .address import Address

__all__ = ["after_login", "ask_listeners_of", "bound_connecting", "refuses_options"]


def _whole(timeout_s: float) -> int:
    return max(1, math.ceil(timeout_s))


_CONNECT_TIMEOUTS: dict[str, tuple[str, Callable[[float], float]]] = {
    "pymysql": ("connect_timeout", float),
    "asyncmy": ("connect_timeout", float),
    "aiomysql": ("connect_timeout", float),
    "mysqldb": ("connect_timeout", _whole),
    "mysqlconnector": ("connection_timeout", _whole),
    "mariadbconnector": ("connect_timeout", _whole),
    "psycopg": ("connect_timeout", _whole),
    "psycopg2": ("connect_timeout", _whole),
    "asyncpg": ("timeout", float),
}
_BOUND_ANSWERS = {"pymysql", "mysqldb"}
"""Drivers that bound each answer. MySQLdb asks before anybody has its connection, and could cut it."""

_HOUSE = __name__.partition(".")[0] + "."
"""How the modules are called whose listeners are Holdfast's own."""

_SHORTEST_S = 0.05
"""Drivers take 0 for "for ever"."""

# libpq's words, as of version 17; in another language they are taken for a server that is not there, and tried again.
_LIBPQ = re.compile(
    r"invalid (?:connection option|URI query parameter|\w+ value: )"
    r"|invalid integer value .* for connection option"
    r"|(?:certificate|private key|certificate revocation list) file .* (?:does not exist|has group or world access)"
    r"|server does not support SSL, but SSL was required"
    r"|(?:could not|cannot) (?:read|load) (?:root )?(?:certificate|private key) file"
)


def bound_connecting(engine: Engine, address: Address, longest_s: float, *, answers_s: float | None = None) -> None:
    """Have every connect of `engine` end within `longest_s` seconds, or by the caller's deadline; a cancelled one at once.

    An option that the driver refuses is a ConfigurationError then.

    Args:
        engine: which.
        address: its driver, and what the URL says.
        longest_s: for a connect, in seconds.
        answers_s: as long as that, or as the caller's deadline leaves, the drivers that can bound an answer wait for each one, to
            the connection's end. None: who asks sees to that.
    """
    _hand_out_copies(engine)
    leave_at_once(engine)
    if address.driver == "pymysql":
        _read_authorities_once(engine.dialect)
    _name_refused_options(engine.dialect, address)
    if address.driver not in _CONNECT_TIMEOUTS:
        return
    name, rounded = _CONNECT_TIMEOUTS[address.driver]

    def bound(_dialect: Dialect, _record: object, _arguments: object, parameters: dict[str, Any]) -> None:
        try:
            wanted_s = float(parameters.get(name, longest_s))
        except ValueError:
            raise ConfigurationError(f"{name} in the database URL must be a number of seconds") from None
        # 0 is the drivers' "for ever".
        timeout_s = max(_SHORTEST_S, shortened(min(longest_s, wanted_s) if wanted_s > 0 else longest_s))
        parameters[name] = rounded(timeout_s)
        if parameters.get("read_timeout") is not None:
            return
        if answers_s is not None and address.driver in _BOUND_ANSWERS:
            parameters["read_timeout"] = rounded(max(_SHORTEST_S, shortened(answers_s)))
        elif address.driver == "pymysql":
            # PyMySQL's connect timeout ends with TCP's handshake; the server's may take for ever.
            parameters["read_timeout"] = timeout_s

    event.listen(engine, "do_connect", bound)


def after_login(engine: Engine, act: Callable[[ConnectionPoolEntry], object]) -> None:
    """Have `act` called for each new connection of `engine`, before SQLAlchemy asks it its first questions."""

    def logged_in(_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        # By its identity MySQLdb's connection is known to whoever cuts it.
        identify(record.driver_connection, Flavour.MYSQL)
        act(record)

    event.listen(engine, "connect", logged_in, insert=True)


def ask_listeners_of(engine: Engine, other: Engine) -> None:
    """Have each connect of `other` heard by the application's own `do_connect` listeners of `engine`, whenever they came.

    They say what only they know: a token for the login, a way through a tunnel.
    """

    def connecting(
        dialect: Dialect, record: ConnectionPoolEntry, arguments: Any, parameters: dict[str, Any]
    ) -> DBAPIConnection | None:
        of_all = list(dialect.dispatch.do_connect)  # those of the class `Engine` are heard anyway
        for listener in engine.dialect.dispatch.do_connect:
            if listener not in of_all and not str(getattr(listener, "__module__", "")).startswith(_HOUSE):
                connection: DBAPIConnection | None = listener(dialect, record, arguments, parameters)
                if connection is not None:
                    return connection
        return None

    event.listen(other, "do_connect", connecting)


def _hand_out_copies(engine: Engine) -> None:
    """Have each connect change parameters of its own.

    SQLAlchemy up to 2.0 hands the same ones to every connect: one would go to the server that another was sent to meanwhile.
    """

    def connecting(
        dialect: Dialect, record: ConnectionPoolEntry, arguments: Any, parameters: dict[str, Any]
    ) -> DBAPIConnection:
        own = dict(parameters)
        listeners = list(dialect.dispatch.do_connect)
        for listener in listeners[listeners.index(connecting) + 1 :]:  # those before have been asked
            connection: DBAPIConnection | None = listener(dialect, record, arguments, own)
            if connection is not None:
                return connection
        return dialect.connect(*arguments, **own)

    event.listen(engine, "do_connect", connecting)


def refuses_options(error: Exception, *, by_network: bool) -> bool:
    """Whether a driver's error while it connects is about what it was given, which no other try mends.

    Args:
        error: what `connect` raised.
        by_network: whether it goes to a host: a file that is missing then is no server's socket.
    """
    if isinstance(error, TypeError):
        return "keyword argument" in str(error)
    if isinstance(error, FileNotFoundError):
        return by_network
    return _LIBPQ.search(str(error)) is not None


def _read_authorities_once(dialect: Dialect) -> None:
    """Have PyMySQL make one TLS context for all connections that it encrypts only because the server can, verifying nobody.

    From version 1.2 on it makes one for each, and reads all the machine's certificate authorities for it: 50 ms of a processor,
    and of all threads, for a connection that is otherwise opened within one. What the application says of TLS is read every time.
    """
    base: Any = dialect.loaded_dbapi.connections.Connection
    made: list[Any] = []

    def context(self: Any, said: Any) -> Any:
        if said:
            return base._create_ssl_ctx(self, said)
        if not made:
            made.append(base._create_ssl_ctx(self, said))
        return made[0]

    if hasattr(base, "_create_ssl_ctx"):
        kind: Any = type("Connection", (base,), {"__module__": base.__module__, "_create_ssl_ctx": context})
        dialect.connect = kind  # type: ignore[method-assign]


def _name_refused_options(dialect: Dialect, address: Address) -> None:
    # Not a `do_connect` of our own that connects: the user's, registered later (a token for the login), would go unheard.
    connect = dialect.connect
    by_network = bool(address.hosts)

    def connecting(*arguments: Any, **parameters: Any) -> DBAPIConnection:
        try:
            return connect(*arguments, **parameters)
        except Exception as error:
            if not refuses_options(error, by_network=by_network):
                raise
            said = str(error).strip()
            raise ConfigurationError(
                f"the driver {address.driver} cannot connect with the options of the database URL ({said}); see which ones it "
                "knows, and that the files they name are there"
            ) from error

    dialect.connect = connecting  # type: ignore[method-assign]
