"""What is asked of a SQLite database, and what its answers mean.

Sources: SQLite's documentation (Pragma statements, Write-Ahead Logging, How To Corrupt An SQLite Database File).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..dialects import Flavour
from . import client
from .findings import Check, Evidence, Question, Severity, Symptom, Unseen, shown

__all__ = ["CHECKS", "questions"]

_NETWORK = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
        *("fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "vboxsf", "virtiofs"),
    }
)
_IN_RAM = frozenset({"ramfs", "tmpfs"})
_LEVELS = ("OFF", "NORMAL", "FULL", "EXTRA")


def questions(_flavour: Flavour) -> tuple[Question, ...]:
    """What to ask a SQLite database on a connection that Holdfast set up."""
    return (
        Question("file", "SELECT file FROM pragma_database_list WHERE name = 'main'"),
        Question("journal_mode", "PRAGMA journal_mode"),
        Question("synchronous", "PRAGMA synchronous"),
        Question("foreign_keys", "PRAGMA foreign_keys"),
        Question("busy_timeout", "PRAGMA busy_timeout"),
        Question("locking_mode", "PRAGMA locking_mode"),
        Question("query_only", "PRAGMA query_only"),
        Question("quick_check", "PRAGMA quick_check(1)", "ask again when the file is not in use, or with more time"),
        Question(
            "keyless",
            "SELECT m.name FROM sqlite_master AS m WHERE m.type = 'table' AND substr(m.name, 1, 7) <> 'sqlite_' "
            "AND upper(m.sql) NOT GLOB 'CREATE VIRTUAL*' "
            "AND NOT EXISTS (SELECT 1 FROM pragma_table_info(m.name) AS c WHERE c.pk > 0)",
        ),
    )


def _in_memory(seen: Evidence) -> bool:
    return not seen.scalar("file")


def _journal(seen: Evidence) -> Iterator[Symptom]:
    mode = (seen.scalar("journal_mode") or "").lower()
    cure = "close every other connection to the file and open it with Holdfast again, or PRAGMA journal_mode = WAL"
    if _in_memory(seen) or mode == "wal":
        return
    if mode in ("off", "memory"):
        yield Symptom(
            Severity.ERROR,
            f"journal_mode = {mode}",
            "a crash in the middle of a transaction leaves half of it in the file, or a file that cannot be read",
            cure,
        )
    else:
        yield Symptom(
            Severity.WARNING,
            f"journal_mode = {mode}, though Holdfast asked for wal",
            "readers and the writer keep each other waiting; the file was in use, or its file system has no shared memory",
            cure,
        )


def _flush(seen: Evidence) -> Iterator[Symptom]:
    level = int(seen.scalar("synchronous") or 2)
    if level < 2 and not _in_memory(seen):
        lost = "and may damage the file" if level == 0 else "though not the file"
        yield Symptom(
            Severity.ERROR,
            f"synchronous = {_LEVELS[level]}, though Holdfast set FULL",
            f"COMMIT is answered before the disk has it: a loss of power takes the last saves, {lost}",
            "do not change it on Holdfast's connections; PRAGMA synchronous = FULL",
        )


def _foreign_keys(seen: Evidence) -> Iterator[Symptom]:
    if seen.scalar("foreign_keys") == "0":
        yield Symptom(
            Severity.WARNING,
            "foreign_keys = OFF, though Holdfast turned it on",
            "rows that refer to nothing are saved without an error; this SQLite may be built without foreign keys",
            "do not change it on Holdfast's connections; PRAGMA foreign_keys = ON",
        )


def _busy(seen: Evidence) -> Iterator[Symptom]:
    milliseconds = float(seen.scalar("busy_timeout") or 0)
    if milliseconds <= 0:
        yield Symptom(
            Severity.WARNING,
            "busy_timeout = 0",
            "whoever meets another writer fails at once instead of waiting for its turn",
            "do not change it on Holdfast's connections, which wait until shortly before the deadline",
        )
    else:
        yield from client.lock_wait("busy_timeout", milliseconds / 1000, seen.client)


def _locking(seen: Evidence) -> Iterator[Symptom]:
    if (seen.scalar("locking_mode") or "").lower() == "exclusive":
        yield Symptom(
            Severity.WARNING,
            "locking_mode = EXCLUSIVE",
            "the first connection keeps the file to itself, and every other one of the pool waits in vain",
            "PRAGMA locking_mode = NORMAL",
        )


def _file_system(seen: Evidence) -> Iterator[Symptom]:
    kind = seen.client.file_system
    if _in_memory(seen):
        yield Symptom(
            Severity.WARNING,
            "the database is in memory",
            "it ends with its only connection",
            "give a file: sqlite:///app.db",
        )
    elif kind is None:
        raise Unseen("file", "the type of the file system is not known here")
    elif kind.lower() in _NETWORK:
        yield Symptom(
            Severity.ERROR,
            f"the file is on {kind}",
            "file locks and flushes over a network or from a guest to its host are not kept reliably: saves are lost, the file "
            "may be damaged; WAL needs memory that all users of the file share",
            "put the file on a local disk, or use a database server",
        )
    elif kind.lower() in _IN_RAM:
        yield Symptom(
            Severity.WARNING,
            f"the file is on {kind}",
            "it is in memory: a restart of the machine takes everything",
            "put the file on a disk",
        )


def _integrity(seen: Evidence) -> Iterator[Symptom]:
    said = seen.scalar("quick_check")
    if said != "ok":
        yield Symptom(
            Severity.ERROR,
            "quick_check found the file damaged",
            "what was saved may be unreadable, and further writes may damage more",
            "stop writing, copy the file with its -wal and -shm, restore a backup or use the sqlite3 program's .recover",
        )


def _primary_keys(seen: Evidence) -> Iterator[Symptom]:
    tables = [row[0] for row in seen.rows("keyless")]
    if tables:
        yield Symptom(
            Severity.NOTE,
            f"tables without a primary key: {shown(tables)}",
            "their rows cannot be named to be changed once",
            "create them anew with a primary key: SQLite cannot add one",
        )


def _writer(seen: Evidence) -> Iterator[Symptom]:
    if seen.scalar("query_only") == "1":
        yield Symptom(
            Severity.ERROR,
            "query_only = ON",
            "every write is refused",
            "PRAGMA query_only = OFF",
        )


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

CHECKS: tuple[Check, ...] = (
    Check("journal", "journal_mode", (_E, _W), _journal),
    Check("flush", "synchronous", (_E,), _flush),
    Check("file-system", "the file system that holds the file", (_E, _W), _file_system),
    Check("integrity", "quick_check", (_E,), _integrity),
    Check("foreign-keys", "foreign_keys", (_W,), _foreign_keys),
    Check("lock-waits", "busy_timeout", (_W,), _busy),
    Check("locking", "locking_mode", (_W,), _locking),
    Check("writer", "query_only", (_E,), _writer),
    Check("primary-keys", "tables without a primary key", (_N,), _primary_keys),
)
"""In the order in which they are shown."""
