"""The list-append history for Elle, the checker of isolation levels that Jepsen uses.

Elle (https://github.com/jepsen-io/elle) infers from what transactions read and append which anomalies a database shows, and
finds far more than `checkers.append` does. It reads Jepsen's histories in EDN, one operation a line:

    {:index 0, :type :invoke, :f :txn, :process 0, :time 12, :value [[:append 3 7] [:r 3 nil]]}
    {:index 1, :type :ok, :f :txn, :process 0, :time 34, :value [[:append 3 7] [:r 3 [7]]]}

Run it with elle-cli: `java -jar elle-cli.jar --model list-append history.edn`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from .history import Answer, History, Operation

__all__ = ["edn_lines", "export"]


def export(history: History, path: Path | str) -> int:
    """Write the `append` operations of `history` to `path`, for Elle.

    Returns:
        How many operations were written.

    Raises:
        ConfigurationError: the history has no `append` operations.
    """
    operations = history.named("append")
    if not operations:
        raise ConfigurationError("Elle needs the workload append: the history has none of its operations")
    with Path(path).open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in edn_lines(history))
    return len(operations)


def edn_lines(history: History) -> Iterator[str]:
    """The `append` operations as lines of EDN, in the order of time.

    An operation without an end is left open, as Jepsen does. A process whose operation may still be running asks nothing
    more there, so a worker gets a new number after each `info`; workers that overlap themselves get several.
    """
    events: list[tuple[int, int, Operation, bool]] = []
    for number, operation in enumerate(history.named("append")):
        events.append((operation.invoked, number, operation, False))
        if operation.ended is not None:
            events.append((operation.ended, number, operation, True))
    # Stable: of one moment, an invoke stands before its own end.
    events.sort(key=lambda event: (event[0], event[1], event[3]))
    free: dict[str, list[int]] = {}
    processes: dict[int, int] = {}
    started = 0
    for index, (t, number, operation, ends) in enumerate(events):
        idle = free.setdefault(operation.process, [])
        if not ends:
            if idle:
                processes[number] = idle.pop()
            else:
                processes[number] = started
                started += 1
        elif operation.answer is not Answer.INFO:
            idle.append(processes[number])
        kind = operation.answer.value if ends else "invoke"
        observed = operation.result["txn"] if ends and operation.answer is Answer.OK else operation.value["txn"]
        value = " ".join(_micro(*micro) for micro in observed)
        yield (
            f"{{:index {index}, :type :{kind}, :f :txn, :process {processes[number]}, "
            f":time {t - history.start}, :value [{value}]}}"
        )


def _micro(kind: str, key: Any, value: Any) -> str:
    return f"[:{kind} {_edn(key)} {_edn(value)}]"


def _edn(value: Any) -> str:
    if value is None:
        return "nil"
    if isinstance(value, list):
        return f"[{' '.join(_edn(element) for element in value)}]"
    if isinstance(value, int):
        return str(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
