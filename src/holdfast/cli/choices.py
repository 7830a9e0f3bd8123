"""What a drill can be made of, for `holdfast drill --list` and for the options that say `all`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..drills.settings import DrillSettings

__all__ = ["FAULT_TEXTS", "choices", "choices_table", "possible_faults"]

FAULT_TEXTS: Mapping[str, str] = {
    "commit": "resets connections around a share of all COMMITs, half of them carried out",
    "blackhole": "one COMMIT in a hundred vanishes without a word",
    "latency": "every answer comes late",
    "overload": "all statements wait in one queue, and twice as much is due as can be served, or more",
    "outage": "the server cannot be reached, and every connection to it is cut",
    "kill-client": "SIGKILL for a client process; its successor asks again by key",
    "stop-client": "SIGTERM for a client process, as when it is deployed",
    "pool-starvation": "every connection of the clients' pools is taken and kept",
    "dns-failure": "the server's name leads nowhere, while connections get lost",
    "kill-server": "SIGKILL for the server, then its recovery",
    "restart-server": "an orderly stop and start of the server",
    "freeze-server": "SIGSTOP: connections stay open and nothing answers",
    "slow-server": "SIGSTOP and SIGCONT in turns: too little of a processor",
    "kill-sessions": "ends every session of the application on the server",
    "read-only": "the server refuses writes, as after a change of role",
    "no-connections": "every connection that the application may have is taken",
    "lock-storm": "foreign transactions lock rows in bursts and in both orders",
    "disk-full": "not a byte fits any more",
    "kill-node": "SIGKILL for a node of the cluster",
    "stop-node": "an orderly stop of a node",
    "freeze-node": "SIGSTOP for a node: the others expel it",
    "partition": "a node is alone, with its clients still connected",
    "promote-standby": "SIGKILL for the primary, and its standby takes over",
    "switch-roles": "primary and standby change places in good order",
}
"""Each fault in a few words."""

_SERVER_TEXTS = {
    "sqlite": "an embedded file; faults are injected below Holdfast",
    "galera": "a MariaDB cluster of three nodes",
    "postgresql-pair": "a PostgreSQL primary and its standby",
}


def choices() -> dict[str, dict[str, str]]:
    """For each option that takes a name: the names, and what each is."""
    from ..drills.run import FAULTS
    from ..drills.settings import SERVERS
    from ..drills.subjects import SUBJECTS
    from ..drills.workloads import WORKLOADS

    return {
        "server": {
            name: _SERVER_TEXTS.get(name, "one server, with the fault proxy in front of it") for name in SERVERS
        },
        "workload": {name: _first_sentence(kind) for name, kind in WORKLOADS.items()},
        "fault": {name: FAULT_TEXTS.get(name, "") for name in FAULTS},
        "subject": {name: _first_sentence(kind) for name, kind in SUBJECTS.items()},
    }


def choices_table(found: Mapping[str, Mapping[str, str]]) -> Table:
    """The same for a terminal."""
    table = Table.grid(padding=(0, 3))
    for option, entries in found.items():
        for number, (name, text) in enumerate(entries.items()):
            table.add_row(Text(f"--{option}" if number == 0 else "", style="dim"), Text(name, style="bold"), Text(text))
    return table


def possible_faults(settings: Iterable[DrillSettings]) -> tuple[str, ...]:
    """The faults that can happen in every run of `settings`: what `--fault all` means there."""
    from dataclasses import replace

    from ..drills.disturbances import check_faults
    from ..drills.run import FAULTS

    settings = tuple(settings)

    def possible(name: str) -> bool:
        try:
            for each in settings:
                check_faults(replace(each, faults=(name,)))
        except ConfigurationError:
            return False
        return True

    return tuple(name for name in FAULTS if possible(name))


def _first_sentence(kind: object) -> str:
    # A sentence ends with one full stop: three stand inside of it.
    sentence = re.split(r"(?<!\.)\. ", (kind.__doc__ or "").partition("\n")[0])[0]
    return sentence.rstrip(".").replace("`", "")
