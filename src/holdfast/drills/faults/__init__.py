"""What a drill does to a server, to a cluster, to the machine and to its own clients, beside what the proxy does to the wire.

    fault = KillServer(server)
    fault.start()       # {"pid": 4711, "signal": "SIGKILL"}
    fault.heal()        # runs again, as before; may be called twice

Each leaves what it touched as it was, also when `start` was cut short. They act with an administrator's rights and on processes,
so they are for servers that the drill started (`holdfast.drills.guard`); only `DnsFailure`, `StarvePool` and
`StarveTaskPool` act on the drill's own processes alone.

A fault is used from one thread at a time.
"""

from __future__ import annotations

from .cluster import CLUSTER_FAULTS, ClusterFault, FreezeNodes, IsolateNodes, KillNodes, StopNodes
from .connections import UseUpConnections
from .disk import DiskFull, SmallDisk
from .fault import Fault
from .locks import LockStorm, lockable_rows
from .names import DnsFailure, is_asked_in_python
from .pools import StarvePool, StarveTaskPool
from .processes import SERVER_PROCESS_FAULTS, FreezeServer, KillServer, RestartServer, SlowServer
from .roles import PromoteStandby, ReadOnly, SwitchRoles
from .sessions import KillSessions

__all__ = [
    "CLUSTER_FAULTS",
    "SERVER_PROCESS_FAULTS",
    "ClusterFault",
    "DiskFull",
    "DnsFailure",
    "Fault",
    "FreezeNodes",
    "FreezeServer",
    "IsolateNodes",
    "KillNodes",
    "KillServer",
    "KillSessions",
    "LockStorm",
    "PromoteStandby",
    "ReadOnly",
    "RestartServer",
    "SlowServer",
    "SmallDisk",
    "StarvePool",
    "StarveTaskPool",
    "StopNodes",
    "SwitchRoles",
    "UseUpConnections",
    "is_asked_in_python",
    "lockable_rows",
]
