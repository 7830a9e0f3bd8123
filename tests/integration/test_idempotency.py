"""Idempotency-Keys on real servers, and in processes that are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.keyed_request import KeyRules
from holdfast.drills.servers import Server
from holdfast.drills.servers.process import END_WITH_PARENT, free_port
from holdfast.errors import Conflict
from holdfast.ext.sqlalchemy import DatabaseSettings, UnitAsyncSession
from tests.asgi.asgi_calls import Answer, Connection, call, http_scope, until
from tests.asgi.effect_app import Effect, Effects, Make, caller

ROOT = Path(__file__).parents[2]
SERVERS = [("mariadb", "asyncmy"), ("postgresql", "asyncpg")]


@pytest.fixture(params=SERVERS, ids=lambda pair: pair[0])
def url(request: pytest.FixtureRequest) -> str:
    """The address of each server."""
    name, driver = request.param
    server: Server = request.getfixturevalue(f"{name}_server")
    return server.url(driver)


@pytest.fixture
async def make(url: str) -> AsyncIterator[Make]:
    """Opens the service, with settings of the test's own; the first empties the tables."""
    opened: list[Effects] = []

    async def open_one(**settings: Any) -> Effects:
        opened.append(await Effects.open(url, DatabaseSettings(deadline=20), **settings))
        return opened[-1]

    yield open_one
    for effects in opened:
        await effects.close()


async def post(effects: Effects, key: str = "k", body: bytes = b"b", query: str = "") -> Answer:
    """One request; what the application raised is raised."""
    answer = await call(effects.app, "POST", "/effects", caller(key=key), body, query_string=query.encode())
    if answer.error is not None:
        raise answer.error
    return answer


async def test_fifty_identical_requests_to_two_services_have_one_effect(make: Make) -> None:
    """They meet in the database: one handler ran, fifty answers are equal."""
    one, two = await make(), await make()
    answers = await asyncio.gather(*(post(service) for service in (one, two) for _ in range(25)))
    assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}
    assert (await one.count(), one.calls + two.calls) == (1, 1)


@pytest.mark.parametrize("wait", [0, 0.3])
async def test_a_key_at_work_in_another_process_is_told(make: Make, wait: float) -> None:
    """The second service waits for the first one's transaction as long as it may, then answers 409; later it has the answer."""
    rules = [KeyRules(wait=wait)]
    one, two = await make(), await make(rules_for=lambda _scope: rules[-1])
    there, go = asyncio.Event(), asyncio.Event()

    async def hold(_scope: Scope) -> None:
        there.set()
        await go.wait()

    one.after_effect = hold
    first = Connection(http_scope("POST", "/effects", caller(key="k")))
    first.push(b"b")
    first.start(one.app)
    await there.wait()
    told = await post(two)
    assert (told.status, told.header("retry-after")) == (409, "1")
    go.set()
    answered = await first.answer()
    rules.append(KeyRules())  # a slow machine may need longer than `wait` to look
    again = await post(two)
    assert (again.body, again.header("idempotency-replayed")) == (answered.body, "true")
    assert (one.calls, two.calls) == (1, 0)


async def lose_a_conflict(effects: Effects) -> None:
    """As if the server had chosen this transaction to lose."""
    statement = {
        "mysql": "BEGIN NOT ATOMIC SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found'; END",
        "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'lost' USING ERRCODE = '40001'; END $$",
    }[effects.db.engine.dialect.name]

    async def query(tx: UnitAsyncSession) -> None:
        await tx.execute(text(statement))

    await effects.db.run(query)


async def test_an_error_that_the_application_answered_runs_the_request_again(make: Make) -> None:
    """A framework that turns a deadlock into a 500 of its own does not hide it: the whole request is run again."""
    effects = await make()
    inner, answered = effects.idempotency.app, []

    async def hides(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await inner(scope, receive, send)
        except Exception as error:
            answered.append(type(error).__name__)
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"sorry"})

    async def lose_twice(_scope: Scope) -> None:
        if effects.calls < 3:
            await lose_a_conflict(effects)

    effects.idempotency.app = hides
    effects.after_effect = lose_twice
    assert (await post(effects)).status == 201
    assert len(answered) == 2
    assert (await effects.count(), effects.calls) == (1, 3)


async def test_a_violation_that_the_application_answered_is_its_answer(make: Make) -> None:
    """A duplicate that the handler answers itself goes out as it is, the effect is rolled back, and the connection serves on."""
    effects = await make()
    inner = effects.idempotency.app

    async def duplicate(tx: UnitAsyncSession) -> None:
        for _ in range(2):
            tx.add(Effect(id=4711, tenant="acme", what="twice"))
            await tx.flush()
            tx.expunge_all()

    async def violate(_scope: Scope) -> None:
        await effects.db.run(duplicate)

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await inner(scope, receive, send)
        except Conflict:
            await send({"type": "http.response.start", "status": 409, "headers": []})
            await send({"type": "http.response.body", "body": b"is there"})

    effects.idempotency.app = answers
    effects.after_effect = violate
    refused = await post(effects)
    assert (refused.status, refused.body) == (409, b"is there")
    effects.idempotency.app = inner
    assert (await post(effects)).json["type"] == "urn:holdfast:problem:conflict", (
        "and what nobody answers is answered here"
    )
    assert (await effects.count(), await effects.rows()) == (0, [])
    effects.after_effect = None
    assert (await post(effects)).status == 201


async def test_a_cancelled_request_frees_its_key(make: Make) -> None:
    """A client that hangs up cancels its request in the middle; the next one with the key runs at once."""
    effects = await make()
    there = asyncio.Event()

    async def hold(_scope: Scope) -> None:
        there.set()
        await asyncio.Event().wait()

    effects.after_effect = hold
    first = Connection(http_scope("POST", "/effects", caller(key="k")))
    first.push(b"b")
    task = first.start(effects.app)
    await there.wait()
    task.cancel()
    assert isinstance((await first.answer()).error, asyncio.CancelledError)
    effects.after_effect = None
    again = await post(effects)
    assert (again.status, again.header("idempotency-replayed")) == (201, None)
    assert await effects.count() == 1


async def test_a_waiting_repetition_takes_over_when_the_first_fails(make: Make) -> None:
    """The waiting ones do not fail with it: one of them runs, the others get its answer."""
    effects = await make()
    there, go = asyncio.Event(), asyncio.Event()

    async def hold_and_fail(_scope: Scope) -> None:
        there.set()
        await go.wait()
        effects.after_effect = None
        raise ValueError("the first one fails")

    effects.after_effect = hold_and_fail
    connections = [Connection(http_scope("POST", "/effects", caller(key="k"))) for _ in range(5)]
    for connection in connections:
        connection.push(b"b")
        connection.start(effects.app)
    await there.wait()
    await until(lambda: all(connection.received for connection in connections))
    go.set()
    answers = [await connection.answer() for connection in connections]
    assert [type(answer.error) for answer in answers if answer.error] == [ValueError]
    assert {answer.body for answer in answers if not answer.error} == {answers[-1].body}
    assert (await effects.count(), effects.calls) == (1, 2)


# -- processes -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def service(folder: Path, url: str, crash: str) -> AsyncIterator[tuple[httpx2.AsyncClient, Any]]:
    """The service as a process that kills itself at `crash`, once; and a client. Ended afterwards."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(*END_WITH_PARENT, sys.executable, "-m", "uvicorn", "--factory", "tests.asgi.effect_app:from_environment"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
        cwd=ROOT,
        env={
            **os.environ,
            "EFFECT_DATABASE": url,
            "EFFECT_CRASH": crash,
            "EFFECT_CRASHED": str(folder / "crashed"),
        },
    )
    try:
        async with (
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as http,
            asyncio.timeout(60),
        ):
            while process.returncode is None:
                try:
                    await http.get("/nothing", headers={"x-user": "ada"})
                except httpx2.TransportError:
                    await asyncio.sleep(0.05)
                else:
                    break
            yield http, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize(("crash", "replayed"), [("before-commit", False), ("after-commit", True)])
async def test_a_process_killed_in_the_middle_leaves_one_effect(
    tmp_path: Path, make: Make, url: str, crash: str, *, replayed: bool
) -> None:
    """Killed between effect and answer: the next process has the answer. Killed before COMMIT: the repetition runs."""
    effects = await make()
    headers = caller(key="k")
    (tmp_path / "crashed").touch()  # starting up answers as well
    async with service(tmp_path, url, crash) as (http, process):
        (tmp_path / "crashed").unlink()
        with pytest.raises(httpx2.TransportError):
            await http.post("/effects", content=b"b", headers=headers)
        assert await process.wait() == -signal.SIGKILL
    assert await effects.count("acme") == (1 if replayed else 0)
    async with service(tmp_path, url, crash) as (http, _):
        answer = await http.post("/effects", content=b"b", headers=headers)
        assert answer.status_code == 201
        assert (answer.headers.get("idempotency-replayed") == "true") is replayed
        again = await http.post("/effects", content=b"b", headers=headers)
        assert (again.content, again.headers["idempotency-replayed"]) == (answer.content, "true")
    assert await effects.count("acme") == 1
