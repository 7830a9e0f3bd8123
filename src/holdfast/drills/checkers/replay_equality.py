"""The same key gives the same answer and has one effect, for each tenant on its own.

    keyed           v {"id", "tenant", "key_hash"}, ok v {"result"}
    post            v {"id", "tenant", "key_hash", "payload"}, ok and fail v {"status", "body_hash"}
    final keyed     v {"effects": {id: count}}
    final http      the same

Callers that ask with the same tenant and key belong together. What they were told must be equal: the result, or status and body
hash of every 2xx; other statuses (409 while it runs, 422 for another payload, 429, 503) are no replay and may differ. A key
that was answered for one payload is not answered for another. Each effect is there once if anybody was told ok, at most once
otherwise: an answer that came from another tenant's save leaves the own one undone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..history import Answer, History, Operation
from ..verdict import Verdict
from .judging import judge

__all__ = ["NAME", "applies", "check"]

NAME = "replay-equality"

_FINALS = {"keyed": "keyed", "post": "http"}
_SETTLED = range(200, 300)


def applies(history: History) -> bool:
    """Whether anything was asked by a key."""
    return bool(history.names & _FINALS.keys())


def check(history: History) -> Verdict:
    """Replays are equal and have one effect. Unknown if no effect was read back, or no key was answered twice."""
    wrong: list[str] = []
    missing: list[str] = []
    replays = keys = 0
    for name, final_name in _FINALS.items():
        groups = _by_key(history.named(name))
        final = history.final(final_name)
        if groups and final is None:
            missing.append(final_name)
            continue
        keys += len(groups)
        effects = {} if final is None else {str(effect): n for effect, n in final.value["effects"].items()}
        for operations in groups.values():
            answered = [operation for operation in operations if _answered(operation)]
            replays += max(0, len(answered) - 1)
            wrong += _unequal(answered)
            wrong += _effects(operations, effects)
    return judge(
        NAME,
        wrong,
        looked_at=0 if missing else replays,
        good=f"{replays} replays of {keys} keys were answered alike, each key with one effect",
        bad="keys were answered differently, or have not one effect",
        nothing=f"the history has no final {', '.join(missing)}" if missing else "no key was answered twice",
        counts={"keys": keys, "replays": replays},
    )


def _by_key(operations: Iterable[Operation]) -> Mapping[tuple[str, str], list[Operation]]:
    groups: dict[tuple[str, str], list[Operation]] = {}
    for operation in operations:
        groups.setdefault((str(operation.value["tenant"]), operation.value["key_hash"]), []).append(operation)
    return groups


def _answered(operation: Operation) -> bool:
    if operation.name == "post":
        return operation.result.get("status") in _SETTLED
    return operation.answer is Answer.OK


def _told(operation: Operation) -> str:
    names = ("status", "body_hash") if operation.name == "post" else ("result",)
    return _text([operation.result.get(name) for name in names])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _unequal(answered: list[Operation]) -> list[str]:
    faults = []
    for other in answered[1:]:
        first = answered[0]
        if _text(other.value.get("payload")) != _text(first.value.get("payload")):
            faults.append(f"{other} was answered under the key of {first}, with another payload")
        elif _told(other) != _told(first):
            faults.append(f"{other} was told {_told(other)}, {first} was told {_told(first)}")
    return faults


def _effects(operations: list[Operation], effects: Mapping[str, int]) -> list[str]:
    ids = {str(operation.value["id"]) for operation in operations}
    times = sum(effects.get(each, 0) for each in ids)
    first = operations[0]
    if times > 1:
        return [f"the key of {first} has {times} effects"]
    if times == 0 and any(operation.answer is Answer.OK for operation in operations):
        return [f"the key of {first} was acknowledged and has no effect"]
    return []
