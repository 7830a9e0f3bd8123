"""The sentences about a code agree with what was measured, with the tables and with what Holdfast does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.dialects import Flavour, Row, classify, explain, table_of
from holdfast.dialects.prose import Effect, Explanation, describe, effect_of
from holdfast.errors import error_for
from holdfast.outcome import FailureClass, Stage
from tests.driver_errors import MYSQL_DRIVERS, POSTGRESQL_DRIVERS, SQLITE_DRIVERS

DATA = Path(__file__).parent.parent / "data"
FACTS: dict[str, list[dict[str, Any]]] = json.loads((DATA / "error_facts.json").read_text(encoding="utf-8"))
SAMPLES: dict[str, list[dict[str, Any]]] = json.loads((DATA / "error_samples.json").read_text(encoding="utf-8"))
DRIVERS: dict[Flavour, Any] = {
    Flavour.MYSQL: MYSQL_DRIVERS["pymysql"],
    Flavour.MARIADB: MYSQL_DRIVERS["pymysql"],
    Flavour.POSTGRESQL: POSTGRESQL_DRIVERS["psycopg"],
    Flavour.SQLITE: SQLITE_DRIVERS["sqlite3"],
}

MEASURED = {
    "none": {Effect.NOTHING, Effect.REFUSED},
    "stmt": {Effect.STATEMENT},
    "trx": {Effect.TRANSACTION},
    "trx-failed": {Effect.FAILED},
    "conn": {Effect.CONNECTION},
    "maybe-trx": {Effect.MAYBE},
    "trx if it was a write": {Effect.MAYBE},
    "unknown": {Effect.UNKNOWN},
}


def facts() -> list[Any]:
    """(flavour, measured effect, row) of each code that was measured, its last row: the one without a text."""
    found = []
    for family, rows in FACTS.items():
        for fact in rows:
            if "effect" not in fact:
                continue
            flavours = {"postgresql": [Flavour.POSTGRESQL], "sqlite": [Flavour.SQLITE]}.get(family)
            whose = fact.get("flavour", "both")
            for flavour in flavours or [Flavour.MYSQL, Flavour.MARIADB]:
                if flavours is None and whose not in ("both", flavour):
                    continue
                code = fact["code"]
                found.append(pytest.param(flavour, fact["effect"], explain(flavour, code)[-1], id=f"{flavour}-{code}"))
    assert len(found) > 200
    return found


@pytest.mark.parametrize(("flavour", "effect", "row"), facts())
def test_effect_is_the_measured_one(flavour: Flavour, effect: str, row: Row) -> None:
    """What a code is said to do to the transaction is what was measured or read."""
    assert effect_of(flavour, row) in MEASURED[effect]


@pytest.mark.parametrize(
    ("flavour", "code", "effect"),
    [
        (Flavour.MARIADB, 1047, Effect.TRANSACTION),  # WSREP: what was open is rolled back
        (Flavour.MYSQL, 1180, Effect.TRANSACTION),  # error 149
        (Flavour.MYSQL, 1290, Effect.STATEMENT),
        (Flavour.MYSQL, 1020, Effect.STATEMENT),
        (Flavour.MARIADB, 1020, Effect.TRANSACTION),
        (Flavour.MYSQL, 1045, Effect.REFUSED),
        (Flavour.POSTGRESQL, "53300", Effect.REFUSED),
    ],
)
def test_effect_of_the_first_row(flavour: Flavour, code: int | str, effect: Effect) -> None:
    """Where the message decides, the row with the text has its own effect."""
    assert effect_of(flavour, explain(flavour, code)[0]) is effect


def samples() -> list[Any]:
    """(flavour, sample) for every sample of every flavour."""
    found = []
    for flavour in Flavour:
        family = SAMPLES["mysql family"] if flavour in (Flavour.MYSQL, Flavour.MARIADB) else []
        found += [
            pytest.param(flavour, sample, id=f"{flavour}-{sample['code']}-{sample['message'][:20]}")
            for sample in [*family, *SAMPLES[flavour]]
        ]
    return found


@pytest.mark.parametrize(("flavour", "sample"), samples())
def test_stages_are_those_of_the_classifier(flavour: Flavour, sample: dict[str, Any]) -> None:
    """What is explained for a stage is what the classifier makes of that very error there, and the error it names is raised."""
    error = DRIVERS[flavour](sample["code"], sample["message"])
    message = sample["message"].partition("\nDETAIL:")[0]
    (explanation,) = describe(str(sample["code"]), (flavour,), message)
    assert explanation.known
    for at in explanation.stages:
        failure = classify(error, stage=at.stage, flavour=flavour)
        assert at.failure_class is failure.failure_class
        hides = "earlier error" in at.holdfast
        assert hides or type(error_for(failure)).__name__ in at.holdfast


def test_every_row_is_explained() -> None:
    """Each code of each table has an explanation with four stages, none of them silent."""
    for flavour in Flavour:
        for row in table_of(flavour):
            if isinstance(row.code, str) and len(row.code) != 5:
                continue
            found = describe(str(row.code), (flavour,))
            assert row.name in {explanation.name for explanation in found}
            for explanation in found:
                assert [at.stage for at in explanation.stages] == list(Stage)
                assert all(at.server and at.holdfast for at in explanation.stages)


def of(code: str, *flavours: Flavour, message: str = "") -> list[tuple[list[str], bool]]:
    """Whose explanations there are, and whether they are known."""
    found = describe(code, flavours or tuple(Flavour), message)
    return [([str(flavour) for flavour in one.flavours], one.known) for one in found]


def test_flavours_that_agree_share_an_explanation() -> None:
    """1205 means the same to MySQL and MariaDB, 4025 does not."""
    assert of("1205") == [(["mysql", "mariadb"], True)]
    assert of("4025") == [(["mysql"], True), (["mariadb"], True)]


def test_the_other_of_the_family_is_told_not_to_know() -> None:
    """1969 is MariaDB's alone, and a reader with MySQL hears so."""
    assert of("1969") == [(["mariadb"], True), (["mysql"], False)]
    assert of("1969", Flavour.MARIADB) == [(["mariadb"], True)]


def test_number_of_another_server_is_not_read_as_sqlites() -> None:
    """Any number has a low byte; 1045 has SQLITE_MISUSE's and means a login. Asked for SQLite alone it is an extended code."""
    assert of("1045") == [(["mysql", "mariadb"], True)]
    assert of("266") == [(["sqlite"], True)]
    assert of("4874", Flavour.SQLITE) == [(["sqlite"], True)]


def test_message_chooses_among_meanings() -> None:
    """1290 without a text has two meanings, with its text one."""
    assert len(describe("1290", (Flavour.MYSQL,))) == 2
    (one,) = describe("1290", (Flavour.MYSQL,), "running with the --super-read-only option")
    assert one.stages[2].failure_class is FailureClass.ROLE_CHANGED


def stage(explanation: Explanation, which: Stage) -> tuple[FailureClass, str, str]:
    """Class and sentences of one stage."""
    (at,) = [at for at in explanation.stages if at.stage is which]
    return at.failure_class, at.server, at.holdfast


def test_unknown_code_says_how_it_would_be_treated() -> None:
    """Unknown means permanent before COMMIT, in doubt after it."""
    (unknown,) = describe("9999")
    assert not unknown.known
    assert stage(unknown, Stage.BODY)[0] is FailureClass.PERMANENT
    assert "StatementRejected" in stage(unknown, Stage.BODY)[2]
    assert stage(unknown, Stage.COMMIT)[0] is FailureClass.AMBIGUOUS


def test_sentences_say_what_matters() -> None:
    """A few that people look for, word by word where it counts."""
    (lock_wait,) = describe("1205", (Flavour.MYSQL,))
    assert "this statement alone" in stage(lock_wait, Stage.BODY)[1]
    assert "nothing was committed" in stage(lock_wait, Stage.COMMIT)[1]
    assert "8 attempts" in stage(lock_wait, Stage.BODY)[2]
    (busy,) = describe("5", (Flavour.SQLITE,))
    assert "still open" in stage(busy, Stage.COMMIT)[1]
    (lost,) = describe("2013", (Flavour.MARIADB,))
    assert stage(lost, Stage.COMMIT)[0] is FailureClass.AMBIGUOUS
    assert "does not say" in stage(lost, Stage.COMMIT)[1]
    assert stage(lost, Stage.CONNECT)[0] is FailureClass.UNSENT
    assert "closes the connection" in stage(lost, Stage.BODY)[2]
    (disk,) = describe("53100")
    assert "StorageExhausted without another attempt" in stage(disk, Stage.BODY)[2]
    (savepoint,) = describe("1305", (Flavour.MYSQL,), "SAVEPOINT sa_savepoint_1 does not exist")
    assert "earlier error" in stage(savepoint, Stage.BODY)[2]
