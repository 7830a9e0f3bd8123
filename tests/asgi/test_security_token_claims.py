"""Risk: a token without expiry, or one that is meant for somebody else. Each claim absent, foreign, of another type: 401."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from holdfast.asgi.authentication import Authentication, Principal, current_principal
from holdfast.asgi.interface import Receive, Scope, Send
from holdfast.asgi.stack import Stack
from holdfast.errors import ConfigurationError
from holdfast.ext.pyjwt import JwtAuthenticator, JwtIssuer, StaticKeys, shared_secret
from tests.asgi.asgi_calls import Echo, call
from tests.asgi.tokens import AUDIENCE, ISSUER, SECRET, claims, now, signed

KEYS = StaticKeys(shared_secret(SECRET))


async def principal_for(payload: dict[str, Any], **settings: Any) -> Principal | None:
    """Who the token speaks of; None: 401."""
    found: list[Principal | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(current_principal())
        await Echo()(scope, receive, send)

    issuer = JwtIssuer(**{"issuer": ISSUER, "audience": AUDIENCE, "keys": KEYS, "tenant_claim": "tenant", **settings})
    layers = Stack(app, partial(Authentication, authenticators=[JwtAuthenticator(issuer)]))
    token = signed(payload, SECRET.encode(), "HS256")
    answer = await call(layers, "GET", "/x", {"Authorization": f"Bearer {token}"})
    assert answer.status == (200 if found else 401)
    assert answer.error is None
    return found[0] if found else None


async def test_a_whole_token_says_who_asks() -> None:
    """Else what follows proves nothing."""
    principal = await principal_for(claims(jti="7"))
    assert principal is not None
    assert (principal.subject, principal.issuer, principal.tenant) == ("ada", ISSUER, "north")
    assert principal.permissions == frozenset({"read", "write"})
    assert len(principal.token_id) == 32
    assert principal.claims["jti"] == "7"


MALFORMED: list[Any] = [None, "", 0, True, [], {}, [ISSUER], ["ada"], {"ada": 1}]


@pytest.mark.parametrize("value", [*MALFORMED, ISSUER[:-1], ISSUER + "x", ISSUER.upper(), "", f"{ISSUER} {ISSUER}"])
async def test_the_issuer_is_exactly_the_one_that_is_trusted(value: Any) -> None:
    """Not a part of it, not more than it, not a list with it."""
    assert await principal_for(claims(iss=value)) is None


@pytest.mark.parametrize(
    "value", [*MALFORMED, "led", "ledgers", "LEDGER", "ledger other", ["led"], ["other"], [AUDIENCE, 7], [[AUDIENCE]]]
)
async def test_the_audience_is_this_service(value: Any) -> None:
    """Not a part of its name; a list must be one of texts, and hold exactly it."""
    assert await principal_for(claims(aud=value)) is None


async def test_a_list_of_audiences_may_hold_this_service() -> None:
    """RFC 7519 4.1.3; and a service may have several names."""
    assert await principal_for(claims(aud=["other", AUDIENCE])) is not None
    assert await principal_for(claims(aud="b"), audience=["a", "b"]) is not None
    assert await principal_for(claims(aud="ab"), audience=["a", "b"]) is None


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", "tomorrow", "9999999999", True, [9999999999], {}, float("inf"), float("nan"), -1, 0),
        pytest.param(10**400, id="10**400"),
    ],
)
async def test_the_expiry_is_a_number(value: Any) -> None:
    """A text that looks like one was accepted by the library alone."""
    assert await principal_for(claims(exp=value)) is None


@pytest.mark.parametrize("value", [None, "", 7, True, ["ada"], {}, "a" * 256, "a\nb", "a\x00", "\u2028"])
async def test_the_subject_is_a_name(value: Any) -> None:
    """It ends in keys and rows."""
    assert await principal_for(claims(sub=value)) is None


async def test_times_are_held_to_within_the_leeway() -> None:
    """An expired token, and one from the future, by more than the leeway."""
    moment = now()
    assert await principal_for(claims(exp=moment - 5), leeway=60) is not None
    assert await principal_for(claims(exp=moment - 61), leeway=60) is None
    assert await principal_for(claims(exp=moment - 1), leeway=0) is None
    assert await principal_for(claims(nbf=moment + 300), leeway=60) is None
    assert await principal_for(claims(iat=moment + 300), leeway=60) is None
    assert await principal_for(claims(nbf=moment - 5, iat=moment - 5)) is not None
    malformed: list[Any] = ["soon", [], {}, float("inf"), 10**400]
    for bad in malformed:
        assert await principal_for(claims(nbf=bad)) is None
        assert await principal_for(claims(iat=bad)) is None


@pytest.mark.parametrize("value", [None, "", 7, True, ["north"], {"north": 1}, "a" * 256, "n\x00"])
async def test_the_tenant_is_a_name_and_must_be_there(value: Any) -> None:
    """Where tokens have tenants, one without is nobody's; never everybody's."""
    assert await principal_for(claims(tenant=value)) is None


async def test_a_tenant_can_be_optional_and_is_never_converted() -> None:
    """Optional means absent, not of another type."""
    principal = await principal_for(claims(tenant=None), tenant_required=False)
    assert principal is not None
    assert principal.tenant is None
    assert await principal_for(claims(tenant=["north"]), tenant_required=False) is None
    principal = await principal_for(claims(), tenant_claim=None)
    assert principal is not None
    assert principal.tenant is None


@pytest.mark.parametrize(
    ("value", "permissions"),
    [
        (None, set()),
        ("", set()),
        ("read", {"read"}),
        (" read  write ", {"read", "write"}),
        (["read", "write all"], {"read", "write all"}),
        ([], set()),
        (7, None),
        (True, None),
        ({"read": True}, None),
        (["read", 7], None),
        ([["read"]], None),
        ("x" * 256, None),
        (["p"] * 513, None),
    ],
)
async def test_permissions_are_words(value: Any, permissions: set[str] | None) -> None:
    """None at all is nothing; another type is refused."""
    principal = await principal_for(claims(scope=value))
    assert (None if principal is None else principal.permissions) == permissions


async def test_claims_may_stand_inside_of_others() -> None:
    """By the names on the way; something else on the way is not the same as nothing."""
    path = {"permissions_claim": ("realm_access", "roles"), "tenant_claim": "https://ledger.example/tenant"}
    payload = claims(realm_access={"roles": ["pay"]}, **{"https://ledger.example/tenant": "south"})
    principal = await principal_for(payload, **path)
    assert principal is not None
    assert (principal.tenant, principal.permissions) == ("south", frozenset({"pay"}))
    assert await principal_for({**payload, "realm_access": ["roles"]}, **path) is None
    principal = await principal_for({**payload, "realm_access": {}}, **path)
    assert principal is not None
    assert principal.permissions == frozenset()


async def test_a_proof_is_told_from_others_by_a_hash() -> None:
    """By its `jti` where it has one, else by itself; neither can be read back."""
    first, again, other, bare = [
        await principal_for(payload)
        for payload in (claims(jti="c4nary"), claims(jti="c4nary", exp=now() + 9), claims(jti="x"), claims())
    ]
    assert first is not None
    assert again is not None
    assert other is not None
    assert bare is not None
    assert first.token_id == again.token_id
    assert len({first.token_id, other.token_id, bare.token_id}) == 3
    assert "c4nary" not in first.token_id


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"issuer": ""}, "issuer must be"),
        ({"issuer": None}, "issuer must be"),
        ({"issuer": "a b"}, "issuer must be"),
        ({"audience": ""}, "audience must name"),
        ({"audience": None}, "audience must name"),
        ({"audience": []}, "audience must name"),
        ({"audience": ["a", ""]}, "audience must name"),
        ({"leeway": 61}, "at most 60 s"),
        ({"leeway": -1}, "leeway"),
        ({"types": "JWT"}, "types must be"),
        ({"types": []}, "types must be"),
        ({"tenant_claim": ""}, "tenant_claim"),
        ({"permissions_claim": ()}, "permissions_claim"),
        ({"permissions_claim": ("a", "")}, "permissions_claim"),
    ],
)
def test_a_configuration_that_would_take_too_much_is_refused(settings: dict[str, Any], text: str) -> None:
    """At startup, before the first token."""
    with pytest.raises(ConfigurationError, match=text):
        JwtIssuer(**{"issuer": ISSUER, "audience": AUDIENCE, "keys": KEYS, **settings})


def test_issuer_and_audience_cannot_be_left_out() -> None:
    """The library alone would take any."""
    with pytest.raises(TypeError):
        JwtIssuer(ISSUER, keys=KEYS)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        JwtIssuer(audience=AUDIENCE, keys=KEYS)  # type: ignore[call-arg]


def test_an_authenticator_has_issuers_once_each() -> None:
    """None would take nothing, two of one name either one's."""
    one = JwtIssuer(ISSUER, audience=AUDIENCE, keys=KEYS)
    for issuers in ((), (one, one)):
        with pytest.raises(ConfigurationError, match="issuer"):
            JwtAuthenticator(*issuers)
    for settings in ({"length_max": 0}, {"realm": 'a"b'}, {"realm": ""}, {"realm": "é"}):
        with pytest.raises(ConfigurationError):
            JwtAuthenticator(one, **settings)
    assert JwtAuthenticator(one, realm="The ledger").challenge == 'Bearer realm="The ledger"'
    for keys in ({}, {"a": "secret"}):
        with pytest.raises(ConfigurationError, match="at least one key"):
            StaticKeys(keys)  # type: ignore[arg-type]
