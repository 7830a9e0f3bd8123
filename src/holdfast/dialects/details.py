"""Names out of a server's message: constraint, table and columns, never a value.

Servers quote values beside names ("Duplicate entry 'ada@example.org' for key 'users.email'"). So every pattern is
anchored at the end that the server writes itself, and reads nothing between quotes that could be data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["NOTHING_NAMED", "Details", "columns_of_key", "read"]


@dataclass(frozen=True, slots=True)
class Details:
    """What a server named; empty where it named nothing."""

    constraint: str | None = None
    table: str | None = None
    columns: tuple[str, ...] = ()

    def or_else(self, other: Details) -> Details:
        """These names, with the gaps filled from `other`."""
        return Details(self.constraint or other.constraint, self.table or other.table, self.columns or other.columns)


NOTHING_NAMED = Details()

_IDENTIFIER = re.compile(r'\w[\w$]*|"[^"]+"|`[^`]+`')


def read(pattern: str | None, message: str) -> Details:
    """The names that `pattern` finds in `message`.

    Args:
        pattern: a regular expression with any of the groups `constraint`, `table` and `columns`, or None.
        message: the server's text.

    Returns:
        What was found. `columns` may be a list separated by commas, each possibly qualified by its table.
    """
    found = re.search(pattern, message) if pattern is not None else None
    if found is None:
        return NOTHING_NAMED
    named = found.groupdict()
    table, columns = named.get("table"), []
    for item in (named.get("columns") or "").split(","):
        qualifier, _, column = item.strip().rpartition(".")
        if column:
            columns.append(column.strip('`"'))
            table = table or qualifier.strip('`"') or None
    return Details(named.get("constraint"), table, tuple(columns))


def columns_of_key(detail: str) -> tuple[str, ...]:
    """The columns of PostgreSQL's "Key (a, b)=(1, 2) already exists.", without what follows the equals sign.

    An index on an expression has no plain column names; then nothing is returned.
    """
    key = re.match(r"Key \((.+?)\)=\(", detail)
    if key is None:
        return ()
    columns = [column.strip() for column in key[1].split(",")]
    if not all(_IDENTIFIER.fullmatch(column) for column in columns):
        return ()
    return tuple(column.strip('"') for column in columns)
