"""Who asks, proven: a `Principal` for each request, or 401; and what it may do, or 403.

    app = Authentication(api, authenticators=[JwtAuthenticator(...)], optional=["/catalogue/*"])

    may_pay = require("payments:write")             # a dependency: Depends(may_pay), or in any code of the request:
    principal = may_pay.check()
    principal_of(context), current_principal()

Every path asks for a proof, unless a pattern makes it optional. Optional means that it may be missing: a proof that is there and
does not hold is 401 everywhere, since its sender believes to be somebody. Without a proof there is no tenant, no permission and
no principal, which is never "all".

| what is there | required | optional |
|---|---|---|
| nothing | 401, with the challenges | goes on, as nobody |
| a proof that holds | goes on | goes on |
| a proof that does not, or two | 401, `error="invalid_token"` | the same |
| the same, after too many of them from one client (`failed_proofs`) | 429, `Retry-After` | the same |
| a proof that cannot be checked now | 503, `Retry-After` | the same |

What is wrong with a proof is for the log, in one word; the answer is the same for all. Neither ever holds the proof. A browser's
preflight request (OPTIONS) brings none: CORS middleware stands outside of this layer.

Sources: RFC 9110, section 11 (authentication); RFC 6750 (bearer tokens), sections 2.1 and 3.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Protocol, runtime_checkable

from ..errors import ConfigurationError, HoldfastError
from .context import RequestContext, context_of, current_request
from .failed_proofs import FailedProofs
from .headers import MalformedHeader, header, only
from .interface import App, Headers, Receive, Scope, Send
from .problems import Problem, RequestRefused, problem_for, send_problem
from .route_patterns import RoutePatterns, path_of
from .stack import Place

__all__ = [
    "Authentication",
    "Authenticator",
    "Principal",
    "Requirement",
    "Unauthenticated",
    "bearer_token",
    "challenges_of",
    "current_principal",
    "principal_of",
    "require",
]

_log = logging.getLogger("holdfast.asgi")

_NOTE = __name__
_CHALLENGES_NOTE = f"{__name__}.challenges"
_POLICY_VIOLATION = 1008
_NAME_MAX = 255

# RFC 9110 11.2: token68, what a bearer token is made of.
_TOKEN68 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who proved who it is. Immutable. Its `repr` says nothing, since a representation ends in logs.

    Attributes:
        subject: its name at the issuer; 1 to 255 characters without controls.
        issuer: who vouches for it; without spaces.
        tenant: for whom it acts, or None: not known, which is never "all"; as `subject`.
        permissions: what it may do; default nothing.
        token_id: a hash that tells this proof from others, for revocation lists; never the proof; default empty.
        claims: what the proof said besides, for the application.

    Raises:
        ValueError: a name is empty, too long, or holds what it must not.
    """

    subject: str = field(repr=False)
    issuer: str = field(repr=False)
    tenant: str | None = field(default=None, repr=False)
    permissions: frozenset[str] = field(default=frozenset(), repr=False)
    token_id: str = field(default="", repr=False)
    claims: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _is_name(self.subject) or not (self.tenant is None or _is_name(self.tenant)):
            raise ValueError("a subject and a tenant have 1 to 255 characters, and none of them is a control")
        if not _is_name(self.issuer) or " " in self.issuer:
            raise ValueError("an issuer has 1 to 255 characters, none of them a control or a space")

    @property
    def identity(self) -> str:
        """Issuer and subject, which together are one somebody: two issuers may both know a subject called 1."""
        return f"{self.issuer} {self.subject}"


def _is_name(text: object) -> bool:
    return isinstance(text, str) and 1 <= len(text) <= _NAME_MAX and text.isprintable()


class Unauthenticated(Exception):
    """A proof is there and does not hold.

    Attributes:
        reason: why, in one of a fixed set of words; for the log. Never anything of the proof.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@runtime_checkable
class Authenticator(Protocol):
    """One way to prove who one is. Shared by all requests of an event loop.

    Attributes:
        challenge: what a caller without a proof is asked for: the value of `WWW-Authenticate` (`Bearer`).
    """

    @property
    def challenge(self) -> str:
        """See above."""

    async def authenticate(self, scope: Scope, /) -> Principal | None:
        """Who sent the request; None if it holds no proof of this kind.

        Raises:
            Unauthenticated: it holds one that is malformed, forged, expired or meant for somebody else.
            HoldfastError: it cannot be checked at the moment (`Unavailable`).
        """


def bearer_token(headers: Headers, *, length_max: int) -> str | None:
    """The token of `Authorization: Bearer`, or None if there is no such header or it has another scheme; pure.

    Raises:
        Unauthenticated: the header is there twice, or the token is empty, longer than `length_max` bytes, or malformed.
    """
    try:
        value = only(headers, b"authorization")
    except MalformedHeader:
        raise Unauthenticated("several-credentials") from None
    if value is None or value[:6].lower() != b"bearer" or value[6:7] not in {b" ", b""}:
        return None
    if len(value) > length_max + 7:
        raise Unauthenticated("too-long")
    token = value[7:].strip(b" ")
    if not token or token.translate(None, _TOKEN68):
        raise Unauthenticated("malformed")
    return token.decode("ascii")


def principal_of(context: RequestContext | None) -> Principal | None:
    """Who asks, as `Authentication` found it; None: nobody proved anything, or there is no request."""
    if context is None or context.notes is None:
        return None
    found = context.notes.get(_NOTE)
    return found if isinstance(found, Principal) else None


def challenges_of(context: RequestContext | None) -> tuple[str, ...]:
    """What a caller of this request is asked for, as `Authentication` is set up; without that layer `Bearer`."""
    notes = None if context is None else context.notes
    found = None if notes is None else notes.get(_CHALLENGES_NOTE)
    return found if isinstance(found, tuple) else ("Bearer",)


def current_principal() -> Principal | None:
    """Who asks in the request this code runs for, or None."""
    return principal_of(current_request())


class Authentication:
    """Puts who asks into the context of each request and WebSocket, as the table above says.

    `context.principal` is the `identity`, `tenant`, `permissions` and `claims` are the principal's; `principal_of(context)` gives
    all of it.

    Args:
        app: the application around which this stands.
        authenticators: the ways to prove who one is, in the order in which they are tried; the first that finds a proof decides.
        optional: route patterns (`RoutePatterns`, read exactly) on which a proof may be missing; default none.
        failures: counts the proofs that do not hold, and has a client that sends too many wait (429); default None: nobody waits.

    Raises:
        ConfigurationError: there is no authenticator, a pattern cannot be read, or a challenge cannot be sent.
    """

    place: ClassVar[Place] = Place.AUTHENTICATION

    __slots__ = ("_authenticators", "_challenges", "_failures", "_invalid", "_missing", "_optional", "app")

    def __init__(
        self,
        app: App,
        *,
        authenticators: Sequence[Authenticator],
        optional: Iterable[str] = (),
        failures: FailedProofs | None = None,
    ) -> None:
        self.app = app
        self._failures = failures
        self._authenticators = tuple(authenticators)
        if not self._authenticators:
            raise ConfigurationError("name at least one authenticator, or leave this layer out")
        self._optional = RoutePatterns(optional, name="optional")
        self._challenges = challenges = tuple(dict.fromkeys(one.challenge for one in self._authenticators))
        self._missing = _unauthorized(challenges)
        # RFC 6750 3.1: the error belongs to a proof that was there. Only bearer challenges have it.
        self._invalid = _unauthorized([_with(one, 'error="invalid_token"') for one in challenges])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        context = context_of(scope)
        if context.notes is None:
            context.notes = {}
        context.notes[_CHALLENGES_NOTE] = self._challenges
        refusal = None if self._failures is None else self._failures.refusal(scope, context)
        if refusal is not None:
            await _refuse(scope, send, refusal, context)
            return
        try:
            for authenticator in self._authenticators:
                principal = await authenticator.authenticate(scope)
                if principal is not None:
                    _fill(context, principal)
                    break
            else:
                if not self._optional or not self._optional.names(path_of(scope)):
                    await _refuse(scope, send, self._missing, context)
                    return
        except Unauthenticated as error:
            _log.info("request %s: not authenticated: %s", context.request_id or "-", error.reason)
            if self._failures is not None:
                self._failures.count(scope, context)
            await _refuse(scope, send, self._invalid, context)
            return
        except HoldfastError as error:
            _log.warning("request %s: cannot authenticate: %s", context.request_id or "-", error)
            await _refuse(scope, send, problem_for(error), context)
            return
        await self.app(scope, receive, send)


def _fill(context: RequestContext, principal: Principal) -> None:
    context.principal = principal.identity
    context.tenant = principal.tenant
    context.permissions = principal.permissions
    context.claims = principal.claims
    assert context.notes is not None
    context.notes[_NOTE] = principal


def _is_bearer(challenge: str) -> bool:
    return challenge[:6].lower() == "bearer"


def _with(challenge: str, parameters: str) -> str:
    return f"{challenge}{',' if ' ' in challenge else ''} {parameters}" if _is_bearer(challenge) else challenge


def _unauthorized(challenges: Iterable[str]) -> Problem:
    return Problem(
        401,
        "unauthenticated",
        detail="This needs a valid proof of who asks. Nothing was applied.",
        headers=tuple(header(b"www-authenticate", challenge) for challenge in challenges),
    )


async def _refuse(scope: Scope, send: Send, problem: Problem, context: RequestContext) -> None:
    if scope["type"] == "http":
        await send_problem(send, problem, context)
    else:
        # Before it was accepted: the server answers the handshake with 403, which is all a WebSocket can say.
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})


def _forbidden(permissions: frozenset[str], challenges: Iterable[str]) -> Problem:
    # RFC 6750 3.1; what is no scope-token of RFC 6749 3.3 cannot be named.
    said = 'error="insufficient_scope"'
    if all(one.isascii() and one.isprintable() and not _NO_SCOPE.intersection(one) for one in permissions):
        said += f', scope="{" ".join(sorted(permissions))}"'
    return Problem(
        403,
        "forbidden",
        detail="You may not do that. Nothing was applied.",
        headers=tuple(header(b"www-authenticate", _with(one, said)) for one in challenges if _is_bearer(one)),
    )


_NO_SCOPE = frozenset(' "\\')


class Requirement:
    """What somebody must be allowed to do. Immutable; share it freely. Made by `require`.

    It is a coroutine function without arguments, so a framework takes it as a dependency, and answers by `problem_for` what it
    raises.

    Attributes:
        permissions: all that is needed.
    """

    __slots__ = ("permissions",)

    def __init__(self, permissions: frozenset[str]) -> None:
        self.permissions = permissions

    def check(self, context: RequestContext | None = None) -> Principal:
        """Who asks, if it may.

        Args:
            context: of the request; default the current one.

        Raises:
            RequestRefused: with 401 nobody proved anything, with 403 a permission is missing.
        """
        if context is None:
            context = current_request()
        principal = principal_of(context)
        if principal is None:
            raise RequestRefused(_unauthorized(challenges_of(context)))
        if not self.permissions <= principal.permissions:
            raise RequestRefused(_forbidden(self.permissions, challenges_of(context)))
        return principal

    def holds(self, context: RequestContext) -> bool:
        """Whether who asks may; nothing is raised."""
        principal = principal_of(context)
        return principal is not None and self.permissions <= principal.permissions

    async def __call__(self) -> Principal:
        """`check()` for the current request; a coroutine, since frameworks send plain functions to another thread."""
        return self.check()

    def __repr__(self) -> str:
        return f"require({', '.join(map(repr, sorted(self.permissions)))})"


def require(*permissions: str) -> Requirement:
    """A check that the request's principal has all of `permissions`; with none, that there is one at all.

    Raises:
        ConfigurationError: a permission is empty or no text.
    """
    if not all(isinstance(one, str) and one for one in permissions):
        raise ConfigurationError('a permission is a text that is not empty: require("payments:write")')
    return Requirement(frozenset(permissions))
