"""Whatever a person pastes, the code in it is found, and the work is linear in its length."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import exc

from holdfast.dialects import Flavour, pasted
from holdfast.dialects.pasted import EXCERPT, Pasted, read_pasted
from holdfast.dialects.prose import describe
from tests.driver_errors import MYSQL_DRIVERS, POSTGRESQL_DRIVERS, SQLITE_DRIVERS

DATA = Path(__file__).parent.parent / "data"
SAMPLES: dict[str, list[dict[str, Any]]] = json.loads((DATA / "error_samples.json").read_text(encoding="utf-8"))

FAMILY = (Flavour.MYSQL, Flavour.MARIADB)
ALL = tuple(Flavour)
PG = (Flavour.POSTGRESQL,)
LITE = (Flavour.SQLITE,)


@pytest.mark.parametrize(
    ("text", "code", "flavours"),
    [
        ("1205", "1205", ALL),
        (" 1205\n", "1205", ALL),
        ("-1", "-1", ALL),
        ("5", "5", ALL),
        ("40001", "40001", ALL),
        ("40p01", "40P01", ALL),
        ("08", "08", ALL),
        ("SQLITE_BUSY", "5", LITE),
        ("SQLITE_BUSY_SNAPSHOT", "517", LITE),
        ("ER_LOCK_DEADLOCK", "1213", FAMILY),
        ("CR_SERVER_LOST", "2013", FAMILY),
        ("serialization_failure", "40001", PG),
        ("SerializationFailure", "40001", PG),
        ("UniqueViolationError", "23505", PG),
        ("(1213, 'Deadlock found when trying to get lock')", "1213", FAMILY),
        ("pymysql.err.OperationalError: (1213, 'Deadlock found')", "1213", FAMILY),
        ("(pymysql.err.IntegrityError) (1062, \"Duplicate entry '1213' for key 'PRIMARY'\")", "1062", FAMILY),
        ("(pymysql.err.InterfaceError) (0, '')", "0", FAMILY),
        ("(1290, 'The MariaDB server is running with the --read-only option')", "1290", (Flavour.MARIADB,)),
        ("ERROR 1205 (HY000): Lock wait timeout exceeded", "1205", FAMILY),
        ("ERROR 1205 (HY000) at line 1213: Lock wait timeout exceeded", "1205", FAMILY),
        ("mysql.connector.errors.InternalError: 1213 (40001): Deadlock found", "1213", FAMILY),
        ("SQLSTATE[40001]: Serialization failure: 1213 Deadlock found", "1213", FAMILY),
        ("SQLSTATE[HY000] [2002] Connection refused", "2002", FAMILY),
        ("psycopg.errors.SerializationFailure: could not serialize access due to concurrent update", "40001", PG),
        ("asyncpg.exceptions.DeadlockDetectedError: deadlock detected", "40P01", PG),
        ("(psycopg.errors.LockNotAvailable) canceling statement due to lock timeout", "55P03", PG),
        ("ERROR:  40001: could not serialize access", "40001", PG),
        ("ERROR:  deadlock detected\nDETAIL:  Process 1205 waits for ShareLock", "40P01", PG),
        ("could not connect (SQLSTATE: 57P03)", "57P03", PG),
        ('connection to server at "127.0.0.1", port 5432 failed: FATAL:  sorry, too many clients already', "53300", PG),
        ('connection to server at "127.0.0.1", port 5432 failed: Connection refused', "08001", PG),
        ("sqlite3.OperationalError: database is locked", "5", LITE),
        ("(sqlite3.IntegrityError) UNIQUE constraint failed: users.email", "2067", LITE),
        ("sqlite3.OperationalError: no such table: users", "1", LITE),
        ("[InnoDB] transaction ended with 1213", "1213", FAMILY),
        ("the server answered 40001", "40001", PG),
        (
            "(psycopg.errors.UndefinedFunction) function f does not exist\n[SQL: x]\n[parameters: (5, '40001')]",
            "42883",
            PG,
        ),
        ("(psycopg.errors.Unheard) what?\n[SQL: SELECT 1213]\n[parameters: (5, '40001')]", None, PG),
        ("hello world", None, ALL),
        ("at line 9999", None, ALL),
        ("", None, ALL),
    ],
)
def test_code_is_found(text: str, code: str | None, flavours: tuple[Flavour, ...]) -> None:
    """The code, and whose it can be."""
    found = read_pasted(text)
    assert (found.code, found.flavours) == (code, flavours)


def samples() -> list[Any]:
    """(flavour, sample) for every sample of every flavour."""
    found = []
    for flavour in Flavour:
        family = SAMPLES["mysql family"] if flavour in FAMILY else []
        found += [
            pytest.param(flavour, sample, id=f"{flavour}-{sample['code']}-{sample['message'][:20]}")
            for sample in [*family, *SAMPLES[flavour]]
        ]
    return found


def wrapped(error: Exception) -> str:
    """The error as SQLAlchemy prints it, with the statement in which it came."""
    return str(exc.DBAPIError.instance("UPDATE t SET a = 1213", {"b": "40001"}, error, Exception))


@pytest.mark.parametrize(("flavour", "sample"), samples())
def test_what_drivers_print_is_understood(flavour: Flavour, sample: dict[str, Any]) -> None:
    """Printed by the driver or by SQLAlchemy: the same code, and of several meanings the one the message has."""
    drivers: dict[Flavour, Any] = {
        Flavour.POSTGRESQL: POSTGRESQL_DRIVERS["psycopg"],
        Flavour.SQLITE: SQLITE_DRIVERS["sqlite3"],
    }
    error = drivers.get(flavour, MYSQL_DRIVERS["pymysql"])(sample["code"], sample["message"])
    message = sample["message"].partition("\nDETAIL:")[0]
    (meant,) = describe(str(sample["code"]), (flavour,), message)
    for text in (f"{type(error).__module__}.{type(error).__name__}: {error}", wrapped(error)):
        found = read_pasted(text)
        if flavour in FAMILY:
            assert found.code == str(sample["code"])
            (told,) = describe(found.code, (flavour,), found.message)
            assert (told.name, told.meaning) == (meant.name, meant.meaning)
        elif found.code is not None and flavour is Flavour.POSTGRESQL:
            # psycopg prints no code. Its classes are named after them, and it has none for some: then the text must do.
            assert found.code[:2] == sample["code"][:2]
        elif found.code is not None:
            # sqlite3 prints the text alone, which often belongs to the primary code.
            assert int(found.code) & 0xFF == sample["code"] & 0xFF


def test_first_error_of_a_traceback_counts() -> None:
    """In a chain the first is the cause: 1213, not the savepoint that went with it."""
    text = (
        "pymysql.err.OperationalError: (1213, 'Deadlock found')\n\nDuring handling of the above exception, another exception "
        "occurred:\n\npymysql.err.OperationalError: (1305, 'SAVEPOINT sa_savepoint_1 does not exist')"
    )
    assert read_pasted(text).code == "1213"


def test_message_decides_what_a_number_means() -> None:
    """The words behind the code choose among its meanings; the values in them are not kept in `repr`."""
    found = read_pasted("(1305, 'SAVEPOINT s3cr3t does not exist')")
    (told,) = describe(found.code or "", found.flavours, found.message)
    assert "savepoint" in told.meaning
    assert "s3cr3t" not in repr(found)


# -- linear work ---------------------------------------------------------------------------------------------------------

PATTERNS = {name: value for name, value in vars(pasted).items() if isinstance(value, re.Pattern)} | {
    f"{name}[{n}]": item[0] if isinstance(item, tuple) else item
    for name in ("_NUMBERED", "_STATED", "_HINTS")
    for n, item in enumerate(vars(pasted)[name])
}
LONGEST = 1_000
"""No pattern may look at more characters than this from one place."""


def reach(pattern: re.Pattern[str]) -> int:
    """How many characters a pattern can look at from one place."""
    parser: Any = import_module("re._parser")
    width: int = parser.parse(pattern.pattern).getwidth()[1]
    return width


def nested(pattern: re.Pattern[str]) -> bool:
    """Whether a repetition stands inside another: then the ways to match multiply."""
    parser: Any = import_module("re._parser")

    def repeats(tree: Any, inside: bool) -> bool:
        for operator, argument in tree:
            many = str(operator) in ("MAX_REPEAT", "MIN_REPEAT") and argument[1] > 1
            if many and inside:
                return True
            parts = argument if isinstance(argument, (list, tuple)) else [argument]
            for part in parts:
                trees = part if isinstance(part, list) else [part]
                if any(isinstance(tree, parser.SubPattern) and repeats(tree, inside or many) for tree in trees):
                    return True
        return False

    return repeats(parser.parse(pattern.pattern), inside=False)


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_every_pattern_looks_a_bounded_way_ahead(name: str) -> None:
    """From each place a fixed number of characters, and no repetition in a repetition: so the work is linear."""
    assert reach(PATTERNS[name]) <= LONGEST
    assert not nested(PATTERNS[name])


@pytest.mark.parametrize("planted", [r"SAVEPOINT .* does", r"\(\d+, ", r"a{1,60}b*"])
def test_planted_unbounded_pattern_is_found(planted: str) -> None:
    """A star or a plus is told."""
    assert reach(re.compile(planted)) > LONGEST


def test_planted_nested_repetition_is_found() -> None:
    """The classic of patterns that take for ever is told."""
    assert nested(re.compile(r"(?:a{1,9}){1,9}b"))
    assert not nested(re.compile(r"(?:ab?){1,9}"))


def test_every_pattern_is_looked_at() -> None:
    """The test above has found the patterns of the module."""
    source = Path(pasted.__file__).read_text(encoding="utf-8")
    assert len(PATTERNS) == source.count("re.compile(") > 15


@pytest.mark.parametrize(
    "unit",
    [
        "(1305, 'SAVEPOINT ",
        "a",
        "_",
        "1",
        "SQLSTATE[",
        "psycopg.errors.",
        "ERROR 1205 (",
        "('",
        'connection to server at role "',
        "\n",
        "é",
        "A1B2C ",
    ],
)
@pytest.mark.parametrize("size", [100_000])
def test_long_adversarial_text_is_read(unit: str, size: int) -> None:
    """100 kB of whatever almost matches end, and what is kept of them is short."""
    text = unit * (size // len(unit))
    found = read_pasted(text)
    assert len(found.message) <= EXCERPT
    if found.code is not None:
        assert describe(found.code, found.flavours, found.message)


class Counting(dict[str, Pasted]):
    """A dictionary that counts how often it is asked."""

    asked = 0

    def get(self, key: str, default: Any = None) -> Any:
        type(self).asked += 1
        return super().get(key, default)


def test_lookups_grow_with_the_text_and_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as much text costs twice as many lookups of names."""
    names = Counting(pasted._names())
    monkeypatch.setattr(pasted, "_names", lambda: names)

    def lookups(size: int) -> int:
        Counting.asked = 0
        read_pasted("no_such_name " * size)
        return Counting.asked

    assert lookups(2_000) == 2 * lookups(1_000) > 0


@given(st.text(max_size=300))
def test_any_text_is_read(text: str) -> None:
    """Nothing raises, and a code that is found is explained."""
    found = read_pasted(text)
    assert found.flavours
    if found.code is not None:
        assert describe(found.code, found.flavours, found.message)
