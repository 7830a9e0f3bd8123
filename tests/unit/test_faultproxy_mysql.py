"""The conversation of MySQL and MariaDB, read along."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.faultproxy.wire.mysql import TLS_REFUSED, MysqlConversation
from tests.unit.conversations import Heard, Turn, hear, packet, rows

DEPRECATE_EOF = 1 << 24
PROTOCOL = 0x00AFF7DF & ~(1 << 5 | 1 << 11)


def greeting(capabilities: int = 0xFFFFFFFF, extended: int = 0) -> bytes:
    low, high = (capabilities & 0xFFFF).to_bytes(2, "little"), (capabilities >> 16).to_bytes(2, "little")
    scramble = b"12345678"
    payload = b"\x0a11.8.3-MariaDB\0" + b"\x07\0\0\0" + scramble + b"\0" + low + b"\x2d\x02\0" + high + b"\x15"
    return packet(0, payload + b"\0" * 6 + extended.to_bytes(4, "little") + b"123456789012\0mysql_native_password\0")


def login(flags: int) -> bytes:
    return packet(1, flags.to_bytes(4, "little") + b"\0\0\0\x01\x2d" + b"\0" * 23 + b"app\0\x00")


def ok(status: int = 0x0002) -> bytes:
    return b"\0\0\0" + status.to_bytes(2, "little") + b"\0\0"


def eof(status: int = 0x0002) -> bytes:
    return b"\xfe\0\0" + status.to_bytes(2, "little")


def ok_instead_of_eof(status: int = 0x0002) -> bytes:
    return b"\xfe" + ok(status)[1:]


ERROR = b"\xff" + (1213).to_bytes(2, "little") + b"#40001Deadlock found"
COLUMN = b"\x03def" + b"\0" * 20


def begun(flags: int = PROTOCOL) -> list[Turn]:
    """The turns up to the first command."""
    return [("s", greeting()), ("c", login(flags)), ("s", packet(2, b"\x01\x03")), ("s", packet(3, ok()))]


def command(code: int, payload: bytes = b"") -> Turn:
    return "c", packet(0, bytes([code]) + payload)


def query(sql: str) -> Turn:
    return command(0x03, sql.encode())


def heard(*turns: Turn, flags: int = PROTOCOL) -> Heard:
    return hear(MysqlConversation(), [*begun(flags), *turns])


def test_a_transaction_is_followed() -> None:
    """Each statement is told as it is asked and as it is answered; the server says whether a transaction is open."""
    turns = [query("SET autocommit=0"), ("s", rows(ok(0))), query("INSERT INTO t VALUES (1)"), ("s", rows(ok(1)))]
    open_now = heard(*turns)
    assert open_now.in_transaction
    closed = heard(*turns, query("COMMIT"), ("s", rows(ok(0))))
    assert closed.asked[-1] == ("commit", "COMMIT")
    assert closed.done == [("other", False), ("other", False), ("commit", False)]
    assert not closed.in_transaction


@pytest.mark.parametrize("deprecate_eof", [False, True])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_a_result_set_is_one_answer(deprecate_eof: bool, count: int) -> None:
    """It is complete with its last packet, not before; with and without the packets between columns and rows."""
    flags = PROTOCOL | DEPRECATE_EOF if deprecate_eof else PROTOCOL & ~DEPRECATE_EOF
    end = [ok_instead_of_eof(3)] if deprecate_eof else [eof(3)]
    columns = [b"\x02", COLUMN, COLUMN] + ([] if deprecate_eof else [eof()])
    packets = [*columns, *[b"\x01a\xfb"] * count]
    turns = [query("SELECT a, b FROM t")]
    assert heard(*turns, ("s", rows(*packets)), flags=flags).done == []
    whole = heard(*turns, ("s", rows(*packets, *end)), flags=flags)
    assert whole.done == [("other", False)]
    assert whole.in_transaction


def test_a_result_set_may_end_in_an_error() -> None:
    """An error between rows is the end of the answer."""
    packets = [b"\x01", COLUMN, eof(), b"\x01a", ERROR]
    assert heard(query("SELECT a"), ("s", rows(*packets)), flags=PROTOCOL & ~DEPRECATE_EOF).done == [("other", True)]


def test_several_results_are_one_answer() -> None:
    """As long as the server says that there is more, the answer goes on."""
    packets = [ok(0x000A), b"\x01", COLUMN, eof(0x000A), b"\x01a", eof(0x000A), ok(0x0002)]
    flags = PROTOCOL & ~DEPRECATE_EOF
    assert heard(query("CALL p()"), ("s", rows(*packets[:-1])), flags=flags).done == []
    assert heard(query("CALL p()"), ("s", rows(*packets)), flags=flags).done == [("other", False)]


@pytest.mark.parametrize("deprecate_eof", [False, True])
def test_a_prepared_statement_keeps_its_text(deprecate_eof: bool) -> None:
    """Its preparation is a command; each execution is a statement with the text that was prepared."""
    flags = PROTOCOL | DEPRECATE_EOF if deprecate_eof else PROTOCOL & ~DEPRECATE_EOF
    answer = [b"\0" + (7).to_bytes(4, "little") + b"\x01\0\x02\0\0\0\0", COLUMN, COLUMN]
    answer += ([] if deprecate_eof else [eof()]) + [COLUMN] + ([] if deprecate_eof else [eof()])
    result = [b"\x01", COLUMN, *([] if deprecate_eof else [eof()]), b"\0\0\x01a"]
    result += [ok_instead_of_eof() if deprecate_eof else eof()]
    found = heard(
        command(0x16, b"COMMIT"),
        ("s", rows(*answer)),
        command(0x17, (7).to_bytes(4, "little") + b"\0\x01\0\0\0"),
        ("s", rows(*result)),
        command(0x17, (0xFFFFFFFF).to_bytes(4, "little") + b"\0\x01\0\0\0"),
        ("s", rows(ERROR)),
        command(0x19, (7).to_bytes(4, "little")),
        command(0x17, (7).to_bytes(4, "little") + b"\0\x01\0\0\0"),
        ("s", rows(ERROR)),
        flags=flags,
    )
    assert [asked for asked in found.asked if asked[0] != "command"] == [("commit", "COMMIT")] * 2 + [("other", "")]
    assert found.done == [("command", False), ("commit", False), ("commit", True), ("other", True)]


def test_a_cursor_is_fetched_from() -> None:
    """An execution that opens a cursor is answered without rows; each fetch is a command of its own."""
    found = heard(
        command(0x17, (7).to_bytes(4, "little") + b"\x01\x01\0\0\0"),
        ("s", rows(b"\x01", COLUMN, eof(0x0042))),
        command(0x1C, (7).to_bytes(4, "little") + b"\x01\0\0\0"),
        ("s", rows(b"\0\0\x01a", eof(0x0082))),
        flags=PROTOCOL & ~DEPRECATE_EOF,
    )
    assert found.done == [("other", False), ("command", False)]


def test_a_file_is_loaded() -> None:
    """LOCAL INFILE: the file's packets are no commands, and the answer comes after them."""
    found = heard(
        query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t"),
        ("s", rows(b"\xfbx")),
        ("c", packet(2, b"\x03COMMIT")),
        ("c", packet(3, b"")),
        ("s", rows(ok(), first=4)),
        query("COMMIT"),
        ("s", rows(ok())),
    )
    assert [kind for kind, _ in found.asked] == ["other", "commit"]
    assert found.done == [("other", False), ("commit", False)]


@pytest.mark.parametrize("more", [-1, 0, 1, 0xFFFFFF])
def test_a_statement_of_several_packets(more: int) -> None:
    """Sixteen mebibytes and more are one statement, which is passed on when it is whole; a row may be as long."""
    sql = "INSERT INTO t VALUES ('" + "x" * (0xFFFFFF - 26 + more) + "')"
    long_row = packet(4, b"\xfe" + b"y" * (0xFFFFFF + 5))
    answer = ("s", rows(b"\x01", COLUMN, eof()) + long_row + rows(eof(), first=6))
    chunks = [1 << 18]
    found = hear(MysqlConversation(), [*begun(PROTOCOL & ~DEPRECATE_EOF), query(sql), answer], chunks)
    assert found.asked == [("other", sql)]
    assert found.done == [("other", False)]
    assert found.up.endswith(query(sql)[1])
    assert found.down.endswith(answer[1])


def test_what_hides_is_struck_from_the_greeting() -> None:
    """TLS, compression, query attributes, optional and cached metadata are not offered; the rest is as the server said."""
    conversation = MysqlConversation()
    plain = hear(conversation, [("s", greeting(0xFFFFFFFE, extended=0x3F))])
    struck = 1 << 5 | 1 << 11 | 1 << 25 | 1 << 26 | 1 << 27
    assert plain.down == greeting(0xFFFFFFFE & ~struck, extended=0x2C)
    of_mysql = hear(MysqlConversation(), [("s", greeting(0xFFFFFFFF, extended=0x3F))])
    assert of_mysql.down == greeting(0xFFFFFFFF & ~struck, extended=0x3F)
    too_many = packet(0, b"\xff" + (1040).to_bytes(2, "little") + b"Too many connections")
    assert hear(MysqlConversation(), [("s", too_many)]).down == too_many


@pytest.mark.parametrize("flag", [1 << 5, 1 << 11, 1 << 26])
def test_tls_and_compression_are_refused(flag: int) -> None:
    """A client that asks all the same is told in words; the server hears nothing of it."""
    found = hear(MysqlConversation(), [("s", greeting()), ("c", login(PROTOCOL | flag))])
    assert found.up == b""
    assert TLS_REFUSED.encode() in found.down
    assert found.refused


def test_other_commands_have_one_answer() -> None:
    """Pings, statistics, a change of database and of user, a reset: no statements, and the stream is read on after them."""
    found = heard(
        command(0x0E),
        ("s", rows(ok())),
        command(0x09),
        ("s", rows(b"Uptime: 7")),
        command(0x02, b"shop"),
        ("s", rows(ok())),
        command(0x1F),
        ("s", rows(ok())),
        command(0x1B, b"\0\0"),
        ("s", rows(eof())),
        command(0x18, b"\x07\0\0\0\0\0long"),
        command(0x11, b"app\0"),
        ("s", rows(b"\xfecaching_sha2_password\0salt")),
        ("c", packet(2, b"secret")),
        ("s", rows(b"\x01\x03", ok(), first=3)),
        query("COMMIT"),
        ("s", rows(ok())),
        command(0x01),
    )
    assert [kind for kind, _ in found.asked if kind != "command"] == ["commit"]
    assert found.done[-1] == ("commit", False)
    assert len(found.done) == 6


def test_replication_passes_unread() -> None:
    """A stream of the binary log has no end and no statements."""
    found = heard(command(0x12, b"\x04\0\0\0"), ("s", rows(b"\0event", b"\0event")), ("c", b"anything"))
    assert found.up.endswith(b"anything")
    assert found.done == []


EVERYTHING: list[Turn] = [
    *begun(PROTOCOL & ~DEPRECATE_EOF),
    query("BEGIN"),
    ("s", rows(ok(1))),
    query("SELECT a FROM t; SELECT b FROM t"),
    ("s", rows(b"\x01", COLUMN, eof(0x0B), b"\x01a", eof(0x0B), b"\x01", COLUMN, eof(3), b"\x01b", eof(3))),
    command(0x16, b"UPDATE t SET a = ?"),
    ("s", rows(b"\0\x01\0\0\0\0\0\x01\0\0\0\0", COLUMN, eof())),
    command(0x17, b"\x01\0\0\0\0\x01\0\0\0\0"),
    ("s", rows(ERROR)),
    command(0x19, b"\x01\0\0\0"),
    query("BEGIN NOT ATOMIC UPDATE t SET a=1; COMMIT; END"),
    ("s", rows(ok(0))),
    command(0x01),
]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_it_does_not_matter_where_bytes_are_cut(chunks: list[int]) -> None:
    """The same bytes in any chunks are the same conversation, and every byte passes, in order."""
    whole = hear(MysqlConversation(), EVERYTHING)
    assert hear(MysqlConversation(), EVERYTHING, chunks) == whole
    assert whole.up == b"".join(data for who, data in EVERYTHING if who == "c")
    assert len(whole.down) == sum(len(data) for who, data in EVERYTHING if who == "s")
    kinds = [kind for kind, _ in whole.asked if kind != "command"]
    assert kinds == ["begin", "other", "other", "commit"]
    assert [done for done in whole.done if done[0] != "command"] == [
        ("begin", False),
        ("other", False),
        ("other", True),
        ("commit", False),
    ]


@given(noise=st.binary(max_size=60), logged_in=st.booleans(), from_server=st.booleans())
def test_noise_is_not_read_for_ever(noise: bytes, *, logged_in: bool, from_server: bool) -> None:
    """What is not the protocol is kept, passed on or refused by one of two errors; nothing else, and it ends."""
    conversation = MysqlConversation()
    hear(conversation, [*begun(), query("SELECT 1")] if logged_in else [])
    with suppress(ValueError, IndexError):
        (conversation.from_server if from_server else conversation.from_client)(noise)
