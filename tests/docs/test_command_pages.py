"""The pages of the commands show what the commands print, and name what they look at."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from holdfast.cli.app import CommandGroup
from holdfast.cli.choices import FAULT_TEXTS
from holdfast.cli.doctor import doctor
from holdfast.cli.explain import explain
from holdfast.dialects import Flavour
from holdfast.doctor import Check, Severity, checks
from holdfast.doctor.galera import CHECKS as GALERA_CHECKS
from tests.docs.documents import code_spans, read, rows, section

PAGES = {"doctor": "docs/doctor.md", "explain": "docs/explain.md"}
DRILLS = "docs/drills.md"
SECTIONS: dict[str, list[Check]] = {
    "MySQL and MariaDB": [check for check in checks(Flavour.MARIADB) if check not in GALERA_CHECKS],
    "Galera": list(GALERA_CHECKS),
    "PostgreSQL": list(checks(Flavour.POSTGRESQL)),
    "SQLite": list(checks(Flavour.SQLITE)),
}


def commands() -> typer.Typer:
    """The two commands under their names."""
    app = typer.Typer(cls=CommandGroup)
    app.command("doctor")(doctor)
    app.command("explain")(explain)
    return app


def stated_checks(text: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """(name, what it looks at, severities) of each row of the first table in `text`."""
    return [(name.strip("`"), looks_at, tuple(finds.split(", "))) for name, looks_at, finds in rows(text)]


@pytest.mark.parametrize("title", SECTIONS)
def test_checks_are_those_of_the_code(title: str) -> None:
    """Each section has every check of its servers, in order, with what it looks at and what it can find."""
    expected = [
        (check.name, check.looks_at, tuple(str(severity) for severity in check.severities)) for check in SECTIONS[title]
    ]
    assert stated_checks(section(read(PAGES["doctor"]), title)) == expected


def test_planted_row_is_found_wrong() -> None:
    """A severity that was changed by hand is told."""
    text = section(read(PAGES["doctor"]), "Galera").replace("| error |", "| note |", 1)
    assert stated_checks(text) != stated_checks(section(read(PAGES["doctor"]), "Galera"))


def test_faults_are_those_of_the_code() -> None:
    """The page of the drills has every fault, in order, with what `--list` says of it."""
    stated = [(name.strip("`"), what) for name, what, _ in rows(section(read(DRILLS), "What goes wrong"))]
    assert stated == list(FAULT_TEXTS.items())


def test_severities_are_those_of_the_code() -> None:
    """The page has each severity."""
    found = [cells[0].strip("`") for cells in rows(section(read(PAGES["doctor"]), "In continuous integration"))]
    assert found[-len(Severity) :] == [str(severity) for severity in Severity]


@pytest.mark.parametrize("name", PAGES)
def test_options_are_those_of_the_command(name: str) -> None:
    """The table of options has each of the command's, in order."""
    command: Any = typer.main.get_command(commands())
    expected = [option.opts[0] for option in command.commands[name].params if option.opts[0].startswith("--")]
    options = [span for span in (cells[0].strip("`") for cells in rows(read(PAGES[name]))) if span.startswith("--")]
    assert options == [option for option in expected if option != "--help"]
    assert set(options) <= set(code_spans(read(PAGES[name])))


@pytest.mark.parametrize("name", PAGES)
def test_console_shows_what_the_command_prints(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of each page is what comes out, but for the version of SQLite."""
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("shop.db") as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE log (entry TEXT)")
    connection.close()
    (example,) = re.findall(
        r"^```console\n\$ holdfast ([^\n]+)\n(.*?)^```", read(PAGES[name]), flags=re.MULTILINE | re.DOTALL
    )
    result = CliRunner().invoke(commands(), example[0].split(), env={"COLUMNS": "110"})
    assert plain(result.output) == plain(example[1])


def plain(text: str) -> str:
    """`text` without trailing blanks and the version of SQLite."""
    return re.sub(r"sqlite [\d.]+", "sqlite", "\n".join(line.rstrip() for line in text.strip().splitlines()))
