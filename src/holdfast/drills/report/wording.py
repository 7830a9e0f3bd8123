"""How a report says things: numbers with their units, and the sentences that matter. Pure.

Numbers keep the digits that mean something, and no more: 1.25 s, 830 ms, 0.07 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..verdict import Validity, Verdict
from .content import Report, Run, Span
from .scales import clock_label

__all__ = [
    "GLYPHS",
    "NOTHING",
    "Headline",
    "checker_title",
    "count",
    "duration",
    "fault_title",
    "headline",
    "measure",
    "percentage",
    "plural",
    "rate",
    "ratio",
]

GLYPHS = {Validity.VALID: "✓", Validity.INVALID: "✕", Validity.UNKNOWN: "?"}
"""A sign for each answer, beside its word: colour alone says nothing to many readers."""

NOTHING = "\N{EN DASH}"
"""Where there is no figure."""


def count(value: float | None) -> str:
    """`12,345`, `2.5`, or a dash for None."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.3g}"


def rate(value: float) -> str:
    """`200/s`."""
    return f"{count(value)}/s"


def duration(seconds: float | None) -> str:
    """`0 s`, `850 µs`, `1.2 ms`, `830 ms`, `1.25 s`, `95 s`, or a dash for None: about three digits."""
    if seconds is None:
        return NOTHING
    if seconds == 0:
        return "0 s"
    # The bounds are where the smaller unit would round to a thousand.
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        value = seconds * factor
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 99.95 else f"{seconds:,.0f} s"


def percentage(share: float | None) -> str:
    """`57 %`, `0.07 %`, `0.0003 %`: two digits, or a dash for None."""
    if share is None:
        return NOTHING
    value = share * 100
    if value == 0:
        return "0 %"
    if value >= 10:
        return f"{value:.0f} %"
    # Never as 3e-05, which few people read.
    return f"{float(f'{value:.2g}'):.12f}".rstrip("0").rstrip(".") + " %"


def ratio(value: float | None) -> str:
    """`1.02`, or a dash for None."""
    return NOTHING if value is None else f"{value:.2f}"


def plural(number: float, word: str) -> str:
    """`1 fault`, `12 faults`."""
    return f"{count(number)} {word}" if number == 1 else f"{count(number)} {word}s"


def checker_title(checker: str) -> str:
    """A checker's name as words: `no-lost-ack` becomes "No lost ack"."""
    words = checker.replace("-", " ").replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def measure(name: str, value: float) -> str:
    """A figure of a verdict with its name: `doubled 3`, `overshoot 830 ms` for the name `overshoot_s`."""
    words = name.removesuffix("_s").replace("_", " ")
    return f"{words} {duration(value) if name.endswith('_s') else count(value)}"


def fault_title(span: Span) -> str:
    """`kill-server, 0:12 to 0:15`."""
    return f"{span.name}, {clock_label(span.start_s)} to {clock_label(span.end_s)}"


@dataclass(frozen=True, slots=True)
class Headline:
    """The verdict in plain words: a title, and the sentence that matters."""

    title: str
    sentence: str


def headline(report: Report) -> Headline:
    """What a reader should know who reads nothing else."""
    run, rest = report.runs[0], report.runs[1:]
    whom = f" with {run.name}" if rest else ""
    title = {
        Validity.VALID: f"Every promise held{whom}",
        Validity.INVALID: f"Broken{whom}: {_listed(_broken(run))}",
        Validity.UNKNOWN: f"Nothing wrong was seen{whom}, but too little happened to be sure",
    }[run.validity]
    return Headline(title, " ".join([*_told(run), *_reasons(run), *(_compared(other) for other in rest)]))


def _told(run: Run) -> Sequence[str]:
    figures = run.figures
    operations, faults = plural(figures.operations, "operation"), plural(figures.faults, "fault")
    answered = f"{count(figures.ok)} of {operations} were acknowledged under {faults}."
    if figures.unsent:
        answered += f" {count(figures.unsent)} could not be sent, as no caller was free in time."
    if not figures.ambiguous:
        return (answered,)
    doubt = f"{plural(figures.ambiguous, 'commit')} lost the answer on the way"
    if figures.ambiguous_applied is not None:
        doubt += f", {count(figures.ambiguous_applied)} of them after the server had applied it"
    return (answered, f"{doubt}{_outcome(run)}.")


def _outcome(run: Run) -> str:
    if not run.bounds:
        return ""
    seen = [f"{count(bound.events)} {bound.name}" for bound in run.bounds if bound.events]
    return f": {_listed(seen)}" if seen else f": none was {_listed([bound.name for bound in run.bounds], 'or')}"


def _reasons(run: Run) -> Sequence[str]:
    if run.validity is Validity.VALID:
        return ()
    return [_sentence(verdict.reason) for verdict in _with(run, run.validity)[:2]]


def _compared(run: Run) -> str:
    broken, figures = _broken(run), run.figures
    verdict = f"broken, {_listed(broken)}" if broken else run.validity.value
    return f"{run.name}: {verdict}; {count(figures.failed - figures.unsent)} told not done, {count(figures.unknown)} unknown."


def _broken(run: Run) -> list[str]:
    return [checker_title(verdict.checker).lower() for verdict in _with(run, Validity.INVALID)]


def _with(run: Run, validity: Validity) -> list[Verdict]:
    return [verdict for verdict in run.verdicts if verdict.valid is validity]


def _sentence(text: str) -> str:
    text = text.strip()
    text = f"{text[:1].upper()}{text[1:]}"
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def _listed(words: Sequence[str], conjunction: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {conjunction} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
