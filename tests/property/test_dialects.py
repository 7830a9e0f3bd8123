"""`classify` answers for anything that can be raised."""

from __future__ import annotations

import asyncio
import sqlite3

import psycopg
import psycopg.errors
import psycopg2
import pymysql.err
import sqlalchemy.exc
from hypothesis import given
from hypothesis import strategies as st

from holdfast.dialects import Flavour, classify
from holdfast.errors import error_for
from holdfast.outcome import FailureClass, Stage
from tests.driver_errors import MYSQL_DRIVERS, POSTGRESQL_DRIVERS, SQLITE_DRIVERS

CANARY = "s3cr3t"
stages = st.sampled_from(list(Stage))
flavours = st.none() | st.sampled_from(list(Flavour))
texts = st.text(max_size=60) | st.sampled_from(["Duplicate entry 'x' for key", "WSREP", "\nDETAIL:  Key (", "column '"])
values = st.none() | st.booleans() | st.integers() | texts | st.binary(max_size=8) | st.lists(st.integers(), max_size=2)

CLASSES: list[type[BaseException]] = [
    *(pymysql.err.OperationalError, pymysql.err.InterfaceError, pymysql.err.ProgrammingError, pymysql.err.Error),
    *(psycopg.OperationalError, psycopg.errors.UniqueViolation, psycopg.DataError, psycopg2.OperationalError),
    *(sqlite3.OperationalError, sqlite3.ProgrammingError, sqlite3.IntegrityError),
    *(ConnectionError, OSError, TimeoutError, EOFError, ValueError, RuntimeError, Exception),
    *(asyncio.CancelledError, KeyboardInterrupt, GeneratorExit),
]


@st.composite
def bare_errors(draw: st.DrawFn) -> BaseException:
    """An exception of some driver or of Python with any arguments and attributes."""
    error = draw(st.sampled_from(CLASSES))(*draw(st.lists(values, max_size=3)))
    if isinstance(error, pymysql.err.Error | sqlite3.Error):
        for attribute in ("errno", "sqlstate", "sqlite_errorcode", "msg"):
            if draw(st.booleans()):
                setattr(error, attribute, draw(values))
    return error


@st.composite
def errors(draw: st.DrawFn) -> BaseException:
    """Exceptions wrapped, grouped and chained in any way, cycles included."""
    made = draw(st.lists(bare_errors(), min_size=1, max_size=4))
    for error in list(made):
        if isinstance(error, Exception) and draw(st.booleans()):
            made.append(sqlalchemy.exc.DBAPIError("SELECT 1", {}, error))
        if isinstance(error, Exception) and draw(st.booleans()):
            made.append(ExceptionGroup("group", [error]))
    for error in made:
        error.__cause__ = draw(st.none() | st.sampled_from(made))
        error.__context__ = draw(st.none() | st.sampled_from(made))
        error.__suppress_context__ = draw(st.booleans())
    return draw(st.sampled_from(made))


@given(error=errors(), stage=stages, flavour=flavours, handled=st.none() | errors())
def test_anything_raised_is_classified(
    error: BaseException, stage: Stage, flavour: Flavour | None, handled: BaseException | None
) -> None:
    """Never raises, always names the stage, and gives a refusal its kind."""
    failure = classify(error, stage=stage, flavour=flavour, handled=handled)
    assert failure.stage is stage
    assert failure.name
    assert str(failure)
    if failure.rejection is not None:
        assert failure.failure_class is FailureClass.PERMANENT
    if failure.failure_class in (FailureClass.LOST, FailureClass.UNSENT):
        assert not failure.connection_usable
    if stage is Stage.CONNECT:
        assert failure.failure_class not in (FailureClass.LOST, FailureClass.AMBIGUOUS)


@given(error=errors(), flavour=flavours)
def test_nothing_but_proof_is_believed_after_commit(error: BaseException, flavour: Flavour | None) -> None:
    """At COMMIT there are three answers: aborted by contention, refused, moved - each by a server's code - or unknown."""
    failure = classify(error, stage=Stage.COMMIT, flavour=flavour)
    if failure.failure_class is not FailureClass.AMBIGUOUS:
        assert failure.failure_class in (FailureClass.CONTENTION, FailureClass.PERMANENT, FailureClass.ROLE_CHANGED)
        assert failure.code is not None


@given(data=st.data(), stage=stages, flavour=st.sampled_from(list(Flavour)))
def test_quoted_values_never_come_out(data: st.DataObject, stage: Stage, flavour: Flavour) -> None:
    """Whatever code a server puts before a text that quotes a value, the value is in no failure and no error."""
    quoting = data.draw(
        st.sampled_from(
            [
                f"Duplicate entry '{CANARY}' for key 'users.email'",
                f"Duplicate entry '{CANARY}' for key 'a'' for key 'users.email'",
                f"Incorrect integer value: '{CANARY}' for column 'age' at row 1",
                f"Truncated incorrect DOUBLE value: '{CANARY}'",
                f'invalid input syntax for type integer: "{CANARY}"',
                f'duplicate key value violates unique constraint "a"\nDETAIL:  Key (email)=({CANARY}) already exists.',
                f'null value in column "a" of relation "b"\nDETAIL:  Failing row contains ({CANARY}).',
                f"{CANARY}",
            ]
        )
    )
    if flavour is Flavour.POSTGRESQL:
        codes = st.sampled_from(["23505", "23502", "22P02", "40001", "ZZ999", "42601"])
        error = data.draw(st.sampled_from(list(POSTGRESQL_DRIVERS.values())))(data.draw(codes), quoting)
    elif flavour is Flavour.SQLITE:
        error = SQLITE_DRIVERS["sqlite3"](data.draw(st.sampled_from([1, 5, 19, 200])), quoting)
    else:
        numbers = st.integers(1000, 2100) | st.integers(3000, 4200)
        error = data.draw(st.sampled_from(list(MYSQL_DRIVERS.values())))(data.draw(numbers), quoting)
    failure = classify(error, stage=stage, flavour=flavour)
    assert CANARY not in f"{failure!r} {failure} {error_for(failure)!r}"
