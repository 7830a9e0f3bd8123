"""`python -m tests.ledger.soak`: many requests to a process of the ledger, whose memory and descriptors are watched.

The mix: reads, users, transfers between hot accounts, the same key again, and what is refused (401, 404, 409, 422). On a SQLite
file, or on DATABASE_URL. Ends with 1 if an answer was not the one expected, a save was lost, doubled, or denied and
applied all the same, the books do not balance, or memory or descriptors grew from the first fifth to the end by more than is
allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.report import write_section
from examples.ledger.demo.database import database
from examples.ledger.demo.truth import Applied, count
from holdfast.ext.sqlalchemy import open_endpoint
from tests.ledger.conftest import bearer
from tests.ledger.served import SETTINGS, serve
from tests.servers.http_load import Answer, Connection

__all__ = ["GROWTH_MAX", "Soak", "main", "soak"]

CLIENTS = 16
ACCOUNTS = 20
SAMPLES = 50
TAKEN = "taken"
GROWTH_MAX = 16 * 1_048_576
"""Bytes that the process may grow by, from a fifth of the requests to the end: caches have limits, and are full by then."""

PUT_OFF = (503, 504)
PUT_OFF_MAX = 0.002
"""The share of requests that may be told "not now": writers of a SQLite file poll for its lock, and now and then one starves."""

WHO = "".join(f"{name}: {value}\r\n" for name, value in bearer(SETTINGS).items())
UNLIMITED = {"HOLDFAST_RATE_PER_S": "100000", "HOLDFAST_TENANT_RATE_PER_S": "100000"}


@dataclass
class Sample:
    """The process at one moment."""

    requests: int
    seconds: float
    rss: int
    descriptors: int
    threads: int


@dataclass
class Soak:
    """What came of it.

    Attributes:
        answers: how many there were, by what was asked and the status.
        wrong: those that were not as expected, a hundred at most.
        keys: of all saves that were acknowledged.
        denied: of those that were refused, with the word that nothing was applied.
        samples: the process, about fifty times.
        applied: what is in the database at the end.
        seconds: how long the requests took altogether.
    """

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    applied: Applied | None = None
    seconds: float = 0.0

    @property
    def settled(self) -> list[Sample]:
        """The samples after the first fifth."""
        return self.samples[len(self.samples) // 5 :]

    @property
    def growth(self) -> int:
        """Bytes by which the last settled samples exceed the first ones."""
        found = [sample.rss for sample in self.settled]
        few = max(1, len(found) // 8)
        return sum(found[-few:]) // few - sum(found[:few]) // few

    def complaints(self) -> list[str]:
        """What is not as it should be."""
        found = list(self.wrong)
        if self.growth > GROWTH_MAX:
            found.append(f"memory grew by {self.growth / 1e6:.1f} MB")
        descriptors = [sample.descriptors for sample in self.settled]
        if max(descriptors) > descriptors[0] + CLIENTS:
            found.append(f"descriptors grew from {descriptors[0]} to {max(descriptors)}")
        assert self.applied is not None
        if not self.applied.balanced:
            found.append("the books do not balance")
        put_off = sum(number for (_, status), number in self.answers.items() if status in PUT_OFF)
        if put_off > PUT_OFF_MAX * self.answers.total():
            found.append(f"{put_off} requests were put off")
        found += [f"{key} was denied, and applied" for key in self.denied if self.applied.times[key]]
        found += [
            f"{key} was applied {self.applied.times[key]} times" for key in self.keys if self.applied.times[key] != 1
        ]
        return found


class _Client:
    """One keep-alive connection, and what it asks for."""

    def __init__(self, result: Soak, draw: random.Random, name: str) -> None:
        self._result = result
        self._draw = draw
        self._name = name
        self._number = 0
        self._last: tuple[str, dict[str, object], str, bytes] | None = None
        self._kinds: list[tuple[int, Callable[[Connection], Awaitable[None]]]] = [
            (40, self.read),
            (15, self.add_user),
            (25, self.transfer),
            (10, self.again),
            (10, self.refused),
        ]

    async def run(self, port: int, left: Callable[[], bool]) -> None:
        """Ask until there is nothing left to ask."""
        connection = await Connection.open(port)
        weights = [weight for weight, _ in self._kinds]
        while left():
            _, ask = self._draw.choices(self._kinds, weights)[0]
            try:
                await ask(connection)
            except (OSError, EOFError) as error:
                self._complain(f"{type(error).__name__} in {ask.__name__}")
                connection = await Connection.open(port)
        await connection.close()

    async def read(self, connection: Connection) -> None:
        """An account, its history, or some users."""
        account = self._draw.randint(1, ACCOUNTS)
        path = self._draw.choice([f"accounts/{account}", f"accounts/{account}/history?limit=5", "users?limit=5"])
        self._expect("read", await connection.ask(f"/api/v1/{path}", headers=WHO), 200)

    async def add_user(self, connection: Connection) -> None:
        """Somebody new."""
        key = self._key()
        await self._save(connection, "users", {"username": key, "name": "Ada", "age": 36}, key)

    async def transfer(self, connection: Connection) -> None:
        """Between two accounts that many want."""
        key = self._key()
        source, target = self._draw.sample(range(1, ACCOUNTS + 1), 2)
        order = {"source_id": source, "target_id": target, "amount": "0.01", "reference": key}
        await self._save(connection, "transfers", order, key)

    async def again(self, connection: Connection) -> None:
        """The last save, by the same key."""
        if self._last is not None:
            path, body, key, content = self._last
            answer = await self._post(connection, path, body, key)
            self._expect("again", answer, 201)
            if answer.status == 201 and answer.body != content:
                self._complain(f"the repetition of {key} was answered otherwise")

    async def refused(self, connection: Connection) -> None:
        """Something that is not granted."""
        kind = self._draw.randrange(5)
        if kind == 0:
            self._expect("nobody", await connection.ask("/api/v1/users"), 401)
        elif kind == 1:
            self._expect("missing", await connection.ask("/api/v1/accounts/999999", headers=WHO), 404)
        elif kind == 2:
            self._expect("invalid", await self._post(connection, "users", {"username": "?"}, self._key()), 422)
        elif kind == 3:
            taken = {"username": TAKEN, "name": "Ada", "age": 36}
            self._expect("taken", await self._post(connection, "users", taken, self._key()), 409)
        elif self._last is not None:
            path, _, key, _ = self._last
            self._expect("reused", await self._post(connection, path, {"another": "body"}, key), 422)

    async def _save(self, connection: Connection, path: str, body: dict[str, object], key: str) -> None:
        answer = await self._post(connection, path, body, key)
        self._expect(path, answer, 201)
        if answer.status == 201:
            self._result.keys.append(key)
            self._last = path, body, key, answer.body
        elif b'"not_committed"' in answer.body:
            self._result.denied.append(key)

    async def _post(self, connection: Connection, path: str, body: dict[str, object], key: str) -> Answer:
        headers = f'{WHO}content-type: application/json\r\nidempotency-key: "{key}"\r\n'
        return await connection.ask(f"/api/v1/{path}", "POST", headers=headers, body=json.dumps(body).encode())

    def _key(self) -> str:
        self._number += 1
        return f"{self._name}-{self._number}"

    def _expect(self, kind: str, answer: Answer, status: int) -> None:
        self._result.answers[kind, answer.status] += 1
        if answer.status != status and answer.status not in PUT_OFF:
            self._complain(f"{kind}: {answer.status} {answer.body[:200].decode(errors='replace')}")

    def _complain(self, text: str) -> None:
        if len(self._result.wrong) < 100:
            self._result.wrong.append(text)


async def soak(folder: Path, requests: int, seed: int, url: str | None = None, *, clients: int = CLIENTS) -> Soak:
    """Send `requests` to a process of the ledger, and watch it."""
    result = Soak()
    async with AsyncExitStack() as stack:
        place = f"sqlite:///{folder / 'soaked.db'}" if url is None else await stack.enter_async_context(database(url))
        served = await stack.enter_async_context(serve(folder, place, UNLIMITED))
        assert await served.open_accounts(*["1000000"] * ACCOUNTS) == list(range(1, ACCOUNTS + 1))
        await served.post("users", {"username": TAKEN, "name": "Ada", "age": 36}, TAKEN)
        watched = psutil.Process(served.process.pid)
        began, sent, every = time.monotonic(), 0, max(1, requests // SAMPLES)

        def left() -> bool:
            nonlocal sent
            if sent % every == 0:
                memory, seconds = watched.memory_info().rss, time.monotonic() - began
                result.samples.append(Sample(sent, seconds, memory, watched.num_fds(), watched.num_threads()))
            sent += 1
            return sent <= requests

        asking = [_Client(result, random.Random(f"{seed} {number}"), f"c{number}") for number in range(clients)]
        await asyncio.gather(*(client.run(served.port, left) for client in asking))
        result.seconds = time.monotonic() - began
        served.end()
        status = await served.ended()
        result.wrong += [line for line in served.said().splitlines() if '"level":"ERROR"' in line]
        if status:
            result.wrong.append(f"it ended with {status}: {served.said()[-2000:]}")
        engine = open_endpoint(place, asynchronous=True).async_engine
        assert engine is not None
        async with engine.connect() as connection:
            result.applied = await count(connection)
        await engine.dispose()
    return result


def _table(result: Soak) -> str:
    lines = [f"{'requests':>9} {'seconds':>8} {'MB':>7} {'fds':>4} {'threads':>7}"]
    lines += [
        f"{sample.requests:>9} {sample.seconds:>8.0f} {sample.rss / 1e6:>7.1f} {sample.descriptors:>4} {sample.threads:>7}"
        for sample in result.samples[:: max(1, len(result.samples) // 10)]
    ]
    total = sum(result.answers.values())
    lines.append(
        f"{total} answers in {result.seconds:.0f} s, {total / result.seconds:.0f} a second; {len(result.keys)} saves"
    )
    lines.append(", ".join(f"{kind} {status}: {number}" for (kind, status), number in sorted(result.answers.items())))
    lines.append(f"memory from the first fifth to the end: {result.growth / 1e6:+.1f} MB")
    return "\n".join(lines)


def main() -> int:
    """Run it; 1 if something is not as it should be."""
    parser = argparse.ArgumentParser("python -m tests.ledger.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is asked (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="put what came of it into benchmarks/RESULTS.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(soak(Path(folder), given.requests, given.seed, os.environ.get("DATABASE_URL")))
    complaints = result.complaints()
    said = "\n".join([_table(result), *complaints[:20]])
    sys.stdout.write(f"{said}\n")
    if given.write:
        write_section("A soak of the reference service", "make soak", f"```text\n{said}\n```")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
