"""The life of one operation: a pure engine that decides, and two shells that act.

    STARTED ─► BEGIN ─► CLAIM ─► RUN ─► STORE ─► COMMIT ─► RETURN
                 ▲        │       │       │        │
                 │        └───────┴── FAILED ──────┤
                 │                      │          │ AMBIGUOUS: in doubt
                 │        ROLL_BACK or DISCARD ◄───┘
                 │                      │
                 └── SLEEP ◄─── decide ─┴─► RAISE

The engine is told what happened, with the time and a random draw, and answers with the next action. It reads no clock,
does no I/O and draws no number, so one simulation covers every path of both shells. The shells decide nothing.

Three rules carry the promise of exactly once:

- After any failure the transaction is rolled back or its connection closed, and the *whole* unit runs again from BEGIN.
- COMMIT is sent once. If its answer is lost, the operation is *in doubt*, and no error may say "not committed" until the
  doubt is settled.
- A doubt is settled by the key row, never by a plain read: the next attempt *inserts* the same key first. The unique
  index makes it wait for the old transaction; then the row is there (committed) or the insert goes through (never will be).
  Where the server keeps a record of transactions (PostgreSQL's `pg_xact_status`), it is asked instead.

`CLAIM` and `STORE` happen for operations with a key row only, `PROBE` where the server keeps a record. Where the key is
Holdfast's own and the server takes several statements at once, `CLAIM` goes with `COMMIT` until there is a doubt. Then the
insert of the next attempt proves nothing yet, because the COMMIT in doubt may still be under way with its row; the COMMIT of
the next attempt does, after which the two rows collide.
"""

from __future__ import annotations

from .actions import Action, Do, Happening, Plan, ProbeAnswer, Protection, What
from .engine import Engine, EngineMisused
from .port import ROLLBACK_GRACE_S, AsyncPort, Port
from .shells import AsyncShell, Shell

__all__ = [
    "ROLLBACK_GRACE_S",
    "Action",
    "AsyncPort",
    "AsyncShell",
    "Do",
    "Engine",
    "EngineMisused",
    "Happening",
    "Plan",
    "Port",
    "ProbeAnswer",
    "Protection",
    "Shell",
    "What",
]
