"""The ledger's own refusals as problem documents. Everything else that can go wrong has one already, in `holdfast.asgi.problems`.

| what happened | status | |
|---|---|---|
| no such row of this tenant's | 404 | |
| not enough money, or two currencies | 409 | the request is valid, the state of the accounts is in its way |
"""

from __future__ import annotations

from collections.abc import Callable

from holdfast.asgi.problems import Problem

from .domain import CurrencyMismatch, InsufficientFunds, LedgerError, NotFound

__all__ = ["PROBLEMS"]


def _problem(status: int, code: str) -> Callable[[LedgerError], Problem]:
    def problem(error: LedgerError) -> Problem:
        text = str(error)  # written for the caller
        return Problem(status, code, detail=f"{text[:1].upper()}{text[1:]}.")

    return problem


PROBLEMS: dict[type[Exception], Callable[[LedgerError], Problem]] = {
    NotFound: _problem(404, "not-found"),
    InsufficientFunds: _problem(409, "insufficient-funds"),
    CurrencyMismatch: _problem(409, "currency-mismatch"),
}
