r"""The trace of an error for the log: files, lines and classes, and no text that is not Holdfast's own.

    log.error("the hook %s failed\n%s", name, trace_of(error))

A driver's text may hold the statement's values, a parser's the body, a hook's and a note whatever somebody put in it.
"""

from __future__ import annotations

from .errors import HoldfastError

__all__ = ["trace_of"]

_FRAMES_MAX = 60
_ERRORS_MAX = 12
_TEXT_MAX = 512


def trace_of(error: BaseException, *own: type[BaseException]) -> str:
    """The trace of `error` and of what led to it: files, lines and classes; texts of Holdfast's own errors alone.

    At most 60 calls of each and 12 errors in all, so that a recursion or a chain without end has one here.

    Args:
        error: what was raised.
        own: further classes whose texts hold no value.
    """
    # Imported late: they would be a tenth of the time `import holdfast` takes.
    import traceback
    from collections import deque

    parts: list[str] = []
    seen: set[int] = set()
    waiting: list[tuple[str, BaseException]] = [("", error)]
    while waiting and len(seen) < _ERRORS_MAX:
        relation, current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        kind = type(current)
        text = f": {_text_of(current)}" if isinstance(current, (HoldfastError, *own)) else ""
        # The innermost calls; without source lines, which would be read from disk while the caller waits.
        calls = deque(traceback.walk_tb(current.__traceback__), maxlen=_FRAMES_MAX)
        frames = "".join(
            f'  File "{f.f_code.co_filename}", line {line}, in {f.f_code.co_qualname}\n' for f, line in calls
        )
        parts.append(f"{relation}{kind.__module__}.{kind.__qualname__}{text}\n{frames}")
        if isinstance(current, BaseExceptionGroup):
            waiting += [("in the group: ", member) for member in current.exceptions]
        if current.__cause__ is not None:
            waiting.append(("caused by: ", current.__cause__))
        elif current.__context__ is not None and not current.__suppress_context__:
            waiting.append(("while handling: ", current.__context__))
    return "".join(parts).rstrip("\n")


def _text_of(error: BaseException) -> str:
    text = str(error)
    text = text if len(text) <= _TEXT_MAX else text[: _TEXT_MAX - 3] + "..."
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
