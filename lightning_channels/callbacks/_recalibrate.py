"""Batch-norm statistics of the evaluated width, from training batches, while a trainer evaluates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
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

__all__ = ["Recalibration"]


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
        module = self._module if overrides(self._module, "forward") else target

        def forward(_: nn.Module, batch: Any) -> Any:
            with self._trainer.precision_plugin.forward_context():
                return call(module, placed(fitting(batch, module), module))

        self._undo.enter_context(recalibrated(target, self._batches(), forward))

    def _ending(self, *args: Any, **kwargs: Any) -> None:
        self._undo.close()
        self._end(*args, **kwargs)

    def _batches(self) -> Iterator[Any]:
        """Training batches, on the device and as the module gets them; the loader is afterwards as it was."""
        loader = self._loader()
        is_known = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
        if not is_known or loader.batch_sampler is None:
            raise MisconfigurationException(
                f"recalibrate takes its batches from the training data, which must be a DataLoader that makes batches "
                f"of a map-style data set, and it is a {type(loader).__name__}; call recalibrate_batch_norm instead"
            )
        with preserve_rng(*generators_of(loader)):
            for keys in islice(iter(loader.batch_sampler), self._num_batches):
                # fetched here: a second iterator would take the workers away from the one that trains
                dataset = loader.dataset
                samples = dataset.__getitems__(keys) if hasattr(dataset, "__getitems__") else [dataset[k] for k in keys]
                yield self._moved(loader.collate_fn(samples))

    def _loader(self) -> Any:
        trainer, module = self._trainer, self._module
        if trainer.train_dataloader is not None:
            return trainer.train_dataloader
        datamodule = getattr(trainer, "datamodule", None)
        return module.train_dataloader() if datamodule is None else datamodule.train_dataloader()

    def _moved(self, batch: Any) -> Any:
        batch = self._trainer.precision_plugin.convert_input(batch)
        batch = self._module._on_before_batch_transfer(batch)
        device = next((p.device for p in self._module.parameters()), torch.device("cpu"))
        return self._module._apply_batch_transfer_handler(batch, device=device)
