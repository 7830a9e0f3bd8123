"""Reading and building header lists: one scan in, nothing that could split a response out.

A value that came from outside is bytes until somebody has checked its length and its characters; `text` does both. A value
that goes out is checked by `header`: a CR or LF in it would begin a header, or a response, of an attacker's making.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ConfigurationError
from .interface import Headers

__all__ = ["Fields", "MalformedHeader", "first", "header", "only", "put", "text"]

# RFC 9110 5.6.2: what a name is made of.
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
# RFC 9110 5.5: a value has no control characters but the tab.
_CONTROLS = bytes(number for number in (*range(32), 127) if number != 9)


class MalformedHeader(ValueError):
    """A header from outside is not what its field allows. The text names the field and the rule, never the value."""


class Fields(dict[bytes, bytes]):
    """The headers of one request by name, read once for all layers (`context.fields_of`): most ask for what is not there.

    Of a name that is there more than once it knows the last value. Who must tell one from two asks `only`.

    Attributes:
        pairs: the list it was read from.
        repeated: whether any name is there more than once.
    """

    __slots__ = ("pairs", "repeated")

    def __init__(self, pairs: Headers) -> None:
        super().__init__(pairs)
        self.pairs = pairs
        self.repeated = len(self) < len(pairs)

    def only(self, name: bytes) -> bytes | None:
        """As the function `only`."""
        return only(self.pairs, name) if self.repeated else self.get(name)


def first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of the first header called `name` (lower case), or None."""
    for known, value in headers:
        if known == name:
            return value
    return None


def only(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of the one header called `name` (lower case), or None where there is none.

    Raises:
        MalformedHeader: it is there twice. Two layers that each take another one of them can be played against each other.
    """
    found: bytes | None = None
    for known, value in headers:
        if known == name:
            if found is not None:
                raise MalformedHeader(f"the header {name.decode('ascii')} is there more than once")
            found = value
    return found


def text(name: bytes, value: bytes, *, length_max: int) -> str:
    """`value` as text, if it is visible ASCII and not too long.

    Args:
        name: the field, for the error.
        value: what came in; spaces around it are dropped.
        length_max: bytes it may have.

    Raises:
        MalformedHeader: it is empty, longer, or holds anything but visible ASCII and spaces.
    """
    if len(value) > length_max:
        raise MalformedHeader(f"the header {name.decode('ascii')} is longer than {length_max} bytes")
    value = value.strip(b" \t")
    if not value or not value.isascii() or value.translate(None, _CONTROLS) != value or b"\t" in value:
        raise MalformedHeader(f"the header {name.decode('ascii')} must be visible ASCII and not empty")
    return value.decode("ascii")


def header(name: str | bytes, value: str | bytes | int) -> tuple[bytes, bytes]:
    """One header to send, as ASGI wants it: the name in lower case, both as bytes.

    Raises:
        ConfigurationError: the name is no token, or the value holds a control character or what Latin-1 cannot say.
    """
    raw_name = name.encode("latin-1", "replace") if isinstance(name, str) else name
    if not raw_name or not _TOKEN.issuperset(raw_name):
        raise ConfigurationError("a header's name must be a token (letters, digits and !#$%&'*+-.^_`|~)")
    try:
        raw_value = value if isinstance(value, bytes) else str(value).encode("latin-1")
    except UnicodeEncodeError:
        raise ConfigurationError(f"the value of {raw_name.decode()} must be Latin-1; encode it") from None
    if raw_value.translate(None, _CONTROLS) != raw_value:
        raise ConfigurationError(f"the value of {raw_name.decode()} must hold no line break and no control character")
    return raw_name.lower(), raw_value


def put(headers: Headers, pair: tuple[bytes, bytes]) -> None:
    """Put `pair` into `headers`, in place of all of its name (lower case): an application's own does not stay beside it."""
    name = pair[0]
    headers[:] = [known for known in headers if known[0].lower() != name]
    headers.append(pair)
