"""What a setting may be: checked where it is given, and refused by its name. Durations are checked by `deadline.seconds`.

A value of another kind is told by its class alone, for it may be anything: a password in the wrong place, too.
"""

from __future__ import annotations

from sys import float_info
from typing import TypeVar

from .errors import ConfigurationError

__all__ = ["flag", "instance_of", "number", "one_of", "whole_number"]

T = TypeVar("T")

_LARGEST = float_info.max  # a whole number may be more, and cannot be reckoned with


def whole_number(value: int, name: str, least: int) -> int:
    """`value`, a whole number of `least` or more.

    Raises:
        ConfigurationError: it is less, or something else; also a bool, which Python takes for a number.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigurationError(f"{name} must be a whole number, {least} or more, not {_shown(value)}")
    if value < least:
        raise ConfigurationError(f"{name} must be a whole number, {least} or more, not {value}")
    return value


def number(
    value: float,
    name: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """`value`, a finite number within the bounds that are given.

    Raises:
        ConfigurationError: it is outside of them, or something else; also a bool.
    """
    bounds = []
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST
    if least is not None:
        bounds.append(f"{least:g} or more")
        fits = fits and value >= least
    if above is not None:
        bounds.append(f"more than {above:g}")
        fits = fits and value > above
    if most is not None:
        bounds.append(f"at most {most:g}")
        fits = fits and value <= most
    if below is not None:
        bounds.append(f"less than {below:g}")
        fits = fits and value < below
    if not fits:
        raise ConfigurationError(f"{name} must be a finite number, {' and '.join(bounds)}, not {_shown(value)}")
    return value


def flag(value: bool, name: str) -> bool:
    """`value`, True or False.

    Raises:
        ConfigurationError: it is something else, even where Python would take it for one of them.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {_shown(value)}")
    return value


def one_of(value: str, name: str, choices: tuple[str, ...]) -> str:
    """`value`, one of the words in `choices`.

    Raises:
        ConfigurationError: it is another, or no word.
    """
    if not isinstance(value, str) or value not in choices:
        shown = repr(value) if isinstance(value, str) else _shown(value)
        raise ConfigurationError(f"{name} must be {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}, not {shown}")
    return value


def instance_of(value: T, kind: type, name: str, *, optional: bool = False) -> T:
    """`value`, an instance of `kind`, or None where that is `optional`.

    Raises:
        ConfigurationError: it is something else.
    """
    if not isinstance(value, kind) and not (optional and value is None):
        wanted = "text" if kind is str else f"a {kind.__name__}"
        raise ConfigurationError(f"{name} must be {wanted}{' or None' if optional else ''}, not {_shown(value)}")
    return value


def _shown(value: object) -> str:
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return f"{value}" if -_LARGEST <= value <= _LARGEST else "one that no float can hold"
    return type(value).__name__
