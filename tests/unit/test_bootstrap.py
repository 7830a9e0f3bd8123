"""The bootstrap sets a machine up, says what it cannot, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program as a module, with a virtual environment of its own and a record of what it would run."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "tools" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.VENV = tmp_path / ".venv"
    module.PYTHON = module.VENV / "bin" / "python"
    module.STAMP = module.VENV / "holdfast-bootstrap"
    module.ran = []
    monkeypatch.setattr(module, "_run", lambda command, environment=None: module.ran.append([str(w) for w in command]))
    monkeypatch.setattr(module, "_can_build_native", lambda: True)
    monkeypatch.setattr(module, "_create_venv", lambda: _touch(module.PYTHON))
    monkeypatch.setattr(module.subprocess, "run", lambda *a, **k: type("Done", (), {"returncode": 0}))
    found: ModuleType = module
    return found


def test_second_run_does_nothing(bootstrap: Any) -> None:
    """The locks are installed once, with their hashes, and not again."""
    bootstrap.make_environment()
    installs = [command[3:] for command in bootstrap.ran]
    assert [command[0] for command in installs] == ["install"] * 3
    assert ["--require-hashes" in command for command in installs] == [True, False, True]
    bootstrap.make_environment()
    assert len(bootstrap.ran) == 3


def test_changed_lock_is_installed(bootstrap: Any, tmp_path: Path) -> None:
    """Another lock is another environment."""
    bootstrap.make_environment()
    bootstrap.LOCK = tmp_path / "requirements.lock"
    bootstrap.LOCK.write_text("changed")
    bootstrap.make_environment()
    assert len(bootstrap.ran) == 6


def test_interrupted_run_is_done_again(bootstrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts as installed until everything is."""
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "_install_native", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bootstrap.make_environment()
    before = len(bootstrap.ran)
    bootstrap.make_environment()
    assert len(bootstrap.ran) == before + 3


def test_old_python_is_told(
    bootstrap: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interpreter that is too old hears how to choose another."""
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    monkeypatch.setattr(sys, "argv", ["bootstrap.py"])
    assert bootstrap.main() == 1
    assert "needs Python 3.11 or newer, and this is 3.10.4: make PYTHON=python3.11" in capsys.readouterr().err


def test_missing_servers_are_named_without_root(
    bootstrap: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who may not install hears what is missing, what that skips and what brings it."""
    monkeypatch.setattr(bootstrap, "_finds", lambda program: program == "postgres")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    bootstrap.install_servers()
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].split(",")[0].strip() for line in said] == [
        "MariaDB is missing",
        "Galera is missing",
        "Galera's copy of a node is missing",
        "A network of Galera's nodes is missing",
        "A partition of it is missing",
        "MySQL is missing",
        "Redis is missing",
    ]
    assert all("its tests are skipped. As root: apt-get install " in line for line in said)
    assert bootstrap.ran == []


def test_library_is_found_by_its_file(bootstrap: Any, tmp_path: Path) -> None:
    """What is loaded and not run, as Galera is, counts as there when its file is."""
    library = tmp_path / "library.so"
    assert not bootstrap._finds(str(library))
    library.touch()
    assert bootstrap._finds(str(library))


def test_galera_is_installed_where_it_is_missing(bootstrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with MariaDB alone gets the library, the program that copies a node and the script that calls it."""
    monkeypatch.setattr(bootstrap, "_finds", lambda program: "galera" not in program and program != "rsync")
    monkeypatch.setattr(bootstrap, "_can_apt", lambda: True)
    asked: list[str] = []
    monkeypatch.setattr(bootstrap, "_apt_install", asked.extend)
    bootstrap.install_servers()
    assert asked == ["mariadb-server", "galera-4", "rsync"]


def test_present_servers_are_left_alone(bootstrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has everything is asked for nothing."""
    monkeypatch.setattr(bootstrap, "_finds", lambda program: True)
    bootstrap.install_servers()
    assert bootstrap.ran == []


@pytest.mark.parametrize("before", [None, "#!/bin/sh\nexit 0\n"], ids=["none", "one"])
def test_services_are_forbidden_only_while_installing(bootstrap: Any, tmp_path: Path, before: str | None) -> None:
    """The policy that keeps services from starting is gone afterwards, and one that was there is back, also after a failure."""
    policy = tmp_path / "policy-rc.d"
    if before is not None:
        policy.write_text(before)
        policy.chmod(0o700)

    def install() -> None:
        with bootstrap._no_services(policy):
            assert policy.read_text().endswith("exit 101\n")
            assert policy.stat().st_mode & 0o111 == 0o111
            raise bootstrap.SetupFailed

    with pytest.raises(bootstrap.SetupFailed):
        install()
    assert (policy.read_text() if policy.exists() else None) == before
    assert before is None or policy.stat().st_mode & 0o777 == 0o700
