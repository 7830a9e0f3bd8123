"""What every face keeps of the promise when the server, the network or another transaction fails it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Session

from holdfast.clock import SYSTEM_CLOCK
from holdfast.drills.servers import Server
from holdfast.errors import (
    AccessDenied,
    Conflict,
    Contended,
    DeadlineExceeded,
    HoldfastError,
    InProgress,
    NotCommitted,
    OutcomeUnknown,
    SchemaMismatch,
    Unavailable,
    UsageError,
    report_of,
)
from holdfast.events import CommitResolved, OperationEnded, PoolRetired
from holdfast.ext.sqlalchemy import DatabaseSettings, UnitSession
from holdfast.ext.sqlalchemy.unit import Unit
from holdfast.outcome import Outcome
from holdfast.stream import Event, EventStream
from tests.contract.faces import Account, Entry, Face, Kind, User, balances, usernames
from tests.servers.relay import Cut, Relay, relay_to


def book(session: Session, account: int, amount: int) -> int:
    """One countable effect; how many there are now."""
    session.add(Entry(account=account, amount=amount))
    session.flush()
    return session.scalar(select(func.count()).select_from(Entry)) or 0


def entries(session: Session) -> int:
    """How many effects there are."""
    return session.scalar(select(func.count()).select_from(Entry)) or 0


@pytest.fixture
def networked(kind: Kind) -> Kind:
    """A face with a network between it and its server."""
    if kind.server == "sqlite":
        pytest.skip("SQLite has no connection to lose")
    return kind


@pytest.fixture
def relay(networked: Kind, server: Server) -> Iterator[Relay]:
    """A relay in front of the server."""
    with relay_to(server.host, server.port) as relay:
        yield relay


@pytest.fixture
def heard() -> tuple[EventStream, list[Event]]:
    """A stream and what was heard on it."""
    stream = EventStream()
    events: list[Event] = []
    stream.subscribe(events.append)
    return stream, events


@pytest.fixture
def through(
    face: Face, make_face: Callable[..., Face], relay: Relay, server: Server, heard: tuple[EventStream, list[Event]]
) -> Face:
    """A face that reaches its server through the relay (the tables are fresh)."""
    url = face.url.replace(f":{server.port}/", f":{relay.port}/")
    return make_face(url=url, events=heard[0])


@pytest.fixture
def cut_commit(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> Callable[[Cut], None]:
    """Arms the relay for the next COMMIT: cut before it reaches the server, or after the server has answered it."""
    armed: list[Cut] = []
    sent = Unit.send_commit

    def arming(send: Callable[..., None]) -> Callable[..., None]:
        def armed_send(connection: Any) -> None:
            if armed:
                relay.cut_next_request(armed.pop())
            send(connection)

        return armed_send

    def at_commit(unit: Unit[Any], connection: Any, do_commit: Callable[..., None]) -> None:
        # Not before: in front of COMMIT other questions may be asked.
        if unit._last_words is not None:
            unit._last_words = arming(unit._last_words)
        sent(unit, connection, arming(do_commit))

    monkeypatch.setattr(Unit, "send_commit", at_commit)
    return armed.append


def disarm_on_discard(relay: Relay, stream: EventStream) -> None:
    """The relay cuts one connection and lets the next ones through."""

    def hook(happened: Event) -> None:
        if type(happened).__name__ == "ConnectionDiscarded":
            relay._cut = None

    stream.subscribe(hook)


@pytest.mark.parametrize("cut", list(Cut), ids=lambda cut: cut.name.lower())
@pytest.mark.parametrize("key", [None, "request-1"], ids=["automatic", "keyed"])
def test_a_commit_whose_answer_is_lost_is_applied_exactly_once(
    face: Face,
    through: Face,
    relay: Relay,
    heard: tuple[EventStream, list[Event]],
    cut_commit: Callable[[Cut], None],
    cut: Cut,
    key: str | None,
) -> None:
    """Whether COMMIT reached the server or not, the caller gets its result and the effect is there once."""
    stream, events = heard
    disarm_on_discard(relay, stream)
    through.run(entries)  # a connection is in the pool
    cut_commit(cut)

    assert through.run(book, 1, 5, key=key) == 1

    assert face.read(entries) == 1
    resolved = [happened for happened in events if isinstance(happened, CommitResolved)]
    expected = Outcome.COMMITTED if cut is Cut.AFTER_SERVER else Outcome.NOT_COMMITTED
    assert [expected] == [happened.outcome for happened in resolved]


@pytest.mark.parametrize("cut", list(Cut), ids=lambda cut: cut.name.lower())
def test_hooks_run_once_although_the_commit_was_in_doubt(
    through: Face,
    relay: Relay,
    heard: tuple[EventStream, list[Event]],
    cut_commit: Callable[[Cut], None],
    cut: Cut,
) -> None:
    """The hooks of the attempt that was committed run, and only those."""
    disarm_on_discard(relay, heard[0])
    seen: list[int] = []
    attempts: list[int] = []

    def body(session: Session) -> None:
        attempts.append(len(attempts) + 1)
        book(session, 1, 5)
        through.db.after_commit(seen.append, attempts[-1])

    cut_commit(cut)
    through.run(body)

    assert [1 if cut is Cut.AFTER_SERVER else 2] == seen


def test_without_protection_a_lost_commit_is_reported_as_unknown(
    face: Face,
    through: Face,
    relay: Relay,
    heard: tuple[EventStream, list[Event]],
    cut_commit: Callable[[Cut], None],
) -> None:
    """Nobody asked for the means to find out, so the answer is honest: it may have been applied. Here it was."""
    disarm_on_discard(relay, heard[0])
    cut_commit(Cut.AFTER_SERVER)

    with pytest.raises(OutcomeUnknown) as caught:
        through.run(book, 1, 5, protect=False)

    assert Outcome.UNKNOWN is caught.value.outcome
    assert face.read(entries) == 1


@pytest.mark.parametrize("cut", list(Cut), ids=lambda cut: cut.name.lower())
def test_an_unknown_outcome_is_settled_by_its_key_later(
    face: Face, through: Face, relay: Relay, cut_commit: Callable[[Cut], None], cut: Cut
) -> None:
    """The server stays away until the deadline; later its key tells what became of the operation, without running it."""
    key = "k" if face.kind.server == "postgresql" else None  # there an unkeyed operation has nothing to ask by
    through.read(entries)  # connected, so that the little time goes to the operation
    cut_commit(cut)

    with pytest.raises(OutcomeUnknown) as caught:
        through.run(book, 1, 5, key=key, deadline=0.7)  # the relay goes on cutting

    applied = cut is Cut.AFTER_SERVER
    expected = Outcome.COMMITTED if applied else Outcome.NOT_COMMITTED
    assert face.wait(face.db.outcome_of(caught.value)) is expected
    assert face.read(entries) == int(applied)


def test_an_unknown_outcome_without_a_key_cannot_be_asked_for(face: Face) -> None:
    """Where nothing was written to ask by, the error says what to do the next time."""
    with pytest.raises(UsageError, match="key"):
        face.wait(face.db.outcome_of(OutcomeUnknown("unprotected")))


def test_a_block_learns_the_truth_about_its_commit(
    face: Face,
    through: Face,
    relay: Relay,
    heard: tuple[EventStream, list[Event]],
    cut_commit: Callable[[Cut], None],
) -> None:
    """A block cannot run again, but what became of its COMMIT is found out."""
    disarm_on_discard(relay, heard[0])
    cut_commit(Cut.AFTER_SERVER)
    through.block(lambda session: book(session, 1, 5))
    assert face.read(entries) == 1

    cut_commit(Cut.BEFORE_SERVER)
    with pytest.raises(NotCommitted):
        through.block(lambda session: book(session, 1, 5))
    assert face.read(entries) == 1


def kill_my_connection(session: Session, server: Server) -> None:
    """End this session's connection from the outside."""
    if server.flavour == "postgresql":
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        server.execute(f"SELECT pg_terminate_backend({pid})")
    else:
        server.execute(f"KILL {session.scalar(text('SELECT CONNECTION_ID()'))}")


def test_a_connection_killed_inside_the_body_costs_one_rerun(face: Face, networked: Kind, server: Server) -> None:
    """The work before the kill is gone with its connection; the whole unit runs again and counts once."""
    attempts: list[int] = []

    def body(session: Session) -> int:
        attempts.append(1)
        book(session, 1, 5)
        if len(attempts) == 1:
            kill_my_connection(session, server)
        return book(session, 1, 5)

    assert face.run(body) == 2
    assert (len(attempts), face.read(entries)) == (2, 2)


def test_a_save_whose_first_attempt_fails_keeps_no_generated_key(face: Face, networked: Kind, server: Server) -> None:
    """Each attempt writes a fresh copy: a key generated by a failed one is not inserted by the next."""
    attempts: list[int] = []

    def kill_the_first(session: Session, _context: Any) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            kill_my_connection(session, server)

    user = User(username="ada", age=1)
    event.listen(UnitSession, "after_flush_postexec", kill_the_first)
    try:
        saved = face.save(user)
    finally:
        event.remove(UnitSession, "after_flush_postexec", kill_the_first)

    assert len(attempts) == 2
    assert face.read(usernames) == ["ada"]
    assert saved.id == user.id == face.read(lambda session: session.scalar(select(User.id)))


def test_an_error_that_the_body_swallows_is_not_committed_over(face: Face, networked: Kind, server: Server) -> None:
    """After a kill the server has rolled back: committing what came later would be half the work."""
    attempts: list[int] = []

    def body(session: Session) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            kill_my_connection(session, server)
            with pytest.raises(Exception, match=r"."):
                session.execute(select(1))
            return
        book(session, 1, 5)

    face.run(body)
    assert (len(attempts), face.read(entries)) == (2, 1)


@pytest.mark.parametrize("times", [1, 2])
def test_what_a_failed_rollback_leaves_is_not_committed_by_the_next(face: Face, times: int) -> None:
    """Somebody's KILL QUERY hits the ROLLBACK: the transaction is still open, and must not go back to the pool with its work."""
    dialect = face.db.engine.dialect
    really_roll_back = dialect.do_rollback
    left = [face.db.engine.dialect.loaded_dbapi.OperationalError(1317, "interrupted") for _ in range(times)]

    def roll_back(connection: Any) -> None:
        if left:
            raise left.pop()
        really_roll_back(connection)

    def fail(session: Session) -> None:
        book(session, 1, 5)
        dialect.do_rollback = roll_back
        raise KeyError("the body's own")

    try:
        for _ in range(times):
            with pytest.raises(KeyError):
                face.run(fail)
    finally:
        dialect.do_rollback = really_roll_back
    assert left == []

    assert face.run(book, 2, 5) == 1
    assert face.read(entries) == 1


def test_two_operations_that_deadlock_both_succeed(face: Face) -> None:
    """Opposite lock orders: the loser is rerun as a whole, and no money is lost."""

    def transfer(session: Session, source: int, target: int) -> None:
        session.get_one(Account, source, with_for_update=True).balance -= 1
        session.flush()
        session.get_one(Account, target, with_for_update=True).balance += 1

    for _ in range(3):
        assert face.at_once(transfer, [(1, 2), (2, 1), (1, 2), (2, 1)], deadline=30.0) == [None] * 4

    assert face.read(balances) == {1: 100, 2: 100, 3: 100}


class Holder:
    """Holds a row (and whatever the body does) in a transaction of its own until let go."""

    def __init__(self, server: Server, *statements: str) -> None:
        self._connection = server.connect(database=server.database)
        cursor = self._connection.cursor()
        for statement in ("BEGIN", *statements):
            cursor.execute(statement)

    def let_go(self) -> None:
        """Roll back and close."""
        self._connection.cursor().execute("ROLLBACK")
        self._connection.close()


@pytest.fixture
def hold(networked: Kind, server: Server, face: Face) -> Iterator[Callable[..., Holder]]:
    """Makes holders; all are let go at the end."""
    holders: list[Holder] = []

    def make(*statements: str) -> Holder:
        holder = Holder(server, *statements)
        holders.append(holder)
        return holder

    yield make
    for holder in holders:
        holder.let_go()


def running_elsewhere(server: Server) -> list[tuple[Any, ...]]:
    """The sessions of the application that are executing a statement, and what the server says they do."""
    if server.flavour == "postgresql":
        return server.execute(
            "SELECT pid, now() - query_start, now() - state_change, wait_event_type, wait_event, query "
            "FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'"
        )
    return server.execute(
        "SELECT ID, TIME, STATE, INFO FROM information_schema.PROCESSLIST WHERE USER = 'app' AND COMMAND = 'Query'"
    )


@pytest.fixture
def patient(make_face: Callable[..., Face], face: Face) -> Face:
    """A face whose sessions may work for a minute, unless an operation's own deadline or end is told to the server."""
    return make_face(DatabaseSettings(deadline=60.0))


ENDS_WITHIN_S = 20.0
"""When a session must have ended: long enough for a busy machine, and far below a minute."""


def test_a_lock_wait_ends_with_the_deadline_and_leaves_nothing_running(
    patient: Face, hold: Callable[..., Holder], server: Server
) -> None:
    """The caller gets its answer in time, and the server does not go on working for it."""
    hold("UPDATE contract_accounts SET balance = balance WHERE id = 1")

    def wait_for_row(session: Session) -> None:
        session.get_one(Account, 1, with_for_update=True).balance += 1

    with pytest.raises((DeadlineExceeded, Contended)) as caught:
        patient.run(wait_for_row, deadline=1.0)

    report = report_of(caught.value)
    assert report is not None
    # The promise is 0.25 s, which the drills measure; a busy machine takes longer.
    assert report.elapsed_s < 1.0 + 0.25 + 5.0
    give_up_at = SYSTEM_CLOCK.monotonic() + ENDS_WITHIN_S
    while (running := running_elsewhere(server)) and SYSTEM_CLOCK.monotonic() < give_up_at:
        SYSTEM_CLOCK.sleep(0.1)
    assert running == []


def test_a_key_held_elsewhere_until_the_deadline_is_in_progress(
    face: Face, hold: Callable[..., Holder], server: Server
) -> None:
    """The second caller waits for the first; if that takes too long it says so, and nothing was applied."""
    face.run(book, 1, 5, key="warm-up")  # the statements are prepared
    quoted = '"key"' if server.flavour == "postgresql" else "`key`"
    hold(
        f"INSERT INTO holdfast_operations (scope, {quoted}, fingerprint, attempt, created, expires) "
        "VALUES ('book', 'taken', 'f', 1, 0, 9999999999)"
    )

    with pytest.raises(InProgress, match="same key"):
        face.run(book, 1, 5, key="taken", scope="book", deadline=1.2)
    assert face.read(entries) == 1


def test_a_server_that_stops_taking_writes_is_unavailable_and_comes_back(
    face: Face, make_face: Callable[..., Face], networked: Kind, server: Server, heard: tuple[EventStream, list[Event]]
) -> None:
    """A change of role retires the pool and is waited out; when the server is writable again so is the next operation."""
    stream, events = heard
    other = make_face(DatabaseSettings(deadline=3.0), events=stream)
    setting, value = {
        "postgresql": ("default_transaction_read_only", "on"),
        "mariadb": ("read_only", 1),
        "mysql": ("read_only", 1),
    }[server.flavour]
    if server.flavour == "postgresql":

        def read_only(session: Session) -> None:
            session.execute(text("SET TRANSACTION READ ONLY"))
            book(session, 1, 5)

        with pytest.raises(Unavailable):
            other.run(read_only)
    else:
        with server.global_setting(setting, value), pytest.raises(DeadlineExceeded, match="role_changed"):
            other.run(book, 1, 5)

    assert any(isinstance(happened, PoolRetired) for happened in events)
    assert other.run(book, 1, 5) == 1


def test_a_server_that_is_away_is_unavailable_within_the_deadline(
    make_face: Callable[..., Face], networked: Kind, server: Server
) -> None:
    """Refused connections are retried until attempts or time run out, and then named for what they are."""
    closed = server.url(networked.driver).replace(f":{server.port}/", ":1/")
    away = make_face(DatabaseSettings(deadline=2.0), url=closed)

    with pytest.raises((Unavailable, DeadlineExceeded)) as caught:
        away.run(book, 1, 5)

    report = report_of(caught.value)
    assert report is not None
    assert report.elapsed_s < 2.75
    assert server.password not in str(caught.value)


def test_a_wrong_password_is_denied_and_not_retried(
    make_face: Callable[..., Face], networked: Kind, server: Server
) -> None:
    """The server's refusal is permanent; the text names the cure and no password."""
    wrong = server.url(networked.driver).replace(server.password, "not-the-password")
    face = make_face(url=wrong)

    with pytest.raises(AccessDenied, match="password") as caught:
        face.run(book, 1, 5)

    assert report_of(caught.value).attempts == 1  # type: ignore[union-attr]
    assert "not-the-password" not in f"{caught.value} {caught.value!r}"


def test_a_missing_table_and_an_unknown_column_name_the_cure(face: Face) -> None:
    """The schema lags behind the code: the error says what adds what is missing."""
    with pytest.raises(SchemaMismatch, match="migrate"):
        face.run(lambda session: session.execute(text("SELECT * FROM no_such_table")))
    with pytest.raises(SchemaMismatch, match="migrate"):
        face.run(lambda session: session.execute(text("SELECT no_such_column FROM contract_users")))


def test_a_missing_key_table_names_the_cure(face: Face) -> None:
    """An operation that needs Holdfast's own table says how it is made."""
    face.run(lambda session: session.execute(text("DROP TABLE holdfast_operations")), protect=False)

    with pytest.raises(SchemaMismatch, match="migrate"):
        face.run(book, 1, 5, key="k")

    face.wait(face.db.migrate())
    assert face.run(book, 1, 5, key="k") == 1


def test_a_missing_key_table_is_no_doubt(face: Face) -> None:
    """With a key row that goes with COMMIT as well: the server has refused the row, so COMMIT was not reached."""
    if face.kind.server == "postgresql":
        pytest.skip("PostgreSQL is asked for a transaction's fate and needs no row")
    face.run(book, 1, 5)
    face.run(lambda session: session.execute(text("DROP TABLE holdfast_operations")), protect=False)

    with pytest.raises(SchemaMismatch, match="migrate") as caught:
        face.run(book, 1, 5)

    assert report_of(caught.value).attempts == 1  # type: ignore[union-attr]
    assert face.read(entries) == 1
    face.wait(face.db.migrate())


def test_reads_are_rerun_too(face: Face, networked: Kind, server: Server) -> None:
    """A read-only operation survives a killed connection, and cannot write."""
    attempts: list[int] = []

    def body(session: Session) -> int:
        attempts.append(1)
        if len(attempts) == 1:
            kill_my_connection(session, server)
        return entries(session)

    assert face.read(body) == 0
    assert len(attempts) == 2


def test_a_cancelled_task_leaves_nothing_behind(
    patient: Face, networked: Kind, server: Server, hold: Callable[..., Holder]
) -> None:
    """Cancelled in mid-statement: the connection is closed, the statement is ended on the server, the pool is whole."""
    if not networked.asynchronous:
        pytest.skip("threads cannot be cancelled")
    hold("UPDATE contract_accounts SET balance = balance WHERE id = 1")

    async def cancel_in_the_middle() -> BaseException:
        async def wait_for_row(tx: Any) -> None:
            (await tx.get_one(Account, 1, with_for_update=True)).balance += 1

        task = asyncio.ensure_future(patient.db.run(wait_for_row))
        for _ in range(100):
            await SYSTEM_CLOCK.sleep_async(0.05)
            if running_elsewhere(server):
                break
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        give_up_at = SYSTEM_CLOCK.monotonic() + ENDS_WITHIN_S
        while running_elsewhere(server) and SYSTEM_CLOCK.monotonic() < give_up_at:
            await SYSTEM_CLOCK.sleep_async(0.05)
        return caught.value

    error = patient.wait(cancel_in_the_middle())

    report = report_of(error)
    assert report is not None
    assert Outcome.NOT_COMMITTED is report.outcome
    assert running_elsewhere(server) == []
    assert patient.db.engine.pool.checkedout() == 0


def test_events_tell_how_an_operation_ended(make_face: Callable[..., Face], face: Face) -> None:
    """One event an operation, with its outcome and attempts; no argument and no key in it."""
    stream = EventStream()
    heard: list[Event] = []
    stream.subscribe(heard.append)
    other = make_face(events=stream)

    other.run(book, 1, 5, key="secret-key")
    with pytest.raises(HoldfastError):
        other.save_all([User(username="ada", age=1), User(username="ada", age=1)])

    ended = [happened for happened in heard if isinstance(happened, OperationEnded)]
    assert [happened.outcome for happened in ended] == [Outcome.COMMITTED, Outcome.NOT_COMMITTED]
    assert [happened.name for happened in ended] == ["book", "save.User"]
    assert "secret-key" not in repr(heard)


def test_a_duplicate_caused_by_a_lost_commit_is_no_conflict(
    face: Face,
    through: Face,
    relay: Relay,
    heard: tuple[EventStream, list[Event]],
    cut_commit: Callable[[Cut], None],
) -> None:
    """A unique value inserted by the attempt whose answer was lost does not come back as somebody else's row."""
    disarm_on_discard(relay, heard[0])
    cut_commit(Cut.AFTER_SERVER)

    saved = through.save(User(username="ada", age=1))

    assert face.read(usernames) == ["ada"]
    assert saved.id is not None
    with pytest.raises(Conflict):
        through.save(User(username="ada", age=1))
