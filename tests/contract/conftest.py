"""The faces of the contract, each on a real server with fresh tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.drills.servers import Server
from holdfast.ext.sqlalchemy import DatabaseSettings
from tests.contract.faces import FACES, Account, Base, Face, Kind, missing_driver

ACCOUNTS = {1: 100, 2: 100, 3: 100}


@pytest.fixture(params=FACES, ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each server with each driver."""
    kind: Kind = request.param
    missing = missing_driver(kind)
    if missing is not None:
        pytest.skip(missing)
    return kind


@pytest.fixture
def server(kind: Kind, request: pytest.FixtureRequest) -> Server | None:
    """The server behind the face; None for SQLite."""
    if kind.server == "sqlite":
        return None
    server: Server = request.getfixturevalue(f"{kind.server}_server")
    return server


@pytest.fixture
def url(kind: Kind, server: Server | None, tmp_path: Path) -> str:
    """Where the face connects to."""
    if server is None:
        return f"sqlite+{kind.driver}:///{tmp_path / 'contract.db'}"
    return server.url(kind.driver)


@pytest.fixture
def make_face(kind: Kind, url: str) -> Iterator[Callable[..., Face]]:
    """Makes a face with settings of the test's own; closed afterwards."""
    made: list[Face] = []

    def make(settings: DatabaseSettings | None = None, *, url: str = url, **options: Any) -> Face:
        face = Face(kind, url, settings, **options)
        made.append(face)
        return face

    yield make
    for face in made:
        face.close()


@pytest.fixture
def face(make_face: Callable[..., Face]) -> Face:
    """A face with the default settings and fresh tables."""
    face = make_face()
    fresh_tables(face)
    return face


def fresh_tables(face: Face) -> None:
    """Empty tables, three accounts of 100 each."""

    def fill(session: Any) -> None:
        session.add_all([Account(id=number, balance=balance) for number, balance in ACCOUNTS.items()])

    face.fresh(Base.metadata)
    face.run(fill, protect=False)
