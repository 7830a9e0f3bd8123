"""Where the house rules look: the files of the repository and the syntax trees of the package."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

import holdfast

__all__ = ["PACKAGE", "ROOT", "module_files", "parse", "text_files"]

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(holdfast.__file__).parent


@cache
def module_files() -> list[Path]:
    """Every module of the package; never an empty list, so no rule passes by finding nothing."""
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 10, "the package was not found"
    return found


@cache
def text_files() -> list[Path]:
    """Every text file that belongs to the repository (tracked, or new and not ignored)."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    files = [ROOT / name for name in listed.split("\0") if name]
    found = sorted(path for path in files if path.is_file() and b"\0" not in path.read_bytes()[:8192])
    assert len(found) > 20, "git lists hardly any file"
    return found


def parse(path: Path) -> ast.Module:
    """The syntax tree of a Python file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
