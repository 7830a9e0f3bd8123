"""What a key is, whose it is, and what becomes of an answer."""

from __future__ import annotations

import random
from typing import Any

import pytest

from holdfast.asgi.answers import Answer, AnswerCodec, StoredAnswer
from holdfast.asgi.headers import MalformedHeader
from holdfast.asgi.key_quota import KeyQuota
from holdfast.asgi.keyed_request import Fate, KeyIdentity, KeyRules, fate_of, identify, key_of, to_keep
from holdfast.errors import ConfigurationError
from tests.asgi.asgi_calls import http_scope


def header(value: bytes) -> list[tuple[bytes, bytes]]:
    """A request's headers with this key."""
    return [(b"host", b"x"), (b"idempotency-key", value)]


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b"8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b'  "a"  ', "a"),
        (b'"a b"', "a b"),
        (b'"a";x=1', "a"),
        (b'"a" ;x;y="z"', "a"),
        (b'"a\\"b\\\\c"', 'a"b\\c'),
        (b'"' + b"k" * 255 + b'"', "k" * 255),
        (b"k" * 255, "k" * 255),
        (b"!#$%&'()*+,-./:;<=>?@[]^_`{|}~", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"),
    ],
)
def test_a_key_is_quoted_or_bare(value: bytes, key: str) -> None:
    """The structured-field string and the same bare are one key."""
    assert key_of(header(value)) == key


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b'""',
        b'"',
        b"   ",
        b"k" * 256,
        b'"' + b"k" * 256 + b'"',
        b"k" * 1_000_000,
        b" " * 1_000_000,
        b'"a',
        b'a"',
        b'"a"b"',
        b'"a\\nb"',
        b'"a\\"',
        b'"a" q=1',
        b'"a";\xff',
        b'"a\tb"',
        b"a b",
        b"a, b",
        b"a\tb",
        b"a\x00b",
        b"a\r\nx: y",
        "schlüssel".encode(),
        "schlüssel".encode("latin-1"),
        b"\xff\xfe",
        "\u2028".encode(),
    ],
    ids=lambda value: f"{len(value)} bytes {value[:8]!r}",
)
def test_what_is_no_key_is_refused_and_not_repeated(value: bytes) -> None:
    """Empty, long, with spaces, control characters, other alphabets: refused, by a text that does not hold it."""
    with pytest.raises(MalformedHeader) as refused:
        key_of(header(value))
    shown = value.strip(b' "').decode("latin-1")
    assert len(shown) < 2 or shown not in str(refused.value)


def test_a_key_comes_once() -> None:
    """Two keys are none; no key is None."""
    with pytest.raises(MalformedHeader, match="more than once"):
        key_of([*header(b"a"), *header(b"a")])
    assert key_of([(b"host", b"x")]) is None


def identity(
    method: str = "POST",
    path: str = "/a",
    *,
    tenant: str | None = "t",
    principal: str = "p",
    key: str = "k",
    **more: Any,
) -> KeyIdentity:
    """An identity that differs from the default in what is named."""
    scope = http_scope(
        method, path, [(b"content-type", more.get("kind", b"json"))], query_string=more.get("query", b"")
    )
    return identify(
        scope,
        tenant=tenant,
        principal=principal,
        key=key,
        body=more.get("body", b"{}"),
        secret=more.get("secret"),
    )


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "u"},
        {"tenant": None},
        {"tenant": ""},
        {"principal": "q"},
        {"method": "PATCH"},
        {"path": "/b"},
        {"key": "l"},
        {"principal": "p1:/", "path": "a"},
    ],
)
def test_every_part_of_whose_it_is_makes_another_row(other: dict[str, Any]) -> None:
    """Tenant, principal, method, path and key: one of them different, and it is another row."""
    assert identity()[:2] != identity(**other)[:2]


@pytest.mark.parametrize(
    "other", [{"body": b"{} "}, {"kind": b"xml"}, {"query": b"a=1"}, {"secret": b"s" * 16}, {"body": b""}]
)
def test_every_part_of_what_was_asked_makes_another_fingerprint(other: dict[str, Any]) -> None:
    """The same row, another fingerprint: exact bytes, content type, query; a secret changes it too."""
    assert identity()[:2] == identity(**other)[:2]
    assert identity().fingerprint != identity(**other).fingerprint


def test_an_identity_fits_its_row_and_tells_nothing() -> None:
    """Digests alone, of fixed length, whatever the tenant and the principal are called."""
    made = identity(tenant="ten ant\u2028" * 1000, principal="principal-name" * 1000, key="secret-key-of-mine")
    assert (len(made.scope), len(made.key), len(made.fingerprint)) == (45, 64, 64)
    assert "secret-key" not in repr(made)
    assert "principal-name" not in repr(made)


def answer(status: int, size: int = 1, *headers: tuple[bytes, bytes]) -> Answer:
    """An answer of `size` bytes."""
    return Answer(status, list(headers), b"x" * size)


FINAL = KeyRules(final=frozenset({404, 409, 422}))


@pytest.mark.parametrize(
    ("given", "rules", "fate"),
    [
        (answer(200), KeyRules(), Fate.APPLIED),
        (answer(204), KeyRules(), Fate.APPLIED),
        (answer(303), KeyRules(), Fate.APPLIED),
        (answer(201, 70_000), KeyRules(), Fate.APPLIED),
        (answer(409), KeyRules(), Fate.UNDONE),
        (answer(409), FINAL, Fate.REFUSED),
        (answer(409, 1, (b"retry-after", b"1")), FINAL, Fate.UNDONE),
        (answer(409, 70_000), FINAL, Fate.UNDONE),
        *((answer(status), FINAL, Fate.UNDONE) for status in (400, 401, 403, 408, 425, 429, 500, 502, 503, 504)),
    ],
)
def test_what_becomes_of_an_answer(given: Answer, rules: KeyRules, fate: Fate) -> None:
    """Below 400 it is applied; refusals are kept where they are final, and nothing else is."""
    assert fate_of(given, rules) is fate


@pytest.mark.parametrize("status", [200, 399, 401, 403, 407, 408, 421, 423, 425, 429, 500, 503])
def test_what_speaks_of_rights_or_of_the_moment_cannot_be_final(status: int) -> None:
    """A setting that would keep it is refused."""
    with pytest.raises(ConfigurationError, match="final"):
        KeyRules(final=frozenset({status}))


@pytest.mark.parametrize("name", [b"set-cookie", b"authorization", b"www-authenticate", b"cookie", b"Location"])
def test_a_secret_header_cannot_be_put_on_the_list(name: bytes) -> None:
    """Not even by configuration; and a name that would never match is told."""
    with pytest.raises(ConfigurationError, match="headers"):
        KeyRules(headers=frozenset({name}))


@pytest.mark.parametrize(
    "setting", [{"wait": -1}, {"kept_max": -1}, {"kept_max": 2_000_000}, {"answer_max": 10, "kept_max": 20}]
)
def test_settings_have_bounds(setting: dict[str, Any]) -> None:
    """Sizes and times outside of them are refused where they are given."""
    with pytest.raises(ConfigurationError):
        KeyRules(**setting)


def test_what_is_kept_is_on_the_list_and_small_enough() -> None:
    """Headers by name; a large body leaves where the result is, and nothing about itself."""
    headers = ((b"location", b"/a"), (b"content-type", b"t"), (b"set-cookie", b"s"), (b"x-own", b"o"))
    assert to_keep(answer(201, 1, *headers), KeyRules()) == (201, list(headers[:2]), b"x")
    assert to_keep(answer(201, 70_000, *headers), KeyRules()) == (201, [headers[0]], None)
    assert to_keep(answer(201, 1, *headers), KeyRules(keep_body=False)) == (201, [headers[0]], None)


def test_a_stored_answer_comes_back_as_it_was(rng: random.Random) -> None:
    """Text, binary, empty and absent bodies, and any byte in a header."""
    bodies: list[bytes | None] = [None, b"", b"plain", "grün\u2028\x00".encode(), bytes(range(256)), b"\xed\xa0\x80"]
    bodies += [rng.randbytes(rng.randrange(64)) for _ in range(50)]
    for body in bodies:
        stored = StoredAnswer(201, [(b"location", b"/\xff"), (b"link", b"a"), (b"link", b"b")], body)
        text = AnswerCodec().encode(stored)
        text.encode()  # no half of a surrogate pair: databases take none
        assert "\x00" not in text
        assert AnswerCodec().decode(text) == stored


def test_a_quota_counts_when_it_must() -> None:
    """A tenant is counted when first seen, when half of the rest may be gone, when full, and when five minutes have passed."""
    quota = KeyQuota(10)
    assert quota.is_due("t", 0.0)
    assert not quota.is_due("t", 0.0), "one counts, the others go on"
    quota.counted("t", 4, 0.0)
    taken = [quota.take("t") for _ in range(3)]
    assert taken == [True] * 3
    assert not quota.is_due("t", 0.5), "not more than once a second"
    assert quota.is_due("t", 1.5)
    quota.counted("t", 9, 2.0)
    assert quota.take("t")
    assert not quota.take("t")
    quota.give_back("t")
    assert quota.take("t")
    assert quota.is_due("t", 302.0)


def test_a_quota_remembers_a_bounded_number_of_tenants() -> None:
    """However many come, and whoever is forgotten is counted again."""
    quota = KeyQuota(10, tenants_max=3)
    for number in range(100):
        assert quota.is_due(f"t{number}", 0.0)
        quota.counted(f"t{number}", 0, 0.0)
    assert len(quota._tenants) == 3
    quota.forget("t99")
    assert quota.is_due("t99", 0.0)


@pytest.mark.parametrize("setting", [{"most": 0}, {"tenants_max": 0}])
def test_a_quota_of_nothing_is_refused(setting: dict[str, int]) -> None:
    """It would refuse everybody."""
    with pytest.raises(ConfigurationError):
        KeyQuota(**setting)
