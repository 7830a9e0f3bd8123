"""The protocol of MySQL and MariaDB, read along: one connection, both directions.

Sources: https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html and
https://mariadb.com/docs/server/reference/clientserver-protocol. A packet is three bytes of length, one of sequence and the
payload; a payload of 16 MiB - 1 goes on in the next packet. In both directions packets are passed on when they are whole, a
command when its last packet is.

From the server's greeting the proxy strikes what would hide the rest from it: TLS, compression, and what changes the form of
packets (query attributes, optional and cached metadata, progress reports). A client that asks for TLS or compression anyway
is refused with an error packet.
"""

from __future__ import annotations

import enum
from collections import deque

from .conversation import Kind, Piece, Statement
from .sql import Grammar, kind_of

__all__ = ["TLS_REFUSED", "MysqlConversation"]

TLS_REFUSED = (
    "the fault proxy reads the protocol, so it refuses TLS and compression: "
    "connect to it without (ssl_disabled, ssl-mode=DISABLED)"
)
"""What a client is told that wants TLS all the same."""

_COMPRESS, _SSL, _ZSTD = 1 << 5, 1 << 11, 1 << 26
_DEPRECATE_EOF = 1 << 24
_OPTIONAL_METADATA, _QUERY_ATTRIBUTES = 1 << 25, 1 << 27
_REFUSED = _COMPRESS | _SSL | _ZSTD
_STRUCK = _REFUSED | _OPTIONAL_METADATA | _QUERY_ATTRIBUTES
_SPEAKS_MYSQL = 1  # MariaDB leaves this bit out to say that its own capabilities follow
_STRUCK_MARIADB = 1 << 0 | 1 << 1 | 1 << 4  # progress, several commands in one, cached metadata

_IN_TRANSACTION, _MORE_RESULTS, _CURSOR = 0x0001, 0x0008, 0x0040

_QUIT, _QUERY, _FIELD_LIST, _STATISTICS, _CHANGE_USER, _BINLOG = 0x01, 0x03, 0x04, 0x09, 0x11, 0x12
_PREPARE, _EXECUTE, _LONG_DATA, _CLOSE, _FETCH = 0x16, 0x17, 0x18, 0x19, 0x1C
_BINLOG_GTID, _BULK, _PROCESS_INFO = 0x1E, 0xFA, 0x0A
_UNANSWERED = {_QUIT, _LONG_DATA, _CLOSE}
_RESULTS = {_QUERY, _EXECUTE, _BULK, _PROCESS_INFO}
_LAST_PREPARED = 0xFFFFFFFF  # MariaDB: the statement prepared just before

_OK, _INFILE, _EOF, _ERR = 0x00, 0xFB, 0xFE, 0xFF
_FULL = 0xFFFFFF


class _At(enum.Enum):
    GREETING = enum.auto()
    LOGIN = enum.auto()
    AUTHENTICATION = enum.auto()
    COMMANDS = enum.auto()
    OPAQUE = enum.auto()


class _Expect(enum.Enum):
    RESULT = enum.auto()
    COLUMNS = enum.auto()
    END_OF_COLUMNS = enum.auto()
    ROWS = enum.auto()
    DEFINITIONS = enum.auto()


def _length_encoded(data: bytes, at: int) -> tuple[int, int]:
    """(the integer at `at`, where it ends)."""
    first = data[at]
    if first < 0xFB:
        return first, at + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    return int.from_bytes(data[at + 1 : at + 1 + size], "little"), at + 1 + size


class MysqlConversation:
    """One connection of the MySQL protocol. Not safe in threads.

    Attributes:
        in_transaction: whether the server said after its last answer that a transaction is open.
    """

    __slots__ = (
        "_asked",
        "_at",
        "_expect",
        "_infile",
        "_last_prepared",
        "_left",
        "_need_client",
        "_need_server",
        "_no_eof",
        "_prepared",
        "_rest_client",
        "_rest_server",
        "_row_goes_on",
        "in_transaction",
    )

    def __init__(self) -> None:
        self.in_transaction = False
        self._at = _At.GREETING
        self._no_eof = False
        self._infile = False
        self._rest_client, self._need_client = bytearray(), 4
        self._rest_server, self._need_server = bytearray(), 4
        self._asked: deque[tuple[Statement, int]] = deque()
        self._prepared: dict[int, Statement] = {}
        self._last_prepared: Statement | None = None
        self._expect = _Expect.RESULT
        self._left = 0
        self._row_goes_on = False

    # ---- the client

    def from_client(self, data: bytes) -> list[Piece]:
        """The commands that are whole now that `data` has come."""
        if self._at is _At.OPAQUE:
            return [Piece(data)]
        if self._rest_client:
            self._rest_client += data
            if len(self._rest_client) < self._need_client:
                return []
            data = bytes(self._rest_client)
            self._rest_client.clear()
        pieces: list[Piece] = []
        at, size = 0, len(data)
        while at < size:
            end, last = self._end_of_command(data, at)
            if end > size:
                self._rest_client += data[at:]
                self._need_client = end - at
                break
            pieces.append(self._command(data, at, end, last))
            at = end
        return pieces

    def _end_of_command(self, data: bytes, at: int) -> tuple[int, int]:
        """(where the packets that belong together end, where the last of them begins); past the data if they are not all here."""
        size = len(data)
        while True:
            if size - at < 4:
                return at + 4, at
            length = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            if length < _FULL or self._infile or at + 4 + length > size:
                return at + 4 + length, at
            at += 4 + length

    def _command(self, data: bytes, at: int, end: int, last: int) -> Piece:
        packet = data[at:end]
        if self._at is not _At.COMMANDS:
            return self._login(packet) if self._at is _At.LOGIN else Piece(packet)
        if self._infile:
            self._infile = len(packet) > 4
            return Piece(packet)
        if len(packet) == 4:
            return Piece(packet)
        command = packet[4]
        if command in {_BINLOG, _BINLOG_GTID}:
            self._at = _At.OPAQUE
            return Piece(packet)
        payload = packet[5:] if last == at else _without_headers(packet)[1:]
        statement = self._statement(command, payload)
        if command in _UNANSWERED:
            if command == _CLOSE:
                self._prepared.pop(int.from_bytes(payload[:4], "little"), None)
        else:
            if command == _CHANGE_USER:
                self._at = _At.AUTHENTICATION
                self._prepared.clear()
                return Piece(packet)
            self._asked.append((statement, command))
        return Piece(packet, statement)

    def _login(self, packet: bytes) -> Piece:
        flags = int.from_bytes(packet[4:8], "little")
        if flags & _REFUSED:
            return Piece(b"", reply=_error_packet(packet[3] + 1, TLS_REFUSED), refused="tls or compression")
        self._no_eof = bool(flags & _DEPRECATE_EOF)
        self._at = _At.AUTHENTICATION
        return Piece(packet)

    def _statement(self, command: int, payload: bytes) -> Statement:
        if command == _QUERY:
            return Statement(kind_of(payload, Grammar.MYSQL), payload)
        if command in {_EXECUTE, _BULK}:
            number = int.from_bytes(payload[:4], "little")
            prepared = self._last_prepared if number == _LAST_PREPARED else self._prepared.get(number)
            if prepared is None:
                return Statement(Kind.OTHER)
            text = prepared.raw
            return Statement(kind_of(text, Grammar.MYSQL), text)
        prepared = Statement(Kind.COMMAND, payload if command == _PREPARE else b"")
        if command == _PREPARE:
            self._last_prepared = prepared
        return prepared

    # ---- the server

    def from_server(self, data: bytes) -> list[Piece]:
        """The packets that are whole now that `data` has come, cut where an answer ends."""
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
        while size - at >= 4:
            length = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            end = at + 4 + length
            if end > size:
                self._need_server = 4 + length
                break
            if self._at is _At.GREETING:
                self._at = _At.LOGIN
                data = data[:at] + _without_what_hides(data[at:end]) + data[end:]
            elif self._at is _At.AUTHENTICATION:
                # Anything else asks the client for more.
                if length and data[at + 4] == _OK:
                    self._at = _At.COMMANDS
            elif self._asked:
                statement, command = self._asked[0]
                if self._answered(data, at + 4, length, statement, command):
                    self._asked.popleft()
                    self._expect = _Expect.RESULT
                    pieces.append(Piece(data[begun:end], statement, (statement,)))
                    begun = end
            at = end
        else:
            self._need_server = 4
        if at > begun:
            pieces.append(Piece(data[begun:at], self._asked[0][0] if self._asked else None))
        if at < size:
            self._rest_server += data[at:]
        return pieces

    def _answered(self, data: bytes, at: int, length: int, statement: Statement, command: int) -> bool:
        """Whether the packet whose payload begins at `at` is the last of the answer."""
        if self._row_goes_on or not length:
            self._row_goes_on = length == _FULL
            return False
        self._row_goes_on = length == _FULL
        first = data[at]
        expect = self._expect
        if expect is _Expect.ROWS:
            if first == _EOF and length < (_FULL if self._no_eof else 9):
                return self._end_of_result(self._status(data, at))
            statement.failed = first == _ERR
            return first == _ERR
        if expect is _Expect.COLUMNS:
            self._left -= 1
            if self._left == 0:
                self._expect = _Expect.ROWS if self._no_eof else _Expect.END_OF_COLUMNS
            return False
        if expect is _Expect.END_OF_COLUMNS:
            status = self._status(data, at)
            if status & _CURSOR:
                return self._end_of_result(status)
            self._expect = _Expect.ROWS
            return False
        if expect is _Expect.DEFINITIONS:
            self._left -= 1
            return self._left == 0
        return self._first_of_result(data, at, length, statement, command)

    def _first_of_result(self, data: bytes, at: int, length: int, statement: Statement, command: int) -> bool:
        first = data[at]
        if first == _ERR:
            statement.failed = True
            return True
        if command == _STATISTICS:
            return True
        if command == _PREPARE:
            return self._prepared_as(data, at, statement)
        if command in {_FIELD_LIST, _FETCH}:
            self._expect = _Expect.ROWS
            return self._answered(data, at, length, statement, command)
        if command not in _RESULTS:
            if first in {_OK, _EOF}:
                self._end_of_result(self._status(data, at))
            return True
        if first == _OK:
            return self._end_of_result(self._status(data, at))
        if first == _INFILE:
            self._infile = True
            return False
        self._left, _ = _length_encoded(data, at)
        self._expect = _Expect.COLUMNS
        return False

    def _prepared_as(self, data: bytes, at: int, statement: Statement) -> bool:
        self._prepared[int.from_bytes(data[at + 1 : at + 5], "little")] = statement
        columns = int.from_bytes(data[at + 5 : at + 7], "little")
        parameters = int.from_bytes(data[at + 7 : at + 9], "little")
        ends = 0 if self._no_eof else bool(columns) + bool(parameters)
        self._left = columns + parameters + ends
        self._expect = _Expect.DEFINITIONS
        return self._left == 0

    def _status(self, data: bytes, at: int) -> int:
        if data[at] == _EOF and not self._no_eof:
            at += 3
        else:
            _, at = _length_encoded(data, at + 1)
            _, at = _length_encoded(data, at)
        return data[at] | data[at + 1] << 8

    def _end_of_result(self, status: int) -> bool:
        self.in_transaction = bool(status & _IN_TRANSACTION)
        self._expect = _Expect.RESULT
        return not status & _MORE_RESULTS


def _without_headers(packets: bytes) -> bytes:
    parts = []
    at = 0
    while at < len(packets):
        length = int.from_bytes(packets[at : at + 3], "little")
        parts.append(packets[at + 4 : at + 4 + length])
        at += 4 + length
    return b"".join(parts)


def _without_what_hides(greeting: bytes) -> bytes:
    """The server's first packet without the capabilities that the proxy cannot read along."""
    if greeting[4] != 10:
        return greeting  # an error (too many connections), or a protocol that died in 1999
    changed = bytearray(greeting)
    low = greeting.index(0, 5) + 1 + 4 + 8 + 1
    high = low + 5
    flags = (
        int.from_bytes(greeting[low : low + 2], "little") | int.from_bytes(greeting[high : high + 2], "little") << 16
    )
    kept = flags & ~_STRUCK
    changed[low : low + 2] = (kept & 0xFFFF).to_bytes(2, "little")
    changed[high : high + 2] = (kept >> 16).to_bytes(2, "little")
    if not flags & _SPEAKS_MYSQL:
        own = high + 2 + 1 + 6
        of_mariadb = int.from_bytes(greeting[own : own + 4], "little") & ~_STRUCK_MARIADB
        changed[own : own + 4] = of_mariadb.to_bytes(4, "little")
    return bytes(changed)


def _error_packet(sequence: int, text: str) -> bytes:
    payload = b"\xff" + (1105).to_bytes(2, "little") + b"#HY000" + text.encode()
    return len(payload).to_bytes(3, "little") + bytes([sequence & 0xFF]) + payload
