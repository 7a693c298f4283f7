"""A trainer for evaluations alone: one process, one device, and nothing that is written or shown."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_channels._plain import to_plain
from lightning_channels.callbacks._packages import is_lightnings, package_of
from lightning_channels.errors import ConfigError, check_keys

__all__ = ["is_for_evaluation", "trainer_alone"]

_ALONE: dict[str, Any] = {
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "sync_batchnorm": False,
    "use_distributed_sampler": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "overfit_batches": 0,
    "fast_dev_run": False,
    "barebones": False,
    "max_time": None,
}
"""What a trainer of our own has, whatever a training's has."""

_OF_A_TRAINING = ("Checkpoint", "ProgressBar", "ModelSummary", "EarlyStopping", "ChannelPruning", "LearningRateMonitor")
"""Callbacks that write, show, stop or set choices."""


def trainer_alone(given: Any, module: LightningModule, batches: int | None) -> Trainer:
    """A trainer that evaluates as a given one does, in this process alone.

    Args:
        given: A trainer; the arguments of one; or None.
        module: What it is for; says which of Lightning's two packages.
        batches: Validate on this many batches of each loader; None for what the given one does.

    Raises:
        ConfigError: If it is something else, or Lightning's Trainer takes no such argument.
    """
    package = importlib.import_module(package_of(module))
    arguments = _arguments(given)
    check_keys(arguments, inspect.signature(package.Trainer).parameters, "trainer", noun="argument")
    callbacks = arguments.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, Sequence) else [callbacks]
    arguments |= {
        **_ALONE,
        "devices": _device(arguments),
        "callbacks": [callback for callback in callbacks if is_for_evaluation(callback)],
        # what a module does with its logger goes nowhere; without one it would be an error
        "logger": importlib.import_module(f"{package.__name__}.loggers.logger").DummyLogger(),
    }
    if batches is not None:
        arguments["limit_val_batches"] = batches
    with _quiet():
        trainer: Trainer = package.Trainer(**arguments)
    return trainer


def is_for_evaluation(callback: Any) -> bool:
    """Whether a callback has something to do where subnets are compared."""
    return not any(cls.__name__ in _OF_A_TRAINING for cls in type(callback).__mro__)


def _arguments(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if is_lightnings(given, "Trainer"):
        device = given.strategy.root_device
        return {
            "accelerator": device.type,
            "devices": 1 if device.index is None else [device.index],
            "precision": given.precision,
            "callbacks": given.callbacks,
            "limit_val_batches": given.limit_val_batches,
            "inference_mode": given.validate_loop.inference_mode,
            "default_root_dir": given.default_root_dir,
        }
    is_omegaconf = type(given).__module__.startswith("omegaconf.")
    if not (isinstance(given, Mapping) or is_omegaconf):
        raise ConfigError(f"trainer must be a Trainer, a dict with the arguments of one, or None, got {given!r}")
    return dict(to_plain(given, "trainer") if is_omegaconf else given)


def _device(arguments: Mapping[str, Any]) -> Any:
    """One device: the only one that was named, or this process's own where several processes share a machine."""
    given = arguments.get("devices")
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 1:
        return given
    wanted = arguments.get("accelerator", "auto")
    is_cuda = wanted in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if is_cuda and "LOCAL_RANK" in os.environ:
        return [int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()]
    return 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's messages about the devices that it found."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    loggers += [logging.getLogger(f"{logger.name}.utilities.rank_zero") for logger in loggers]
    levels = [(logger, logger.level) for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
