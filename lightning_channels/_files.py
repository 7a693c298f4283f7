"""Files that are there whole, or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["replacing"]

_TEMPORARY = ".lightning_channels.tmp"
"""Ends the names of temporary files; nobody else's end so."""

_ABANDONED = 3600.0
"""Seconds since anything was written to it, after which a temporary file is one of a process that died."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to, which takes its place when the block ends.

    Whenever the process or the machine dies, the old file or the new one is there under the name, never a part of it.
    What was left unfinished in the folder an hour ago or earlier is removed.

    Args:
        path: A file on a local file system; its folder is made if there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_abandoned(folder: Path) -> None:
    for file in folder.glob(f".*{_TEMPORARY}"):
        with suppress(OSError):  # another process may be as fast
            if time.time() - file.stat().st_mtime > _ABANDONED:
                file.unlink()


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
