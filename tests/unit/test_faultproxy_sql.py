"""What a text does to a transaction, told by its first words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.faultproxy.wire.conversation import Kind
from holdfast.faultproxy.wire.sql import Grammar, kind_of

BOTH = [
    ("BEGIN", Kind.BEGIN),
    ("begin;", Kind.BEGIN),
    ("BEGIN ISOLATION LEVEL SERIALIZABLE", Kind.BEGIN),
    ("START TRANSACTION READ ONLY", Kind.BEGIN),
    ("start slave", Kind.OTHER),
    ("COMMIT", Kind.COMMIT),
    ("  commit work ;", Kind.COMMIT),
    ("/* trace=7 */ COMMIT", Kind.COMMIT),
    ("-- why\nCOMMIT", Kind.COMMIT),
    ("COMMIT AND CHAIN", Kind.COMMIT),
    ("COMMIT PREPARED 'x'", Kind.COMMIT),
    ("ROLLBACK", Kind.ROLLBACK),
    ("ROLLBACK TO SAVEPOINT a", Kind.OTHER),
    ("ROLLBACK WORK TO a", Kind.OTHER),
    ("SAVEPOINT a", Kind.OTHER),
    ("RELEASE SAVEPOINT a", Kind.OTHER),
    ("SELECT 'commit;'", Kind.OTHER),
    ("SELECT 1; SELECT 2", Kind.OTHER),
    ("INSERT INTO t VALUES ('; COMMIT; ')", Kind.OTHER),
    ("INSERT INTO t VALUES (1); COMMIT", Kind.COMMIT),
    ("SELECT 1 /* ; commit; */", Kind.OTHER),
    ("SELECT 1 /* ; */; ROLLBACK", Kind.ROLLBACK),
    ("BEGIN; INSERT INTO t VALUES (1); COMMIT;", Kind.COMMIT),
    ("CREATE PROCEDURE p() BEGIN START TRANSACTION; COMMIT; END", Kind.OTHER),
    ("CREATE TABLE t (a int); COMMIT", Kind.COMMIT),
    ("", Kind.OTHER),
    (";", Kind.OTHER),
    ("commitment", Kind.OTHER),
]
MYSQL = [
    ("BEGIN NOT ATOMIC UPDATE t SET a='x;COMMIT'; COMMIT; END", Kind.COMMIT),
    ("BEGIN NOT ATOMIC UPDATE t SET a=1; END", Kind.OTHER),
    ("INSERT INTO t VALUES ('it\\'s; COMMIT; ')", Kind.OTHER),
    ("INSERT INTO t VALUES (1) # ; COMMIT", Kind.OTHER),
    ("SELECT `a;commit;b`; ROLLBACK", Kind.ROLLBACK),
    ("XA START 'x'", Kind.BEGIN),
    ("XA COMMIT 'x'", Kind.COMMIT),
    ("XA END 'x'", Kind.OTHER),
    ("xa rollback 'x'", Kind.ROLLBACK),
    ("END", Kind.OTHER),
]
POSTGRESQL = [
    ("END", Kind.COMMIT),
    ("END TRANSACTION", Kind.COMMIT),
    ("ABORT", Kind.ROLLBACK),
    ("DO $$ BEGIN COMMIT; END $$", Kind.OTHER),
    ("DO $do$ BEGIN x := $$;commit;$$; END $do$; COMMIT", Kind.COMMIT),
    ("SELECT 'a\\'; COMMIT; --'", Kind.COMMIT),
    ("SELECT E'a\\'; COMMIT; --'", Kind.OTHER),
    ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END", Kind.OTHER),
]


@pytest.mark.parametrize(
    ("grammar", "text", "kind"),
    [
        *((grammar, *case) for case in BOTH for grammar in Grammar),
        *((Grammar.MYSQL, *case) for case in MYSQL),
        *((Grammar.POSTGRESQL, *case) for case in POSTGRESQL),
    ],
)
def test_kind_of_a_text(grammar: Grammar, text: str, kind: Kind) -> None:
    """Comments, quotes, blocks and several statements in one text do not mislead."""
    assert kind_of(text.encode(), grammar) is kind


@given(st.binary(max_size=200), st.sampled_from(Grammar))
def test_any_text_has_a_kind(text: bytes, grammar: Grammar) -> None:
    """Whatever a client sends, nothing is raised."""
    assert kind_of(text, grammar) in Kind
    assert kind_of(text + b";commit", grammar) in Kind


@pytest.mark.timeout(20)
def test_a_hostile_text_takes_no_longer_than_its_length() -> None:
    """No text makes the look at it slow: the patterns never go back."""
    for text in (
        b" " * 10**6 + b"1",
        b"/*" * 10**6 + b";commit",
        b"'" + b"\\" * 10**6 + b";commit",
        b"--" * 10**6 + b";begin",
    ):
        for grammar in Grammar:
            assert kind_of(text, grammar) in Kind
