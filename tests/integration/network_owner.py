"""Holds a network with a process in it, or a cluster of one node, until it is ended. Says in a line of JSON what to look for.

python network_owner.py network|cluster
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

from holdfast.drills.endings import orderly_end
from holdfast.drills.servers import galera
from holdfast.drills.servers.private_network import PrivateNetwork


def tell(pid: int, folder: Path | None = None) -> None:
    """Print the process in the network, its folder, and every namespace that this process holds open; then wait."""
    names = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    held = [name for name in names if name.startswith("net:")]
    told = {
        "pid": pid,
        "inside": str(Path(f"/proc/{pid}/ns/net").readlink()),
        "held": held,
        "folder": folder and str(folder),
    }
    sys.stdout.write(f"{json.dumps(told)}\n")
    sys.stdout.flush()
    threading.Event().wait()


def main() -> None:
    """Make it, break it, tell of it, and give it back at the end."""
    with orderly_end():
        if sys.argv[1] == "cluster":
            cluster = galera.start(nodes=1, network="private")
            try:
                cluster.isolate(0)
                tell(cluster.nodes[0].pid, cluster.nodes[0].folder)
            finally:
                cluster.close()
            return
        network = PrivateNetwork(2)
        try:
            network.seats[0].cut()
            inside = subprocess.Popen([*network.seats[0].enter("nobody"), "sleep", "60"])
            try:
                # As soon as it has given up its rights it runs inside.
                while Path(f"/proc/{inside.pid}").stat().st_uid == 0:
                    pass
                tell(inside.pid)
            finally:
                inside.kill()
                inside.wait()
        finally:
            network.close()


if __name__ == "__main__":
    main()
