"""Tidiness: nothing of one machine in the files, nothing too long to read, every test says what holds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.house.sources import PACKAGE, ROOT, module_files, parse, text_files

# Written so that no rule matches its own text.
TRACES = {
    "a path of one machine": re.compile(r"(?<![\w.~/-])/(?:work|home|root|Users|mnt)/\w"),
    "a package registry": re.compile(
        r"\b(?:pypi|pythonhosted|npmjs|debian|nodesource)\.(?:org|com|net)\b(?!\S*/license)"
    ),
    "a private address": re.compile(
        r"\b(?:10\.\d+\.\d+\.\d+|192\.168\.\d+\.\d+|172\.(?:1[6-9]|2\d|3[01])\.\d+\.\d+)\b"
    ),
    "a private host": re.compile(r"\b[\w-]+\.(?:internal|intranet|corp|lan)\b"),
}

# A ratchet: what is longer is listed with its length of today and may only shrink. The lists are meant to stay empty.
FILE_LINES = 600
LONGER_FILES: dict[str, int] = {}
FUNCTION_LINES = 60
LONGER_FUNCTIONS: dict[str, int] = {}


def traces(text: str) -> list[str]:
    """What in `text` belongs to one machine or network, with its line number."""
    lines = enumerate(text.splitlines(), start=1)
    return [f"{number}: {kind}" for number, line in lines for kind, rule in TRACES.items() if rule.search(line)]


def function_lengths(tree: ast.Module) -> dict[str, int]:
    """The lines of each function, its docstring left out: explaining is never too long."""
    lengths = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            docstring = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0
            lengths[node.name] = (node.end_lineno or 0) - node.lineno + 1 - docstring
    return lengths


def silent_tests(tree: ast.Module) -> set[str]:
    """The test functions that do not say in a docstring what holds."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return {node.name for node in functions if node.name.startswith("test_") and not ast.get_docstring(node)}


def python_files() -> list[Path]:
    """Every Python file of the repository."""
    return [path for path in text_files() if path.suffix == ".py"]


def test_no_file_holds_traces_of_a_machine() -> None:
    """No path, registry or private address of the machine something was written on."""
    found = {str(path.relative_to(ROOT)): traces(path.read_text(encoding="utf-8")) for path in text_files()}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "see /" + "home/ada/holdfast for more",
        "open('/" + "work/main/x')",
        "--index-url https://pypi" + ".org/simple",
        "http://deb.debian" + ".org/debian",
        "host = '192.168" + ".1.7'",
        "at 10.0" + ".0.12:3306",
        "http://db." + "corp/health",
    ],
)
def test_planted_trace_is_found(line: str) -> None:
    """Each kind of trace is told."""
    assert len(traces(line)) == 1


@pytest.mark.parametrize(
    "line", ["MariaDB 10.11.19", "127.0.0.1:3306", "src/holdfast/work/x", "/api/v1/users", "~/.cache"]
)
def test_innocent_line_is_not_a_trace(line: str) -> None:
    """Versions, loopback, relative paths and routes are nobody's machine."""
    assert traces(line) == []


def test_files_stay_short() -> None:
    """No Python file is longer than 600 lines, and those on the list have not grown."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in python_files()}
    long = {path: lines for path, lines in lengths.items() if lines > LONGER_FILES.get(path, FILE_LINES)}
    stale = {path for path in LONGER_FILES if lengths.get(path, 0) <= FILE_LINES}
    assert (long, stale) == ({}, set())


def test_functions_stay_short() -> None:
    """No function is longer than 60 lines without its docstring, and those on the list have not grown."""
    lengths = {
        f"{path.relative_to(ROOT)}:{name}": lines
        for path in python_files()
        for name, lines in function_lengths(parse(path)).items()
    }
    assert len(lengths) > 100
    long = {name: lines for name, lines in lengths.items() if lines > LONGER_FUNCTIONS.get(name, FUNCTION_LINES)}
    stale = {name for name in LONGER_FUNCTIONS if lengths.get(name, 0) <= FUNCTION_LINES}
    assert (long, stale) == ({}, set())


def test_length_is_counted_without_the_docstring() -> None:
    """A long docstring costs nothing, a long body does."""
    body = "\n".join(f"    x{i} = {i}" for i in range(70))
    explained = '    """One.\n\n    Two.\n    """'
    tree = ast.parse(f"def long():\n{body}\n\nasync def explained():\n{explained}\n    return 1\n")
    assert function_lengths(tree) == {"long": 71, "explained": 2}


def test_every_test_says_what_holds() -> None:
    """Each test function has a sentence that says what holds."""
    files = [path for path in python_files() if path.name.startswith("test_")]
    assert len(files) > 5
    found = {str(path.relative_to(ROOT)): silent_tests(parse(path)) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


def test_planted_silent_test_is_found() -> None:
    """A test without a docstring is told, also inside a class."""
    source = "def test_a(): ...\nclass T:\n    async def test_b(self): ...\ndef test_c():\n    '''C holds.'''"
    assert silent_tests(ast.parse(source)) == {"test_a", "test_b"}


def unmapped(map_text: str, modules: set[str]) -> set[str]:
    """The modules that the map leaves out, and those it names that do not exist.

    The map names a module as `name.py` or `name/` at the start of a line of its tree of the package, below `src/holdfast/`.
    """
    block = re.search(r"src/holdfast/\n(.*?)```", map_text, flags=re.DOTALL)
    named = set(re.findall(r"^ {2}(\w+)(?:\.py|/)", block[1] if block else "", flags=re.MULTILINE))
    return named ^ modules


def test_architecture_names_every_module() -> None:
    """The map in ARCHITECTURE.md and the top level of the package are the same."""
    document = ROOT / "ARCHITECTURE.md"
    if not document.exists():
        pytest.skip("ARCHITECTURE.md is not written yet")
    modules = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in module_files()}
    assert unmapped(document.read_text(encoding="utf-8"), modules) == set()


def test_planted_map_is_found_wrong() -> None:
    """A module the map forgets and one it invents are both told."""
    text = "```\nsrc/holdfast/\n  clock.py   time\n  ext/       extras\n    sqlalchemy/  nested\n  gone.py\n```\n"
    assert unmapped(text, {"clock", "ext", "forgotten"}) == {"gone", "forgotten"}
