"""The protocol of PostgreSQL, version 3, read along: one connection, both directions.

Source: https://www.postgresql.org/docs/current/protocol.html. A message is one byte of type, four of length and a body; only the
first ones of a client have no type. In both directions messages are passed on when they are whole.

A statement is a `Query` message, or an `Execute` message together with the `Sync` that follows it. Its answer is complete with
`ReadyForQuery`; in a pipeline that was flushed, but not yet synchronised, with `CommandComplete`. What comes before an `Execute`
(`Parse`, `Bind`, `Describe`) changes nothing and is passed on for itself. The proxy answers a request for TLS or GSS encryption
with `N` itself, as a server does that was built without.
"""

from __future__ import annotations

import enum
from collections import deque

from .conversation import Kind, Piece, Statement
from .sql import Grammar, kind_of

__all__ = ["TLS_REFUSED", "PostgresqlConversation"]

TLS_REFUSED = "the fault proxy reads the protocol, so it refuses TLS: connect to it with sslmode=disable"
"""What a client is told that speaks TLS from its first byte on."""

_SSL_REQUEST, _GSS_REQUEST, _CANCEL_REQUEST = 80877103, 80877104, 80877102
_TLS_HELLO = 0x16

_PARSE, _BIND, _EXECUTE, _CLOSE, _QUERY, _FUNCTION, _SYNC = b"PBECQFS"
_WHOLE = frozenset((_QUERY, _FUNCTION))  # of one message
_SYNC_LENGTH = 5
_COMPLETE, _EMPTY, _SUSPENDED, _ERROR, _READY = b"CIsEZ"


class _At(enum.Enum):
    STARTUP = enum.auto()
    MESSAGES = enum.auto()
    OPAQUE = enum.auto()


class PostgresqlConversation:
    """One connection of the PostgreSQL protocol. Not safe in threads.

    Attributes:
        in_transaction: whether the server said after its last answer that a transaction is open (or failed).
    """

    __slots__ = (
        "_asked",
        "_at",
        "_before_ready",
        "_need_client",
        "_need_server",
        "_portals",
        "_prepared",
        "_rest_client",
        "_rest_server",
        "in_transaction",
    )

    def __init__(self) -> None:
        self.in_transaction = False
        self._at = _At.STARTUP
        self._rest_client, self._need_client = bytearray(), 5
        self._rest_server, self._need_server = bytearray(), 5
        # (statement or None for Sync, whether its answer is what ReadyForQuery ends)
        self._asked: deque[tuple[Statement | None, bool]] = deque()
        self._before_ready: list[Statement] = []
        self._prepared: dict[bytes, bytes] = {}
        self._portals: dict[bytes, bytes] = {}

    # ---- the client

    def from_client(self, data: bytes) -> list[Piece]:
        """The messages that are whole now that `data` has come, cut around statements."""
        if self._at is _At.OPAQUE:
            return [Piece(data)]
        if self._rest_client:
            self._rest_client += data
            if len(self._rest_client) < self._need_client:
                return []
            data = bytes(self._rest_client)
            self._rest_client.clear()
        pieces: list[Piece] = []
        at = 0
        while self._at is _At.STARTUP and at < len(data):
            end = self._startup(data, at, pieces)
            if end > len(data):
                return self._keep(data, at, end, pieces)
            at = end
        if self._at is _At.MESSAGES:
            return self._messages(data, at, pieces)
        return [*pieces, Piece(data[at:])] if at < len(data) else pieces

    def _keep(self, data: bytes, at: int, end: int, pieces: list[Piece]) -> list[Piece]:
        self._rest_client += data[at:]
        self._need_client = end - at
        return pieces

    def _startup(self, data: bytes, at: int, pieces: list[Piece]) -> int:
        if data[at] == _TLS_HELLO:
            self._at = _At.OPAQUE
            pieces.append(Piece(b"", reply=_error_message(TLS_REFUSED), refused="tls"))
            return len(data)
        if len(data) - at < 8:
            return at + 8
        end = at + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return end
        code = int.from_bytes(data[at + 4 : at + 8], "big")
        if code in {_SSL_REQUEST, _GSS_REQUEST}:
            pieces.append(Piece(b"", reply=b"N"))
        else:
            self._at = _At.OPAQUE if code == _CANCEL_REQUEST else _At.MESSAGES
            pieces.append(Piece(data[at:end]))
        return end

    def _messages(self, data: bytes, at: int, pieces: list[Piece]) -> list[Piece]:
        begun, end, size = at, at, len(data)
        while at < size:
            end = at + 5 if size - at < 5 else at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            statement: Statement | None = None
            if end <= size:
                kind = data[at]
                if kind == _EXECUTE:
                    # The next message decides whether a Sync belongs to it; nobody waits for an answer before that.
                    synced = end < size and data[end] == _SYNC
                    body, end = data[at + 5 : end], end + (_SYNC_LENGTH if synced else 0)
                    if end >= size and not synced:
                        end += 1
                    if end <= size:
                        statement = self._execute(body, synced=synced)
                elif kind in _WHOLE:
                    statement = self._query(data[at + 5 : end - 1] if kind == _QUERY else None)
                else:
                    self._note(kind, data, at + 5, end)
            if end > size:
                break
            if statement is not None:
                if at > begun:
                    pieces.append(Piece(data[begun:at]))
                pieces.append(Piece(data[at:end], statement))
                begun = end
            at = end
        if at > begun:
            pieces.append(Piece(data[begun:at]))
        return self._keep(data, at, end, pieces) if at < size else pieces

    def _query(self, text: bytes | None) -> Statement:
        statement = Statement(Kind.COMMAND) if text is None else Statement(kind_of(text, Grammar.POSTGRESQL), text)
        self._asked.append((statement, True))
        return statement

    def _execute(self, body: bytes, *, synced: bool) -> Statement:
        text = self._portals.get(body[: body.index(0)], b"")
        statement = Statement(kind_of(text, Grammar.POSTGRESQL), text)
        self._asked.append((statement, False))
        if synced:
            self._asked.append((None, True))
        return statement

    def _note(self, kind: int, data: bytes, at: int, end: int) -> None:
        if kind == _SYNC:
            self._asked.append((None, True))
        elif kind == _PARSE:
            name, text, _ = data[at:end].split(b"\0", 2)
            self._prepared[name] = text
        elif kind == _BIND:
            portal_end = data.index(0, at)
            name_end = data.index(0, portal_end + 1)
            self._portals[data[at:portal_end]] = self._prepared.get(data[portal_end + 1 : name_end], b"")
        elif kind == _CLOSE:
            names = self._prepared if data[at] == ord("S") else self._portals
            names.pop(data[at + 1 : end - 1], None)

    # ---- the server

    def from_server(self, data: bytes) -> list[Piece]:
        """The messages that are whole now that `data` has come, cut where an answer ends."""
        if self._at is _At.OPAQUE:
            return [Piece(data)]
        if self._rest_server:
            self._rest_server += data
            if len(self._rest_server) < self._need_server:
                return []
            data = bytes(self._rest_server)
            self._rest_server.clear()
        pieces: list[Piece] = []
        begun = at = 0
        size = len(data)
        while size - at >= 5:
            end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
            if end > size:
                self._need_server = end - at
                break
            kind = data[at]
            if kind in _ENDS:
                belongs = self._answering
                cut, done = self._ended(kind, data[at + 5])
                if cut:
                    pieces.append(Piece(data[begun:end], belongs, done))
                    begun = end
            at = end
        else:
            self._need_server = 5
        if at > begun:
            pieces.append(Piece(data[begun:at], self._answering))
        if at < size:
            self._rest_server += data[at:]
        return pieces

    @property
    def _answering(self) -> Statement | None:
        """The statement whose answer the next bytes of the server are."""
        if self._asked and self._asked[0][0] is not None:
            return self._asked[0][0]
        return self._before_ready[-1] if self._before_ready else None

    def _ended(self, kind: int, first: int) -> tuple[bool, tuple[Statement, ...]]:
        """(whether the answer of a statement ends here, the statements that are complete)."""
        if kind == _READY:
            return self._ready(first)
        if not self._asked:
            return False, ()
        statement, ends_with_ready = self._asked[0]
        if kind == _ERROR:
            if statement is not None:
                statement.failed = True
            return False, ()
        if statement is None or ends_with_ready:
            return False, ()
        self._asked.popleft()
        if any(ready for _, ready in self._asked):
            self._before_ready.append(statement)
            # The Sync comes next: ReadyForQuery is still this statement's.
            return self._asked[0][0] is not None, ()
        return True, (statement,)

    def _ready(self, status: int) -> tuple[bool, tuple[Statement, ...]]:
        self.in_transaction = status != ord("I")
        done, self._before_ready = self._before_ready, []
        while self._asked:
            statement, ends_with_ready = self._asked.popleft()
            if statement is not None:
                # One that was executed is still here only because an error before it made the server skip it.
                statement.failed = statement.failed or not ends_with_ready
                done.append(statement)
            if ends_with_ready:
                break
        return True, tuple(done)


_ENDS = frozenset((_COMPLETE, _EMPTY, _SUSPENDED, _ERROR, _READY))


def _error_message(text: str) -> bytes:
    body = b"SFATAL\0VFATAL\0C0A000\0M" + text.encode() + b"\0\0"
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body
