"""A preflight: the settings of server, session and pool that break the promise, each with its reason and its cure.

Holdfast keeps what it promises *given that the database keeps what it committed*. This checks that "given".

    findings = examine(ask, Flavour.MARIADB, ClientFacts(processes=4, pool_open=20))

`questions` says what to ask a server of a flavour, `diagnose` turns the answers into findings, and `examine` does both over a
function that sends one statement. Nothing here writes to the database. A user who may not see something still gets everything
else: what was refused becomes an `unseen` finding that names the privilege. Pure but for `ask`; safe to call from any thread.
"""

from __future__ import annotations

from .examination import checks, diagnose, examine, questions
from .findings import Answer, Check, ClientFacts, Evidence, Finding, Question, Refused, Severity, Symptom
from .mounts import file_system_of

__all__ = [
    "Answer",
    "Check",
    "ClientFacts",
    "Evidence",
    "Finding",
    "Question",
    "Refused",
    "Severity",
    "Symptom",
    "checks",
    "diagnose",
    "examine",
    "file_system_of",
    "questions",
]
