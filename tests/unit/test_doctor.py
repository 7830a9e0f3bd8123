"""The doctor finds what is wrong, nothing where all is well, and says what it could not see."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterable
from typing import Any, cast

import pymysql.err
import pytest

from holdfast.dialects import Flavour
from holdfast.doctor import (
    Check,
    ClientFacts,
    Finding,
    Refused,
    Severity,
    checks,
    diagnose,
    examine,
    file_system_of,
    questions,
)
from holdfast.doctor.findings import Rows, shown
from holdfast.doctor.galera import suspect_timeout_s
from holdfast.doctor.mysql_family import questions as family_questions
from tests.unit.doctor_answers import CASES, GALERA, GOOD, ROOMY, Case, good_answers


def flavour_of(kind: str) -> Flavour:
    """The flavour that a kind of server belongs to."""
    return Flavour.MARIADB if kind == GALERA else Flavour(kind)


def client_of(kind: str, **changes: Any) -> ClientFacts:
    """The clients of a well set-up server."""
    isolation = {"isolation": "serializable"} if kind == Flavour.MYSQL else {}
    return ClientFacts(**{**ROOMY, **isolation, **changes})


def findings_of(case: Case) -> list[Finding]:
    """What the doctor says to a case."""
    answers = good_answers(case.kind, case.changes)
    return diagnose(flavour_of(case.kind), answers, client_of(case.kind, **case.client))


@pytest.mark.parametrize("kind", GOOD)
def test_well_set_up_server_has_no_findings(kind: str) -> None:
    """Where everything is as it should be the doctor has nothing to say."""
    assert diagnose(flavour_of(kind), good_answers(kind), client_of(kind)) == []


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{case.kind}-{case.check}-{case.severity}-{n}" for n, case in enumerate(CASES)]
)
def test_what_is_wrong_is_found(case: Case) -> None:
    """The check finds it with the right severity, names it, and says why and what to do."""
    found = [finding for finding in findings_of(case) if finding.check == case.check]
    assert [finding.severity for finding in found] == [case.severity]
    (finding,) = found
    assert all(len(text) > 3 for text in (finding.found, finding.reason, finding.cure))
    assert case.says in f"{finding.found} {finding.reason} {finding.cure}"


@pytest.mark.parametrize(
    "case", CASES, ids=[f"{case.kind}-{case.check}-{case.severity}-{n}" for n, case in enumerate(CASES)]
)
def test_one_wrong_setting_is_found_once(case: Case) -> None:
    """A wrong setting is no reason for another check to complain, except about what follows from it."""
    also = {
        # What a proxy took away, and an unreadable list of grants, two checks see.
        "isolation": {"snapshot-conflicts"},
        "engines": {"primary-keys"},
        "primary-keys": {"engines"},
        "lock-waits": {"galera-deadline"},
    }
    others = {finding.check for finding in findings_of(case)} - {case.check}
    assert others <= also.get(case.check, set())


def without_case(looked_at: Iterable[Check]) -> set[tuple[str, Severity]]:
    """What checks declare and no case provokes, and what cases provoke and no check declares."""
    declared = {(check.name, severity) for check in looked_at for severity in check.severities}
    return declared ^ {(case.check, case.severity) for case in CASES if case.severity is not Severity.UNSEEN}


ALL_CHECKS = [check for flavour in Flavour for check in checks(flavour)]


def test_every_severity_of_every_check_has_a_case() -> None:
    """What a check declares it can find is what the cases make it find, no more and no less."""
    assert without_case(ALL_CHECKS) == set()


def test_planted_severity_is_found_without_a_case() -> None:
    """A check that declares what nobody has seen it find, and one that declares too little, are told."""
    (writer,) = {check for check in ALL_CHECKS if check.name == "redo-log-flush"}
    planted = dataclasses.replace(writer, severities=(Severity.ERROR, Severity.NOTE))
    found = without_case([*(check for check in ALL_CHECKS if check.name != writer.name), planted])
    assert found == {("redo-log-flush", Severity.NOTE), ("redo-log-flush", Severity.WARNING)}


@pytest.mark.parametrize("kind", GOOD)
def test_names_are_unique(kind: str) -> None:
    """A name stands for one check, and one question."""
    for named in (checks(flavour_of(kind)), questions(flavour_of(kind))):
        names = [one.name for one in named]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", GOOD)
def test_refused_question_is_told_by_each_check_that_needs_it(kind: str) -> None:
    """Whatever is refused, the rest is still looked at, and something says `unseen` with a way to see it."""
    for question in questions(flavour_of(kind)):
        answers = {**good_answers(kind), question.name: Refused("1227 ER_SPECIFIC_ACCESS_DENIED_ERROR")}
        findings = diagnose(flavour_of(kind), answers, client_of(kind))
        assert {finding.severity for finding in findings} <= {Severity.UNSEEN}
        if question.name != "replicas" or kind != GALERA:  # a cluster has no use for replicas
            assert findings or question.name == "database"
        assert all("1227" in finding.found or "privilege" in finding.found for finding in findings)
        assert all(finding.cure for finding in findings)


@pytest.mark.parametrize("kind", GOOD)
def test_server_that_says_nothing_is_unseen_throughout(kind: str) -> None:
    """Without one answer there is no error and no praise: every check that asks anything is unseen."""
    findings = diagnose(flavour_of(kind), {}, client_of(kind))
    assert {finding.severity for finding in findings} == {Severity.UNSEEN}
    assert {finding.check for finding in findings} >= {check.name for check in checks(flavour_of(kind))} - {
        "snapshot-conflicts",
        "silent-transactions",
    }


def test_the_worst_comes_first() -> None:
    """Findings are ordered by severity."""
    answers = good_answers(
        Flavour.MARIADB, {"globals": {"autocommit": "OFF", "read_only": "ON", "binlog_format": "STATEMENT"}}
    )
    severities = [finding.severity for finding in diagnose("mariadb", answers, client_of("mariadb"))]
    assert severities == [Severity.ERROR, Severity.WARNING, Severity.NOTE]


def test_what_was_found_is_told_beside_what_was_not_seen() -> None:
    """A user who sees some of the tables hears of the wrong ones among them, and that there may be more."""
    changes: dict[str, dict[str, object]] = {
        "tables": {"": [("log", "MyISAM")]},
        "grants": {"": [("GRANT SELECT ON `shop`.`log` TO `app`@`%`",)]},
    }
    found = diagnose("mysql", good_answers("mysql", changes), client_of("mysql"))
    assert [(f.check, f.severity) for f in found if f.check == "engines"] == [
        ("engines", "error"),
        ("engines", "unseen"),
    ]


@pytest.mark.parametrize(
    ("grant", "sees_all"),
    [
        ("GRANT ALL PRIVILEGES ON *.* TO `admin`@`%` IDENTIFIED BY PASSWORD '*00'", True),
        ("GRANT SELECT, INSERT ON `shop`.* TO `app`@`%`", True),
        ("GRANT SELECT, RELOAD ON *.* TO `app`@`%`", True),
        ("GRANT RELOAD, PROCESS ON *.* TO `app`@`%`", False),
        ("GRANT USAGE ON *.* TO `app`@`%`", False),
        ("GRANT ALL PRIVILEGES ON `shop2`.* TO `app`@`%`", False),
        ("GRANT SELECT (`id`) ON `shop`.`orders` TO `app`@`%`", False),
        ("GRANT `teller`@`%` TO `app`@`%`", False),
    ],
)
def test_grants_tell_whether_every_table_is_seen(grant: str, sees_all: bool) -> None:
    """Rights on the database or on everything show every table; anything less may hide some."""
    answers = good_answers("mariadb", {"grants": {"": [(grant,)]}})
    assert ({f.check for f in diagnose("mariadb", answers, client_of("mariadb"))} == set()) is sees_all


def test_password_hash_in_grants_is_never_shown() -> None:
    """MariaDB shows a password's hash in SHOW GRANTS; no finding repeats it."""
    answers = good_answers(
        "mariadb", {"grants": {"": [("GRANT USAGE ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*F14'",)]}}
    )
    findings = diagnose("mariadb", answers, client_of("mariadb"))
    assert findings
    assert "F14" not in repr(findings)


def test_bytes_are_read_as_text() -> None:
    """Drivers that return names and values as bytes are understood."""
    answers = good_answers("mariadb")
    answers["globals"] = [(str(row[0]).encode(), str(row[1]).encode()) for row in cast("Rows", answers["globals"])]
    assert diagnose("mariadb", answers, client_of("mariadb")) == []


@pytest.mark.parametrize("flavour", list(Flavour))
def test_questions_only_read(flavour: Flavour) -> None:
    """Each is a single SELECT, SHOW or PRAGMA without a value, and safe to send through any driver."""
    for question in questions(flavour):
        assert question.sql.startswith(("SELECT ", "SHOW ", "PRAGMA "))
        assert not set("%;?=:").intersection(question.sql.replace(" = ", " ")), question.name


def test_families_share_their_questions_but_for_replicas() -> None:
    """MySQL and MariaDB name the same statement differently."""
    mysql, mariadb = family_questions(Flavour.MYSQL), family_questions(Flavour.MARIADB)
    assert [a.name for a, b in zip(mysql, mariadb, strict=True) if a != b] == ["replicas"]


class Asked:
    """A server that answers from a dictionary by statement, and raises what it finds there."""

    def __init__(self, flavour: Flavour, **instead: Exception) -> None:
        answers = {**good_answers(flavour), **instead}
        self.by_sql = {question.sql: answers[question.name] for question in questions(flavour)}
        self.times = 0

    def __call__(self, sql: str) -> list[tuple[Any, ...]]:
        self.times += 1
        answer: Any = self.by_sql[sql]
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


def test_examine_asks_everything_once() -> None:
    """The shell sends each question and hands the answers on."""
    ask = Asked(Flavour.MARIADB)
    assert examine(ask, "mariadb", client_of("mariadb")) == []
    assert ask.times == len(questions("mariadb"))


def test_examine_goes_on_after_a_refusal() -> None:
    """A statement that this user may not send costs that answer alone; its text is not repeated."""
    refusal = pymysql.err.OperationalError(1227, "Access denied; you need s3cr3t")
    (finding,) = examine(Asked(Flavour.MARIADB, replicas=refusal), "mariadb", client_of("mariadb"))
    assert (finding.check, finding.severity) == ("replicas", Severity.UNSEEN)
    assert "1227 ER_SPECIFIC_ACCESS_DENIED_ERROR" in finding.found
    assert "s3cr3t" not in repr(finding)


def test_examine_goes_on_after_a_statement_that_took_too_long() -> None:
    """A look that the server cut short is not seen, and the others are."""
    interrupted = sqlite3.OperationalError("interrupted")
    interrupted.sqlite_errorcode, interrupted.sqlite_errorname = 9, "SQLITE_INTERRUPT"
    (finding,) = examine(Asked(Flavour.SQLITE, quick_check=interrupted), "sqlite", client_of("sqlite"))
    assert (finding.check, finding.severity) == ("integrity", Severity.UNSEEN)


@pytest.mark.parametrize(
    "error", [pymysql.err.OperationalError(2013, "Lost connection"), ConnectionResetError(), ZeroDivisionError()]
)
def test_examine_stops_where_there_is_nobody_to_ask(error: Exception) -> None:
    """A lost connection, or a defect, is raised and not taken for an answer."""
    with pytest.raises(type(error)):
        examine(Asked(Flavour.MARIADB, tables=error), "mariadb", client_of("mariadb"))


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ("evs.suspect_timeout = PT5S", 5.0),
        ("a = b; evs.suspect_timeout = PT1M30S; c = d", 90.0),
        ("evs.suspect_timeout=PT0.5S", 0.5),
        ("evs.suspect_timeout = PT2M", 120.0),
        ("xevs.suspect_timeout = PT9S", 5.0),
        ("evs.suspect_timeout = nonsense", 5.0),
        ("", 5.0),
    ],
)
def test_suspect_timeout_is_read(options: str, seconds: float) -> None:
    """Periods as Galera writes them; its default where there is none."""
    assert suspect_timeout_s(options) == seconds


MOUNTS = """\
/dev/vda1 / ext4 rw,relatime 0 0
tmpfs /run tmpfs rw 0 0
filer:/data /srv/app\\040data nfs4 rw,vers=4.2 0 0
/dev/vdb1 /srv/app\\040data/local xfs rw 0 0
broken
overlay /over ext4 rw 0 0
overlay /over overlay rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/app data/shop.db", "nfs4"),
        ("/srv/app data/local/shop.db", "xfs"),
        ("/srv/app datax/shop.db", "ext4"),
        ("/run/shop.db", "tmpfs"),
        ("/over/shop.db", "overlay"),
    ],
)
def test_file_system_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    """The longest mount point counts, spaces are read, a later mount hides an earlier one."""
    assert file_system_of(path, MOUNTS) == kind


def test_unknown_file_system_is_none() -> None:
    """Without a table of mounts there is no answer."""
    assert file_system_of("/srv/shop.db", "") is None


def test_long_lists_are_cut() -> None:
    """A hundred tables are told as five and a number."""
    assert shown([f"t{n:03}" for n in range(100)]) == "t000, t001, t002, t003, t004 and 95 more"
