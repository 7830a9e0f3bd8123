"""The conversation of PostgreSQL, read along."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from holdfast.faultproxy.wire.postgresql import TLS_REFUSED, PostgresqlConversation
from tests.unit.conversations import Heard, Turn, hear, message


def startup(code: int, body: bytes = b"") -> Turn:
    return "c", message("", code.to_bytes(4, "big") + body)


LOGIN: list[Turn] = [
    startup(196608, b"user\0app\0\0"),
    ("s", message("R", b"\0\0\0\x0aSCRAM-SHA-256\0\0")),
    ("c", message("p", b"SCRAM-SHA-256\0")),
    (
        "s",
        message("R", b"\0\0\0\0") + message("S", b"TimeZone\0UTC\0") + message("K", b"12345678") + message("Z", b"I"),
    ),
]
READY = {status: message("Z", status.encode()) for status in "ITE"}
ERROR = message("E", b"SERROR\0C40001\0\0")
SYNC = message("S")


def query(sql: str) -> Turn:
    return "c", message("Q", sql.encode() + b"\0")


def prepare(sql: str, name: str = "") -> bytes:
    return message("P", name.encode() + b"\0" + sql.encode() + b"\0\0\0")


def execute(name: str = "", portal: str = "") -> bytes:
    bound = message("B", portal.encode() + b"\0" + name.encode() + b"\0\0\0\0\0\0\0")
    return bound + message("D", b"P" + portal.encode() + b"\0") + message("E", portal.encode() + b"\0\0\0\0\0")


def complete(tag: str) -> bytes:
    return message("2") + message("n") + message("C", tag.encode() + b"\0")


def heard(*turns: Turn) -> Heard:
    return hear(PostgresqlConversation(), [*LOGIN, *turns])


def test_a_transaction_of_simple_queries() -> None:
    """A statement is answered when the server is ready for the next; that says whether a transaction is open."""
    turns = [query("BEGIN;"), ("s", message("C", b"BEGIN\0") + READY["T"]), query("INSERT INTO t VALUES (1)")]
    turns += [("s", message("C", b"INSERT 0 1\0"))]
    assert heard(*turns).done == [("begin", False)]
    assert heard(*turns, ("s", READY["T"])).in_transaction
    found = heard(*turns, ("s", READY["T"]), query("COMMIT"), ("s", message("C", b"COMMIT\0") + READY["I"]))
    assert found.done == [("begin", False), ("other", False), ("commit", False)]
    assert not found.in_transaction


def test_a_failed_query_is_answered_too() -> None:
    """An error, then ready: the transaction is still open, and failed."""
    found = heard(query("SELECT 1/0"), ("s", ERROR + READY["E"]))
    assert found.done == [("other", True)]
    assert found.in_transaction


def test_an_execution_is_a_statement_with_the_text_that_was_parsed() -> None:
    """Named and unnamed, until it is closed; parsing, binding and describing are none."""
    found = heard(
        ("c", prepare("COMMIT", "a") + message("D", b"Sa\0") + SYNC),
        ("s", message("1") + message("t", b"\0\0") + message("n") + READY["T"]),
        ("c", execute("a", "portal") + SYNC),
        ("s", complete("COMMIT") + READY["I"]),
        ("c", prepare("SELECT 1") + execute() + SYNC),
        ("s", message("1") + complete("SELECT 1") + READY["I"]),
        ("c", message("C", b"Sa\0") + SYNC),
        ("s", message("3") + READY["I"]),
        ("c", execute("a") + SYNC),
        ("s", ERROR + READY["I"]),
    )
    assert found.asked == [("commit", "COMMIT"), ("other", "SELECT 1"), ("other", "")]
    assert found.done == [("commit", False), ("other", False), ("other", True)]


def test_a_pipeline_is_answered_with_its_sync() -> None:
    """Several executions before one Sync: each is told, and all are complete when the server is ready."""
    asked = ("c", prepare("BEGIN") + execute() + prepare("INSERT") + execute() + prepare("COMMIT") + execute() + SYNC)
    answered = [message("1") + complete(tag) for tag in ("BEGIN", "INSERT 0 1", "COMMIT")]
    assert heard(asked, ("s", b"".join(answered))).done == []
    found = heard(asked, ("s", b"".join(answered) + READY["I"]))
    assert found.asked == [("begin", "BEGIN"), ("other", "INSERT"), ("commit", "COMMIT")]
    assert found.done == [("begin", False), ("other", False), ("commit", False)]


def test_an_error_in_a_pipeline_skips_the_rest() -> None:
    """What the server skipped up to the Sync has failed with it; what comes after has not."""
    found = heard(
        ("c", prepare("INSERT") + execute() + execute() + prepare("COMMIT") + execute() + SYNC + execute() + SYNC),
        ("s", message("1") + complete("INSERT 0 1") + ERROR + READY["I"] + complete("COMMIT") + READY["I"]),
    )
    assert found.done == [("other", False), ("other", True), ("commit", True), ("commit", False)]


def test_a_flushed_execution_is_answered_before_the_sync() -> None:
    """A client that asks for the answer by Flush gets it; the Sync can come later."""
    turns: list[Turn] = [
        ("c", prepare("INSERT") + execute() + message("H")),
        ("s", message("1") + complete("INSERT 0 1")),
    ]
    assert heard(*turns).done == [("other", False)]
    found = heard(*turns, ("c", prepare("COMMIT") + execute() + SYNC), ("s", complete("COMMIT") + READY["I"]))
    assert found.done == [("other", False), ("commit", False)]


def test_an_execution_waits_for_its_sync() -> None:
    """It is passed on together with the Sync that follows: alone it would not be committed."""
    conversation = PostgresqlConversation()
    hear(conversation, LOGIN)
    asked = prepare("INSERT") + execute()
    assert (
        b"".join(piece.data for piece in conversation.from_client(asked)) == asked[: -len(message("E", b"\0\0\0\0\0"))]
    )
    (piece,) = conversation.from_client(SYNC)
    assert piece.data.endswith(SYNC)
    assert piece.statement is not None


def test_copy_passes() -> None:
    """The data of a COPY are no statements, and its answer comes after them."""
    found = heard(
        query("COPY t FROM STDIN"),
        ("s", message("G", b"\0\0\0")),
        ("c", message("d", b"COMMIT\n") + message("c")),
        ("s", message("C", b"COPY 1\0") + READY["I"]),
    )
    assert found.asked == [("other", "COPY t FROM STDIN")]
    assert found.done == [("other", False)]


def test_encryption_is_refused_by_the_proxy_itself() -> None:
    """`N`, as a server without TLS says it; the client may go on without."""
    found = hear(PostgresqlConversation(), [startup(80877104), startup(80877103), *LOGIN])
    assert found.down.startswith(b"NN")
    assert found.up.startswith(LOGIN[0][1])
    assert found.refused == []


def test_tls_from_the_first_byte_is_refused() -> None:
    """A client that does not ask first is told in words and turned away."""
    found = hear(PostgresqlConversation(), [("c", b"\x16\x03\x01\x02\x00hello")])
    assert TLS_REFUSED.encode() in found.down
    assert found.up == b""
    assert found.refused


def test_a_cancel_request_passes() -> None:
    """It is a connection of its own."""
    found = hear(PostgresqlConversation(), [startup(80877102, b"12345678")])
    assert found.up == startup(80877102, b"12345678")[1]


EVERYTHING: list[Turn] = [
    startup(80877103),
    *LOGIN,
    ("c", prepare("BEGIN") + execute() + SYNC + prepare("SELECT 1", "a") + execute("a", "x") + message("H")),
    ("s", message("1") + complete("BEGIN") + READY["T"] + message("1") + complete("SELECT 1")),
    ("s", message("A", b"\0\0\0\x07channel\0payload\0") + message("N", b"SNOTICE\0\0")),
    ("c", execute("a") + SYNC),
    ("s", message("2") + message("T", b"\0\x01") + message("D", b"\0\x01") * 20 + ERROR + READY["E"]),
    query("ROLLBACK"),
    ("s", message("C", b"ROLLBACK\0") + READY["I"]),
    ("c", message("X")),
]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_it_does_not_matter_where_bytes_are_cut(chunks: list[int]) -> None:
    """The same bytes in any chunks are the same conversation, and every byte passes, in order."""
    whole = hear(PostgresqlConversation(), EVERYTHING)
    assert hear(PostgresqlConversation(), EVERYTHING, chunks) == whole
    assert whole.up == b"".join(data for who, data in EVERYTHING[1:] if who == "c")
    assert whole.down == b"N" + b"".join(data for who, data in EVERYTHING if who == "s")
    assert [kind for kind, _ in whole.asked] == ["begin", "other", "other", "rollback"]
    assert whole.done == [("begin", False), ("other", False), ("other", True), ("rollback", False)]


@given(noise=st.binary(max_size=60), logged_in=st.booleans(), from_server=st.booleans())
def test_noise_is_not_read_for_ever(noise: bytes, *, logged_in: bool, from_server: bool) -> None:
    """What is not the protocol is kept, passed on or refused by one of two errors; nothing else, and it ends."""
    conversation = PostgresqlConversation()
    hear(conversation, LOGIN if logged_in else [])
    with suppress(ValueError, IndexError):
        (conversation.from_server if from_server else conversation.from_client)(noise)
