"""Servers for drills say which extra they need."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("missing", ["psutil", "pymysql", "psycopg"])
def test_missing_package_is_told_with_its_cure(missing: str) -> None:
    """Whoever installed Holdfast alone hears what to install, not the name of a module."""
    program = (
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *rest: None if name == {missing!r} else real(name, *rest)\n"
        "from holdfast.errors import MissingExtra\n"
        "try:\n    import holdfast.drills.servers\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'holdfast[drills]'" in done.stdout
