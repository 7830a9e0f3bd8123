"""Whole drills of a few seconds: the difference between the subjects, killed clients, every flavour through the proxy.

Real processes, sockets and servers, so real time. What is asserted is what was saved and what was said, never how fast.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, inspect

from holdfast.drills.history import Answer, History
from holdfast.drills.run import DrillResult, Progress, run
from holdfast.drills.settings import DrillSettings
from holdfast.drills.verdict import Validity
from holdfast.errors import ConfigurationError
from tests.drills import saving_app

SPEED = {"recovery-time", "amplification", "leaks"}
"""Checkers whose answer depends on how busy the machine is."""


def drill(tmp_path: Path, **settings: Any) -> DrillResult:
    given = {"seconds": 3.0, "rate": 60.0, "share": 0.3, "seed": 7, "output": tmp_path / "drill", **settings}
    return run(DrillSettings(**given))


def answers(result: DrillResult) -> dict[str, Validity]:
    return {verdict.checker: verdict.valid for verdict in result.verdicts}


def assert_holds(result: DrillResult) -> None:
    wrong = [
        verdict for verdict in result.verdicts if verdict.valid is Validity.INVALID and verdict.checker not in SPEED
    ]
    assert wrong == []
    found = answers(result)
    for checker in ("no-lost-ack", "no-double-apply", "fail-means-absent", "no-phantom"):
        assert found[checker] is Validity.VALID
    assert result.summary["ambiguous"] >= 5
    assert result.summary["ok"] > 100


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DrillResult]:
    """The same drill of each subject, run once."""
    return functools.cache(lambda subject: drill(tmp_path_factory.mktemp(subject), workload="set", subject=subject))


@pytest.mark.parametrize("subject", ["holdfast", "holdfast-unkeyed", "holdfast-threads"])
def test_holdfast_holds(held: Callable[[str], DrillResult], subject: str) -> None:
    """Under faults around every third COMMIT nothing is lost, doubled or denied."""
    assert_holds(held(subject))


def test_the_arrivals_follow_from_the_seed(held: Callable[[str], DrillResult]) -> None:
    """Two drills with the same seed ask for the same operations in the same order, whoever is asked."""
    asked: dict[tuple[str, str], list[str]] = {}
    for subject in ("holdfast", "holdfast-threads"):
        for operation in History.load(held(subject).history_path).operations:
            asked.setdefault((subject, operation.process), []).append(f"{operation.name} {json.dumps(operation.value)}")
    for client in ("w1", "w2"):
        one, other = asked["holdfast", client], asked["holdfast-threads", client]
        shorter = min(len(one), len(other))
        assert shorter > 100
        assert one[:shorter] == other[:shorter]


@pytest.mark.parametrize(("subject", "checker"), [("plain", "fail-means-absent"), ("tenacity", "no-double-apply")])
def test_the_drill_shows_what_the_others_do(tmp_path: Path, subject: str, checker: str) -> None:
    """The same drill finds saves that were said to have failed, and saves that are there twice."""
    result = drill(tmp_path, workload="set", subject=subject, workers=1)
    assert answers(result)[checker] is Validity.INVALID
    assert result.validity is Validity.INVALID


def test_a_killed_client_is_succeeded(tmp_path: Path) -> None:
    """A client dies in the middle of an operation; its successor asks again under the same key, and it is there once."""
    result = drill(tmp_path, workload="set", faults=("commit", "kill-client"), seconds=6.0, every=3.0)
    assert_holds(result)
    history = History.load(result.history_path)
    killed = [operation for operation in history.operations if operation.killed]
    assert killed
    for operation in killed:
        again = [other for other in history.operations if other.key == operation.key and other is not operation]
        assert [other.answer for other in again] == [Answer.OK]
    disturbed = {str(line.connection).partition("-")[0] for line in history.wire}
    assert {"w1", "w2", "w3"} <= disturbed  # the third succeeded the first, and is disturbed as that was
    final = history.final("set")
    assert final is not None
    times = Counter(final.value["ids"])
    assert {times[operation.value["id"]] for operation in killed} == {1}


def test_a_client_that_is_told_to_go_leaves_nothing_open(tmp_path: Path) -> None:
    """SIGTERM under load, as in a deployment: what was begun is ended, nothing fails, and a successor goes on."""
    result = drill(tmp_path, workload="set", faults=("stop-client",), seconds=3.0, every=3.0)
    history = History.load(result.history_path)
    assert {operation.process for operation in history.operations} == {"w1", "w2", "w3"}
    assert {operation.answer for operation in history.operations} == {Answer.OK}
    assert answers(result)["no-lost-ack"] is Validity.VALID


def test_a_starved_pool_serves_nobody_until_it_is_healed(tmp_path: Path) -> None:
    """Inside the clients every connection is taken: who asks then is answered after the heal, and nothing is left checked out."""
    result = drill(
        tmp_path,
        workload="set",
        faults=("pool-starvation",),
        seconds=1.5,
        every=1.5,
        rate=40,
        workers=1,
    )
    history = History.load(result.history_path)
    (fault,) = history.faults
    assert fault.end is not None
    waited = [
        operation
        for operation in history.operations
        if operation.ended and fault.start < operation.invoked < fault.end < operation.ended
    ]
    assert len(waited) > 5
    assert {operation.answer for operation in history.operations} == {Answer.OK}
    ended_with = [sample.value["checked_out"] for sample in history.samples if "checked_out" in sample.value]
    assert ended_with == [0]


def test_an_app_of_the_users_is_drilled(tmp_path: Path) -> None:
    """The user's own functions are asked to save, by every client and again under the same key."""
    result = drill(
        tmp_path,
        workload="app",
        subject="app",
        app=f"{saving_app.__name__}:Careful",
        faults=("kill-client",),
        every=1.5,
    )
    found = answers(result)
    assert (found["no-lost-ack"], found["no-double-apply"], found["replay-equality"]) == (Validity.VALID,) * 3


def test_the_history_says_what_was_done(tmp_path: Path) -> None:
    """Phases in their order, the settings without a URL, a final state, and progress on the way."""
    told: list[Progress] = []
    settings = DrillSettings(seconds=2.0, rate=40.0, seed=11, workers=1, output=tmp_path / "drill")
    result = run(settings, told.append)
    history = History.load(result.history_path)
    assert [phase.name for phase in history.phases] == ["baseline", "faults", "healed", "final"]
    assert history.meta["seed"] == 11
    assert history.meta["flavour"] == "sqlite"
    assert history.meta["durable"] is True
    assert history.meta["server_settings"]["journal_mode"] == "wal"
    assert {"holdfast", "python", "sqlalchemy", "driver", "server"} <= history.meta["versions"].keys()
    assert history.meta["versions"]["driver"].startswith("aiosqlite ")
    assert [fault.name for fault in history.faults] == ["commit"]
    assert history.last_heal is not None
    assert history.final("bank") is not None
    assert told
    assert told[-1].ok > 0
    assert all(
        operation.deadline is not None and operation.intended <= operation.invoked for operation in history.operations
    )


def test_a_folder_with_a_history_is_left_alone(tmp_path: Path) -> None:
    """A second drill into the same folder is refused before anything starts."""
    (tmp_path / "drill").mkdir()
    (tmp_path / "drill" / "w1.jsonl").write_text("")
    with pytest.raises(ConfigurationError, match="holds a history already"):
        drill(tmp_path)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"faults": ("earthquake",)}, "unknown fault"),
        ({"faults": ("blackhole",)}, "network connection"),
        ({"faults": ("dns-failure",)}, "network connection"),
        (
            {
                "subject": "app",
                "workload": "app",
                "app": f"{saving_app.__name__}:Careful",
                "faults": ("pool-starvation",),
            },
            "opens its own",
        ),
        (
            {"server": "postgresql", "subject": "holdfast-threads", "faults": ("dns-failure",)},
            "psycopg has the operating system look names up",
        ),
        ({"subject": "http", "workload": "http"}, "needs an address"),
        ({"subject": "http", "workload": "http", "app": "http://192.0.2.1:80"}, "--may-break"),
        ({"database": "mysql://app@192.0.2.1/shop"}, "--may-break"),
        ({"subject": "app", "workload": "app", "app": f"{saving_app.__name__}:Careful"}, "cannot disturb"),
    ],
)
def test_what_cannot_be_drilled_is_refused(tmp_path: Path, settings: dict[str, Any], text: str) -> None:
    """The error says what is wrong and names the cure; nothing is left running."""
    with pytest.raises(ConfigurationError, match=text):
        drill(tmp_path, **settings)
    assert [child for child in psutil.Process().children() if "holdfast.drills.worker" in child.cmdline()] == []


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str)
def test_a_drill_that_is_stopped_cleans_up(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    """Ctrl-C and both signals end every client, remove the drill's tables from a given database, and say where the history is."""
    url = f"sqlite:///{tmp_path / 'given.db'}"
    output = tmp_path / "drill"
    command = [sys.executable, "-m", "holdfast", "drill", "--database", url, "--seconds", "9", "--output", str(output)]
    command += ["--workers", "1"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    giving_up = threading.Timer(120, process.kill)
    giving_up.start()
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if ": faults, " in line:
                break
        clients = psutil.Process(process.pid).children()
        assert len(clients) == 1
        process.send_signal(sent)
        said = process.stderr.read()
        assert process.wait() == code
    finally:
        giving_up.cancel()
        process.kill()
        process.stderr.close()
    assert f"What happened so far: {output / 'bank' / 'holdfast'}" in said
    assert "Traceback" not in said
    assert psutil.wait_procs(clients, timeout=30)[1] == []
    engine = create_engine(url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


# -- every flavour, through the proxy --------------------------------------------------------------------------------------


@pytest.mark.servers
@pytest.mark.parametrize("workload", ["bank"])
@pytest.mark.parametrize("flavour", ["mariadb", "postgresql", "mysql"])
def test_short_drill(tmp_path: Path, request: pytest.FixtureRequest, flavour: str, workload: str) -> None:
    """COMMITs are reset before and after the server carries them out; every one is settled, and the state adds up."""
    server = request.getfixturevalue(f"{flavour}_server")
    driver = "psycopg" if flavour == "postgresql" else "pymysql"
    result = drill(
        tmp_path,
        database=server.url(driver),
        workload=workload,
        subject="holdfast",
        seconds=6.0,
        rate=50.0,
        deadline=30.0,
    )
    assert_holds(result)
    assert answers(result)["bank-total"] is Validity.VALID
    history = History.load(result.history_path)
    assert history.meta["flavour"] == flavour
    assert not any("app-password" in path.read_text() for path in result.history_path.iterdir())
    assert {name for name in _tables(server.url(driver)) if name.startswith("holdfast_drill")} == set()


@pytest.mark.servers
def test_a_standby_takes_over(tmp_path: Path) -> None:
    """The primary is killed for good, COMMITs are cut, and with the standby in its place everything goes on and adds up."""
    faults = ("commit", "promote-standby")
    result = drill(
        tmp_path, server="postgresql-pair", workload="set", faults=faults, seconds=6.0, every=6.0, deadline=30.0
    )
    assert_holds(result)
    assert result.summary["fail"] == result.summary["info"] == 0
    (promoted,) = (fault for fault in History.load(result.history_path).faults if fault.name == "promote-standby")
    assert (promoted.value["from"], promoted.value["to"]) == ("n1", "n2")


@pytest.mark.servers
@pytest.mark.parametrize("flavour", ["mariadb", "postgresql"])
def test_somebody_else_in_a_given_database_is_no_matter(
    tmp_path: Path, request: pytest.FixtureRequest, flavour: str
) -> None:
    """A session that was there before the drill is neither waited for nor a leak, also with a transaction open."""
    url = request.getfixturevalue(f"{flavour}_server").url("psycopg" if flavour == "postgresql" else "pymysql")
    engine = create_engine(url)
    with engine.connect() as foreign:
        foreign.exec_driver_sql("SELECT 1")
        result = drill(tmp_path, database=url, faults=(), seconds=3.0, rate=20.0, connections=2)
        history = History.load(result.history_path)
        most = max(sample.value.get("server_connections", 0) for sample in history.samples)
        assert 0 < most <= 2 + 2 * 2
        assert answers(result)["leaks"] is Validity.VALID
    engine.dispose()


def _tables(url: str) -> list[str]:
    engine = create_engine(url)
    try:
        return inspect(engine).get_table_names()
    finally:
        engine.dispose()


@pytest.mark.servers
def test_a_lost_name_is_waited_for(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The server's name leads nowhere while connections get lost: operations wait for it, and every one is done in the end."""
    url = request.getfixturevalue("mariadb_server").url("pymysql")
    result = drill(tmp_path, database=url, workload="set", faults=("dns-failure",), seconds=2.0, every=2.0, workers=1)
    history = History.load(result.history_path)
    (fault,) = history.faults
    assert fault.value["host"] == "localhost"
    assert {operation.answer for operation in history.operations} == {Answer.OK}
    assert fault.end is not None
    waited = [op for op in history.operations if op.ended and fault.start < op.invoked < fault.end < op.ended]
    assert waited != []
    assert answers(result)["no-double-apply"] is Validity.VALID
