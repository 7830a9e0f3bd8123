"""From what a person pastes, a bare code or a line of a log, to the code in it and whose it is.

Linear in the length of the text, whatever stands in it: every pattern is a fixed shape with bounded repetition, so that from each
place it reads a bounded number of characters; a test looks at the patterns. Nothing of the text is kept but the code and an
excerpt behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from . import postgresql
from .classifier import explain, table_of
from .flavour import Flavour

__all__ = ["Pasted", "read_pasted"]

EXCERPT = 1_000
"""Characters behind the code that are looked at where one number means several things; a server's messages are shorter."""

_FAMILY = (Flavour.MYSQL, Flavour.MARIADB)
_ALL = tuple(Flavour)

_BARE = re.compile(r"-?[0-9]{1,5}|[0-9A-Za-z]{5}|[0-9]{2}")
_NUMBERED = (
    re.compile(r"\bERROR {1,3}([0-9]{4,5}) \([0-9A-Z]{5}\)"),  # the mysql and mariadb programs
    re.compile(r"\(['\"]?(-?[0-9]{1,5})['\"]?, {0,2}['\"]"),  # drivers: (1213, 'Deadlock found ...')
    re.compile(r"\b([0-9]{4,5}) \([0-9A-Z]{5}\): "),  # mysql-connector-python
    re.compile(r"\bSQLSTATE\[[0-9A-Z]{5}\] {0,1}\[([0-9]{4,5})\]"),  # PHP's PDO, at connect
    re.compile(r"\bSQLSTATE\[[0-9A-Z]{5}\]: [A-Za-z ]{1,60}: ([0-9]{1,5}) "),  # PHP's PDO
)
_STATED = (
    re.compile(r"\b(?:ERROR|FATAL|PANIC): {1,3}([0-9A-Z]{5}): "),  # psql, verbose
    re.compile(r"\b(?:SQLSTATE|SQL state|sqlstate|pgcode)\W{1,4}([0-9A-Z]{5})\b"),
)
_NAME = re.compile(r"\b(?:SQLITE|ER|CR|OBSOLETE_ER)_[A-Z0-9_]{2,60}")
_CLASS = re.compile(r"\b(?:psycopg2?|asyncpg)\.(?:errors|exceptions)\.([A-Za-z]{1,60})")
_WORD = re.compile(r"\b[A-Za-z_]{1,60}\b")
_TOKEN = re.compile(r"\b(?:[0-9]{4}|[0-9A-Z]{5})\b")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_0-9]{1,60}")
_NOT_CONNECTED = re.compile(r"connection to server at|connection failed: ")
_OF_PYTHON = re.compile(r"\b[A-Za-z]{1,60}(?:Error|Warning): ")

_HINTS = (
    (re.compile(r"\bMariaDB\b|\bmariadb\."), (Flavour.MARIADB,)),
    (re.compile(r"\b(?:pymysql|MySQLdb|asyncmy|aiomysql|mysql\.connector|mysql)\b|\bMySQL\b"), _FAMILY),
    (re.compile(r"\b(?:psycopg2?|asyncpg|libpq|psql|PostgreSQL)\b"), (Flavour.POSTGRESQL,)),
    (re.compile(r"\b(?:sqlite3?|aiosqlite|SQLite)\b|SQLITE_"), (Flavour.SQLITE,)),
)

_TEXTS: tuple[tuple[str, str, tuple[Flavour, ...]], ...] = (
    ("Deadlock found when trying to get lock", "1213", _FAMILY),
    ("Lock wait timeout exceeded", "1205", _FAMILY),
    ("Record has changed since last read", "1020", (Flavour.MARIADB,)),
    ("Lost connection to", "2013", _FAMILY),
    ("server has gone away", "2006", _FAMILY),
    ("Too many connections", "1040", _FAMILY),
    ("WSREP has not yet prepared node", "1047", (Flavour.MARIADB,)),
    ("could not serialize access", "40001", (Flavour.POSTGRESQL,)),
    ("deadlock detected", "40P01", (Flavour.POSTGRESQL,)),
    ("canceling statement due to lock timeout", "55P03", (Flavour.POSTGRESQL,)),
    ("canceling statement due to", "57014", (Flavour.POSTGRESQL,)),
    ("terminating connection due to administrator command", "57P01", (Flavour.POSTGRESQL,)),
    ("terminating connection due to idle-in-transaction timeout", "25P03", (Flavour.POSTGRESQL,)),
    ("server closed the connection unexpectedly", "08006", (Flavour.POSTGRESQL,)),
    ("current transaction is aborted, commands ignored", "25P02", (Flavour.POSTGRESQL,)),
    ("in a read-only transaction", "25006", (Flavour.POSTGRESQL,)),
    ("duplicate key value violates unique constraint", "23505", (Flavour.POSTGRESQL,)),
    ("database is locked", "5", (Flavour.SQLITE,)),
    ("database table is locked", "6", (Flavour.SQLITE,)),
    ("attempt to write a readonly database", "8", (Flavour.SQLITE,)),
    ("disk I/O error", "10", (Flavour.SQLITE,)),
    ("database disk image is malformed", "11", (Flavour.SQLITE,)),
    ("database or disk is full", "13", (Flavour.SQLITE,)),
    ("unable to open database file", "14", (Flavour.SQLITE,)),
    ("file is not a database", "26", (Flavour.SQLITE,)),
    ("UNIQUE constraint failed", "2067", (Flavour.SQLITE,)),
    ("NOT NULL constraint failed", "1299", (Flavour.SQLITE,)),
    ("FOREIGN KEY constraint failed", "787", (Flavour.SQLITE,)),
    ("CHECK constraint failed", "275", (Flavour.SQLITE,)),
    ("no such table: ", "1", (Flavour.SQLITE,)),
    ("no such column: ", "1", (Flavour.SQLITE,)),
)
"""Drivers that print no code: sqlite3 and psycopg. And the texts that people search for."""


_ONLY_A_CLASS = {
    "22007": "invaliddatetimeformat",
    "22012": "divisionbyzero",
    "22P02": "invalidtextrepresentation",
    "42702": "ambiguouscolumn",
    "42704": "undefinedobject",
    "42710": "duplicateobject",
    "42804": "datatypemismatch",
    "42883": "undefinedfunction",
    "42P02": "undefinedparameter",
    "42P07": "duplicatetable",
}
"""SQLSTATEs that the table knows by their class alone, with the names that drivers print instead of them."""


@dataclass(frozen=True, slots=True)
class Pasted:
    """What was found in a text.

    Attributes:
        code: the code as text, an SQLSTATE in upper case; None where there is none.
        flavours: whose it can be, by what else stands there; all four where nothing says.
        message: what stands behind the code, cut off after 1,000 characters; empty for a bare code. It may hold values, so it
            stays out of `repr`.
    """

    code: str | None
    flavours: tuple[Flavour, ...] = _ALL
    message: str = field(default="", repr=False)


def read_pasted(text: str) -> Pasted:
    """The code in `text`: the first that its shape marks as one, else one that some table knows.

    Args:
        text: `1205`, `40P01`, `SQLITE_BUSY`, `serialization_failure`, or what a driver, a client program or a traceback prints.
            Of several errors the first counts: in a traceback it is the cause.
    """
    # SQLAlchemy prints the statement and its parameters behind the error: values, among which a number means nothing.
    text = text.partition("[SQL: ")[0].partition("[parameters: ")[0].partition("\nDETAIL:")[0]
    bare = text.strip()
    hinted = _hinted(text)
    if _BARE.fullmatch(bare) and (len(bare) != 5 or not bare.isalpha()):
        return Pasted(bare.upper())
    named = _by_name(bare) if _IDENTIFIER.fullmatch(bare) else None
    if named is not None:
        return named
    found = next((pasted for pasted in _candidates(text, hinted) if pasted is not None), None)
    return found or Pasted(None, hinted, bare[:EXCERPT])


def _candidates(text: str, hinted: tuple[Flavour, ...]) -> Iterator[Pasted | None]:
    """What each way of looking finds, the surest first."""
    yield from (_stated(pattern, text, _narrowed(hinted, _FAMILY)) for pattern in _NUMBERED)
    yield from (_stated(pattern, text, (Flavour.POSTGRESQL,)) for pattern in _STATED)
    for pattern in (_NAME, _CLASS):
        match = pattern.search(text)
        named = _by_name(match[match.lastindex or 0]) if match else None
        yield named and Pasted(named.code, named.flavours, _behind(text, match.end() if match else 0))
    places = [(text.find(known), code, flavours) for known, code, flavours in _TEXTS]
    for place, code, flavours in sorted((found for found in places if found[0] >= 0), key=lambda found: found[0])[:1]:
        yield Pasted(code, _narrowed(hinted, flavours), text[place : place + EXCERPT])
    refused = _NOT_CONNECTED.search(text)
    if refused is not None:
        row = postgresql.find_refusal(text[refused.start() : refused.start() + EXCERPT])
        yield Pasted(str(row.code), (Flavour.POSTGRESQL,), _behind(text, refused.start()))
    yield from (_by_name(word[0]) for word in _WORD.finditer(text) if "_" in word[0])
    for token in _TOKEN.finditer(text):
        flavours = tuple(flavour for flavour in hinted if _knows(flavour, token[0]))
        if flavours:
            yield Pasted(token[0], flavours, _behind(text, token.end()))


def _stated(pattern: re.Pattern[str], text: str, flavours: tuple[Flavour, ...]) -> Pasted | None:
    match = pattern.search(text)
    return None if match is None else Pasted(match[1], flavours, _behind(text, match.end()))


def _behind(text: str, place: int) -> str:
    """The message behind a code, without the marks between them; what Python puts before it is left out as well."""
    excerpt = text[place : place + EXCERPT].lstrip(" :'\"([])")
    prefix = _OF_PYTHON.match(excerpt)
    return excerpt[prefix.end() :] if prefix else excerpt


def _hinted(text: str) -> tuple[Flavour, ...]:
    """The flavours that the text names, or all four; MariaDB alone only where it is named, for its drivers are MySQL's."""
    for pattern, flavours in _HINTS:
        if pattern.search(text):
            return flavours
    return _ALL


def _narrowed(hinted: tuple[Flavour, ...], flavours: tuple[Flavour, ...]) -> tuple[Flavour, ...]:
    return tuple(flavour for flavour in flavours if flavour in hinted) or flavours


def _knows(flavour: Flavour, token: str) -> bool:
    if flavour is Flavour.POSTGRESQL:
        return len(token) == 5 and bool(table_of(flavour).rows_for(token))
    return (
        token.isdecimal() and len(token) == 4 and bool(explain(flavour, int(token))) and flavour is not Flavour.SQLITE
    )


def _by_name(name: str) -> Pasted | None:
    """The code that a vendor or a driver calls `name`: `ER_LOCK_DEADLOCK`, `SerializationFailure`, `UniqueViolationError`."""
    plain = name.replace("_", "").lower()
    for spelling in (plain, plain.removesuffix("error"), f"{plain.removesuffix('error')}failure"):
        found = _names().get(spelling)
        if found is not None:
            return found
    return None


@cache
def _names() -> Mapping[str, Pasted]:
    """Every name, in lower case and without underscores."""
    names = {name: Pasted(code, (Flavour.POSTGRESQL,)) for code, name in _ONLY_A_CLASS.items()}
    for flavour in Flavour:
        for row in table_of(flavour):
            if " " in row.name or (isinstance(row.code, str) and len(row.code) == 2):
                continue
            name = row.name.replace("_", "").lower()
            before = names.get(name)
            if before is None:
                names[name] = Pasted(str(row.code), (flavour,))
            elif before.code == str(row.code) and flavour not in before.flavours:
                names[name] = Pasted(before.code, (*before.flavours, flavour))
    return names
