"""Whole answers: taken from the application before anything leaves, kept as text, given again.

An answer that is to be kept must be complete before it is sent, so it is buffered, up to a cap. What cannot be buffered (an
event stream, a file that the server would send by itself) is refused where it begins, with the cure.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import NamedTuple

from ..errors import UsageError
from .headers import first
from .interface import Headers, Message, Scope, Send

__all__ = ["Answer", "AnswerBuffer", "AnswerCodec", "StoredAnswer", "in_no_encoding", "without_ways_around"]


class Answer(NamedTuple):
    """What the application answered, complete.

    Attributes:
        status: the HTTP status.
        headers: as the application gave them.
        body: all of it.
    """

    status: int
    headers: Headers
    body: bytes

    async def send(self, send: Send) -> None:
        """Give it to the server."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


class StoredAnswer(NamedTuple):
    """What was kept of an answer.

    Attributes:
        status: its status.
        headers: those that may be given again.
        body: all of it, or None: it was not kept.
    """

    status: int
    headers: Headers
    body: bytes | None


class AnswerCodec:
    """`StoredAnswer` as text and back: a `holdfast.operation.ResultCodec`. Wrap it to encrypt what is kept."""

    __slots__ = ()

    def encode(self, result: StoredAnswer) -> str:
        """`result` as JSON: the body as text where it is UTF-8, so that a person can read the row, else as base64."""
        kept: dict[str, object] = {
            "status": result.status,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in result.headers],
        }
        if result.body is not None:
            try:
                kept["text"] = result.body.decode()
            except UnicodeDecodeError:
                kept["base64"] = b64encode(result.body).decode()
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))

    def decode(self, text: str) -> StoredAnswer:
        """The answer that `text` stands for.

        Raises:
            ValueError, KeyError: it is none.
        """
        kept = json.loads(text)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept["headers"]]
        body: bytes | None = None
        if "text" in kept:
            body = kept["text"].encode()
        elif "base64" in kept:
            body = b64decode(kept["base64"])
        return StoredAnswer(kept["status"], headers, body)


_NOT_SO = "an answer that belongs to an Idempotency-Key leaves after COMMIT and must be complete by then"
_CURE = (
    'take this route out of the keyed ones (edge(key="ignored"), or rules_for where the layers were put up by hand), or answer '
    "with the address of what it streams"
)
_EVENT_STREAM = b"text/event-stream"
_RESPONSE_EXTENSIONS = "http.response."


def without_ways_around(scope: Scope) -> None:
    """Take out of `scope` the server's offers to send files, trailers and hints past a buffer; frameworks then do without."""
    offered = scope.get("extensions")
    if offered:
        scope["extensions"] = {name: one for name, one in offered.items() if not name.startswith(_RESPONSE_EXTENSIONS)}


def in_no_encoding(scope: Scope) -> None:
    """Have `scope` ask for an answer that is not compressed: what is kept is given again to clients that take other encodings."""
    others = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
    scope["headers"] = [*others, (b"accept-encoding", b"identity")]


class AnswerBuffer:
    """The `send` an application gets whose answer is to be complete first. Serves one call of it.

    Args:
        size_max: bytes the body may have.
    """

    __slots__ = ("_headers", "_left", "_pieces", "_refused", "_size_max", "_status", "_whole")

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._left = size_max
        self._status = 0
        self._headers: Headers = []
        self._pieces: list[bytes] = []
        self._whole = False
        self._refused: UsageError | None = None

    async def send(self, message: Message) -> None:
        """Take a message.

        Raises:
            UsageError: it is too large, streams, or is nothing that could be kept.
        """
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
            # Some applications send names in upper case, or pairs as lists, against the specification.
            self._headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
            if (first(self._headers, b"content-type") or b"").startswith(_EVENT_STREAM):
                self._refuse(f"an event stream never is: {_NOT_SO}; {_CURE}")
        elif kind == "http.response.body":
            piece = message.get("body", b"")
            self._left -= len(piece)
            if self._left < 0:
                self._refuse(
                    f"the answer is larger than {self._size_max} bytes; {_NOT_SO}; {_CURE}, or raise answer_max"
                )
            self._pieces.append(piece)
            self._whole = not message.get("more_body", False)
        else:
            self._refuse(f"{kind} cannot be kept; {_NOT_SO}; {_CURE}")

    @property
    def may_leave(self) -> bool:
        """Whether all of it is here and nothing that follows can change it: after a 5xx, frameworks raise what it is about."""
        return self._whole and 0 < self._status < 500 and self._refused is None

    def _refuse(self, text: str) -> None:
        self._refused = UsageError(text)
        raise self._refused

    def answer(self) -> Answer:
        """The answer, once the application has returned.

        Raises:
            UsageError: what it sent was refused, also if it made nothing of that; or it is not complete.
        """
        if self._refused is not None:
            raise self._refused
        if not self._whole or not self._status:
            raise UsageError("the application returned without a complete answer")
        return Answer(self._status, self._headers, b"".join(self._pieces))
