"""Which requests a rule is for, by their path: `/admin`, `/admin/*`, `/users/{id}/keys`. No regular expressions.

Two questions, since a mistake costs differently:

- `covers(path)`: for rules that protect. In doubt yes: letter case, doubled, leading or trailing slashes, `.` and `..`, and
  backslashes are read the way that brings the path under the rule, whatever the router behind makes of them.
- `names(path)`: for rules that let through. In doubt no: only the path exactly as the pattern spells it.

Work is bounded by the length of the path; a path with more than 256 segments is covered by everything and named by nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..errors import ConfigurationError
from .interface import Scope

__all__ = ["Readings", "RoutePatterns", "exact_paths", "path_of", "readings"]

_SEGMENTS_MAX = 256
_ANY = "{}"

Readings = list[list[str]] | None


class _Pattern(NamedTuple):
    parts: list[str]
    rest: bool  # more segments may follow
    open: bool  # some of them stand for any


def path_of(scope: Scope) -> str:
    """The path as the application's routes see it: decoded, and without the server's `root_path`."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and (len(path) == len(root) or path[len(root)] == "/"):
        return path[len(root) :]
    return path


def exact_paths(paths: Iterable[str], *, name: str) -> frozenset[str]:
    """Paths that are compared as they stand, without the server's `root_path` (`path_of`).

    Raises:
        ConfigurationError: it is one text instead of several, or one does not begin with `/`.
    """
    if isinstance(paths, str):
        raise ConfigurationError(f"{name} must be several paths, not one text; write [{paths!r}]")
    found = frozenset(paths)
    if not all(path.startswith("/") for path in found):
        raise ConfigurationError(f"each path of {name} must begin with /")
    return found


class RoutePatterns:
    """Some patterns. Immutable; share it freely.

    Args:
        patterns: each begins with `/`. `{name}` stands for any one segment, a final `*` for the rest of the path, none included:
            `/admin/*` is `/admin` and everything below.
        name: what to call them in errors.

    Raises:
        ConfigurationError: a pattern is none of that.
    """

    __slots__ = ("_exact", "_loose")

    def __init__(self, patterns: Iterable[str], *, name: str) -> None:
        if isinstance(patterns, str):
            raise ConfigurationError(f"{name} must be several patterns, not one text; write [{patterns!r}]")
        self._exact = tuple(_pattern(text, name) for text in patterns)
        self._loose = tuple(one._replace(parts=[part.casefold() for part in one.parts if part]) for one in self._exact)

    def __bool__(self) -> bool:
        return bool(self._exact)

    def names(self, path: str) -> bool:
        """Whether a pattern spells exactly this path."""
        parts = path.split("/", _SEGMENTS_MAX + 1)[1:]
        if len(parts) > _SEGMENTS_MAX or "\\" in path or "." in parts or ".." in parts or "" in parts[:-1]:
            return False
        return any(_match(pattern, parts) for pattern in self._exact)

    def covers(self, path: str) -> bool:
        """Whether a pattern could mean this path, in any reading."""
        return self.cover(readings(path))

    def cover(self, known: Readings) -> bool:
        """`covers`, for a path whose `readings` are known already: who has many patterns reads it once."""
        if known is None:
            return True
        for parts in known:
            for pattern in self._loose:
                if _match(pattern, parts):
                    return True
        return False


def readings(path: str) -> Readings:
    """Every way in which a router might read `path`, as segments in one letter case; None: too many to tell. Pure."""
    # Starlette's expressions end with `$`, which also matches before a line break at the end.
    path = path.casefold().replace("\\", "/").rstrip("\n")
    if path.count("/") > _SEGMENTS_MAX:
        return None
    if path[:1] == "/" and "//" not in path and "/." not in path:
        parts = path.strip("/").split("/")
        return [parts if parts[0] else []]
    parts = [part for part in path.split("/") if part and part != "."]
    resolved: list[str] = []
    for part in parts:
        if part != "..":
            resolved.append(part)
        elif resolved:
            resolved.pop()
    # A router may resolve "..", take it as it stands, or drop it.
    return [parts, resolved, [part for part in parts if part != ".."]]


def _pattern(text: str, name: str) -> _Pattern:
    parts = text.split("/")
    if parts[0] or len(parts) < 2:
        raise ConfigurationError(f"{name}: {text!r} must begin with /")
    rest = parts[-1] == "*"
    body = [_ANY if part[:1] == "{" and part[-1:] == "}" else part for part in (parts[1:-1] if rest else parts[1:])]
    if any("*" in part or part in {".", ".."} or "\\" in part for part in body) or "" in body[:-1]:
        raise ConfigurationError(
            f"{name}: {text!r} must be made of plain segments, {{name}} for any one of them, and at most one * at the very end"
        )
    if any(part != _ANY and ("{" in part or "}" in part) for part in body):
        raise ConfigurationError(f"{name}: {text!r}: {{name}} stands for a whole segment, not for a part of one")
    if rest and body and not body[-1]:
        raise ConfigurationError(f"{name}: {text!r} has an empty segment")
    return _Pattern(body, rest, _ANY in body)


def _match(pattern: _Pattern, parts: list[str]) -> bool:
    length = len(pattern.parts)
    if len(parts) < length or (len(parts) > length and not pattern.rest):
        return False
    if not pattern.open:
        return parts[:length] == pattern.parts
    return all(want == part or (want == _ANY and part) for want, part in zip(pattern.parts, parts, strict=False))
