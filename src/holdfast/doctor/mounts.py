"""Which file system holds a file: what SQLite's locks and flushes are worth depends on it."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

__all__ = ["file_system_of"]

_OCTAL = re.compile(r"\\([0-7]{3})")


def file_system_of(path: str, mounts: str) -> str | None:
    r"""The type of the file system that holds `path`.

    Args:
        path: absolute, with symbolic links resolved.
        mounts: the text of `/proc/self/mounts` (Linux, proc(5)): one mount a line, of which the second word is the mount point
            (with spaces as `\040`) and the third the type. A later line hides an earlier one at the same place.

    Returns:
        For example `ext4` or `nfs4`; None where no line fits.
    """
    parents = {str(parent) for parent in (PurePosixPath(path), *PurePosixPath(path).parents)}
    best, found = -1, None
    for line in mounts.splitlines():
        words = line.split(" ")
        if len(words) < 3:
            continue
        point = _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), words[1])
        if point in parents and len(point) >= best:
            best, found = len(point), words[2]
    return found
