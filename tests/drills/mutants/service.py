"""Mutants of what stands around a save: the web framework, tenants, and the budget of retries."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx2
import pymysql
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from holdfast.backoff import Backoff
from holdfast.budget import RetryBudget
from holdfast.clock import SYSTEM_CLOCK
from holdfast.drills.checkers import amplification, no_lost_ack, replay_equality
from holdfast.drills.history import History, HistoryWriter
from holdfast.drills.workloads.inserts import SetOfRows
from holdfast.drills.workloads.replay import Replay
from holdfast.drills.workloads.workload import Call
from holdfast.ext.sqlalchemy import AsyncDatabase, Database
from holdfast.ext.sqlalchemy.faults import Fault, SeededFaults, inject
from holdfast.ext.sqlalchemy.operations import Operation
from holdfast.faultproxy import FaultProxy, Phase, Queue, ResetPeer
from holdfast.retry import retry

from .mutant import mutant
from .stage import Stage

# -- the answer and the COMMIT -----------------------------------------------------------------------------------------

_COMMITS_FIRST: dict[str, Any] = {"scope": "function"}
"""What a dependency that commits after its `yield` has to be told."""


def posts(stage: Stage) -> History:
    """POSTs to a FastAPI application whose session comes from a dependency; some of its COMMITs fail."""
    told: list[History] = []
    workload = SetOfRows()
    path = stage.sqlite()
    with stage.recording(told) as writer, stage.tables(f"sqlite:///{path}", workload) as final:
        asyncio.run(_post(writer, f"sqlite+aiosqlite:///{path}", stage.seed))
        writer.final(workload.final_name, final())
    return told[0]


async def _post(writer: HistoryWriter, url: str, seed: int) -> None:
    db = AsyncDatabase(url)
    transport = httpx2.ASGITransport(app=_application(db), raise_app_exceptions=False)
    with inject(db.engine, SeededFaults(seed, 0.2, [Fault.LOST_BEFORE_COMMIT])):
        async with httpx2.AsyncClient(transport=transport, base_url="http://app") as http:
            for number in range(60):
                operation = writer.invoke("insert", {"id": str(number)})
                status = (await http.post(f"/rows/{number}")).status_code
                if status == 200:
                    operation.ok()
                else:
                    operation.info(error=f"HTTP {status}")
    await db.close()


def _application(db: AsyncDatabase) -> FastAPI:
    app = FastAPI()

    async def session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(db.engine) as opened:
            yield opened
            await opened.commit()

    @app.post("/rows/{row}")
    async def add(row: str, opened: Any = Depends(session, **_COMMITS_FIRST)) -> None:  # noqa: B008, FAST002 - local
        await opened.execute(text("INSERT INTO holdfast_drill_set (operation) VALUES (:row)"), {"row": row})

    return app


@mutant(no_lost_ack, posts)
def fastapi_default_dependency_scope(patch: pytest.MonkeyPatch) -> None:
    """FastAPI's default for a dependency with `yield`: the answer is sent, and then it commits."""
    patch.delitem(_COMMITS_FIRST, "scope")


# -- whose key it is ---------------------------------------------------------------------------------------------------


def tenants(stage: Stage) -> History:
    """Two tenants use the same keys for saves that look the same, and each asks twice."""
    told: list[History] = []
    workload = Replay()
    url = f"sqlite:///{stage.sqlite()}"
    tenant = ""

    with stage.recording(told) as writer, stage.tables(url, workload) as final, Database(url) as db:
        db.migrate()

        @db.transaction(name="save")
        def save(session: Any, number: int) -> dict[str, Any]:
            # Who asks is known from the request, as in most services, and no argument.
            return workload.perform(session, Call("keyed", {"id": f"{tenant}-{number}", "tenant": tenant}, ""))

        for number in range(10):
            for tenant in ("red", "blue", "red", "blue"):
                value = {"id": f"{tenant}-{number}", "tenant": tenant, "key_hash": str(number)}
                operation = writer.invoke("keyed", value)
                operation.ok(save.keyed(f"key-{number}", scope=tenant)(number))
        writer.final(workload.final_name, final())
    return told[0]


@mutant(replay_equality, tenants)
def key_without_tenant(patch: pytest.MonkeyPatch) -> None:
    """The tenant is left out of the key, so one gets the other's result."""
    keyed = Operation.keyed
    patch.setattr(Operation, "keyed", lambda self, key, *, scope=None: keyed(self, key, scope=None))


# -- what retries add to an outage -------------------------------------------------------------------------------------

_CALLERS = 8
_CALLS = 4
_PACE_S = 0.2


def outage(stage: Stage) -> History:
    """Callers at a steady pace connect to a server behind which nobody answers, with `retry` around it."""
    told: list[History] = []
    server = stage.mariadb
    with (
        stage.recording(told) as writer,
        FaultProxy((server.host, server.port), "mysql", on_event=partial(_note, writer)) as proxy,
    ):
        proxy.add(ResetPeer(), Phase.CONNECT)
        fault = writer.fault_start("refuse", {"outage": True})

        @retry(on=pymysql.OperationalError, idempotent=True, budget=RetryBudget(), backoff=Backoff(base=0.01, cap=0.1))
        def connect() -> None:
            pymysql.connect(host=proxy.host, port=proxy.port, user=server.user, password=server.password).close()

        threads = [threading.Thread(target=_call, args=(writer, connect, f"w{n}")) for n in range(_CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.fault_end("refuse", fault)
    return told[0]


def overload(stage: Stage) -> History:
    """Callers at a steady pace ask a server for more than it can do, with `retry` around it; it turns most of them away."""
    told: list[History] = []
    server = stage.mariadb
    with (
        stage.recording(told) as writer,
        FaultProxy((server.host, server.port), "mysql", on_event=partial(_note, writer)) as proxy,
    ):
        fault = writer.fault_start("overload", {"overload": True})
        proxy.add(Queue(rate=4.0, patience=0.2), Phase.BEFORE)

        @retry(on=pymysql.OperationalError, idempotent=True, budget=RetryBudget(), backoff=Backoff(base=0.01, cap=0.1))
        def ask() -> None:
            pymysql.connect(host=proxy.host, port=proxy.port, user=server.user, password=server.password).close()

        threads = [threading.Thread(target=_call, args=(writer, ask, f"w{n}", 12)) for n in range(2 * _CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.fault_end("overload", fault)
    return told[0]


def _call(writer: HistoryWriter, connect: Any, process: str, calls: int = _CALLS) -> None:
    for _ in range(calls):
        operation = writer.invoke("connect", process=process)
        try:
            connect()
        except pymysql.OperationalError as error:
            operation.fail(code=error.args[0], failure_class="unsent")
        else:
            operation.ok()
        SYSTEM_CLOCK.sleep(_PACE_S)


def _note(writer: HistoryWriter, event: dict[str, Any]) -> None:
    writer.wire(event["f"], event["c"], event["v"], t=event["t"])


@mutant(amplification, outage)
def no_budget(patch: pytest.MonkeyPatch) -> None:
    """Every retry is granted, whatever it adds to the load of a server that is down."""
    patch.setattr(RetryBudget, "try_spend", lambda self, cost=1.0, now=None: True)


@mutant(amplification, overload)
def no_budget_in_overload(patch: pytest.MonkeyPatch) -> None:
    """Every retry is granted, whatever it adds to the load of a server that has too much to do."""
    patch.setattr(RetryBudget, "try_spend", lambda self, cost=1.0, now=None: True)
