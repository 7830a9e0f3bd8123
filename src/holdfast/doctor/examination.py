"""Which questions and checks a flavour has, what the answers come to, and the thin shell that asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from ..dialects import Flavour, classify
from ..outcome import FailureClass, Stage
from . import galera, mysql_family, postgresql, sqlite
from .findings import Answer, Check, ClientFacts, Evidence, Finding, Question, Refused, Severity

__all__ = ["checks", "diagnose", "examine", "questions"]

_MODULES: dict[Flavour, ModuleType] = {
    Flavour.MYSQL: mysql_family,
    Flavour.MARIADB: mysql_family,
    Flavour.POSTGRESQL: postgresql,
    Flavour.SQLITE: sqlite,
}
_ONLY_THIS_ANSWER = frozenset(
    {FailureClass.PERMANENT, FailureClass.CANCELLED, FailureClass.CONTENTION, FailureClass.ROLE_CHANGED}
)
"""What a statement can fail with while the next one may be answered: a Galera node without a majority shows its status."""


def questions(flavour: Flavour | str) -> tuple[Question, ...]:
    """What to ask a server of `flavour`, in this order, each in a transaction of its own.

    Raises:
        ValueError: `flavour` is none of the four.
    """
    server = Flavour(flavour)
    asked: tuple[Question, ...] = _MODULES[server].questions(server)
    return asked


def checks(flavour: Flavour | str) -> tuple[Check, ...]:
    """What is looked at on a server of `flavour`, in the order in which it is shown.

    Raises:
        ValueError: `flavour` is none of the four.
    """
    server = Flavour(flavour)
    own: tuple[Check, ...] = _MODULES[server].CHECKS
    # Percona XtraDB Cluster is Galera under MySQL.
    return (*own, *galera.CHECKS) if _MODULES[server] is mysql_family else own


def diagnose(flavour: Flavour | str, answers: Mapping[str, Answer], client: ClientFacts) -> list[Finding]:
    """What the answers to `questions(flavour)` say, the worst first. Pure.

    Args:
        flavour: whose answers.
        answers: by the question's name; rows, or `Refused`. A missing one counts as refused.
        client: the clients' side.

    Raises:
        ValueError: `flavour` is none of the four.
    """
    server = Flavour(flavour)
    evidence = Evidence(server, answers, client)
    asked = {question.name: question for question in questions(server)}
    found = [finding for check in checks(server) for finding in check.find(evidence, asked)]
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


def examine(ask: Callable[[str], list[tuple[Any, ...]]], flavour: Flavour | str, client: ClientFacts) -> list[Finding]:
    """Ask a server every question, and diagnose.

    Args:
        ask: sends one statement and returns its rows. Called once a question, in order; after an error too, so it ends the
            transaction each time. What it raises is read by `classify`.
        flavour: whose server.
        client: the clients' side.

    Returns:
        As `diagnose`. Statements that this user may not send, or this server does not know, become `unseen` findings.

    Raises:
        Exception: what `ask` raised, where it means that the server cannot be asked any further.
        ValueError: `flavour` is none of the four.
    """
    server = Flavour(flavour)
    answers: dict[str, Answer] = {}
    for question in questions(server):
        try:
            answers[question.name] = ask(question.sql)
        except Exception as error:
            failure = classify(error, stage=Stage.BODY, flavour=server)
            if failure.failure_class not in _ONLY_THIS_ANSWER or failure.flavour is None:
                raise
            answers[question.name] = Refused(f"{failure.code} {failure.name}")
    return diagnose(server, answers, client)
