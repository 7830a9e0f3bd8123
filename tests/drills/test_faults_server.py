"""Each fault of a server shows its effect on a real one, and leaves it as it was, also when the drill is interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import psutil
import pytest

from holdfast.clock import SYSTEM_CLOCK
from holdfast.drills.faults import (
    SERVER_PROCESS_FAULTS,
    Fault,
    FreezeServer,
    KillServer,
    KillSessions,
    LockStorm,
    ReadOnly,
    RestartServer,
    SlowServer,
    UseUpConnections,
    lockable_rows,
)
from holdfast.drills.nemesis import Nemesis
from holdfast.drills.schedule import Planned, Schedule, Scope
from holdfast.drills.servers import Server
from holdfast.testing import ManualClock

pytestmark = pytest.mark.servers

WITHIN_S = 30.0
TABLE = "fault_rows"

FAULTS: dict[str, Callable[[Server], Fault]] = {
    **SERVER_PROCESS_FAULTS,
    "read-only": ReadOnly,
    "kill-sessions": KillSessions,
    "no-connections": UseUpConnections,
    "lock-storm": lambda server: LockStorm(server, lockable_rows(server, TABLE), hold_s=0.05, pause_s=0.05),
}


@pytest.fixture(params=["mariadb", "postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each server in turn with two rows; whatever a test did, its settings and sessions must be as before."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    _do(found, f"DROP TABLE IF EXISTS {TABLE}")
    _do(found, f"CREATE TABLE {TABLE} (id INT PRIMARY KEY, n INT)")
    _do(found, f"INSERT INTO {TABLE} VALUES (1, 0), (2, 0)")
    before = _state(found)
    yield found
    assert found.is_running
    _until(lambda: _state(found) == before, lambda: {k: v for k, v in _state(found).items() if before.get(k) != v})
    _do(found, f"UPDATE {TABLE} SET n = 1")
    _do(found, f"DROP TABLE {TABLE}")


def _state(server: Server) -> dict[str, object]:
    """Every setting of the server, and how many sessions the application has."""
    if server.flavour == "postgresql":
        settings = server.execute("SELECT name, setting FROM pg_settings")
        sessions = "SELECT COUNT(*) FROM pg_stat_activity WHERE usename = %s"
    else:
        settings = server.execute("SHOW GLOBAL VARIABLES")
        sessions = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = %s"
    (count,) = server.execute(sessions, [server.user])[0]
    return {**{str(name): value for name, value in settings}, "sessions": count}


def _until(holds: Callable[[], bool], told: Callable[[], object] = lambda: "") -> None:
    give_up_at = SYSTEM_CLOCK.monotonic() + WITHIN_S
    while not holds():
        assert SYSTEM_CLOCK.monotonic() < give_up_at, told()
        SYSTEM_CLOCK.sleep(0.02)


def _ask(connection: Any, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else None


def _do(server: Server, sql: str) -> Any:
    """As the application, on a connection of its own."""
    with closing(server.connect()) as connection:
        return _ask(connection, sql)


def _fails(action: Callable[[], object]) -> Any:
    """The code of the error that `action` raises."""
    with pytest.raises(Exception) as raised:
        action()
    return _code(raised.value)


def _code(error: Exception) -> Any:
    """MySQL's number, or PostgreSQL's SQLSTATE where there is one."""
    number = error.args[0] if error.args else None
    return number if isinstance(number, int) else getattr(error, "sqlstate", None)


@contextmanager
def _started(fault: Fault) -> Iterator[dict[str, Any]]:
    """The fault for the length of a block, also when the block fails."""
    try:
        yield fault.start()
    finally:
        fault.heal()


@pytest.mark.parametrize("kind", [KillServer, RestartServer], ids=lambda kind: kind.name)
def test_server_is_away_until_healed(server: Server, kind: Callable[[Server], Fault]) -> None:
    """Open connections break, new ones are refused; afterwards the server is there again, with its data, as another process."""
    pid = server.pid
    with closing(server.connect()) as connection, _started(kind(server)) as told:
        assert told["pid"] == pid
        _fails(lambda: _ask(connection, "SELECT 1"))
        _fails(server.connect)
    assert server.pid != pid
    assert len(_do(server, f"SELECT * FROM {TABLE}")) == 2


def test_frozen_server_answers_when_it_goes_on(server: Server) -> None:
    """A statement waits, neither failing nor answered, and its connection survives."""
    answered = threading.Event()

    def ask() -> None:
        _ask(connection, "SELECT 1")
        answered.set()

    with closing(server.connect()) as connection:
        with _started(FreezeServer(server)):
            threading.Thread(target=ask, daemon=True).start()
            assert not answered.wait(0.5)
        assert answered.wait(WITHIN_S)


def test_slow_server_stands_still_in_turns(server: Server) -> None:
    """It is seen stopped and running, answers all the same, and runs for good once healed."""
    process = psutil.Process(server.pid)
    with _started(SlowServer(server, stopped_share=0.5, period_s=0.1)) as told:
        assert told["stopped_share"] == pytest.approx(0.5)
        for _ in range(3):
            _until(lambda: process.status() == psutil.STATUS_STOPPED)
            assert _do(server, "SELECT 1")
    assert [process.status() == psutil.STATUS_STOPPED for _ in range(50)] == [False] * 50


def test_read_only_server_refuses_writes_and_answers_reads(server: Server) -> None:
    """Also on connections from before; writes go on once healed."""
    write = f"UPDATE {TABLE} SET n = 5"
    with closing(server.connect()) as connection:
        with _started(ReadOnly(server)):
            assert _fails(lambda: _ask(connection, write)) in {1290, "25006"}
            assert _fails(lambda: _do(server, write)) in {1290, "25006"}
            assert len(_ask(connection, f"SELECT * FROM {TABLE}")) == 2
        _ask(connection, write)


def test_sessions_of_the_application_are_ended(server: Server) -> None:
    """All of them, and nobody else's; new ones may begin at once."""
    with (
        closing(server.connect()) as one,
        closing(server.connect()) as two,
        closing(server.connect(admin=True)) as other,
    ):
        assert KillSessions(server).start() == {"sessions": 2}
        _fails(lambda: _ask(one, "SELECT 1"))
        _fails(lambda: _ask(two, "SELECT 1"))
        assert _ask(other, "SELECT 1")
    assert _do(server, "SELECT 1")


def test_no_connection_is_left(server: Server) -> None:
    """New ones are refused, also after somebody left; who is connected stays, and an administrator gets in."""
    leaving = server.connect()
    with closing(server.connect()) as connection, _started(UseUpConnections(server)) as told:
        assert 0 < told["taken"] <= told["max_connections"]
        leaving.close()

        _until(lambda: _refused(lambda: server.connect().close()))
        assert _ask(connection, "SELECT 1")
        _until(lambda: not _refused(lambda: server.execute("SELECT 1")))
    assert _do(server, "SELECT 1")


def _refused(action: Callable[[], object]) -> bool:
    """Whether it meets a server without a free connection."""
    try:
        action()
    except Exception as error:
        return error.args[0] == 1040 or "connection slots" in str(error) or "too many clients" in str(error)
    return False


def test_lock_storm_holds_the_rows(server: Server) -> None:
    """Whoever wants a row meets a lock, and none is left once healed."""
    rows = lockable_rows(server, TABLE)
    assert len(rows) == 2
    assert all("FOR UPDATE" in row for row in rows)

    def locked() -> bool:
        try:
            _do(server, f"{rows[0]} NOWAIT")
        except Exception as error:
            return _code(error) in {1205, 3572, "55P03"}
        return False

    with _started(LockStorm(server, rows, hold_s=0.2, pause_s=0.2)):
        _until(locked)
        _until(lambda: not locked())  # bursts, no wall
    _until(lambda: not locked())
    assert [locked() for _ in range(20)] == [False] * 20


class _Interrupted(ManualClock):
    """A clock on which the first wait is interrupted by Ctrl-C."""

    def sleep(self, seconds: float, /) -> None:
        raise KeyboardInterrupt


class _Recorder:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def fault_start(self, name: str, value: Mapping[str, Any] | None = None) -> int:
        self.lines.append(f"{name} begins")
        return 1

    def fault_end(self, name: str, fault_id: int, value: Mapping[str, Any] | None = None) -> None:
        self.lines.append(f"{name} ended")


@pytest.mark.parametrize("name", FAULTS)
def test_interrupted_fault_leaves_the_server_as_it_was(server: Server, name: str) -> None:
    """Ctrl-C in the middle of a fault heals it (what that means is asked by the fixture), and healing again changes nothing."""
    fault = FAULTS[name](server)
    recorder = _Recorder()
    at_once = Planned(name, 0.0, 5.0, Scope.ONE, (0,), (0,))
    nemesis = Nemesis(Schedule((at_once,), 0.0, 5.0, 5.0), lambda _: fault, recorder, _Interrupted())
    with pytest.raises(KeyboardInterrupt):
        nemesis.run()
    assert recorder.lines == [f"{name} begins", f"{name} ended"]
    fault.heal()


@pytest.mark.parametrize("name", FAULTS)
def test_fault_can_be_used_again_and_healed_without_a_start(mariadb_server: Server, name: str) -> None:
    """Healing what did not happen does nothing, and a healed fault can be started again."""
    fault = FAULTS[name](mariadb_server)
    fault.heal()
    for _ in range(2):
        told = fault.start()
        assert mariadb_server.password not in str(told)
        fault.heal()


def test_half_of_a_role_change_is_healed(mysql_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role change that fails at its second setting takes the first one back."""
    before = _state(mysql_server)
    set_global = mysql_server.set_global

    def fails_at_the_second(name: str, value: object) -> None:
        if name == "super_read_only" and value:
            raise KeyboardInterrupt
        set_global(name, value)

    monkeypatch.setattr(mysql_server, "set_global", fails_at_the_second)
    fault = ReadOnly(mysql_server)
    with pytest.raises(KeyboardInterrupt):
        fault.start()
    assert str(mysql_server.get_global("read_only")) == "1"
    fault.heal()
    assert _state(mysql_server) == before
