"""What an Idempotency-Key says, whose it is, and what becomes of an answer. Pure.

    key = key_of(scope["headers"])                      # None, or a key that is well formed
    asked = identify(scope, context, key, body, ...)    # scope, key and fingerprint of its row
    fate_of(answer, rules)                              # is it applied, is it kept?

The header is that of the IETF's draft (draft-ietf-httpapi-idempotency-key-header): a structured-field string (RFC 9651, 3.3.3),
`Idempotency-Key: "8e03978e-40d5-43dd-bc93-6894a57f9324"`, whose parameters say nothing; or the same bare, as many clients do.

**Whose key it is.** A row is found by tenant, principal, method, path and key. The same key of another tenant or another caller
is another row, so no byte of an answer can cross over, and a key that leaks is worth nothing without its owner's credentials.
The path is the concrete one: the layer stands outside of any router.

**What it stands for.** The fingerprint is a digest (with a secret: an HMAC) of method, path, query, content type and the exact
bytes of the body. The same key with another fingerprint is refused, never answered.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ..deadline import seconds
from ..errors import ConfigurationError
from .answers import Answer, StoredAnswer
from .headers import MalformedHeader, first, only
from .interface import Headers, Scope

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = [
    "KEPT_HEADERS",
    "KEY_LENGTH_MAX",
    "Fate",
    "KeyIdentity",
    "KeyRules",
    "fate_of",
    "identify",
    "key_of",
    "to_keep",
]

KEY_LENGTH_MAX = 255
"""Characters in a key, without its quotes."""

_HEADER = b"idempotency-key"
_QUOTE = ord('"')
# Bare: visible ASCII without the quote and the backslash.
_KEY_BYTES = bytes(number for number in range(0x21, 0x7F) if number not in b'"\\')

KEPT_HEADERS = frozenset(
    {
        b"content-encoding",
        b"content-language",
        b"content-location",
        b"content-type",
        b"etag",
        b"last-modified",
        b"link",
        b"location",
        b"vary",
    }
)
"""What is kept of an answer's headers: what describes the body, what it depends on, and where the result is."""

_NEVER_KEPT = frozenset(
    {
        b"authorization",
        b"authentication-info",
        b"connection",
        b"content-length",
        b"cookie",
        b"date",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"server",
        b"set-cookie",
        b"set-cookie2",
        b"transfer-encoding",
        b"www-authenticate",
    }
)
"""Secrets of one caller at one moment, and what belongs to a connection."""

_ABOUT_THE_BODY = (b"content-type", b"content-encoding", b"content-language")

_NEVER_FINAL = frozenset({401, 403, 407, 408, 421, 423, 425, 429})
"""They speak of the caller's rights or of the moment: the same request may be answered otherwise a second later."""


def key_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The request's key, or None where it has none.

    Raises:
        MalformedHeader: it is there twice, empty, longer than 255 characters, no structured-field string of printable ASCII, or
            bare and with a space, a quote or a backslash in it. The text does not repeat it.
    """
    value = only(headers, _HEADER)
    if value is None:
        return None
    if len(value) > KEY_LENGTH_MAX + 64:  # before anything looks at it; the rest is room for spaces and parameters
        raise MalformedHeader(f"the Idempotency-Key is longer than {KEY_LENGTH_MAX} characters")
    value = value.strip(b" \t")
    if value[:1] == b'"':
        value = _string(value)
    elif value.translate(None, _KEY_BYTES):
        raise MalformedHeader(_MADE_OF)
    if not 0 < len(value) <= KEY_LENGTH_MAX:
        raise MalformedHeader(f"an Idempotency-Key has 1 to {KEY_LENGTH_MAX} characters")
    return value.decode("ascii")


_MADE_OF = "an Idempotency-Key is made of printable ASCII characters in double quotes, or of visible ones bare"


def _string(value: bytes) -> bytes:
    """What a structured-field string says (RFC 9651, 4.2.5); what stands behind it, its parameters, is left out."""
    said = bytearray()
    escaped = False
    for position, byte in enumerate(value[1:], start=2):
        if not 0x20 <= byte <= 0x7E or (escaped and byte not in b'"\\'):
            break
        if escaped or byte not in b'"\\':
            said.append(byte)
            escaped = False
        elif byte == _QUOTE:
            rest = value[position:].lstrip(b" ")
            if rest and (rest[:1] != b";" or not rest.isascii() or not rest.decode("ascii").isprintable()):
                break
            return bytes(said)
        else:
            escaped = True
    raise MalformedHeader(_MADE_OF)


@dataclass(frozen=True, slots=True)
class KeyRules:
    """How keyed requests of a route are treated. Immutable; share it freely.

    Attributes:
        required: a request without a key is refused with 400. Default False: it simply runs.
        wait: how long a request waits while another with its key is at work, seconds or `timedelta`, default 10; never beyond
            the request's deadline, which alone bounds how long it waits for a connection. 0: it is answered 409 at once if the
            other is in this process; one in another process is found out by asking the store, which is given a second.
        final: statuses of 400 to 499 that are answers for good, and kept; default none. What such a request wrote is rolled
            back all the same. A refusal that is not kept is run again when it is repeated: without effect, nothing is lost.
        keep_body: False: what the answer said is not kept, only that there was one. For answers that hold secrets.
        kept_max: bytes of a body that are kept, default 64 KiB; of a larger one only that it was there.
        answer_max: bytes an answer may have at all, default 1 MiB; it is held in memory until COMMIT.
        headers: the names (lower case) of the headers that are kept; default `KEPT_HEADERS`.

    Raises:
        ConfigurationError: a value is outside its bounds, or names a status or header that must never be kept.
    """

    required: bool = False
    wait: float | timedelta = 10.0
    final: frozenset[int] = frozenset()
    keep_body: bool = True
    kept_max: int = 65_536
    answer_max: int = 1_048_576
    headers: frozenset[bytes] = KEPT_HEADERS

    def __post_init__(self) -> None:
        object.__setattr__(self, "wait", seconds(self.wait, name="wait"))
        if not 0 <= self.kept_max <= self.answer_max:
            raise ConfigurationError(
                "kept_max must be 0 or more, and at most answer_max: nothing larger is ever complete"
            )
        wrong = sorted(status for status in self.final if not 400 <= status < 500 or status in _NEVER_FINAL)
        if wrong:
            raise ConfigurationError(
                f"final cannot hold {wrong}: only 4xx can be final, and those about rights or the moment "
                "(401, 403, 407, 408, 421, 423, 425, 429) never are"
            )
        names = sorted(name.decode("latin-1") for name in self.headers if name in _NEVER_KEPT or name != name.lower())
        if names:
            raise ConfigurationError(
                f"headers cannot hold {names}: secrets are never kept, and names are in lower case"
            )

    @property
    def wait_s(self) -> float:
        """`wait` in seconds."""
        return seconds(self.wait)


class KeyIdentity(NamedTuple):
    """Where the row of a keyed request is, and what it must say. Holds digests alone.

    Attributes:
        scope: whose rows: the tenant's; 45 characters.
        key: which row: principal, method, path and key; 64 hexadecimal digits.
        fingerprint: what was asked for; 64 hexadecimal digits.
    """

    scope: str
    key: str
    fingerprint: str


def identify(
    scope: Scope, *, tenant: str | None, principal: str, key: str, body: bytes, secret: bytes | None = None
) -> KeyIdentity:
    """The identity of a keyed request.

    Args:
        scope: the request's.
        tenant: for whom; None: a service without tenants.
        principal: who asks, proven.
        key: the key, as `key_of` gave it.
        body: all of it.
        secret: makes the fingerprint an HMAC, so that who reads the table cannot try out what was in a short body. Changing it
            turns the repetition of an older request into a 422, so change it when no key of before is alive.
    """
    method = scope["method"].encode("latin-1")
    path = scope["path"].encode("utf-8", "surrogatepass")
    whose = b"" if tenant is None else b"=" + tenant.encode("utf-8", "surrogatepass")
    row = _joined(principal.encode("utf-8", "surrogatepass"), method, path, key.encode("ascii"))
    content_type = first(scope["headers"], b"content-type") or b""
    asked = _joined(method, path, scope.get("query_string") or b"", content_type, body)
    digest = hashlib.sha256(asked) if secret is None else hmac.new(secret, asked, "sha256")
    return KeyIdentity(
        f"http:{hashlib.sha256(whose).hexdigest()[:40]}", hashlib.sha256(row).hexdigest(), digest.hexdigest()
    )


def _joined(*parts: bytes) -> bytes:
    # Each part behind its length: no two lists of parts have the same bytes.
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)


class Fate(Enum):
    """What becomes of a request's effect and of its answer."""

    APPLIED = "applied"
    """The effect is committed, with the answer."""
    REFUSED = "refused"
    """What was written is rolled back; the answer is kept."""
    UNDONE = "undone"
    """What was written is rolled back; nothing is kept, and the key is free again."""


def fate_of(answer: Answer, rules: KeyRules) -> Fate:
    """Below 400 is applied; of the rest only what the rules call final is kept, and nothing that asks to come again."""
    status = answer.status
    if status < 400:
        return Fate.APPLIED
    if status in rules.final and rules.keep_body and len(answer.body) <= rules.kept_max:
        again = first(answer.headers, b"retry-after")
        return Fate.REFUSED if again is None else Fate.UNDONE
    return Fate.UNDONE


def to_keep(answer: Answer, rules: KeyRules) -> StoredAnswer:
    """What of `answer` may be given again: headers on the list, and the body if it may be kept and is not too large."""
    headers: Headers = [pair for pair in answer.headers if pair[0] in rules.headers]
    if rules.keep_body and len(answer.body) <= rules.kept_max:
        return StoredAnswer(answer.status, headers, answer.body)
    return StoredAnswer(answer.status, [pair for pair in headers if pair[0] not in _ABOUT_THE_BODY], None)
