"""Header lists are read once and strictly, and nothing that splits a response gets out."""

from __future__ import annotations

import pytest

from holdfast.asgi.headers import MalformedHeader, first, header, only, put, text
from holdfast.errors import ConfigurationError

LIST = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]


def test_first_and_only() -> None:
    """`first` takes the first; `only` refuses a second."""
    assert first(LIST, b"a") == b"1"
    assert first(LIST, b"c") is None
    assert only(LIST, b"b") == b"2"
    assert only(LIST, b"c") is None
    with pytest.raises(MalformedHeader, match="more than once"):
        only(LIST, b"a")


@pytest.mark.parametrize("value", [b"", b"  ", b"a\r\nb", b"a\x00", b"a\x1b[0m", b"a\tb", b"\xff", b"x" * 11, b"a\x7f"])
def test_text_refuses_what_is_not_plain(value: bytes) -> None:
    """Empty, long, control characters and bytes above ASCII are refused, and the text does not repeat them."""
    with pytest.raises(MalformedHeader) as refused:
        text(b"x-id", value, length_max=10)
    assert repr(value)[2:-1].strip() not in str(refused.value) or not value.strip()


def test_text_takes_what_is_plain() -> None:
    """Visible ASCII passes, spaces around it do not count as part of it."""
    assert text(b"x-id", b" abc def ", length_max=10) == "abc def"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "v"),
        ("a b", "v"),
        ("a\r\n", "v"),
        ("ä", "v"),
        ("a:", "v"),
        ("a", "v\r\nset-cookie: x"),
        ("a", "\x00"),
        ("a", "€"),
    ],
)
def test_planted_response_splitting_is_refused(name: str, value: str) -> None:
    """A name that is no token and a value with a line break do not become a header."""
    with pytest.raises(ConfigurationError):
        header(name, value)


def test_header_is_what_asgi_wants() -> None:
    """Names in lower case, numbers as text, a tab allowed."""
    assert header("X-Count", 3) == (b"x-count", b"3")
    assert header(b"a", "b\tc") == (b"a", b"b\tc")


def test_put_leaves_no_second() -> None:
    """Ours takes the place of the application's, whatever its case, in the same list."""
    headers = [(b"A", b"1"), (b"b", b"2")]
    put(headers, (b"a", b"9"))
    assert headers == [(b"b", b"2"), (b"a", b"9")]
