"""The proxy itself: a thread with an event loop, a listener, and the switches that any thread may turn."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self, TypeVar

from ..clock import SYSTEM_CLOCK, seeded_random
from ..errors import ConfigurationError, UsageError
from .journal import Counters, Journal, OnEvent
from .link import ClientEnd, Link
from .plan import Handle, Phase, Plan, Selector, check
from .toxics import Down, ResetPeer, Stream, Toxic
from .wire.conversation import Conversation, Kind, OpaqueConversation
from .wire.mysql import MysqlConversation
from .wire.postgresql import PostgresqlConversation

__all__ = ["FaultProxy", "Wire"]

T = TypeVar("T")

Wire = Literal["mysql", "postgresql", "tcp"]
"""What is spoken: that of MySQL and MariaDB, that of PostgreSQL, or anything (`tcp`: there are no statements)."""

_CONVERSATIONS: dict[str, Callable[[], Conversation]] = {
    "mysql": MysqlConversation,
    "postgresql": PostgresqlConversation,
    "tcp": OpaqueConversation,
}
_ANSWER_WITHIN_S = 30.0
_BACKLOG = 1024
_TURNS_MAX = 1000  # of the event loop; a socket takes one to close


class FaultProxy:
    """Passes connections on to one server, and lets them fail when told to. A context manager; safe in threads.

    Clients connect to `host` and `port` instead of the server's. TLS and compression are struck from what the server offers, or
    refused.

    Args:
        upstream: host and port of the server.
        protocol: what is spoken.
        seed: of every draw: toxicity, jitter, garbage. Connections that run side by side draw in the order in which they come.
        on_event: called with each event (see `journal.py`), in the proxy's own thread. Its first exception ends the calling; it
            is raised by `close`.
        host: the address to listen on (default loopback).

    Raises:
        ConfigurationError: the protocol or the address cannot be used.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        protocol: Wire,
        *,
        seed: int = 0,
        on_event: OnEvent | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        if protocol not in _CONVERSATIONS:
            raise ConfigurationError(f"protocol is one of {', '.join(_CONVERSATIONS)}, not {protocol!r}")
        name, port = upstream
        if not name or not 0 < port < 65536:
            raise ConfigurationError(f"upstream is a host and a port from 1 to 65535, not {upstream!r}")
        self.host = host
        self.upstream = upstream
        self.protocol = protocol
        self.draw = seeded_random(seed)
        self.plan = Plan(self.draw)
        self.journal = Journal(SYSTEM_CLOCK, on_event)
        self._conversation = _CONVERSATIONS[protocol]
        self._links: set[Link] = set()
        self._connections = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._reserved: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._accepting: set[asyncio.Task[object]] = set()
        self._counting: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        where = f"{self.host}:{self.port}" if self._reserved is not None else "not started"
        return f"<{self.protocol} fault proxy, {where} to {self.upstream[0]}:{self.upstream[1]}>"

    # ---- life

    def start(self) -> Self:
        """Listen. Raises `UsageError` if it does already, `OSError` if `host` is not an address of this machine."""
        if self._thread is not None:
            raise UsageError("this fault proxy runs already")
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        # Bound but never listening: it keeps the port while nobody listens (`Down`), so that clients are refused.
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            reserved.bind((self.host, 0))
        except OSError:
            reserved.close()
            raise
        self._reserved = reserved
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()
        self._call(self._begin)
        return self

    def close(self) -> None:
        """Drop every connection and stop listening. Again: nothing happens.

        Raises:
            UsageError: `on_event` or a selector had raised; its exception is the cause.
        """
        if self._thread is None or self._loop is None:
            return
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_WITHIN_S)
        self._thread = self._loop = None
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        if self.journal.error is not None:
            raise UsageError("on_event raised; later events were not told") from self.journal.error
        if self.plan.error is not None:
            raise UsageError("a selector raised; it selected nothing") from self.plan.error

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """Where clients connect to."""
        if self._reserved is None:
            raise UsageError("this fault proxy does not run; use it as a context manager, or call start()")
        port: int = self._reserved.getsockname()[1]
        return port

    # ---- switches

    def add(
        self,
        toxic: Toxic,
        at: Phase = Phase.ALWAYS,
        *,
        on: Selector = None,
        stream: Stream | None = None,
        toxicity: float = 1.0,
        times: int | None = None,
    ) -> Handle:
        """Let `toxic` act from now on: when this returns, it is in force.

        Args:
            toxic: what to do.
            at: when. `ALWAYS` acts on whole connections, also on those that are open.
            on: which statements, at a phase of statements; None for any.
            stream: one direction alone, where that makes sense; None for both (`Garbage`: toward the client).
            toxicity: the probability with which it acts, drawn for each statement (or connection, where no statement is met).
            times: how often it acts before it is spent; None for any number.

        Raises:
            ConfigurationError: the arguments contradict each other.
            UsageError: the proxy does not run.
        """
        check(toxic, at, on, stream, toxicity, times)
        handle = Handle(toxic, at, on, stream, toxicity, times, self._remove)
        self._call(lambda: self._add(handle))
        return handle

    def cut_after_next_commit(self) -> Handle:
        """The next COMMIT is carried out, and its answer lost: the client sees a reset connection, and cannot know."""
        return self.add(ResetPeer(), Phase.ANSWERED, on=Kind.COMMIT, times=1)

    def cut_before_next_commit(self) -> Handle:
        """The next COMMIT never reaches the server; to the client it looks like the other one."""
        return self.add(ResetPeer(), Phase.BEFORE, on=Kind.COMMIT, times=1)

    def heal(self) -> None:
        """Remove every toxic, drop the connections that one has silenced or left as ghosts, listen again."""
        self._call(self._heal)

    def counters(self) -> Counters:
        """What was counted up to now."""
        return self._call(self.journal.snapshot) if self._thread is not None else self.journal.snapshot()

    # ---- in the proxy's thread

    def _run(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        # Sockets are closed in the turn after they were told to.
        self._loop.run_until_complete(self._settle())
        self._loop.close()

    async def _settle(self) -> None:
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        for _ in range(_TURNS_MAX):
            if not self._links:
                break
            for link in list(self._links):
                link.drop()
            await asyncio.sleep(0)  # noqa: TID251 - a turn, not a wait

    def _call(self, action: Callable[[], T]) -> T:
        """Call `action` in the proxy's thread and wait for what it returns (or awaits)."""
        if self._loop is None or self._thread is None:
            raise UsageError("this fault proxy does not run; use it as a context manager, or call start()")
        if self._thread is threading.current_thread():
            return action()
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

        def act() -> None:
            try:
                outcome.set_result(action())
            except BaseException as error:
                outcome.set_exception(error)

        self._loop.call_soon_threadsafe(act)
        return outcome.result(_ANSWER_WITHIN_S)

    def _begin(self) -> None:
        self._listen()
        if self.journal.listened_to:
            self._count()

    def _count(self) -> None:
        assert self._loop is not None
        self._counting = self._loop.call_later(1.0, self._count)
        self.journal.count()

    def _listen(self) -> None:
        assert self._reserved is not None
        assert self._loop is not None
        if self._listener is not None:
            return
        listener = socket.socket(self._reserved.family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setblocking(False)
        listener.bind((self.host, self.port))
        listener.listen(_BACKLOG)
        self._listener = listener
        self._loop.add_reader(listener, self._accept, listener)

    def _deafen(self) -> None:
        if self._listener is not None and self._loop is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        assert self._loop is not None
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.setblocking(False)
                task = self._loop.create_task(
                    self._loop.connect_accepted_socket(lambda: ClientEnd(self, self._conversation()), client)
                )
                self._accepting.add(task)
                task.add_done_callback(self._accepting.discard)

    def open(self, link: Link) -> int:
        """Count `link` in; its number. For links."""
        self._links.add(link)
        self._connections += 1
        return self._connections

    def gone(self, link: Link) -> None:
        """Count `link` out. For links."""
        self._links.discard(link)

    def _add(self, handle: Handle) -> None:
        self.plan.add(handle)
        if isinstance(handle.toxic, Down):
            self._deafen()
        if handle.at is Phase.ALWAYS:
            for link in list(self._links):
                if handle.strikes(self.draw):
                    link.strike(handle)

    def _remove(self, handle: Handle) -> None:
        if self._thread is not None:
            self._call(lambda: self._removed(handle))

    def _removed(self, handle: Handle) -> None:
        self.plan.remove(handle)
        if not any(isinstance(other.toxic, Down) for other in self.plan.always):
            self._listen()
        for link in list(self._links):
            link.release(handle)

    def _heal(self) -> None:
        self.plan.clear()
        for link in list(self._links):
            link.heal()
        self._listen()

    def _end(self) -> None:
        self._deafen()
        if self._counting is not None:
            self._counting.cancel()
            self.journal.count()
        self.plan.clear()
        for link in list(self._links):
            link.drop()
