"""Play every mutant, or those that are named, and say which checker saw what."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings

from holdfast.clock import SYSTEM_CLOCK
from holdfast.drills.verdict import Validity, Verdict

from . import commits, contention, crashes, judges, service
from .mutant import MUTANTS, Mutant
from .stage import Stage

__all__ = ["main"]

_FILES = (commits, contention, service, judges, crashes)
_SEED = 7


def main() -> int:
    """Play; 0 if every checker saw its bug and nothing else, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.drills.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants to play; default: all")
    parser.add_argument("--seed", type=int, default=_SEED)
    given = parser.parse_args()
    known = {mutant.name for mutant in MUTANTS}
    if unknown := set(given.names) - known:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")
    chosen = [mutant for mutant in MUTANTS if not given.names or mutant.name in given.names]
    # Faults are what these scenes are made of: their warnings would bury the table.
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    _say(f"seed {given.seed}")
    _say(f"{'mutant':45} {'checker':18} {'with bug':9} {'without':9} {'s':>5}")
    with Stage(given.seed) as stage:
        wrong = [mutant.name for mutant in chosen if not _plays(mutant, stage)]
    _say(f"not as it must be: {', '.join(wrong)}" if wrong else f"all {len(chosen)} are seen")
    return 1 if wrong else 0


def _plays(mutant: Mutant, stage: Stage) -> bool:
    """Play it twice and print its row; whether it was red with the bug and green without."""
    began = SYSTEM_CLOCK.monotonic()
    with_bug = mutant.play(stage, bug=True)
    without = mutant.play(stage, bug=False)
    seconds = SYSTEM_CLOCK.monotonic() - began
    _say(f"{mutant.name:45} {with_bug.checker:18} {with_bug.valid:9} {without.valid:9} {seconds:5.1f}")
    good = (with_bug.valid, without.valid) == (Validity.INVALID, Validity.VALID)
    if not good:
        for case, verdict in (("with the bug", with_bug), ("without it", without)):
            _say(f"    {case}: {_details(verdict)}")
    return good


def _details(verdict: Verdict) -> str:
    return "; ".join([verdict.reason, *verdict.examples])


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
