"""Set a fresh machine up: the virtual environment from the locks, and the servers that the tests run on.

    python3 tools/bootstrap.py              # the environment: enough for everything but the server tests
    python3 tools/bootstrap.py --servers    # and MariaDB with Galera, PostgreSQL and what builds MySQL

Does nothing when everything is there already (a few milliseconds), and can be run again after an interruption. Runs before
anything is installed, so it needs the standard library alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements.lock"
NATIVE_LOCK = ROOT / "requirements-native.lock"
STAMP = VENV / "holdfast-bootstrap"

OLDEST_PYTHON = (3, 11)

SERVERS = {
    "MariaDB": ("mariadbd", ["mariadb-server-core", "mariadb-client-core"]),
    # The script that copies a node's data, and its configuration, come with `mariadb-server`.
    "Galera": ("/usr/lib/galera/libgalera_smm.so", ["mariadb-server", "galera-4"]),
    "Galera's copy of a node": ("rsync", ["rsync"]),
    "A network of Galera's nodes": ("ip", ["iproute2"]),
    "A partition of it": ("nft", ["nftables"]),
    "PostgreSQL": ("postgres", ["postgresql"]),
    "MySQL": ("mmdebstrap", ["mmdebstrap"]),
    "Redis": ("redis-server", ["redis-server"]),
}
"""Who needs which program or file, and the Debian packages that bring it. The `-core` packages bring no service."""

NATIVE_PACKAGES = ["gcc", "pkg-config", "python3-dev", "default-libmysqlclient-dev"]
"""What the mysqlclient driver is built with."""

SERVER_FOLDERS = ["/usr/sbin", "/usr/local/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]


class SetupFailed(Exception):
    """The machine lacks something; the text names the cure."""


def main() -> int:
    """Set up what was asked for; 1 when the machine lacks something that nobody here may install."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--servers", action="store_true", help="also install the database servers for the tests")
    wanted = arguments.parse_args()
    try:
        if wanted.servers:
            install_servers()
        make_environment()
    except SetupFailed as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"bootstrap: {' '.join(map(str, error.cmd[:6]))} ... exited with {error.returncode}", file=sys.stderr)
        return 1
    return 0


# ---- the environment


def make_environment() -> None:
    """Create `.venv` and install the locked dependencies and Holdfast itself, editable; nothing when that is done."""
    if sys.version_info < OLDEST_PYTHON:
        oldest, found = ".".join(map(str, OLDEST_PYTHON)), ".".join(map(str, sys.version_info[:3]))
        raise SetupFailed(
            f"Holdfast needs Python {oldest} or newer, and this is {found}: make PYTHON=python{oldest} ..."
        )
    if STAMP.is_file() and STAMP.read_text() == _fingerprint():
        return
    if not PYTHON.exists():
        _create_venv()
    if subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0:
        _run([PYTHON, "-m", "ensurepip", "--upgrade"])
    print("bootstrap: installing the locked dependencies into .venv", flush=True)
    _pip("--require-hashes", "-r", LOCK)
    _pip("--no-deps", "--no-build-isolation", "-e", ROOT)
    _install_native()
    STAMP.write_text(_fingerprint())


def _fingerprint() -> str:
    content = b"".join(path.read_bytes() for path in (LOCK, NATIVE_LOCK, ROOT / "pyproject.toml"))
    return hashlib.sha256(content + _can_build_native().to_bytes(1, "big")).hexdigest()


def _create_venv() -> None:
    try:
        import ensurepip  # noqa: F401 - Debian leaves it out of python3
        import venv
    except ImportError:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        if not _can_apt():
            raise SetupFailed(f"python3 cannot create environments here: apt-get install {version}") from None
        _apt_install([version])
        _run([sys.executable, "-m", "venv", VENV])
    else:
        venv.create(VENV, with_pip=True)


def _pip(*arguments: object) -> None:
    _run([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments])


def _can_build_native() -> bool:
    compiler = shutil.which("gcc") or shutil.which("cc")
    config = shutil.which("mysql_config") or shutil.which("mariadb_config")
    return compiler is not None and config is not None and shutil.which("pkg-config") is not None


def _install_native() -> None:
    if not _can_build_native():
        print(f"bootstrap: no mysqlclient driver, its tests are skipped. Needs {' '.join(NATIVE_PACKAGES)}", flush=True)
        return
    try:
        _pip("--require-hashes", "-r", NATIVE_LOCK)
    except subprocess.CalledProcessError:
        print("bootstrap: mysqlclient could not be built (see above); its tests are skipped", flush=True)


# ---- the servers


def install_servers() -> None:
    """Install the servers that are missing, without starting any service; without root or apt say what is missing."""
    missing = {name: packages for name, (program, packages) in SERVERS.items() if not _finds(program)}
    packages = [package for some in missing.values() for package in some]
    if not _can_build_native():
        packages += NATIVE_PACKAGES
    if not packages:
        return
    if not _can_apt():
        for name, needed in missing.items():
            print(f"bootstrap: {name} is missing, its tests are skipped. As root: apt-get install {' '.join(needed)}")
        sys.stdout.flush()
        return
    _apt_install(packages)


def _finds(program: str) -> bool:
    if Path(program).is_absolute():  # a library, which nobody can execute
        return Path(program).is_file()
    folders = [*os.environ.get("PATH", "").split(os.pathsep), *SERVER_FOLDERS]
    return shutil.which(program, path=os.pathsep.join(folders)) is not None


def _can_apt() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _apt_install(packages: list[str]) -> None:
    print(f"bootstrap: apt-get install {' '.join(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        _run(["apt-get", "update", "-qq"], environment)
        _run(
            ["apt-get", "install", "-qq", "-y", "-o", "Dpkg::Use-Pty=0", "--no-install-recommends", *packages],
            environment,
        )


@contextmanager
def _no_services(policy: Path = Path("/usr/sbin/policy-rc.d")) -> Iterator[None]:
    """Debian starts what it installs, unless this policy forbids it (exit 101). Whatever was there is put back."""
    before = (policy.read_bytes(), policy.stat().st_mode) if policy.exists() else None
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            policy.unlink()
        else:
            policy.write_bytes(before[0])
            policy.chmod(before[1])


def _run(command: list[object], environment: dict[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    # What goes well needs no words; what goes wrong is said on the error stream.
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)


if __name__ == "__main__":
    sys.exit(main())
