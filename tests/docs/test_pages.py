"""Documents tell what is: links lead somewhere, names exist, and tables say what the code says."""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import breaker, decision, errors, events, outcome
from holdfast.decision import RetryPolicy
from holdfast.dialects import Flavour
from holdfast.ext.sqlalchemy import AsyncDatabase, Database, SessionSettings
from holdfast.ext.sqlalchemy.faults import Fault
from holdfast.ext.sqlalchemy.pushdown import limits_for
from holdfast.ext.sqlalchemy.settings import client_check, login_settings, pragmas, session_statement
from tests.docs.documents import DOCUMENTS, PAGES, POLICIES, anchors, code_spans, headings, prose, read, rows, section
from tests.house.sources import ROOT
from tests.house.test_errors import drawn_tree
from tests.simulation import faults as simulated
from tests.simulation.checks import CHECKS
from tests.simulation.scenario import RIVALS
from tests.simulation.test_schedules import SETTINGS

EVERYWHERE = {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}


def named(path: Path) -> str:
    """A document's path as a reader knows it."""
    return str(path.relative_to(ROOT))


# -- links and names -----------------------------------------------------------------------------------------------------


def broken_links(path: Path, text: str) -> set[str]:
    """The links of `text`, found at `path`, that lead to no file or no heading."""
    found = set()
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        content = text if page == path else page.read_text(encoding="utf-8") if page.is_file() else None
        if content is None or (anchor and anchor not in anchors(content)):
            found.add(target)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    """Every link to another page or heading finds it."""
    assert broken_links(path, EVERYWHERE[path]) == set()


def test_planted_link_is_found_broken() -> None:
    """A page and a heading that went away are told; a block is not looked at."""
    text = "# Here\n[a](index.md) [b](gone.md) [c](#here) [d](#gone) [e](errors.md#conflict)\n```\n[f](gone.md)\n```\n"
    assert broken_links(ROOT / "docs" / "planted.md", text) == {"gone.md", "#gone"}


def test_every_page_can_be_found() -> None:
    """The first page leads to every other one."""
    linked = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", read("docs/index.md"))}
    assert linked == {str(page.relative_to(ROOT / "docs")) for page in PAGES} - {"index.md"}


@cache
def declared() -> dict[str, Any]:
    """Whatever a module of the package declares as public, by its name."""
    modules = [importlib.import_module(found.name) for found in pkgutil.walk_packages(holdfast.__path__, "holdfast.")]
    return {name: getattr(module, name) for module in modules for name in getattr(module, "__all__", ())}


FOREIGN = {"DBAPIError", "Decimal", "InternalError", "Model", "OperationalError", *dir(builtins)}
"""Of Python, SQLAlchemy and the drivers, or of an example."""


def missing_names(text: str) -> set[str]:
    """What `text` names in backticks and nobody declares: classes, methods of a database, dotted names of the package."""
    known = FOREIGN.union(declared())
    missing = set()
    for span in code_spans(text):
        call = re.match(r"[\w.-]+", span)
        first = call[0].rstrip(".") if call else ""
        if re.fullmatch(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+|[A-Z][a-z]{3,}", first) and first not in known:
            missing.add(span)
        elif first.startswith("holdfast."):
            try:
                pkgutil.resolve_name(first)
            except (ImportError, AttributeError):
                missing.add(span)
        elif first.startswith("db.") and not _has(first.removeprefix("db.")):
            missing.add(span)
    return missing


def _has(method: str) -> bool:
    return hasattr(Database, method) and hasattr(AsyncDatabase, method)


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_names_exist(path: Path) -> None:
    """Every class, module and method that a document names is there."""
    assert missing_names(EVERYWHERE[path]) == set()


def test_planted_name_is_found_missing() -> None:
    """A class, a module, a function and a method that nobody has are told."""
    text = "`RetryBudget(ratio=1)` `GoneError` `holdfast.gone` `holdfast.retry` `holdfast.deadline.gone` `db.gone()` `db.lock()`"
    assert missing_names(text) == {"GoneError", "holdfast.gone", "holdfast.deadline.gone", "db.gone()"}


# -- defaults ------------------------------------------------------------------------------------------------------------


def defaults_of(target: Callable[..., Any]) -> dict[str, object]:
    """The settings of a class or function with their defaults; `...` where there is none."""
    if dataclasses.is_dataclass(target):
        found: dict[str, object] = {}
        for field in dataclasses.fields(target):
            if field.init:
                make = field.default_factory
                found[field.name] = field.default if make is dataclasses.MISSING else make()
        return found
    parameters = inspect.signature(target).parameters.values()
    return {p.name: ... if p.default is inspect.Parameter.empty else p.default for p in parameters}


def stated_defaults(text: str) -> Iterator[tuple[str, dict[str, object]]]:
    """(name, settings with defaults) of each table that follows "The defaults of `name`:"."""
    words = {**declared(), "timedelta": timedelta}
    for name, table in re.findall(r"^The defaults of `(\w+)`:\n\n((?:\|.*\n)+)", text, flags=re.MULTILINE):
        stated = {cells[0].strip("`"): cells[1].strip("`") for cells in rows(table)}
        yield name, {key: ... if value == "required" else eval(value, words) for key, value in stated.items()}


TABLES = [(path, *table) for path in PAGES for table in stated_defaults(EVERYWHERE[path])]


@pytest.mark.parametrize(("path", "name", "stated"), TABLES, ids=[f"{named(path)}:{name}" for path, name, _ in TABLES])
def test_defaults_are_those_of_the_code(path: Path, name: str, stated: dict[str, object]) -> None:
    """A table of defaults has every setting, in the order of the signature, with the default of the code."""
    assert list(stated.items()) == list(defaults_of(declared()[name]).items())


def test_every_setting_has_its_table() -> None:
    """No policy and no settings class is without a table."""
    policies = {
        "retry",
        "Backoff",
        "RetryBudget",
        "within",
        "CircuitBreaker",
        "AdaptiveLimit",
        "Bulkhead",
        "RateLimiter",
    }
    assert {name for _, name, _ in TABLES} == policies | {
        "Pipeline",
        "DatabaseSettings",
        "PoolSettings",
        "FailoverSettings",
    }


def test_allowances_are_those_of_the_code() -> None:
    """The table of attempts and delays says what the default policy does."""
    (*_, table) = re.findall(r"^\| failure \|.*\n((?:\|.*\n)+)", read("docs/saves.md"), flags=re.MULTILINE)

    def seconds(text: str) -> float:
        number, unit = text.split()
        return float(number) / (1000 if unit == "ms" else 1)

    stated = {}
    for cells in rows(f"| x |\n{table}"):
        numbers = (int(cells[1]), *(seconds(cell) for cell in cells[2:] if cell))
        for word in re.split(r"[:,] ", cells[0]):
            stated[word.replace(" ", "_")] = numbers
    policy, expected = RetryPolicy(), {}
    for kind in outcome.FailureClass:
        allowance = policy.allowances.get(kind)
        expected[kind.value] = (
            (1,) if allowance is None else (allowance.attempts, allowance.backoff.base, allowance.backoff.cap)
        )
    expected["connection"] = expected["lost"]
    assert stated == expected
    assert decision.CONTENTION.attempts == stated["contention"][0]


# -- policies ------------------------------------------------------------------------------------------------------------

TEMPLATE = [
    "What it protects",
    "When not to use it",
    "Usage",
    "Defaults",
    "When it fails",
    "Events",
    "How it works",
    "Anti-patterns",
]


@pytest.mark.parametrize("path", POLICIES, ids=named)
def test_policy_page_has_the_template(path: Path) -> None:
    """Each page of a policy has the same headings in the same order, shows a failure, and says what to do instead."""
    text = EVERYWHERE[path]
    assert [title for level, title in headings(text) if level == 2] == TEMPLATE
    assert "```output" in section(text, "When it fails")
    assert "```" in section(text, "How it works")
    advice = section(text, "Anti-patterns")
    assert advice.count("**Don't**") == advice.count("**Do**") >= 2


def test_every_policy_has_its_page() -> None:
    """One page for each policy, and no other."""
    pages = {"retry", "budget", "deadline", "breaker", "adaptive-limit", "bulkhead", "rate-limiter", "pipeline"}
    assert {path.stem for path in POLICIES} == pages


def test_breaker_states_are_those_of_the_code() -> None:
    """The picture of the breaker has every transition of its table."""
    picture = section(read("docs/policies/breaker.md"), "How it works")
    drawn = {tuple(line.split()) for line in picture.splitlines() if re.fullmatch(r" {4}[*\w]+ +\w+ +\w+", line)}
    table = {(before or "*", trigger.value, after.value) for (before, trigger), after in breaker.TRANSITIONS.items()}
    assert drawn == table


# -- errors, events, codes -----------------------------------------------------------------------------------------------


def test_error_page_draws_the_tree() -> None:
    """The page's drawing is the one at the top of the module."""
    page = re.search(r"^```\n(HoldfastError\n.*?)^```", read("docs/errors.md"), flags=re.DOTALL | re.MULTILINE)
    assert page is not None
    drawn = drawn_tree("\n".join(f"    {line}" for line in page[1].splitlines()))
    assert len(drawn) > 20
    assert drawn == drawn_tree(errors.__doc__ or "")


def test_every_error_has_its_section() -> None:
    """Each code is a heading, under which its class comes first and a status is suggested; and no heading is more."""
    text = read("docs/errors.md")
    classes = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
    by_code = {kind.code: kind.__name__ for kind in classes if issubclass(kind, errors.HoldfastError)}
    assert {title for level, title in headings(text) if level == 3} == set(by_code)
    for code, name in by_code.items():
        entry = section(text, code)
        assert entry.strip().startswith(f"`{name}`"), code
        assert re.search(r"\*\*Status\*\*\s[45]\d\d", entry), code


def test_every_event_is_described() -> None:
    """The table of events has every event with its fields, in the order of the module."""
    stated = {cells[0].strip("`"): re.findall(r"`(\w+)`", cells[1]) for cells in rows(read("docs/events.md"))}
    kinds = [kind for name, kind in vars(events).items() if name in events.__all__]
    expected = {kind.__name__: [f.name for f in dataclasses.fields(kind)][1:] for kind in kinds}
    assert list(stated.items()) == list(expected.items())


def test_events_are_named_where_they_happen() -> None:
    """The reasons for which there is no retry are those of the code."""
    stated = re.search(r"`reason` is one of ([^.]+)\.", prose(read("docs/events.md")))
    assert stated is not None
    reasons = {reason.value for reason in decision.StopReason} - {"succeeded", "not_retryable"}
    assert set(re.findall(r"`(\w+)`", stated[1])) == reasons


@pytest.fixture(scope="module")
def dialect_tables() -> Any:
    """The program that writes the tables, as a module."""
    spec = importlib.util.spec_from_file_location("dialect_tables", ROOT / "tools" / "dialect_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_of_codes_are_current(dialect_tables: Any) -> None:
    """The tables are what `python tools/dialect_tables.py` would write."""
    page = read("docs/dialects.md")
    assert dialect_tables.with_tables(page) == page
    assert page.count("| `contention` |") > 30


def test_planted_change_of_a_table_is_found(dialect_tables: Any) -> None:
    """A row that was changed by hand does not survive."""
    page = read("docs/dialects.md")
    assert dialect_tables.with_tables(page.replace("| 1213 |", "| 9999 |")) == page
    with pytest.raises(ValueError, match="lacks the line"):
        dialect_tables.with_tables("# No marks")


def test_failure_classes_are_those_of_the_code() -> None:
    """Each class is described, and the breaker counts those that the page says it counts."""
    stated = {
        cells[0].strip("`"): cells[3] == "counts"
        for cells in rows(section(read("docs/dialects.md"), "Failure classes"))
    }
    assert stated == {kind.value: kind.counts_for_breaker for kind in outcome.FailureClass}


# -- servers -------------------------------------------------------------------------------------------------------------


def test_what_is_set_on_servers_is_told() -> None:
    """Every setting that a session gets stands in the column of its flavour."""
    table = section(read("docs/servers.md"), "What Holdfast sets")
    titles = next(line for line in table.splitlines() if line.startswith("|")).strip("|").split("|")
    place = {Flavour(title.strip().lower()): number for number, title in enumerate(titles) if title.strip()}
    told = dict.fromkeys(Flavour, "")
    for cells in rows(table):
        for flavour in Flavour:
            same = cells[place[flavour]] == "the same"
            told[flavour] += cells[place[Flavour.MARIADB if same else flavour]]
    settings = SessionSettings()
    for flavour in (Flavour.MARIADB, Flavour.MYSQL):
        statement = session_statement(flavour, settings, detect_conflicts=True, recycle_s=300)
        names = re.findall(r"SESSION (\w+)=", statement)
        assert {name for name in names if f"`{name}`" not in told[flavour]} == {"time_zone"}
    assert (client_check((14,)) or "").split()[1] in told[Flavour.POSTGRESQL]
    assert {name for name in login_settings(settings) if f"`{name}`" not in told[Flavour.POSTGRESQL]} == {"TimeZone"}
    on_sqlite = [pragma.removeprefix("PRAGMA ") for pragma in pragmas()] + list(limits_for(Flavour.SQLITE, 1.0))
    assert {name for name in on_sqlite if f"`{name}`" not in told[Flavour.SQLITE]} == set()


# -- tests and simulation ------------------------------------------------------------------------------------------------


def test_faults_for_users_are_described() -> None:
    """Each fault that can be injected is in the table."""
    stated = [cells[0].strip("`") for cells in rows(section(read("docs/testing.md"), "Faults"))]
    assert stated == [fault.value for fault in Fault]


def test_simulated_faults_are_described() -> None:
    """The page has each step with its faults, each check, each protection, and each rival."""
    text = read("docs/simulation.md")
    steps = {
        cells[0].strip("`"): re.findall(r"`([\w-]+)`", cells[1]) for cells in rows(section(text, "What goes wrong"))
    }
    assert steps == {step: [fault.name for fault in found] for step, found in simulated.FAULTS.items()}
    assert [cells[0].strip("`") for cells in rows(section(text, "What must hold"))] == list(CHECKS)
    played = section(text, "What is played")
    protections = {setting.split()[0] for setting in SETTINGS}
    options = {option for setting in SETTINGS for option in setting.split()[1:]}
    assert {cells[0].strip("`") for cells in rows(played)} == protections
    assert {*options, *RIVALS} <= set(code_spans(played))


def test_the_number_of_cases_is_told() -> None:
    """The page and the README say how many cases there are, not more than are played."""
    least = 2 * sum(SETTINGS.values())
    for name in ("README.md", "docs/simulation.md"):
        stated = re.search(r"[Ss]ome\s([\d,]+)\scases", read(name))
        assert stated is not None, name
        assert 0.8 * least <= int(stated[1].replace(",", "")) <= least, name


# -- the README ----------------------------------------------------------------------------------------------------------


def test_readme_example_is_short() -> None:
    """The example fits into 25 lines."""
    example = re.search(r"```python\n(.*?)```", read("README.md"), flags=re.DOTALL)
    assert example is not None
    assert len(example[1].splitlines()) <= 25


def test_readme_names_every_extra() -> None:
    """Each extra that a user installs is in the README, and no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named_extras = set(re.findall(r"'holdfast\[(\w+)\]'", read("README.md")))
    assert named_extras == set(project["optional-dependencies"]) - {"ledger"}
