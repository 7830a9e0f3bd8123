"""Mutants of the server's side: settings that lose what was acknowledged, and a node that does not know yet."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from holdfast.drills.checkers import fail_means_absent, no_lost_ack
from holdfast.drills.history import History
from holdfast.drills.workloads.inserts import SetOfRows
from holdfast.drills.workloads.workload import Call
from holdfast.errors import OutcomeUnknown
from holdfast.ext.sqlalchemy import Database
from holdfast.ext.sqlalchemy.unit import Unit
from holdfast.outcome import Outcome

from .mutant import mutant
from .stage import Stage, asked, play

_SETTINGS = {"innodb_flush_log_at_trx_commit": 1}


def killed_server(stage: Stage) -> History:
    """A server is killed with SIGKILL the moment it has acknowledged the last insert, and started again."""
    server, workload = stage.mariadb, SetOfRows()
    told: list[History] = []
    with stage.recording(told) as writer, stage.tables(server.url("pymysql"), workload) as final:
        writer.meta({"durable": _SETTINGS["innodb_flush_log_at_trx_commit"] == 1})
        with Database(server.url("pymysql")) as db:
            db.migrate()
            for name, value in _SETTINGS.items():
                server.set_global(name, value)
            play(writer, workload, asked(db, workload), seed=stage.seed, each=40)
            fault = writer.fault_start("kill-server")
            server.kill()
        server.start()
        writer.fault_end("kill-server", fault)
        writer.final(workload.final_name, final())
    return told[0]


@mutant(no_lost_ack, killed_server)
def log_not_flushed_at_commit(patch: pytest.MonkeyPatch) -> None:
    """`innodb_flush_log_at_trx_commit=0`: the log is written once a second, and what it holds by then dies with the server."""
    patch.setitem(_SETTINGS, "innodb_flush_log_at_trx_commit", 0)


_ROUNDS = 12
_BULK_ROWS = 4_000
"""Written ahead of each insert in one transaction: while the other node applies it, it does not know of the insert yet."""


def asked_at_another_node(stage: Stage) -> History:
    """Inserts are committed on one Galera node; what became of them is asked at another, which has not applied them yet."""
    first, second = (node.url("pymysql") for node in stage.galera.nodes[:2])
    workload = SetOfRows()
    told: list[History] = []
    bulk = create_engine(first, poolclass=NullPool)
    with (
        stage.recording(told) as writer,
        stage.tables(first, workload) as final,
        Database(first) as here,
        Database(second) as there,
    ):
        here.migrate()
        stage.galera.wait_until_synced()
        save = asked(here, workload)
        there.read(lambda session: session.connection())  # connects before it matters
        for number in range(_ROUNDS):
            operation = writer.invoke("insert", {"id": str(number)})
            with bulk.begin() as connection:
                connection.exec_driver_sql(
                    f"CREATE OR REPLACE TABLE bulk AS SELECT seq AS id FROM seq_1_to_{_BULK_ROWS}"
                )
            save(Call("insert", {"id": str(number)}, f"key-{number}"))
            if there.outcome_of(_lost(f"key-{number}")) is Outcome.COMMITTED:
                operation.ok()
            else:
                operation.fail(error="NotCommitted")
        writer.final(workload.final_name, final())
    bulk.dispose()
    return told[0]


def _lost(key: str) -> OutcomeUnknown:
    """What a caller holds whose answer got lost."""
    unknown = OutcomeUnknown("the answer got lost")
    unknown.operation_scope, unknown.operation_key = "mutant", key
    return unknown


@mutant(fail_means_absent, asked_at_another_node)
def doubt_settled_by_a_node_that_lags_behind(patch: pytest.MonkeyPatch) -> None:
    """What a Galera node does not know yet counts as not committed, without waiting for the cluster or having it agree."""
    commit = Unit.commit

    def alone(self: Unit[Any]) -> None:
        (self.roll_back if self.name == "outcome_of" else lambda: commit(self))()

    patch.setattr(Unit, "commit", alone)
