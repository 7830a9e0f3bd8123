"""The table of key rows, `holdfast_operations`, and the four statements that use it.

The statements are compiled once per engine and sent as text: a keyed operation should cost little more than its round trips.
Times are the database's own clock, in whole seconds since 1970, so that a host with a wrong clock cannot expire a key early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from ...dialects import Flavour, classify
from ...operation import KEY_LENGTH_MAX, SCOPE_LENGTH_MAX, TOMBSTONE, OperationKey, Record
from ...outcome import Failure, FailureClass, Rejection, Stage

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Dialect
    from sqlalchemy.pool import PoolProxiedConnection
    from sqlalchemy.sql import ClauseElement, Select
    from sqlalchemy.sql.expression import ColumnClause

__all__ = ["OPERATIONS", "KeyRows", "live_keys", "of_block", "with_operations"]

_METADATA = MetaData()


def _exact(length: int) -> String:
    """Text that compares byte by byte: the usual MySQL collations hold 'KEY' and 'key' for the same."""
    return String(length).with_variant(
        mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb"
    )


OPERATIONS = Table(
    "holdfast_operations",
    _METADATA,
    Column("scope", _exact(SCOPE_LENGTH_MAX), primary_key=True),
    Column("key", _exact(KEY_LENGTH_MAX), primary_key=True),
    Column("fingerprint", _exact(64), nullable=False),
    Column("attempt", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("result", Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")),
    Column("created", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("expires", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Index("holdfast_operations_expires", "expires"),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
    comment="One row per keyed operation that was committed; Holdfast removes it after `expires` (seconds since 1970).",
)
"""Key rows. A row is visible exactly when its operation was committed."""


def with_operations(metadata: MetaData | None) -> tuple[MetaData, ...]:
    """`metadata`, and beside it what holds the table of key rows, unless `metadata` does. No copy: that would lose listeners."""
    if metadata is None:
        return (_METADATA,)
    has_it = OPERATIONS.name in getattr(metadata, "tables", ())  # what is no MetaData is refused by `migrate`
    return (metadata,) if has_it else (metadata, _METADATA)


_SECONDS_NOW = {
    Flavour.MYSQL: "UNIX_TIMESTAMP()",
    Flavour.MARIADB: "UNIX_TIMESTAMP()",
    Flavour.POSTGRESQL: "CAST(EXTRACT(EPOCH FROM now()) AS BIGINT)",
    Flavour.SQLITE: "CAST(strftime('%s', 'now') AS INTEGER)",
}


def live_keys(flavour: Flavour, scope: str, most: int) -> Select[Any]:
    """The statement that counts the keys of `scope` that have not expired, up to `most`."""
    columns = OPERATIONS.c
    now: ColumnClause[int] = literal_column(_SECONDS_NOW[flavour])
    alive = select(columns.key).where(columns.scope == scope, columns.expires > now).limit(most).subquery()
    return select(func.count()).select_from(alive)


_MYSQL_FAMILY = frozenset({Flavour.MYSQL, Flavour.MARIADB})


def _insert_unless_there(flavour: Flavour, values: dict[str, Any]) -> ClauseElement:
    if flavour is Flavour.POSTGRESQL:
        # A plain insert would abort the transaction on a duplicate.
        return postgresql.insert(OPERATIONS).values(values).on_conflict_do_nothing()
    if flavour is Flavour.SQLITE:
        return sqlite.insert(OPERATIONS).values(values).on_conflict_do_nothing()
    return insert(OPERATIONS).values(values)


def _purge(flavour: Flavour) -> ClauseElement:
    if flavour in _MYSQL_FAMILY:
        return text(
            f"DELETE FROM {OPERATIONS.name} WHERE expires <= {_SECONDS_NOW[flavour]} ORDER BY expires LIMIT :p_rows_max"
        )
    now: ColumnClause[int] = literal_column(_SECONDS_NOW[flavour])
    columns = OPERATIONS.c
    expired = (
        select(columns.scope, columns.key)
        .where(columns.expires <= now)
        .order_by(columns.expires)
        .limit(bindparam("p_rows_max", type_=Integer))
    )
    if flavour is Flavour.POSTGRESQL:
        expired = expired.with_for_update(skip_locked=True)
    return delete(OPERATIONS).where(tuple_(columns.scope, columns.key).in_(expired))


class _Statement:
    """SQL text for one dialect, sent through the driver's own cursor.

    SQLAlchemy's execution adds a third to the cost of a small statement, and what it gives for it (result types, its own
    exceptions) is not needed here: `classify` reads the drivers' exceptions as well.
    """

    __slots__ = ("_fixed", "_names", "_positional", "_text")

    def __init__(self, clause: ClauseElement, dialect: Dialect, form: str = "{}") -> None:
        compiled = clause.compile(dialect=dialect)
        self._text = form.format(compiled)
        # What the compiler adds of its own (SQLite's OFFSET 0) keeps its value.
        self._fixed: dict[str, Any] = {
            name: value for name, value in (compiled.params or {}).items() if value is not None
        }
        self._positional = bool(compiled.positional)  # type: ignore[attr-defined]
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())  # type: ignore[attr-defined]

    def execute(self, connection: PoolProxiedConnection, **values: Any) -> int:
        """Execute it; how many rows it changed."""
        cursor = self._cursor(connection, values)
        changed: int = cursor.rowcount
        cursor.close()
        return changed

    def first(self, connection: PoolProxiedConnection, **values: Any) -> tuple[Any, ...] | None:
        """Execute it; the first row, if there is one."""
        cursor = self._cursor(connection, values)
        row: tuple[Any, ...] | None = cursor.fetchone()
        cursor.close()
        return row

    def _cursor(self, connection: PoolProxiedConnection, values: dict[str, Any]) -> Any:
        if self._fixed:
            values = {**self._fixed, **values}
        cursor = connection.cursor()
        cursor.execute(self._text, tuple(values[name] for name in self._names) if self._positional else values)
        return cursor


_REFUSES_THE_TABLE = frozenset({Rejection.MISSING_TABLE, Rejection.MISSING_COLUMN, Rejection.ACCESS_DENIED})


_TABLE_FULL = 1114
"""The storage engine's answer to a row that finds no room: it names a table, and COMMIT writes to none. A COMMIT that finds no
room fails with 1180 or 1026, or the server ends. 1021 (disk full) may come from either, so it proves nothing. Seen on MariaDB
10.11: of 301 blocks that a full disk ended with 1114 none was applied."""


def of_block(commit: Failure, statement: Failure) -> Failure:
    """What a failure of `store_and_commit` or `claim_and_commit` means.

    Args:
        commit: what it would mean if COMMIT alone had been sent.
        statement: what it would mean for the statement in front of it alone.
    """
    if commit.rejection is Rejection.DUPLICATE:
        # Nobody else has the key. So something between here and the server has sent the request twice.
        return Failure(FailureClass.AMBIGUOUS, commit.stage, commit.flavour, commit.code, commit.name)
    # COMMIT needs no table: it was not reached.
    return statement if statement.rejection in _REFUSES_THE_TABLE or statement.code == _TABLE_FULL else commit


def _row(key: OperationKey, fingerprint: str, attempt: int, ttl_s: int) -> dict[str, Any]:
    return {
        "p_scope": key.scope,
        "p_key": key.key,
        "p_fingerprint": fingerprint,
        "p_attempt": attempt,
        "p_ttl_s": ttl_s,
    }


class KeyRows:
    """The statements for one dialect. Immutable after construction; safe to share."""

    __slots__ = (
        "_flavour",
        "_forget",
        "_insert",
        "_insert_and_commit",
        "_purge",
        "_read",
        "_store",
        "_store_and_commit",
        "_unearth",
    )

    def __init__(self, dialect: Dialect, flavour: Flavour) -> None:
        self._flavour = flavour
        now: ColumnClause[int] = literal_column(_SECONDS_NOW[flavour])
        columns = OPERATIONS.c
        this = (columns.scope == bindparam("p_scope")) & (columns.key == bindparam("p_key"))
        values = {
            "scope": bindparam("p_scope"),
            "key": bindparam("p_key"),
            "fingerprint": bindparam("p_fingerprint"),
            "attempt": bindparam("p_attempt"),
            "created": now,
            "expires": now + bindparam("p_ttl_s", type_=Integer),
        }
        claim = _insert_unless_there(flavour, values)
        self._insert = _Statement(claim, dialect)
        read = select(columns.fingerprint, columns.attempt, columns.result, (columns.expires <= now).label("expired"))
        if flavour in _MYSQL_FAMILY:
            # A locking read sees what is committed now, whatever snapshot the transaction has.
            read = read.with_for_update(read=True)
        self._read = _Statement(read.where(this), dialect)
        store = update(OPERATIONS).where(this).values(result=bindparam("p_result"))
        self._store = _Statement(store, dialect)
        # MariaDB takes several statements as one where they are a block, which ends at the first that fails.
        block = "BEGIN NOT ATOMIC {}; COMMIT; END" if flavour is Flavour.MARIADB else None
        self._store_and_commit = _Statement(store, dialect, block) if block is not None else None
        self._insert_and_commit = _Statement(claim, dialect, block) if block is not None else None
        self._unearth = _Statement(delete(OPERATIONS).where(this, columns.attempt == TOMBSTONE), dialect)
        self._forget = _Statement(delete(OPERATIONS).where(this, columns.expires <= now), dialect)
        self._purge = _Statement(_purge(flavour), dialect)

    def claim(
        self, connection: Connection, key: OperationKey, fingerprint: str, attempt: int, ttl_s: int
    ) -> Record | None:
        """Insert the row of `key`, waiting while another transaction holds it.

        Args:
            attempt: a number that tells this attempt from every other of any caller; it comes back in the record. `TOMBSTONE`
                inserts a row that says that the operation was not committed.

        Returns:
            None when the row is ours now; the committed row when there is one that has not expired. Tombstones are found by
            tombstones only: to everybody else the key is free.
        """
        driver = connection.connection
        while not self._inserted(driver, key, fingerprint, attempt, ttl_s):
            row = self._read.first(driver, p_scope=key.scope, p_key=key.key)
            if row is None:
                continue  # removed as expired between the two statements
            fingerprint_found, attempt_found, result, expired = row
            if attempt_found == TOMBSTONE and attempt != TOMBSTONE:
                self._unearth.execute(driver, p_scope=key.scope, p_key=key.key)
                continue
            if not expired:
                return Record(fingerprint=fingerprint_found, attempt=attempt_found, result=result)
            self._forget.execute(driver, p_scope=key.scope, p_key=key.key)
        return None

    def store(self, connection: Connection, key: OperationKey, result: str) -> None:
        """Put the encoded result into the row of `key`, which this transaction has inserted."""
        self._store.execute(connection.connection, p_scope=key.scope, p_key=key.key, p_result=result)

    @property
    def writes_with_commit(self) -> bool:
        """Whether a statement and COMMIT go in one round trip: there are `store_and_commit` and `claim_and_commit`."""
        return self._store_and_commit is not None

    def store_and_commit(self, connection: PoolProxiedConnection, key: OperationKey, result: str) -> None:
        """As `store`, followed by COMMIT, in one round trip. If it fails, COMMIT may or may not have been carried out."""
        assert self._store_and_commit is not None
        self._store_and_commit.execute(connection, p_scope=key.scope, p_key=key.key, p_result=result)

    def claim_and_commit(
        self, connection: PoolProxiedConnection, key: OperationKey, fingerprint: str, attempt: int, ttl_s: int
    ) -> None:
        """Insert the row of `key` and COMMIT, in one round trip; COMMIT is not reached if the row is there.

        If it fails, COMMIT may or may not have been carried out.
        """
        assert self._insert_and_commit is not None
        self._insert_and_commit.execute(connection, **_row(key, fingerprint, attempt, ttl_s))

    def purge(self, connection: Connection, rows_max: int) -> int:
        """Remove up to `rows_max` expired rows; how many it were."""
        return self._purge.execute(connection.connection, p_rows_max=rows_max)

    def _inserted(
        self, connection: PoolProxiedConnection, key: OperationKey, fingerprint: str, attempt: int, ttl_s: int
    ) -> bool:
        try:
            changed = self._insert.execute(connection, **_row(key, fingerprint, attempt, ttl_s))
        except Exception as error:
            # MySQL has no insert that reports a duplicate without hiding other errors; 1062 leaves the transaction open.
            if classify(error, stage=Stage.BODY, flavour=self._flavour).rejection is not Rejection.DUPLICATE:
                raise
            return False
        return changed == 1
