"""What a connection through the fault proxy carries: small statements, direct and through it, MariaDB and PostgreSQL.

    python -m benchmarks.faultproxy [--write] [--seconds 3] [--rounds 5]

The clients are processes of their own, each with some connections in threads; so is the proxy, as in a drill. One statement is
`SELECT 1`. Direct and proxied take turns, so a change of the machine's speed hits both alike. "watched" has a fault armed for a
statement that never comes: every statement is looked at. "told" hands every event to a function.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import threading
from contextlib import ExitStack
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

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


def client(
    driver: str, address: dict[str, Any], connections: int, seconds: float, barrier: Any, pipe: Connection
) -> None:
    """A process that sends statements over each of its connections; tells how many."""
    counts = [0] * connections

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
    pipe.send(sum(counts))


def proxy(kind: str, upstream: tuple[str, int], wire: Wire, pipe: Connection) -> None:
    """A process with a proxy; tells its port, and ends when told."""
    events: list[dict[str, Any]] = []
    on_event = events.append if kind == "proxied, told" else None
    with FaultProxy(upstream, wire, on_event=on_event) as running:
        if kind == "proxied, watched":
            running.add(ResetPeer(), Phase.ANSWERED, on=lambda statement: statement.raw.startswith(b"never"))
        pipe.send(running.port)
        pipe.recv()


def measure(driver: str, address: dict[str, Any], connections: int, seconds: float) -> float:
    """Statements a second of all clients together."""
    barrier = PLACES.Barrier(CLIENTS * connections)
    pipes = []
    processes = []
    for _ in range(CLIENTS):
        here, there = PLACES.Pipe()
        processes.append(PLACES.Process(target=client, args=(driver, address, connections, seconds, barrier, there)))
        pipes.append(here)
    for process in processes:
        process.start()
    total = sum(pipe.recv() for pipe in pipes)
    for process in processes:
        process.join()
    return float(total) / seconds


def bench(driver: str, url: str, wire: Wire, seconds: float, rounds: int) -> list[list[str]]:
    """Rows of the table for one server."""
    parts = make_url(url)
    address = {"user": parts.username, "password": parts.password, "host": parts.host, "database": parts.database}
    upstream = (str(parts.host), int(parts.port or 0))
    rates: dict[tuple[int, str], list[float]] = {}
    with ExitStack() as stack:
        ports = {"direct": upstream[1]}
        for kind in KINDS[1:]:
            here, there = PLACES.Pipe()
            process = PLACES.Process(target=proxy, args=(kind, upstream, wire, there))
            process.start()
            stack.callback(process.join)
            stack.callback(here.send, None)
            ports[kind] = here.recv()
        for _ in range(rounds):
            for connections in CONNECTIONS:
                for kind in KINDS:
                    rate = measure(driver, {**address, "port": ports[kind]}, connections, seconds)
                    rates.setdefault((connections, kind), []).append(rate)
    rows = []
    for (connections, kind), found in sorted(rates.items(), key=lambda item: (item[0][0], KINDS.index(item[0][1]))):
        direct = rates[connections, "direct"]
        share = statistics.median(own / plain for own, plain in zip(found, direct, strict=True))
        rows.append(
            [
                driver,
                str(CLIENTS * connections),
                kind,
                f"{statistics.median(found):,.0f}",
                f"{max(found):,.0f}",
                f"{share:.2f}",
            ]
        )
    return rows


HEADINGS = ["driver", "connections", "way", "statements/s", "best round", "against direct"]


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
