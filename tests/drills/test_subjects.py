"""The subjects, on SQLite: each tells its callers what its kind of code believes, and a fault at the worst moment shows it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast.drills.arrivals import arriving, watch
from holdfast.drills.history import RETRY_AFTER, SHED, Answer
from holdfast.drills.subjects import SUBJECTS, Remote, Subject, Terms, check_subject, open_subject, with_driver
from holdfast.drills.subjects.app import AppSubject, opener_named
from holdfast.drills.workloads import Call, TableWorkload, workload_named
from holdfast.errors import ConfigurationError, NotCommitted, OutcomeUnknown
from holdfast.ext.sqlalchemy import Database
from holdfast.ext.sqlalchemy.faults import Fault, inject
from tests.drills import saving_app

TERMS = Terms(deadline_s=30.0, connections=4)
LOCAL = [name for name, kind in SUBJECTS.items() if not issubclass(kind, Remote)]
OURS = [name for name in LOCAL if name.startswith("holdfast")]


@asynccontextmanager
async def subject_on(
    tmp_path: Path, name: str, workload_name: str = "set", terms: Terms = TERMS
) -> AsyncIterator[Subject]:
    url = f"sqlite:///{tmp_path / 'subject.db'}"
    workload = workload_named(workload_name)
    assert isinstance(workload, TableWorkload)
    with Database(url) as db:
        db.migrate(workload.metadata)
        db.run(workload.set_up)
    subject = open_subject(name, url, workload, terms)
    try:
        yield subject
    finally:
        await subject.close()


def rows(tmp_path: Path, workload_name: str = "set") -> list[str]:
    workload = workload_named(workload_name)
    assert isinstance(workload, TableWorkload)
    with Database(f"sqlite:///{tmp_path / 'subject.db'}") as db:
        return list(db.read(workload.final)["ids"])


def insert(name: str = "a") -> Call:
    return Call("insert", {"id": name}, f"key-{name}")


def once(fault: Fault) -> list[Fault | None]:
    return [fault]


@pytest.mark.parametrize("name", LOCAL)
async def test_what_works_is_told(tmp_path: Path, name: str) -> None:
    """Without faults every subject saves once, at the first attempt, and leaves no connection in use."""
    async with subject_on(tmp_path, name) as subject:
        reply = await subject.perform(insert())
        assert (reply.answer, reply.value, reply.attempts, reply.error) == (Answer.OK, {"id": "a"}, 1, None)
        assert subject.checked_out == 0
    assert rows(tmp_path) == ["a"]


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE_COMMIT, Fault.LOST_AFTER_COMMIT])
@pytest.mark.parametrize("name", OURS)
async def test_holdfast_saves_once_and_says_so(tmp_path: Path, name: str, fault: Fault) -> None:
    """Whatever became of the COMMIT, the row is there once, and the reply tells what was met on the way."""
    async with subject_on(tmp_path, name) as subject:
        assert subject.engine is not None
        fates = once(fault)
        with inject(subject.engine, lambda: fates.pop() if fates else None):
            reply = await subject.perform(insert())
    assert reply.answer is Answer.OK
    assert reply.failure is not None
    assert reply.how()["stage"] == "commit"
    assert reply.how()["failure_class"] == "ambiguous"
    assert rows(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("name", "fault", "answer", "times"),
    [
        ("plain", Fault.LOST_BEFORE_COMMIT, Answer.FAIL, 0),
        ("plain", Fault.LOST_AFTER_COMMIT, Answer.FAIL, 1),
        ("tenacity", Fault.LOST_BEFORE_COMMIT, Answer.OK, 1),
        ("tenacity", Fault.LOST_AFTER_COMMIT, Answer.OK, 2),
        ("tenacity-commit", Fault.LOST_AFTER_COMMIT, Answer.FAIL, 1),
    ],
)
async def test_the_others_tell_what_they_believe(
    tmp_path: Path, name: str, fault: Fault, answer: Answer, times: int
) -> None:
    """SQLAlchemy alone calls a save failed that is there; retried as a whole it is there twice."""
    async with subject_on(tmp_path, name) as subject:
        assert subject.engine is not None
        fates = once(fault)
        with inject(subject.engine, lambda: fates.pop() if fates else None):
            reply = await subject.perform(insert())
    assert reply.answer is answer
    assert rows(tmp_path) == ["a"] * times


@pytest.mark.parametrize("name", LOCAL)
async def test_a_refusal_is_no_failure_of_the_database(tmp_path: Path, name: str) -> None:
    """What the workload refuses was not done, and no class or code blames the server."""
    async with subject_on(tmp_path, name, "bank") as subject:
        reply = await subject.perform(Call("transfer", {"from": 0, "to": 1, "amount": 101, "id": "a"}, "key-a"))
    assert reply.answer is Answer.FAIL
    assert reply.error == "Refused"
    assert (reply.how()["failure_class"], reply.how()["code"]) == (None, None)


@pytest.mark.parametrize("name", [name for name in LOCAL if SUBJECTS[name].keyed])
async def test_the_same_key_is_the_same_operation(tmp_path: Path, name: str) -> None:
    """A keyed subject saves once for a key and a tenant, and returns the first result again."""
    async with subject_on(tmp_path, name, "replay") as subject:
        calls = [
            Call("keyed", {"id": f"{who}-1", "tenant": who, "key_hash": ""}, "key-1", who)
            for who in ("red", "blue", "red")
        ]
        replies = [await subject.perform(call) for call in calls]
    assert replies[0].value == replies[2].value != replies[1].value


@pytest.mark.parametrize("name", LOCAL)
async def test_reads_are_told_as_well(tmp_path: Path, name: str) -> None:
    """A read returns what it saw."""
    async with subject_on(tmp_path, name, "bank") as subject:
        reply = await subject.perform(Call("read-bank", {}, "key-a", reads=True))
    assert reply.answer is Answer.OK
    assert reply.value is not None
    assert sum(reply.value["balances"].values()) == 800


class Telling:
    """An app that fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def save(self, identity: str, key: str) -> None:
        raise self._error

    def effects(self) -> dict[str, int]:
        return {}


@pytest.mark.parametrize(
    ("error", "answer"),
    [(NotCommitted("no"), Answer.FAIL), (OutcomeUnknown("who knows"), Answer.INFO), (RuntimeError("no"), Answer.FAIL)],
)
async def test_an_apps_errors_are_read_as_its_callers_would(error: Exception, answer: Answer) -> None:
    """Holdfast's errors say what became of the save; any other is taken for a failure."""
    subject = AppSubject("sqlite://", lambda _url: Telling(error), TERMS)
    reply = await subject.perform(Call("keyed", {"id": "a"}, "key-a"))
    assert (reply.answer, reply.error) == (answer, type(error).__name__)


async def test_an_app_saves_and_counts(tmp_path: Path) -> None:
    """The app makes its own tables, saves under the key it is given, and is asked what is there."""
    url = f"sqlite:///{tmp_path / 'app.db'}"
    subject = open_subject("app", url, workload_named("app"), TERMS, app=f"{saving_app.__name__}:Careful")
    assert isinstance(subject, Remote)
    try:
        await subject.set_up()
        calls = [Call("keyed", {"id": name, "tenant": "", "key_hash": ""}, f"key-{name}") for name in ("a", "b", "a")]
        replies = [await subject.perform(call) for call in calls]
        assert [reply.answer for reply in replies] == [Answer.OK] * 3
        assert replies[0].value == replies[2].value != replies[1].value
        assert await subject.final() == {"effects": {"a": 1, "b": 1}}
    finally:
        await subject.close()


@pytest.mark.parametrize(
    ("name", "workload", "app", "text"),
    [
        ("magic", "set", None, "choose holdfast"),
        ("app", "set", "a:b", "take the workload 'app'"),
        ("plain", "http", None, "take the subject 'http'"),
        ("app", "app", None, "write module:function"),
        ("app", "app", "no_such_module_anywhere:f", "cannot be imported"),
        ("app", "app", "json:no_such_function", "no function"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, workload: str, app: str | None, text: str) -> None:
    """The error says what would fit."""
    with pytest.raises(ConfigurationError, match=text):
        check_subject(name, workload, app)


def test_an_app_without_the_methods_is_refused() -> None:
    """The error names the methods."""
    with pytest.raises(ConfigurationError, match="no method save and no method effects"):
        open_subject("app", "sqlite://", workload_named("app"), TERMS, app=f"{saving_app.__name__}:not_an_app")


@pytest.mark.parametrize(
    ("url", "asynchronous", "expected"),
    [
        ("mysql://a@h/d", True, "mysql+asyncmy://a@h/d"),
        ("mysql+pymysql://a@h/d", True, "mysql+asyncmy://a@h/d"),
        ("mysql+aiomysql://a@h/d", True, "mysql+aiomysql://a@h/d"),
        ("mariadb+asyncmy://a@h1:1,h2/d", False, "mariadb+pymysql://a@h1:1,h2/d"),
        ("postgresql+psycopg://h/d", True, "postgresql+psycopg://h/d"),
        ("postgresql+asyncpg://h/d", False, "postgresql+psycopg://h/d"),
        ("sqlite:///f.db", True, "sqlite+aiosqlite:///f.db"),
    ],
)
def test_a_driver_of_the_right_kind_is_found(url: str, asynchronous: bool, expected: str) -> None:
    """A driver that fits is kept, another one replaced; whatever stands behind it stays."""
    assert with_driver(url, asynchronous=asynchronous) == expected


def test_a_url_of_something_else_is_refused() -> None:
    """The error names what there are drills for, and not the URL."""
    with pytest.raises(ConfigurationError, match="mysql://") as raised:
        with_driver("oracle://scott:tiger@h/d", asynchronous=True)
    assert "tiger" not in str(raised.value)


@pytest.mark.parametrize("name", [name for name, kind in SUBJECTS.items() if kind.has_limit])
async def test_who_is_turned_away_is_told_when_to_come_again(tmp_path: Path, name: str) -> None:
    """With the limit on, what has no room is refused before it holds anything, and the history knows the time it was told."""
    async with subject_on(tmp_path, name, terms=Terms(deadline_s=30.0, connections=1, limit="on")) as subject:
        replies = await asyncio.gather(*(subject.perform(insert(str(number))) for number in range(8)))
    shed = [reply for reply in replies if reply.error == SHED]
    done = [reply for reply in replies if reply.answer is Answer.OK]
    assert len(shed) + len(done) == 8
    assert done
    assert all(reply.answer is Answer.FAIL and reply.value and reply.value[RETRY_AFTER] > 0 for reply in shed)
    assert shed


async def test_who_is_being_connected_has_come_to_the_wire(tmp_path: Path) -> None:
    """An operation for which a connection was opened is told from one that got it from the pool."""
    async with subject_on(tmp_path, "holdfast") as subject:
        assert subject.engine is not None
        watch(subject.engine)
        with arriving() as first:
            await asyncio.create_task(subject.perform(insert("a")))
        with arriving() as second:
            await asyncio.create_task(subject.perform(insert("b")))
    assert (first.connecting, second.connecting) == (True, False)


def test_an_app_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed command looks only where it lies itself. A function that has to be awaited is refused with the cure."""
    (tmp_path / "shop_of_this_test.py").write_text("def open_app(url): ...\nasync def open_later(url): ...\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    assert opener_named("shop_of_this_test:open_app")("sqlite://") is None
    with pytest.raises(ConfigurationError, match="set_up"):
        opener_named("shop_of_this_test:open_later")


async def test_effects_of_an_app_are_counted_by_id() -> None:
    """A list would not say how often each is there."""

    class Listing:
        async def save(self, identity: str, key: str) -> None: ...

        async def effects(self) -> list[str]:
            return ["a"]

    subject = AppSubject("sqlite://", lambda _url: Listing(), TERMS)
    with pytest.raises(ConfigurationError, match="list"):
        await subject.final()
