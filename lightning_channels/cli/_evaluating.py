"""What ``eval``, ``search`` and ``export`` share: the evaluation of subnets."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_channels._plain import to_plain
from lightning_channels.callbacks import SubnetEvaluator
from lightning_channels.cli._supernet import Supernet
from lightning_channels.errors import ChannelsError, ConfigError
from lightning_channels.samplers import Choices

__all__ = ["evaluator", "recalibrated_at"]

_OF_TRAINER = ("accelerator", "devices", "precision", "limit_val_batches", "inference_mode", "default_root_dir")
"""What an evaluation takes over from a config's trainer."""


def evaluator(net: Supernet, arguments: Namespace, metric: str | None = None) -> SubnetEvaluator:
    """What validates subnets as a command line says.

    Args:
        net: With data.
        arguments: ``batches`` and ``recalibrate``.
        metric: A metric that has to be logged.

    Raises:
        ChannelsError: If an argument isn't allowed.
    """
    trainer: dict[str, Any] = to_plain(net.config.get("trainer") or {}, "trainer")
    try:
        return SubnetEvaluator(
            {name: trainer[name] for name in _OF_TRAINER if trainer.get(name) is not None},
            net.module,  # type: ignore[arg-type]  # with data it is a LightningModule
            metric,
            datamodule=net.data,
            batches=getattr(arguments, "batches", None),
            recalibrate=arguments.recalibrate,
            seed=net.config.get("seed") or 0,
        )
    except ChannelsError:
        raise
    except (TypeError, ValueError) as error:  # what Lightning says of arguments of its trainer
        raise ConfigError(f"the config's trainer: {error}") from error


@contextmanager
def recalibrated_at(net: Supernet, arguments: Namespace, choices: Choices) -> Iterator[nn.Module]:
    """For a block, the model with batch-norm statistics of these choices, if the command line asks for them."""
    if not arguments.recalibrate:
        yield net.mutator.model
        return
    with evaluator(net, arguments) as evaluate, evaluate.at(choices) as model:
        yield model
