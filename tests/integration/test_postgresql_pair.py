"""A standby follows its primary, takes its place, and the pair heals without losing what was acknowledged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from holdfast.drills.faults import PromoteStandby, SwitchRoles
from holdfast.drills.servers import ServerFailed, ServerMissing, postgresql_pair
from holdfast.drills.servers.postgresql_pair import PairNode, PostgreSQLPair
from holdfast.errors import UsageError


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[PostgreSQLPair]:
    """A pair for the module."""
    try:
        pair = postgresql_pair.start()
    except ServerMissing as error:
        pytest.skip(str(error))
    yield pair
    pair.close()


@pytest.fixture
def pair(shared_pair: PostgreSQLPair) -> Iterator[PostgreSQLPair]:
    """The pair, healed, with an empty table."""
    shared_pair.heal()
    shared_pair.primary.execute("DROP TABLE IF EXISTS writes")
    shared_pair.primary.execute("CREATE TABLE writes (n INT PRIMARY KEY)")
    yield shared_pair
    shared_pair.heal()


def _write(node: PairNode, number: int) -> None:
    node.execute("INSERT INTO writes VALUES (%s)", [number])


def _written(node: PairNode) -> list[int]:
    return [n for (n,) in node.execute("SELECT n FROM writes ORDER BY n")]


def test_standby_has_what_the_primary_acknowledged_and_refuses_writes(pair: PostgreSQLPair) -> None:
    """COMMIT waits until the standby holds it; 25006 for whoever writes there."""
    assert (pair.primary.is_primary, pair.standby.is_primary) == (True, False)
    assert pair.primary.get_global("synchronous_standby_names") == "*"
    _write(pair.primary, 1)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        _write(pair.standby, 2)
    assert len(set(pair.urls("psycopg"))) == 2


def test_standby_takes_over_with_everything_acknowledged(pair: PostgreSQLPair) -> None:
    """After SIGKILL for the primary the standby takes writes on the connections that it has, and the old one follows it."""
    old, new = pair.primary, pair.standby
    with closing(new.connect(admin=True)) as connection, connection.cursor() as cursor:
        for number in range(20):
            _write(old, number)
        pair.promote()
        assert (pair.primary, pair.standby) == (new, old)
        cursor.execute("INSERT INTO writes VALUES (100)")
    assert _written(new) == [*range(20), 100]
    pair.heal()
    assert (old.is_primary, new.is_primary) == (False, True)
    assert new.get_global("synchronous_standby_names") == "*"


def test_switch_in_good_order_keeps_everything(pair: PostgreSQLPair) -> None:
    """Both change places, twice, and go on."""
    for number in range(2):
        old, new = pair.primary, pair.standby
        _write(old, number)
        pair.switch()
        assert (pair.primary, old.is_primary, new.is_primary) == (new, False, True)
        assert _written(new) == list(range(number + 1))


def test_killed_standby_is_followed_by_a_heal(pair: PostgreSQLPair) -> None:
    """A primary whose standby is away waits for it, and goes on when it is back."""
    pair.standby.kill()
    with pytest.raises(ServerFailed, match="does not follow"):
        pair.wait_until_streaming(0.3)
    pair.heal()
    _write(pair.primary, 1)
    assert _written(pair.primary) == [1]


def test_killed_pair_comes_back(pair: PostgreSQLPair) -> None:
    """When both are gone the primary is the primary again."""
    _write(pair.primary, 1)
    before = pair.primary
    for node in pair.nodes:
        node.kill()
    pair.heal()
    assert pair.primary is before
    assert _written(before) == [1]


@pytest.mark.parametrize("kind", [PromoteStandby, SwitchRoles], ids=lambda kind: kind.name)
def test_role_change_is_a_fault_that_heals(pair: PostgreSQLPair, kind: type[PromoteStandby | SwitchRoles]) -> None:
    """Afterwards one of the two is the primary, the other follows it, and what was acknowledged is there."""
    old, new = pair.primary, pair.standby
    _write(old, 1)
    fault = kind(pair)
    fault.heal()
    assert fault.start() == {"from": old.name, "to": new.name}
    _write(new, 2)
    fault.heal()
    fault.heal()
    assert (old.is_primary, new.is_primary) == (False, True)
    assert _written(new) == [1, 2]


def test_switch_that_is_cut_short_is_healed(pair: PostgreSQLPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between the stop of the one and the promotion of the other leaves a pair after healing."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    old = pair.primary
    _write(old, 1)
    fault = SwitchRoles(pair)
    with monkeypatch.context() as patch:
        patch.setattr(pair.standby, "take_over", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fault.start()
    fault.heal()
    assert pair.primary is old
    assert _written(old) == [1]


def test_running_server_is_not_copied_over(pair: PostgreSQLPair) -> None:
    """Its data would be thrown away under it."""
    with pytest.raises(UsageError, match="is running"):
        pair.primary.follow(pair.standby)


def test_closed_pair_leaves_nothing() -> None:
    """Neither a folder nor a process."""
    try:
        pair = postgresql_pair.start(synchronous=False)
    except ServerMissing as error:
        pytest.skip(str(error))
    folders = [node.folder for node in pair.nodes]
    assert pair.primary.get_global("synchronous_standby_names") == ""
    pair.close()
    assert [folder.exists() for folder in folders] == [False, False]
    assert [node.is_running for node in pair.nodes] == [False, False]
