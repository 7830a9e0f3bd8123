"""Who may use the ledger: tokens that an issuer signs with keys it publishes, and nobody else's; or this machine."""

from __future__ import annotations

import pytest

from examples.ledger.access import EVERYTHING, authenticator_for, may_serve_openly
from examples.ledger.main import create_app, open_database
from examples.ledger.settings import LedgerSettings, edge_settings
from holdfast.errors import ConfigurationError
from holdfast.shutdown import Drain
from tests.asgi.asgi_calls import call
from tests.asgi.key_server import key_server
from tests.asgi.tokens import AUDIENCE, ISSUER, claims, jwk, private, signed
from tests.ledger.conftest import SECRET


async def test_tokens_of_the_issuer_are_taken_by_its_published_keys(sqlite_url: str) -> None:
    """A key that it publishes vouches, another one of the same name does not; its client is closed at the end."""
    with key_server() as server:
        server.keys = [jwk("RS256", kid="one")]
        settings = LedgerSettings.model_validate(
            {"database_url": sqlite_url, "token_jwks": server.url, "token_issuer": ISSUER, "token_audience": AUDIENCE}
        )
        drain, edge = Drain(), edge_settings()
        app = create_app(open_database(settings, edge), settings, edge, drain=drain)
        may = claims(scope=" ".join(EVERYTHING))
        for key, status in ((private("RS256"), 404), (private("RS256", "another"), 401)):
            token = signed(may, key, kid="one")
            answer = await call(app, "GET", "/api/v1/nothing", {"Authorization": f"Bearer {token}"})
            assert answer.status == status
        assert server.asked == 1
        report = await drain.run_async()
    assert report.is_clean


def test_two_kinds_of_keys_are_refused() -> None:
    """A secret for trying out must not go on working beside the issuer's keys."""
    settings = LedgerSettings.model_validate({"token_jwks": "https://issuer.example/keys", "token_secret": SECRET})
    with pytest.raises(ConfigurationError, match="not both"):
        authenticator_for(settings, Drain())


@pytest.mark.parametrize(
    ("host", "openly"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_without_tokens_only_this_machine_is_served(host: str, openly: bool) -> None:
    """Every other address, and every name, could be reached by others."""
    assert may_serve_openly(host) is openly
    assert not may_serve_openly("ledger.example")
