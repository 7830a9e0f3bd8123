"""Patterns of paths: generous where they protect, exact where they let through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.asgi.route_patterns import RoutePatterns, path_of
from holdfast.errors import ConfigurationError


@pytest.mark.parametrize(
    ("pattern", "path", "named", "covered"),
    [
        ("/admin", "/admin", True, True),
        ("/admin", "/admin/", False, True),
        ("/admin", "/admin/x", False, False),
        ("/admin/*", "/admin", True, True),
        ("/admin/*", "/admin/x/y", True, True),
        ("/admin/*", "/administrator", False, False),
        ("/admin/*", "/ADMIN/x", False, True),
        ("/admin/*", "//admin//x", False, True),
        ("/admin/*", "/./admin/x", False, True),
        ("/admin/*", "/public/../admin/x", False, True),
        ("/admin/*", "/admin/../public", False, True),
        ("/admin/*", "/x\\..\\admin", False, True),
        ("/admin/*", "\\admin", False, True),
        ("/admin", "/admin\n", False, True),
        ("/admin", "/admin/\n", False, True),
        ("/admin/*", "/public", False, False),
        ("/admin/*", "/" + "x/" * 300, False, True),
        ("/admin/*", "/" * 300 + "admin", False, True),
        ("/admin/*", "/" * 100 + "admin", False, True),
        ("/admin/*", "/public" + "/x" * 300, False, True),
        ("/public/*", "/public" + "/x" * 300, False, True),
        ("/*", "/anything/at/all", True, True),
        ("/*", "/", True, True),
        ("/", "/", True, True),
        ("/", "/x", False, False),
        ("/users/{id}/keys", "/users/7/keys", True, True),
        ("/users/{id}/keys", "/users/7/keys/1", False, False),
        ("/users/{id}/keys", "/users//keys", False, False),
        ("/users/{id}/*", "/users/7", True, True),
        ("/users/{id}/*", "/users", False, False),
        ("/public/*", "/public/../admin", False, True),
        ("/public/*", "/public//x", False, True),
        ("/public/*", "/public/x/", True, True),
        ("/straße", "/STRASSE", False, True),
        ("/admin", "", False, False),
        ("/admin", "*", False, False),
    ],
)
def test_a_path_is_named_exactly_and_covered_generously(pattern: str, path: str, named: bool, covered: bool) -> None:
    """Each question in its own way."""
    patterns = RoutePatterns([pattern], name="rules")
    assert (patterns.names(path), patterns.covers(path)) == (named, covered)


@given(st.lists(st.sampled_from(["admin", "public", "..", ".", "", "\\", "x", "ADMIN"]), max_size=8))
def test_what_is_named_is_covered(parts: list[str]) -> None:
    """A path that is let through by a pattern would also be protected by it; there is no gap between the two readings."""
    path = "/" + "/".join(parts)
    patterns = RoutePatterns(["/admin/*", "/public", "/{x}/y"], name="rules")
    assert patterns.covers(path) or not patterns.names(path)


@pytest.mark.parametrize(
    "pattern", ["", "admin", "/ad*", "/*/x", "/a//b", "/a/../b", "/{id", "/x{id}", "/a//*", "/a\\b", "/./x"]
)
def test_patterns_that_mean_something_else_are_refused(pattern: str) -> None:
    """No half-understood regular expression or glob is accepted."""
    with pytest.raises(ConfigurationError, match="rules"):
        RoutePatterns([pattern], name="rules")


def test_one_text_is_not_several_patterns() -> None:
    """A text would be read letter by letter."""
    with pytest.raises(ConfigurationError, match="not one text"):
        RoutePatterns("/admin", name="rules")


@pytest.mark.parametrize(
    ("root", "path", "seen"),
    [
        ("", "/a", "/a"),
        ("/api", "/api/a", "/a"),
        ("/api", "/api", ""),
        ("/api", "/apis", "/apis"),
        ("/api", "/a", "/a"),
    ],
)
def test_the_root_path_is_taken_off(root: str, path: str, seen: str) -> None:
    """As the frameworks do it."""
    assert path_of({"path": path, "root_path": root}) == seen
