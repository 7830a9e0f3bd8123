"""Names: modules are nouns of the domain, and `__all__` is the public face."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.house.sources import PACKAGE, ROOT, module_files, parse, text_files

NAMELESS = {"utils", "util", "common", "helpers", "helper", "core", "misc", "base", "shared", "tools"}
"""Names that say where the author was, not what the module is. (The folder `tools/` holds programs, no modules.)"""


def definitions(tree: ast.Module) -> tuple[set[str], set[str]]:
    """The public classes and functions that a module defines, and its public variables."""
    functions: set[str] = set()
    variables: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            functions.add(node.name)
        elif isinstance(node, ast.Assign):
            variables |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            variables.add(node.target.id)
    return _public(functions), _public(variables)


def _public(names: set[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def reexported(tree: ast.Module) -> set[str]:
    """The names a module imports at its top level from the package itself.

    A module with a `__getattr__` may import some of them under `TYPE_CHECKING` alone: it loads those when they are named.
    """
    nodes = list(tree.body)
    if any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body):
        nodes += [inner for node in tree.body if isinstance(node, ast.If) for inner in node.body]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level > 0]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def declared(tree: ast.Module) -> list[str] | None:
    """The literal value of `__all__`, or None when there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return None


def wrong_face(path: Path, tree: ast.Module) -> set[str]:
    """The names by which `__all__` and the module differ.

    `__all__` lists every public class and function of the module, chooses among its variables and what it takes from the rest of
    the package, and holds nothing else. Only an `__init__` that defines nothing may do without.
    """
    names = declared(tree)
    functions, variables = definitions(tree)
    if names is None:
        return functions | variables or (set() if path.name == "__init__.py" else {"__all__"})
    stated = {name for name in names if not (name.startswith("__") and name.endswith("__"))}
    return (functions - stated) | (stated - functions - variables - reexported(tree))


def nameless(path: Path) -> set[str]:
    """The parts of a module's path that name nothing."""
    return {part.strip("_") for part in path.with_suffix("").parts} & NAMELESS


@pytest.mark.parametrize("path", module_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_all_is_the_public_face(path: Path) -> None:
    """`__all__` is a literal that holds every public class and function, and nothing that is not there."""
    assert wrong_face(path, parse(path)) == set()


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("a.py", "__all__ = ['f']\ndef f(): ...\ndef g(): ...", {"g"}),
        ("a.py", "__all__ = ['f', 'h']\ndef f(): ...", {"h"}),
        ("a.py", "from b import h\n__all__ = ['h']", {"h"}),
        ("a.py", "LIMIT: int = 3", {"LIMIT"}),
        ("a.py", "_private = 3", {"__all__"}),
        ("a.py", "from .b import h\n__all__ = ['h', 'k']", {"k"}),
        ("__init__.py", "from .b import h\n__all__ = ['h', 'k']", {"k"}),
        ("__init__.py", "if TYPE_CHECKING:\n from .b import h\n__all__ = ['h']", {"h"}),
    ],
)
def test_planted_face_is_found(path: str, source: str, found: set[str]) -> None:
    """A name too many, too few or borrowed is told."""
    assert wrong_face(Path(path), ast.parse(source)) == found


def test_no_module_is_nameless() -> None:
    """Every module of the package and of the tests says what it is."""
    paths = [path.relative_to(PACKAGE) for path in module_files()]
    paths += [path.relative_to(ROOT / "tests") for path in text_files() if path.is_relative_to(ROOT / "tests")]
    assert {str(path) for path in paths if nameless(path)} == set()


def test_planted_nameless_module_is_found() -> None:
    """The rule above goes red for a module, a private one and a package."""
    planted = [Path("utils.py"), Path("dialects/_common.py"), Path("core/engine.py")]
    assert [nameless(path) for path in planted] == [{"utils"}, {"common"}, {"core"}]
