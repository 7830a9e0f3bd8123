"""Who asks, proven, or 401; what it may do, or 403."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from holdfast.asgi.authentication import (
    Authentication,
    Authenticator,
    Principal,
    Unauthenticated,
    bearer_token,
    current_principal,
    principal_of,
    require,
)
from holdfast.asgi.context import RequestContext, context_of
from holdfast.asgi.interface import App, Receive, Scope, Send
from holdfast.asgi.problems import RequestRefused
from holdfast.asgi.recovery import Recovery
from holdfast.asgi.request_id import RequestId
from holdfast.asgi.stack import Stack
from holdfast.errors import ConfigurationError, Unavailable
from tests.asgi.asgi_calls import Echo, call, http_scope, run_lifespan
from tests.asgi.log_capture import log_of

ADA = Principal("ada", "https://issuer.example", "north", frozenset({"read", "write"}), "t1", {"sub": "ada"})


class Tokens:
    """An authenticator that knows a few tokens."""

    challenge = 'Bearer realm="ledger"'

    def __init__(self, **known: Principal) -> None:
        self.known = known

    async def authenticate(self, scope: Scope, /) -> Principal | None:
        """Look the token up."""
        token = bearer_token(scope["headers"], length_max=100)
        if token is None:
            return None
        if token == "later":
            raise Unavailable("the keys cannot be read", retry_after_s=7)
        if token not in self.known:
            raise Unauthenticated("unknown")
        return self.known[token]


class Badges(Tokens):
    """Another scheme, in a header of its own."""

    challenge = "Badge"

    async def authenticate(self, scope: Scope, /) -> Principal | None:
        """Look the badge up."""
        for name, value in scope["headers"]:
            if name == b"badge":
                return self.known[value.decode()]
        return None


class Seeing:
    """An application that keeps what it saw of who asks."""

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, str | None, frozenset[str], object, Principal | None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look, and answer."""
        context = context_of(scope)
        assert principal_of(context) is current_principal()
        self.seen.append(
            (context.principal, context.tenant, context.permissions, context.claims, principal_of(context))
        )
        if scope["type"] == "http":
            await Echo()(scope, receive, send)


def guarded(app: App, *authenticators: Authenticator, optional: tuple[str, ...] = ("/public/*",)) -> Stack:
    """The layers that matter here."""
    some = authenticators or (Tokens(good=ADA),)
    return Stack(app, RequestId, Recovery, partial(Authentication, authenticators=some, optional=optional))


async def test_a_proof_that_holds_says_who_asks() -> None:
    """The context has it for everybody, typed and in pieces."""
    app = Seeing()
    answer = await call(guarded(app), "GET", "/x", {"Authorization": "Bearer good"})
    assert answer.status == 200
    assert app.seen == [("https://issuer.example ada", "north", frozenset({"read", "write"}), {"sub": "ada"}, ADA)]


@pytest.mark.parametrize("value", ["bearer good", "BEARER   good  ", "Bearer good"])
async def test_the_scheme_is_read_in_any_case(value: str) -> None:
    """RFC 9110, 11.1."""
    assert (await call(guarded(Echo()), "GET", "/x", {"Authorization": value})).status == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic Z29vZDpnb29k"}, {"Authorization": "Bearergood"}])
async def test_without_a_proof_a_route_asks_for_one(headers: dict[str, str]) -> None:
    """401 with the challenge, and no error in it: nothing was wrong."""
    echo = Echo()
    answer = await call(guarded(echo), "GET", "/x", headers)
    assert (answer.status, echo.calls) == (401, 0)
    assert answer.header("WWW-Authenticate") == 'Bearer realm="ledger"'
    assert answer.json["type"] == "urn:holdfast:problem:unauthenticated"
    assert answer.header("Cache-Control") == "no-store"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer bad")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer good\x00")],
        [(b"authorization", b"Bearer go od")],
        [(b"authorization", b"Bearer good\xc3\xa9")],
        [(b"authorization", b"Bearer " + b"x" * 101)],
        [(b"authorization", b"Bearer good"), (b"authorization", b"Bearer good")],
        [(b"authorization", b"Basic x"), (b"authorization", b"Bearer good")],
    ],
)
@pytest.mark.parametrize("path", ["/x", "/public/x"])
async def test_a_proof_that_does_not_hold_is_refused_everywhere(headers: list[tuple[bytes, bytes]], path: str) -> None:
    """Also where none is needed; the answer is the same for all, and the log has a word."""
    echo = Echo()
    with log_of("holdfast.asgi") as log:
        answer = await call(guarded(echo), "GET", path, headers)
    assert (answer.status, echo.calls) == (401, 0)
    assert answer.header("WWW-Authenticate") == 'Bearer realm="ledger", error="invalid_token"'
    assert "not authenticated: " in log.everything
    assert "good" not in log.everything


async def test_without_a_proof_an_optional_route_goes_on_as_nobody() -> None:
    """No principal, no tenant, no permission; which is nothing, and not everything."""
    app = Seeing()
    assert (await call(guarded(app), "GET", "/public/x")).status == 200
    assert app.seen == [(None, None, frozenset(), None, None)]


@pytest.mark.parametrize("path", ["/PUBLIC/x", "/public/../x", "//public/x", "/public//x", "/publics"])
async def test_only_the_exact_path_is_optional(path: str) -> None:
    """A spelling that a router might resolve to another route asks for a proof."""
    assert (await call(guarded(Echo()), "GET", path)).status == 401


async def test_what_cannot_be_checked_now_is_not_the_callers_fault() -> None:
    """503 with Retry-After: a 401 would make the caller throw a good token away."""
    answer = await call(guarded(Echo()), "GET", "/public/x", {"Authorization": "Bearer later"})
    assert answer.status == 503
    assert int(answer.header("Retry-After") or 0) >= 7


async def test_several_ways_are_tried_in_order() -> None:
    """The first that finds a proof decides, and all challenges are named."""
    bob = Principal("bob", "badges")
    app = Seeing()
    layers = guarded(app, Tokens(good=ADA), Badges(b7=bob))
    assert (await call(layers, "GET", "/x", {"badge": "b7"})).status == 200
    assert app.seen[-1][4] is bob
    assert (await call(layers, "GET", "/x", {"badge": "b7", "authorization": "Bearer bad"})).status == 401
    answer = await call(layers, "GET", "/x")
    challenges = [value for name, value in answer.headers if name == b"www-authenticate"]
    assert challenges == [b'Bearer realm="ledger"', b"Badge"]


@pytest.mark.parametrize(
    ("token", "path", "sent"),
    [("good", "/x", []), ("bad", "/x", [1008]), (None, "/x", [1008]), (None, "/public/x", [])],
)
async def test_websockets_are_held_to_it(token: str | None, path: str, sent: list[int]) -> None:
    """Refused before they are accepted."""
    app = Seeing()
    codes: list[int] = []

    async def send(message: Any) -> None:
        codes.append(message["code"])

    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    await guarded(app)({**http_scope("GET", path, headers), "type": "websocket"}, Echo(), send)  # type: ignore[arg-type]
    assert (codes, len(app.seen)) == (sent, 0 if sent else 1)


async def test_lifespan_passes() -> None:
    """An application starts and stops behind it."""
    kinds: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kinds.append(scope["type"])

    await run_lifespan(Authentication(app, authenticators=[Tokens()]))
    assert kinds == ["lifespan"]


@pytest.mark.parametrize(
    ("needed", "headers", "status"),
    [
        (["read"], {"Authorization": "Bearer good"}, 200),
        (["read", "write"], {"Authorization": "Bearer good"}, 200),
        ([], {"Authorization": "Bearer good"}, 200),
        (["pay"], {"Authorization": "Bearer good"}, 403),
        (["read", "pay"], {"Authorization": "Bearer good"}, 403),
        (["rea"], {"Authorization": "Bearer good"}, 403),
        (["read"], {}, 401),
        ([], {}, 401),
    ],
)
async def test_a_permission_is_there_or_it_is_not(needed: list[str], headers: dict[str, str], status: int) -> None:
    """All of them, whole words; nobody is 401, somebody who may not is 403, and neither learns which was missing."""
    requirement = require(*needed)
    echo = Echo()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await requirement() == ADA
        await echo(scope, receive, send)

    answer = await call(guarded(app), "GET", "/public/x", headers)
    assert (answer.status, echo.calls) == (status, 1 if status == 200 else 0)
    assert not any(word in answer.body.decode() for word in ("pay", "write", "ada", "north"))
    if status == 401:
        assert answer.header("WWW-Authenticate") == Tokens.challenge


def test_a_requirement_outside_of_a_request_is_refused() -> None:
    """There is nobody, so nobody may."""
    with pytest.raises(RequestRefused, match="401"):
        require("read").check()
    with pytest.raises(RequestRefused, match="401"):
        require("read").check(RequestContext(0.0))


@pytest.mark.parametrize("permissions", [("",), (None,), (["read"],)])
def test_a_permission_that_is_none_is_refused(permissions: tuple[Any, ...]) -> None:
    """When it is written, not when somebody asks."""
    with pytest.raises(ConfigurationError, match="permission"):
        require(*permissions)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"authenticators": []}, "at least one"),
        ({"authenticators": [Tokens()], "optional": "/x"}, "not one text"),
        ({"authenticators": [Tokens()], "optional": ["x"]}, "begin with /"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], text: str) -> None:
    """At startup."""
    with pytest.raises(ConfigurationError, match=text):
        Authentication(Echo(), **settings)


@pytest.mark.parametrize(
    "fields",
    [
        {"subject": ""},
        {"subject": "a" * 256},
        {"subject": "a\nb"},
        {"subject": "a\u2028b"},
        {"subject": 7},
        {"tenant": ""},
        {"tenant": "a\x00"},
        {"tenant": ["north"]},
        {"issuer": ""},
        {"issuer": "two words"},
    ],
)
def test_a_principal_has_names_that_can_be_used(fields: dict[str, Any]) -> None:
    """They end in keys, rows and logs."""
    with pytest.raises(ValueError):
        Principal(**{"subject": "ada", "issuer": "i", **fields})


def test_two_issuers_have_two_subjects_of_one_name() -> None:
    """What limits and keys are counted for tells them apart, whatever the names are made of."""
    one, other = Principal("b c", "a"), Principal("c", "a/b")
    assert one.identity != other.identity
    assert Principal("1", "https://a").identity != Principal("1", "https://b").identity
