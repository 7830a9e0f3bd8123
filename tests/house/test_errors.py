"""The exception tree is what its drawing says, and every error can travel."""

from __future__ import annotations

import copy
import importlib
import pickle
import re

import pytest

from holdfast import errors
from holdfast.errors import HoldfastError, Report, attach_report, report_of
from holdfast.outcome import Failure, FailureClass, Outcome, Rejection, Stage
from tests.house.sources import PACKAGE, module_files

SECRET = "s3cret-value"


def drawn_tree(drawing: str) -> dict[str, tuple[str, str | None]]:
    """Each class in the drawing with its parent and its second base, if it shows one."""
    tree: dict[str, tuple[str, str | None]] = {}
    above: list[tuple[int, str]] = []
    for line in drawing.splitlines():
        match = re.match(r"^ {4}([│├└─ ]*)([A-Z]\w+)(?: \((\w+)\))?", line)
        if not match:
            if above and not line.strip():
                break
            continue
        depth = len(match[1])
        above = [entry for entry in above if entry[0] < depth]
        tree[match[2]] = (above[-1][1] if above else "", match[3])
        above.append((depth, match[2]))
    return tree


def real_tree(root: type[BaseException]) -> dict[str, tuple[str, str | None]]:
    """The same for the classes as they are."""
    tree: dict[str, tuple[str, str | None]] = {}
    waiting: list[type[BaseException]] = [root]
    while waiting:
        current = waiting.pop()
        own = [base for base in current.__bases__ if issubclass(base, root)]
        builtin = [base.__name__ for base in current.__bases__ if not issubclass(base, root)]
        tree[current.__name__] = (own[0].__name__ if own else "", builtin[0] if builtin and own else None)
        waiting += [child for child in current.__subclasses__() if child.__module__.startswith("holdfast.")]
    return tree


def every_error() -> list[type[HoldfastError]]:
    """Every class of the tree."""
    return sorted((getattr(errors, name) for name in real_tree(HoldfastError)), key=lambda error: error.__name__)


def example(error: type[HoldfastError]) -> HoldfastError:
    """One of its kind, with every attribute set."""
    failure = Failure(
        FailureClass.PERMANENT, Stage.BODY, flavour="mariadb", code=1062, name="ER_DUP_ENTRY",
        rejection=Rejection.DUPLICATE, constraint="username", table="users", columns=("username",),
    )  # fmt: skip
    raised = error("what to do about it", retry_after_s=1.5, failure=failure)
    attach_report(raised, Report("transfer", 3, 0.25, "attempts", Outcome.NOT_COMMITTED))
    return raised


def test_drawing_shows_the_tree() -> None:
    """The tree in the docstring of errors.py and the classes are the same, their builtin bases included."""
    for path in module_files():
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] not in ("ext", "cli"):  # an error defined outside errors.py counts as well
            importlib.import_module(".".join(["holdfast", *relative.with_suffix("").parts]).removesuffix(".__init__"))
    drawn, real = drawn_tree(errors.__doc__ or ""), real_tree(HoldfastError)
    assert len(real) > 20
    assert drawn == real


def test_drawing_is_read_as_drawn() -> None:
    """A class that is missing, moved or re-based in the drawing would be noticed."""
    drawing = "Errors.\n\n    Root\n    ├── One (ValueError)   first\n    │   └── Deep\n    └── Two\n\n    Later"
    assert drawn_tree(drawing) == {
        "Root": ("", None),
        "One": ("Root", "ValueError"),
        "Deep": ("One", None),
        "Two": ("Root", None),
    }


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_error_travels_with_its_attributes(error: type[HoldfastError]) -> None:
    """A pickled or copied error is the same error: text, code, outcome, hint, failure and report."""
    original = example(error)
    for travelled in (pickle.loads(pickle.dumps(original)), copy.copy(original)):
        assert type(travelled) is error
        for attribute in ("args", "code", "outcome", "retry_after_s", "failure"):
            assert getattr(travelled, attribute) == getattr(original, attribute)
        assert report_of(travelled) == report_of(original)


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_error_explains_itself(error: type[HoldfastError]) -> None:
    """Every error has a docstring of its own, and a stable code that no other has."""
    assert error.__doc__
    assert all(error.__doc__ != base.__doc__ for base in error.__mro__[1:])
    assert [other for other in every_error() if other.code == error.code] == [error]
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.code)
