"""Shared fixtures: real servers, the seed of a run, Hypothesis profiles.

Servers start when the first test asks for one and serve the whole session. Under pytest-xdist every worker would start its own.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import hypothesis
import pytest

from holdfast.drills.servers import Server, ServerMissing, galera, mariadb, mysql, postgresql
from holdfast.drills.servers.galera import Galera, Network
from holdfast.drills.servers.private_network import NetworkForbidden, PrivateNetwork

IN_CI = os.environ.get("CI", "").lower() == "true"

# CI must give the same answer for the same tree, so it always draws the same; everybody else explores. Both can be replayed.
SEED = int(os.environ.get("HOLDFAST_SEED") or (1 if IN_CI else secrets.randbelow(2**32)))

hypothesis.settings.register_profile("holdfast", deadline=None, print_blob=True)
hypothesis.settings.load_profile("holdfast")

_FLAVOURS = {"MariaDB": mariadb, "PostgreSQL": postgresql, "MySQL": mysql}
TESTS = Path(__file__).parent
SERVER_FOLDERS = ("contract", "drills", "integration", "ledger")
_SERVER_FIXTURES = {"galera_cluster", *(f"{name.lower()}_server" for name in _FLAVOURS)}
_started: list[Server | Galera] = []

_LONGEST = (
    "test_galera.py",
    "test_failover.py",
    "test_faults.py",
    "test_faults_cluster.py",
    "test_faultproxy.py",
    "test_run.py",
    "test_faults_server.py",
    "test_doctor.py",
    "test_servers.py",
    "test_operations.py",
    "test_uvicorn_drain.py",
    "test_provoked_mysql_family.py",
)
"""The files with servers that take half a minute and more, the longest first."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hand the seed to Hypothesis, unless the command line gave it one."""
    if config.getoption("--hypothesis-seed", None) is None:
        config.option.hypothesis_seed = str(SEED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, so that `make test` can run everything else first."""
    for item in items:
        # The contract suite asks for its server by the name in its `kind`.
        kind = (
            item.callspec.params.get("kind")
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else None
        )
        by_kind = getattr(kind, "server", "sqlite") != "sqlite"
        by_name = _SERVER_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        if by_kind or by_name or "integration" in item.path.parts:
            item.add_marker(pytest.mark.servers)
        if item.get_closest_marker("servers") and item.path.relative_to(TESTS).parts[0] not in SERVER_FOLDERS:
            raise pytest.UsageError(
                f"{item.nodeid} uses a server: `make test` looks for such tests in {SERVER_FOLDERS}"
            )
    # The longest files first, so that no worker begins one when the others are done.
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What this run can be repeated with."""
    seeds = f"seed: {SEED} (HOLDFAST_SEED), Hypothesis {config.getoption('--hypothesis-seed')} (--hypothesis-seed)"
    modules = {**_FLAVOURS, "Galera": galera}
    return [seeds, *(f"{name}: {_version(module)}" for name, module in modules.items())]


def _version(module: ModuleType) -> str:
    try:
        return str(module.version())
    except ServerMissing as error:
        return f"missing. {error}"


def pytest_runtest_teardown() -> None:
    """A test that leaves a server killed, stopped or paused does not spoil the next one."""
    for server in _started:
        server.heal()


@pytest.fixture
def seed() -> int:
    """The seed of this run."""
    return SEED


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """A generator of this test's own, the same in every run with the same seed."""
    return random.Random(f"{SEED}:{request.node.nodeid}")


def _do_without(error: ServerMissing) -> NoReturn:
    """Where tests are a gate a missing server is a failure: nothing may pass because it did not run."""
    if IN_CI:
        pytest.fail(str(error))
    pytest.skip(str(error))


def _serve(module: ModuleType, **how: Any) -> Iterator[Any]:
    try:
        server: Server | Galera = module.start(**how)
    except ServerMissing as error:
        _do_without(error)
    _started.append(server)
    try:
        yield server
    finally:
        _started.remove(server)
        server.close()


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Server]:
    """A running MariaDB server, shared by the session."""
    yield from _serve(mariadb)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A running PostgreSQL server, shared by the session."""
    yield from _serve(postgresql)


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[Server]:
    """A running MySQL server, shared by the session."""
    yield from _serve(mysql)


@pytest.fixture(scope="module")
def galera_network() -> Network:
    """Where the nodes of the module's cluster talk to each other."""
    return "best"


@pytest.fixture(scope="module")
def galera_cluster(galera_network: Network) -> Iterator[Galera]:
    """A Galera cluster of three nodes, whole at the beginning of each test; takes about 10 s for a module."""
    yield from _serve(galera, network=galera_network)


@pytest.fixture
def private_network() -> Iterator[PrivateNetwork]:
    """A network of its own for two servers."""
    try:
        network = PrivateNetwork(2)
    except NetworkForbidden as error:
        pytest.skip(str(error))  # a container may not let anybody make one, and no package helps
    except ServerMissing as error:
        _do_without(error)
    try:
        yield network
    finally:
        network.close()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Programs that the test starts end at Ctrl-C, and with their terminal, as in a terminal.

    A run in the background of a script (`&`, `nohup`) ignores SIGINT or SIGHUP, and what it starts inherits that. What this
    process handles is the default again in a program that it starts.
    """
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The SQLAlchemy URL of a new SQLite file."""
    return f"sqlite:///{tmp_path / 'holdfast.db'}"
