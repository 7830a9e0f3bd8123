"""`db.migrate` and `db.purge`: what they carry out, and how they fail. And whose session is open around an operation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import DDL, Column, Integer, MetaData, String, Table, UniqueConstraint, event, select, text
from sqlalchemy.orm import Session

from holdfast import within
from holdfast.drills.servers import Server
from holdfast.errors import (
    AccessDenied,
    ConfigurationError,
    Contended,
    DeadlineExceeded,
    ForeignTransaction,
    InProgress,
    NoWriter,
    SchemaMismatch,
    StatementRejected,
    Unavailable,
    UsageError,
)
from holdfast.ext.sqlalchemy import OPERATIONS, Database, DatabaseSettings
from holdfast.ext.sqlalchemy.migrate import migrate
from holdfast.ext.sqlalchemy.runtime import _PURGE_EVERY_KEYS
from holdfast.outcome import Outcome
from tests.contract.faces import ONE_A_SERVER, Base, Face, Kind, User, only, usernames

kind = only(ONE_A_SERVER)


def _ddl(statement: str) -> Any:
    return DDL(statement)  # type: ignore[no-untyped-call]


# -- migrate ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(make_face: Callable[..., Face]) -> Iterator[Face]:
    """A face whose database has Holdfast's own table, and before and after none of these tests' tables."""
    face = make_face()
    drop_all(face)
    face.wait(face.db.migrate())
    yield face
    drop_all(face)


def drop_all(face: Face) -> None:
    """Drop what these tests create."""
    for table in ("upkeep_events", "upkeep_things", "upkeep_second", OPERATIONS.name):
        face.run(
            lambda session, name=table: session.execute(text(f"DROP TABLE IF EXISTS {name}")) and None, protect=False
        )


def test_a_migration_runs_the_listeners_of_the_models(bare: Face) -> None:
    """Those of a table, and those of the metadata; and the names that its convention gives are in the database."""
    metadata = MetaData(naming_convention={"uq": "uq_%(table_name)s_%(column_0_name)s"})
    things = Table(
        "upkeep_things", metadata, Column("id", Integer, primary_key=True), Column("name", String(20), unique=True)
    )
    event.listen(things, "after_create", _ddl("CREATE TABLE upkeep_events (id INTEGER)"))
    heard: list[Any] = []
    event.listen(metadata, "after_create", lambda target, _connection, **_: heard.append(target))

    report = bare.wait(bare.db.migrate(metadata))

    assert heard == [metadata]
    assert bare.read(lambda session: session.execute(text("SELECT COUNT(*) FROM upkeep_events")).scalar()) == 0
    assert "uq_upkeep_things_name" in str(report)
    assert bare.wait(bare.db.migrate(metadata)).statements == ()
    assert OPERATIONS.metadata is not metadata
    assert OPERATIONS.name not in metadata.tables


def test_models_that_have_the_key_table_themselves_are_migrated_as_they_are(bare: Face) -> None:
    """It is not created twice."""
    metadata = MetaData()
    OPERATIONS.to_metadata(metadata)
    bare.wait(bare.db.migrate(metadata))
    assert bare.wait(bare.db.migrate(metadata)).statements == ()


def test_a_change_that_the_server_refuses_is_a_typed_error(bare: Face) -> None:
    """It says what stays: nothing where changes of the schema are part of a transaction."""
    metadata = MetaData()
    Table("upkeep_things", metadata, Column("id", Integer, primary_key=True), UniqueConstraint("id", name="once"))
    second = Table("upkeep_second", metadata, Column("id", Integer, primary_key=True))
    event.listen(second, "before_create", _ddl("CREATE TABLE nonsense here"))
    event.listen(second, "before_create", _ddl("DROP TABLE upkeep_no_such_table"))
    second.add_is_dependent_on(metadata.tables["upkeep_things"])

    with pytest.raises(StatementRejected, match="migrate: ") as caught:
        bare.wait(bare.db.migrate(metadata))

    keeps = bare.kind.server in ("mariadb", "mysql")
    assert caught.value.outcome is (Outcome.UNKNOWN if keeps else Outcome.NOT_COMMITTED)
    assert ("what ran before it stays" in str(caught.value)) is keeps


def test_what_is_no_metadata_is_refused(bare: Face) -> None:
    """The class of the models is taken for it easily."""
    with pytest.raises(ConfigurationError, match=r"Base\.metadata"):
        bare.wait(bare.db.migrate(Base))


def test_upkeep_inside_an_operation_is_refused(bare: Face) -> None:
    """It would wait for the transaction that is open, which waits for it."""

    def sync(_tx: Any, call: Callable[[], Any]) -> None:
        call()

    async def asynchronous(_tx: Any, call: Callable[[], Any]) -> None:
        await call()

    for call in (bare.db.migrate, bare.db.purge):
        with pytest.raises(UsageError, match="in a transaction of its own"):
            bare.wait(bare.db.run(asynchronous if bare.kind.asynchronous else sync, call))


# -- what cannot be reached ------------------------------------------------------------------------------------------------


def test_an_unreachable_server_is_named_with_the_cure(make_face: Callable[..., Face], kind: Kind, url: str) -> None:
    """Whatever was asked for: host and port are named, or the file; no user and no password."""
    if kind.server == "sqlite":
        away, named = f"sqlite+{kind.driver}:////no-such-folder/x.db", "/no-such-folder/x.db"
    else:
        backend = url.partition(":")[0]
        away, named = f"{backend}://hidden:geheim@127.0.0.1:1/x", "127.0.0.1:1"
    face = make_face(DatabaseSettings(deadline=1.0), url=away)
    before = threading.enumerate()
    for call in (
        face.db.migrate,
        partial(face.db.migrate, dry_run=True),
        face.db.purge,
        partial(face.db.save, User(username="ada", age=1)),
    ):
        with pytest.raises((Unavailable, NoWriter, DeadlineExceeded), match="see that it") as caught:
            face.wait(call())
        assert named in str(caught.value)
        assert not {"hidden", "geheim"} & set(str(caught.value).replace(":", " ").split())
    if kind.driver == "aiosqlite":  # its threads still have something to say to the loop, which must not be closed yet
        for thread in set(threading.enumerate()) - set(before):
            face.wait(asyncio.to_thread(thread.join, 2.0))


def test_a_wrong_password_stops_a_migration_with_the_cure(
    make_face: Callable[..., Face], kind: Kind, request: pytest.FixtureRequest
) -> None:
    """Permanent, and typed like any other operation's."""
    if kind.server == "sqlite":
        pytest.skip("SQLite has no passwords")
    server: Server = request.getfixturevalue(f"{kind.server}_server")
    face = make_face(url=server.url(kind.driver).replace(server.password, "not-the-password"))
    for call in (face.db.migrate, face.db.purge):
        with pytest.raises(AccessDenied, match="password") as caught:
            face.wait(call())
        assert "not-the-password" not in f"{caught.value} {caught.value!r}"


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    """A file for SQLite."""
    return tmp_path / "upkeep.db"


def test_a_file_that_is_no_database_is_called_that(sqlite_path: Path) -> None:
    """It does exist."""
    sqlite_path.write_text("certainly no database" * 99)
    with Database(f"sqlite:///{sqlite_path}") as db:
        for call in (db.migrate, db.purge, lambda: db.save(User(username="ada", age=1))):
            with pytest.raises(SchemaMismatch, match="no SQLite database"):
                call()


def test_purging_without_the_table_names_the_cure(sqlite_path: Path) -> None:
    """As for every operation that needs it."""
    with Database(f"sqlite:///{sqlite_path}") as db, pytest.raises(SchemaMismatch, match="migrate"):
        db.purge()


def test_upkeep_waits_no_longer_than_its_caller(sqlite_path: Path) -> None:
    """A file that somebody else writes to: the text does not say that it is being migrated."""
    url = f"sqlite:///{sqlite_path}"
    with Database(url, DatabaseSettings(deadline=0.3)) as db, Database(url) as other:
        db.migrate()
        with other.engine.connect() as writing:
            writing.exec_driver_sql("SELECT 1")
            with pytest.raises(Contended):
                db.purge()
            with pytest.raises(InProgress, match=r"still writing to this database file.* 0\.1 s"):
                db.migrate(lock_wait=0.1)
            with within(0.1), pytest.raises(InProgress):
                db.migrate()
            with within(0.1), pytest.raises(InProgress):
                migrate(db.engine, Base.metadata)


# -- when expired keys are removed -----------------------------------------------------------------------------------------


def test_workers_that_use_few_keys_purge_now_and_then_as_well(sqlite_path: Path) -> None:
    """The count starts anywhere: of many that use one key each some are due."""
    due = []
    for draw in (0.0, 0.5, 0.999):
        with Database(f"sqlite:///{sqlite_path}", random=lambda draw=draw: draw) as db:  # type: ignore[misc]
            runtime = db._runtime
            runtime._purge_in_background = lambda draw=draw: due.append(draw)  # type: ignore[method-assign, misc]
            runtime.purge_when_due()
            runtime.count_key()
            runtime.purge_when_due()
    assert due == [0.999]


@pytest.mark.parametrize("as_block", [False, True], ids=["function", "block"])
def test_every_key_row_brings_the_purge_nearer(bare: Face, as_block: bool) -> None:
    """Those of operations inside of one that has none are as many; who comes next sees that it is due."""
    runtime = bare.db._runtime
    due: list[str] = []
    runtime._purge_in_background = lambda: due.append("purge")
    runtime._keys_used = _PURGE_EVERY_KEYS - 3
    operation = bare.db.transaction(bare.function(lambda _tx, value: value), name="inner")

    def outer(_tx: Session) -> None:
        for key in "abc":
            operation.keyed(key)(1)

    async def outer_async(_tx: Any) -> None:
        for key in "abc":
            await operation.keyed(key)(1)

    async def block_async() -> None:
        async with bare.db.begin(protect=False) as tx:
            await outer_async(tx)

    if not as_block:
        bare.wait(bare.db.transaction(outer_async if bare.kind.asynchronous else outer, protect=False)())
    elif bare.kind.asynchronous:
        bare.wait(block_async())
    else:
        bare.block(outer, protect=False)
    bare.read(lambda _tx: None)
    assert due == ["purge"]


def test_blocks_purge_now_and_then_as_well(make_face: Callable[..., Face]) -> None:
    """They use keys like any operation: a program that has nothing else would keep them for ever."""
    face = make_face()
    face.fresh(Base.metadata)
    due: list[int] = []
    runtime = face.db._runtime
    runtime._keys_used, runtime._purge_in_background = _PURGE_EVERY_KEYS - 1, lambda: due.append(1)
    face.block(lambda session: session.add(User(username="ada", age=1)))
    assert due == ([] if face.kind.server == "postgresql" else [1])  # which needs no key


# -- sessions of the caller's ----------------------------------------------------------------------------------------------


def test_a_session_is_seen_though_another_one_came_and_went(bare: Face) -> None:
    """All that are open count, not the last one alone."""

    def synchronous() -> None:
        with bare.db.engine.connect() as first:
            first.execute(select(1))
            first.rollback()
            with bare.db.engine.connect():
                pass
            bare.db.run(lambda _tx: None)

    async def asynchronous() -> None:
        async with bare.db.engine.connect() as first:
            await first.execute(select(1))
            await first.rollback()
            async with bare.db.engine.connect():
                pass
            await bare.db.run(bare.function(lambda _tx: None))

    with pytest.raises(ForeignTransaction):
        if bare.kind.asynchronous:
            bare.wait(asynchronous())
        else:
            synchronous()
    bare.run(lambda _tx: None)


def test_a_session_of_another_database_is_nobodys_business(sqlite_path: Path, tmp_path: Path) -> None:
    """The refusal is about the same database."""
    with Database(f"sqlite:///{sqlite_path}") as db, Database(f"sqlite:///{tmp_path / 'other.db'}") as other:
        db.migrate(Base.metadata)
        with Session(other.engine) as session:
            session.execute(select(1))
            db.save(User(username="ada", age=1))
        assert db.read(usernames) == ["ada"]
