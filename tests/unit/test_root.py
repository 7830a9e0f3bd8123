"""The package's root: what it offers, and when it is loaded."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import holdfast


@pytest.mark.parametrize("name", holdfast.__all__)
def test_every_name_of_the_root_is_there(name: str) -> None:
    """Also those that are loaded only when they are named."""
    assert getattr(holdfast, name) is not None


@pytest.mark.parametrize("name", sorted(holdfast._LOADED_WHEN_NAMED))
def test_a_name_loaded_late_is_the_modules_own(name: str) -> None:
    """Naming it through the root gives the same object as its module does."""
    module = importlib.import_module(holdfast._LOADED_WHEN_NAMED[name], "holdfast")
    assert getattr(holdfast, name) is getattr(module, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        holdfast.no_such_name  # noqa: B018


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    """Without SQLAlchemy the import of what needs it fails with the cure, not with somebody else's traceback."""
    without = (
        "import importlib.util as util; found = util.find_spec;"
        "util.find_spec = lambda name, *rest: None if name == 'sqlalchemy' else found(name, *rest);"
        "import holdfast.ext.sqlalchemy"
    )
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "MissingExtra: holdfast.ext.sqlalchemy needs SQLAlchemy: pip install 'holdfast[sqlalchemy]'" in done.stderr
