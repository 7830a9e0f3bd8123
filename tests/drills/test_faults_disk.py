"""A full disk is met by a real server and by SQLite, and nothing that was acknowledged is lost by it."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.orm import Session

from holdfast.drills.faults import DiskFull, SmallDisk
from holdfast.drills.servers import Server, ServerMissing, mariadb, postgresql
from holdfast.errors import ConfigurationError, HoldfastError
from holdfast.ext.sqlalchemy import Database

ROW = "x" * 8_000


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    """A small disk of as many megabytes as the test asks for."""
    try:
        with SmallDisk(getattr(request, "param", 8)) as small:
            yield small
    except ConfigurationError as error:
        pytest.skip(str(error))


def _mounted(folder: Path) -> bool:
    return str(folder) in Path("/proc/self/mounts").read_text()


def test_disk_is_small_and_gone_afterwards(disk: SmallDisk) -> None:
    """It is a file system of its own, and entering another one leaves it alone."""
    assert disk.folder.is_mount()
    assert 7_000_000 < disk.free_bytes() <= 8 << 20
    with SmallDisk(4) as other:
        assert other.folder != disk.folder
    assert not other.folder.exists()
    assert not _mounted(other.folder)
    assert disk.folder.is_mount()


def test_disk_that_a_killed_process_left_is_removed(disk: SmallDisk) -> None:
    """Its folder names the process, which is gone."""
    left = disk.folder.parent / f"holdfast-disk-{2**22 + 1}-left"
    left.mkdir()
    with SmallDisk(4):
        assert not left.exists()


def test_machine_without_the_right_to_mount_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears what would help, and no folder is left."""
    before = set(Path(tempfile.gettempdir()).glob("holdfast-disk-*"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigurationError, match="run the drill as root"), SmallDisk():
        pass
    assert set(Path(tempfile.gettempdir()).glob("holdfast-disk-*")) <= before


def test_not_a_byte_fits_until_healed(disk: SmallDisk) -> None:
    """The last byte is taken, and all of them are given back."""
    free = disk.free_bytes()
    fault = DiskFull(disk)
    fault.heal()
    for _ in range(2):
        assert fault.start()["ballast_bytes"] == free
        assert disk.free_bytes() == 0
        with pytest.raises(OSError, match="No space left"), (disk.folder / "other").open("wb", buffering=0) as file:
            file.write(b"x")
        fault.heal()
        fault.heal()
        (disk.folder / "other").unlink()
        assert disk.free_bytes() == free


def test_sqlite_refuses_and_goes_on(disk: SmallDisk) -> None:
    """SQLITE_FULL, and what was committed before is there."""
    fault = DiskFull(disk)
    with closing(sqlite3.connect(disk.folder / "holdfast.db")) as connection:
        connection.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("INSERT INTO rows VALUES (1, 'kept')")
        connection.commit()
        fault.start()
        try:
            with pytest.raises(sqlite3.OperationalError, match="full"):
                connection.executemany("INSERT INTO rows (text) VALUES (?)", [[ROW]] * 20)
                connection.commit()
            connection.rollback()
        finally:
            fault.heal()
        connection.execute("INSERT INTO rows VALUES (2, 'after')")
        connection.commit()
        assert connection.execute("SELECT n FROM rows ORDER BY n").fetchall() == [(1,), (2,)]


@pytest.mark.servers
@pytest.mark.parametrize(
    ("disk", "module"), [(220, mariadb), (160, postgresql)], indirect=["disk"], ids=["mariadb", "postgresql"]
)
def test_server_refuses_or_ends_and_keeps_what_it_acknowledged(disk: SmallDisk, module: Any) -> None:
    """Whether it answers with an error or ends, every acknowledged row is there when there is room again."""
    disk.folder.chmod(0o755)
    try:
        server: Server = module.start(parent=disk.folder)
    except ServerMissing as error:
        pytest.skip(str(error))
    fault = DiskFull(disk, server)
    try:
        server.execute("CREATE TABLE rows_kept (n INT PRIMARY KEY, text TEXT)")
        fault.start()
        acknowledged = _insert_until_it_fails(server)
        fault.heal()
        server.execute("INSERT INTO rows_kept VALUES (-1, '')")
        assert {n for (n,) in server.execute("SELECT n FROM rows_kept")} >= {-1, *range(acknowledged)}
    finally:
        fault.heal()
        server.close()


@pytest.mark.servers
@pytest.mark.parametrize("disk", [220], indirect=True)
def test_save_whose_key_finds_no_room_is_known_not_to_be_there(disk: SmallDisk) -> None:
    """On MariaDB key row and COMMIT travel together: a full disk ends them before COMMIT, and the caller is told so."""
    disk.folder.chmod(0o755)
    try:
        server = mariadb.start(parent=disk.folder)
    except ServerMissing as error:
        pytest.skip(str(error))
    fault = DiskFull(disk, server)
    try:
        with Database(server.url("pymysql")) as db:
            db.migrate(_METADATA)
            db.run(_insert, -1)  # whoever has connected knows that key rows may travel with COMMIT
            fault.start()
            said: dict[int, str] = {}
            n = 0
            while set(said.values()) <= {"done"}:
                n += 1
                try:
                    db.run(_insert, n)
                    said[n] = "done"
                except HoldfastError as error:
                    said[n] = type(error).__name__
            assert said[n] == "StorageExhausted"
            fault.heal()
            there = {n for (n,) in server.execute("SELECT n FROM saved")}
            assert there == {-1, *(n for n, answer in said.items() if answer == "done")}
    finally:
        fault.heal()
        server.close()


_METADATA = MetaData()
_SAVED = Table(
    "saved", _METADATA, Column("n", Integer, primary_key=True, autoincrement=False), Column("text", String(8_000))
)


def _insert(session: Session, n: int) -> None:
    session.execute(_SAVED.insert().values(n=n, text=ROW))


def _insert_until_it_fails(server: Server) -> int:
    """How many rows were acknowledged."""
    with closing(server.connect(admin=True)) as connection, connection.cursor() as cursor:
        for n in range(20_000):
            try:
                cursor.execute("INSERT INTO rows_kept VALUES (%s, %s)", [n, ROW])
            except Exception:
                return n
    raise AssertionError("the disk is not full")


def test_root_of_the_machine_is_not_filled(tmp_path: Path) -> None:
    """The fault fills the small disk and no other: the ballast lies inside it."""
    with pytest.raises(AttributeError):
        DiskFull(tmp_path)  # type: ignore[arg-type]
    unmounted = SmallDisk()
    with pytest.raises(ConfigurationError, match="not mounted"):
        DiskFull(unmounted).start()
