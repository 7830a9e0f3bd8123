"""What may be imported where, as allow-lists: a package that nobody thought of is refused, too.

The order of the layers is held by import-linter (proven in test_contracts.py). This file holds what it cannot see.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.sources import PACKAGE, module_files, parse

EXTRAS = {
    "ext/sqlalchemy": {"sqlalchemy", "alembic"},
    "ext/fastapi": {"fastapi", "starlette", "pydantic", "pydantic_settings"},
    "ext/httpx2": {"httpx2"},
    "ext/pyjwt": {"jwt", "httpx2"},
    "ext/redis": {"redis"},
    "ext/uvicorn": {"uvicorn"},
    "drills": {"sqlalchemy", "psutil", "tenacity", "httpx2", "jinja2", "pymysql", "psycopg"},
    "cli": {"typer", "rich"},
    "testing": {"pytest"},
}
"""For each folder with an extra: the packages it may import, and no other folder may."""

CLOCK = "clock.py"
ONLY_IN_CLOCK = {"time", "random", "secrets", "uuid"}


def imported(tree: ast.Module) -> set[str]:
    """The dotted names that a module imports from outside the package."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def roots(tree: ast.Module) -> set[str]:
    """The top-level packages that a module imports, the package itself left out."""
    return {name.partition(".")[0] for name in imported(tree)} - {"holdfast"}


def allowed_packages(path: Path) -> set[str]:
    """What the module at `path` (relative to the package) may import beside the standard library."""
    folder, *rest = path.parts
    return EXTRAS.get(f"ext/{Path(rest[0]).stem}" if folder == "ext" and rest else folder, set())


def not_allowed(path: Path, tree: ast.Module) -> set[str]:
    """The packages that the module at `path` imports and may not."""
    return roots(tree) - set(sys.stdlib_module_names) - allowed_packages(path)


def touches_time_or_chance(path: Path, tree: ast.Module) -> set[str]:
    """The imports of time, random numbers or fresh identities outside clock.py; the type `uuid.UUID` is neither."""
    if path == Path(CLOCK):
        return set()
    return {name for name in imported(tree) - {"uuid.UUID"} if name.partition(".")[0] in ONLY_IN_CLOCK}


@pytest.mark.parametrize("path", module_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_what_it_may(path: Path) -> None:
    """The core imports the standard library alone, an extra the packages it is named after, and only clock.py reads a clock."""
    relative = path.relative_to(PACKAGE)
    assert (not_allowed(relative, parse(path)), touches_time_or_chance(relative, parse(path))) == (set(), set())


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("retry.py", "import pymysql", {"pymysql"}),
        ("retry.py", "def late():\n    from sqlalchemy.orm import Session", {"sqlalchemy"}),
        ("retry.py", "try:\n    import redis\nexcept ImportError:\n    redis = None", {"redis"}),
        ("ext/sqlalchemy/engine.py", "import sqlalchemy, redis", {"redis"}),
        ("ext/nobody.py", "import nobody", {"nobody"}),
        ("drills/proxy.py", "import psutil, typer", {"typer"}),
        ("transaction/engine.py", "from time import monotonic", {"time.monotonic"}),
        ("transaction/engine.py", "import random", {"random"}),
        ("operation.py", "from uuid import UUID, uuid4", {"uuid.uuid4"}),
    ],
)
def test_planted_imports_are_found(path: str, source: str, found: set[str]) -> None:
    """Each rule above goes red on a bad sample."""
    tree = ast.parse(source)
    assert not_allowed(Path(path), tree) | touches_time_or_chance(Path(path), tree) == found


def _fresh_interpreter(statement: str) -> set[str]:
    """The top-level modules that `statement` loads in an interpreter that has loaded nothing."""
    code = (
        f"import sys; before = set(sys.modules); {statement}; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    # -I: no environment variables and no current folder; what pytest has on its path must not help.
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_but_the_standard_library() -> None:
    """Measured in a fresh interpreter, so `importlib` and `__getattr__` tricks count as well."""
    loaded = _fresh_interpreter("import holdfast")
    assert "holdfast" in loaded
    assert loaded - set(sys.stdlib_module_names) == {"holdfast"}


def test_importing_the_package_loads_nothing_slow() -> None:
    """What most callers never need, and what would be most of the time an import takes, is imported where it is used."""
    slow = {"asyncio", "dataclasses", "inspect", "logging", "random", "uuid", "datetime", "decimal", "json"}
    assert slow & _fresh_interpreter("import holdfast") == set()


def test_fresh_interpreter_sees_a_late_import() -> None:
    """The two tests above can fail."""
    assert {"holdfast", "asyncio"} <= _fresh_interpreter(
        "import holdfast, importlib; importlib.import_module('asyncio')"
    )
