"""What the settings say together holds, or is refused where the edge is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from pydantic import ValidationError

from holdfast.errors import ConfigurationError
from holdfast.ext.fastapi import EdgeSettings, install
from holdfast.shutdown import Drain

from .asgi_calls import Connection, http_scope
from .edge_doubles import Kept


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        (
            {"deadline_s": 5, "body_max": 10, "body_timeout_s": 5},
            r"body_timeout_s \(5 s\) must be less than deadline_s \(5 s\)",
        ),
        ({"body_timeout_s": 5}, "set body_max"),
        ({"concurrency_least": 5}, "set concurrency"),
        ({"failed_proofs_per_s": 5}, "give install an authenticator"),
    ],
)
def test_a_setting_that_nothing_would_hold_to_is_refused(
    settings: dict[str, Any], cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From wherever it comes: the last one from the environment, the others from a file."""
    file = tmp_path / "edge.toml"
    *others, last = settings
    file.write_text("".join(f"{name} = {settings[name]}\n" for name in others))
    monkeypatch.setenv(f"HOLDFAST_{last.upper()}", str(settings[last]))
    with pytest.raises(ConfigurationError, match=cure):
        install(FastAPI(), None, EdgeSettings.load(file), drain=Drain())


def test_a_time_for_the_bodies_of_keyed_requests_is_held_to() -> None:
    """They are read whole, whether others are limited or not."""
    install(FastAPI(), None, EdgeSettings(body_timeout_s=5), idempotency=Kept(), anonymous_keys="all", drain=Drain())


@pytest.mark.parametrize("key", [{}, {"idempotency-key": "k"}], ids=["plain", "keyed"])
async def test_a_slow_body_is_told_before_the_deadline(key: dict[str, str]) -> None:
    """By half of it, where nothing else is set: 408, which says what is wrong."""
    app = FastAPI()

    @app.post("/")
    async def size(request: Request) -> int:
        return len(await request.body())

    settings = EdgeSettings(deadline_s=0.2, body_max=1000)
    install(app, None, settings, idempotency=Kept(), anonymous_keys="all", drain=Drain())
    connection = Connection(http_scope("POST", headers={**key, "content-length": "2"}))
    connection.push(b"x", more=True)
    connection.start(app)
    assert (await connection.answer()).status == 408


@pytest.mark.parametrize(
    ("settings", "time_s"),
    [({}, 10), ({"deadline_s": 30}, 10), ({"deadline_s": 10}, 5), ({"deadline_s": 30, "body_timeout_s": 29}, 29)],
)
def test_a_body_has_half_of_the_deadline_at_most(settings: dict[str, float], time_s: float) -> None:
    """Unless somebody says how long."""
    assert EdgeSettings.model_validate(settings).time_for_body_s == time_s


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("trusted_proxies", "198.51.100.7", r'HOLDFAST_TRUSTED_PROXIES in the environment is no JSON, such as \["192'),
        ("trusted_proxies", '"198.51.100.7"', r'HOLDFAST_TRUSTED_PROXIES: Input should .* \(such as \["192'),
        ("networks", "198.51.100.7", r'HOLDFAST_NETWORKS in the environment is no JSON, such as \{"operators": \["192'),
        ("deadline_s", "-198", "HOLDFAST_DEADLINE_S: Input should be greater than"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an example where it has to be JSON, and without what it holds."""
    monkeypatch.setenv(f"HOLDFAST_{name.upper()}", value)
    with pytest.raises(ConfigurationError, match=said) as caught:
        EdgeSettings.load()
    assert "198" not in str(caught.value)


def test_networks_may_be_lists_and_are_kept_as_tuples() -> None:
    """Not a text, which would be taken letter by letter."""
    settings = EdgeSettings(trusted_proxies=["192.0.2.0/24"], networks={"operators": ["192.0.2.0/24"]})
    assert (settings.trusted_proxies, settings.networks) == (("192.0.2.0/24",), {"operators": ("192.0.2.0/24",)})
    for wrong in ({"trusted_proxies": "192.0.2.0/24"}, {"allowlist": {"/": "192.0.2.0/24"}}, {"networks": {"a": "b"}}):
        with pytest.raises(ValidationError):
            EdgeSettings(**wrong)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "file edge.toml cannot be read: FileNotFoundError$"),
        ("queue = 3\nkey_secret = sesame", "file edge.toml cannot be read: TOMLDecodeError at line 2, column 14$"),
        ("key_secret = 'sesame", "file edge.toml cannot be read: TOMLDecodeError at end of document$"),
        ("deadline_s = -3", "cannot work: deadline_s: Input should be greater than"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place(
    text: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path and the line, and nothing of what stands there."""
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("edge.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=said) as caught:
        EdgeSettings.load("edge.toml")
    assert "sesame" not in str(caught.value)
