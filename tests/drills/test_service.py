"""A service that the drill starts is told of its database, waited for, and ended with all that it started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.drills.run import run
from holdfast.drills.servers.process import free_port
from holdfast.drills.service import _answers, started
from holdfast.drills.settings import DrillSettings
from holdfast.errors import ConfigurationError

URL = "mysql://app:secret@127.0.0.1:3306/shop"


def test_it_is_started_with_the_database_and_ended_again(tmp_path: Path) -> None:
    """Both URLs are in its environment; after the block nobody listens any more, not even a child of the shell."""
    port = free_port()
    address, said = f"http://127.0.0.1:{port}", tmp_path / "said"
    command = f'echo "$DATABASE_URL $DATABASE_URL_ASYNC" > {said}; {sys.executable} -m http.server {port}; true'
    with started(command, address, tmp_path / "service.log")(URL) as where:
        assert where == address
        assert said.read_text().split() == [
            "mysql+pymysql://app:secret@127.0.0.1:3306/shop",
            "mysql+asyncmy://app:secret@127.0.0.1:3306/shop",
        ]
        with pytest.raises(ConfigurationError, match=r"listens at .* already"), started(command, address, said)(URL):
            pass
    assert not _answers(address)


def test_one_that_does_not_come_up_is_told_in_a_line(tmp_path: Path) -> None:
    """It ended, or it never listened: the error says which, and where its words are."""
    address, log = f"http://127.0.0.1:{free_port()}", tmp_path / "service.log"
    with pytest.raises(ConfigurationError, match="ended with 3 before"), started("exit 3", address, log)(URL):
        pass
    with (
        pytest.raises(ConfigurationError, match=r"did not listen .* within 0\.2 s"),
        started("sleep 60", address, log, within_s=0.2)(URL),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "--start COMMAND"),
        ({"faults": (), "server": "mariadb"}, "would never see that database"),
        ({"faults": ()}, "nobody answers POST .*/api/v1/users"),
    ],
)
def test_what_cannot_be_done_to_a_running_service_is_said(tmp_path: Path, settings: dict[str, Any], text: str) -> None:
    """Before anything is started, with the cure; and nobody at the address is one line as well."""
    app = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ConfigurationError, match=text):
        run(DrillSettings(workload="http", subject="http", app=app, output=tmp_path / "drill", **settings))
