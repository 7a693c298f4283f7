"""Structure files beside checkpoints, through Lightning's checkpoint plugin.

``Callback.on_save_checkpoint`` knows no path and isn't called for weights-only checkpoints; the strategy's
``checkpoint_io`` sees each path, on rank zero alone, and is told about removals too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import yaml
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Trainer

from lightning_channels._plain import write_file
from lightning_channels.callbacks._whole import WholeFiles

if TYPE_CHECKING:
    from lightning_channels.callbacks.pruning import ChannelPruning

__all__ = ["PRUNING", "StructureFiles", "structure_path"]

PRUNING = "pruning"
"""The key of a pruning's state, beside the structure's keys in the callback's."""


def structure_path(checkpoint: str | os.PathLike[str], module: str | None = None) -> str:
    """The path of the structure file that belongs to a checkpoint.

    Example:
        >>> structure_path("runs/last.ckpt"), structure_path("runs/last.ckpt", "encoder")
        ('runs/last.structure.yaml', 'runs/last.encoder.structure.yaml')
    """
    stem = os.fspath(checkpoint).removesuffix(".ckpt")
    return f"{stem}{'' if module is None else '.' + module}.structure.yaml"


class StructureFiles(CheckpointIO):
    """Decorates a checkpoint plugin: writes, checks and removes the structures of the trainer's callbacks.

    It stays on the strategy after a run, so that ``trainer.save_checkpoint`` writes both files then too.
    """

    def __init__(self, inner: CheckpointIO, trainer: Trainer) -> None:
        self.inner = inner
        self.trainer = trainer
        self.known: list[ChannelPruning] = []

    @classmethod
    def install(cls, trainer: Trainer) -> None:
        """Put the decorator around the strategy's plugin, once."""
        plugin = trainer.strategy.checkpoint_io
        if not isinstance(plugin, cls):
            plugin = trainer.strategy.checkpoint_io = cls(WholeFiles.around(plugin), trainer)
        plugin.known = cls.callbacks_of(trainer)

    @staticmethod
    def callbacks_of(trainer: Trainer) -> list[ChannelPruning]:
        """The trainer's callbacks of this package."""
        from lightning_channels.callbacks.pruning import ChannelPruning

        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in callbacks if isinstance(callback, ChannelPruning)]

    def _files(self, checkpoint: Any) -> Iterator[tuple[ChannelPruning, str]]:
        """The callbacks, and the path of each one's file; only several of them need names of their own."""
        callbacks = self.callbacks_of(self.trainer) or self.known  # the tuner takes them off the trainer
        for callback in callbacks:
            yield callback, structure_path(checkpoint, callback.module if len(callbacks) > 1 else None)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, *args: Any, **kwargs: Any) -> None:
        """Write a structure file for each callback, then the checkpoint beside it: none is ever without."""
        # a launcher hands bare weights to the process that started it
        for callback, file in self._files(path) if "state_dict" in checkpoint else ():
            structure = callback.structure() if callback.save_structure and self.trainer.is_global_zero else None
            if structure:
                _write(file, structure)
        self.inner.save_checkpoint(checkpoint, path, *args, **kwargs)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read the checkpoint, and refuse it if its structure doesn't fit.

        The weights are loaded before the callbacks' states are: an error there would name tensors and not units.
        """
        checkpoint = self.inner.load_checkpoint(path, *args, **kwargs)
        states = checkpoint.get("callbacks") or {}
        for callback, _ in self._files(path):
            if callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the checkpoint and its structure files."""
        self.inner.remove_checkpoint(path)
        for callback, file in self._files(path):
            if callback.save_structure:
                fs, local = url_to_fs(file)
                if fs.exists(local):
                    fs.rm(local)

    def teardown(self) -> None:
        """Tear down the decorated plugin."""
        self.inner.teardown()


def _write(path: str, structure: dict[str, Any]) -> None:
    fs, local = url_to_fs(path)
    if isinstance(fs, LocalFileSystem):
        write_file(local, structure)
    else:
        with fs.open(local, "w") as file:
            yaml.safe_dump(structure, file, sort_keys=False, default_flow_style=None, width=1000)
