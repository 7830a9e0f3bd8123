"""The end of a real server process: nothing lost, nothing reset, in time, with the right exit code."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from holdfast.clock import new_token
from holdfast.drills.servers.process import END_WITH_PARENT, free_port
from tests.servers.http_load import Answer, Balancer, Connection, Load, ask, hand_over, is_ready

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
GENEROUS_S = 60.0


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until something holds."""
    async with asyncio.timeout(GENEROUS_S):
        while not await true():  # noqa: ASYNC110 - of another process's state
            await asyncio.sleep(0.02)


@dataclass
class Service:
    """One server process."""

    process: asyncio.subprocess.Process
    port: int
    log: Path

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(GENEROUS_S):
            return await self.process.wait()

    def said(self) -> str:
        """What is on its stdout and stderr."""
        return self.log.with_suffix(".out").read_text()

    async def serves(self) -> bool:
        # Not by asking its port, which another process may answer on.
        assert self.process.returncode is None, f"the service ended instead of answering: {self.said()}"
        return "Shutdown takes" in self.said() or "Press CTRL+C" in self.said()

    def noted(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    async def until_noted(self, what: str) -> None:
        async def found() -> bool:
            return what in self.noted()

        await until(found)

    async def until_unready(self) -> None:
        async def found() -> bool:
            return not await is_ready(self.port)

        await until(found)


@asynccontextmanager
async def service(
    folder: Path, *options: str, port: int | None = None, ready: bool = True, server: str = "holdfast.ext.uvicorn"
) -> AsyncIterator[Service]:
    """A server process that answers; killed if a test leaves it running."""
    port = port or free_port()
    log = folder / f"{new_token()}.log"
    with (folder / f"{log.stem}.out").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *END_WITH_PARENT,
            *(sys.executable, "-m", server, "tests.integration.drain_app:app"),
            *("--app-dir", str(ROOT), "--port", str(port), *options),
            env={**os.environ, "DRAIN_DATABASE": str(folder / "saved.db"), "DRAIN_LOG": str(log)},
            stdout=output,
            stderr=output,
        )
    started = Service(process, port, log)
    try:
        if ready:
            await until(started.serves)
        yield started
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def save(connection: Connection, name: str) -> Answer:
    return await connection.ask(f"/save/{name}", "POST")


async def read(connection: Connection) -> Answer:
    return await connection.ask("/slow/0.02", "POST")


async def ended(old: Service) -> None:
    """Have it end, and wait for that."""
    old.end()
    await old.ended()


@pytest.mark.parametrize("kind", ["balancer", "one port"])
async def test_sigterm_under_load_loses_nothing(tmp_path: Path, kind: str) -> None:
    """50 busy clients and a new one every 20 ms while one process hands over to the next: nothing is lost, reset or unsaved.

    `balancer`: each process has a port, and new connections go where `/readyz` says. `one port`: both listen on the same one
    (SO_REUSEPORT), the kernel spreads connections, and clients know of no readiness at all.
    """
    # As long as the balancer may need to notice on a busy machine. Where there is none, nobody has to notice anything.
    lame_duck, more = ("4", ()) if kind == "balancer" else ("1", ("--reuse-port",))
    options = ("--lame-duck", lame_duck, "--finish", "60", *more)
    port = free_port()
    async with (
        service(tmp_path, *options, port=port) as old,
        service(tmp_path, *options, port=port if kind == "one port" else None) as new,
    ):
        balancer = Balancer(old.port, new.port)
        probing = asyncio.create_task(balancer.probe() if kind == "balancer" else asyncio.sleep(0))
        load = Load(balancer.choose if kind == "balancer" else lambda: port, save, read)
        await hand_over(load, lambda: ended(old))
        probing.cancel()
        new.end(signal.SIGINT)
        assert (await old.ended(), await new.ended()) == (0, 0)
    assert load.lost == [], old.said() + new.said()
    assert load.told > 0
    assert old.noted() == ["flushed", "application", "closed"]
    with sqlite3.connect(tmp_path / "saved.db") as database:
        rows = [row[0] for row in database.execute("SELECT id FROM saved")]
    assert 0 < load.saves == len(load.saved)
    assert sorted(rows) == sorted(load.saved)


async def test_planted_server_without_an_end_loses_requests(tmp_path: Path) -> None:
    """The same load sees what plain uvicorn loses with the same application: the measure is no blind one."""
    async with (
        service(tmp_path, server="uvicorn") as old,
        service(tmp_path, server="uvicorn") as new,
    ):
        balancer = Balancer(old.port, new.port)
        probing = asyncio.create_task(balancer.probe())
        load = Load(balancer.choose, save, read)
        await hand_over(load, lambda: ended(old))
        probing.cancel()
    assert load.lost != []


async def test_the_lame_duck_answers_and_says_so(tmp_path: Path) -> None:
    """After SIGTERM: not ready at once, alive all the time, everything answered with `Connection: close`, then refused."""
    async with service(tmp_path, "--lame-duck", "2") as running, await Connection.open(running.port) as kept:
        assert not (await kept.ask("/slow/0")).closes
        running.end()
        await running.until_unready()
        unready = await ask(running.port, "/readyz")
        assert (unready.status, json.loads(unready.body)["draining"]) == (503, True)
        assert (await ask(running.port, "/livez")).status == 200
        answer = await kept.ask("/slow/0")
        assert (answer.status, answer.closes) == (200, True)
        assert await running.ended() == 0
        with pytest.raises(OSError):
            await Connection.open(running.port)


async def test_idle_connections_do_not_delay_the_end(tmp_path: Path) -> None:
    """Connections that wait for nothing are closed, those that have never asked a second later."""
    async with (
        service(tmp_path, "--lame-duck", "0", "--finish", "50") as running,
        await Connection.open(running.port) as idle,
        await Connection.open(running.port) as new,
    ):
        await idle.ask("/slow/0")
        began = time.monotonic()
        running.end()
        assert await running.ended() == 0
        assert time.monotonic() - began < 40
        assert await idle.reader.read() == b""
        assert await new.reader.read() == b""


async def test_what_is_under_way_finishes(tmp_path: Path) -> None:
    """A request that began before the signal is answered, and an accepted connection may still send its own."""
    async with (
        service(tmp_path, "--lame-duck", "0", "--finish", "50") as running,
        await Connection.open(running.port) as late,
    ):
        slow = asyncio.create_task(ask(running.port, "/slow/2"))
        await asyncio.sleep(0.3)
        running.end()
        await asyncio.sleep(0.3)
        answer = await late.ask("/slow/0")
        assert (answer.status, answer.closes) == (200, True)
        answer = await slow
        assert (answer.status, answer.closes) == (200, True)
        assert await running.ended() == 0


async def test_a_stream_ends_by_itself(tmp_path: Path) -> None:
    """An endless answer is told, ends whole, and holds nothing up."""
    async with service(tmp_path, "--lame-duck", "0.5", "--finish", "50") as running:
        streaming = asyncio.create_task(ask(running.port, "/events"))
        await asyncio.sleep(0.3)
        running.end()
        answer = await streaming
        assert b"data: 1\n\n" in answer.body
        assert b"data: end\n\n" in answer.body
        assert answer.body.endswith(b"0\r\n\r\n"), "the last chunk is there: the answer is whole"
        assert await running.ended() == 0


async def test_a_hung_handler_is_cancelled_and_awaited(tmp_path: Path) -> None:
    """At the limit it is cancelled, cleans up before anything is closed, and its client is told."""
    async with service(tmp_path, "--lame-duck", "0", "--finish", "0.5", "--cancel", "20") as running:
        hanging = asyncio.create_task(ask(running.port, "/hang"))
        await running.until_noted("hanging")
        running.end()
        answer = await hanging
        assert answer.status == 503
        assert "retry-after" in answer.headers
        assert answer.closes
        assert await running.ended() == 0
        assert running.noted() == ["hanging", "cleaned", "flushed", "application", "closed"]


@pytest.mark.parametrize("options", [(), ("--access-log",)])
def test_query_strings_are_logged_only_where_that_was_asked_for(tmp_path: Path, options: tuple[str, ...]) -> None:
    """They hold tokens, names and searches; the line of `AccessLog` has none."""

    async def ask_once() -> Path:
        async with service(tmp_path, "--lame-duck", "0", *options) as running:
            assert (await ask(running.port, "/livez?token=canary")).status
            running.end()
            await running.ended()
        return running.log.with_suffix(".out")

    assert ("canary" in asyncio.run(ask_once()).read_text()) is bool(options)


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Nobody has to wait for a limit: no step is taken any more, and the status is the signal's."""
    async with service(tmp_path, "--lame-duck", "600") as running:
        hanging = asyncio.create_task(ask(running.port, "/hang"))
        await running.until_noted("hanging")
        running.end()
        await running.until_unready()
        running.end()
        assert await running.ended() == -signal.SIGTERM
        with pytest.raises((EOFError, OSError)):
            await hanging
        assert running.noted() == ["hanging"]


async def test_ctrl_c_skips_the_lame_duck(tmp_path: Path) -> None:
    """A person at a terminal waits for what is under way, not for a balancer."""
    async with service(tmp_path, "--lame-duck", "600") as running:
        running.end(signal.SIGINT)
        assert await running.ended() == 0
        assert running.noted() == ["flushed", "application", "closed"]


async def test_a_thread_that_never_ends_does_not_keep_the_process(tmp_path: Path) -> None:
    """Everything is closed, then the process goes; where the thread stands is on stderr."""
    async with service(tmp_path, "--lame-duck", "0") as running:
        assert (await ask(running.port, "/stuck")).status == 200
        running.end()
        assert await running.ended() == 1
        assert running.noted() == ["flushed", "application", "closed"]
        assert "Timeout" in running.said()


async def test_several_workers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason and the cure are on stderr, and nothing is started."""
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    async with service(tmp_path, ready=False) as running:
        assert await running.ended() == 2
        said = running.said()
        assert "4 workers" in said
        assert "reuse_port" in said


# -- websockets ------------------------------------------------------------------------------------------------------------


async def test_websockets_end(tmp_path: Path) -> None:
    """A handler that looks ends by itself during the lame duck; any other connection is closed with 1012 after it."""
    client = pytest.importorskip("websockets.asyncio.client", reason="uvicorn serves websockets with `websockets`")
    async with service(tmp_path, "--lame-duck", "2", "--finish", "50") as running:
        url = f"ws://{HOST}:{running.port}"
        async with client.connect(f"{url}/attentive") as attentive, client.connect(f"{url}/other") as other:
            assert [await attentive.recv(), await other.recv()] == ["hello", "hello"]
            running.end()
            assert await attentive.recv() == "bye"
            await attentive.wait_closed()
            assert attentive.close_code == 1001
            await other.wait_closed()
            assert other.close_code == 1012
        assert await running.ended() == 0
    assert "websocket 1012" in running.noted()


# -- certificates ----------------------------------------------------------------------------------------------------------


def put(certificate: trustme.LeafCert, path: Path) -> None:
    """Write key and chain into one file, at once."""
    made = path.with_suffix(".new")
    certificate.private_key_and_cert_chain_pem.write_to_path(made)
    made.replace(path)


def client_context(authority: trustme.CA, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


async def serial_of(port: int, context: ssl.SSLContext) -> str:
    async with await Connection.open(port, context) as connection:
        return str(connection.writer.get_extra_info("peercert")["serialNumber"])


async def test_an_idle_connection_over_tls_does_not_delay_the_end(tmp_path: Path) -> None:
    """Its client keeps it in a pool and does not look, so it confirms no end; a request under way is answered all the same."""
    authority, chain = trustme.CA(), tmp_path / "server.pem"
    put(authority.issue_cert("shop"), chain)
    context = client_context(authority)
    tls = ("--tls-certificate", str(chain), "--lame-duck", "0", "--finish", "50")

    def ask_and_keep(port: int) -> ssl.SSLSocket:
        kept = context.wrap_socket(socket.create_connection((HOST, port)), server_hostname="shop")
        kept.sendall(b"GET /slow/0 HTTP/1.1\r\nhost: shop\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        return kept

    async with service(tmp_path, *tls) as running:
        with await asyncio.to_thread(ask_and_keep, running.port):
            slow = asyncio.create_task(ask(running.port, "/slow/2", context))
            await asyncio.sleep(0.5)
            began = time.monotonic()
            running.end()
            assert (await slow).status == 200
            assert await running.ended() == 0
            assert time.monotonic() - began < 25, "asyncio itself waits for 30 s"


async def test_peers_are_identified_and_certificates_renewed(tmp_path: Path) -> None:
    """A client's certificate is seen, a foreign or missing one is refused, a new server certificate is taken at SIGHUP."""
    authority, foreign = trustme.CA(), trustme.CA()
    chain, clients = tmp_path / "server.pem", tmp_path / "clients.pem"
    put(authority.issue_cert("shop"), chain)
    authority.cert_pem.write_to_path(clients)
    mine = client_context(authority, authority.issue_cert("orders.shop", common_name="orders, shop"))
    tls = ("--tls-certificate", str(chain), "--tls-client-authorities", str(clients), "--lame-duck", "0")
    async with service(tmp_path, *tls) as running:
        peer = json.loads((await ask(running.port, "/peer", mine)).body)
        assert peer["dns"] == ["orders.shop"]
        assert "CN=orders\\, shop" in peer["subject"]
        assert peer["spiffe"] is None
        for context in (client_context(authority), client_context(authority, foreign.issue_cert("orders.shop"))):
            with pytest.raises((EOFError, OSError)):
                await ask(running.port, "/peer", context)
        kept = await Connection.open(running.port, mine)
        former = await serial_of(running.port, mine)
        chain.with_suffix(".new").write_text("half a certificate")
        chain.with_suffix(".new").replace(chain)
        running.end(signal.SIGHUP)
        assert await serial_of(running.port, mine) == former
        put(authority.issue_cert("shop"), chain)
        running.end(signal.SIGHUP)

        async def is_renewed() -> bool:
            return await serial_of(running.port, mine) != former

        await until(is_renewed)
        assert (await kept.ask("/peer")).status == 200
        await kept.close()
        running.end()
        assert await running.ended() == 0
        said = running.said()
        assert "the renewed TLS files cannot be used" in said
