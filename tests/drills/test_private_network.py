"""A network of servers' own is made or refused with a reason, and a cluster without one does with loopback."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil
import pytest

from holdfast.drills.servers import ServerMissing, galera, inherited_port, mariadb
from holdfast.drills.servers.private_network import NetworkForbidden, PrivateNetwork


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every program that a network needs; each says why it refuses, as in a container. The caller is root."""
    for name in ("ip", "nft", "nsenter", "unshare", "setpriv"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{name} failed: Operation not permitted' >&2\nexit 1\n")
        program.chmod(0o755)

    def which(name: str, path: str | None = None) -> str | None:
        return str(tmp_path / name) if (tmp_path / name).exists() else None

    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(mariadb, "version", lambda: "10.11.19-MariaDB")
    return tmp_path


@pytest.mark.parametrize(
    ("program", "package"), [("ip", "iproute2"), ("nft", "nftables"), ("unshare", "util-linux")], ids=str
)
def test_missing_program_is_told(programs: Path, program: str, package: str) -> None:
    """Who lacks one hears what to install, which is another thing than a machine that refuses."""
    (programs / program).unlink()
    with pytest.raises(ServerMissing, match=f"needs '{program}': apt-get install {package}") as caught:
        PrivateNetwork(1)
    assert not isinstance(caught.value, NetworkForbidden)


@pytest.mark.usefixtures("programs")
def test_machine_that_refuses_says_what() -> None:
    """A container may forbid namespaces to root as well."""
    with pytest.raises(NetworkForbidden, match="no network namespace: unshare failed: Operation not permitted"):
        PrivateNetwork(1)


@pytest.mark.usefixtures("programs")
def test_network_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else may make one."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NetworkForbidden, match="needs root"):
        PrivateNetwork(1)


def test_what_was_made_is_given_back_when_the_rest_is_refused(programs: Path) -> None:
    """A kernel may have namespaces and no bridge."""
    unshare = programs / "unshare"
    unshare.write_text('#!/bin/sh\nshift\nexec "$@"\n')  # the caller's own namespace: nothing is made in it, ip refuses
    before = psutil.Process().num_fds()
    with pytest.raises(NetworkForbidden, match=r"refused: .*ip -batch -: nsenter failed: Operation not permitted"):
        PrivateNetwork(1)
    assert psutil.Process().num_fds() == before


@pytest.mark.usefixtures("programs")
def test_cluster_takes_loopback_where_it_gets_no_network() -> None:
    """Unless it was asked for one."""
    assert galera._network("best", 3) is None
    assert galera._network("loopback", 3) is None
    with pytest.raises(NetworkForbidden):
        galera._network("private", 3)


@pytest.mark.usefixtures("programs")
def test_old_mariadb_takes_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot inherit the port on which its clients reach it."""
    monkeypatch.setattr(mariadb, "version", lambda: "10.5.29-MariaDB")
    assert galera._network("best", 3) is None
    with pytest.raises(NetworkForbidden, match=r"from 10\.6 on"):
        galera._network("private", 3)


@pytest.mark.usefixtures("programs")
def test_old_kernel_takes_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a way to keep a port shut clients would be let in to wait."""
    monkeypatch.setattr(inherited_port, "_SO_BINDTOIFINDEX", 9_999)
    assert galera._network("best", 3) is None
    with pytest.raises(NetworkForbidden, match="no port can be kept shut here"):
        galera._network("private", 3)
