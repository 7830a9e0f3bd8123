"""One connection through the proxy: two sockets, a conversation between them, and the faults that meet it.

    client ──► client end ──► conversation: statements ──► plan: before? forwarded? ──► lane up ──► server end ──► server
    client ◄── client end ◄── lane down ◄── plan: answered? delivered? ◄── conversation: answers ◄── server end ◄── server

A link ends in one of four ways. *Closed*: one end closed, the other is closed when all has arrived. *Reset*: a RST toward the
client; the server's end is shut down and drained, so that the server carries out what was forwarded and then sees the end.
*Silent*: bytes are dropped, both sockets stay. *Ghost*: the client is gone, the server's end stays as it is.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from ..clock import Random
from .journal import Journal
from .lane import Lane
from .pacing import delay_of
from .plan import Handle, Phase, Plan
from .toxics import Down, Garbage, Latency, Queue, ResetPeer, Stream, Timeout, name_of
from .wire.conversation import Conversation, Kind, Statement

__all__ = ["ClientEnd", "Link", "Surroundings"]

_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


class Surroundings(Protocol):
    """What a link needs of its proxy."""

    plan: Plan
    journal: Journal
    draw: Random
    upstream: tuple[str, int]

    def open(self, link: Link) -> int:
        """Count `link` in; its number."""

    def gone(self, link: Link) -> None:
        """Count `link` out: both its sockets are closed."""


class _End(asyncio.Protocol):
    """One socket of a link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.transport: asyncio.Transport | None = None
        self._pauses = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    @property
    def is_open(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def pause(self, more: bool) -> None:
        """Stop reading while anybody wants it."""
        self._pauses += 1 if more else -1
        if self.transport is None or self.transport.is_closing():
            return
        if self._pauses:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def close(self) -> None:
        """FIN, after what was written."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """RST, at once."""
        if self.transport is None:
            return
        raw: socket.socket | None = self.transport.get_extra_info("socket")
        if raw is not None and not self.transport.is_closing():
            with suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self.transport.abort()


class ClientEnd(_End):
    """The socket toward the client; makes its link. What an `asyncio` server is given as its protocol."""

    def __init__(self, around: Surroundings, conversation: Conversation) -> None:
        super().__init__(Link(around, conversation, self))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        super().connection_made(transport)
        self._link.connected()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._link.from_client(data)

    def eof_received(self) -> bool:
        """The other side will send no more; True keeps this side open."""
        self._link.client_finished()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The socket is closed."""
        self._link.client_gone()

    def pause_writing(self) -> None:
        """More is waiting to leave than should."""
        self._link.server.pause(True)

    def resume_writing(self) -> None:
        """It has left."""
        self._link.server.pause(False)


class _ServerEnd(_End):
    """The socket toward the server."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._link.reached()

    def data_received(self, data: bytes) -> None:
        self._link.from_server(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.server_gone(exc)

    def pause_writing(self) -> None:
        self._link.client.pause(True)

    def resume_writing(self) -> None:
        self._link.client.pause(False)


class Link:
    """One connection. Used in the proxy's thread alone.

    Attributes:
        client, server: its two sockets.
        number: counts connections from 1.
    """

    def __init__(self, around: Surroundings, conversation: Conversation, client: ClientEnd) -> None:
        self._around = around
        self._conversation = conversation
        self.client = client
        self.server = _ServerEnd(self)
        self.number = 0
        self._held_by: set[Handle] = set()
        self._silent: frozenset[Stream] = frozenset()
        self._ghost = False
        self._draining = False
        self._attached: list[Handle] = []
        self._armed: dict[Statement, list[Handle]] = {}
        self._withheld: list[bytes] = []
        self._begun = False
        self._begins_asked = 0
        self._timers: list[tuple[Handle, asyncio.TimerHandle]] = []
        self._connecting: asyncio.Task[None] | None = None
        self._up = Lane(around.draw, self._limit_reached, client.pause)
        self._down = Lane(around.draw, self._limit_reached, self.server.pause)

    # ---- the beginning

    def connected(self) -> None:
        """A client is there: on to the server, unless a fault is in the way."""
        around = self._around
        assert self.client.transport is not None
        self._down.open(self.client.transport)
        address = self.client.transport.get_extra_info("peername") or ("", 0)
        self.number = around.open(self)
        around.journal.connected(self.number, address[1])
        for handle in around.plan.at(Phase.ALWAYS):
            self.strike(handle)
        wait_s = 0.0
        for handle in around.plan.at(Phase.CONNECT):
            if isinstance(handle.toxic, Latency):
                wait_s += delay_of(handle.toxic, around.draw)
                self._tell(handle, cut=False)
            else:
                self.strike(handle)
        if self.client.is_open and Stream.UPSTREAM not in self._silent:
            self._connecting = asyncio.get_running_loop().create_task(self._reach(wait_s))
            self._connecting.add_done_callback(lambda _: self._check_gone())

    async def _reach(self, wait_s: float) -> None:
        if wait_s:
            await asyncio.sleep(wait_s)  # noqa: TID251 - the loop is the clock here
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, *self._around.upstream)
        except OSError:
            # What a client sees whose server went away as it connected: it cannot be refused any more.
            self._around.journal.refused(self.number, "server unreachable")
            self.client.abort()

    def reached(self) -> None:
        """The server is there."""
        assert self.server.transport is not None
        if self.client.is_open or self._keeps_ghost:
            self._up.open(self.server.transport)
        else:
            self._end_server()

    # ---- bytes

    def from_client(self, data: bytes) -> None:
        """The client has sent `data`."""
        if Stream.UPSTREAM in self._silent or self._draining:
            return
        try:
            pieces = self._conversation.from_client(data)
        except (ValueError, IndexError):
            self._not_understood()
            return
        # What leaves in one go is one system call, which is most of what a statement costs here.
        leaving: list[bytes] = []
        watching = self._around.plan.watches_statements
        for data_out, statement, _, reply, refused in pieces:
            if reply:
                self._down.send(reply)
            if refused:
                self._around.journal.refused(self.number, refused)
                self._down.finish(self.close)
                return
            if statement is None:
                leaving.append(data_out)
                continue
            self._around.journal.seen(self.number, statement)
            if watching and not self._strike_at(Phase.BEFORE, statement, leaving):
                return
            leaving.append(data_out)
            self._forwarded(statement)
            if watching and not self._strike_at(Phase.FORWARDED, statement, leaving):
                return
        self._flush(leaving)

    def _flush(self, leaving: list[bytes]) -> None:
        if leaving:
            self._up.send(leaving[0] if len(leaving) == 1 else b"".join(leaving))
            leaving.clear()

    def _forwarded(self, statement: Statement) -> None:
        if statement.kind is Kind.BEGIN:
            self._begins_asked += 1
            self._begun = True
            self._around.journal.began(self.number)
        self._around.journal.forwarded(self.number, statement)
        if armed := self._around.plan.at(Phase.ANSWERED, statement):
            self._armed[statement] = armed

    def from_server(self, data: bytes) -> None:
        """The server has sent `data`."""
        if self._draining or Stream.DOWNSTREAM in self._silent:
            return
        try:
            pieces = self._conversation.from_server(data)
        except (ValueError, IndexError):
            self._not_understood()
            return
        for data_out, statement, done, _, _ in pieces:
            if self._withheld or statement in self._armed:
                self._withheld.append(data_out)
                if done and not self._release(done):
                    return
            else:
                self._down.send(data_out)
            for each in done:
                self._answered(each)
            if self._draining or Stream.DOWNSTREAM in self._silent:
                return

    def _not_understood(self) -> None:
        self._around.journal.refused(self.number, "not the protocol")
        self.reset()

    def _release(self, done: tuple[Statement, ...]) -> bool:
        """Let the faults act that waited for the answers of `done`; whether those may be delivered."""
        for statement in done:
            for handle in self._armed.pop(statement, ()):
                self._apply(handle, statement)
        if self._draining or Stream.DOWNSTREAM in self._silent:
            self._withheld.clear()
            return False
        self._deliver_withheld()
        return True

    def _deliver_withheld(self) -> None:
        withheld, self._withheld = self._withheld, []
        if withheld:
            self._down.send(b"".join(withheld))

    def _answered(self, statement: Statement) -> None:
        journal = self._around.journal
        journal.answered(self.number, statement)
        if statement.kind is Kind.BEGIN:
            self._begins_asked -= 1
        if self._conversation.in_transaction:
            if not self._begun:
                self._begun = True
                journal.began(self.number)
        elif not self._begins_asked:
            self._begun = False
        if self._around.plan.watches_statements:
            self._strike_at(Phase.DELIVERED, statement, [])

    # ---- faults

    def strike(self, handle: Handle) -> None:
        """Let a fault act that is not about a statement, unless the client is gone."""
        if self.client.is_open:
            self._apply(handle)

    def _strike_at(self, phase: Phase, statement: Statement, leaving: list[bytes]) -> bool:
        """Let what is due act, once the client's bytes before it have left; whether those after it still go on."""
        struck = self._around.plan.at(phase, statement)
        if struck:
            self._flush(leaving)
        for handle in struck:
            self._apply(handle, statement)
        return self.client.is_open and Stream.UPSTREAM not in self._silent

    def _apply(self, handle: Handle, statement: Statement | None = None) -> None:
        toxic = handle.toxic
        if isinstance(toxic, Queue):
            self._queue_up(handle, toxic, statement)
            return
        self._tell(handle, cut=isinstance(toxic, ResetPeer | Timeout | Down), statement=statement)
        if isinstance(toxic, Down):
            self.reset()
        elif isinstance(toxic, ResetPeer):
            ghost_of = handle if toxic.ghost else None
            self._after(toxic.timeout, handle, lambda: self.reset(ghost_of))
        elif isinstance(toxic, Timeout):
            self._fall_silent(handle, toxic)
        elif isinstance(toxic, Garbage):
            nonsense = bytes(int(self._around.draw() * 256) for _ in range(toxic.size))
            (self._up if handle.stream is Stream.UPSTREAM else self._down).send(nonsense)
        elif isinstance(toxic, Latency) and handle.at is not Phase.ALWAYS:
            up = handle.at in _OF_THE_CLIENT if handle.stream is None else handle.covers(Stream.UPSTREAM)
            (self._up if up else self._down).hold_off(delay_of(toxic, self._around.draw))
        else:
            self._attached.append(handle)
            self._shape()

    def _queue_up(self, handle: Handle, toxic: Queue, statement: Statement | None) -> None:
        wait_s = handle.turns.take(toxic, asyncio.get_running_loop().time())
        self._tell(handle, cut=wait_s is None, statement=statement)
        if wait_s is None:
            self.reset()
        else:
            self._up.hold_off(wait_s)

    def _tell(self, handle: Handle, *, cut: bool, statement: Statement | None = None) -> None:
        handle.hits += 1
        values: dict[str, object] = {"fault": name_of(handle.toxic), "phase": handle.at.value}
        if statement is not None:
            values["kind"] = statement.kind.value
            if handle.at in {Phase.ANSWERED, Phase.DELIVERED}:
                values["ok"] = not statement.failed
        self._around.journal.struck(self.number, cut=cut, **values)

    def _shape(self) -> None:
        for lane, stream in ((self._up, Stream.UPSTREAM), (self._down, Stream.DOWNSTREAM)):
            lane.use([handle.toxic for handle in self._attached if handle.covers(stream)])

    def _after(self, seconds: float, handle: Handle, action: Callable[[], None]) -> None:
        if seconds:
            self._timers.append((handle, asyncio.get_running_loop().call_later(seconds, action)))
        else:
            action()

    def _fall_silent(self, handle: Handle, toxic: Timeout) -> None:
        self._held_by.add(handle)
        self._silent |= {stream for stream in Stream if handle.covers(stream)}
        for stream, lane in ((Stream.UPSTREAM, self._up), (Stream.DOWNSTREAM, self._down)):
            if stream in self._silent:
                lane.drop()
        self._ghost = toxic.ghost
        if not toxic.ghost and len(self._silent) == len(Stream):
            self._end_server()
        if toxic.timeout:
            self._after(toxic.timeout, handle, self.close)

    def _limit_reached(self) -> None:
        self._around.journal.struck(self.number, cut=True, fault="limit_data")
        self._silent = frozenset(Stream)
        self._down.finish(self.close)

    def release(self, handle: Handle) -> None:
        """Undo `handle`: what it shaped is no longer shaped; held by it, the link is dropped."""
        if handle in self._held_by:
            self.drop()
            return
        self._cancel(handle)
        for statement, armed in list(self._armed.items()):
            if handle in armed:
                armed.remove(handle)
            if not armed:
                del self._armed[statement]
        if not self._armed:
            self._deliver_withheld()
        if handle in self._attached:
            self._attached.remove(handle)
            self._shape()

    def heal(self) -> None:
        """Undo every fault."""
        if self._silent or self._draining or not self.client.is_open:
            self.drop()
            return
        self._cancel()
        self._armed.clear()
        self._deliver_withheld()
        self._attached.clear()
        self._shape()
        self._up.hurry()
        self._down.hurry()

    def _cancel(self, handle: Handle | None = None) -> None:
        for owner, timer in self._timers:
            if handle is None or owner is handle:
                timer.cancel()

    # ---- the end

    @property
    def _keeps_ghost(self) -> bool:
        return self._ghost and Stream.UPSTREAM in self._silent

    def client_finished(self) -> None:
        """The client will send no more."""
        if Stream.UPSTREAM in self._silent:
            self.client.close()
        else:
            self._up.finish(self._finish_server)

    def _finish_server(self) -> None:
        if self.server.is_open and self.server.transport is not None:
            self.server.transport.write_eof()
        else:
            self.client.close()

    def client_gone(self) -> None:
        """The client's socket is closed."""
        if not self._keeps_ghost:
            if self._silent or self.server.transport is None:
                self._end_server()
            else:
                self._up.finish(self._end_server)
        self._check_gone()

    def server_gone(self, error: Exception | None) -> None:
        """The server's socket is closed."""
        self._up.shut()
        if Stream.DOWNSTREAM not in self._silent:
            self._down.finish(self.client.close if error is None else self.client.abort)
        self._check_gone()

    def close(self) -> None:
        """End it in good order: FIN to both."""
        self._ghost = False
        self.client.close()
        self._end_server()

    def reset(self, ghost_of: Handle | None = None) -> None:
        """RST to the client; the server's end is ended too, or left alive as the ghost of a fault."""
        self._forget()
        if ghost_of is None:
            self._ghost = False
            self._end_server()
        else:
            self._held_by.add(ghost_of)
            self._ghost = True
            self._silent = frozenset(Stream)
        self.client.abort()

    def drop(self) -> None:
        """End both, at once."""
        self._forget()
        self._ghost = False
        self.client.abort()
        self._end_server()
        transport = self.server.transport
        if transport is not None and transport.get_write_buffer_size():
            self.server.abort()  # it does not read; to wait for it would be to wait for ever
        else:
            self.server.close()

    def _forget(self) -> None:
        self._cancel()
        self._up.drop()
        self._down.drop()
        self._withheld.clear()
        self._armed.clear()

    def _end_server(self) -> None:
        """Shut the server's end down: it carries out what it was sent, then sees the end; what it still says is dropped."""
        self._draining = True
        if self.server.transport is None:
            if self._connecting is not None:
                self._connecting.cancel()
        elif not self.server.transport.is_closing():
            with suppress(OSError, RuntimeError):
                self.server.transport.write_eof()
            self.server.transport.resume_reading()

    def _check_gone(self) -> None:
        connecting = self._connecting is not None and not self._connecting.done()
        if not self.client.is_open and not self.server.is_open and not connecting:
            self._forget()
            self._around.gone(self)


_OF_THE_CLIENT = frozenset((Phase.BEFORE, Phase.DELIVERED))  # what is late then is the client's next word
