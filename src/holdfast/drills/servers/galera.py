"""A Galera cluster of MariaDB servers on the loopback addresses 127.0.0.1, 127.0.0.2, ..., every port chosen free.

    cluster = galera.start()                              # three nodes, all synced
    engine = create_engine(cluster.urls("pymysql")[0])
    cluster.nodes[1].kill(); cluster.nodes[1].start()     # comes back with what it missed (IST)
    cluster.isolate(2); cluster.rejoin(2)                 # cut off from the others, its clients still connected
    cluster.kill_all(); cluster.bootstrap()               # from the node that knows most
    cluster.heal()                                        # whatever was done to it
    cluster.close()

Where the machine allows it (root, `ip` and `nft`) the nodes talk to each other over a network of their own, and `isolate` makes
their packets vanish, as a pulled cable does: no side is told, and their sockets wait. Elsewhere they talk over loopback, and
`gmcast.isolate` has the node close its connections and take none. Clients come over loopback either way.

The provider's own time limits are left alone: when a node falls silent, the others stand still for about 6 s and then go on.
A node outside the primary component answers 1047.
"""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

from ...clock import SYSTEM_CLOCK
from ...errors import UsageError
from . import mariadb
from .inherited_port import InheritedPort, check_possible
from .mariadb import MariaDB
from .private_network import NetworkForbidden, PrivateNetwork, Seat
from .process import STOPPED_WITHIN_S, ServerFailed, ServerMissing, account_or_caller, free_port, run, temporary_folder

__all__ = ["Galera", "GaleraNode", "Network", "start", "version"]

Network = Literal["best", "private", "loopback"]
"""Where nodes talk to each other: in namespaces of their own, where packets can be dropped (`private`), on the machine's loopback
addresses (`loopback`), or in the first of these that the machine allows (`best`)."""

HEALED_WITHIN_S = 150.0
CUT_OFF_WITHIN_S = 60.0
POLL_S = 0.2
"""Between two looks at every node: each is a login, and a cluster takes seconds for whatever it does."""
QUORUM_LOST_AFTER_S = 20.0
"""How long nodes may look for a primary component by themselves before `heal` stops them all and begins anew."""

_PROVIDERS = (Path("/usr/lib/galera/libgalera_smm.so"), Path("/usr/lib64/galera-4/libgalera_smm.so"))
_SYNCED = "4"  # wsrep_local_state
_INHERITS_FROM = (10, 6)
"""The first version of MariaDB that takes sockets from whoever starts it."""


class GaleraNode(MariaDB):
    """One node: a MariaDB server that also talks to the others.

    Attributes:
        name: `n1`, `n2`, ...; its address ends with the same number.
        group_host, group_port: where the other nodes reach it.
    """

    def __init__(self, number: int, account: str | None, flush_log_at_commit: int, seat: Seat | None = None) -> None:
        super().__init__(temporary_folder("galera", account), account, f"127.0.0.{number}")
        self.name = f"n{number}"
        self.group_host = self.host if seat is None else seat.address
        self._seat = seat
        self._inherited: InheritedPort | None = None
        self.group_port, self._missed_port, self._copy_port = (free_port(self.host) for _ in range(3))
        self._flush_log_at_commit = flush_log_at_commit
        self._group: Sequence[GaleraNode] = ()
        self._more: list[str] = []

    def meet(self, group: Sequence[GaleraNode]) -> None:
        """Tell it who belongs to the cluster; before its first start."""
        self._group = group

    # ---- starting

    def launch(self) -> None:
        """Start it without waiting; after a crash from the position its log holds, so that it asks only for what it missed."""
        history, sequence = self.position()
        if any(node.is_primary for node in self._group if node is not self):
            self._forget_view()
        # Without this a node that was killed asks for a whole copy, and its donor takes no commits meanwhile.
        self._launch([f"--wsrep-start-position={history}:{sequence}"] if sequence >= 0 else [])

    def found(self) -> None:
        """Start it as the first node of the cluster, and wait until it serves."""
        state = self._state_file
        if state.exists():
            state.write_text(re.sub(r"safe_to_bootstrap: \d", "safe_to_bootstrap: 1", state.read_text()))
        self._forget_view()
        self._launch(["--wsrep-new-cluster"])
        self.wait_until_ready()

    def _forget_view(self) -> None:
        """Drop whom it last saw, which serves only where no primary component is left.

        With it, a node that comes back before the others have expelled it costs them 20 to 30 s; without it, 10.
        """
        (self.folder / "data" / "gvwstate.dat").unlink(missing_ok=True)

    def _launch(self, more: list[str]) -> None:
        self._more = more
        super().launch()

    def _spawn(self) -> None:
        if self._seat is None:
            super()._spawn()
            return
        if self._inherited is not None:
            self._inherited.wait_until_shut()
        self._inherited = InheritedPort(self.host, self.port, self.folder / "socket")
        with self.log.open("ab") as log:
            self._process = self._inherited.start(self._seat.enter(self.account), self._command(), log)

    def check_ready(self) -> None:
        """Both accounts can log in and the node is synced with the primary component; otherwise an error."""
        super().check_ready()
        if self.status("wsrep_local_state") != _SYNCED or self.status("wsrep_ready") != "ON":
            raise ServerFailed(f"{self.name} is {self.status('wsrep_local_state_comment')}")

    def close(self) -> None:
        """End it and remove everything it left."""
        self.kill()  # nothing of it is kept, so nobody needs to wait for its good order
        super().close()

    def stop_or_give_up(self) -> None:
        """Stop it in good order, or kill it where it has not got so far that it listens.

        One that still looks for the others heeds no SIGTERM for as long as it does. It has taken no write since its start, and
        what it had before is in its log.
        """
        try:
            with suppress(TimeoutError):
                socket.create_connection((self.host, self.port), STOPPED_WITHIN_S).close()
        except ConnectionRefusedError:
            self.kill()
        else:
            self.stop()

    # ---- asking

    def status(self, name: str) -> str:
        """One of the server's status variables; empty when it has none of that name."""
        rows = self.execute("SHOW GLOBAL STATUS LIKE %s", [name])
        return str(rows[0][1]) if rows else ""

    @property
    def is_primary(self) -> bool:
        """Whether it answers and belongs to the primary component, the part of the cluster that may write."""
        return self.is_running and not self._paused and self._answers("wsrep_cluster_status", "Primary")

    @property
    def is_synced(self) -> bool:
        """Whether it serves."""
        return self.is_primary and self._answers("wsrep_local_state", _SYNCED) and self._answers("wsrep_ready", "ON")

    def _answers(self, name: str, value: str) -> bool:
        try:
            return self.status(name) == value
        except Exception:  # whatever keeps it from answering
            return False

    def cut_off(self) -> None:
        """Cut it off from the other nodes, both ways."""
        if self._seat is None:
            self.set_provider_option("gmcast.isolate=1")
        else:
            self._seat.cut()

    def let_back(self) -> None:
        """Undo `cut_off`."""
        if self._seat is not None:
            self._seat.mend()
        elif self.is_running:  # when it starts again, it has forgotten
            self.set_provider_option("gmcast.isolate=0")

    def packets_dropped(self) -> int | None:
        """How many packets `cut_off` has made vanish up to now; None where it does so by other means."""
        return None if self._seat is None else self._seat.dropped()

    def set_provider_option(self, option: str) -> None:
        """Set one option of the Galera library, `name=value`, until the node restarts."""
        self.execute("SET GLOBAL wsrep_provider_options = %s", [option])

    def position(self) -> tuple[str, int]:
        """How far a stopped node got: the identity of the cluster's history, and the number of the last write set in it.

        After a crash this is read from the storage engine's log, which carries out its recovery (less than a second).
        """
        history, sequence = self._saved_position()
        return (history, sequence) if sequence >= 0 else self._logged_position()

    @property
    def _state_file(self) -> Path:
        return self.folder / "data" / "grastate.dat"

    def _saved_position(self) -> tuple[str, int]:
        """What an orderly stop left; -1 after a crash."""
        text = self._state_file.read_text() if self._state_file.exists() else ""
        found = re.search(r"uuid:\s+(\S+)\nseqno:\s+(-?\d+)", text)
        return (found[1], int(found[2])) if found else ("", -1)

    def _logged_position(self) -> tuple[str, int]:
        self._more = ["--wsrep-recover", "--skip-networking"]
        said = run(self._command(), account=self.account, cwd=self.folder)
        found = re.findall(r"Recovered position: (\S+):(-?\d+)", said)
        return (found[-1][0], int(found[-1][1])) if found else ("", -1)

    def _command(self) -> list[str]:
        provider = {
            "gmcast.listen_addr": f"tcp://{self.group_host}:{self.group_port}",
            "ist.recv_addr": f"{self.group_host}:{self._missed_port}",
            "gcache.size": "128M",
        }
        group = ",".join(f"{node.group_host}:{node.group_port}" for node in self._group)
        return [
            *super()._command(),
            f"--innodb-flush-log-at-trx-commit={self._flush_log_at_commit}",
            "--innodb-autoinc-lock-mode=2",
            "--binlog-format=ROW",
            "--wsrep-on=ON",
            f"--wsrep-provider={_provider()}",
            f"--wsrep-provider-options={';'.join(f'{name}={value}' for name, value in provider.items())}",
            "--wsrep-cluster-name=holdfast",
            f"--wsrep-cluster-address=gcomm://{group}",
            f"--wsrep-node-name={self.name}",
            f"--wsrep-node-address={self.group_host}",
            f"--wsrep-node-incoming-address={self.host}:{self.port}",
            "--wsrep-sst-method=rsync",
            f"--wsrep-sst-receive-address={self.group_host}:{self._copy_port}",
            *self._more,
        ]


class Galera:
    """A running cluster. To be used from one thread at a time; its nodes' `url` and `execute` from any.

    Attributes:
        nodes: its servers, `n1` first.
        network: the network of their own; None where they talk over loopback.
    """

    def __init__(self, nodes: Sequence[GaleraNode], network: PrivateNetwork | None = None) -> None:
        self.nodes = tuple(nodes)
        self.network = network
        self._isolated: set[GaleraNode] = set()

    def __repr__(self) -> str:
        return f"<Galera of {', '.join(map(repr, self.nodes))}>"

    @property
    def isolates_by(self) -> str:
        """How `isolate` does it: `packets dropped` (nftables, between network namespaces) or `gmcast.isolate`."""
        return "gmcast.isolate" if self.network is None else "packets dropped"

    def urls(self, driver: str) -> list[str]:
        """The SQLAlchemy URL of each node, as the application."""
        return [node.url(driver) for node in self.nodes]

    def wait_until_synced(self, timeout_s: float = HEALED_WITHIN_S) -> None:
        """Wait until every node serves, in one component with all others.

        Raises:
            ServerFailed: not within `timeout_s`; the text says how each node stands.
        """
        give_up_at = SYSTEM_CLOCK.monotonic() + timeout_s
        while not self._is_whole():
            if SYSTEM_CLOCK.monotonic() > give_up_at:
                raise ServerFailed(f"the cluster is not whole after {timeout_s:g} s: {self._standing()}")
            SYSTEM_CLOCK.sleep(POLL_S)

    def wait_until_cut_off(self, index: int, timeout_s: float = CUT_OFF_WITHIN_S) -> None:
        """Wait until `nodes[index]` has left the primary component. One that is cut off notices by itself, some seconds later.

        Raises:
            ServerFailed: not within `timeout_s`; the text says how each node stands.
        """
        give_up_at = SYSTEM_CLOCK.monotonic() + timeout_s
        while self.nodes[index].is_primary:
            if SYSTEM_CLOCK.monotonic() > give_up_at:
                raise ServerFailed(f"{self.nodes[index].name} is not cut off after {timeout_s:g} s: {self._standing()}")
            SYSTEM_CLOCK.sleep(POLL_S)

    # ---- doing it harm

    def isolate(self, index: int) -> None:
        """Cut `nodes[index]` off from the other nodes, both ways, and leave its clients connected.

        Neither side knows at once: `wait_until_cut_off`.
        """
        node = self.nodes[index]
        self._isolated.add(node)
        node.cut_off()

    def rejoin(self, index: int) -> None:
        """Undo `isolate`; the node comes back by itself within seconds. Harmless when it is not isolated."""
        node = self.nodes[index]
        if node in self._isolated:
            node.let_back()
        self._isolated.discard(node)

    def kill_all(self) -> None:
        """SIGKILL for every node."""
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(GaleraNode.kill, self.nodes))

    # ---- and good

    def bootstrap(self) -> None:
        """Bring a cluster back whose nodes are all down: from the one that got furthest, then the others, until all are synced.

        Raises:
            UsageError: a node is running; a second cluster beside it would take writes that the first never sees.
            ServerFailed: a node would not start.
        """
        if any(node.is_running for node in self.nodes):
            raise UsageError(f"bootstrap needs every node down, and some are running: {self._standing()}")
        for index in range(len(self.nodes)):
            self.rejoin(index)
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            positions = list(threads.map(GaleraNode.position, self.nodes))
        first = max(zip(positions, self.nodes, strict=True), key=lambda each: each[0][1])[1]
        first.found()
        self._bring_back_the_rest()

    def heal(self) -> None:
        """Bring every node back to serving, whatever was done to it; nothing when all are.

        Raises:
            ServerFailed: it did not succeed within 150 s.
        """
        for node in self.nodes:
            node.resume()
        for index in range(len(self.nodes)):
            self.rejoin(index)
        if any(node.is_running for node in self.nodes):
            self._bring_back_the_rest()
        else:
            self.bootstrap()

    def close(self) -> None:
        """End every node and remove everything they left, their network too."""
        try:
            with ThreadPoolExecutor(len(self.nodes)) as threads:
                list(threads.map(GaleraNode.close, self.nodes))
        finally:
            if self.network is not None:
                self.network.close()

    def _bring_back_the_rest(self) -> None:
        began_at = last_primary_at = SYSTEM_CLOCK.monotonic()
        while not self._is_whole():
            for node in self._next_to_launch():
                node.launch()
            now = SYSTEM_CLOCK.monotonic()
            if now - began_at > HEALED_WITHIN_S:
                raise ServerFailed(f"the cluster is not whole after {HEALED_WITHIN_S:g} s: {self._standing()}")
            if self._primary():
                last_primary_at = now
            elif now - last_primary_at > QUORUM_LOST_AFTER_S:
                # Only when all are down can be compared how far each got, and the one that got furthest may begin.
                self._stop_all()
                self.bootstrap()
                return
            SYSTEM_CLOCK.sleep(POLL_S)

    def _stop_all(self) -> None:
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(GaleraNode.stop_or_give_up, self.nodes))

    def _next_to_launch(self) -> list[GaleraNode]:
        """One after the other: two that join at once hold each other up. Without a primary component it takes all of them."""
        down = [node for node in self.nodes if not node.is_running]
        if not self._primary():
            return down
        joining = any(node.is_running and not node.is_synced for node in self.nodes)
        return [] if joining else down[:1]

    def _primary(self) -> list[GaleraNode]:
        return [node for node in self.nodes if node.is_primary]

    def _is_whole(self) -> bool:
        size = str(len(self.nodes))
        return all(node.is_synced and node.status("wsrep_cluster_size") == size for node in self.nodes)

    def _standing(self) -> str:
        return ", ".join(
            f"{node.name} {'serves' if node.is_synced else 'runs' if node.is_running else 'is down'}"
            for node in self.nodes
        )


def _provider() -> Path:
    found = next((path for path in _PROVIDERS if path.is_file()), None)
    if found is None or shutil.which("rsync") is None or shutil.which("wsrep_sst_rsync") is None:
        raise ServerMissing("Galera is not installed: apt-get install mariadb-server galera-4 rsync")
    return found


def version() -> str:
    """The installed version of MariaDB; Galera's own is the status `wsrep_provider_version`.

    Raises:
        ServerMissing: MariaDB, Galera or rsync is not installed.
    """
    _provider()
    return mariadb.version()


def start(nodes: int = 3, *, flush_log_at_commit: int = 1, network: Network = "best") -> Galera:
    """A new, empty, running cluster, every node synced; takes about 10 s.

    Args:
        nodes: how many; 1 or more. An even number cannot keep a majority when it is cut in half.
        flush_log_at_commit: `innodb_flush_log_at_trx_commit` of every node. 1 keeps what was acknowledged; with 0 a node that
            is killed forgets up to a second, and a cluster whose nodes are all killed has lost it.
        network: where the nodes talk to each other, and so how one is cut off.

    Raises:
        ServerMissing: MariaDB, Galera or rsync is not installed; or the network is to be `private`, and its programs are not
            (`NetworkForbidden`: they are, and the machine refuses).
        ServerFailed: a node did not start; the text ends with its log.
    """
    version()
    # Linux answers on every address of 127.0.0.0/8; a cluster beside this one uses the same addresses and other ports.
    account = account_or_caller("mysql")
    with ExitStack() as undo:
        own = _network(network, nodes)
        if own is not None:
            undo.callback(own.close)
        seats: Sequence[Seat | None] = own.seats if own is not None else [None] * nodes
        members = [GaleraNode(number, account, flush_log_at_commit, seat) for number, seat in enumerate(seats, start=1)]
        cluster = Galera(members, own)
        undo.callback(cluster.close)
        first, *others = members
        for node in members:
            node.meet(members)
        mariadb.initialise(first)
        # A common beginning: the others join without a copy over the network.
        first.found()
        first.stop()
        for node in others:
            run(["cp", "-a", str(first.folder / "data"), str(node.folder)])
        cluster.bootstrap()
        undo.pop_all()
    return cluster


def _network(wanted: Network, nodes: int) -> PrivateNetwork | None:
    if wanted == "loopback":
        return None
    try:
        if tuple(map(int, re.findall(r"\d+", mariadb.version())[:2])) < _INHERITS_FROM:
            raise NetworkForbidden("MariaDB inherits its port, which reaches into a network of its own, from 10.6 on")
        check_possible()
        return PrivateNetwork(nodes)
    except ServerMissing:
        if wanted == "private":
            raise
        return None
