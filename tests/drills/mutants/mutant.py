"""What a mutant is, and the list of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest

from holdfast.drills.history import History
from holdfast.drills.verdict import Verdict

from .stage import Stage

__all__ = ["MUTANTS", "Mutant", "Plant", "Scene", "mutant"]

Scene = Callable[[Stage], History]
Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug, the scene it plays in, and the checker that must see it."""

    name: str
    sentence: str
    checker: ModuleType
    scene: Scene
    plant: Plant

    def play(self, stage: Stage, *, bug: bool) -> Verdict:
        """The checker's verdict on the scene, with or without the bug."""
        with pytest.MonkeyPatch.context() as patch:
            if bug:
                self.plant(patch)
            history = self.scene(stage)
            verdict: Verdict = self.checker.check(history)
        return verdict


MUTANTS: list[Mutant] = []


def mutant(checker: ModuleType, scene: Scene) -> Callable[[Plant], Plant]:
    """Register a plant; its docstring is the sentence."""

    def register(plant: Plant) -> Plant:
        name = plant.__name__.replace("_", "-")
        MUTANTS.append(Mutant(name, (plant.__doc__ or "").strip(), checker, scene, plant))
        return plant

    return register
