"""What a protected transaction costs beside a plain one: MariaDB, the same driver, the same pool, the same work.

    python -m benchmarks.transactions [--write] [--rounds 200] [--driver pymysql asyncmy]

One transaction is a transfer: lock two rows, change both, insert two entries, COMMIT. The kinds take turns in short rounds, so a
change of the machine's speed hits all alike, and in an order that is drawn for each: what one leaves for the server to tidy up
falls to whoever comes next. What counts is the ratio within a round. The server is started for the run and flushes at every
commit, as the promise requires and as MariaDB does by default.

A key row is two more statements, whoever sends them. So that one sees what Holdfast adds to them, the same row is also written
without anything that survives a fault: by hand, as in the recipe for idempotent requests, and at the least that it can cost, by
Holdfast's own statements, which go past SQLAlchemy, the second of them with the COMMIT.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, time
from typing import Any

from sqlalchemy import Engine, Insert, Update, create_engine, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from benchmarks.report import table, write_section
from holdfast.clock import new_token
from holdfast.dialects import Flavour
from holdfast.drills.servers import mariadb
from holdfast.ext.sqlalchemy import AsyncDatabase, Database, DatabaseSettings, PoolSettings
from holdfast.ext.sqlalchemy.keyrows import OPERATIONS, KeyRows, with_operations
from holdfast.operation import OperationKey

ACCOUNTS = 512
CALLERS = (1, 16)
POOL_SIZE = 20
BASELINE = "plain SQLAlchemy"
PINGED = "plain, pool_pre_ping"
BY_HAND = "plain, key row by hand"
AT_LEAST = "plain, key row at the least"
SEED = 20261129
TTL_S = 72 * 3600


class Base(DeclarativeBase):
    """The benchmark's tables."""


class Account(Base):
    """A balance."""

    __tablename__ = "bench_accounts"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int]


class Entry(Base):
    """One half of a transfer."""

    __tablename__ = "bench_entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[int]
    amount: Mapped[int]


def transfer(tx: Session, source: int, target: int, amount: int) -> int:
    """The work of one transaction."""
    giver = tx.get_one(Account, source, with_for_update=True)
    taker = tx.get_one(Account, target, with_for_update=True)
    giver.balance -= amount
    taker.balance += amount
    tx.add_all([Entry(account=source, amount=-amount), Entry(account=target, amount=amount)])
    return giver.balance


async def transfer_async(tx: AsyncSession, source: int, target: int, amount: int) -> int:
    """As `transfer`."""
    giver = await tx.get_one(Account, source, with_for_update=True)
    taker = await tx.get_one(Account, target, with_for_update=True)
    giver.balance -= amount
    taker.balance += amount
    tx.add_all([Entry(account=source, amount=-amount), Entry(account=target, amount=amount)])
    return giver.balance


def claim(key: str) -> Insert:
    """Takes a key, as a service does that has no Holdfast."""
    now = int(time())
    row = {"scope": "by hand", "key": key, "fingerprint": "", "attempt": 0, "created": now, "expires": now + TTL_S}
    return insert(OPERATIONS).values(row)


def store(key: str, result: int) -> Update:
    """Keeps the answer for whoever asks with the same key again."""
    mine = (OPERATIONS.c.scope == "by hand", OPERATIONS.c.key == key)
    return update(OPERATIONS).where(*mine).values(result=json.dumps(result))


class KeyRowAtLeast:
    """The key row around a plain transaction, by the statements that Holdfast has for it, and nothing of Holdfast beside them.

    Args:
        engine: one of its own: COMMIT is not its own here.
    """

    def __init__(self, engine: Engine) -> None:
        self._rows = KeyRows(engine.dialect, Flavour.MARIADB)
        self._last: dict[object, tuple[OperationKey, str]] = {}
        self._do_commit = engine.dialect.do_commit
        engine.dialect.do_commit = self._commit  # type: ignore[assignment,method-assign]

    def transfer(self, session: Session, source: int, target: int) -> None:
        """In the transaction that `session` has begun."""
        connection = session.connection()
        key = OperationKey("least", new_token())
        self._rows.claim(connection, key, "", 0, TTL_S)
        result = transfer(session, source, target, 1)
        session.flush()
        self._last[connection.connection.driver_connection] = key, json.dumps(result)

    def _commit(self, connection: Any) -> None:
        last = self._last.pop(connection.driver_connection, None)
        if last is None:
            self._do_commit(connection)
        else:
            self._rows.store_and_commit(connection, *last)


def pairs(caller: int, count: int) -> list[tuple[int, int]]:
    """Disjoint accounts for each caller: what is measured is cost, not contention."""
    first = 2 * caller * 16
    return [(first + 2 * (turn % 16), first + 2 * (turn % 16) + 1) for turn in range(count)]


def run_threads(call: Callable[[int, int], object], callers: int, count: int) -> float:
    """Seconds for `callers` threads to make `count` calls each."""
    barrier = threading.Barrier(callers + 1)

    def work(caller: int) -> None:
        mine = pairs(caller, count)
        barrier.wait()
        for source, target in mine:
            call(source, target)

    with ThreadPoolExecutor(callers) as threads:
        working = [threads.submit(work, caller) for caller in range(callers)]
        barrier.wait()
        begun = perf_counter()
        for one in working:
            one.result()
        return perf_counter() - begun


async def run_tasks(call: Callable[[int, int], Awaitable[object]], callers: int, count: int) -> float:
    """Seconds for `callers` tasks to make `count` calls each."""

    async def work(caller: int) -> None:
        for source, target in pairs(caller, count):
            await call(source, target)

    begun = perf_counter()
    await asyncio.gather(*(work(caller) for caller in range(callers)))
    return perf_counter() - begun


Measure = Callable[[str, int, int], float]
"""(kind, callers, calls each) to seconds."""


def compare(measure: Measure, kinds: list[str], callers: int, rounds: int) -> list[list[str]]:
    """Rows of a table: median time a transaction, and the median of the throughput ratios within a round; the order is seeded."""
    count = max(4, 16 // callers)
    for kind in kinds:
        measure(kind, callers, count)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    orders = random.Random(SEED)
    for _ in range(rounds):
        for kind in orders.sample(kinds, len(kinds)):
            seconds[kind].append(measure(kind, callers, count))
    rows = []
    for kind in kinds:
        each_us = statistics.median(seconds[kind]) / (callers * count) * 1e6
        ratios = [plain / own for plain, own in zip(seconds[BASELINE], seconds[kind], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        rows.append(
            [kind, str(callers), f"{each_us:,.0f}", f"{statistics.median(ratios):.3f}", f"{low:.2f} to {high:.2f}"]
        )
    return rows


def prepare(url: str) -> None:
    """Fresh tables."""
    engine = create_engine(url)
    with engine.begin() as connection:
        for metadata in with_operations(Base.metadata):
            metadata.drop_all(connection)
            metadata.create_all(connection)
        connection.execute(insert(Account), [{"id": number, "balance": 1_000_000} for number in range(ACCOUNTS)])
    engine.dispose()


def settings() -> DatabaseSettings:
    """The same pool as the plain engine's."""
    return DatabaseSettings(pool=PoolSettings(size=POOL_SIZE, open_max=POOL_SIZE))


def bench_threads(url: str, rounds: int) -> list[list[str]]:
    """The synchronous database."""
    engine = create_engine(url, pool_size=POOL_SIZE, max_overflow=0)
    pinged = create_engine(url, pool_size=POOL_SIZE, max_overflow=0, pool_pre_ping=True)
    least = create_engine(url, pool_size=POOL_SIZE, max_overflow=0)
    with least.connect():  # the dialect learns what it speaks to
        row_at_least = KeyRowAtLeast(least)
    with Database(url, settings()) as db:
        operation = db.transaction(transfer)
        unprotected = operation.having(protect=False)

        def plain_on(engine: Engine) -> Callable[[int, int], object]:
            sessions = sessionmaker(engine)

            def plain(source: int, target: int) -> None:
                with sessions.begin() as session:
                    transfer(session, source, target, 1)

            return plain

        def by_hand(source: int, target: int) -> None:
            key = new_token()
            with Session(engine) as session, session.begin():
                session.execute(claim(key))
                session.execute(store(key, transfer(session, source, target, 1)))

        def at_least(source: int, target: int) -> None:
            with Session(least) as session, session.begin():
                row_at_least.transfer(session, source, target)

        kinds: dict[str, Callable[[int, int], object]] = {
            BASELINE: plain_on(engine),
            PINGED: plain_on(pinged),
            BY_HAND: by_hand,
            AT_LEAST: at_least,
            "unkeyed, unprotected": lambda source, target: unprotected(source, target, 1),
            "unkeyed, protected": lambda source, target: operation(source, target, 1),
            "keyed": lambda source, target: operation.keyed(new_token())(source, target, 1),
        }

        def measure(kind: str, callers: int, count: int) -> float:
            return run_threads(kinds[kind], callers, count)

        rows = [row for callers in CALLERS for row in compare(measure, list(kinds), callers, rounds)]
    for one in (engine, pinged, least):
        one.dispose()
    return rows


def bench_tasks(url: str, rounds: int) -> list[list[str]]:
    """The asynchronous database."""
    with asyncio.Runner() as runner:
        engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0)
        pinged = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0, pool_pre_ping=True)
        least = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0)
        runner.run(_connect(least))
        row_at_least = KeyRowAtLeast(least.sync_engine)
        db = AsyncDatabase(url, settings())
        operation = db.transaction(transfer_async)
        unprotected = operation.having(protect=False)

        def plain_on(engine: AsyncEngine) -> Callable[[int, int], Awaitable[object]]:
            sessions = async_sessionmaker(engine)

            async def plain(source: int, target: int) -> None:
                async with sessions.begin() as session:
                    await transfer_async(session, source, target, 1)

            return plain

        async def by_hand(source: int, target: int) -> None:
            key = new_token()
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(claim(key))
                await session.execute(store(key, await transfer_async(session, source, target, 1)))

        async def at_least(source: int, target: int) -> None:
            async with AsyncSession(least) as session, session.begin():
                await session.run_sync(row_at_least.transfer, source, target)

        kinds: dict[str, Callable[[int, int], Awaitable[object]]] = {
            BASELINE: plain_on(engine),
            PINGED: plain_on(pinged),
            BY_HAND: by_hand,
            AT_LEAST: at_least,
            "unkeyed, unprotected": lambda source, target: unprotected(source, target, 1),
            "unkeyed, protected": lambda source, target: operation(source, target, 1),
            "keyed": lambda source, target: operation.keyed(new_token())(source, target, 1),
        }

        def measure(kind: str, callers: int, count: int) -> float:
            return runner.run(run_tasks(kinds[kind], callers, count))

        rows = [row for callers in CALLERS for row in compare(measure, list(kinds), callers, rounds)]
        runner.run(db.close())
        for one in (engine, pinged, least):
            runner.run(one.dispose())
    return rows


async def _connect(engine: AsyncEngine) -> None:
    async with engine.connect():
        pass  # the dialect learns what it speaks to


HEADINGS = ["kind", "callers", "median µs", "throughput against plain", "middle half of rounds"]


def main() -> None:
    """Start a server, measure, print; with --write also into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="measured rounds (default 200)")
    parser.add_argument("--driver", nargs="*", default=["pymysql", "asyncmy"], help="drivers to measure")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    server: Any = mariadb.start()
    # The tests' servers flush once a second; the promise rests on a flush at every commit, MariaDB's default.
    server.set_global("innodb_flush_log_at_trx_commit", 1)
    server.set_global("max_connections", 4 * POOL_SIZE)
    try:
        parts = []
        for driver in arguments.driver:
            prepare(server.url("pymysql"))
            bench = bench_tasks if driver in {"asyncmy", "aiomysql"} else bench_threads
            rows = bench(server.url(driver), arguments.rounds)
            parts.append(
                f"MariaDB {mariadb.version()}, {driver}, {arguments.rounds} rounds:\n\n{table(HEADINGS, rows)}"
            )
            print(parts[-1], flush=True)
    finally:
        server.close()
    if arguments.write:
        write_section("Transactions against plain SQLAlchemy", "python -m benchmarks.transactions", "\n\n".join(parts))


if __name__ == "__main__":
    main()
