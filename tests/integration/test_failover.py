"""Failover on real servers: killed, frozen, read-only, all gone, too full, and a cluster that loses its writer, under load.

Every test lets callers save all the time, in threads or in tasks, and counts afterwards what the servers have.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Self

import pytest
from sqlalchemy import Integer, Select, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from holdfast.clock import SYSTEM_CLOCK
from holdfast.drills.servers import Server, mariadb, postgresql
from holdfast.drills.servers.galera import Galera
from holdfast.errors import HoldfastError, NotCommitted, OutcomeUnknown
from holdfast.events import FailoverEnded, FailoverStarted
from holdfast.ext.sqlalchemy import AsyncDatabase, Database, DatabaseSettings, PoolSettings
from holdfast.ext.sqlalchemy.runtime import Runtime
from holdfast.failover import FailoverSettings, Phase
from holdfast.faultproxy import Latency, ResetPeer
from holdfast.faultproxy import Phase as ProxyPhase
from holdfast.testing import RecordingHook, fault_proxy

CALLERS = 40
PATIENCE_S = 60.0
"""How long a test waits for what must come: only a bug makes it last."""

SETTINGS = DatabaseSettings(deadline=30.0, pool=PoolSettings(size=5, open_max=20))
IN_A_CLUSTER = DatabaseSettings(deadline=15.0, pool=PoolSettings(size=5, open_max=20))


class Base(DeclarativeBase):
    """The table that counts."""


class Saved(Base):
    """One save. Nothing is unique but the id, so that a double would show."""

    __tablename__ = "failover_saved"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Integer, index=True)


FACES = {
    ("mariadb", "threads"): "pymysql",
    ("mariadb", "tasks"): "asyncmy",
    ("postgresql", "threads"): "psycopg",
    ("postgresql", "tasks"): "asyncpg",
}


def driver_of(server: Server, face: str) -> str:
    return FACES[server.flavour, face]


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that must come."""
    give_up_at = SYSTEM_CLOCK.monotonic() + PATIENCE_S
    while not condition():
        assert SYSTEM_CLOCK.monotonic() < give_up_at, f"waited in vain for {what}"
        SYSTEM_CLOCK.sleep(0.01)


class Load:
    """Callers that save numbers, one after the other, and read each back at once (`shared`: every server has every number).

    Attributes:
        saved: the numbers whose save was acknowledged.
        unread: those that the very next read, maybe on another server, did not find.
        errors: what came out instead.
        slowest_s: the longest that an operation took.
        stood_in_line: for each number, how often its save waited at the gate.
        hook: the events.
    """

    def __init__(
        self,
        urls: list[str],
        face: str,
        *,
        callers: int = CALLERS,
        settings: DatabaseSettings = SETTINGS,
        shared: bool = True,
    ) -> None:
        self.saved: list[int] = []
        self.unread: list[int] = []
        self.errors: list[HoldfastError] = []
        self.slowest_s = 0.0
        self.stood_in_line: Counter[int] = Counter()
        self.hook = RecordingHook()
        self.runtime: Runtime | None = None
        self._urls, self._face, self._callers, self._settings = urls, face, callers, settings
        self._shared = shared
        self._numbers = itertools.count(1)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "an operation did not end"

    def go_on(self, saves: int = CALLERS) -> None:
        """Wait until that many more saves were acknowledged."""
        enough = len(self.saved) + saves
        wait_until(lambda: len(self.saved) >= enough, f"{saves} more saves ({self.errors[-1:]})")

    def goes_on_after_a_move(self, moves_before: int = 0) -> None:
        """Wait until another writer was found, and more was saved there."""
        wait_until(lambda: len(self.events(FailoverEnded)) > moves_before, "the move")
        self.go_on()

    def events(self, kind: type[Any]) -> list[Any]:
        return self.hook.of(kind)

    def all_fine(self) -> None:
        """Every operation ended well, inside its deadline, and where one database was written to, it was also read."""
        assert [f"{type(error).__name__}: {error}" for error in self.errors] == []
        assert self.unread == [] or not self._shared
        assert self.slowest_s < self._settings.deadline_s

    def _note(self, began_at: float, number: int, seen: int) -> None:
        self.slowest_s = max(self.slowest_s, SYSTEM_CLOCK.monotonic() - began_at)
        if seen != 1:
            self.unread.append(number)

    def _watch(self, runtime: Runtime) -> None:
        """Count the waits at the gate by the number that is being saved."""
        assert runtime.failover is not None
        self.runtime, gate = runtime, runtime.failover.gate
        join = gate._join

        def counted(*arguments: Any, **options: Any) -> Any:
            waiter = join(*arguments, **options)
            if not isinstance(waiter, bool) and (number := _saving.get()):
                self.stood_in_line[number] += 1
            return waiter

        gate._join = counted  # type: ignore[method-assign]

    def _run(self) -> None:
        if self._face == "threads":
            with Database(self._urls, self._settings, events=self.hook.stream) as db:
                self._watch(db._runtime)
                with ThreadPoolExecutor(self._callers) as threads:
                    for _ in range(self._callers):
                        threads.submit(self._call, db)
        else:
            asyncio.run(self._run_tasks())

    def _call(self, db: Database) -> None:
        while not self._ends.is_set():
            number = next(self._numbers)
            began_at = SYSTEM_CLOCK.monotonic()
            try:
                _saving.set(number)
                db.run(_save, number)
                _saving.set(0)
                self.saved.append(number)
                self._note(began_at, number, db.read(_look, number))
            except HoldfastError as error:
                self.errors.append(error)
            SYSTEM_CLOCK.sleep(0.02)

    async def _run_tasks(self) -> None:
        async with AsyncDatabase(self._urls, self._settings, events=self.hook.stream) as db:
            self._watch(db._runtime)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._callers):
                    tasks.create_task(self._call_async(db))

    async def _call_async(self, db: AsyncDatabase) -> None:
        while not self._ends.is_set():
            number = next(self._numbers)
            began_at = SYSTEM_CLOCK.monotonic()
            try:
                _saving.set(number)
                await db.run(_save_async, number)
                _saving.set(0)
                self.saved.append(number)
                self._note(began_at, number, await db.read(_look_async, number))
            except HoldfastError as error:
                self.errors.append(error)
            await SYSTEM_CLOCK.sleep_async(0.02)


_saving: ContextVar[int] = ContextVar("saving", default=0)


def _rows(number: int) -> Select[Any]:
    return select(Saved.id).where(Saved.number == number)


def _save(tx: Session, number: int) -> None:
    tx.add(Saved(number=number))


def _look(tx: Session, number: int) -> int:
    return len(tx.scalars(_rows(number)).all())


async def _save_async(tx: AsyncSession, number: int) -> None:
    tx.add(Saved(number=number))


async def _look_async(tx: AsyncSession, number: int) -> int:
    return len((await tx.scalars(_rows(number))).all())


def prepare(*servers: Server) -> None:
    """An empty table on each."""
    for server in servers:
        with Database(server.url(driver_of(server, "threads"))) as db:
            db.migrate(Base.metadata)
            db.run(lambda tx: tx.execute(text("DELETE FROM failover_saved")))


def nothing_doubled_or_lost(load: Load, *servers: Server, more_may_be_there: bool = False) -> None:
    """The servers, which share nothing here, have each acknowledged save exactly once, and nothing else unless it may."""
    there = Counter(n for server in servers for (n,) in server.execute("SELECT number FROM failover_saved"))
    assert [number for number, times in there.items() if times > 1] == []
    assert set(load.saved) - set(there) == set()
    if not load.errors and not more_may_be_there:
        assert set(there) == set(load.saved)


@contextmanager
def listening_in_place_of(server: Server) -> Iterator[list[float]]:
    """Take a dead server's port and hang up on everybody; the moments at which somebody came."""
    came: list[float] = []
    listener = socket.create_server((server.host, server.port), backlog=128)

    def accept() -> None:
        with suppress(OSError):  # closed at the end
            while True:
                connection, _ = listener.accept()
                came.append(SYSTEM_CLOCK.monotonic())
                connection.close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield came
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE_S)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Server:
    """One server with an empty table."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    prepare(server)
    return server


@pytest.fixture(scope="module")
def second_mariadb() -> Iterator[Server]:
    """A MariaDB server that shares nothing with the first."""
    server = mariadb.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def second_postgresql() -> Iterator[Server]:
    """A PostgreSQL server that shares nothing with the first."""
    server = postgresql.start()
    yield server
    server.close()


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Server]]:
    """Two servers with empty tables, of which the first takes writes."""
    first: Server = request.getfixturevalue(f"{request.param}_server")
    second: Server = request.getfixturevalue(f"second_{request.param}")
    second.heal()
    prepare(first, second)
    read_only(second, on=True)
    yield first, second
    for each in (first, second):
        each.heal()
        read_only(each, on=False)


def read_only(server: Server, *, on: bool) -> None:
    if server.flavour == "mariadb":
        server.set_global("read_only", int(on))
        return
    connection = server.connect(admin=True)
    try:
        # The administrator's own transactions would be read-only as well.
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = '{'on' if on else 'off'}'")
        connection.execute("SELECT pg_reload_conf()")
    finally:
        connection.close()
    wait_until(lambda: server.get_global("default_transaction_read_only") == ("on" if on else "off"), "the reload")


on_all = pytest.mark.parametrize(("server", "face"), FACES, indirect=["server"])
on_two = pytest.mark.parametrize(
    ("server", "face"), [("mariadb", "threads"), ("postgresql", "tasks")], indirect=["server"]
)
on_the_other_pairs = pytest.mark.parametrize(
    ("pair", "face"), [("mariadb", "threads"), ("postgresql", "tasks")], indirect=["pair"]
)
on_two_pairs = pytest.mark.parametrize(
    ("pair", "face"), [("mariadb", "tasks"), ("postgresql", "threads")], indirect=["pair"]
)


# -- one server ----------------------------------------------------------------------------------------------------------


@on_all
def test_killed_server_costs_nobody_an_error(server: Server, face: str) -> None:
    """Killed under 40 callers and started again: all end well, nothing is doubled, and nobody storms the dead port."""
    with Load([server.url(driver_of(server, face))], face) as load:
        server.kill()
        with listening_in_place_of(server) as came:
            wait_until(lambda: load.events(FailoverStarted), "the outage")
            SYSTEM_CLOCK.sleep(1.5)
        server.start()
        load.go_on()
    if server.flavour == "postgresql":
        # After a crash it cannot always be told whether a number that is committed is ours: then that is the honest answer.
        load.errors = [error for error in load.errors if not isinstance(error, OutcomeUnknown)]
    load.all_fine()
    nothing_doubled_or_lost(load, server, more_may_be_there=server.flavour == "postgresql")
    assert not load.events(FailoverEnded)[0].moved
    # Nobody knocks but the search, who ends sessions on the server, and those that began to connect before anybody knew.
    assert len(came) <= CALLERS
    assert max(load.stood_in_line.values()) == 1


@on_two
def test_frozen_server_is_waited_for(server: Server, face: str) -> None:
    """It closes no connection and answers nothing for a while; then everything goes on."""
    with Load([server.url(driver_of(server, face))], face) as load:
        server.pause()
        SYSTEM_CLOCK.sleep(3.0)
        server.resume()
        load.go_on()
    load.all_fine()
    nothing_doubled_or_lost(load, server)


@pytest.mark.parametrize("face", ["threads", "tasks"])
def test_server_that_answers_slowly_is_there(mariadb_server: Server, face: str) -> None:
    """An overloaded server loses a connection, and takes longer for all that the search asks than one answer may take."""
    hook = RecordingHook()
    settings = replace(SETTINGS, deadline=10.0, failover=FailoverSettings(probe_timeout=0.6))
    with fault_proxy(mariadb_server.url(driver_of(mariadb_server, face))) as proxy:

        def make_slow() -> None:
            proxy.add(Latency(0.15), ProxyPhase.BEFORE)
            proxy.add(ResetPeer(), ProxyPhase.BEFORE, times=1)

        async def in_tasks() -> None:
            async with AsyncDatabase(proxy.url, settings, events=hook.stream) as db:
                await db.migrate(Base.metadata)
                make_slow()
                await db.save(Saved(number=1))

        if face == "tasks":
            asyncio.run(in_tasks())
        else:
            with Database(proxy.url, settings, events=hook.stream) as db:
                db.migrate(Base.metadata)
                make_slow()
                db.save(Saved(number=1))
    assert not [event for event in hook.events if isinstance(event, FailoverStarted)]


def test_server_that_is_too_full_is_there(mariadb_server: Server) -> None:
    """More callers than the server has connections is no outage, also when one of them is cut off meanwhile."""
    prepare(mariadb_server)
    settings = DatabaseSettings(deadline=15.0, pool=PoolSettings(size=20, open_max=40))
    with (
        closing(mariadb_server.connect(admin=True)) as admin,  # from before there is no room
        mariadb_server.global_setting("max_connections", 10),
        Load([mariadb_server.url("pymysql")], "threads", callers=20, settings=settings) as load,
    ):
        cursor = admin.cursor()
        cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'app'")
        for (session,) in cursor.fetchall()[:2]:
            with suppress(Exception):  # it may have ended by itself
                cursor.execute(f"KILL {session}")
        load.go_on()
    assert load.events(FailoverStarted) == []
    nothing_doubled_or_lost(load, mariadb_server)


def test_forked_child_finds_the_server_for_itself(mariadb_server: Server) -> None:
    """What its parent was waiting for, and with which thread, is not the child's."""
    prepare(mariadb_server)
    with Database(mariadb_server.url("pymysql"), SETTINGS) as db:
        db.run(lambda tx: tx.add(Saved(number=1)))
        failover = db._runtime.failover
        assert failover is not None
        failover.gate.suspect()
        pid = os.fork()
        if pid == 0:  # pragma: no cover - another process
            try:
                db.run(lambda tx: tx.add(Saved(number=2)))
                failover.gate.suspect()
                answer = failover.gate.enter(
                    SYSTEM_CLOCK.monotonic() + PATIENCE_S, lost_at_outage=failover.gate.outages
                )
                os._exit(int(answer or failover.gate.phase is not Phase.FLOWING))
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        db.run(lambda tx: tx.add(Saved(number=3)))
    assert mariadb_server.execute("SELECT number FROM failover_saved ORDER BY number") == [(1,), (2,), (3,)]


def test_closing_ends_the_search_and_leaves_nobody_behind(mariadb_server: Server) -> None:
    """An operation that waits at the gate ends by its deadline, and no thread goes on looking."""
    prepare(mariadb_server)
    db = Database(mariadb_server.url("pymysql"), DatabaseSettings(deadline=3.0))
    db.run(lambda tx: tx.add(Saved(number=1)))
    mariadb_server.kill()
    ended: list[object] = []

    def call() -> None:
        try:
            db.run(lambda tx: tx.add(Saved(number=2)))
        except NotCommitted as error:
            ended.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    failover = db._runtime.failover
    assert failover is not None
    wait_until(lambda: failover.gate.phase is Phase.AWAY and failover.gate.waiting, "somebody at the gate")
    db.close()
    caller.join(PATIENCE_S)
    assert len(ended) == 1
    wait_until(lambda: "holdfast-failover" not in {thread.name for thread in threading.enumerate()}, "the thread's end")


# -- several servers -----------------------------------------------------------------------------------------------------


@on_two_pairs
def test_writer_is_found_behind_a_read_only_server(pair: tuple[Server, Server], face: str) -> None:
    """The preferred one takes no writes, so the other one gets them, from the first operation on."""
    first, second = pair
    read_only(first, on=True)
    read_only(second, on=False)
    with Load([each.url(driver_of(each, face)) for each in pair], face, callers=8) as load:
        assert load.runtime is not None
        assert str(load.runtime.endpoint.host) == f"{second.host}:{second.port}"
    load.all_fine()
    nothing_doubled_or_lost(load, second)
    assert load.events(FailoverStarted) == []


@on_the_other_pairs
def test_roles_that_change_are_followed(pair: tuple[Server, Server], face: str) -> None:
    """Under load the writer turns read-only and the other one takes over, and back again: everything is saved once."""
    with Load([each.url(driver_of(each, face)) for each in pair], face, shared=False) as load:
        for old, new in (pair, pair[::-1]):
            moves = len(load.events(FailoverEnded))
            read_only(old, on=True)
            SYSTEM_CLOCK.sleep(0.2)  # both read-only for a while, as in a switch by hand
            read_only(new, on=False)
            load.goes_on_after_a_move(moves)
    load.all_fine()
    nothing_doubled_or_lost(load, *pair)
    assert [event.moved for event in load.events(FailoverEnded)] == [True, True]


@on_two_pairs
def test_total_outage_ends_without_a_restart(pair: tuple[Server, Server], face: str) -> None:
    """Both are killed, one comes back, and the same process goes on with it."""
    first, second = pair
    with Load([each.url(driver_of(each, face)) for each in pair], face, shared=False) as load:
        second.kill()
        first.kill()
        wait_until(lambda: load.events(FailoverStarted), "the outage")
        SYSTEM_CLOCK.sleep(1.0)
        second.start()
        read_only(second, on=False)
        load.go_on()
    first.start()
    assert [error for error in load.errors if not isinstance(error, OutcomeUnknown)] == []
    assert load.slowest_s < SETTINGS.deadline_s + 0.25
    # What became of a transaction on a server that is down is not known on the other one.
    nothing_doubled_or_lost(load, *pair)


# -- Galera --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(galera_cluster: Galera) -> Iterator[Galera]:
    """The whole cluster, with an empty table."""
    galera_cluster.heal()
    with Database(galera_cluster.nodes[0].url("pymysql")) as db:
        db.migrate(Base.metadata)
        db.run(lambda tx: tx.execute(text("DELETE FROM failover_saved")))
    galera_cluster.wait_until_synced()
    yield galera_cluster
    galera_cluster.heal()


def _count_in(cluster: Galera, load: Load) -> None:
    cluster.heal()
    nothing_doubled_or_lost(load, cluster.nodes[0])


@pytest.mark.parametrize(
    ("face", "harm"),
    [
        ("threads", lambda cluster: cluster.nodes[0].kill()),
        ("tasks", lambda cluster: cluster.nodes[0].stop()),
        ("tasks", lambda cluster: cluster.isolate(0)),
    ],
    ids=["kill", "stop", "isolate"],
)
def test_cluster_that_loses_its_writer_loses_nothing(
    cluster: Galera, face: str, harm: Callable[[Galera], object]
) -> None:
    """Killed, stopped or cut off: every operation ends well within 15 s, once, and the next read sees what was acknowledged."""
    driver = FACES["mariadb", face]
    with Load(cluster.urls(driver), face, callers=12, settings=IN_A_CLUSTER) as load:
        harm(cluster)
        load.goes_on_after_a_move()
    load.all_fine()
    assert load.events(FailoverEnded)[0].moved
    _count_in(cluster, load)
