"""Conversations of clients and servers made by hand, byte for byte, and what reading them must give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from holdfast.faultproxy.wire.conversation import Conversation, Statement

__all__ = ["Heard", "Turn", "hear", "message", "packet", "rows"]

Turn = tuple[str, bytes]
"""(`c` or `s`: who speaks, what)."""


def packet(sequence: int, payload: bytes) -> bytes:
    """A packet of MySQL; several, when the payload is too long for one."""
    whole = b""
    while True:
        part, payload = payload[:0xFFFFFF], payload[0xFFFFFF:]
        whole += len(part).to_bytes(3, "little") + bytes([sequence & 0xFF]) + part
        sequence += 1
        if len(part) < 0xFFFFFF:
            return whole


def rows(*payloads: bytes, first: int = 1) -> bytes:
    """Packets that follow each other."""
    return b"".join(packet(first + number, payload) for number, payload in enumerate(payloads))


def message(kind: str, body: bytes = b"") -> bytes:
    """A message of PostgreSQL; without a type if `kind` is empty."""
    return kind.encode() + (len(body) + 4).to_bytes(4, "big") + body


class Heard(NamedTuple):
    """What a conversation made of the bytes."""

    up: bytes
    down: bytes
    asked: list[tuple[str, str]]
    done: list[tuple[str, bool]]
    in_transaction: bool
    refused: list[str]


def hear(conversation: Conversation, turns: Sequence[Turn], chunks: Sequence[int] = ()) -> Heard:
    """Let a conversation read `turns`, each cut at `chunks` (sizes, used in turn); whole, if there are none."""
    up = down = b""
    asked: list[Statement] = []
    done: list[Statement] = []
    refused: list[str] = []
    sizes: Iterator[int] = iter(())
    for who, data in turns:
        at = 0
        while at < len(data):
            size = next(sizes, None)
            if size is None:
                sizes = iter(chunks)
                size = next(sizes, len(data))
            part = data[at : at + size]
            at += size
            if who == "c":
                for piece in conversation.from_client(part):
                    up += piece.data
                    down += piece.reply
                    asked += [piece.statement] if piece.statement else []
                    refused += [piece.refused] if piece.refused else []
            else:
                for piece in conversation.from_server(part):
                    down += piece.data
                    done += piece.done
    return Heard(
        up,
        down,
        [(each.kind.value, each.text) for each in asked],
        [(each.kind.value, each.failed) for each in done],
        conversation.in_transaction,
        refused,
    )
