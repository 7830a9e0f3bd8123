"""Faults of the nodes of a Galera cluster: killed, stopped, frozen, cut off; one, several or all of them."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

from ..servers.galera import Galera

__all__ = ["CLUSTER_FAULTS", "ClusterFault", "FreezeNodes", "IsolateNodes", "KillNodes", "StopNodes"]


class ClusterFault(abc.ABC):
    """Something that happens to nodes.

    Args:
        cluster: whose.
        harm: which nodes, from 0, in the order in which they are harmed.
        heal: the same ones in the order in which they are healed; as they were harmed by default. The whole cluster is brought
            back after them, from the node that knows most if none is left.
    """

    name: ClassVar[str]

    def __init__(self, cluster: Galera, harm: Sequence[int], heal: Sequence[int] | None = None) -> None:
        self._cluster = cluster
        self._harm = tuple(harm)
        self._heal = self._harm if heal is None else tuple(heal)
        self._begun = False

    def start(self) -> dict[str, Any]:
        """Harm them."""
        self._begun = True
        for index in self._harm:
            self._do(index)
        return {"nodes": [self._cluster.nodes[index].name for index in self._harm]}

    def heal(self) -> None:
        """Bring them back, and wait until every node serves."""
        if not self._begun:
            return
        for index in self._heal:
            self._undo(index)
        self._cluster.heal()
        self._begun = False

    @abc.abstractmethod
    def _do(self, index: int) -> None:
        """Harm one."""

    def _undo(self, index: int) -> None:
        """Undo what can be undone without knowing how the others stand, and do not wait for it."""
        self._cluster.nodes[index].resume()


class KillNodes(ClusterFault):
    """SIGKILL. The others stand still for about 6 s, then go on if they are a majority."""

    name = "kill-node"

    def _do(self, index: int) -> None:
        self._cluster.nodes[index].kill()


class StopNodes(ClusterFault):
    """An orderly stop: the node says that it leaves, and the others go on at once."""

    name = "stop-node"

    def _do(self, index: int) -> None:
        self._cluster.nodes[index].stop()


class FreezeNodes(ClusterFault):
    """SIGSTOP. The others expel it after about 6 s; when it goes on it has to catch up."""

    name = "freeze-node"

    def _do(self, index: int) -> None:
        self._cluster.nodes[index].pause()


class IsolateNodes(ClusterFault):
    """A partition: each of the nodes is alone, with its clients still connected; what is left goes on if it is a majority.

    Packets vanish where the cluster has a network of its own, else the nodes are told to talk to nobody; `by` says which.
    """

    name = "partition"

    def start(self) -> dict[str, Any]:
        """Cut them off."""
        return super().start() | {"by": self._cluster.isolates_by}

    def _do(self, index: int) -> None:
        self._cluster.isolate(index)

    def _undo(self, index: int) -> None:
        self._cluster.rejoin(index)


CLUSTER_FAULTS: dict[str, type[ClusterFault]] = {
    fault.name: fault for fault in (KillNodes, StopNodes, FreezeNodes, IsolateNodes)
}
"""By name."""
