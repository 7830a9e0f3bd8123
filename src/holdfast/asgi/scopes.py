"""A request's scope as it was, for calling the application again."""

from __future__ import annotations

from .interface import Scope

__all__ = ["ScopeBefore"]


class ScopeBefore:
    """A scope before an application had it. Frameworks write the route, its parameters and their state into it.

    Args:
        scope: the scope; `state` is copied as well, one level deep: what the layers outside put there stays the same object.
    """

    __slots__ = ("_before", "_scope")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._before = _copied(scope)

    def restore(self) -> None:
        """Make the scope what it was. In place: the layers outside look at this very object for the route."""
        self._scope.clear()
        self._scope.update(_copied(self._before))


def _copied(scope: Scope) -> Scope:
    state = scope.get("state")
    return dict(scope) if state is None else {**scope, "state": dict(state)}
