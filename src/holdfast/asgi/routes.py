"""What a setting says for a route: templates as frameworks write them, matched against the path of a request.

    table = RouteTable({"/reports": 1, "/users/{id}/export": 2, "/files/{name:path}": 3})
    table.match(scope)                      # (template, value), or None

Layers outside of a framework run before it routes, so they match by themselves. A template matches what Starlette and FastAPI
would match with it: `{name}` is one segment that is not empty, `{name:path}` all the rest; upper and lower case differ, and so do
`/users` and `/users/`. The first one that fits, in the order given, answers; those without parameters are asked first. A path
is cut at its slashes once, and nothing in it is searched, so a hostile one costs no more than its length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from ..errors import ConfigurationError
from .interface import Scope

__all__ = ["RouteTable"]

V = TypeVar("V")

_SEGMENTS_MAX = 64


class RouteTable(Generic[V]):
    """Values by route. Immutable; share it freely.

    Args:
        routes: the value of each template; each begins with `/`, 64 segments at most.

    Raises:
        ConfigurationError: a template does not begin with `/`, is too long, or goes on after `{name:path}`.
    """

    __slots__ = ("_exact", "_patterns")

    def __init__(self, routes: Mapping[str, V]) -> None:
        self._exact: dict[str, V] = {}
        self._patterns: list[tuple[str, list[str | None], bool, V]] = []
        for template, value in routes.items():
            if not template.startswith("/") or template.count("/") > _SEGMENTS_MAX:
                raise ConfigurationError(
                    f"the route {template!r} must begin with / and have {_SEGMENTS_MAX} segments at most"
                )
            if "{" not in template:
                self._exact[template] = value
                continue
            segments = template[1:].split("/")
            takes_rest = segments[-1].startswith("{") and segments[-1].endswith(":path}")
            if any(segment.endswith(":path}") for segment in segments[:-1]):
                raise ConfigurationError(
                    f"the route {template!r} goes on after {{name:path}}, which takes all the rest"
                )
            if takes_rest:
                segments = segments[:-1]
            fixed = [None if segment.startswith("{") and segment.endswith("}") else segment for segment in segments]
            self._patterns.append((template, fixed, takes_rest, value))

    def match(self, scope: Scope) -> tuple[str, V] | None:
        """The template that fits the path of `scope` (below its `root_path`), and its value; None: there is none."""
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        if root and path.startswith(root) and path[len(root) : len(root) + 1] in {"", "/"}:
            path = path[len(root) :]
        if path in self._exact:
            return path, self._exact[path]
        if not self._patterns:
            return None
        segments = path[1:].split("/", _SEGMENTS_MAX)
        for template, fixed, takes_rest, value in self._patterns:
            if len(segments) > len(fixed) if takes_rest else len(segments) == len(fixed):
                for wanted, segment in zip(fixed, segments, strict=False):
                    if (not segment) if wanted is None else wanted != segment:
                        break
                else:
                    return template, value
        return None
