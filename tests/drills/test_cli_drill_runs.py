"""`holdfast drill`, for real and short: an embedded SQLite, a few seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast import cli
from holdfast.cli.terminal import ExitCode
from holdfast.drills.servers import ServerMissing, mariadb

SHORT = ["--seconds", "1.5", "--rate", "20", "--workers", "1", "--seed", "7"]


def test_a_drill_leaves_its_histories_and_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is broken, everything is where the output says, and stdout holds one document alone."""
    monkeypatch.chdir(tmp_path)
    code = cli.main(["drill", *SHORT, "--workload", "append", "--elle", "history.edn", "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    (report,) = found["reports"]
    (run,) = report["runs"]
    assert code in {ExitCode.VALID, ExitCode.UNKNOWN}  # seconds are too few to prove much
    assert [verdict for verdict in run["verdicts"] if verdict["valid"] == "invalid"] == []
    assert found["command"].startswith("holdfast drill --seconds 1.5 --rate 20 --workers 1 --seed 7 --workload append")
    assert run["figures"]["ok"] > 20
    assert all(Path(path).is_file() for path in report["files"].values())
    assert list(Path("holdfast-drill-7/append/holdfast").glob("*.jsonl"))
    assert ":append" in Path("history.edn").read_text(encoding="utf-8")
    assert "append with holdfast: faults" in said.err

    checked = cli.main(["check", "holdfast-drill-7/append/holdfast", "--json"])
    again = json.loads(capsys.readouterr().out)["reports"][0]["runs"][0]
    assert checked == code
    assert again["verdicts"] == run["verdicts"]


def test_what_there_is_to_choose_from(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` names servers, workloads, faults and subjects, and drills nothing."""
    assert cli.main(["drill", "--list", "--json"]) == ExitCode.VALID
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"server", "workload", "fault", "subject"}
    assert all(found.values())
    assert cli.main(["drill", "--list"]) == ExitCode.VALID
    assert "kill-client" in capsys.readouterr().out


def test_a_server_that_is_not_installed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what to install, and ends with 2."""

    def missing() -> None:
        raise ServerMissing("MariaDB is not installed: apt-get install mariadb-server")

    monkeypatch.setattr(mariadb, "start", missing)
    code = cli.main(["drill", "--server", "mariadb", "--output", str(tmp_path / "drill")])
    said = capsys.readouterr()
    assert (code, said.out) == (ExitCode.USAGE, "")
    assert said.err == "holdfast: MariaDB is not installed: apt-get install mariadb-server\n"


def test_a_fault_that_cannot_be_done_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SQLite has no wire to cut."""
    assert cli.main(["drill", *SHORT, "--fault", "outage", "--output", str(tmp_path / "drill")]) == ExitCode.USAGE
    assert "network connection" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A database that refuses connections cannot be drilled; the password is in no message."""
    url = "mysql+pymysql://app:hunter2@127.0.0.1:1/x"
    assert cli.main(["drill", *SHORT, "--database", url, "--output", str(tmp_path / "drill")]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "cannot be drilled" in said
    assert "Traceback" not in said
    assert "hunter2" not in said
