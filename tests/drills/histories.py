"""Histories written by hand: a story told in seconds becomes the lines that a drill would have written."""

from __future__ import annotations

from typing import Any

from holdfast.drills.history import NS, History

START = 1_000


def ns(seconds: float) -> int:
    """A moment of a story in the history's nanoseconds."""
    return START * NS + round(seconds * NS)


class Story:
    """Collects lines; every moment is in seconds from the beginning."""

    def __init__(self, **meta: Any) -> None:
        self.lines: list[dict[str, Any]] = [{"type": "meta", "t": ns(0), "p": "runner", "v": meta}]
        self._index = 0
        self._fault = 0

    def op(
        self,
        name: str,
        value: dict[str, Any],
        answer: str = "ok",
        result: dict[str, Any] | None = None,
        *,
        at: float = 1.0,
        took: float | None = 0.01,
        process: str = "w1",
        deadline: float | None = None,
        intended: float | None = None,
        failure_class: str | None = None,
        **how: Any,
    ) -> Story:
        """An operation that took so long; None: it never ended."""
        self._index += 1
        invoke: dict[str, Any] = {"type": "invoke", "t": ns(at), "p": process, "i": self._index, "f": name, "v": value}
        if deadline is not None:
            invoke["deadline"] = ns(deadline)
        if intended is not None:
            invoke["intended"] = ns(intended)
        self.lines.append(invoke)
        if failure_class is not None:
            how["class"] = failure_class
        if took is not None:
            end = {"type": answer, "t": ns(at + took), "p": process, "i": self._index, "f": name, **how}
            self.lines.append({**end, "v": result} if result is not None else end)
        return self

    def fault(self, name: str, start: float, end: float | None, **value: Any) -> Story:
        """A fault from its start to its heal."""
        self._fault += 1
        line = {"type": "fault", "p": "nemesis", "f": name, "id": self._fault}
        self.lines.append({**line, "t": ns(start), "phase": "start", "v": value})
        if end is not None:
            self.lines.append({**line, "t": ns(end), "phase": "end"})
        return self

    def phase(self, name: str, start: float, end: float) -> Story:
        """A phase of the run."""
        for moment, edge in ((start, "start"), (end, "end")):
            self.lines.append({"type": "phase", "t": ns(moment), "p": "runner", "f": name, "phase": edge})
        return self

    def wire(self, name: str, connection: int, at: float, **value: Any) -> Story:
        """What the proxy saw."""
        self.lines.append({"type": "wire", "t": ns(at), "p": "proxy", "f": name, "c": connection, "v": value})
        return self

    def sample(self, at: float, **value: Any) -> Story:
        """What was counted."""
        self.lines.append({"type": "sample", "t": ns(at), "p": "runner", "v": value})
        return self

    def final(self, name: str, value: dict[str, Any], at: float = 100.0) -> Story:
        """What was read back."""
        self.lines.append({"type": "final", "t": ns(at), "p": "runner", "f": name, "v": value})
        return self

    def closed(self, at: float = 100.0) -> Story:
        """The process ended by itself."""
        self.lines.append({"type": "closed", "t": ns(at), "p": "w1"})
        return self

    def history(self) -> History:
        """The history as it is loaded."""
        return History.from_lines(self.lines)
