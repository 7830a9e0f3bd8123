"""The frame of the command line: exit codes, errors in one line, what is missing, what is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from holdfast import cli
from holdfast.cli.app import COMMANDS, CommandGroup, app, run
from holdfast.cli.terminal import ExitCode, write_json
from holdfast.errors import ConfigurationError, MissingExtra

HEAVY = {"sqlalchemy", "jinja2", "psutil", "pymysql", "psycopg", "tenacity", "asyncio"}
"""What no command loads before it needs it."""


@pytest.fixture
def failing() -> typer.Typer:
    """An application like ours, whose commands fail in every way."""
    planted = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)

    @planted.command()
    def misconfigured() -> None:
        raise ConfigurationError("rate must be above 0 [bold]and[/bold] so on")

    @planted.command()
    def missing() -> None:
        raise MissingExtra("needs more: pip install 'holdfast[drills]'")

    return planted


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints one line and ends well."""
    assert cli.main(["--version"]) == ExitCode.VALID
    assert capsys.readouterr().out == f"holdfast {version('holdfast')}\n"


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the help names every command and the exit codes."""
    assert cli.main([]) == ExitCode.USAGE
    said = "".join(capsys.readouterr())
    assert all(name in said for name in COMMANDS)
    assert "0 valid, 1 invalid, 2 usage or setup, 3 unknown" in said


@pytest.mark.parametrize("arguments", [["gone"], ["drill", "--gone"], ["drill", "--rate", "quick"], ["check"]])
def test_wrong_usage_is_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command, option, value or a missing argument ends with 2 and keeps stdout clean."""
    assert cli.main(arguments) == ExitCode.USAGE
    assert capsys.readouterr().out == ""


def test_an_error_is_one_line(failing: typer.Typer) -> None:
    """An error of Holdfast is told on stderr as it is, without a traceback."""
    ended = CliRunner().invoke(failing, ["misconfigured"])
    assert (ended.exit_code, ended.stdout) == (ExitCode.USAGE, "")
    assert ended.stderr == "holdfast: rate must be above 0 [bold]and[/bold] so on\n"


def test_a_missing_extra_is_one_line(failing: typer.Typer) -> None:
    """So is an extra that is not installed, with the command that installs it."""
    ended = CliRunner().invoke(failing, ["missing"])
    assert ended.exit_code == ExitCode.USAGE
    assert ended.stderr == "holdfast: needs more: pip install 'holdfast[drills]'\n"


def test_a_defect_is_no_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception that nobody expected shows its traceback and ends with 2: 1 would say that a promise was broken."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("holdfast.cli.app.app", broken)
    assert run(["drill"]) == ExitCode.USAGE
    assert "RuntimeError: a defect" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_the_command_says_how_to_get_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and nothing of the extra is imported."""
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == missing else object())
    assert cli.main(["drill"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"holdfast: the command line needs {missing}: pip install 'holdfast[cli]'\n"


def test_commands_load_late() -> None:
    """The application with all its commands loads neither an ORM nor a driver: `holdfast explain` needs none."""
    code = "import sys; import holdfast.cli.app; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"holdfast", "typer"} <= loaded
    assert loaded & (HEAVY - {"asyncio"}) == set()


def test_every_command_speaks_json() -> None:
    """`--json` is an option of every command."""
    for name in COMMANDS:
        said = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
        assert "--json" in said, name


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    """What JSON has no form for becomes text, and letters stay letters."""
    write_json({"path": cli, "word": "Überweisung"})
    said = capsys.readouterr().out
    assert json.loads(said)["word"] == "Überweisung"
    assert "Überweisung" in said
