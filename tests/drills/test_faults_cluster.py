"""Each fault of a Galera cluster shows its effect on a real one, and leaves it whole, with every acknowledged write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from holdfast.drills.faults import CLUSTER_FAULTS, ClusterFault, FreezeNodes, IsolateNodes, KillNodes, StopNodes
from holdfast.drills.servers.galera import Galera, GaleraNode

pytestmark = pytest.mark.servers


@pytest.fixture
def cluster(galera_cluster: Galera) -> Iterator[Galera]:
    """The cluster with an empty table; whatever a test did, it must be whole again, with its settings, after one heal."""
    nodes = galera_cluster.nodes
    nodes[0].execute("CREATE OR REPLACE TABLE fault_rows (n INT PRIMARY KEY)")
    before = [_settings(node) for node in nodes]
    yield galera_cluster
    galera_cluster.wait_until_synced(1.0)
    after = [_settings(node) for node in nodes]
    changed = [set(now.items()) ^ set(then.items()) for now, then in zip(after, before, strict=True)]
    assert changed == [set(), set(), set()]
    assert len({tuple(node.execute("SELECT n FROM fault_rows ORDER BY n")) for node in nodes}) == 1


def _settings(node: GaleraNode) -> dict[str, object]:
    """All but the position that the node began from, and its place among the others, which Galera gives out anew."""
    settings = {str(name): value for name, value in node.execute("SHOW GLOBAL VARIABLES")}
    return {
        name: value for name, value in settings.items() if name not in {"wsrep_start_position", "auto_increment_offset"}
    }


def _write(node: GaleraNode, number: int) -> None:
    node.execute("INSERT INTO fault_rows VALUES (%s)", [number])


@pytest.mark.parametrize("kind", [KillNodes, StopNodes, FreezeNodes, IsolateNodes], ids=lambda kind: kind.name)
def test_one_node_is_out_and_the_others_go_on(cluster: Galera, kind: type[ClusterFault]) -> None:
    """The majority takes writes, the node does not, and gets what it missed."""
    fault = kind(cluster, [1])
    try:
        told = {"by": cluster.isolates_by} if kind is IsolateNodes else {}
        assert fault.start() == {"nodes": ["n2"], **told}
        _write(cluster.nodes[0], 1)
        cluster.wait_until_cut_off(1)
        assert kind is not IsolateNodes or cluster.network is None or (cluster.nodes[1].packets_dropped() or 0) > 10
        assert [node.is_synced for node in cluster.nodes] == [True, False, True]
    finally:
        fault.heal()
        fault.heal()
    assert cluster.nodes[1].packets_dropped() in (0, None)
    assert cluster.nodes[1].execute("SELECT n FROM fault_rows") == [(1,)]


def test_majority_is_cut_off_and_nobody_takes_writes(cluster: Galera) -> None:
    """Three parts of one are three minorities."""
    fault = IsolateNodes(cluster, [2, 0], [0, 2])
    fault.start()
    try:
        for node in cluster.nodes:
            with pytest.raises(Exception, match=r"1047|1213|1180|2013"):
                _write_in_vain(node)
    finally:
        fault.heal()
    _write(cluster.nodes[1], 2)
    cluster.wait_until_synced()


def _write_in_vain(node: GaleraNode) -> None:
    """A write waits until the node has noticed; it may still be refused only then."""
    for number in range(100, 110):
        _write(node, number)


def test_all_are_killed_and_come_back_from_the_one_that_knows_most(cluster: Galera) -> None:
    """Healed in another order than they were killed, and nothing acknowledged is lost."""
    fault = KillNodes(cluster, [0, 1, 2], [2, 0, 1])
    _write(cluster.nodes[0], 7)
    fault.start()
    try:
        assert [node.is_running for node in cluster.nodes] == [False] * 3
    finally:
        fault.heal()
    assert cluster.nodes[2].execute("SELECT n FROM fault_rows") == [(7,)]


def test_every_cluster_fault_has_its_name() -> None:
    """Names are how drills ask for them."""
    assert sorted(CLUSTER_FAULTS) == ["freeze-node", "kill-node", "partition", "stop-node"]
