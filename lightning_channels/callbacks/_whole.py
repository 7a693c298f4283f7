"""Checkpoints that are there whole, or not at all."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO

from lightning_channels._files import replacing
from lightning_channels.callbacks._packages import is_lightnings

__all__ = ["WholeFiles"]


class WholeFiles(CheckpointIO):
    """Decorates Lightning's checkpoint plugin: a file gets its name when it is on the disk.

    Lightning writes to the system's folder of temporary files, and moves the file. From another file system this is a
    copy, which a process that is killed leaves cut off under the final name.
    """

    def __init__(self, inner: TorchCheckpointIO) -> None:
        self.inner = inner

    @classmethod
    def around(cls, plugin: Any) -> Any:
        """The same plugin, with the decorator around what writes files in it; any other kind stays as it is."""
        if type(plugin).__name__ == "TorchCheckpointIO" and is_lightnings(plugin, "TorchCheckpointIO"):
            return cls(plugin)
        wrapped = getattr(plugin, "_checkpoint_io", None)  # of those that wrap another, such as AsyncCheckpointIO
        if wrapped is not None:
            plugin._checkpoint_io = cls.around(wrapped)
        return plugin

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *args: Any, **kwargs: Any) -> None:
        """Write under a temporary name, and rename."""
        fs, local = url_to_fs(os.fspath(path))
        is_local = isinstance(fs, LocalFileSystem)
        with replacing(Path(local)) if is_local else nullcontext(path) as target:
            self.inner.save_checkpoint(checkpoint, target, *args, **kwargs)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As the decorated plugin does."""
        return self.inner.load_checkpoint(*args, **kwargs)

    def remove_checkpoint(self, path: Any) -> None:
        """As the decorated plugin does."""
        self.inner.remove_checkpoint(path)

    def teardown(self) -> None:
        """As the decorated plugin does."""
        self.inner.teardown()
