"""What a connection through the fault proxy carries: small statements, direct and through it, MariaDB and PostgreSQL.

    python -m benchmarks.faultproxy [--write] [--seconds 3] [--rounds 5]

The clients are processes of their own, each with some connections in threads; so is the proxy, as in a drill. One statement is
`SELECT 1`. Direct and proxied take turns, so a change of the machine's speed hits both alike. "watched" has a fault armed for a
statement that never comes: every statement is looked at. "told" hands every event to a function. On a machine that does other
things as well the rates say little; what a statement costs the proxy in processor time still says what one core could carry.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from time import perf_counter, process_time
from typing import Any, NamedTuple

from sqlalchemy.engine import make_url

from benchmarks.report import table, write_section
from holdfast.faultproxy import FaultProxy, Phase, ResetPeer
from holdfast.faultproxy.proxy import Wire

CLIENTS = 2
CONNECTIONS = (1, 4)
"""Of each client."""
KINDS = ("direct", "proxied", "proxied, watched", "proxied, told")
PLACES = multiprocessing.get_context("spawn")


def connect(driver: str, address: dict[str, Any]) -> Any:
    """A connection in autocommit mode."""
    if driver == "pymysql":
        import pymysql

        return pymysql.connect(autocommit=True, **address)
    import psycopg

    address = {"dbname": address["database"], **{k: v for k, v in address.items() if k != "database"}}
    return psycopg.connect(autocommit=True, **address)


def run_connections(driver: str, address: dict[str, Any], connections: int, seconds: float) -> int:
    """Send statements over each of some connections, all at once; how many."""
    counts = [0] * connections
    barrier = threading.Barrier(connections)

    def work(number: int) -> None:
        connection = connect(driver, address)
        cursor = connection.cursor()
        barrier.wait()
        until = perf_counter() + seconds
        while perf_counter() < until:
            cursor.execute("SELECT 1")
            cursor.fetchone()
            counts[number] += 1
        connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def client(pipe: Connection) -> None:
    """A process that measures when told, until it is told None."""
    while (task := pipe.recv()) is not None:
        pipe.send(run_connections(*task))


def proxy(kind: str, upstream: tuple[str, int], wire: Wire, pipe: Connection) -> None:
    """A process with a proxy; tells its port, then its processor time whenever asked, until it is told None."""
    events: list[dict[str, Any]] = []
    on_event = events.append if kind == "proxied, told" else None
    with FaultProxy(upstream, wire, on_event=on_event) as running:
        if kind == "proxied, watched":
            running.add(ResetPeer(), Phase.ANSWERED, on=lambda statement: statement.raw.startswith(b"never"))
        pipe.send(running.port)
        while pipe.recv() is not None:
            pipe.send((process_time(), running.counters().statements))


@contextmanager
def place(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """A process that runs `target` with `arguments` and one end of a pipe; the other end. Told None at the end."""
    here, there = PLACES.Pipe()
    process = PLACES.Process(target=target, args=(*arguments, there))
    process.start()
    try:
        yield here
    finally:
        here.send(None)
        process.join()


class Way(NamedTuple):
    """A way to the server: the port, and the process on the way, if there is one."""

    port: int
    process: Connection | None

    def spent(self) -> tuple[float, int]:
        """(seconds of processor time, statements) of the proxy up to now."""
        if self.process is None:
            return 0.0, 0
        self.process.send("spent?")
        spent: tuple[float, int] = self.process.recv()
        return spent


class Measured(NamedTuple):
    """One measurement: statements a second of all clients together, and what a statement cost the proxy."""

    rate: float
    proxy_us: float


def measure(clients: list[Connection], way: Way, task: tuple[str, dict[str, Any], int, float]) -> Measured:
    """Let every client do `task` at once."""
    seconds_before, statements_before = way.spent()
    for each in clients:
        each.send(task)
    total = sum(each.recv() for each in clients)
    seconds, statements = way.spent()
    cost_us = (seconds - seconds_before) / max(1, statements - statements_before) * 1e6
    return Measured(total / task[3], cost_us)


def bench(driver: str, url: str, wire: Wire, seconds: float, rounds: int) -> list[list[str]]:
    """Rows of the table for one server."""
    parts = make_url(url)
    address = {"user": parts.username, "password": parts.password, "host": parts.host, "database": parts.database}
    upstream = (str(parts.host), int(parts.port or 0))
    found: dict[tuple[int, str], list[Measured]] = {}
    with ExitStack() as stack:
        clients = [stack.enter_context(place(client)) for _ in range(CLIENTS)]
        ways = {"direct": Way(upstream[1], None)}
        for kind in KINDS[1:]:
            process = stack.enter_context(place(proxy, kind, upstream, wire))
            ways[kind] = Way(process.recv(), process)
        for _ in range(rounds):
            for connections in CONNECTIONS:
                for kind, way in ways.items():
                    task = (driver, {**address, "port": way.port}, connections, seconds)
                    found.setdefault((connections, kind), []).append(measure(clients, way, task))
    return [row(driver, connections, kind, found) for connections in CONNECTIONS for kind in KINDS]


def row(driver: str, connections: int, kind: str, found: dict[tuple[int, str], list[Measured]]) -> list[str]:
    """A row of the table."""
    own, direct = found[connections, kind], found[connections, "direct"]
    share = statistics.median(one.rate / plain.rate for one, plain in zip(own, direct, strict=True))
    return [
        driver,
        str(CLIENTS * connections),
        kind,
        f"{statistics.median(one.rate for one in own):,.0f}",
        f"{max(one.rate for one in own):,.0f}",
        f"{share:.2f}",
        f"{statistics.median(one.proxy_us for one in own):.0f}" if kind != "direct" else "",
    ]


HEADINGS = ["driver", "connections", "way", "statements/s", "best round", "against direct", "proxy CPU, µs/statement"]


def main() -> None:
    """Start the servers, measure, print; with --write also into RESULTS.md."""
    from holdfast.drills.servers import mariadb, postgresql

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default 3)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind (default 5)")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    rows = []
    servers: list[tuple[Any, str, Wire]] = [(mariadb, "pymysql", "mysql"), (postgresql, "psycopg", "postgresql")]
    for module, driver, wire in servers:
        server = module.start()
        try:
            rows += bench(driver, server.url(driver), wire, arguments.seconds, arguments.rounds)
        finally:
            server.close()
    print(table(HEADINGS, rows), flush=True)
    if arguments.write:
        write_section("The fault proxy", "python -m benchmarks.faultproxy", table(HEADINGS, rows))


if __name__ == "__main__":
    main()
