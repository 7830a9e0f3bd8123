"""In a real network of servers' own packets vanish and come back, clients reach in from outside, and nothing is left over."""

from __future__ import annotations

import json
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import psutil
import pytest

from holdfast.clock import SYSTEM_CLOCK
from holdfast.drills.servers.inherited_port import InheritedPort
from holdfast.drills.servers.private_network import Direction, PrivateNetwork, Seat
from holdfast.drills.servers.process import free_port

ECHO = """
import socket
with socket.create_server(("192.0.2.1", 7000)) as listener:
    print("listening", flush=True)
    connection, _ = listener.accept()
    while data := connection.recv(100):
        connection.sendall(data)
"""
ASK = """
import socket, sys
connection = socket.create_connection(("192.0.2.1", 7000))
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(100).decode(), end="", flush=True)
"""
GREETER = """
import os, pathlib, socket
assert (os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"]) == ("2", str(os.getpid()))
tcp, unix = socket.socket(fileno=3), socket.socket(fileno=4)
pathlib.Path("began").touch()
while not pathlib.Path("serve").exists():
    pass
first, _ = unix.accept()
first.sendall(b"hello")
while True:
    tcp.accept()[0].sendall(b"hello")
"""


class Talk:
    """A connection from the second seat to the first, each held by a process there."""

    def __init__(self, network: PrivateNetwork, stack: ExitStack) -> None:
        first, second = network.seats
        assert self._run(first, ECHO, stack).readline() == "listening\n"
        self._answers = self._run(second, ASK, stack)

    def _run(self, seat: Seat, program: str, stack: ExitStack) -> IO[str]:
        process = subprocess.Popen(
            [*seat.enter(None), sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdin is not None
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        stack.callback(process.stdin.close)
        self._questions = process.stdin
        return process.stdout

    def ask(self, text: str) -> None:
        """Send a line, and do not wait for it to come back."""
        self._questions.write(f"{text}\n")

    def answer(self, within_s: float) -> str | None:
        """The next line that came back; None when none has in time, the empty text when the connection is broken."""
        readable, _, _ = select.select([self._answers], [], [], within_s)
        return self._answers.readline().strip() if readable else None


@pytest.fixture
def talk(private_network: PrivateNetwork) -> Iterator[Talk]:
    """The connection, and a first word over it."""
    with ExitStack() as stack:
        talk = Talk(private_network, stack)
        talk.ask("before")
        assert talk.answer(10) == "before"
        yield talk


def assert_cut_and_mended(talk: Talk, network: PrivateNetwork) -> None:
    """What is said during a cut is heard by nobody, is no error either, and arrives after it."""
    talk.ask("during")
    assert talk.answer(0.4) is None
    assert network.seats[0].dropped() > 0
    network.seats[0].mend()
    assert talk.answer(30) == "during"
    assert network.seats[0].dropped() == 0


@pytest.mark.parametrize("direction", ["both", "to", "from"])
def test_packets_vanish_without_a_word_and_come_back(
    talk: Talk, private_network: PrivateNetwork, direction: Direction
) -> None:
    """In one direction or in both: the connection stays open, and its sender tries again until somebody hears."""
    private_network.seats[0].cut(direction)
    assert_cut_and_mended(talk, private_network)


def test_planted_cut_that_cuts_nothing_is_found(
    talk: Talk, private_network: PrivateNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules that meet no packet turn the check red."""
    monkeypatch.setattr(private_network.seats[0], "name", "n9")
    private_network.seats[0].cut()
    with pytest.raises(AssertionError):
        assert_cut_and_mended(talk, private_network)


def test_others_hear_each_other_during_a_cut(talk: Talk, private_network: PrivateNetwork) -> None:
    """A cut is one seat's, and that of another network is nobody's here."""
    other = PrivateNetwork(2)
    try:
        other.seats[0].cut()
        talk.ask("still here")
        assert talk.answer(10) == "still here"
    finally:
        other.close()


def test_network_adds_nothing_to_this_machine(private_network: PrivateNetwork) -> None:
    """Neither a link nor a name, and inside there is nothing of this machine's."""
    links = {name for _, name in socket.if_nameindex()}
    assert links.isdisjoint({"bridge", *(seat.name for seat in private_network.seats)})
    assert subprocess.run(["ip", "netns", "list"], capture_output=True, check=True).stdout == b""
    seen = subprocess.run(
        [*private_network.seats[1].enter("nobody"), "ip", "-brief", "-4", "address"], capture_output=True, check=True
    )
    assert [line.split()[2] for line in seen.stdout.decode().splitlines()] == ["127.0.0.1/8", "192.0.2.2/24"]


@pytest.mark.usefixtures("private_network")  # for what it needs of the machine
def test_inherited_port_refuses_until_the_server_greets(tmp_path: Path) -> None:
    """A client is not let in to wait, as with a port that is merely open, and is refused again when the server has ended."""
    port = free_port()
    inherited = InheritedPort("127.0.0.1", port, tmp_path / "socket")
    with (tmp_path / "log").open("wb") as log:
        server = inherited.start([], [sys.executable, "-c", GREETER], log)
    try:
        while not (tmp_path / "began").exists():
            assert server.poll() is None, (tmp_path / "log").read_text()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)
        (tmp_path / "serve").touch()
        inherited.wait_until_shut()  # of ours: the server's is open now
        with socket.create_connection(("127.0.0.1", port), 1) as client:
            assert client.recv(5) == b"hello"
    finally:
        server.kill()
        server.wait()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


@pytest.mark.usefixtures("private_network")
def test_server_that_ends_before_it_greets_gives_the_port_back(tmp_path: Path) -> None:
    """The next one may have it at once."""
    port = free_port()
    for _ in range(2):
        inherited = InheritedPort("127.0.0.1", port, tmp_path / "socket")
        with (tmp_path / "log").open("wb") as log:
            assert inherited.start([], ["false"], log).wait() == 1
        inherited.wait_until_shut()


def held_by(namespaces: set[str]) -> list[str]:
    """Every process that is inside one of the namespaces or holds it open, and every mount of one."""
    found = [line for line in Path("/proc/mounts").read_text().splitlines() if " nsfs " in line]
    for process in psutil.process_iter():
        folder = Path(f"/proc/{process.pid}")
        with suppress(OSError):
            links = [folder / "ns" / "net", *(folder / "fd").iterdir()]
            for link in links:
                with suppress(OSError):
                    if str(link.readlink()) in namespaces:
                        found.append(str(link))
    return found


def runs(pid: int) -> bool:
    """Whether it has not ended; whoever took it over from its dead parent may take a while to notice."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("kind", "sent", "code"),
    [
        ("network", signal.SIGTERM, 143),
        ("network", signal.SIGINT, -signal.SIGINT),
        ("network", signal.SIGKILL, -signal.SIGKILL),
        ("cluster", signal.SIGTERM, 143),
        ("cluster", signal.SIGKILL, -signal.SIGKILL),
    ],
    ids=str,
)
@pytest.mark.usefixtures("private_network", "ctrl_c")
def test_nothing_is_left_however_its_owner_ends(kind: str, sent: signal.Signals, code: int) -> None:
    """In the middle of a cut: no process, no namespace, and with it no link, bridge or rule. So nothing is there to clean up."""
    program = Path(__file__).with_name("network_owner.py")
    with subprocess.Popen(
        [sys.executable, str(program), kind], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as owner:
        assert owner.stdout is not None
        told = json.loads(owner.stdout.readline())
        namespaces = {told["inside"], *told["held"]}
        assert len(namespaces) == len(told["held"]) == (3 if kind == "network" else 2)
        assert held_by(namespaces) != []
        owner.send_signal(sent)
        assert owner.wait(30) == code
    if sent is signal.SIGKILL and told["folder"] is not None:
        shutil.rmtree(told["folder"])  # which nobody else will
    give_up_at = SYSTEM_CLOCK.monotonic() + 10
    while (runs(told["pid"]) or held_by(namespaces)) and SYSTEM_CLOCK.monotonic() < give_up_at:
        SYSTEM_CLOCK.sleep(0.05)
    assert (runs(told["pid"]), held_by(namespaces)) == (False, [])
