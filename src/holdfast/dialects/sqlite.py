"""SQLite: result codes. An extended code without a row of its own means what its primary code (the low byte) means."""

from __future__ import annotations

from ..outcome import Rejection
from .rows import CANCELLED, CONTENTION, EXHAUSTED, LOST, OVERLOAD, PERMANENT, UNSENT, Row, Table

__all__ = ["TABLE", "find", "find_without_code"]

# SQLite's constraint texts name columns and indexes, never values; FOREIGN KEY names nothing at all.
_UNIQUE = r"^UNIQUE constraint failed: (?:index '(?P<constraint>[^']+)'|(?P<columns>.+))$"
_NOT_NULL = r"^NOT NULL constraint failed: (?P<columns>.+)$"
_CHECK = r"^CHECK constraint failed: (?P<constraint>\w+)$"

_PRIMARY = (
    Row(1, "SQLITE_ERROR", PERMANENT, "no such table", rejection=Rejection.MISSING_TABLE, text=r"^no such table: ", details=r"^no such table: (?:\w+\.)?(?P<table>\w+)$"),
    Row(1, "SQLITE_ERROR", PERMANENT, "no such column", rejection=Rejection.MISSING_COLUMN, text=r"^no such column: ", details=r"^no such column: (?P<columns>[\w.]+)"),
    Row(1, "SQLITE_ERROR", PERMANENT, "no such column", rejection=Rejection.MISSING_COLUMN, text=r"^table \S+ has no column named ", details=r"^table (?P<table>\S+) has no column named (?P<columns>\S+)$"),
    Row(1, "SQLITE_ERROR", PERMANENT, "syntax error", rejection=Rejection.SYNTAX, text=r"syntax error$|^incomplete input$|^unrecognized token: "),
    Row(1, "SQLITE_ERROR", PERMANENT, "the statement is wrong", rejection=Rejection.OTHER),
    Row(3, "SQLITE_PERM", PERMANENT, "the access mode was refused", rejection=Rejection.ACCESS_DENIED),
    Row(4, "SQLITE_ABORT", CONTENTION, "the statement was aborted by a rollback"),
    Row(5, "SQLITE_BUSY", CONTENTION, "another connection holds the lock; the transaction is still open, even after COMMIT", aborts_commit=True),
    Row(6, "SQLITE_LOCKED", CONTENTION, "a conflict inside this connection or its shared cache; no busy timeout helps"),
    Row(7, "SQLITE_NOMEM", OVERLOAD, "out of memory; SQLite may have rolled back"),
    Row(8, "SQLITE_READONLY", PERMANENT, "the database is opened or mounted read-only", rejection=Rejection.ACCESS_DENIED),
    Row(9, "SQLITE_INTERRUPT", CANCELLED, "interrupted; a write rolls the whole transaction back"),
    Row(10, "SQLITE_IOERR", EXHAUSTED, "the disk failed; SQLite may have rolled back"),
    Row(11, "SQLITE_CORRUPT", EXHAUSTED, "the database file is damaged; tell a person"),
    Row(13, "SQLITE_FULL", EXHAUSTED, "the disk is full or max_page_count is reached"),
    Row(14, "SQLITE_CANTOPEN", UNSENT, "the file cannot be opened"),
    Row(15, "SQLITE_PROTOCOL", CONTENTION, "lost the race for the write-ahead log's locks too often"),
    Row(17, "SQLITE_SCHEMA", CONTENTION, "the schema changed; prepare the statement again"),
    Row(18, "SQLITE_TOOBIG", PERMANENT, "a text or blob is too large", rejection=Rejection.TOO_LARGE),
    Row(19, "SQLITE_CONSTRAINT", PERMANENT, "a constraint; the transaction is still open, even after COMMIT", aborts_commit=True, rejection=Rejection.OTHER),
    Row(20, "SQLITE_MISMATCH", PERMANENT, "the value has the wrong type", rejection=Rejection.INVALID_VALUE),
    Row(21, "SQLITE_MISUSE", PERMANENT, "the library was used wrongly", rejection=Rejection.OTHER),
    Row(23, "SQLITE_AUTH", PERMANENT, "the authorizer refused the statement", rejection=Rejection.ACCESS_DENIED),
    Row(25, "SQLITE_RANGE", PERMANENT, "no such parameter", rejection=Rejection.SYNTAX),
    Row(26, "SQLITE_NOTADB", PERMANENT, "the file is no SQLite database", rejection=Rejection.MISSING_DATABASE),
)  # fmt: skip

_EXTENDED = (
    Row(261, "SQLITE_BUSY_RECOVERY", CONTENTION, "another process recovers the write-ahead log", aborts_commit=True),
    Row(262, "SQLITE_LOCKED_SHAREDCACHE", CONTENTION, "a conflict in the shared cache"),
    Row(275, "SQLITE_CONSTRAINT_CHECK", PERMANENT, "CHECK constraint", aborts_commit=True, rejection=Rejection.CHECK, details=_CHECK),
    Row(516, "SQLITE_ABORT_ROLLBACK", CONTENTION, "the transaction was rolled back under the statement"),
    Row(517, "SQLITE_BUSY_SNAPSHOT", CONTENTION, "the snapshot is too old to write; begin with BEGIN IMMEDIATE", aborts_commit=True),
    Row(773, "SQLITE_BUSY_TIMEOUT", CONTENTION, "the wait for a blocking lock took too long", aborts_commit=True),
    Row(787, "SQLITE_CONSTRAINT_FOREIGNKEY", PERMANENT, "foreign key", aborts_commit=True, rejection=Rejection.FOREIGN_KEY),
    Row(1032, "SQLITE_READONLY_DBMOVED", LOST, "the file was replaced under the connection; open it again"),
    Row(1299, "SQLITE_CONSTRAINT_NOTNULL", PERMANENT, "null in a NOT NULL column", aborts_commit=True, rejection=Rejection.NOT_NULL, details=_NOT_NULL),
    Row(1555, "SQLITE_CONSTRAINT_PRIMARYKEY", PERMANENT, "duplicate primary key", aborts_commit=True, rejection=Rejection.DUPLICATE, details=_UNIQUE),
    Row(1811, "SQLITE_CONSTRAINT_TRIGGER", PERMANENT, "a trigger raised an error", aborts_commit=True, rejection=Rejection.OTHER),
    Row(2067, "SQLITE_CONSTRAINT_UNIQUE", PERMANENT, "duplicate key", aborts_commit=True, rejection=Rejection.DUPLICATE, details=_UNIQUE),
    Row(2579, "SQLITE_CONSTRAINT_ROWID", PERMANENT, "duplicate rowid", aborts_commit=True, rejection=Rejection.DUPLICATE),
    Row(3091, "SQLITE_CONSTRAINT_DATATYPE", PERMANENT, "wrong type for a STRICT table", aborts_commit=True, rejection=Rejection.INVALID_VALUE, details=r" column (?P<columns>[\w.]+)$"),
)  # fmt: skip

TABLE = Table(_PRIMARY, _EXTENDED)
"""Every result code Holdfast knows of SQLite."""


def find(code: int, message: str) -> Row | None:
    """The row of an extended result code, or else of its primary code."""
    return TABLE.find(code, message) or TABLE.find(code & 0xFF, message)


# Raised by Python's module, not by SQLite, and so without a code. The first is how a lost connection looks there.
_WITHOUT_CODE = (
    Row("closed", "closed database", LOST, "the connection was closed under the transaction", text=r"^Cannot operate on a closed"),
    Row("not-utf-8", "stored text that is not UTF-8", PERMANENT, "what is stored as text cannot be read as such", rejection=Rejection.OTHER, text=r"^Could not decode to UTF-8", details=r"^Could not decode to UTF-8 column '(?P<columns>\w+)' with "),
)  # fmt: skip


def find_without_code(message: str) -> Row | None:
    """The row of an error that sqlite3 raises on its own, or None."""
    return next((row for row in _WITHOUT_CODE if row.applies_to(message)), None)
