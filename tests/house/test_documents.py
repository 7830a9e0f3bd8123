"""Documents tell what is: the paths and commands they name exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.conftest import SERVER_FOLDERS
from tests.house.sources import ROOT, text_files

DOCUMENTS = [path for path in text_files() if path.suffix == ".md"]


def make_targets(makefile: str) -> set[str]:
    """The commands of the Makefile that its help lists."""
    return set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))


def missing_paths(text: str, root: Path) -> set[str]:
    """The files and folders of this repository that `text` names in backticks and that are not there."""
    top = "|".join(re.escape(path.name) for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = re.findall(rf"`((?:{top})/[\w./-]*|[\w.-]+\.(?:md|toml|lock)|Makefile)`", text)
    return {name for name in named if not (root / name).exists()}


def missing_commands(text: str, targets: set[str]) -> set[str]:
    """The make commands that `text` names and that do not exist."""
    settings = r"(?:[A-Z_]+=\S+ )*"
    return set(re.findall(rf"\bmake {settings}([a-z][a-z-]*)\b", "\n".join(_code(text)))) - targets


def _code(text: str) -> list[str]:
    return re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL)


def test_documents_were_found() -> None:
    """The tests below look at something."""
    assert {"CONTRIBUTING.md", "STYLE.md", "CHANGELOG.md"} <= {path.name for path in DOCUMENTS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_names_what_exists(document: Path) -> None:
    """Every path and every make command in a document is there."""
    text = document.read_text(encoding="utf-8")
    targets = make_targets((ROOT / "Makefile").read_text(encoding="utf-8"))
    assert (missing_paths(text, ROOT), missing_commands(text, targets)) == (set(), set())


def test_planted_document_is_found_wrong() -> None:
    """A path and a command that went away are told, and prose about making things is not."""
    text = "We make sure: `tests/house/test_gone.py`, `GONE.md`, `STYLE.md`.\n```sh\nA=1 make vanish\nmake CI=true demo\n```\n"
    assert missing_paths(text, ROOT) == {"tests/house/test_gone.py", "GONE.md"}
    assert missing_commands(text, {"demo"}) == {"vanish"}


def test_makefile_explains_every_command() -> None:
    """Every target that is declared phony is in the help."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    declared = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert declared is not None
    assert set(declared[1].split()) == make_targets(makefile)


def test_tests_on_servers_are_where_make_looks_for_them() -> None:
    """The folders that are collected for them, and the ones beside which `conftest.py` refuses a test that uses a server."""
    found = re.search(r"^SERVER_TESTS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert found is not None
    assert tuple(found[1].split()) == tuple(f"tests/{folder}" for folder in SERVER_FOLDERS)


def test_licence_is_the_one_that_is_declared() -> None:
    """LICENSE holds the whole text that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
