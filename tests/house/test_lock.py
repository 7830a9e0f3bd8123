"""The locks hold every dependency of pyproject.toml, with hashes, and name no registry."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house.sources import ROOT

LOCKS = {"requirements.lock": None, "requirements-native.lock": "native"}
"""Each lock with the one dependency group it holds; None: everything else."""


def pins(lock: str) -> dict[str, set[str]]:
    """The versions that a lock pins for each package (more than one where platforms differ)."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)", lock, flags=re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def wanted(configuration: dict[str, object], group: str | None) -> list[Requirement]:
    """The requirements of one dependency group; for None those of the project, its extras and all other groups."""
    project: dict[str, object] = configuration["project"]  # type: ignore[assignment]
    groups: dict[str, list[str]] = configuration["dependency-groups"]  # type: ignore[assignment]
    extras: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    if group is not None:
        lines = groups[group]
    else:
        own_locks = set(LOCKS.values())
        lines = [line for lines in extras.values() for line in lines]
        lines += [line for name, lines in groups.items() if name not in own_locks for line in lines]
        lines += configuration["build-system"]["requires"]  # type: ignore[index]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != "holdfast"]


def missing(lock: str, requirements: list[Requirement]) -> set[str]:
    """The requirements that no pin of the lock satisfies."""
    found = pins(lock)
    return {
        str(requirement)
        for requirement in requirements
        if not any(
            requirement.specifier.contains(v, prereleases=True)
            for v in found.get(canonicalize_name(requirement.name), ())
        )
    }


def faults(lock: str) -> list[str]:
    """What a lock may not hold: an address, an option, or a pin without a hash."""
    entries = re.split(r"\n(?=\S)", "\n".join(line for line in lock.splitlines() if not line.startswith("#")).strip())
    found = [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]
    return found + [line for line in lock.splitlines() if "://" in line or line.startswith("-") or " @ " in line]


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_every_dependency(name: str) -> None:
    """Whatever pyproject.toml asks for is locked to a version it accepts (otherwise: `make lock`)."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    requirements = wanted(configuration, LOCKS[name])
    assert requirements
    assert missing((ROOT / name).read_text(encoding="utf-8"), requirements) == set()


@pytest.mark.parametrize("name", LOCKS)
def test_lock_has_hashes_and_no_address(name: str) -> None:
    """Every pin has its hashes, and nothing says where packages come from: that is the machine's business."""
    lock = (ROOT / name).read_text(encoding="utf-8")
    assert pins(lock)
    assert faults(lock) == []


def test_planted_lock_is_found_wrong() -> None:
    """A missing package, a version out of range, an index, a direct address and a pin without a hash are told."""
    lock = "--index-url https://x/simple\na==1.0 \\\n    --hash=sha256:0\nb==2.0\nc @ https://x/c.whl\n"
    requirements = [Requirement(line) for line in ("a>=1", "a>=2", "b", "d")]
    assert missing(lock, requirements) == {"a>=2", "d"}
    assert faults(lock) == ["--index-url", "b==2.0", "c", "--index-url https://x/simple", "c @ https://x/c.whl"]
