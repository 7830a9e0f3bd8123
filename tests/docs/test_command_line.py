"""The page of the command line says what the command line has, and both state the defaults of the code."""

from __future__ import annotations

import re

import pytest
import typer.main

from holdfast.cli.app import COMMANDS, app
from holdfast.cli.terminal import ExitCode
from holdfast.drills.settings import SERVERS, DrillSettings
from tests.docs.documents import headings, read, rows, section

PAGE = read("docs/command-line.md")


def parameters(name: str) -> list[tuple[str, str]]:
    """(what stands first in the table, the help) of each parameter of a command, in the order of its help."""
    commands: dict[str, typer.core.TyperCommand] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = []
    for each in commands[name].params:
        help_text = str(getattr(each, "help", None) or "")
        if each.param_type_name == "argument":
            found.append((f"{(each.name or '').upper()}...", help_text))
        else:
            found.append((" ".join(filter(None, [each.opts[0], each.metavar])), help_text))
    return found


def stated(text: str, name: str) -> dict[str, str]:
    """What the page says of each option of a command."""
    return {cells[0].strip("`"): cells[1] for cells in rows(section(text, f"holdfast {name}"))}


def defaults(texts: dict[str, str]) -> dict[str, str]:
    """The defaults that descriptions of options state, by the option's name."""
    found = {}
    for option, text in texts.items():
        said = re.search(r"Default `?([\w.]+)`?[.,]?(?: |$)", text)
        if said is not None:
            found[option.split()[0].removeprefix("--")] = said[1].rstrip(".")
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name: str) -> None:
    """Each command's table has its arguments and options, in the order of `--help`, and no other."""
    assert list(stated(PAGE, name)) == [option for option, _ in parameters(name)]


def test_every_command_is_described() -> None:
    """Each command has its heading, in the order of `--help`, and no heading is more."""
    titles = [title for level, title in headings(PAGE) if level == 2]
    assert titles == ["Exit codes", *(f"holdfast {name}" for name in COMMANDS)]


def test_planted_option_is_found_missing() -> None:
    """A table that lacks an option is not the command's."""
    lines = [line for line in PAGE.splitlines() if not line.startswith("| `--share`")]
    assert list(stated("\n".join(lines), "drill")) != [option for option, _ in parameters("drill")]


def test_defaults_are_those_of_the_code() -> None:
    """What the help and the page call a default of a drill is one of `DrillSettings`."""
    settings = DrillSettings()
    said = defaults(stated(PAGE, "drill"))
    assert said == defaults(dict(parameters("drill")))
    expected = {
        name: getattr(settings, name) for name in said if hasattr(settings, name) and name not in ("seed", "output")
    }
    assert len(expected) >= 10
    assert settings.faults == (said["fault"],)
    assert {name: said[name] for name in expected} == {
        name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in expected.items()
    }


def test_every_server_is_named() -> None:
    """The servers that can be started are those of the help and the page."""
    for text in (dict(parameters("drill"))["--server KIND"], stated(PAGE, "drill")["--server KIND"]):
        assert all(server in text for server in SERVERS)


def test_exit_codes_are_those_of_the_code() -> None:
    """Each exit code is explained; the last are the shell's own for SIGHUP, Ctrl-C and SIGTERM."""
    codes = [int(cells[0]) for cells in rows(section(PAGE, "Exit codes"))]
    assert codes == [*ExitCode, 129, 130, 143]
