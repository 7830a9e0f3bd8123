"""Retry at one layer only: how a retry layer tells the layers inside that it is in charge.

Three layers of four attempts each are 64 attempts. So a layer that retries marks its context, and a layer that finds the mark
makes a single attempt and passes its error up. The mark is a list of one bool that its owner turns to False when it is done: a
task started inside inherits the context, may outlive the owner, and must then be free to retry on its own.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType

__all__ = ["LAYER", "retry_is_active", "retry_layer"]

LAYER: ContextVar[list[bool] | None] = ContextVar("holdfast_retry_layer", default=None)
"""The mark of the innermost layer: `[True]` while that layer is in charge. For hot paths; others use the two below."""


def retry_is_active() -> bool:
    """Whether a retry layer is in charge in the calling context."""
    layer = LAYER.get()
    return layer is not None and layer[0]


class retry_layer:
    """Be the retry layer for everything inside. One instance serves one block; nesting is harmless."""

    __slots__ = ("_mark", "_outer")

    def __enter__(self) -> None:
        self._outer = LAYER.get()
        self._mark = [True]
        LAYER.set(self._mark)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._mark[0] = False
        LAYER.set(self._outer)  # not a token: a generator may leave the block in another context
