"""Replay one case: `python -m tests.simulation "sync keyed: commit.1=lost-late begin.2=refused"`.

Prints what was done, what each caller was told, what the server has, and what is wrong with it. Exits with 1 if something is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from .checks import complaints
from .scenario import Case, Simulator


def main(text: str, say: Callable[[str], object]) -> int:
    """Replay the case that `text` spells, and `say` what came of it, a line at a time."""
    with Simulator() as simulator:
        story = simulator.play(Case.parse(text))
    say(f"{story.case}\n\nsteps  {' '.join(f'{step}.{which}' for step, which in story.progress.calls)}")
    for call in story.everyone():
        answer = repr(call.error) if call.error is not None else f"{call.value!r}"
        left_s = call.plan.expires_at - call.ended_at
        say(f"\n{call.name}: {answer}\n  outcome {call.outcome}, {call.attempts} attempts, {left_s:.3f} s left")
        for event in call.events:
            say(f"  {event}")
    say("\nserver")
    for transaction in story.server.log:
        say(f"  committed by {transaction.call}: {' '.join(transaction.halves)} {transaction.row or ''}")
    red = complaints(story)
    say("\n" + ("\n".join(f"{check}: {complaint}" for check, complaint in red) or "nothing to complain about"))
    return 1 if red else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], lambda line: sys.stdout.write(f"{line}\n")))
