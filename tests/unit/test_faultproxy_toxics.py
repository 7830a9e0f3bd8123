"""Every toxic against an echo server: sockets of this machine, no protocol."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from holdfast.clock import SYSTEM_CLOCK
from holdfast.errors import ConfigurationError, UsageError
from holdfast.faultproxy import (
    Bandwidth,
    Down,
    FaultProxy,
    Garbage,
    Latency,
    LimitData,
    Phase,
    ResetPeer,
    Slicer,
    SlowClose,
    Stream,
    Timeout,
)

SOON_S = 20.0  # longer than anything takes on a slow machine
A_WHILE_S = 0.15  # in which nothing must happen


class Echo:
    """A server that says what it hears."""

    def __init__(self) -> None:
        self.open = 0
        self.ended: list[float] = []
        changed = self.changed = threading.Condition()
        echo = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with changed:
                    echo.open += 1
                    changed.notify_all()
                with suppress(OSError):
                    while data := self.request.recv(65536):
                        self.request.sendall(data)
                with changed:
                    echo.open -= 1
                    echo.ended.append(SYSTEM_CLOCK.monotonic())
                    changed.notify_all()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address: tuple[str, int] = ("127.0.0.1", self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def wait_for(self, connections: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.open == connections, SOON_S), self.open

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def events() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def proxy(echo: Echo, events: list[dict[str, Any]]) -> Iterator[FaultProxy]:
    with FaultProxy(echo.address, "tcp", on_event=events.append) as running:
        yield running


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Callable[[], socket.socket]]:
    with ExitStack() as stack:

        def connected() -> socket.socket:
            client = socket.create_connection((proxy.host, proxy.port), timeout=SOON_S)
            return stack.enter_context(client)

        yield connected


Connect = Callable[[], socket.socket]


def receive(client: socket.socket, count: int) -> bytes:
    """`count` bytes, or fewer at the end of the stream."""
    data = b""
    while len(data) < count and (part := client.recv(count - len(data))):
        data += part
    return data


def says(client: socket.socket, data: bytes) -> bytes:
    """What comes back."""
    client.sendall(data)
    return receive(client, len(data))


def is_silent(client: socket.socket) -> bool:
    client.settimeout(A_WHILE_S)
    try:
        return client.recv(1) is None
    except TimeoutError:
        return True
    finally:
        client.settimeout(SOON_S)


def ended(client: socket.socket) -> bool:
    """Whether the next thing that comes is the end, in whichever way."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def took(action: Callable[[], object]) -> float:
    begun = SYSTEM_CLOCK.monotonic()
    action()
    return SYSTEM_CLOCK.monotonic() - begun


def test_without_a_toxic_everything_passes(connect: Connect, proxy: FaultProxy, echo: Echo) -> None:
    """Many bytes both ways over several connections, and both ends of a connection close together."""
    data = bytes(range(256)) * 4096
    clients = [connect() for _ in range(3)]
    for client in clients:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        assert receive(client, len(data)) == data
        sender.join()
    for client in clients:
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    echo.wait_for(0)
    assert proxy.counters().connects == 3
    assert proxy.counters().statements == 0


def test_a_reader_that_does_not_read_stops_the_sender(connect: Connect) -> None:
    """What the client does not take is not kept in the proxy without bound."""
    client = connect()
    client.settimeout(2.0)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 1 << 28:
            sent += client.send(b"x" * 65536)
    assert sent < 1 << 26


def test_reset_peer_resets(connect: Connect, proxy: FaultProxy, echo: Echo, events: list[dict[str, Any]]) -> None:
    """Open connections and new ones; the server's end is closed as well."""
    client = connect()
    assert says(client, b"a") == b"a"
    handle = proxy.add(ResetPeer())
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    # The reset may even come before the client has seen that it is connected.
    with suppress(ConnectionError):
        assert ended(connect())
    echo.wait_for(0)
    assert handle.hits == 2
    assert [event["v"] for event in events if event["f"] == "cut"] == [{"fault": "reset_peer", "phase": "always"}] * 2
    handle.remove()
    assert says(connect(), b"b") == b"b"


def test_reset_peer_can_come_later(connect: Connect, proxy: FaultProxy) -> None:
    """Until then everything passes; if it is removed before, it never comes."""
    client = connect()
    assert says(client, b"a") == b"a"
    proxy.add(ResetPeer(timeout=0.2))
    assert took(lambda: ended(client)) >= 0.19
    other = connect()
    handle = proxy.add(ResetPeer(timeout=0.3))
    proxy.heal()
    handle.remove()
    assert is_silent(other)
    assert says(other, b"b") == b"b"


def test_a_ghost_lives_until_it_is_healed(connect: Connect, proxy: FaultProxy, echo: Echo) -> None:
    """The client is gone, the server does not know; `heal` ends that, and so does the removal of the toxic."""
    for heal in (lambda handle: proxy.heal(), lambda handle: handle.remove()):
        client = connect()
        assert says(client, b"a") == b"a"
        handle = proxy.add(ResetPeer(ghost=True))
        assert ended(client)
        with echo.changed:
            assert not echo.changed.wait_for(lambda: echo.open == 0, A_WHILE_S)
        heal(handle)
        echo.wait_for(0)


def test_timeout_swallows_both_directions(connect: Connect, proxy: FaultProxy, echo: Echo) -> None:
    """Nothing passes, nobody is told, also when the client leaves; `heal` drops what it held."""
    client, other = connect(), connect()
    assert says(client, b"a") == says(other, b"a") == b"a"
    proxy.add(Timeout())
    client.sendall(b"lost")
    assert is_silent(client)
    other.close()
    with echo.changed:
        assert not echo.changed.wait_for(lambda: echo.open < 2, A_WHILE_S)
    proxy.heal()
    assert ended(client)
    echo.wait_for(0)
    assert says(connect(), b"b") == b"b"


@pytest.mark.parametrize("stream", Stream)
def test_timeout_of_one_direction(connect: Connect, proxy: FaultProxy, echo: Echo, stream: Stream) -> None:
    """The other one still passes: the server learns that the client leaves, or it does not."""
    client = connect()
    assert says(client, b"a") == b"a"
    proxy.add(Timeout(), stream=stream)
    client.sendall(b"b")
    assert is_silent(client)
    client.close()
    if stream is Stream.DOWNSTREAM:
        echo.wait_for(0)
    else:
        with echo.changed:
            assert not echo.changed.wait_for(lambda: echo.open == 0, A_WHILE_S)


def test_timeout_without_a_ghost(connect: Connect, proxy: FaultProxy, echo: Echo) -> None:
    """The session on the server ends at once, the client is left hanging."""
    client = connect()
    assert says(client, b"a") == b"a"
    proxy.add(Timeout(ghost=False))
    echo.wait_for(0)
    assert is_silent(client)


def test_timeout_ends_in_its_time(connect: Connect, proxy: FaultProxy, echo: Echo) -> None:
    """With a duration both ends are closed after it."""
    client = connect()
    assert says(client, b"a") == b"a"
    proxy.add(Timeout(timeout=0.2))
    assert took(lambda: ended(client)) >= 0.19
    echo.wait_for(0)


def test_timeout_at_connect_leaves_the_client_waiting(connect: Connect, proxy: FaultProxy, echo: Echo) -> None:
    """It is connected, to nobody."""
    proxy.add(Timeout(), Phase.CONNECT, times=1)
    client = connect()
    client.sendall(b"a")
    assert is_silent(client)
    assert echo.open == 0
    assert says(connect(), b"b") == b"b"


def test_latency_delays_each_direction_it_is_for(connect: Connect, proxy: FaultProxy) -> None:
    """Both add up; removed, nothing is late any more, and what was waiting leaves at once."""
    client = connect()
    assert says(client, b"a") == b"a"
    handle = proxy.add(Latency(0.1))
    assert took(lambda: says(client, b"b")) >= 0.19
    handle.remove()
    handle = proxy.add(Latency(3600.0), stream=Stream.DOWNSTREAM)
    client.sendall(b"c")
    assert is_silent(client)
    handle.remove()
    assert receive(client, 1) == b"c"


def test_latency_at_connect_delays_the_connection(connect: Connect, proxy: FaultProxy) -> None:
    """The client is connected, the server later; what the client said meanwhile arrives."""
    proxy.add(Latency(0.2), Phase.CONNECT)
    assert took(lambda: says(connect(), b"a")) >= 0.19


def test_jitter_keeps_the_order(connect: Connect, proxy: FaultProxy) -> None:
    """However late single parts are, none overtakes another."""
    proxy.add(Latency(0.01, jitter=0.01))
    client = connect()
    data = b"".join(bytes([number]) * 10 for number in range(100))
    for at in range(0, len(data), 10):
        client.sendall(data[at : at + 10])
    assert receive(client, len(data)) == data


def test_bandwidth_limits_the_rate(connect: Connect, proxy: FaultProxy) -> None:
    """Ten thousand bytes at fifty thousand a second take a fifth of a second."""
    client = connect()
    assert says(client, b"a") == b"a"
    handle = proxy.add(Bandwidth(50_000), stream=Stream.UPSTREAM)
    assert took(lambda: says(client, b"x" * 10_000)) >= 0.19
    handle.remove()
    assert says(client, b"y" * 10_000) == b"y" * 10_000


def test_a_slow_lane_stops_the_sender(connect: Connect, proxy: FaultProxy) -> None:
    """What waits for its time is bounded as well."""
    proxy.add(Bandwidth(1000), stream=Stream.UPSTREAM)
    client = connect()
    client.settimeout(1.0)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 1 << 28:
            sent += client.send(b"x" * 65536)
    assert sent < 1 << 26


def test_slicer_slices(connect: Connect, proxy: FaultProxy) -> None:
    """Parts arrive one by one, and all of them."""
    proxy.add(Slicer(4, delay=0.02), stream=Stream.DOWNSTREAM)
    client = connect()
    assert took(lambda: says(client, b"0123456789" * 4)) >= 0.17
    client.sendall(b"0123456789")
    assert client.recv(100) == b"0123"


def test_limit_data_closes(connect: Connect, proxy: FaultProxy, echo: Echo, events: list[dict[str, Any]]) -> None:
    """The bytes that may pass do, then both ends are closed."""
    proxy.add(LimitData(5), stream=Stream.DOWNSTREAM)
    client = connect()
    client.sendall(b"0123456789")
    assert receive(client, 10) == b"01234"
    assert ended(client)
    echo.wait_for(0)
    assert [event["v"]["fault"] for event in events if event["f"] == "cut"] == ["limit_data"]


def test_slow_close_tells_the_end_later(connect: Connect, proxy: FaultProxy, echo: Echo) -> None:
    """The server learns it after the delay."""
    proxy.add(SlowClose(0.2), stream=Stream.UPSTREAM)
    client = connect()
    assert says(client, b"a") == b"a"
    closed = SYSTEM_CLOCK.monotonic()
    client.close()
    echo.wait_for(0)
    assert echo.ended[0] - closed >= 0.19


def test_garbage_arrives(connect: Connect, proxy: FaultProxy) -> None:
    """Toward the client, or toward the server, which echoes it; then the stream goes on."""
    for stream in (None, Stream.UPSTREAM):
        client = connect()
        assert says(client, b"a") == b"a"
        proxy.add(Garbage(32), stream=stream, times=1)
        nonsense = receive(client, 32)
        assert len(set(nonsense)) > 8
        assert says(client, b"b") == b"b"
        client.close()


def test_garbage_for_a_server_whose_client_has_said_all_is_lost(echo: Echo, proxy: FaultProxy) -> None:
    """Such a connection may be there yet: nothing can be written to it, and nothing of that is an error."""
    proxy.add(SlowClose(30), stream=Stream.DOWNSTREAM)
    with socket.create_connection((proxy.host, proxy.port), timeout=SOON_S) as client:
        assert says(client, b"a") == b"a"
        client.shutdown(socket.SHUT_WR)
        echo.wait_for(0)
        proxy.add(Garbage(32), stream=Stream.UPSTREAM, times=1)
        with socket.create_connection((proxy.host, proxy.port), timeout=SOON_S) as another:
            assert says(another, b"b") == b"b"


def test_down_refuses(connect: Connect, proxy: FaultProxy, echo: Echo) -> None:
    """Open connections are reset and new ones refused by the kernel, until it is removed; the port stays the same."""
    client = connect()
    assert says(client, b"a") == b"a"
    port = proxy.port
    for heal in (lambda handle: handle.remove(), lambda handle: proxy.heal()):
        handle = proxy.add(Down())
        with pytest.raises(ConnectionRefusedError):
            connect()
        heal(handle)
        assert proxy.port == port
        assert says(connect(), b"b") == b"b"
    assert ended(client)


def test_toxicity_is_drawn_for_each_connection(echo: Echo) -> None:
    """The same seed hits the same connections, when they come one after the other."""
    found = []
    for seed in (7, 7, 9):
        with FaultProxy(echo.address, "tcp", seed=seed) as proxy:
            proxy.add(ResetPeer(), Phase.CONNECT, toxicity=0.5)
            hit = []
            for _ in range(24):
                try:
                    with socket.create_connection((proxy.host, proxy.port), timeout=SOON_S) as client:
                        hit.append(says(client, b"a") != b"a")
                except ConnectionError:
                    hit.append(True)
            found.append(hit)
    assert found[0] == found[1] != found[2]
    assert 0 < sum(found[0]) < 24


def test_a_server_that_is_not_there(events: list[dict[str, Any]]) -> None:
    """The client is reset, and the event says why."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
    with FaultProxy(address, "tcp", on_event=events.append) as proxy:
        with suppress(ConnectionError), socket.create_connection((proxy.host, proxy.port), timeout=SOON_S) as client:
            assert ended(client)
        assert [event["v"]["reason"] for event in events if event["f"] == "refuse"] == ["server unreachable"]
        assert proxy.counters().refused == 1


def test_the_end_of_the_server_is_passed_on(connect: Connect, proxy: FaultProxy) -> None:
    """What it said before arrives first."""
    with socket.create_server(("127.0.0.1", 0)) as server, FaultProxy(server.getsockname(), "tcp") as other:
        client = socket.create_connection((other.host, other.port), timeout=SOON_S)
        session, _ = server.accept()
        session.sendall(b"farewell")
        session.close()
        assert receive(client, 9) == b"farewell"
        client.close()


def test_events_have_their_shape(connect: Connect, proxy: FaultProxy, events: list[dict[str, Any]]) -> None:
    """One JSON object each; what was counted is told once a second and at the end, and adds up to the counters."""
    assert says(connect(), b"a") == b"a"
    proxy.close()
    assert {(event["type"], event["p"]) for event in events} == {("wire", "proxy")}
    assert [event["t"] for event in events] == sorted(event["t"] for event in events)
    assert [event["c"] for event in events if event["f"] == "connect"] == [1]
    assert sum(event["v"]["connects"] for event in events if event["f"] == "count") == proxy.counters().connects == 1


def test_a_listener_may_turn_switches_and_may_not_raise(echo: Echo) -> None:
    """It runs in the proxy's thread and can add a toxic there; its exception is not lost."""
    running: list[FaultProxy] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["f"] == "connect":
            running[0].add(Garbage(3))
            raise ZeroDivisionError

    running.append(FaultProxy(echo.address, "tcp", on_event=on_event))
    running[0].start()
    with socket.create_connection((running[0].host, running[0].port), timeout=SOON_S) as client:
        assert len(receive(client, 3)) == 3
    with pytest.raises(UsageError) as raised:
        running[0].close()
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_proxy_has_a_beginning_and_an_end(echo: Echo) -> None:
    """Before and after, it has no port and takes no toxic; closing twice is no error; it can be started again."""
    proxy = FaultProxy(echo.address, "tcp")
    for _ in range(2):
        assert "not started" in repr(proxy)
        with pytest.raises(UsageError):
            _ = proxy.port
        with pytest.raises(UsageError):
            proxy.add(Down())
        with proxy:
            assert str(proxy.port) in repr(proxy)
            with pytest.raises(UsageError):
                proxy.start()
            with socket.create_connection((proxy.host, proxy.port), timeout=SOON_S) as client:
                assert says(client, b"a") == b"a"
                proxy.close()
                assert ended(client)
        proxy.close()
        echo.wait_for(0)


@pytest.mark.parametrize(
    ("upstream", "protocol"), [(("", 1), "tcp"), (("127.0.0.1", 0), "tcp"), (("127.0.0.1", 1), "oracle")]
)
def test_a_wrong_address_is_refused(upstream: tuple[str, int], protocol: Any) -> None:
    """Where it is given."""
    with pytest.raises(ConfigurationError):
        FaultProxy(upstream, protocol)
