"""What the tests of the documents look at: the documents, their headings and their tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.house.sources import ROOT

__all__ = ["DOCUMENTS", "POLICIES", "anchors", "code_spans", "headings", "prose", "read", "rows", "section"]

PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *PAGES]
POLICIES = sorted((ROOT / "docs" / "policies").glob("*.md"))

_FENCE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1[ \t]*$", flags=re.DOTALL | re.MULTILINE)


def read(name: str) -> str:
    """A document's text, by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """`text` without its fenced blocks."""
    return _FENCE.sub("", text)


def headings(text: str) -> list[tuple[int, str]]:
    """(level, text) of each heading, in order."""
    found = re.findall(r"^(#{1,6}) (.+?)\s*$", prose(text), flags=re.MULTILINE)
    return [(len(marks), title) for marks, title in found]


def anchors(text: str) -> set[str]:
    """The anchors that a heading gets, here and where repositories are shown: lower case, dashes for spaces."""
    return {re.sub(r"[ ]", "-", re.sub(r"[^\w\- ]", "", title.lower())) for _, title in headings(text)}


def section(text: str, title: str) -> str:
    """What stands under the heading `title`, up to the next heading of its level or above.

    Raises:
        AssertionError: there is no such heading.
    """
    found = re.search(rf"^(#+) {re.escape(title)}[ \t]*\n(.*?)(?=^#{{1,6}} |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert found is not None, f"no heading {title!r}"
    return found[2]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of each table in `text`, without header and rule."""
    lines = [line.strip() for line in prose(text).splitlines()]
    for number, line in enumerate(lines):
        is_rule = re.fullmatch(r"\|[\s:|-]+\|", line) is not None
        before_rule = number + 1 < len(lines) and re.fullmatch(r"\|[\s:|-]+\|", lines[number + 1]) is not None
        if line.startswith("|") and not is_rule and not before_rule:
            yield [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip("|"))]


def code_spans(text: str) -> list[str]:
    """Everything in backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", prose(text))
