"""The newest checkpoint in a folder that a run can go on from."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from torch.serialization import get_crc32_options

from lightning_channels._plain import is_int

__all__ = ["newest_checkpoint"]


def newest_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The checkpoint in a folder that has most steps and is whole, for ``trainer.fit(model, ckpt_path=...)``.

    Passed over are files that were cut off while they were written, damaged ones, and those that can't be resumed from
    because they hold weights alone. A warning names what is damaged.

    Args:
        folder: Where the ``.ckpt`` files are; not searched are the folders in it. May be the URL of a remote one.

    Returns:
        Its path; or None where there is none, with which ``fit`` starts anew.

    Example:
        >>> newest_checkpoint("no/such/folder") is None
        True
    """
    fs, root = url_to_fs(os.fspath(folder))
    found = []
    for path in fs.ls(root, detail=False) if fs.isdir(root) else ():
        if path.endswith(".ckpt"):
            with _passing_over_damaged(path), fs.open(path, "rb") as file, zipfile.ZipFile(file) as archive:
                steps = _steps(archive)
                if steps is not None:
                    found.append((steps, fs.modified(path), path))
    for _, _, path in sorted(found, reverse=True):
        with _passing_over_damaged(path), fs.open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            _check(archive)
            return str(path if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path))
    return None


@contextmanager
def _passing_over_damaged(path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file may fail in any way
        warnings.warn(f"{path} is passed over, since it isn't a whole checkpoint: {error}", stacklevel=4)


def _steps(archive: zipfile.ZipFile) -> int | None:
    """The steps that a checkpoint has; None if it isn't one to resume from."""
    name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
    with archive.open(name) as file:
        checkpoint = _Reader(file).load()
    steps = checkpoint.get("global_step") if isinstance(checkpoint, dict) else None
    return steps if is_int(steps) and "optimizer_states" in checkpoint else None


def _check(archive: zipfile.ZipFile) -> None:
    """Raise an error if anything in an archive isn't what was written."""
    damaged = archive.testzip() if get_crc32_options() else None
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} is damaged")


class _Nothing:
    """Stands for whatever isn't plain in a checkpoint: tensors, and objects of any class."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> _Nothing:
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


class _Reader(pickle.Unpickler):
    """Reads the plain data of a checkpoint, without its tensors; nothing is imported or run for it."""

    def find_class(self, module: str, name: str) -> Any:
        return _Nothing

    def persistent_load(self, pid: Any) -> Any:
        return _Nothing()
