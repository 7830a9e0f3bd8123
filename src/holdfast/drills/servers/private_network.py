"""A network for servers alone: a namespace for each, joined by a bridge in one more, where packets can be made to vanish.

    network = PrivateNetwork(3)
    first = network.seats[0]
    subprocess.Popen([*first.enter("mysql"), ...])      # sees 192.0.2.1, and nothing of this machine's network
    first.cut()                                         # to the others it is as if a cable were pulled: nobody gets a word
    first.dropped(), first.mend()
    network.close()

Nothing is added to the machine's own network, no link, address, route or rule. Nor has anything a name that could be left over:
the namespaces live as long as this process holds them open or a process runs inside, and with the last of them the kernel takes
links, addresses and rules away. So a process that was killed leaves nothing to clean up. (A connection whose process died during
a cut keeps its namespace, by then an empty one, until the kernel gives up on it: some two minutes.)

Needs Linux, root, `ip`, `nft` and util-linux.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Literal

from .process import END_WITH_PARENT, ServerMissing

__all__ = ["Direction", "NetworkForbidden", "PrivateNetwork", "Seat"]

Direction = Literal["both", "to", "from"]
"""Whose packets vanish: those to the seat, those from it, or both."""

_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_PACKAGES = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
_BRIDGE = "bridge"


class NetworkForbidden(ServerMissing):
    """The programs are here, but this machine lets the caller make no network; the text says what was refused."""


class _Namespace:
    """One network namespace without a name, held open by this process."""

    def __init__(self) -> None:
        self._descriptor = _open_new_namespace()
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def run(self, *command: str, told: str = "") -> str:
        """Run a command inside, `told` on its input; what it printed."""
        return _run([_program("nsenter"), f"--net={self.path}", _program(command[0]), *command[1:]], told)

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Seat:
    """One server's place in the network.

    Attributes:
        address: where the others reach it.
        name: its end of the cable at the bridge, `n1`, `n2`, ...
    """

    def __init__(self, number: int, hub: _Namespace) -> None:
        self.name = f"n{number}"
        # Of the range kept for documentation: whatever this machine is connected to, it is not that.
        self.address = f"192.0.2.{number}"
        self._hub = hub
        self._own = _Namespace()

    def plug_in(self) -> None:
        """Lay the cable to the bridge."""
        end = f"link add {self.name} type veth peer name eth0 netns {self._own.path}"
        self._hub.run("ip", "-batch", "-", told=f"{end}\nlink set {self.name} master {_BRIDGE} up\n")
        self._own.run(
            "ip", "-batch", "-", told=f"link set lo up\naddr add {self.address}/24 dev eth0\nlink set eth0 up\n"
        )

    def enter(self, account: str | None) -> list[str]:
        """What to put in front of a command, so that it runs here, as `account` (None: as the caller).

        The process keeps its id, and ends with the thread that started it.
        """
        as_account = []
        if account is not None:
            entry = pwd.getpwnam(account)
            identity = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
            as_account = [_program("setpriv"), *identity, *END_WITH_PARENT]  # again: giving up rights clears it
        return [*END_WITH_PARENT, _program("nsenter"), f"--net={self._own.path}", *as_account]

    def cut(self, direction: Direction = "both") -> None:
        """Let every packet between here and the others vanish, without a word to either side; instead of a cut before.

        Args:
            direction: `to`: it hears nobody, and is heard; `from`: nobody hears it.
        """
        ends = {"both": ("oifname", "iifname"), "to": ("oifname",), "from": ("iifname",)}[direction]
        # ARP goes through: without it the kernel would soon tell the senders that nobody is there.
        rules = "\n".join(f'ether type ip {end} "{self.name}" counter drop' for end in ends)
        chain = f"chain forward {{\ntype filter hook forward priority 0\n{rules}\n}}"
        self._hub.run("nft", "-f", "-", told=f"{self._no_table}table bridge {self._table} {{\n{chain}\n}}\n")

    def dropped(self) -> int:
        """How many packets the present cut has made vanish; 0 where there is none."""
        listed = self._hub.run("nft", "list", "ruleset", "bridge")
        own = listed.partition(f"table bridge {self._table} ")[2].partition("\ntable ")[0]
        return sum(map(int, re.findall(r"counter packets (\d+)", own)))

    def mend(self) -> None:
        """Undo `cut`; harmless where there is none."""
        self._hub.run("nft", "-f", "-", told=self._no_table)

    @property
    def _table(self) -> str:
        return f"cut_{self.name}"

    @property
    def _no_table(self) -> str:
        # Made first, so that there is one to delete.
        return f"table bridge {self._table}\ndelete table bridge {self._table}\n"

    def close(self) -> None:
        """Let go of it."""
        self._own.close()


class PrivateNetwork:
    """A bridge with `seats` around it. To be used from one thread at a time.

    Args:
        seats: how many; 1 to 254.

    Attributes:
        seats: in the order of their addresses.

    Raises:
        ServerMissing: a program is not installed.
        NetworkForbidden: not root, or the kernel refuses; nothing is left of what was tried.
    """

    def __init__(self, seats: int) -> None:
        for name in _PACKAGES:
            _program(name)
        if os.geteuid() != 0:
            raise NetworkForbidden("a network of its own needs root")
        self._hub = _Namespace()
        made: list[Seat] = []
        self.seats: Sequence[Seat] = made
        try:
            self._hub.run("ip", "-batch", "-", told=f"link add {_BRIDGE} type bridge\nlink set {_BRIDGE} up\n")
            for number in range(1, seats + 1):
                made.append(Seat(number, self._hub))
                made[-1].plug_in()
            # A kernel may have the one and lack the other; better to know now than when a fault is due.
            made[0].cut()
            made[0].mend()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it; it is gone as soon as no process runs inside. Again: nothing happens."""
        for seat in self.seats:
            seat.close()
        self._hub.close()


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=_PATH)
    if found is None:
        raise ServerMissing(f"a network of its own needs {name!r}: apt-get install {_PACKAGES[name]}")
    return found


def _open_new_namespace() -> int:
    """A descriptor of a new, empty one: made by a process that stays in it until it is held here."""
    pipe = subprocess.PIPE
    command = [_program("unshare"), "--net", "sh", "-c", "echo inside; read end"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as inside:  # noqa: S603 - our own command
        assert inside.stdout is not None
        assert inside.stderr is not None
        if not inside.stdout.readline():
            raise NetworkForbidden(f"no network namespace: {inside.stderr.read().decode(errors='replace').strip()}")
        return os.open(f"/proc/{inside.pid}/ns/net", os.O_RDONLY)


def _run(command: Sequence[str], told: str) -> str:
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False)  # noqa: S603 - our own commands
    if done.returncode != 0:
        raise NetworkForbidden(f"a network of its own was refused: {' '.join(command[2:])}: {done.stderr.strip()}")
    return done.stdout
