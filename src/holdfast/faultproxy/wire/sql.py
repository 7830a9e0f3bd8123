"""Whether a text is BEGIN, COMMIT, ROLLBACK or something else.

No parser of SQL: it looks at the first words of each statement of the text, past comments, quotes and semicolons in quotes. So
it does not see a COMMIT inside of a stored procedure, a DO block or a statement that was prepared by SQL (`PREPARE x FROM ...`),
nor one that a server implies (DDL on MySQL and MariaDB).
"""

from __future__ import annotations

import enum
import re

from .conversation import Kind

__all__ = ["Grammar", "kind_of"]


class Grammar(enum.Enum):
    """How quotes and comments are written, and what END means."""

    MYSQL = "mysql"
    POSTGRESQL = "postgresql"


_HEAD = re.compile(
    rb"(?:[\s(]|--[^\n]*+|#[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/)*+([A-Za-z]++)(?:\s++([A-Za-z]++))?(?:\s++([A-Za-z]++))?"
)
_PLAIN = frozenset((b"SELECT", b"INSERT", b"UPDATE", b"DELETE"))  # most of what is sent, told without a look
_CONTROL = re.compile(rb"\b(?:begin|start|commit|end|rollback|abort|xa)\b", re.IGNORECASE)
_ROUTINE = re.compile(rb"\b(?:function|procedure|trigger|event|package)\b", re.IGNORECASE)
_COMMENT = rb"/\*(?:[^*]|\*(?!/))*+\*/"
# What may hide a semicolon, or a semicolon.
_TOKENS = {
    Grammar.MYSQL: re.compile(
        rb"'(?:[^'\\]|\\.)*+'|\"(?:[^\"\\]|\\.)*+\"|`[^`]*+`|--(?=\s)[^\n]*+|#[^\n]*+|" + _COMMENT + rb"|;", re.DOTALL
    ),
    Grammar.POSTGRESQL: re.compile(
        rb"\b[eE]'(?:[^'\\]|\\.)*+'|'[^']*+'|\"[^\"]*+\"|--[^\n]*+|\$(\w*)\$.*?\$\1\$|" + _COMMENT + rb"|;", re.DOTALL
    ),
}
_BY_WEIGHT = (Kind.OTHER, Kind.BEGIN, Kind.ROLLBACK, Kind.COMMIT)


def kind_of(text: bytes, grammar: Grammar) -> Kind:
    """What `text`, one statement or several with semicolons between, does to a transaction.

    Of several statements COMMIT counts most, then ROLLBACK, then BEGIN. A block of MariaDB (`BEGIN NOT ATOMIC ...; COMMIT; END`)
    is what is in it. A definition of a routine is OTHER, whatever its body says.
    """
    if b";" not in text:
        return Kind.OTHER if text[:6] in _PLAIN else _kind_of_one(text, grammar)
    if _CONTROL.search(text) is None:
        return _kind_of_one(text, grammar)
    found = Kind.OTHER
    for part in _parts(text, grammar):
        kind = _kind_of_one(part, grammar)
        head = _HEAD.match(part)
        if head is not None and head[1].upper() in {b"CREATE", b"ALTER"} and _ROUTINE.search(part):
            return found
        found = max(found, kind, key=_BY_WEIGHT.index)
    return found


def _parts(text: bytes, grammar: Grammar) -> list[bytes]:
    parts = []
    begun = 0
    for token in _TOKENS[grammar].finditer(text):
        if token[0] == b";":
            parts.append(text[begun : token.start()])
            begun = token.end()
    parts.append(text[begun:])
    return parts


def _kind_of_one(text: bytes, grammar: Grammar) -> Kind:
    head = _HEAD.match(text)
    if head is None:
        return Kind.OTHER
    first, *rest = (word.upper() if word else b"" for word in head.groups())
    if first == b"BEGIN":
        return Kind.OTHER if rest[0] == b"NOT" else Kind.BEGIN
    if first == b"COMMIT":
        return Kind.COMMIT
    if first == b"ROLLBACK":
        # To a savepoint: the transaction goes on.
        return Kind.OTHER if b"TO" in rest else Kind.ROLLBACK
    if first == b"START":
        return Kind.BEGIN if rest[0] == b"TRANSACTION" else Kind.OTHER
    if grammar is Grammar.POSTGRESQL:
        return {b"END": Kind.COMMIT, b"ABORT": Kind.ROLLBACK}.get(first, Kind.OTHER)
    if first == b"XA":
        xa = {b"START": Kind.BEGIN, b"BEGIN": Kind.BEGIN, b"COMMIT": Kind.COMMIT, b"ROLLBACK": Kind.ROLLBACK}
        return xa.get(rest[0], Kind.OTHER)
    return Kind.OTHER
