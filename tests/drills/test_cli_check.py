"""`holdfast check`: the same history, the same verdict, and a report like the drill's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast import cli
from holdfast.cli.terminal import ExitCode
from tests.drills.synthetic import synthetic_lines


def written(folder: Path, subject: str) -> Path:
    """A stored history of a run of `subject`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = sorted(synthetic_lines(subject=subject, rate=40), key=lambda line: line["t"])
    (folder / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(("subject", "code"), [("holdfast", ExitCode.VALID), ("tenacity", ExitCode.INVALID)])
def test_the_exit_code_is_the_verdict(
    subject: str, code: ExitCode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that kept its promises ends with 0, one that doubled writes with 1; both say why."""
    assert cli.main(["check", str(written(tmp_path, subject))]) == code
    said = capsys.readouterr().out
    assert ("Every promise held" in said) == (code is ExitCode.VALID)
    assert "No double apply" in said
    assert "holdfast drill --server mariadb" in said


def test_a_history_that_says_too_little_is_unknown(tmp_path: Path) -> None:
    """Nothing was asked, so nothing is proven."""
    (tmp_path / "run.jsonl").write_text('{"type":"meta","t":1,"p":"runner","v":{}}\n')
    assert cli.main(["check", str(tmp_path)]) == ExitCode.UNKNOWN


def test_a_missing_history_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The path is named, stdout stays empty."""
    assert cli.main(["check", str(tmp_path / "gone.jsonl"), "--json"]) == ExitCode.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert "gone.jsonl" in said.err
    assert said.err.count("\n") == 1


def test_json_is_all_there_is_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One document, whose frame is stable."""
    assert cli.main(["check", str(written(tmp_path, "tenacity")), "--json"]) == ExitCode.INVALID
    found = json.loads(capsys.readouterr().out)
    assert {name: type(value).__name__ for name, value in found.items()} == {
        "schema": "str",
        "verdict": "str",
        "exit_code": "int",
        "reports": "list",
    }
    assert (found["schema"], found["verdict"], found["exit_code"]) == ("holdfast.drill/1", "invalid", 1)
    (report,) = found["reports"]
    assert (report["workload"], report["files"], report["schema"]) == ("bank", {}, "holdfast.drill.report/1")


def test_the_report_is_written_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Page, text and document, and the path of the page is told."""
    place = tmp_path / "report"
    assert cli.main(["check", str(written(tmp_path / "run", "holdfast")), "--output", str(place)]) == ExitCode.VALID
    assert {path.name for path in place.iterdir()} == {"report.html", "report.md", "report.json"}
    assert "report.html" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stands in the way is named."""
    (tmp_path / "taken").write_text("")
    history = written(tmp_path / "run", "holdfast")
    assert cli.main(["check", str(history), "--output", str(tmp_path / "taken")]) == ExitCode.USAGE
    assert "cannot be written" in capsys.readouterr().err


def test_elle_needs_appends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A history of another workload is refused."""
    target = tmp_path / "history.edn"
    assert cli.main(["check", str(written(tmp_path / "run", "holdfast")), "--elle", str(target)]) == ExitCode.USAGE
    assert "append" in capsys.readouterr().err


def test_elle_gets_its_file(tmp_path: Path) -> None:
    """The appends of a history are written as EDN."""
    run = tmp_path / "run.jsonl"
    line = {"p": "w1", "i": 1, "f": "append", "v": {"txn": [["append", 1, 2]]}}
    lines = [{**line, "type": "invoke", "t": 1}, {**line, "type": "ok", "t": 2}]
    run.write_text("".join(json.dumps(each) + "\n" for each in lines))
    cli.main(["check", str(run), "--elle", str(tmp_path / "history.edn")])
    assert ":append 1 2" in (tmp_path / "history.edn").read_text()
