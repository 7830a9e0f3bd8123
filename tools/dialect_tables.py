"""Write the tables of `docs/dialects.md` from the tables of `holdfast.dialects`: what each error code means.

    python tools/dialect_tables.py

Replaces what stands between the marks, and nothing else. A test compares the two.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.dialects import Flavour, Row, table_of
from holdfast.outcome import FailureClass

__all__ = ["PAGE", "main", "with_tables"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "dialects.md"

BEGIN = "<!-- written by tools/dialect_tables.py -->"
END = "<!-- end of what tools/dialect_tables.py writes -->"

_TITLES = {
    Flavour.MARIADB: "MariaDB",
    Flavour.MYSQL: "MySQL",
    Flavour.POSTGRESQL: "PostgreSQL",
    Flavour.SQLITE: "SQLite",
}


def with_tables(page: str) -> str:
    """`page` with the tables as they should be.

    Raises:
        ValueError: the marks are missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} lacks the line {BEGIN!r} or {END!r}")
    sections = [f"## {title}\n\n{_table(flavour)}" for flavour, title in _TITLES.items()]
    return "\n\n".join([f"{before}{BEGIN}", *sections, f"{END}{after}"])


def _table(flavour: Flavour) -> str:
    rows = sorted(table_of(flavour), key=_place)
    return "\n".join(["| code | name | class | note |", "|---|---|---|---|", *map(_line, rows)])


def _place(row: Row) -> tuple[int, int, str]:
    number = row.code if isinstance(row.code, int) else 0
    return list(FailureClass).index(row.failure_class), number, str(row.code)


def _line(row: Row) -> str:
    note = row.note
    if row.text is not None:
        note += " (told apart by the message)"
    if row.aborts_commit:
        note += "; **certain at COMMIT**"
    note = note.replace("|", "\\|")
    return f"| {row.code} | `{row.name}` | `{row.failure_class}` | {note} |"


def main() -> None:
    """Bring the page up to date."""
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
