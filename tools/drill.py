"""Run the long drills, in pieces that add up, and write what they show: `docs/drills/RESULTS.md`.

    python tools/drill.py                               # all that is still missing, for hours
    python tools/drill.py --only commits-maria --minutes 20
    python tools/drill.py --results                     # only write the page
    python tools/drill.py --again                       # judge the histories that are here once more, and write the page

May be stopped at any moment and started again. The pieces stay in `build/drills`, and what they showed in
`docs/drills/pieces.jsonl`, from which the page is made.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2

from holdfast.clock import SYSTEM_CLOCK
from holdfast.drills.campaign import LONG_DRILLS, Campaign
from holdfast.drills.results import results_page
from holdfast.drills.run import Progress
from holdfast.drills.servers.process import free_port
from holdfast.drills.subjects import with_driver

__all__ = ["ROOT", "ledger", "main"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "drills" / "RESULTS.md"
KEPT = PAGE.with_name("pieces.jsonl")
READY_WITHIN_S = 60.0


@contextmanager
def ledger(url: str) -> Iterator[str]:
    """The reference service on the database at `url`; its address.

    Raises:
        RuntimeError: it does not come up.
    """
    port = free_port()
    environment = {**os.environ, "LEDGER_DATABASE_URL": with_driver(url, asynchronous=True), "LEDGER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.ledger"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(process, address)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(READY_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    give_up_at = SYSTEM_CLOCK.monotonic() + READY_WITHIN_S
    while process.poll() is None and SYSTEM_CLOCK.monotonic() < give_up_at:
        with suppress(httpx2.TransportError):
            httpx2.get(f"{address}/livez", trust_env=False).raise_for_status()
            return
        SYSTEM_CLOCK.sleep(0.1)
    raise RuntimeError("the ledger did not start; run `python -m examples.ledger` to see why")


def _show(told: Progress) -> None:
    broken = f", broken: {', '.join(told.faults)}" if told.faults else ""
    print(f"\r  {told.phase}, {told.left_s:.0f} s left, {told.goodput_per_s:.0f}/s{broken}\033[K", end="", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; the exit status is 1 if anything is broken that should hold."""
    parser = argparse.ArgumentParser("python tools/drill.py", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "drills", help="where the pieces go")
    parser.add_argument("--only", default="", help="the drills whose name begins so")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no piece after so long")
    parser.add_argument("--results", action="store_true", help="only write the page")
    parser.add_argument("--again", action="store_true", help="only judge the histories once more, and write the page")
    options = parser.parse_args(arguments)
    chosen = Campaign(
        options.folder,
        [drill for drill in LONG_DRILLS if drill.name.startswith(options.only)],
        service=ledger,
        kept=KEPT,
    )
    if options.again:
        chosen.judge_again()
    runs = not (options.results or options.again)
    give_up_at = SYSTEM_CLOCK.monotonic() + (options.minutes * 60 if runs else 0.0)
    while SYSTEM_CLOCK.monotonic() < give_up_at and (piece := chosen.next_piece()) is not None:
        print(f"{piece.folder}: {piece.drill.shows}", flush=True)
        result = chosen.run(piece, _show if sys.stdout.isatty() else None)
        print(
            f"\r  {result.validity}: {result.summary}\033[K"
            if sys.stdout.isatty()
            else f"  {result.validity}: {result.summary}"
        )
    everything = Campaign(options.folder, service=ledger, kept=KEPT)
    PAGE.parent.mkdir(exist_ok=True)
    everything.keep()
    PAGE.write_text(results_page(everything, "make drill"))
    broken = [
        sentence for drill in chosen.drills if drill.expected == "valid" for sentence in chosen.totals(drill).wrong
    ]
    print(*broken, sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nStopped; what was finished stays.")
        sys.exit(130)
