"""`holdfast drill`: what its options ask for, what it refuses, what it shows. Running one is `tests/drills`' affair."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from holdfast import cli
from holdfast.cli.choices import FAULT_TEXTS, choices
from holdfast.cli.consent import check_consent, host_of
from holdfast.cli.drill import Plan, free_folder, plan_of
from holdfast.cli.progress import (
    PlainDisplay,
    TerminalDisplay,
    display_for,
    line,
    sparkline,
    table,
)
from holdfast.cli.replay import command_of, replay_command
from holdfast.cli.terminal import ExitCode
from holdfast.cli.verdicts import exit_code_for
from holdfast.drills.run import FAULTS, Progress
from holdfast.drills.settings import DrillSettings
from holdfast.errors import ConfigurationError

# -- consent -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("sqlite:///shop.db", None),
        ("mysql+pymysql://u:s3cret/x@localhost/db", "localhost"),
        ("mysql+asyncmy://app@DB1:3306/shop", "DB1"),
        ("postgresql://app@[::1]:5432/shop", "::1"),
        ("http://127.0.0.1:8000/", "127.0.0.1"),
        ("http://app:s3cret@192.0.2.7/", "192.0.2.7"),
    ],
)
def test_host_of_a_url(url: str, host: str | None) -> None:
    """It is the one that a driver, or a client, would go to."""
    assert host_of(url) == host


@pytest.mark.parametrize(
    "url",
    [
        "mysql://app:s3cret@ss@db1/shop",
        "mysql://app:s3cret@db1,db2/shop",
        "mysql://app:s3cret/x@/shop",
        "mysql://app:s3cret@db1:99999/shop",
        "postgresql:///shop?host=db9&port=1&password=s3cret",
        "postgresql://localhost/shop?hostaddr=192.0.2.7&password=s3cret",
        "http://app:s3cret/x@h/",
        "http://app:s3cret@h:99999/",
        "http://app:s3cret@/",
    ],
)
def test_what_leads_to_no_single_host_is_refused(url: str) -> None:
    """Nobody could tell whom the drill would harm; and no part of a password is repeated."""
    with pytest.raises(ConfigurationError) as refused:
        check_consent(url, ("h", "db1", "db9"))
    assert "s3cret" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///x.db",
        "mysql://a@localhost/x",
        "mysql://a@127.0.0.1:3306/x",
        "postgresql://a@[::1]/x",
        "mysql://a@127.9.9.9/x",
    ],
)
def test_this_machine_needs_no_consent(url: str) -> None:
    """Files and loopback addresses may be drilled."""
    check_consent(url, ())


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://app:secret@192.0.2.7/shop", ()),
        ("mysql://app:secret/x@192.0.2.7:3306/shop", ("192.0.2.8",)),
        ("postgresql://app:secret@[2001:db8::7]/x", ()),
        ("http://192.0.2.7/", ()),
    ],
)
def test_other_machines_must_be_named(url: str, named: tuple[str, ...]) -> None:
    """A host that is not this machine is refused, unless it is named itself; the password is not repeated."""
    with pytest.raises(ConfigurationError, match=r"--may-break \S+") as refused:
        check_consent(url, named)
    assert "secret" not in str(refused.value)


def test_named_hosts_may_be_drilled() -> None:
    """Naming the host is consent."""
    check_consent("mysql://app@192.0.2.7:3306/shop", ("192.0.2.8", "192.0.2.7"))


def test_the_command_refuses_before_it_does_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without consent there is no folder, no connection, one line and exit code 2; the same for a URL from the environment."""
    monkeypatch.chdir(tmp_path)
    arguments = ["drill", "--database", "mysql://app:secret@192.0.2.7/shop"]
    assert cli.main(arguments) == ExitCode.USAGE
    monkeypatch.setenv("HOLDFAST_DRILL_DATABASE", arguments[-1])
    assert cli.main(["drill"]) == ExitCode.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 2
    assert said.err.count("--may-break 192.0.2.7") == 2
    assert "secret" not in said.err
    assert list(tmp_path.iterdir()) == []


# -- plans ---------------------------------------------------------------------------------------------------------------


def plan(tmp_path: Path, **asked: object) -> Plan:
    lists = {name: asked.pop(name, ()) for name in ("may_break", "workloads", "faults", "subjects", "limits")}
    return plan_of({"seed": 7, **asked}, output=tmp_path, **lists)  # type: ignore[arg-type]


def test_nothing_asked_is_one_short_run(tmp_path: Path) -> None:
    """`holdfast drill` alone: the bank, with Holdfast, on SQLite, in seconds."""
    ((workload, (settings,)),) = plan(tmp_path).runs.items()
    assert (workload, settings.subject, settings.server, settings.database) == ("bank", "holdfast", "sqlite", None)
    assert settings.seconds <= 10
    assert settings.output == tmp_path / "bank" / "holdfast"


def test_every_workload_and_subject_is_a_run(tmp_path: Path) -> None:
    """Each workload has a run for each subject, in the order they were named, in a folder of its own."""
    runs = plan(tmp_path, workloads=["set", "bank"], subjects=["plain", "holdfast"], faults=["commit"]).runs
    assert list(runs) == ["set", "bank"]
    assert [settings.subject for settings in runs["bank"]] == ["plain", "holdfast"]
    assert len({settings.output for settings_of in runs.values() for settings in settings_of}) == 4


def test_limits_are_compared_side_by_side(tmp_path: Path) -> None:
    """Each is a run of the subjects that have one; beside them stand those without, once. Where nobody has one it is refused."""
    runs = plan(tmp_path, subjects=["holdfast", "plain"], limits=["off", "on"])
    assert [(settings.subject, settings.limit) for settings in runs.runs["bank"]] == [
        ("holdfast", "off"),
        ("holdfast", "on"),
        ("plain", "off"),
    ]
    assert len({settings.output for settings in runs.runs["bank"]}) == 3
    assert runs.command.endswith("--limit off --limit on")
    with pytest.raises(ConfigurationError, match="'plain' has no limit"):
        plan(tmp_path, subjects=["plain"], limits=["on"])
    with pytest.raises(ConfigurationError, match="unknown limit 'of'"):
        plan(tmp_path, limits=["of"])


def test_all_workloads_are_those_without_an_application(tmp_path: Path) -> None:
    """`all` leaves out what needs code or a service of the user's."""
    runs = plan(tmp_path, workloads=["all"]).runs
    assert len(runs) >= 8
    assert not {"app", "http"} & set(runs)


def test_none_is_a_drill_without_faults(tmp_path: Path) -> None:
    """`--fault none` shows what the drill costs."""
    assert plan(tmp_path, faults=["none"]).runs["bank"][0].faults == ()


@pytest.mark.parametrize(
    ("server", "has", "lacks"),
    [
        ("sqlite", "kill-client", "outage"),
        ("sqlite", "pool-starvation", "dns-failure"),
        ("mariadb", "kill-server", "kill-node"),
        ("postgresql", "dns-failure", "freeze-node"),
        ("galera", "kill-node", "kill-server"),
        ("postgresql", "kill-server", "promote-standby"),
        ("postgresql-pair", "promote-standby", "kill-server"),
    ],
)
def test_all_faults_are_those_that_can_happen(server: str, has: str, lacks: str, tmp_path: Path) -> None:
    """`--fault all` takes what fits the server and leaves out the rest."""
    faults = plan(tmp_path, server=server, faults=["all"]).runs["bank"][0].faults
    assert {"commit", has} <= set(faults)
    assert lacks not in faults


def test_every_choice_is_described() -> None:
    """Servers, workloads, faults and subjects each say what they are."""
    assert list(FAULT_TEXTS) == list(FAULTS)
    for option, entries in choices().items():
        assert all(entries.values()), option


@pytest.mark.parametrize(("app", "name"), [("http://127.0.0.1:8000", "http"), ("json:loads", "app")])
def test_an_application_brings_its_workload(app: str, name: str, tmp_path: Path) -> None:
    """`--app` is subject and workload at once: a service by its address, functions by their name."""
    ((workload, (settings,)),) = plan(tmp_path, app=app).runs.items()
    assert (workload, settings.subject, settings.app) == (name, name, app)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"server": "mariadb", "database": "mysql://a@localhost/x"}, "--server starts a server"),
        ({"app": "json:loads", "workloads": ["bank"]}, "leave --workload out"),
        ({"app": "json:loads", "subjects": ["plain"]}, "leave --subject out"),
        ({"app": "https://192.0.2.7/"}, "--may-break 192.0.2.7"),
        ({"faults": ["none", "commit"]}, "--fault none"),
        ({"faults": ["all", "none"]}, "--fault none"),
        ({"faults": ["all", "nosuch"]}, "unknown fault 'nosuch'"),
        ({"faults": ["nosuch"]}, "unknown fault 'nosuch'"),
        ({"workloads": ["all", "nosuch"]}, "unknown workload 'nosuch'"),
        ({"database": "mysql://u@127.0.0.1:1,127.0.0.1:2/db"}, "one host, in its usual place"),
        ({"app": "http://127.0.0.1:99999", "faults": ["none"]}, "a port is 1 to 65535"),
        ({"workloads": ["gone"]}, "unknown workload 'gone'"),
        ({"subjects": ["gone"]}, "unknown subject 'gone'"),
        ({"server": "gone"}, "unknown server 'gone'"),
        ({"rate": 0.0}, "rate must be above 0"),
        ({"database": "foo://x"}, "begins with mysql://"),
        ({"database": "http://192.0.2.7/x"}, "begins with mysql://"),
        ({"start": "true"}, "--start starts the service of --app"),
        ({"start": "true", "app": "json:loads"}, "--start starts the service of --app"),
    ],
)
def test_what_contradicts_itself_is_refused(asked: dict[str, object], said: str, tmp_path: Path) -> None:
    """The error says what to change, before anything runs."""
    with pytest.raises(ConfigurationError, match=said):
        plan(tmp_path, **asked)


def test_a_cluster_is_given_time_between_faults(tmp_path: Path) -> None:
    """Its nodes need longer to come back; what is asked for counts all the same."""
    for asked, every in (({}, 10.0), ({"server": "galera"}, 20.0), ({"server": "galera", "every": 7.0}, 7.0)):
        ((settings,),) = plan(tmp_path, **asked).runs.values()
        assert settings.every == every


def test_a_description_is_a_whole_sentence() -> None:
    """Three dots in the middle do not end it."""
    assert choices()["workload"]["counter"] == "UPDATE ... SET n = n + by on 4 rows"


def test_a_folder_that_cannot_be_made_is_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a traceback."""
    (tmp_path / "file").write_text("")
    assert cli.main(["drill", "--output", str(tmp_path / "file")]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "cannot be made" in said
    assert "Traceback" not in said


def test_a_database_that_cannot_be_reached_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Host and port, and no password."""
    url = "mysql://app:secret@127.0.0.1:1/shop"
    assert cli.main(["drill", "--database", url, "--output", str(tmp_path / "out")]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "at 127.0.0.1:1 cannot be drilled" in said
    assert "secret" not in said
    assert "Traceback" not in said


def test_elle_needs_its_workload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asking for Elle's file without the workload append is refused before the drill, not after it."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["drill", "--elle", "history.edn"]) == ExitCode.USAGE
    assert "--workload append" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_replays_the_drill(tmp_path: Path) -> None:
    """Typed into a shell, the command asks for the same plan; the password is not in it."""
    asked = {"database": "mysql://app:secret@db1/my shop", "rate": 120.0, "seed": 7}
    command = replay_command(asked, {"may-break": ["db1"], "workload": ["bank", "set"], "subject": []})
    assert "secret" not in command
    assert shlex.split(command) == [
        *["holdfast", "drill", "--database", "mysql://app:***@db1/my shop", "--rate", "120", "--seed", "7"],
        *["--may-break", "db1", "--workload", "bank", "--workload", "set"],
    ]
    assert plan(tmp_path).command == "holdfast drill --seed 7"


def test_a_history_knows_its_command() -> None:
    """From the settings in a history comes the command that made it, without what is a default anyway."""
    settings = DrillSettings(server="mariadb", rate=80.0, faults=("commit", "outage"), subject="plain", seed=8)
    assert command_of(settings.told()) == (
        "holdfast drill --server mariadb --rate 80 --seed 8 --subject plain --fault commit --fault outage"
    )
    assert command_of(DrillSettings().told()) == "holdfast drill --seed 0"
    assert command_of(DrillSettings(faults=()).told()) == "holdfast drill --seed 0 --fault none"
    given = DrillSettings(database="mysql://app:secret@127.0.0.1/x", subject="app", workload="app", app="json:loads")
    assert (
        command_of({**given.told(), "may_break": ["db1"]})
        == "holdfast drill --database URL --app json:loads --seed 0 --may-break db1"
    )


def test_a_drill_overwrites_no_other(tmp_path: Path) -> None:
    """The folder of the same seed gets a number."""
    assert free_folder(tmp_path / "drill-7") == tmp_path / "drill-7"
    (tmp_path / "drill-7").mkdir()
    (tmp_path / "drill-7-2").mkdir()
    assert free_folder(tmp_path / "drill-7") == tmp_path / "drill-7-3"


def test_the_worst_verdict_is_the_exit_code() -> None:
    """Invalid beats unknown beats valid, and no verdict is none."""
    assert exit_code_for(["valid", "valid"]) is ExitCode.VALID
    assert exit_code_for(["valid", "unknown"]) is ExitCode.UNKNOWN
    assert exit_code_for(["unknown", "invalid", "valid"]) is ExitCode.INVALID
    assert exit_code_for([]) is ExitCode.UNKNOWN


# -- progress ------------------------------------------------------------------------------------------------------------


def standing(elapsed_s: float = 3.0, phase: str = "faults", faults: tuple[str, ...] = ("kill-server",)) -> Progress:
    return Progress(
        phase,
        elapsed_s,
        7.0,
        goodput_per_s=118.0,
        ok=340,
        failed=2,
        unknown=1,
        attempts=360,
        faults=faults,
        faults_begun=4,
    )


def console(*, terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, _environ={"TERM": "xterm"}
    )


def printed(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def test_a_terminal_gets_a_table_and_a_log_gets_lines() -> None:
    """What moves is for people: not for a pipe, and not for a build."""
    assert isinstance(display_for(console(terminal=True), "bank", {}), TerminalDisplay)
    assert isinstance(display_for(console(terminal=True), "bank", {"CI": "true"}), PlainDisplay)
    assert isinstance(display_for(console(terminal=False), "bank", {}), PlainDisplay)


def test_a_log_gets_a_line_every_five_seconds_and_at_every_phase() -> None:
    """Not one for every second."""
    to = console(terminal=False)
    with PlainDisplay(to, "bank [holdfast]") as display:
        for moment in (0.0, 1.0, 2.0, 5.0, 6.0):
            display.show(standing(moment, "baseline", ()))
        display.show(standing(7.0))
    lines = printed(to).splitlines()
    assert [words.split(",")[0] for words in lines] == [
        "bank [holdfast]: baseline",
        "bank [holdfast]: baseline",
        "bank [holdfast]: faults",
    ]


def test_a_line_says_how_it_stands() -> None:
    """Phase, time left, goodput, answers and what is broken."""
    assert line(standing()) == (
        "faults, 7 s left, 118/s acknowledged, 340 done, 2 not done, 1 unknown, faults so far 4, broken: kill-server"
    )


def test_a_terminal_shows_everything_at_once() -> None:
    """Goodput, answers, attempts, faults and the seconds left, in five lines."""
    to = console(terminal=True)
    to.print(table("bank", standing(), [0.0, 60.0, 118.0]))
    said = printed(to)
    for words in ("faults, 7 s left", "118/s", "340", "1.05 each", "kill-server", "█"):
        assert words in said
    assert len(said.splitlines()) == 5


def test_a_live_table_leaves_nothing_behind() -> None:
    """It can be shown again and again, and its end is clean."""
    with TerminalDisplay(console(terminal=True), "bank") as display:
        display.show(standing(1.0))
        display.show(standing(2.0))


def test_a_sparkline_scales_to_its_highest() -> None:
    """The highest bar is full; nothing is blank."""
    assert sparkline([0, 50, 100]) == " ▄█"
    assert sparkline([0, 0]) == "  "
    assert sparkline([]) == ""
