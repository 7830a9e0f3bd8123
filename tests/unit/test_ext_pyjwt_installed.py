"""The extra says what to install, before the first token comes."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import Any

import pytest

import holdfast.ext.pyjwt
from holdfast.errors import MissingExtra


@pytest.mark.parametrize("name", ["jwt", "cryptography", "httpx2"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With the line that installs it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None if wanted == name else find(wanted))
    with pytest.raises(MissingExtra, match=rf"{name}: pip install 'holdfast\[pyjwt\]'"):
        importlib.reload(holdfast.ext.pyjwt)


@pytest.mark.parametrize(("installed", "taken"), [("2.12.1", False), ("2.9.0", False), ("2.13.0", True), ("3.0", True)])
def test_a_library_with_known_holes_is_refused(monkeypatch: pytest.MonkeyPatch, installed: str, taken: bool) -> None:
    """Below 2.13 the algorithm of a key did not bind its use (CVE-2026-48523)."""

    def version(_: Any) -> str:
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    if taken:
        importlib.reload(holdfast.ext.pyjwt)
    else:
        with pytest.raises(MissingExtra, match=r"2\.13 or newer"):
            importlib.reload(holdfast.ext.pyjwt)
