"""What was asked, and what is there: the same question for every workload whose effects have names.

What the operations and the finals look like (`v` is the value of the invoke, everything is compared as text):

    operation       v                                           final       v
    transfer        {"id", "from", "to", "amount"}              bank        {"ledger": [[id, from, to, amount], ...], ...}
    insert          {"id"}                                      set         {"ids": [id, ...]}, from a table without unique key
    insert-unique   {"id"}                                      unique      {"ids": [id, ...]}
    rmw             {"id", "row"}                               rmw         {"rows": {row: {"n": 3, "ids": [id, ...]}}}
    append          {"txn": [["append", k, x], ["r", k, null]]} append      {"lists": {k: [x, ...]}}
    keyed           {"id", "tenant", "key_hash"}                keyed       {"effects": {id: count}}
    post            {"id", "tenant", "key_hash", "payload"}     http        {"effects": {id: count}}

Several operations may ask for the same effect: callers that share a key, a process that was killed and asks again. Then the
strongest answer counts: if one was told ok it must be there once, if all were told fail it must not be there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..history import Answer, History, Operation

__all__ = ["FAMILIES", "Effects", "effects_of", "not_read_back"]


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of one kind of operation.

    Attributes:
        final: the name of the final that holds them.
        asked: for each effect the operation with the strongest answer.
        found: how often each effect is there; None if nobody read them back.
    """

    final: str
    asked: Mapping[str, Operation]
    found: Mapping[str, int] | None


def effects_of(history: History) -> tuple[Effects, ...]:
    """For each kind of operation in the history, what was asked and what is there. Pure."""
    return tuple(_effects(history, name, family) for name, family in FAMILIES.items() if name in history.names)


def not_read_back(effects: Iterable[Effects]) -> str:
    """Why nothing can be said: which finals are missing."""
    missing = [each.final for each in effects if each.found is None]
    if missing:
        return f"the history has no final {', '.join(missing)}: nobody read back what is there"
    return "no operation of the history has an effect that could be looked up"


@dataclass(frozen=True, slots=True)
class _Family:
    final: str
    asked: Callable[[Operation], Iterable[str]]
    found: Callable[[Mapping[str, Any]], Iterable[str]]


def _id(operation: Operation) -> tuple[str]:
    return (str(operation.value["id"]),)


def _appended(operation: Operation) -> Iterable[str]:
    return (f"{key}:{element}" for kind, key, element in operation.value["txn"] if kind == "append")


def _counted(value: Mapping[str, Any]) -> Iterable[str]:
    return Counter({str(effect): count for effect, count in value["effects"].items()}).elements()


FAMILIES: Mapping[str, _Family] = {
    "transfer": _Family("bank", _id, lambda value: (str(row[0]) for row in value["ledger"])),
    "insert": _Family("set", _id, lambda value: map(str, value["ids"])),
    "insert-unique": _Family("unique", _id, lambda value: map(str, value["ids"])),
    "rmw": _Family("rmw", _id, lambda value: (str(each) for row in value["rows"].values() for each in row["ids"])),
    "append": _Family(
        "append",
        _appended,
        lambda value: (f"{key}:{element}" for key, elements in value["lists"].items() for element in elements),
    ),
    "keyed": _Family("keyed", _id, _counted),
    "post": _Family("http", _id, _counted),
}
"""For each operation: the final that holds its effects, and how both name them."""

_STRENGTH = {Answer.FAIL: 0, Answer.INFO: 1, Answer.OK: 2}


def _effects(history: History, name: str, family: _Family) -> Effects:
    asked: dict[str, Operation] = {}
    for operation in history.named(name):
        for effect in family.asked(operation):
            before = asked.get(effect)
            if before is None or _STRENGTH[operation.answer] > _STRENGTH[before.answer]:
                asked[effect] = operation
    final = history.final(family.final)
    return Effects(family.final, asked, None if final is None else Counter(family.found(final.value)))
