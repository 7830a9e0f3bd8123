"""Options of a database URL that its driver cannot use: told at once, on every driver, whatever was asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import event

from holdfast.errors import ConfigurationError
from tests.contract.faces import FACES, Face, Kind, only, usernames

kind = only([kind for kind in FACES if kind.server != "sqlite"])


def with_option(url: str, option: str) -> str:
    """The URL with one option more."""
    return f"{url}{'&' if '?' in url else '?'}{option}"


def told(face: Face, call: Callable[[], object]) -> str:
    """What the ConfigurationError of `call` says, which nothing has tried to mend by connecting again."""
    attempts = []

    def attempted(*_arguments: object) -> None:
        attempts.append(1)

    event.listen(face.engine, "do_connect", attempted)
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert len(attempts) <= 1
    return str(caught.value)


def test_an_option_that_the_driver_does_not_know_is_named(make_face: Callable[..., Face], kind: Kind, url: str) -> None:
    """Of an operation, of a read and of a migration."""
    for call in (
        lambda face: face.run(usernames),
        lambda face: face.read(usernames),
        lambda face: face.wait(face.db.migrate()),
    ):
        face = make_face(url=with_option(url, "no_such_option=1"))
        said = told(face, lambda call=call, face=face: call(face))  # type: ignore[misc]
        assert "no_such_option" in said
        assert kind.driver in said


@pytest.mark.parametrize(
    ("drivers", "option"),
    [
        pytest.param({"psycopg"}, "sslmode=bogus", id="a value that libpq does not know"),
        pytest.param({"psycopg"}, "sslmode=require", id="encryption that the server does not have"),
        pytest.param({"psycopg"}, "connect_timeout=soon", id="a time that is no number"),
        pytest.param({"pymysql", "asyncmy"}, "ssl_ca=/no/such/file.pem", id="a certificate"),
    ],
)
def test_a_value_that_the_driver_cannot_use_is_told(
    make_face: Callable[..., Face], kind: Kind, url: str, drivers: set[str], option: str
) -> None:
    """It is no server that is away, which would be tried again until the deadline."""
    if kind.driver not in drivers:
        pytest.skip("an option of another driver")
    face = make_face(url=with_option(url, option))
    told(face, lambda: face.run(usernames))
