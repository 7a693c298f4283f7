"""Batch-norm statistics of the evaluated width, from training batches, while a trainer evaluates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_channels._rng import preserve_rng
from lightning_channels.callbacks._example import fitting, generators_of, placed
from lightning_channels.callbacks._packages import overrides
from lightning_channels.recalibration import recalibrated
from lightning_channels.tracing.running import call

__all__ = ["Recalibration", "forward_of", "is_indexable", "moved_batches"]


class Recalibration:
    """Recalibrates after an evaluation loop's epoch began, and restores before it ends.

    Between these, averaged weights that other callbacks put into the module for the epoch are in it, with their own
    statistics.

    Args:
        loop: Lightning's evaluation loop.
        trainer: Its trainer.
        module: Its LightningModule.
        target: What was prepared.
        num_batches: How many training batches.
    """

    def __init__(
        self, loop: Any, trainer: Trainer, module: LightningModule, target: Callable[[], nn.Module], num_batches: int
    ) -> None:
        self._loop = loop
        self._trainer = trainer
        self._module = module
        self._target = target
        self._num_batches = num_batches
        self._undo = ExitStack()
        self._start, self._end = loop._on_evaluation_epoch_start, loop._on_evaluation_epoch_end
        loop._on_evaluation_epoch_start, loop._on_evaluation_epoch_end = self._started, self._ending

    def take_off(self) -> None:
        """Give the loop its own methods back, and the norms their statistics."""
        self._undo.close()
        for name, own in (
            ("_on_evaluation_epoch_start", self._started),
            ("_on_evaluation_epoch_end", self._ending),
        ):
            if self._loop.__dict__.get(name) == own:
                del self._loop.__dict__[name]

    def _started(self, *args: Any, **kwargs: Any) -> None:
        self._start(*args, **kwargs)
        if self._trainer.sanity_checking:
            return
        target = self._target()
        forward = forward_of(self._trainer, self._module, target)
        with self._batches() as batches:
            self._undo.enter_context(recalibrated(target, batches, forward))

    def _ending(self, *args: Any, **kwargs: Any) -> None:
        self._undo.close()
        self._end(*args, **kwargs)

    def _batches(self) -> AbstractContextManager[Iterator[Any]]:
        """Training batches."""
        loader = self._loader()
        if not is_indexable(loader):
            raise MisconfigurationException(
                f"recalibrate takes its batches from the training data, which must be a DataLoader that makes batches "
                f"of a map-style data set, and it is a {type(loader).__name__}; call recalibrate_batch_norm instead"
            )
        return moved_batches(self._trainer, self._module, loader, self._num_batches)

    def _loader(self) -> Any:
        trainer, module = self._trainer, self._module
        if trainer.train_dataloader is not None:
            return trainer.train_dataloader
        datamodule = getattr(trainer, "datamodule", None)
        return module.train_dataloader() if datamodule is None else datamodule.train_dataloader()


def forward_of(trainer: Trainer, module: LightningModule, target: nn.Module) -> Callable[[nn.Module, Any], Any]:
    """Runs the target on a batch in the trainer's precision, through the LightningModule's forward if it has one."""
    called = module if overrides(module, "forward") else target

    def forward(_: nn.Module, batch: Any) -> Any:
        with trainer.precision_plugin.forward_context():
            return call(called, placed(fitting(batch, called), called))

    return forward


def is_indexable(loader: Any) -> bool:
    """Whether batches of a loader can be had without an iterator of it."""
    is_known = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    return is_known and loader.batch_sampler is not None


@contextmanager
def moved_batches(trainer: Trainer, module: LightningModule, loader: Any, num_batches: int) -> Iterator[Iterator[Any]]:
    """The first batches, on the device and as the module gets them; a DataLoader is afterwards as it was.

    Its generators are put back when the block ends: batches that an error leaves unfinished would do that whenever they
    are collected.
    """
    indexable = is_indexable(loader)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))

    def moved(batch: Any) -> Any:
        batch = trainer.precision_plugin.convert_input(batch)
        batch = module._on_before_batch_transfer(batch)
        return module._apply_batch_transfer_handler(batch, device=device)

    with preserve_rng(*(generators_of(loader) if indexable else ())):
        yield map(moved, islice(_fetched(loader) if indexable else iter(loader), num_batches))


def _fetched(loader: DataLoader[Any]) -> Iterator[Any]:
    dataset: Any = loader.dataset
    for keys in iter(loader.batch_sampler or ()):
        # fetched here: a second iterator would take the workers away from the one that trains
        samples = dataset.__getitems__(keys) if hasattr(dataset, "__getitems__") else [dataset[k] for k in keys]
        yield loader.collate_fn(samples)
