"""Where a drill takes place: a server of its own or a given database, with a fault proxy in front of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import make_url

from ..faultproxy import FaultProxy
from ..faultproxy.proxy import Wire
from .faults import SmallDisk
from .given import read_database
from .guard import check_target
from .servers import galera, mariadb, mysql, postgresql, postgresql_pair

if TYPE_CHECKING:
    from types import ModuleType

    from .history import HistoryWriter
    from .servers import Server
    from .servers.galera import Galera, GaleraNode
    from .servers.postgresql_pair import PairNode, PostgreSQLPair
    from .settings import DrillSettings

__all__ = ["NAMED", "Place", "open_place"]

NAMED = "localhost"
"""What the clients call their server's machine where names are to be lost; else they are given its address."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is drilled.

    Attributes:
        url: where the clients connect to; through the proxies, where there are any.
        direct_url: the same database, past the proxies.
        admin_url: the same as somebody who may see every session; the application's where there is nobody else.
        proxies: one for each server, by its name; empty for SQLite, which has no wire.
        server: the server that was started for the drill, or None.
        cluster: the cluster that was started for the drill, or None.
        pair: the primary and its standby that were, or None.
        disk: the small disk that the database is on, where it shall be filled up.
    """

    url: str = field(repr=False)
    direct_url: str = field(repr=False)
    admin_url: str = field(repr=False)
    proxies: Mapping[str, FaultProxy] = field(default_factory=dict)
    server: Server | None = None
    cluster: Galera | None = None
    pair: PostgreSQLPair | None = None
    disk: SmallDisk | None = None


_SERVERS: dict[str, ModuleType] = {"mariadb": mariadb, "mysql": mysql, "postgresql": postgresql}
_SYNCHRONOUS = {"mariadb": "pymysql", "mysql": "pymysql", "postgresql": "psycopg"}
_PORTS = {"mysql": 3306, "mariadb": 3306, "postgresql": 5432}


@contextmanager
def open_place(settings: DrillSettings, wire: HistoryWriter) -> Iterator[Place]:
    """Start what has to be started, and remove it when the block ends.

    Args:
        settings: what is asked for.
        wire: where the proxies write what they see.

    Raises:
        ConfigurationError: the database's URL cannot be drilled.
        ServerMissing: the server is not installed; the text says how to get it.
    """
    with ExitStack() as stack:
        if settings.database is not None:
            yield _given(stack, settings, settings.database, wire)
        elif settings.server == "sqlite":
            disk = _small_disk(stack, settings)
            made = tempfile.TemporaryDirectory(prefix="holdfast-drill-", dir=disk.folder if disk else None)
            url = f"sqlite:///{Path(stack.enter_context(made)) / 'drill.db'}"
            yield Place(url, url, url, disk=disk)
        elif settings.server == "galera":
            yield _cluster(stack, settings, wire)
        elif settings.server == "postgresql-pair":
            yield _pair(stack, settings, wire)
        else:
            yield _server(stack, settings, wire)


def _server(stack: ExitStack, settings: DrillSettings, wire: HistoryWriter) -> Place:
    disk = _small_disk(stack, settings)
    module = _SERVERS[settings.server]
    server: Server = module.start(disk.folder) if disk is not None else module.start()
    stack.callback(server.close)
    driver = _SYNCHRONOUS[settings.server]
    proxy = _proxy(stack, settings, wire, "", (server.host, server.port))
    direct_url = server.url(driver)
    url = _through(direct_url, proxy, settings)
    return Place(url, direct_url, server.admin_url(driver), {"server": proxy}, server=server, disk=disk)


def _small_disk(stack: ExitStack, settings: DrillSettings) -> SmallDisk | None:
    return stack.enter_context(SmallDisk()) if "disk-full" in settings.faults else None


def _cluster(stack: ExitStack, settings: DrillSettings, wire: HistoryWriter) -> Place:
    cluster = galera.start()
    stack.callback(cluster.close)
    url, proxies = _through_each(stack, settings, wire, cluster.nodes, "pymysql")
    first = cluster.nodes[0]
    return Place(url, first.url("pymysql"), first.admin_url("pymysql"), proxies, cluster=cluster)


def _pair(stack: ExitStack, settings: DrillSettings, wire: HistoryWriter) -> Place:
    pair = postgresql_pair.start()
    stack.callback(pair.close)
    url, proxies = _through_each(stack, settings, wire, pair.nodes, "psycopg")
    direct_url, admin_url = pair.primary.url("psycopg"), pair.primary.admin_url("psycopg")
    return Place(url, _to_the_primary(direct_url, pair), _to_the_primary(admin_url, pair), proxies, pair=pair)


def _through_each(
    stack: ExitStack, settings: DrillSettings, wire: HistoryWriter, nodes: Sequence[GaleraNode | PairNode], driver: str
) -> tuple[str, dict[str, FaultProxy]]:
    """One URL of all nodes, each behind a proxy of its own; and the proxies."""
    proxies = {node.name: _proxy(stack, settings, wire, node.name, (node.host, node.port)) for node in nodes}
    hosts = ",".join(f"{_name_of(proxy, settings)}:{proxy.port}" for proxy in proxies.values())
    first = nodes[0]
    return first.url(driver).replace(f"{first.host}:{first.port}", hosts), proxies


def _to_the_primary(url: str, pair: PostgreSQLPair) -> str:
    """The driver finds it by itself: whoever looks at the database must not look at a standby that is behind."""
    where = {"host": [f"{node.host}:{node.port}" for node in pair.nodes], "target_session_attrs": "read-write"}
    return make_url(url).set(host=None, port=None, query=where).render_as_string(hide_password=False)


def _given(stack: ExitStack, settings: DrillSettings, database: str, wire: HistoryWriter) -> Place:
    url = read_database(database)
    if url.host is None:  # SQLite: of others it names one
        return Place(database, database, database)
    # The address that was checked is the one that is used: a name may lead elsewhere a moment later.
    addresses = check_target(url.host, settings.may_break)
    proxy = _proxy(
        stack, settings, wire, "", (addresses[0] if addresses else url.host, url.port or _PORTS[settings.backend])
    )
    return Place(_through(database, proxy, settings), database, database, {"server": proxy})


def _through(url: str, proxy: FaultProxy, settings: DrillSettings) -> str:
    host = _name_of(proxy, settings)
    return make_url(url).set(host=host, port=proxy.port).render_as_string(hide_password=False)


def _name_of(proxy: FaultProxy, settings: DrillSettings) -> str:
    if "dns-failure" not in settings.faults:
        return proxy.host
    check_target(NAMED)  # on a machine where it leads elsewhere nobody is drilled
    return NAMED


def _proxy(
    stack: ExitStack, settings: DrillSettings, wire: HistoryWriter, node: str, upstream: tuple[str, int]
) -> FaultProxy:
    protocol: Wire = "postgresql" if settings.backend == "postgresql" else "mysql"
    return stack.enter_context(FaultProxy(upstream, protocol, seed=settings.seed, on_event=_recorder(wire, node)))


def _recorder(wire: HistoryWriter, node: str) -> Callable[[dict[str, Any]], None]:
    """Writes a proxy's events into the history; connections of several proxies are told apart by the node's name."""

    def record(event: dict[str, Any]) -> None:
        connection, value = event["c"], event["v"]
        if event["f"] == "cut" and "phase" in value:
            # Whether the server had carried out what was cut off: it had if its answer was already here, and not an error.
            answered = value["phase"] == "answered"
            if answered or value["phase"] == "before":
                value = {**value, "applied": answered and bool(value.get("ok"))}
        wire.wire(event["f"], f"{node}/{connection}" if node else connection, value, t=event["t"])

    return record
