"""Documents run: each Python block of a document, in order, in one namespace, in an empty folder.

What a block prints is compared with the `output` block that follows it. A block whose first line is `# needs a server` is only
compiled: the reader sees the same mark.
"""

from __future__ import annotations

import ast
import contextlib
import io
import sys
import textwrap
import traceback
from pathlib import Path
from types import ModuleType

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from tests.docs.documents import DOCUMENTS
from tests.house.sources import ROOT

NEEDS_SERVER = "# needs a server"
_PRINTED = "printed by the block before"


def run_python(example: Example) -> None:
    """Run a block; what it prints waits for the `output` block that follows."""
    source = "\n" * (example.line + example.parsed.line_offset) + str(example.parsed)
    code = compile(source, Path(example.path).name, "exec", dont_inherit=True)
    if str(example.parsed).startswith(NEEDS_SERVER):
        return
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, example.namespace)
    example.namespace[_PRINTED] = printed.getvalue()


def compare_output(example: Example) -> None:
    """What the block before printed is what the document says."""
    printed = example.namespace.pop(_PRINTED).rstrip()
    assert printed == str(example.parsed).rstrip(), f"printed:\n{textwrap.indent(printed, '    ')}"


SYBIL = Sybil(parsers=[CodeBlockParser("python", run_python), CodeBlockParser("output", compare_output)])


def run(document: Path) -> int:
    """Run every block of `document`; how many there were."""
    parsed = SYBIL.parse(document)
    # Dataclasses and annotations look their names up in the module they come from.
    module = ModuleType("documented")
    parsed.namespace = module.__dict__
    examples = list(parsed.examples())
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, module.__name__, module)
        for example in examples:
            try:
                example.evaluate()
            except Exception as error:
                trace = "".join(traceback.format_exception(error, limit=-3))
                pytest.fail(f"{document.name}, line {example.line}: {trace}", pytrace=False)
    return len(examples)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of a document runs and prints what the document says."""
    monkeypatch.chdir(tmp_path)
    if run(document) == 0:
        assert "```python" not in document.read_text(encoding="utf-8")


def test_planted_examples_are_found_wrong(tmp_path: Path) -> None:
    """A block that raises, one that prints something else and one that is no Python fail; a marked one is not run."""
    wrong = ["raise ValueError", "print(1)\n```\n\n```output\n2", f"{NEEDS_SERVER}\nreturn return"]
    for number, block in enumerate(wrong):
        document = tmp_path / f"wrong{number}.md"
        document.write_text(f"# A\n\n```python\n{block}\n```\n")
        with pytest.raises(pytest.fail.Exception, match=f"wrong{number}.md, line "):
            run(document)
    document = tmp_path / "marked.md"
    document.write_text(
        f"```python\n{NEEDS_SERVER}\nraise ValueError\n```\n\n```python\nprint(1)\n```\n\n```output\n1\n```\n"
    )
    assert run(document) == 3


def test_nearly_every_example_runs() -> None:
    """The mark is for what cannot run without a server: few blocks have it, and none of the README."""
    sources = {path: [str(e.parsed) for e in SYBIL.parse(path).examples()] for path in DOCUMENTS}
    marked = {path.name: sum(source.startswith(NEEDS_SERVER) for source in found) for path, found in sources.items()}
    assert sum(map(len, sources.values())) > 30
    assert marked["README.md"] == 0
    assert sum(marked.values()) <= 4


def test_examples_import_what_they_use() -> None:
    """The first block of the README and of each page can be copied into a file: it needs no import from elsewhere."""
    for path in DOCUMENTS:
        examples = [str(e.parsed) for e in SYBIL.parse(path).examples()]
        if examples:
            first = ast.parse(examples[0])
            assert any(isinstance(node, ast.Import | ast.ImportFrom) for node in first.body), path.name
