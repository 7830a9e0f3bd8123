"""`holdfast explain` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from holdfast.cli.app import CommandGroup
from holdfast.cli.explain import explain


def run(*arguments: str, stdin: str = "") -> tuple[int, str]:
    """Exit code and output of the command."""
    app = typer.Typer(cls=CommandGroup)
    app.command("explain")(explain)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["explain", *arguments], input=stdin, env={"COLUMNS": "200"})
    return result.exit_code, result.output


def document(*arguments: str, stdin: str = "") -> Any:
    """What `--json` says."""
    return json.loads(run(*arguments, "--json", stdin=stdin)[1])


def test_code_is_explained_at_each_stage() -> None:
    """The name, whose it is, the four stages, the server and Holdfast."""
    code, said = run("1205")
    assert code == 0
    for words in (
        "ER_LOCK_WAIT_TIMEOUT",
        "MySQL, MariaDB",
        "connect",
        "begin",
        "body",
        "commit",
        "this statement alone",
    ):
        assert words in said


def test_json_has_the_same() -> None:
    """One document, the stages by name."""
    (one,) = document("40001")["explanations"]
    assert (one["flavours"], one["name"], one["known"]) == (["postgresql"], "serialization_failure", True)
    assert list(one["stages"]) == ["connect", "begin", "body", "commit"]
    assert one["stages"]["body"]["class"] == "contention"


def test_words_without_quotes_are_one_message() -> None:
    """The shell's words are put together again."""
    said = document("ERROR", "1205", "(HY000):", "Lock", "wait", "timeout")
    assert said["code"] == "1205"


def test_message_comes_from_stdin() -> None:
    """`-` reads what is piped in."""
    assert document("-", stdin="(1213, 'Deadlock found')\n")["code"] == "1213"


def test_flavour_chooses() -> None:
    """4025 is two errors; `--flavour` takes one."""
    assert len(document("4025")["explanations"]) == 2
    (one,) = document("4025", "--flavour", "mariadb")["explanations"]
    assert one["name"] == "ER_CONSTRAINT_FAILED"


def test_unknown_code_ends_with_3() -> None:
    """It says so, and how it would be treated."""
    code, said = run("9999")
    assert code == 3
    assert "no such code" in said
    assert "ambiguous" in said


def test_text_without_a_code_ends_with_2() -> None:
    """Nothing to explain is an error of use."""
    code, said = run("hello")
    assert code == 2
    assert "no error code" in said


@pytest.mark.parametrize("markup", ["[bold]1205[/bold]", "[/]", "[red]"])
def test_markup_in_a_message_is_text(markup: str) -> None:
    """Square brackets are nobody's formatting."""
    code, _ = run(f"(1205, '{markup}')")
    assert code == 0


def test_needs_no_sqlalchemy() -> None:
    """It works where only the extra `cli` is installed."""
    source = (
        "import sys; sys.modules['sqlalchemy'] = None; from holdfast.cli.explain import explain; explain(['1205']); "
        "assert not [name for name in sys.modules if name.startswith('holdfast.ext')]"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
