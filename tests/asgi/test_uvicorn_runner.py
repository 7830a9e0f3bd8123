"""The server's command line and its last steps: what is refused, what is written where, and that the end reaches its end."""

from __future__ import annotations

import faulthandler
import io
import json
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import uvicorn

from holdfast.asgi.access_log import AccessLog
from holdfast.ext.uvicorn import Server, serve
from holdfast.ext.uvicorn.__main__ import log_by_default, main
from holdfast.shutdown import Drain, DrainSettings
from tests.asgi.asgi_calls import answering, call


@pytest.mark.parametrize("option", ["--tls-key", "--tls-client-authorities"])
def test_tls_without_a_certificate_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be plain HTTP, where somebody means to be safe."""
    assert main(["shop.main:app", option, "file.pem"]) == 2
    said = capsys.readouterr().err
    assert option in said
    assert "--tls-certificate" in said


def test_several_workers_are_refused_with_the_way_to_have_them(capsys: pytest.CaptureFixture[str]) -> None:
    """They are asked for by habit; one is what there is."""
    with unconfigured():
        assert main(["shop.main:app", "--workers", "4"]) == 2
    said = capsys.readouterr().err
    assert "4 workers in one process group cannot end without losing requests" in said
    assert "Start several processes of one worker each behind a balancer" in said


def test_a_level_that_does_not_exist_is_refused_with_those_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    """Before the application is looked for, and not by a trace."""
    with pytest.raises(SystemExit) as ended:
        main(["shop.main:app", "--log-level", "loud"])
    assert ended.value.code == 2
    assert "critical" in capsys.readouterr().err


@pytest.mark.parametrize("elsewhere", [("--uds", "shop.sock"), ("--fd", "3")])
def test_one_port_for_two_needs_a_port(elsewhere: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """It would listen on a port, and not where somebody said."""
    with unconfigured():
        assert main(["shop.main:app", "--reuse-port", *elsewhere]) == 2
    assert "reuse_port" in capsys.readouterr().err


def test_a_port_that_is_taken_is_no_start(caplog: pytest.LogCaptureFixture) -> None:
    """The exit code says so, and the log where."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(answering(), port=port, reuse_port=True, drain=Drain(), log_config=None) == 3
    assert [(str(port) in line, "127.0.0.1" in line) for line in caplog.messages] == [(True, True)]


@pytest.mark.parametrize("stderr", [None, io.StringIO()], ids=["none", "no descriptor"])
async def test_a_stderr_without_a_descriptor_does_not_break_the_end(
    monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO | None
) -> None:
    """As under `pythonw`, or where a program has put something else in its place."""
    drain = Drain(DrainSettings(lame_duck=0))
    closed: list[bool] = []
    drain.on_close("database", partial(closed.append, True))
    config = uvicorn.Config(answering(), port=0, lifespan="off", log_config=None)
    server = Server(config, drain=drain, ends_process=True)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    monkeypatch.setattr(sys, "stderr", stderr)
    try:
        await server.shutdown()
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert closed == [True]


@contextmanager
def unconfigured() -> Iterator[None]:
    """Logging as a process finds it, without what pytest adds for each test."""
    ours, root = logging.getLogger("holdfast"), logging.getLogger()
    level = ours.level
    with pytest.MonkeyPatch.context() as patch:
        for logger in (ours, root):
            patch.setattr(logger, "handlers", [])
        yield
    ours.setLevel(level)


async def test_requests_are_logged_where_nobody_says_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, as `AccessLog` makes it, on stderr."""
    with unconfigured():
        log_by_default("info")
        await call(AccessLog(answering()))
    (line,) = capsys.readouterr().err.splitlines()
    assert (json.loads(line)["event"], json.loads(line)["status"]) == ("request", 200)


@pytest.mark.parametrize("name", [None, "holdfast", "holdfast.asgi.access_log"])
async def test_who_says_where_the_log_goes_gets_it_there_alone(
    capsys: pytest.CaptureFixture[str], name: str | None
) -> None:
    """Also when the application does so afterwards, as it is loaded."""
    own = logging.StreamHandler(io.StringIO())
    with unconfigured():
        log_by_default("info")
        logging.getLogger(name).addHandler(own)
        await call(AccessLog(answering()))
        logging.getLogger(name).removeHandler(own)
    assert capsys.readouterr().err == ""
    assert own.stream.getvalue().count("\n") == 1


async def test_a_level_above_silences_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    """`--log-level warning` means all of it."""
    with unconfigured():
        log_by_default("warning")
        await call(AccessLog(answering()))
    assert capsys.readouterr().err == ""
