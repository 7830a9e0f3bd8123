"""The demo: what it sends, how it counts, what it says, and that it leaves nothing behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from examples.ledger.demo.client import Answer
from examples.ledger.demo.table import summary, table
from examples.ledger.demo.traffic import Request, fate, requests
from examples.ledger.demo.truth import Applied, Result, compare
from holdfast.drills.servers import Server
from holdfast.ext.sqlalchemy.faults import Fault
from tests.ledger.conftest import Running

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment without a database, whose temporary files can be watched."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("DATABASE_URL")}
    return {**kept, "TMPDIR": str(tmp_path), "COLUMNS": "100", "NO_COLOR": "1"}


def command(*arguments: str) -> list[str]:
    """The demo's command line."""
    return [sys.executable, "-m", "examples.ledger.demo", *arguments]


# -- the whole ------------------------------------------------------------------------------------------------------------


def test_small_demo_holds(environment: dict[str, str], tmp_path: Path) -> None:
    """Holdfast loses and doubles nothing, the others do badly enough to show, and no file is left."""
    done = subprocess.run(
        command("--requests", "60", "--rate", "40"),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Holdfast acknowledged every save, and made each of them exactly once." in done.stdout
    assert "Unprotected told" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("ctrl_c")
def test_demo_cleans_up_when_it_is_stopped(environment: dict[str, str], tmp_path: Path, wish: signal.Signals) -> None:
    """Ctrl-C in the middle ends the service's process and removes its files."""
    demo = subprocess.Popen(command("--requests", "600"), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        (service,) = _wait_for_children(demo)
        demo.send_signal(wish)
        said, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode == 130
    assert "Nothing is left behind." in said
    assert not service.is_running()
    assert list(tmp_path.iterdir()) == []


def _wait_for_children(demo: subprocess.Popen[str]) -> list[psutil.Process]:
    parent = psutil.Process(demo.pid)
    while demo.poll() is None:
        children = parent.children()
        if children:
            return children
    raise AssertionError("the demo ended before it started a service")


def test_demo_touches_no_table_of_somebody_else(environment: dict[str, str], mariadb_server: Server) -> None:
    """A database that has such tables already is refused politely and stays as it is."""
    database = mariadb_server.database
    mariadb_server.execute("CREATE TABLE users (id INT PRIMARY KEY)", database=database)
    before = mariadb_server.execute("SHOW TABLES", database=database)  # tests before this one may have left theirs
    try:
        url = mariadb_server.url("asyncmy")
        done = subprocess.run(
            command(), cwd=ROOT, env={**environment, "DATABASE_URL": url}, capture_output=True, text=True, check=False
        )
        after = mariadb_server.execute("SHOW TABLES", database=database)
    finally:
        mariadb_server.execute("DROP TABLE users", database=database)
    assert (done.returncode, done.stderr) == (2, "")
    assert "tables named users" in done.stdout
    assert "CREATE DATABASE" in done.stdout
    assert after == before


@pytest.mark.parametrize("arguments", [["--requests", "0"], ["--rate", "-1"], ["--share", "2"]])
def test_wrong_argument_is_refused(environment: dict[str, str], arguments: list[str]) -> None:
    """A demo that could show nothing does not start."""
    done = subprocess.run(command(*arguments), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert arguments[0] in done.stderr


# -- the parts ------------------------------------------------------------------------------------------------------------


def test_traffic_and_fates_come_from_the_seed() -> None:
    """The same seed draws the same, another draws other."""
    assert requests(1, 50, 10) == requests(1, 50, 10) != requests(2, 50, 10)
    fates = [[fate(seed, f"k{number}", 1, 0.18) for number in range(4000)] for seed in (1, 1, 2)]
    assert fates[0] == fates[1] != fates[2]
    hits = Counter(found for found in fates[0] if found)
    assert 0.15 < hits.total() / 4000 < 0.21
    assert all(0.03 < hits[kind] / 4000 < 0.06 for kind in Fault)


@pytest.fixture
def told() -> tuple[list[Request], list[Answer]]:
    """Five transfers of 10; the last two were told that they failed."""
    made = [Request(f"r{number}", 0.0, "/api/v1/transfers", {}, Decimal(10)) for number in range(5)]
    return made, [Answer(201, 0.1), Answer(201, 0.2), Answer(201, 0.3), Answer(503, 0.4), Answer(None, 1.0)]


def test_counting_sees_every_kind_of_wrong(told: tuple[list[Request], list[Answer]]) -> None:
    """Lost, doubled, denied and wrongly moved money are told apart."""
    applied = Applied(Counter({"r0": 1, "r1": 3, "r3": 1}), balanced=True)
    result = compare(*told, applied)
    assert (result.requests, result.acknowledged, result.lost, result.doubled, result.denied) == (5, 3, 1, 1, 1)
    assert result.excess == 30
    assert result.mean_s == pytest.approx(0.4)
    assert result.p99_s == 1.0


def test_counting_sees_nothing_wrong_where_nothing_is(told: tuple[list[Request], list[Answer]]) -> None:
    """What is acknowledged is there once, what is denied is not: no complaint."""
    result = compare(*told, Applied(Counter({"r0": 1, "r1": 1, "r2": 1}), balanced=True))
    assert not any((result.lost, result.doubled, result.denied, result.excess))


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE accounts SET balance = balance + 1 WHERE id = 1",
        "UPDATE accounts SET balance = balance + 1, opening_balance = opening_balance + 1; UPDATE entries SET amount = 0",
        "DELETE FROM entries WHERE id = 1",
    ],
)
async def test_books_that_do_not_balance_are_seen(ledger: Running, tampering: str) -> None:
    """A balance, an opening balance or an entry that was tampered with shows."""
    source, target = await ledger.open_accounts("10", "0")
    await ledger.post("transfers", {"source_id": source, "target_id": target, "amount": "4"}, "k")
    assert (await ledger.applied()).balanced
    async with ledger.db.engine.begin() as connection:
        for statement in tampering.split("; "):
            await connection.exec_driver_sql(statement)
    assert not (await ledger.applied()).balanced


def _result(**changes: object) -> Result:
    values: dict[str, object] = {
        "requests": 500,
        "acknowledged": 500,
        "lost": 0,
        "doubled": 0,
        "denied": 0,
        "excess": Decimal(0),
        "mean_s": 0.12,
        "p99_s": 0.3,
        "balanced": True,
    }
    return Result(**{**values, **changes})  # type: ignore[arg-type]


def test_table_and_words_say_what_was_counted() -> None:
    """Figures that are wrong stand in the table and in the sentences."""
    results = {
        "unprotected": _result(acknowledged=430, denied=20, excess=Decimal("12.50")),
        "tenacity": _result(acknowledged=490, doubled=9, lost=3, balanced=False),
        "Holdfast": _result(mean_s=0.15),
    }
    met = {way: {"attempts": 501, "hits": {"slow": 90}} for way in results}
    screen = io.StringIO()
    Console(file=screen, width=80, no_color=True).print(table(results, met))
    shown = screen.getvalue()
    for figure in ("430 of 500", "86.00%", "98.00%", "100%", "20", "9", "12.50 EUR", "NO", "1.250", "501", "90"):
        assert figure in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    words = " ".join(summary(results))
    assert "Unprotected told 70 callers that it failed; 20 of them were saved all the same." in words
    assert "9 were saved more than once; 3 that were acknowledged are not there." in words
    assert "1.250 times the unprotected mean latency, above the aim" in words
    assert "--requests 30000" in words
