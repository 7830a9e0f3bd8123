"""`python -m examples.ledger.demo`, or `make demo`: what three services make of the same traffic and the same faults.

Each runs as a process of its own, on a SQLite file in a temporary folder or on DATABASE_URL, and is driven over HTTP. Then the
database itself is asked what really happened. Ends with 1 if Holdfast lost or doubled anything, or failed too often.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from rich.console import Console
from sqlalchemy.exc import DBAPIError

from holdfast.errors import HoldfastError
from holdfast.ext.sqlalchemy import open_endpoint

from .client import Answer, drive, open_accounts
from .database import TablesInTheWay, check, database
from .process import Conditions, ServiceFailed, service
from .table import OURS, SUCCESS_AIM, Screen, introduction, summary, table
from .traffic import Request, requests
from .truth import Applied, Result, compare, count
from .ways import WAYS

__all__ = ["main"]


async def _try(
    way: str, url: str, traffic: Sequence[Request], conditions: Conditions, on_answer: Callable[[Answer], object]
) -> tuple[Result, dict[str, Any]]:
    """Start a service, send it the traffic, stop it, and see what is in its database."""
    async with service(way, url, conditions) as running:
        accounts = await open_accounts(running.port)
        answers = await drive(running.port, traffic, accounts, on_answer)
    return compare(traffic, answers, await _count(url)), running.met


async def _count(url: str) -> Applied:
    engine = open_endpoint(url, asynchronous=True).async_engine
    assert engine is not None
    try:
        async with engine.connect() as connection:
            return await count(connection)
    finally:
        await engine.dispose()


async def _demo(options: argparse.Namespace, console: Console) -> int:
    _stop_on_termination()
    url = os.environ.get("DATABASE_URL")
    await check(url)
    conditions = Conditions(options.seed, options.share, options.slow, options.work)
    traffic = requests(options.seed, options.requests, options.rate)
    console.print(introduction(traffic, options.rate, conditions), highlight=False)
    results: dict[str, Result] = {}
    met: dict[str, dict[str, Any]] = {}
    with Screen(console, list(WAYS), len(traffic)) as screen:
        for way in WAYS:
            async with database(url) as place:
                results[way], met[way] = await _try(way, place, traffic, conditions, partial(screen.answered, way))
    console.print(table(results, met))
    console.print(*summary(results), sep="\n", highlight=False)
    ours = results[OURS]
    holds = not ours.lost and not ours.doubled and ours.balanced and ours.success >= SUCCESS_AIM
    return 0 if holds else 1


def _stop_on_termination() -> None:
    """Have SIGTERM clean up as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise ValueError
    return share


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def _count_of(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m examples.ledger.demo", description=__doc__)
    parser.add_argument("--requests", type=_count_of, default=350, help="how many saves (default: %(default)s)")
    parser.add_argument("--rate", type=_positive, default=25.0, help="saves a second (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=5, help="of traffic and faults (default: %(default)s)")
    parser.add_argument("--share", type=_share, default=0.18, help="of attempts that are hit (default: %(default)s)")
    parser.set_defaults(slow=0.25, work=0.1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status."""
    options = _options(arguments)
    console = Console()
    try:
        return asyncio.run(_demo(options, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("\nStopped. Nothing is left behind.")
        return 130
    except (TablesInTheWay, ServiceFailed, HoldfastError, DBAPIError) as error:
        # SQLAlchemy adds a line with the address of its documentation.
        console.print(str(error).partition("\n(Background")[0], style="red", highlight=False, markup=False)
        return 2


if __name__ == "__main__":
    sys.exit(main())
