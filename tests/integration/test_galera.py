"""A Galera cluster forms, loses nodes and gets them back, and two of them do not meet."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import psutil
import pymysql
import pytest

from holdfast.drills.servers import ServerFailed, ServerMissing, galera
from holdfast.drills.servers.galera import Galera, GaleraNode, Network
from holdfast.errors import UsageError


@pytest.fixture(scope="module")
def galera_network() -> Network:
    """Loopback, where a cluster heals in half the time; the tests of its faults have one with a network of its own."""
    return "loopback"


@pytest.fixture
def cluster(galera_cluster: Galera) -> Iterator[Galera]:
    """The cluster with an empty table `writes (n)`."""
    galera_cluster.nodes[0].execute("CREATE OR REPLACE TABLE writes (n INT PRIMARY KEY)")
    yield galera_cluster
    galera_cluster.heal()


def _write(node: GaleraNode, number: int) -> None:
    node.execute("INSERT INTO writes VALUES (%s)", [number])


def _written(node: GaleraNode) -> list[int]:
    node.execute(
        "SET GLOBAL wsrep_sync_wait = 1"
    )  # for connections made from now on: read what the cluster has committed
    try:
        return [n for (n,) in node.execute("SELECT n FROM writes ORDER BY n")]
    finally:
        node.execute("SET GLOBAL wsrep_sync_wait = 0")


def _last_transfer(node: GaleraNode) -> str:
    """How the node last got what it missed: IST (write sets alone) or SST (the whole data folder)."""
    *_, last = re.finditer(r"rsync (IST|SST) completed on joiner", node.log.read_text())
    return last[1]


def test_every_node_takes_writes_that_every_node_sees(cluster: Galera) -> None:
    """A cluster is one database with three doors."""
    for number, node in enumerate(cluster.nodes):
        _write(node, number)
    assert [_written(node) for node in cluster.nodes] == [[0, 1, 2]] * 3
    assert [node.get_global("innodb_flush_log_at_trx_commit") for node in cluster.nodes] == [1, 1, 1]
    assert len(set(cluster.urls("pymysql"))) == 3


def test_killed_node_comes_back_with_what_it_missed(cluster: Galera) -> None:
    """After SIGKILL the others go on, and a plain start brings the node back, as a rule without a whole copy."""
    first, second, _ = cluster.nodes
    transfers = []
    for number in (1, 2, 3):  # one that was killed in the middle of a write of its own position asks for the whole
        second.kill()
        _write(first, number)
        second.start()
        transfers.append(_last_transfer(second))
        if transfers[-1] == "IST":
            break
    assert _written(second) == list(range(1, len(transfers) + 1))
    assert transfers[-1] == "IST"


def test_stopped_node_comes_back_with_what_it_missed(cluster: Galera) -> None:
    """An orderly restart is no reason for a whole copy either."""
    first, _, third = cluster.nodes
    third.stop()
    _write(first, 1)
    third.start()
    assert (_written(third), _last_transfer(third)) == ([1], "IST")


def test_frozen_node_is_left_behind_and_catches_up(cluster: Galera) -> None:
    """The others expel a node that is frozen long enough, go on, and take it back."""
    first, second, _ = cluster.nodes
    second.pause()
    _write(first, 1)  # waits until the others have given up on it
    assert not second.is_primary
    cluster.heal()
    assert _written(second) == [1]


def test_isolated_node_refuses_and_the_others_go_on(cluster: Galera) -> None:
    """The smaller side of a partition takes no writes, though its clients are still connected, and serves them again after it."""
    first, _, third = cluster.nodes
    client = third.connect(admin=True)
    try:
        cluster.isolate(2)
        _write(first, 1)
        cluster.wait_until_cut_off(2)  # until then it holds a write back and refuses it under another number (1180)
        assert (cluster.isolates_by, third.packets_dropped()) == ("gmcast.isolate", None)
        with client.cursor() as cursor:
            with pytest.raises(pymysql.OperationalError, match="1047"):
                cursor.execute("INSERT INTO writes VALUES (2)")
            cluster.rejoin(2)
            cluster.wait_until_synced()
            cursor.execute("INSERT INTO writes VALUES (3)")
    finally:
        client.close()
    assert _written(third) == [1, 3]


@pytest.fixture
def soon_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that find no primary component are not left to look for one for as long as in a drill."""
    monkeypatch.setattr(galera, "QUORUM_LOST_AFTER_S", 5.0)


@pytest.mark.usefixtures("soon_lost")
def test_minority_survives_and_the_cluster_heals(cluster: Galera) -> None:
    """One node of three may not write alone; when the other two are back, all may."""
    first, second, third = cluster.nodes
    _write(first, 1)
    first.kill()
    second.kill()
    cluster.heal()
    _write(third, 2)
    assert [_written(node) for node in cluster.nodes] == [[1, 2]] * 3


@pytest.mark.usefixtures("soon_lost")
def test_nodes_that_forgot_each_other_begin_anew_from_the_one_that_knows_most(cluster: Galera) -> None:
    """When no part of the cluster can prove a majority, nothing that was acknowledged is lost all the same."""
    first, second, _ = cluster.nodes
    cluster.isolate(2)
    _write(first, 1)  # which the third never hears of
    for node in (first, second):
        node.kill()
        (node.folder / "data" / "gvwstate.dat").unlink()
    cluster.wait_until_cut_off(2)
    cluster.heal()
    assert [_written(node) for node in cluster.nodes] == [[1]] * 3


def test_bootstrap_after_all_were_killed_keeps_what_was_acknowledged(cluster: Galera) -> None:
    """With durable settings every node but one may hear of a write last; the cluster begins from the one that knows it."""
    first, second, third = cluster.nodes
    third.kill()
    _write(first, 1)
    second.kill()
    first.kill()
    assert max(node.position()[1] for node in (first, second)) > third.position()[1]
    cluster.bootstrap()
    assert [_written(node) for node in cluster.nodes] == [[1]] * 3


def test_bootstrap_refuses_beside_a_running_node(cluster: Galera) -> None:
    """Two clusters from one would each take writes that the other never sees."""
    cluster.nodes[0].kill()
    with pytest.raises(UsageError, match=r"needs every node down.*n1 is down, n2 (serves|runs)"):
        cluster.bootstrap()


def test_waiting_for_a_cluster_that_is_not_whole_ends(cluster: Galera) -> None:
    """It says how each node stands."""
    cluster.nodes[1].kill()
    with pytest.raises(ServerFailed, match=r"not whole after 0.5 s: n1 \w+, n2 is down, n3 \w+"):
        cluster.wait_until_synced(0.5)


def test_two_clusters_side_by_side(cluster: Galera) -> None:
    """Another cluster on this machine, with a network of its own where it may, is another database; closing it leaves nothing."""
    other = galera.start(nodes=2, flush_log_at_commit=0)
    try:
        folders = [node.folder for node in other.nodes]
        pids = [node.pid for node in other.nodes]
        other.nodes[1].execute("CREATE TABLE only_there (n INT)")
        assert other.nodes[0].execute("SHOW TABLES") == [("only_there",)]
        assert cluster.nodes[0].execute("SHOW TABLES LIKE 'only_there'") == []
        assert other.nodes[0].get_global("innodb_flush_log_at_trx_commit") == 0
        cluster.wait_until_synced(1.0)
    finally:
        other.close()
    assert [folder for folder in folders if folder.exists()] == []
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    cluster.wait_until_synced(1.0)


def test_missing_program_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lacks rsync hears what to install."""
    monkeypatch.setattr(shutil, "which", lambda name, **_: None)
    with pytest.raises(ServerMissing, match="apt-get install mariadb-server galera-4 rsync"):
        galera.start()
