"""The words of a conversation between a client and a server, whatever its protocol."""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

__all__ = ["Conversation", "Kind", "OpaqueConversation", "Piece", "Statement"]


class Kind(enum.StrEnum):
    """What a statement does to its transaction."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    OTHER = "other"
    """Any other statement."""
    COMMAND = "command"
    """No statement: a ping, a preparation, a change of user. Not counted, and met only by who asks for it."""


class Statement:
    """Something a client asked for in one go. Its text may hold anything, so `repr` does not show it.

    Compared by identity: the same text twice is two statements.

    Attributes:
        kind: what it does to its transaction; of several statements sent as one text, what counts most.
        raw: its SQL as the client wrote it, without bound values; that of the preparation for a prepared statement.
        failed: whether the server answered it with an error; False until it has answered.
    """

    __slots__ = ("failed", "kind", "raw")

    def __init__(self, kind: Kind, raw: bytes = b"") -> None:
        self.kind = kind
        self.failed = False
        self.raw = raw

    def __repr__(self) -> str:
        return f"<{self.kind} of {len(self.raw)} bytes>"

    @property
    def text(self) -> str:
        """`raw`, decoded."""
        return self.raw.decode("utf-8", "replace")


class Piece(NamedTuple):
    """Bytes that belong together, in the order of their stream.

    Attributes:
        data: the bytes to pass on.
        statement: from a client: the statement that `data` is; from a server: the one that `data` is (a part of) the answer to.
        done: from a server: the statements whose answer is complete with `data`.
        reply: from a client: bytes for the client instead, in which the proxy speaks for the server.
        refused: why the connection cannot go on after `reply`; empty if it can.
    """

    data: bytes
    statement: Statement | None = None
    done: tuple[Statement, ...] = ()
    reply: bytes = b""
    refused: str = ""


class Conversation(Protocol):
    """Both directions of one connection. Bytes may be cut anywhere; what is incomplete is kept until the rest comes.

    Attributes:
        in_transaction: whether the server said after its last answer that a transaction is open.
    """

    in_transaction: bool

    def from_client(self, data: bytes) -> list[Piece]:
        """What can be passed on to the server, now that the client has sent `data`."""

    def from_server(self, data: bytes) -> list[Piece]:
        """What can be passed on to the client, now that the server has sent `data`."""


class OpaqueConversation:
    """A connection of which nothing is known: bytes pass, there are no statements."""

    in_transaction = False

    def from_client(self, data: bytes) -> list[Piece]:
        """`data`, as it came."""
        return [Piece(data)]

    def from_server(self, data: bytes) -> list[Piece]:
        """`data`, as it came."""
        return [Piece(data)]
