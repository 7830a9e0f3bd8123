"""Every row: a sample of the server's own words finds it, and it means at each stage what was measured.

The samples (`tests/data/error_samples.json`) are what the servers print: read from their message files, or provoked. Where a
server would print a value, the sample has the word in `CANARY`. The facts (`tests/data/error_facts.json`) were measured
apart from the tables, so the two check each other. Their categories:

a rerun · b reconnect and rerun · c elsewhere · d ambiguous · e overload · f exhausted · g permanent · h cancelled
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.dialects import Flavour, Row, Table, classify, explain, table_of
from holdfast.dialects.mysql_family import CLIENT, PROXY, SERVER
from holdfast.errors import error_for
from holdfast.outcome import FailureClass, Rejection, Stage
from tests.driver_errors import MYSQL_DRIVERS, POSTGRESQL_DRIVERS, SQLITE_DRIVERS

CANARY = "s3cr3t"
DATA = Path(__file__).parent.parent / "data"
SAMPLES: dict[str, list[dict[str, Any]]] = json.loads((DATA / "error_samples.json").read_text(encoding="utf-8"))
FACTS: dict[str, list[dict[str, Any]]] = json.loads((DATA / "error_facts.json").read_text(encoding="utf-8"))

DRIVERS: dict[Flavour, dict[str, Any]] = {
    Flavour.MYSQL: MYSQL_DRIVERS,
    Flavour.MARIADB: MYSQL_DRIVERS,
    Flavour.POSTGRESQL: POSTGRESQL_DRIVERS,
    Flavour.SQLITE: SQLITE_DRIVERS,
}


def samples_of(flavour: Flavour) -> list[dict[str, Any]]:
    """The samples of one flavour, the family's included."""
    shared = SAMPLES["mysql family"] if flavour in (Flavour.MYSQL, Flavour.MARIADB) else []
    return [*shared, *SAMPLES[flavour]]


ALL_SAMPLES = [
    pytest.param(flavour, sample, id=f"{flavour}-{sample['code']}-{sample['message'][:30]}")
    for flavour in Flavour
    for sample in samples_of(flavour)
]


def errors_of(flavour: Flavour, sample: dict[str, Any]) -> Iterator[tuple[str, Exception]]:
    """The sample as every driver that can raise it does; "closed" is 0 in PyMySQL's family and -1 in MySQL's own."""
    for driver, raised in DRIVERS[flavour].items():
        if (sample["code"], driver) != (0, "mysql-connector-python"):
            yield driver, raised(sample["code"], sample["message"])


def row_of(flavour: Flavour, sample: dict[str, Any]) -> Row | None:
    """The row of the code, else of its class (SQLSTATE) or its primary code (SQLite)."""
    message = sample["message"].partition("\nDETAIL:")[0]
    return next((row for row in explain(flavour, sample["code"]) if row.applies_to(message)), None)


@pytest.mark.parametrize(("flavour", "sample"), ALL_SAMPLES)
def test_sample_means_what_its_row_says_at_every_stage(flavour: Flavour, sample: dict[str, Any]) -> None:
    """Through every driver: the class of the row in the body, `UNSENT` for a loss at connect, proof or doubt at COMMIT."""
    row = row_of(flavour, sample)
    assert row is not None
    for driver, error in errors_of(flavour, sample):
        at = {stage: classify(error, stage=stage, flavour=flavour) for stage in Stage}
        gone = row.failure_class in (FailureClass.LOST, FailureClass.UNSENT)

        assert at[Stage.BODY].failure_class is row.failure_class, driver
        assert at[Stage.BEGIN].failure_class is row.failure_class, driver
        lost_or_unknown = row.failure_class in (FailureClass.LOST, FailureClass.AMBIGUOUS)
        assert at[Stage.CONNECT].failure_class is (FailureClass.UNSENT if lost_or_unknown else row.failure_class), (
            driver
        )
        assert at[Stage.COMMIT].failure_class is (row.failure_class if row.aborts_commit else FailureClass.AMBIGUOUS), (
            driver
        )
        for stage, failure in at.items():
            assert failure.stage is stage
            assert (failure.flavour, failure.code, failure.name) == (flavour, sample["code"], row.name), driver
            assert failure.connection_usable is (row.connection_usable and not gone), driver
            assert (failure.rejection is None) is (failure.failure_class is not FailureClass.PERMANENT), driver


@pytest.mark.parametrize(("flavour", "sample"), ALL_SAMPLES)
def test_sample_gives_away_names_and_no_value(flavour: Flavour, sample: dict[str, Any]) -> None:
    """The constraint, table and columns the text names are found, and the value it quotes is nowhere in what comes out."""
    for driver, error in errors_of(flavour, sample):
        for stage in Stage:
            failure = classify(error, stage=stage, flavour=flavour)
            assert CANARY not in f"{failure!r} {failure} {error_for(failure, operation='save')!r}", driver
            assert failure.constraint == sample.get("constraint"), driver
            assert failure.table == sample.get("table"), driver
            if driver != "asyncpg":  # it sends DETAIL apart, which names columns that the sample's first line does not
                assert failure.columns == tuple(sample.get("columns", ())), driver


@pytest.mark.parametrize("flavour", list(Flavour))
def test_every_row_has_a_sample(flavour: Flavour) -> None:
    """No row stands in a table without the server's own words for it, and no sample is without a row."""
    found = {id(row_of(flavour, sample)) for sample in samples_of(flavour)}
    assert [row for row in table_of(flavour) if id(row) not in found] == []


@pytest.mark.parametrize("flavour", list(Flavour))
def test_row_is_complete(flavour: Flavour) -> None:
    """Each row has a name and a note; a refusal has its kind, and only a refusal has one."""
    for row in table_of(flavour):
        assert row.name, row
        assert row.note, row
        assert (row.rejection is not None) is (row.failure_class is FailureClass.PERMANENT), row


def test_row_that_can_never_be_reached_is_refused() -> None:
    """A table with two rows for a code, the first of which takes every text, does not come to be."""
    row = Row(1, "ANY", FailureClass.PERMANENT, "any text", rejection=Rejection.OTHER)
    with pytest.raises(ValueError, match="1 can never be reached"):
        Table([row], [row])


# ---- the tables against what was measured

# Where a table departs from the plain translation of a category, and why.
DEPARTURES = {
    1040: FailureClass.UNSENT,  # e: refused at connect, nothing ran; a new try comes 50 ms later at the earliest
    "53300": FailureClass.UNSENT,  # e: the same on PostgreSQL
    2000: FailureClass.LOST,  # b without a known effect: the client no longer knows the connection's state
    2026: FailureClass.LOST,  # c: TLS broke; at connect a loss is UNSENT anyway
    3032: FailureClass.ROLE_CHANGED,  # c at connect: offline mode is an answer about the server's role, not its reach
    9001: FailureClass.LOST,  # c: behind a proxy there is no other endpoint to go to
    9002: FailureClass.LOST,
    9004: FailureClass.LOST,
    "57P01": FailureClass.LOST,  # c: the session ended; whether the server is the writer is asked on the next connection
    "57P02": FailureClass.LOST,
    3168: FailureClass.ROLE_CHANGED,
    1181: FailureClass.LOST,  # b: closing the connection is what rolls back
    "XX002": FailureClass.EXHAUSTED,
}
BY_CATEGORY = {
    "a": FailureClass.CONTENTION,
    "b": FailureClass.LOST,
    "c": FailureClass.ROLE_CHANGED,
    "d": FailureClass.AMBIGUOUS,
    "e": FailureClass.OVERLOAD,
    "f": FailureClass.EXHAUSTED,
    "g": FailureClass.PERMANENT,
    "h": FailureClass.CANCELLED,
}


def expected_class(fact: dict[str, Any]) -> FailureClass:
    """What the category of a fact translates to."""
    if fact["code"] in DEPARTURES:
        return DEPARTURES[fact["code"]]
    if fact["category"] in "bc" and (
        fact["refused_at_connect"] or (fact["effect"] == "none" and fact["category"] == "b")
    ):
        return FailureClass.UNSENT
    return BY_CATEGORY[fact["category"]]


FACTS_BY_FLAVOUR = [
    pytest.param(flavour, fact, id=f"{flavour}-{fact['code']}")
    for flavour, facts in [
        *[
            (
                flavour,
                [fact for fact in FACTS["mysql family"] if fact["flavour"] in ("both", flavour)] + FACTS["client"],
            )
            for flavour in (Flavour.MYSQL, Flavour.MARIADB)
        ],
        (Flavour.POSTGRESQL, FACTS["postgresql"]),
        (Flavour.SQLITE, FACTS["sqlite"]),
    ]
    for fact in facts
]


@pytest.mark.parametrize(("flavour", "fact"), FACTS_BY_FLAVOUR)
def test_row_agrees_with_the_fact(flavour: Flavour, fact: dict[str, Any]) -> None:
    """A code that was measured has a row of the class its category translates to, whichever text decides."""
    rows = explain(flavour, fact["code"])
    assert rows
    # Several rows share a code where the text decides; one of them carries the category, tested by text below.
    assert expected_class(fact) in {row.failure_class for row in rows}
    if not fact.get("connection_survives", True):
        assert all(
            not row.connection_usable or row.failure_class in (FailureClass.LOST, FailureClass.UNSENT) for row in rows
        )


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (1047, "WSREP has not yet prepared node for application use", FailureClass.ROLE_CHANGED),
        (1047, "Unknown command", FailureClass.PERMANENT),
        (1290, "The server is running with the --super_read_only option", FailureClass.ROLE_CHANGED),
        (1290, "The server is running with the --innodb-read-only option", FailureClass.ROLE_CHANGED),
        (1290, "The server is running with the --skip-grant-tables option", FailureClass.PERMANENT),
        (1180, "Got error 149 - 'Lock deadlock; Retry transaction' during COMMIT", FailureClass.CONTENTION),
        (1180, "Got error 6 - 'No such device or address' during COMMIT", FailureClass.AMBIGUOUS),
        # Of a node cut off from its cluster: what it had sent by then may have arrived, so this is no change of role.
        (
            1180,
            "Error while appending streaming replication fragment(provider status: Not connected to Primary Component)",
            FailureClass.AMBIGUOUS,
        ),
        (1030, "Got error 28 - 'No space left on device' from storage engine", FailureClass.EXHAUSTED),
        (1030, "Got error 128 - 'Out of memory in engine' from storage engine", FailureClass.PERMANENT),
    ],
)
@pytest.mark.parametrize("flavour", [Flavour.MYSQL, Flavour.MARIADB])
def test_text_decides_where_a_number_means_several_things(
    flavour: Flavour, code: int, text: str, expected: FailureClass
) -> None:
    """The few numbers with two meanings are told apart by the part of the text that the server fixes."""
    failure = classify(MYSQL_DRIVERS["pymysql"](code, text), stage=Stage.BODY, flavour=flavour)
    assert failure.failure_class is expected


INTEGRITY: set[int | str] = {1022, 1048, 1062, 1169, 1216, 1217, 1451, 1452, 1586, 1761, 1762}
PROVES_ABORT: dict[Flavour, set[int | str]] = {
    Flavour.MYSQL: INTEGRITY | {1047, 1105, 1180, 1205, 1213, 1290, 1792, 3101, 3819},
    Flavour.MARIADB: INTEGRITY | {1020, 1047, 1105, 1180, 1205, 1213, 1290, 1792, 4025},
    Flavour.POSTGRESQL: {"40001", "40P01", "23", "23001", "23502", "23503", "23505", "23514", "23P01"},
    Flavour.SQLITE: {5, 261, 517, 773, 19, 275, 787, 1299, 1555, 1811, 2067, 2579, 3091},
}


@pytest.mark.parametrize("flavour", list(Flavour))
def test_only_measured_answers_to_commit_prove_an_abort(flavour: Flavour) -> None:
    """The answers that count as "not committed" are exactly those that were seen to be, of certification, or of integrity."""
    rows = [row for row in table_of(flavour) if row.aborts_commit]
    assert {row.code for row in rows} == PROVES_ABORT[flavour]
    assert {row.code for row in rows if row.text} == PROVES_ABORT[flavour] & {1047, 1105, 1180, 1290}


def test_mysql_and_mariadb_share_no_row_whose_number_collides() -> None:
    """A number that means different things in the two stands in neither of the shared tables."""
    collisions = {fact["code"] for fact in FACTS["collisions"]}
    assert len(collisions) == 102
    assert collisions.isdisjoint(row.code for row in (*SERVER, *CLIENT, *PROXY))


@pytest.mark.parametrize(
    ("code", "in_mysql", "in_mariadb"),
    [
        (1020, FailureClass.CONTENTION, FailureClass.CONTENTION),
        (1927, FailureClass.PERMANENT, FailureClass.LOST),
        (1969, FailureClass.PERMANENT, FailureClass.CANCELLED),
        (3024, FailureClass.CANCELLED, FailureClass.PERMANENT),
        (3572, FailureClass.CONTENTION, FailureClass.PERMANENT),
        (4031, FailureClass.LOST, FailureClass.PERMANENT),
        (4173, FailureClass.PERMANENT, FailureClass.AMBIGUOUS),
    ],
)
def test_same_number_means_what_its_server_means(code: int, in_mysql: FailureClass, in_mariadb: FailureClass) -> None:
    """One number, two servers, two meanings; one that a server does not have is an unknown code there."""
    error = MYSQL_DRIVERS["pymysql"](code, "")
    assert classify(error, stage=Stage.BODY, flavour="mysql").failure_class is in_mysql
    assert classify(error, stage=Stage.BODY, flavour="mariadb").failure_class is in_mariadb


def test_check_constraint_is_3819_in_mysql_and_4025_in_mariadb() -> None:
    """4025 is a CHECK in MariaDB and a tablespace's size in MySQL."""
    error = MYSQL_DRIVERS["asyncmy"](4025, "CONSTRAINT `adult` failed for `shop`.`users`")
    assert classify(error, stage=Stage.BODY, flavour="mariadb").rejection is Rejection.CHECK
    assert classify(error, stage=Stage.BODY, flavour="mysql").rejection is Rejection.OTHER


@pytest.mark.parametrize("flavour", list(Flavour))
def test_unknown_code_is_permanent_before_commit_and_ambiguous_after(flavour: Flavour) -> None:
    """What no table knows is not retried, and once COMMIT was sent not believed either."""
    code = {Flavour.POSTGRESQL: "ZZ999", Flavour.SQLITE: 200}.get(flavour, 65_000)
    for raised in DRIVERS[flavour].values():
        before = classify(raised(code, CANARY), stage=Stage.BODY, flavour=flavour)
        after = classify(raised(code, CANARY), stage=Stage.COMMIT, flavour=flavour)
        assert (before.failure_class, before.rejection) == (FailureClass.PERMANENT, Rejection.OTHER)
        assert (after.failure_class, after.rejection) == (FailureClass.AMBIGUOUS, None)
        assert before.code == after.code == code
