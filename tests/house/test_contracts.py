"""The import contracts of pyproject.toml hold, and each goes red when it is broken on purpose."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.house.sources import PACKAGE, ROOT

DOWN = "Imports only point down"
NO_EXTRA = "import holdfast loads no extra"
INDEPENDENT = "Extras do not know each other"
ONE_IMPORTER = "SQLAlchemy has two importers: the port, and the drills that write like a user"
PURE = "The state machine touches no port"

# One deliberate violation each: the contract it breaks, the file it is planted in, and the line.
VIOLATIONS = [
    (DOWN, "deadline.py", "from .decision import decide"),
    (DOWN, "errors.py", "def late():\n    from .stream import EVENTS"),
    (DOWN, "events.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .deadline import Deadline"),
    (DOWN, "backoff.py", "from .budget import RetryBudget"),
    (DOWN, "transaction/engine.py", "import holdfast.ext"),
    (DOWN, "unplaced.py", '"""A module without a layer."""'),
    (NO_EXTRA, "__init__.py", "from .ext import planted_one"),
    (NO_EXTRA, "__init__.py", "try:\n    import holdfast.ext.planted_one\nexcept ImportError:\n    pass"),
    (INDEPENDENT, "ext/planted_one.py", "from . import planted_two"),
    (ONE_IMPORTER, "operation.py", "import sqlalchemy"),
    (ONE_IMPORTER, "ext/planted_one.py", "def late():\n    from sqlalchemy.orm import Session"),
    (PURE, "transaction/engine.py", "from .port import Port"),
    (PURE, "transaction/actions.py", "from ..clock import Clock"),
]


def contracts() -> list[str]:
    """The names of all contracts."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [contract["name"] for contract in configuration["tool"]["importlinter"]["contracts"]]


def broken_contracts(folder: Path) -> set[str]:
    """Run import-linter on the copy in `folder`; the names of the contracts it finds broken."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert f"{' '.join(lines)}".count("Contracts: ") == 1, done.stdout + done.stderr
    broken = {name for name in contracts() if any(line.startswith(f"{name} BROKEN") for line in lines)}
    assert (done.returncode != 0) == bool(broken), done.stdout + done.stderr
    return broken


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package and its configuration, with two more extras in it."""
    shutil.copytree(PACKAGE, tmp_path / "src" / "holdfast", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("planted_one", "planted_two"):
        (tmp_path / "src" / "holdfast" / "ext" / f"{name}.py").write_text('"""An extra."""\n')
    return tmp_path


def test_contracts_hold(copy: Path) -> None:
    """The package as it stands keeps every contract."""
    assert broken_contracts(copy) == set()


@pytest.mark.parametrize(("contract", "file", "line"), VIOLATIONS, ids=lambda value: value.partition("\n")[0])
def test_planted_violation_is_found(copy: Path, contract: str, file: str, line: str) -> None:
    """A contract goes red for an import planted at the top, in a function, or for type checking only."""
    planted = copy / "src" / "holdfast" / file
    before = planted.read_text() if planted.exists() else ""
    planted.write_text(f"{before}\n{line}\n")
    assert contract in broken_contracts(copy)


def test_every_contract_is_proven() -> None:
    """No contract stands that no violation has shown to work."""
    assert {contract for contract, _, _ in VIOLATIONS} == set(contracts())
