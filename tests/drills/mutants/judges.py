"""Mutants of the checkers: a comparison that is turned around must be noticed by histories whose verdict is known.

Jepsen's own `set-full` cannot report a duplicate, for such a `<`, and its tests do not see it. So every comparison of three
checkers that count is turned around here, one at a time.
"""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest

from holdfast.drills.checkers import counter_bounds, deadline_kept, no_double_apply
from holdfast.drills.history import NS, History
from holdfast.drills.verdict import Validity, Verdict
from tests.drills.histories import Story, ns

from .mutant import MUTANTS, Mutant
from .stage import Stage

_OTHER_WAY: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.GtE,
    ast.GtE: ast.LtE,
}


def _inserts(*there: str) -> History:
    return Story().op("insert", {"id": "a"}).op("insert", {"id": "b"}).final("set", {"ids": list(there)}).history()


def _increments(n: int) -> History:
    told = Story().op("increment", {"row": "1", "by": 5}).op("increment", {"row": "1", "by": 2}, "info")
    told.op("increment", {"row": "1", "by": -1}, "info")
    return told.final("counter", {"rows": {"1": n}}).history()


def _deadline(took: float | None, deadline: float = 2.0) -> History:
    return Story().op("insert", {}, took=took, deadline=deadline).op("insert", {}, deadline=2).closed().history()


def _starved(waited: float) -> History:
    """An operation that ends 0.6 s late, and whose process went without a processor for so long of half a second of it."""
    span = [ns(2.0), ns(2.5), round(waited * NS)]
    told = Story().op("insert", {}, took=1.6, deadline=2.0, process="runner").sample(3.0, starved=[span])
    return told.op("insert", {}, deadline=2).closed().history()


_V, _I, _U = Validity.VALID, Validity.INVALID, Validity.UNKNOWN
KNOWN: Sequence[tuple[ModuleType, History, Validity]] = (
    (no_double_apply, _inserts("a", "b"), _V),
    (no_double_apply, _inserts("a", "a"), _I),
    *((counter_bounds, _increments(n), _V if 4 <= n <= 7 else _I) for n in range(3, 9)),
    (deadline_kept, _deadline(1.0), _V),
    (deadline_kept, _deadline(1.2), _V),
    (deadline_kept, _deadline(1.3), _I),
    (deadline_kept, _deadline(None), _I),
    (deadline_kept, _deadline(None, 200.0), _V),
    (deadline_kept, _starved(0.4), _U),
    (deadline_kept, _starved(0.3), _I),
)
"""A checker, a history, and the verdict that everybody can see."""

known_verdicts = ModuleType("known_verdicts")
known_verdicts.__doc__ = "Judges the checkers: valid if each gives the known verdicts."


def _judge_the_judges(_history: History) -> Verdict:
    wrong = [
        f"{checker.NAME} is wrong" for checker, history, valid in KNOWN if checker.check(history).valid is not valid
    ]
    return Verdict("known-verdicts", _I if wrong else _V, f"{len(wrong)} verdicts are wrong", examples=tuple(wrong))


vars(known_verdicts).update(NAME="known-verdicts", check=_judge_the_judges)


def _no_scene(_stage: Stage) -> History:
    return History()


def _turned(module: ModuleType, number: int) -> Any:
    """The `check` of `module` with its comparison `number` turned around."""
    tree = copy.deepcopy(ast.parse(inspect.getsource(module)))
    comparison = _comparisons(tree)[number]
    comparison.ops = [_OTHER_WAY.get(type(op), type(op))() for op in comparison.ops]
    namespace: dict[str, Any] = {"__name__": module.__name__, "__package__": module.__package__}
    exec(compile(ast.fix_missing_locations(tree), f"<{module.__name__} turned>", "exec"), namespace)
    return namespace["check"]


def _comparisons(tree: ast.Module) -> list[ast.Compare]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and any(type(op) in _OTHER_WAY for op in node.ops)
    ]


def _register(module: ModuleType, number: int, comparison: ast.Compare) -> None:
    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(module, "check", _turned(module, number))

    line = ast.unparse(comparison)
    name = f"{module.__name__.rpartition('.')[2].replace('_', '-')}-turned-{number + 1}"
    MUTANTS.append(Mutant(name, f"The checker's `{line}` is turned around.", known_verdicts, _no_scene, plant))


for _module in (no_double_apply, counter_bounds, deadline_kept):
    for _number, _comparison in enumerate(_comparisons(ast.parse(inspect.getsource(_module)))):
        _register(_module, _number, _comparison)
