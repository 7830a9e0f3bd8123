"""What every fault can do."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Fault"]


class Fault(Protocol):
    """Something that goes wrong until it is healed. Can be started again after it was healed.

    Attributes:
        name: what the command line and the history call it.
    """

    name: str

    def start(self) -> dict[str, Any]:
        """Let it go wrong; what the history should know of it: plain values, no parameter, no password."""

    def heal(self) -> None:
        """Put everything back as it was; nothing to do when it did not start or is healed already."""
