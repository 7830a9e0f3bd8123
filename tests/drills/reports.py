"""Reports for tests: one of everything, made by hand, and one that tries to break out of its page."""

from __future__ import annotations

from holdfast.drills.report.content import Bound, Figures, Percentiles, Report, Run, Second, Span
from holdfast.drills.verdict import Validity, Verdict

__all__ = ["EVIL", "evil_report", "run_named", "seconds", "verdict"]

EVIL = "<script>alert('x')</script> & \"quoted\" | `code` [link](javascript:x)\n# heading"
"""What a careless page would execute, and a careless table would take for structure."""


def verdict(
    checker: str = "no-lost-ack", valid: Validity = Validity.VALID, reason: str = "all 9 writes are there"
) -> Verdict:
    return Verdict(checker, valid, reason, {"lost": 0, "overshoot_s": 0.5}, ("w1/3 transfer (ok)",))


def seconds(*ok: float, failed: float = 0, unknown: float = 0) -> tuple[Second, ...]:
    return tuple(Second(float(at), 1.0, each, failed, unknown, 0.004, 0.02) for at, each in enumerate(ok))


def run_named(
    name: str = "Holdfast",
    *verdicts: Verdict,
    series: tuple[Second, ...] | None = None,
    bounds: tuple[Bound, ...] = (Bound("lost", 0, 400, "commits in doubt", 0.0075),),
    meta: dict[str, object] | None = None,
) -> Run:
    return Run(
        name=name,
        meta={"seed": 7, "workload": "bank", "flavour": "mariadb", "versions": {"server": "12.3.2"}}
        if meta is None
        else meta,
        verdicts=verdicts or (verdict(),),
        figures=Figures(1000, 990, 8, 2, 3, 400, 150, {"before": 1.0, "during": 1.04}, 0.4, 0.0),
        seconds=seconds(100, 120, 0, 90) if series is None else series,
        faults=(Span("kill-server", 1.0, 2.5),),
        phases=(Span("baseline", 0.0, 1.0), Span("faults", 1.0, 4.0)),
        bounds=bounds,
        latencies=(
            Percentiles("before", 500, 0.004, 0.02, 0.03, 0.05),
            Percentiles("during", 490, 0.004, 0.9, 2.0, 3.0),
        ),
        offered_per_s=100.0,
        deadline_s=10.0,
    )


def evil_report() -> Report:
    """Every text that comes from a run is hostile."""
    evil = Verdict(EVIL, Validity.INVALID, EVIL, {EVIL: 1.0}, (EVIL,))
    base = run_named(
        EVIL, evil, meta={"seed": EVIL, "workload": EVIL, "versions": {EVIL: EVIL}, "flavour": EVIL, "started": EVIL}
    )
    run = Run(
        name=base.name,
        meta=base.meta,
        verdicts=base.verdicts,
        figures=base.figures,
        seconds=base.seconds,
        faults=(Span(EVIL, 1.0, 2.0),),
        phases=(Span(EVIL, 0.0, 4.0),),
        bounds=(Bound(EVIL, 1, 10, EVIL, 0.5),),
        latencies=(Percentiles(EVIL, 1, 0.1, 0.1, 0.1, 0.1),),
    )
    return Report((run,), EVIL, {EVIL: EVIL})
