"""The results of a campaign as a page: what was shown, how often, and how sure one can be. Pure but for reading the summaries."""

from __future__ import annotations

from .campaign import Campaign, LongDrill, Totals
from .estimates import upper_bound
from .verdict import Validity

__all__ = ["results_page"]

_SAFETY = {"no-lost-ack": "lost", "no-double-apply": "doubled", "fail-means-absent": "denied"}

_WITHOUT = """The same drills, with the same faults from the same seeds, on SQLAlchemy alone (`plain`) and on the usual retry
recipe (`tenacity`)."""

_LEGEND = """*Lost*: acknowledged and not there. *Doubled*: there more than once. *Denied*: said not to be done, and there.
*Bound*: the largest rate of these per ambiguous COMMIT that could have shown so few, with 95 % confidence. *Late*: the worst
99.9th percentile, over all pieces, by which an answer came after its deadline; *own*: the same without the time in which its
process waited for a processor, as the kernel counts it. *Wire*: tries that arrived at the server for each operation while it
was away, or for each that came so far while it had too much to do. *Back*: the longest time from a heal until the goodput was
at 95 % of its baseline."""

_OVERLOAD = """All statements wait in one queue, of which as many a second are served as operations are due, and an operation
needs two to five. *Due*, *done*, *turned away* (at once, with a time to come again), *gave up* (mostly at the deadline) and
*unknown* are operations a second while it lasted; the latency is that of what was done, from when it was due; *wire* counts
the tries of each operation that came so far."""

_HOLDS = "A row *holds* when its drill has reached its goal, and *holds so far* before."

_GOALS = {"ambiguous": "ambiguous COMMITs", "killed": "killed operations"}
"""What is counted for a goal, where the figure's own name does not say it."""


def results_page(campaign: Campaign, command: str) -> str:
    """The page, in Markdown.

    Args:
        campaign: whose summaries are read.
        command: what makes them, as typed into a shell.
    """
    ours = [(drill, campaign.totals(drill)) for drill in campaign.drills if drill.expected is Validity.VALID]
    others = [(drill, campaign.totals(drill)) for drill in campaign.drills if drill.expected is not Validity.VALID]
    sections = [
        "# Results of the drills",
        f"Made by `{command}`, from real servers, real processes and real connections that were really cut. {_HOLDS}",
        *_copied(ours + others),
        _sum([totals for _, totals in ours]),
        "## With Holdfast",
        _table(ours),
        *_found(ours),
        "## Without it",
        _WITHOUT,
        _table(others),
        _LEGEND,
        *_overloads(ours + others),
    ]
    return "\n\n".join(sections) + "\n"


def _sum(totals: list[Totals]) -> str:
    ambiguous = sum(int(each.figures.get("ambiguous", 0)) for each in totals)
    applied = sum(int(each.figures.get("ambiguous_applied", 0)) for each in totals)
    wrong = {word: sum(_wrong(each, checker) for each in totals) for checker, word in _SAFETY.items()}
    counted = ", ".join(f"{number} {word}" for word, number in wrong.items())
    bound = _bound(sum(wrong.values()), ambiguous)
    confidence = f"; at most {bound} per ambiguous COMMIT, with 95 % confidence" if bound else ""
    known = f", of which at least {applied:,} were carried out" if applied else ""
    return f"**{ambiguous:,} ambiguous COMMITs** were settled{known}: {counted}{confidence}."


def _wrong(totals: Totals, checker: str) -> int:
    return int(totals.told.get(f"{checker}.wrong", 0))


def _bound(events: int, trials: int) -> str:
    return f"{upper_bound(events, trials):.1e}" if 0 < trials >= events else ""


def _table(rows: list[tuple[LongDrill, Totals]]) -> str:
    head = (
        "| drill | pieces | operations | done | not done | unknown | faults | ambiguous | lost | doubled | denied | bound | late "
        "| own | wire | back | |"
    )
    line = "|---|" + "---:|" * 15 + "---|"
    return "\n".join([head, line, *(_row(drill, totals) for drill, totals in rows)])


def _row(drill: LongDrill, totals: Totals) -> str:
    figures = totals.figures
    counted = [f"{int(figures.get(name, 0)):,}" for name in ("operations", "ok", "fail", "info", "faults", "ambiguous")]
    found = [_wrong(totals, checker) for checker in _SAFETY]
    cells = [
        f"`{drill.name}`",
        str(totals.pieces),
        *counted,
        *map(str, found),
        _bound(sum(found), int(figures.get("ambiguous", 0))),
        _worst(totals, "deadline-kept.overshoot_p999_s", " s"),
        _worst(totals, "deadline-kept.own_p999_s", " s"),
        _wire(totals),
        _worst(totals, "recovery-time.recovery_worst_s", " s"),
        _answer(drill, totals),
    ]
    return f"| {' | '.join(cells)} |"


def _answer(drill: LongDrill, totals: Totals) -> str:
    """The last cell: the answer, how far the drill is, and which questions were not answered in how many of its pieces."""
    if not totals.pieces:
        return "nothing yet"
    if totals.source:
        return f"{'**broken**' if totals.validity is Validity.INVALID else 'held'}, {totals.source}"
    if totals.validity is Validity.INVALID:
        said = "**broken**"
    elif totals.validity is Validity.UNKNOWN:
        said = "nothing could be told"
    elif short := totals.short(drill):
        goals = (f"{have:,.0f} of {least:,.0f} {_GOALS.get(name, name)}" for name, (have, least) in short.items())
        said = f"holds so far ({', '.join(goals)})"
    else:
        said = "holds"
    unknown = (
        f"{checker} {answers[Validity.UNKNOWN]} of {sum(answers.values())}"
        for checker, answers in totals.verdicts.items()
        if answers.get(Validity.UNKNOWN)
    )
    listed = ", ".join(unknown)
    return f"{said}; unknown: {listed}" if listed else said


def _copied(rows: list[tuple[LongDrill, Totals]]) -> list[str]:
    copied = [totals for _, totals in rows if totals.source]
    if not copied:
        return []
    commits = sum(int(each.figures.get("ambiguous", 0)) for each in copied)
    rows_were = "1 row was" if len(copied) == 1 else f"{len(copied)} rows were"
    told = (
        f"**{rows_were} not measured by this campaign:** marked as *{copied[0].source}*, without histories and with fewer "
        f"figures; {commits:,} of the ambiguous COMMITs below are from there. That does not count as done: the next piece of "
        "such a drill replaces it."
    )
    return [told]


def _worst(totals: Totals, name: str, unit: str) -> str:
    value = totals.worst.get(name)
    return "" if value is None else f"{value:.3f}{unit}"


def _wire(totals: Totals) -> str:
    asked = totals.told.get("amplification.asked", 0)
    if asked:
        return f"{totals.told['amplification.tries'] / asked:.2f}"
    ratio = totals.worst.get("amplification.ratio")  # all that an earlier page said
    return "" if ratio is None or not totals.source else f"{ratio:.2f}"


def _overloads(rows: list[tuple[LongDrill, Totals]]) -> list[str]:
    """What became of those who asked while a server had too much to do, side by side; nothing where nobody looked."""
    seen = [(drill, totals) for drill, totals in rows if totals.told.get("overload.due")]
    if not seen:
        return []
    head = (
        "| drill | due | done | 99 of 100 within | turned away | gave up | unknown | wire | back |\n|---|" + "---:|" * 8
    )
    return ["## Overload", _OVERLOAD, "\n".join([head, *(_overload_row(drill, totals) for drill, totals in seen)])]


def _overload_row(drill: LongDrill, totals: Totals) -> str:
    told = totals.told
    seconds = told["overload.overload_s"]
    cells = [
        f"`{drill.name}`",
        f"{told['overload.due_per_s'] / totals.pieces:.1f}/s",
        f"{told['overload.goodput_per_s'] / totals.pieces:.1f}/s",
        _worst(totals, "overload.done_p99_s", " s"),
        *(f"{told[f'overload.{name}'] / seconds:.1f}/s" for name in ("shed", "given_up", "unknown")),
        _wire(totals),
        _worst(totals, "recovery-time.recovery_worst_s", " s"),
    ]
    return f"| {' | '.join(cells)} |"


def _found(rows: list[tuple[LongDrill, Totals]]) -> list[str]:
    wrong = [sentence for _, totals in rows for sentence in totals.wrong]
    untold = [sentence for _, totals in rows for sentence in totals.untold]
    return [*_list("What was found:", wrong), *_list("What could not be told:", untold)]


def _list(title: str, sentences: list[str]) -> list[str]:
    return [f"{title}\n\n" + "\n".join(f"- {sentence}" for sentence in sentences)] if sentences else []
