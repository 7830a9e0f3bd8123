"""Where scenes play: servers that are started once, tables, and workers that write down what they ask and are told."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from holdfast.clock import seeded_random
from holdfast.drills.history import NS, History, HistoryWriter
from holdfast.drills.servers import Server, mariadb
from holdfast.drills.servers.galera import Galera
from holdfast.drills.servers.galera import start as start_galera
from holdfast.drills.subjects.protected import reply_to
from holdfast.drills.workloads import Call, TableWorkload
from holdfast.drills.workloads.workload import Identity
from holdfast.ext.sqlalchemy import Database
from holdfast.faultproxy import FaultProxy

__all__ = ["Stage", "asked", "play", "through"]

Perform = Callable[[Call], Any]


class Stage:
    """Servers and files for the scenes of one run; a context manager.

    Attributes:
        seed: of every draw.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-mutants-"))
        self._histories = 0
        self._mariadb: Server | None = None
        self._galera: Galera | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._mariadb, self._galera):
            if server is not None:
                server.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def mariadb(self) -> Server:
        """A running MariaDB server."""
        if self._mariadb is None:
            self._mariadb = mariadb.start()
        self._mariadb.heal()
        return self._mariadb

    @property
    def galera(self) -> Galera:
        """A running cluster of three."""
        if self._galera is None:
            self._galera = start_galera()
        return self._galera

    def sqlite(self) -> Path:
        """The path of a new SQLite file."""
        return self._folder / f"{self._histories}.sqlite"

    @contextmanager
    def recording(self, told: list[History]) -> Iterator[HistoryWriter]:
        """Write a history in the block; it stands in `told` afterwards."""
        self._histories += 1
        path = self._folder / f"{self._histories}.jsonl"
        with HistoryWriter(path, "runner") as writer:
            yield writer
        told.append(History.load(path))

    @contextmanager
    def tables(self, url: str, workload: TableWorkload) -> Iterator[Callable[[], dict[str, Any]]]:
        """Fresh tables of `workload`, with nobody's key rows; yields what reads their state, and removes them in the end."""
        engine = create_engine(url, poolclass=NullPool)  # the server may restart in between
        try:
            with engine.begin() as connection:
                connection.execute(text("DROP TABLE IF EXISTS holdfast_operations"))
            workload.metadata.drop_all(engine)
            workload.metadata.create_all(engine)
            with Session(engine) as session, session.begin():
                workload.set_up(session)

            def final() -> dict[str, Any]:
                with Session(engine) as session:
                    return workload.final(session)

            yield final
        finally:
            engine.dispose()


def through(proxy: FaultProxy, server: Server) -> str:
    """The server's URL by way of the proxy."""
    return server.url("pymysql").replace(f"@{server.host}:{server.port}/", f"@{proxy.host}:{proxy.port}/")


def asked(db: Database, workload: TableWorkload, *, keyed: bool = True) -> Perform:
    """What does a call of `workload` in `db`, under its key or without one."""

    @db.transaction(name="mutant")
    def operation(session: Session, f: str, v: dict[str, Any]) -> dict[str, Any]:
        return workload.perform(session, Call(f, v, ""))

    def perform(call: Call) -> Any:
        if call.reads:
            return db.read(workload.perform, call)
        return operation.keyed(call.key)(call.f, dict(call.v)) if keyed else operation(call.f, dict(call.v))

    return perform


def play(
    writer: HistoryWriter,
    workload: TableWorkload,
    perform: Perform,
    *,
    seed: int,
    workers: int = 4,
    each: int = 30,
    deadline_s: float = 10.0,
) -> None:
    """Have workers ask `each` operations one after the other, and write down what they are told."""

    def work(number: int) -> None:
        random = seeded_random(seed * 1000 + number)
        for index in range(each):
            call = workload.next(random, Identity(number, index))
            deadline = writer.now() + round(deadline_s * NS)
            opened = writer.invoke(call.f, call.v, key=call.key, deadline=deadline, process=f"w{number}")
            try:
                value = perform(call)
            except Exception as error:
                reply = reply_to(error)
                {"fail": opened.fail, "info": opened.info}[reply.answer.value](**reply.how())
            else:
                opened.ok(value)

    threads = [threading.Thread(target=work, args=(number,), name=f"mutant-{number}") for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
